//! OpenSSH public keys at the door: parsed once, kept in one canonical text.
//!
//! A key that passes here is one line without options, of a kind that the gateway takes, with a blob that has exactly the
//! fields of its kind. Whether a point lies on its curve is for the SSH library to say.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest line that is read; an RSA key of 16384 bits with a comment is shorter.
pub const SSH_KEY_LEN_MAX: usize = 4096;
/// Shorter RSA keys are no protection any more.
pub const RSA_BITS_MIN: usize = 2048;
/// OpenSSH makes none that are longer.
pub const RSA_BITS_MAX: usize = 16_384;

/// Elliptic curves: the key's kind, the curve's name inside the blob, the length of an uncompressed point.
const CURVES: [(&str, &[u8], usize); 3] = [
    ("ecdsa-sha2-nistp256", b"nistp256", 65),
    ("ecdsa-sha2-nistp384", b"nistp384", 97),
    ("ecdsa-sha2-nistp521", b"nistp521", 133),
];
const ED25519: &str = "ssh-ed25519";
const ED25519_LEN: usize = 32;
/// Keys that live in a security token; the blob ends with the application that they are for.
const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
const SK_ECDSA: &str = "sk-ecdsa-sha2-nistp256@openssh.com";
const SK_ECDSA_CURVE: &[u8] = b"nistp256";
const SK_ECDSA_POINT_LEN: usize = 65;
const RSA: &str = "ssh-rsa";
const DSA: &str = "ssh-dss";
/// What the kinds of certificates contain.
const CERTIFICATE: &str = "-cert-v0";
/// How an uncompressed point begins.
const POINT_UNCOMPRESSED: u8 = 4;

/// A public key in its canonical text: kind and base64, no comment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SshKey(String);

/// Why a text is no key that may enter a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SshKeyError {
    /// Longer than any key.
    #[error("is longer than 4096 characters")]
    TooLong,
    /// Several lines, or characters that no key file has.
    #[error("is not one line of printable text")]
    NotOneLine,
    /// A kind that is not taken, or no key at all.
    #[error(
        "begins with none of ssh-ed25519, ecdsa-sha2-nistp256, -384 or -521, ssh-rsa, sk-ssh-ed25519@openssh.com and sk-ecdsa-sha2-nistp256@openssh.com"
    )]
    Kind,
    /// Options of an `authorized_keys` file.
    #[error("has options before it, which are not taken: give the key alone")]
    Options,
    /// A certificate in place of a key.
    #[error("is a certificate: give the key that it is for")]
    Certificate,
    /// A kind that is too weak.
    #[error("is a DSA key, which is too weak: make one with ssh-keygen -t ed25519")]
    Dsa,
    /// The base64 part is damaged, or of another kind than it says.
    #[error("is damaged: copy the whole line of the .pub file")]
    Damaged,
    /// An RSA key of another length than is taken.
    #[error("is an RSA key of {0} bits, expected 2048 to 16384")]
    RsaBits(usize),
}

impl SshKey {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The canonical text, owned.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for SshKey {
    type Err = SshKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > SSH_KEY_LEN_MAX {
            return Err(SshKeyError::TooLong);
        }
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.chars().any(char::is_control) {
            return Err(SshKeyError::NotOneLine);
        }
        let mut fields = line.split(' ').filter(|field| !field.is_empty());
        let kind = fields.next().ok_or(SshKeyError::Kind)?;
        if !is_taken(kind) {
            return Err(why_not_taken(kind, line));
        }
        let blob = fields.next().ok_or(SshKeyError::Damaged)?;
        let bytes = STANDARD.decode(blob).map_err(|_| SshKeyError::Damaged)?;
        let mut rest = bytes.as_slice();
        if take_string(&mut rest)? != kind.as_bytes() {
            return Err(SshKeyError::Damaged);
        }
        take_fields(kind, &mut rest)?;
        if !rest.is_empty() {
            return Err(SshKeyError::Damaged);
        }
        Ok(Self(format!("{kind} {blob}")))
    }
}

fn curve_of(kind: &str) -> Option<(&'static [u8], usize)> {
    CURVES.iter().find(|(name, ..)| *name == kind).map(|(_, curve, len)| (*curve, *len))
}

