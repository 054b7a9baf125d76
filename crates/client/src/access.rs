//! How to enter a lease, checked: this text ends up on the command line of `ssh` and in a `known_hosts` file.

use nicompute_wire::node::SshAccessView;
use russh::keys::PublicKey;

/// Characters of a host name or address.
const HOST_CHARS_MAX: usize = 253;
/// Characters of a user name.
const USER_CHARS_MAX: usize = 32;
/// Characters of a host key's text; an ed25519 key has 80.
const HOST_KEY_CHARS_MAX: usize = 1024;

/// Address, user and host key of one lease; every part is plain text that no program takes for an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAccess {
    host: String,
    port: u16,
    user: String,
    host_key: PublicKey,
}

/// A part that is not what such a part can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not a name or an address.
    #[error("the SSH host is no host name and no address")]
    Host,
    /// Port zero.
    #[error("the SSH port is 0")]
    Port,
    /// Not a user name that a gateway gives out.
    #[error("the SSH user is not 1 to 32 characters out of a-z, 0-9, '-' and '_'")]
    User,
    /// Not an OpenSSH public key.
    #[error("the SSH host key is no OpenSSH public key")]
    HostKey,
}

impl SshAccess {
    /// Checks every part of a received view.
    ///
    /// # Errors
    /// At the first part that is not plain.
    pub fn check(view: &SshAccessView) -> Result<Self, AccessError> {
        if !is_host(&view.host) {
            return Err(AccessError::Host);
        }
        if view.port == 0 {
            return Err(AccessError::Port);
        }
        if !is_user(&view.user) {
            return Err(AccessError::User);
        }
        let host_key = parse_host_key(&view.host_key)?;
        Ok(Self { host: view.host.clone(), port: view.port, user: view.user.clone(), host_key })
    }

    /// The view of this, for an answer of our own.
    #[must_use]
    pub fn view(&self) -> SshAccessView {
        SshAccessView {
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
            host_key: host_key_text(&self.host_key),
        }
    }

    /// Name or address of the gateway.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The user name that selects the lease.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The only host key that is accepted.
    #[must_use]
    pub const fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    /// The line of a `known_hosts` file that pins the host key.
    #[must_use]
    pub fn known_hosts_line(&self) -> String {
        format!("[{}]:{} {}\n", self.host, self.port, host_key_text(&self.host_key))
    }
}

/// Reads a host key without its comment.
pub(crate) fn parse_host_key(text: &str) -> Result<PublicKey, AccessError> {
    if text.len() > HOST_KEY_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(AccessError::HostKey);
    }
    let mut key = PublicKey::from_openssh(text).map_err(|_| AccessError::HostKey)?;
    key.set_comment("");
    Ok(key)
}

/// Type and base64, as OpenSSH writes them; a key that was parsed has such a text.
fn host_key_text(key: &PublicKey) -> String {
    key.to_openssh().unwrap_or_default().trim_end().to_owned()
}

fn is_host(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    let first = text.chars().next();
    text.len() <= HOST_CHARS_MAX
        && text.chars().all(plain)
        && first.is_some_and(|c| c.is_ascii_alphanumeric() || c == ':')
}

fn is_user(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let first = text.chars().next();
    text.len() <= USER_CHARS_MAX
        && text.chars().all(plain)
        && first.is_some_and(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn view() -> SshAccessView {
        SshAccessView {
            host: "127.0.0.2".to_owned(),
            port: 4444,
            user: "6f9619ff".to_owned(),
            host_key: KEY.to_owned(),
        }
    }

    /// The pinned line is what stands between a renter and whoever listens on that port instead.
    #[test]
    fn a_plain_access_is_accepted() {
        let access = SshAccess::check(&view()).unwrap();
        assert_eq!(access.known_hosts_line(), format!("[127.0.0.2]:4444 {KEY}\n"));
        assert_eq!(access.view(), view());
    }

    /// `ssh -oProxyCommand=…` by way of a user or host name would run a provider's program on the renter's machine.
    #[test]
    fn nothing_becomes_an_option_or_a_second_line() {
        for host in ["", "-oProxyCommand=x", "a b", "a\nb", "a@b", "a;b", &"a".repeat(254)] {
            let bad = SshAccessView { host: host.to_owned(), ..view() };
            assert_eq!(SshAccess::check(&bad), Err(AccessError::Host), "{host}");
        }
        for user in ["", "-l", "a b", "a\n", "A", "$(x)", &"a".repeat(33)] {
            let bad = SshAccessView { user: user.to_owned(), ..view() };
            assert_eq!(SshAccess::check(&bad), Err(AccessError::User), "{user}");
        }
        for key in
            ["", "ssh-ed25519", &format!("{KEY}\n* {KEY}"), &format!("{KEY} {}", "c".repeat(2000))]
        {
            let bad = SshAccessView { host_key: key.to_owned(), ..view() };
            assert_eq!(SshAccess::check(&bad), Err(AccessError::HostKey), "{key}");
        }
        let bad = SshAccessView { port: 0, ..view() };
        assert_eq!(SshAccess::check(&bad), Err(AccessError::Port));
    }
}
