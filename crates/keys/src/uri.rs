//! Substrate's secret URIs: `phrase//hard/soft///password`, a hex seed in place of the phrase, or `//Alice` alone.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use zeroize::Zeroizing;

use crate::mnemonic::MnemonicError;

/// The phrase behind `//Alice` and the other development accounts; everybody knows it.
const DEVELOPMENT_PHRASE: &str =
    "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
/// Longest secret URI that is read.
const URI_LEN_MAX: usize = 4096;
/// Most derivation steps that are followed.
const JUNCTIONS_MAX: usize = 32;

/// Why a secret URI gives no key. The texts never repeat the URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The words before the path are no mnemonic.
    #[error("the secret URI does not begin with a valid mnemonic")]
    Phrase(#[source] MnemonicError),
    /// `0x` and something that is not 32 bytes of hex.
    #[error("the hex seed of the secret URI is not 0x and 64 hex digits")]
    Seed,
    /// Ed25519 has no soft derivation.
    #[error("ed25519 keys have no soft derivation: write // before every part of the path")]
    SoftEd25519,
    /// Two slashes with nothing between them.
    #[error("part {0} of the derivation path is empty")]
    EmptyJunction(usize),
    /// More text than any URI needs.
    #[error("the secret URI is longer than 4096 bytes or has more than 32 derivation steps")]
    TooLong,
    /// A hex seed needs no password, and silently ignoring one would give a surprising key.
    #[error("a hex seed takes no ///password")]
    PasswordOnSeed,
}

/// Where the derivation starts.
pub(crate) enum Root<'a> {
    Phrase { phrase: &'a str, password: &'a str },
    Seed(Zeroizing<[u8; 32]>),
}

/// One step of the derivation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Junction {
    pub(crate) hard: bool,
    pub(crate) chain_code: [u8; 32],
}

/// Splits a URI into its root and its path.
pub(crate) fn parse(uri: &str) -> Result<(Root<'_>, Vec<Junction>), UriError> {
    if uri.len() > URI_LEN_MAX {
        return Err(UriError::TooLong);
    }
    let (body, password) = match uri.split_once("///") {
        Some((body, password)) => (body, Some(password)),
        None => (uri, None),
    };
    let (phrase, path) = body.split_at(body.find('/').unwrap_or(body.len()));
    let root = match phrase.trim() {
        "" => Root::Phrase { phrase: DEVELOPMENT_PHRASE, password: password.unwrap_or_default() },
        hex_seed if hex_seed.starts_with("0x") => {
            if password.is_some() {
                return Err(UriError::PasswordOnSeed);
            }
            let mut seed = Zeroizing::new([0u8; 32]);
            let digits = hex_seed.trim_start_matches("0x");
            hex::decode_to_slice(digits, seed.as_mut()).map_err(|_| UriError::Seed)?;
            Root::Seed(seed)
        }
        phrase => Root::Phrase { phrase, password: password.unwrap_or_default() },
    };
    Ok((root, junctions(path)?))
}

fn junctions(mut path: &str) -> Result<Vec<Junction>, UriError> {
    let mut steps = Vec::new();
    while let Some(rest) = path.strip_prefix('/') {
        if steps.len() == JUNCTIONS_MAX {
            return Err(UriError::TooLong);
        }
        let hard = rest.starts_with('/');
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        let (code, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if code.is_empty() {
            return Err(UriError::EmptyJunction(steps.len().saturating_add(1)));
        }
        steps.push(Junction { hard, chain_code: chain_code(code) });
        path = after;
    }
    Ok(steps)
}

/// A number is its little-endian bytes, a text its SCALE encoding; what is longer than 32 bytes is hashed.
fn chain_code(code: &str) -> [u8; 32] {
    let encoded = match code.parse::<u64>() {
        Ok(number) => number.to_le_bytes().to_vec(),
        Err(_) => scale_text(code),
    };
    let mut padded = [0u8; 32];
    match padded.get_mut(..encoded.len()) {
        Some(head) => {
            head.copy_from_slice(&encoded);
            padded
        }
        None => Blake2b::<U32>::digest(&encoded).into(),
    }
}

/// SCALE's text: a compact length and the bytes. A URI is at most 4096 bytes, so two length bytes are enough.
fn scale_text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("a URI is at most 4096 bytes");
    let mut out = match u8::try_from(len) {
        Ok(short) if short < 64 => vec![short << 2],
        _ => ((len << 2) | 1).to_le_bytes().to_vec(),
    };
    out.extend_from_slice(text.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uri: &str) -> UriError {
        parse(uri).err().expect("refused")
    }

    /// A junction that is cut or guessed would give a key that nobody asked for.
    #[test]
    fn broken_paths_are_refused() {
        assert_eq!(refused("//Alice/"), UriError::EmptyJunction(2));
        assert_eq!(refused("/"), UriError::EmptyJunction(1));
        assert_eq!(refused("0x11//a"), UriError::Seed);
        let seed = format!("0x{}///pw", "11".repeat(32));
        assert_eq!(refused(&seed), UriError::PasswordOnSeed);
        assert_eq!(refused(&"/a".repeat(33)), UriError::TooLong);
        assert_eq!(parse(&"/a".repeat(32)).ok().unwrap().1.len(), 32);
        assert_eq!(refused(&"a".repeat(4097)), UriError::TooLong);
    }

    /// Numbers, short and long texts have three different encodings on Substrate.
    #[test]
    fn chain_codes_follow_scale() {
        assert_eq!(chain_code("1")[..9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(chain_code("Alice")[..7], [20, b'A', b'l', b'i', b'c', b'e', 0]);
        assert_eq!(scale_text(&"x".repeat(64))[..3], [0x01, 0x01, b'x']);
        assert_ne!(chain_code(&"x".repeat(40)), chain_code(&"x".repeat(41)));
    }
}