fn is_taken(kind: &str) -> bool {
    [ED25519, SK_ED25519, SK_ECDSA, RSA].contains(&kind) || curve_of(kind).is_some()
}

/// What to tell somebody whose line begins with something else.
fn why_not_taken(kind: &str, line: &str) -> SshKeyError {
    if kind.contains(CERTIFICATE) {
        SshKeyError::Certificate
    } else if kind == DSA {
        SshKeyError::Dsa
    } else if line.split(' ').any(is_taken) {
        SshKeyError::Options
    } else {
        SshKeyError::Kind
    }
}

/// Takes exactly what a key of the kind has after its name.
fn take_fields(kind: &str, rest: &mut &[u8]) -> Result<(), SshKeyError> {
    if let Some((curve, point_len)) = curve_of(kind) {
        return ecdsa(rest, curve, point_len);
    }
    if kind == RSA {
        return rsa(rest);
    }
    if kind == SK_ECDSA {
        ecdsa(rest, SK_ECDSA_CURVE, SK_ECDSA_POINT_LEN)?;
    } else if take_string(rest)?.len() != ED25519_LEN {
        return Err(SshKeyError::Damaged);
    }
    if kind == ED25519 {
        return Ok(());
    }
    let application = take_string(rest)?;
    if application.is_empty() { Err(SshKeyError::Damaged) } else { Ok(()) }
}

fn ecdsa(rest: &mut &[u8], curve: &[u8], point_len: usize) -> Result<(), SshKeyError> {
    let named = take_string(rest)?;
    let point = take_string(rest)?;
    let plain = point.len() == point_len && point.first() == Some(&POINT_UNCOMPRESSED);
    if named == curve && plain { Ok(()) } else { Err(SshKeyError::Damaged) }
}

fn rsa(rest: &mut &[u8]) -> Result<(), SshKeyError> {
    let exponent = positive(take_string(rest)?)?;
    let modulus = positive(take_string(rest)?)?;
    if exponent.last().is_none_or(|low| low & 1 == 0) {
        return Err(SshKeyError::Damaged);
    }
    let leading = modulus.first().map_or(0, |high| high.leading_zeros());
    let leading = usize::try_from(leading).unwrap_or_default();
    let bits = modulus.len().saturating_mul(8).saturating_sub(leading);
    if (RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        Ok(())
    } else {
        Err(SshKeyError::RsaBits(bits))
    }
}

