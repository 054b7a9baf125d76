//! Passwords of encrypted keyfiles, and Bittensor's way of passing them in environment variables.
//!
//! The environment itself is read by the caller (only the command line does that); here is the name of the variable
//! and the meaning of its value.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize as _, Zeroizing};

/// A password; wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Wraps a password. The text moves in, so that no second copy stays behind.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The password itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The value of a password variable could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvPasswordError {
    /// Not base64.
    #[error("the password variable {0} does not hold base64")]
    Base64(String),
    /// Base64 of something that is no text after unmasking.
    #[error("the password variable {0} was written for another file name")]
    NotText(String),
}

/// The environment variable in which Bittensor's tools keep the password of a keyfile:
/// `BT_PW_` and the path in upper case, with `/` and `.` turned into `_`.
#[must_use]
pub fn env_password_name(keyfile: &Path) -> String {
    let path = keyfile.to_string_lossy().to_uppercase().replace(['/', '.'], "_");
    format!("BT_PW_{path}")
}

/// Reads the value of such a variable: base64 of the password, masked with the bytes of the variable's own name.
///
/// # Errors
/// Where the value is not what Bittensor's tools write.
pub fn env_password(name: &str, value: &str) -> Result<Password, EnvPasswordError> {
    let masked = STANDARD
        .decode(value.trim())
        .map(Zeroizing::new)
        .map_err(|_| EnvPasswordError::Base64(name.to_owned()))?;
    let clear: Vec<u8> =
        masked.iter().zip(name.bytes().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    String::from_utf8(clear).map(Password::new).map_err(|error| {
        error.into_bytes().zeroize();
        EnvPasswordError::NotText(name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator who keeps the password in Bittensor's variable would be asked for it again.
    #[test]
    fn bittensor_variable_is_understood() {
        let name = env_password_name(Path::new("/home/a/.bittensor/wallets/default/coldkey"));
        assert_eq!(name, "BT_PW__HOME_A__BITTENSOR_WALLETS_DEFAULT_COLDKEY");
        let masked: Vec<u8> =
            "Correct-Horse-9".bytes().zip(name.bytes().cycle()).map(|(a, b)| a ^ b).collect();
        let value = STANDARD.encode(masked);
        assert_eq!(env_password(&name, &value).unwrap().expose(), "Correct-Horse-9");
        assert_eq!(env_password(&name, "*"), Err(EnvPasswordError::Base64(name.clone())));
        let high = STANDARD.encode([0xff, 0xff]);
        assert_eq!(env_password(&name, &high), Err(EnvPasswordError::NotText(name)));
    }

    /// A password in a log line would be a leak.
    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?}", Password::new("hunter2".to_owned()));
        assert_eq!(shown, "Password(…)");
    }
}
