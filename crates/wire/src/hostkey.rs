//! The statement that ties a node's SSH host key to its hotkey: `nicompute-hostkey/1`, the SS58 address, the host key,
//! one a line. Whoever knows the hotkey from the chain can check the host key before the first SSH connection.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::Hotkey;

const STATEMENT: &str = "nicompute-hostkey/1";
/// An RSA key of 16384 bits is shorter; anything longer is refused unread.
const KEY_LEN_MAX: usize = 4096;

/// Why a host key is not believed, or cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// Not an OpenSSH public key.
    #[error("the host key is not an OpenSSH public key such as \"ssh-ed25519 AAAA…\"")]
    Key,
    /// The text is no signature.
    #[error("the signature of the host key is not 0x and 128 hex digits")]
    Malformed,
    /// Not this hotkey's signature over this key.
    #[error("the signature does not belong to this hotkey and host key")]
    Signature,
}

/// Signs a host key; gives the key in its canonical text (type and base64, no comment) and the signature as `0x` and hex.
///
/// # Errors
/// Where the text is no OpenSSH public key.
pub fn sign(hotkey: &Keypair, openssh_key: &str) -> Result<(String, String), HostKeyError> {
    let key = canonical(openssh_key).ok_or(HostKeyError::Key)?;
    let signature = hotkey.sign(statement(&hotkey.hotkey(), &key).as_bytes());
    Ok((key, format!("0x{}", hex::encode(signature))))
}

/// Checks that this hotkey vouches for the host key, and gives the key in its canonical text.
///
/// The statement does not name the hotkey's scheme, so the signature may hold under either.
///
/// # Errors
/// Where it does not.
pub fn verify(hotkey: &Hotkey, openssh_key: &str, signature: &str) -> Result<String, HostKeyError> {
    let key = canonical(openssh_key).ok_or(HostKeyError::Key)?;
    let mut bytes = [0u8; 64];
    let digits = signature.strip_prefix("0x").unwrap_or(signature);
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| HostKeyError::Malformed)?;
    let statement = statement(hotkey, &key);
    let holds = |scheme| nicompute_keys::verify(scheme, &hotkey.0, statement.as_bytes(), &bytes);
    if !Scheme::ALL.into_iter().any(holds) {
        return Err(HostKeyError::Signature);
    }
    Ok(key)
}

fn statement(hotkey: &Hotkey, key: &str) -> String {
    format!("{STATEMENT}\n{hotkey}\n{key}")
}

/// Type and base64 with one space between, where the blob inside names the same type.
fn canonical(text: &str) -> Option<String> {
    if text.len() > KEY_LEN_MAX {
        return None;
    }
    let mut lines = text.lines();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let mut fields = line.split_ascii_whitespace();
    let (kind, blob) = (fields.next()?, fields.next()?);
    let bytes = STANDARD.decode(blob).ok()?;
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let named = rest.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    (named == kind.as_bytes()).then(|| format!("{kind} {blob}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    /// A renter who trusts the hotkey must be able to trust the host key, and nobody else's key in its place.
    #[test]
    fn a_signed_key_holds_for_its_hotkey_only() {
        for scheme in Scheme::ALL {
            let (own, other) = (Keypair::generate(scheme), Keypair::generate(scheme));
            let (key, signature) = sign(&own, &format!("{KEY} a comment\n")).unwrap();
            assert_eq!(key, KEY);
            assert_eq!(verify(&own.hotkey(), KEY, &signature).as_deref(), Ok(KEY));
            assert_eq!(verify(&other.hotkey(), KEY, &signature), Err(HostKeyError::Signature));
            let changed = KEY.replace("AgMEBQ", "AgMEBg");
            assert_eq!(verify(&own.hotkey(), &changed, &signature), Err(HostKeyError::Signature));
            assert_eq!(verify(&own.hotkey(), KEY, "0x00"), Err(HostKeyError::Malformed));
        }
    }

    /// The statement is frozen: a change of one byte makes every node's key unverifiable.
    #[test]
    fn the_statement_is_as_documented() {
        let alice = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap().hotkey();
        assert_eq!(statement(&alice, KEY), format!("nicompute-hostkey/1\n{alice}\n{KEY}"));
    }

    /// Text that is no key must not be signed: it would be pasted into a known_hosts file.
    #[test]
    fn only_keys_are_signed() {
        let pair = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
        let two_lines = format!("{KEY}\n* {KEY}");
        let long = format!("{KEY} {}", "c".repeat(KEY_LEN_MAX));
        let other_kind = KEY.replace("ssh-ed25519", "ssh-rsa");
        for bad in ["", "ssh-ed25519", "ssh-ed25519 !", &two_lines, &long, &other_kind] {
            assert_eq!(sign(&pair, bad), Err(HostKeyError::Key), "{bad}");
        }
    }
}