/// The digits of a positive number in SSH's own form, without the leading zero that keeps it positive.
fn positive(bytes: &[u8]) -> Result<&[u8], SshKeyError> {
    match bytes {
        [] => Err(SshKeyError::Damaged),
        [0, high, ..] if high & 0x80 != 0 => bytes.get(1..).ok_or(SshKeyError::Damaged),
        [0, ..] => Err(SshKeyError::Damaged),
        [high, ..] if high & 0x80 != 0 => Err(SshKeyError::Damaged),
        _ => Ok(bytes),
    }
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], SshKeyError> {
    let (len, after) = rest.split_first_chunk::<4>().ok_or(SshKeyError::Damaged)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| SshKeyError::Damaged)?;
    let (taken, after) = after.split_at_checked(len).ok_or(SshKeyError::Damaged)?;
    *rest = after;
    Ok(taken)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "the numbers are the test's own")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn line(kind: &str, fields: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for field in std::iter::once(&kind.as_bytes()).chain(fields) {
            blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend(*field);
        }
        format!("{kind} {}", STANDARD.encode(blob))
    }

    fn rsa_line(bits: usize) -> String {
        let mut modulus = vec![0; bits.div_ceil(8)];
        modulus[0] = 1 << ((bits - 1) % 8);
        if modulus[0] & 0x80 != 0 {
            modulus.insert(0, 0);
        }
        line(RSA, &[&[1, 0, 1], &modulus])
    }

    /// A renter's own key file must be taken as it is, and its comment must not make it another key.
    #[test]
    fn keys_have_one_text() {
        for text in [KEY.to_owned(), format!("{KEY} me@home and more"), format!("{KEY} c\r\n")] {
            assert_eq!(text.parse::<SshKey>().unwrap().as_str(), KEY);
        }
        for (kind, curve, len) in CURVES {
            let mut point = vec![7; len];
            point[0] = POINT_UNCOMPRESSED;
            let text = line(kind, &[curve, &point]);
            assert_eq!(text.parse::<SshKey>().unwrap().as_str(), text);
            point[0] = 2;
            assert_eq!(line(kind, &[curve, &point]).parse::<SshKey>(), Err(SshKeyError::Damaged));
        }
        let mut point = vec![7; SK_ECDSA_POINT_LEN];
        point[0] = POINT_UNCOMPRESSED;
        for text in [
            line(SK_ED25519, &[&[1; ED25519_LEN], b"ssh:"]),
            line(SK_ECDSA, &[SK_ECDSA_CURVE, &point, b"ssh:mine"]),
        ] {
            assert_eq!(text.parse::<SshKey>().unwrap().as_str(), text);
        }
        for text in [
            line(SK_ED25519, &[&[1; ED25519_LEN]]),
            line(SK_ED25519, &[&[1; ED25519_LEN], b""]),
            line(SK_ED25519, &[&[1; ED25519_LEN], b"ssh:", b""]),
            line(SK_ECDSA, &[SK_ECDSA_CURVE, &point]),
        ] {
            assert_eq!(text.parse::<SshKey>(), Err(SshKeyError::Damaged), "{text}");
        }
    }

    /// A short RSA key, an option such as `command=`, or a second line would open more than the renter asked for.
    #[test]
    fn what_is_no_plain_key_is_refused() {
        let with_option = format!("command=\"sh\" {KEY}");
        let restricted = format!("restrict,from=\"10.0.0.0/8\" {KEY}");
        let quoted = format!("environment=\"A=b c\",pty {KEY} me");
        let nul = format!("{KEY}\0");
        let huge = format!("{KEY} {}", "'\"$(reboot)`;".repeat(1300));
        let two = format!("{KEY}\n{KEY}");
        let long = format!("{KEY} {}", "c".repeat(SSH_KEY_LEN_MAX - KEY.len()));
        let trailing = line(ED25519, &[&[1; 32], &[]]);
        let certificate = KEY.replacen("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", 1);
        let cases = [
            ("", SshKeyError::Kind),
            (&with_option, SshKeyError::Options),
            (&restricted, SshKeyError::Options),
            (&quoted, SshKeyError::Options),
            (&certificate, SshKeyError::Certificate),
            ("ssh-dss AAAA", SshKeyError::Dsa),
            ("ssh-ed448 AAAA", SshKeyError::Kind),
            ("$(reboot)", SshKeyError::Kind),
            (&nul, SshKeyError::NotOneLine),
            (&huge, SshKeyError::TooLong),
            (&two, SshKeyError::NotOneLine),
            ("ssh-ed25519\tAAAA", SshKeyError::NotOneLine),
            (&long, SshKeyError::TooLong),
            ("ssh-ed25519", SshKeyError::Damaged),
            ("ssh-ed25519 !", SshKeyError::Damaged),
            (&KEY[..40], SshKeyError::Damaged),
            (&trailing, SshKeyError::Damaged),
            (&KEY.replacen("ssh-ed25519", "ssh-rsa", 1), SshKeyError::Damaged),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<SshKey>(), Err(error), "{text}");
        }
        for (bits, fits) in [(1024, false), (2047, false), (2048, true), (16_384, true)] {
            let parsed = rsa_line(bits).parse::<SshKey>();
            assert_eq!(parsed.is_ok(), fits, "{bits}");
            assert!(fits || parsed == Err(SshKeyError::RsaBits(bits)));
        }
    }

    proptest! {
        /// A key from a stranger must never take the node down, and what passes must pass again unchanged.
        #[test]
        fn any_text_is_survived(change in any::<(u16, u8)>(), noise in ".{0,200}") {
            let mut bytes = KEY.as_bytes().to_vec();
            let place = usize::from(change.0) % bytes.len();
            bytes[place] = change.1;
            for text in [String::from_utf8_lossy(&bytes).into_owned(), noise] {
                if let Ok(key) = text.parse::<SshKey>() {
                    prop_assert_eq!(key.as_str().parse::<SshKey>(), Ok(key.clone()));
                }
            }
        }
    }
}
