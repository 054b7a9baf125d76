//! API keys: `nic_<id>_<secret>`. The id names the key in logs and rows; of the secret only a hash is kept.
//!
//! A secret has 256 random bits, so a fast hash is enough: there is nothing to guess.

use nicompute_daemon::Secret;

/// How every key begins.
const PREFIX: &str = "nic_";
/// Random bytes of an id.
const ID_BYTES: usize = 8;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// The domain of the hash.
const CONTEXT: &str = "nicompute 2026 api key";
/// Characters of a key's name.
pub(crate) const NAME_CHARS_MAX: usize = 100;

/// A key that was just drawn.
#[derive(Debug)]
pub(crate) struct DrawnKey {
    pub(crate) id: String,
    pub(crate) hash: [u8; 32],
    pub(crate) key: Secret<String>,
}

/// A key that somebody showed: its id, and the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShownKey {
    pub(crate) id: String,
    hash: blake3::Hash,
}

/// Draws a key.
pub(crate) fn draw() -> Result<DrawnKey, getrandom::Error> {
    let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    let (id, secret) = (hex::encode(id), hex::encode(secret));
    let hash = *hash_of(&secret).as_bytes();
    Ok(DrawnKey { key: Secret::new(format!("{PREFIX}{id}_{secret}")), id, hash })
}

/// Takes a shown key apart; nothing for a text that is none.
pub(crate) fn parse(text: &str) -> Option<ShownKey> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex = |text: &str, bytes: usize| {
        text.len() == bytes.saturating_mul(2)
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if !is_hex(id, ID_BYTES) || !is_hex(secret, SECRET_BYTES) {
        return None;
    }
    Some(ShownKey { id: id.to_owned(), hash: hash_of(secret) })
}

impl ShownKey {
    /// Whether this is the key of the stored hash. Takes as long for a wrong secret as for the right one.
    pub(crate) fn is(&self, stored: [u8; 32]) -> bool {
        self.hash == blake3::Hash::from_bytes(stored)
    }
}

fn hash_of(secret: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key(CONTEXT, secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that its own market does not know again locks every renter out; one that any text equals lets everybody in.
    #[test]
    fn a_key_is_known_by_its_secret_alone() {
        let (one, two) = (draw().unwrap(), draw().unwrap());
        let shown = parse(one.key.expose()).unwrap();
        assert_eq!(shown.id, one.id);
        assert!(shown.is(one.hash) && !shown.is(two.hash));
        assert!(!format!("{one:?}").contains(one.key.expose().as_str()));
    }

    /// What is no key must not reach the store.
    #[test]
    fn other_texts_are_no_keys() {
        let good = draw().unwrap();
        let good = good.key.expose();
        let (short, upper) = (&good[..good.len() - 1], good.to_uppercase());
        for bad in ["", "nic_", "nic_a_b", "Bearer", short, &upper, &format!("{good}0")] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
