//! Mnemonics: the English BIP-39 list, turned into a seed in Substrate's way.
//!
//! Substrate stretches the *entropy* of the phrase, not its text, so the seed differs from Bitcoin's for the same words.

use bip39::{Language, Mnemonic};
use hmac::Hmac;
use sha2::Sha512;
use zeroize::{Zeroize as _, Zeroizing};

/// Rounds of PBKDF2 that Substrate uses for every phrase.
const SEED_ROUNDS: u32 = 2048;
/// No phrase of 24 English words (8 letters at most each) is longer; anything longer is refused unread.
const PHRASE_LEN_MAX: usize = 1024;

/// How many words a new mnemonic has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WordCount {
    /// 128 bits of entropy, what `btcli` draws by default.
    Twelve,
    /// 256 bits of entropy.
    TwentyFour,
}

/// Why a phrase is no mnemonic. The texts name positions and never words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MnemonicError {
    /// Too many or too few words.
    #[error("a mnemonic of {0} words, expected 12, 15, 18, 21 or 24")]
    WordCount(usize),
    /// A word that the list does not have; counted from 1.
    #[error("word {0} of the mnemonic is not in the English BIP-39 list")]
    UnknownWord(usize),
    /// All words are known and they do not belong together.
    #[error(
        "the checksum of the mnemonic does not match: a word was swapped, repeated or replaced"
    )]
    Checksum,
    /// Longer than any mnemonic.
    #[error("a mnemonic of {0} bytes is longer than any phrase of 24 words")]
    TooLong(usize),
}

/// Draws a new English mnemonic.
///
/// # Panics
/// Where the operating system has no randomness to give, since no key could be safe there.
#[must_use]
pub fn generate_mnemonic(words: WordCount) -> Zeroizing<String> {
    let mut entropy = Zeroizing::new([0u8; 32]);
    let drawn = match words {
        WordCount::Twelve => entropy.get_mut(..16),
        WordCount::TwentyFour => entropy.get_mut(..),
    }
    .expect("both lengths are within the buffer");
    getrandom::fill(drawn).expect("the operating system gives randomness");
    let mnemonic = Mnemonic::from_entropy_in(Language::English, drawn)
        .expect("16 and 32 bytes are lengths that BIP-39 knows");
    Zeroizing::new(mnemonic.to_string())
}

/// A phrase that was checked, in its canonical spelling, with the seed of its key.
pub(crate) struct Checked {
    pub(crate) phrase: Zeroizing<String>,
    pub(crate) seed: Zeroizing<[u8; 32]>,
}

/// Checks a phrase and derives the seed. Case and spacing do not matter.
pub(crate) fn check(phrase: &str, password: &str) -> Result<Checked, MnemonicError> {
    if phrase.len() > PHRASE_LEN_MAX {
        return Err(MnemonicError::TooLong(phrase.len()));
    }
    let lower = Zeroizing::new(phrase.to_lowercase());
    let words = lower.split_whitespace();
    let mut canonical = Zeroizing::new(String::with_capacity(lower.len()));
    for word in words {
        if !canonical.is_empty() {
            canonical.push(' ');
        }
        canonical.push_str(word);
    }
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &canonical).map_err(named)?;
    let entropy = Zeroizing::new(mnemonic.to_entropy());
    Ok(Checked { seed: seed_of(&entropy, password), phrase: canonical })
}

fn seed_of(entropy: &[u8], password: &str) -> Zeroizing<[u8; 32]> {
    let salt = Zeroizing::new(format!("mnemonic{password}"));
    let mut stretched = Zeroizing::new([0u8; 64]);
    pbkdf2::pbkdf2::<Hmac<Sha512>>(entropy, salt.as_bytes(), SEED_ROUNDS, stretched.as_mut())
        .expect("HMAC takes a key of any length");
    let mut seed = Zeroizing::new([0u8; 32]);
    seed.copy_from_slice(&stretched[..32]);
    stretched.zeroize();
    seed
}

fn named(error: bip39::Error) -> MnemonicError {
    match error {
        bip39::Error::BadWordCount(count) => MnemonicError::WordCount(count),
        bip39::Error::UnknownWord(at) => MnemonicError::UnknownWord(at.saturating_add(1)),
        bip39::Error::InvalidChecksum
        | bip39::Error::BadEntropyBitCount(_)
        | bip39::Error::AmbiguousLanguages(_) => MnemonicError::Checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(phrase: &str) -> MnemonicError {
        check(phrase, "").err().expect("refused")
    }

    /// A mistyped mnemonic must say what is wrong, and must not print the secret.
    #[test]
    fn wrong_phrases_are_named_by_position() {
        let good = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
        assert!(check(good, "").is_ok());
        assert_eq!(refused(""), MnemonicError::WordCount(0));
        assert_eq!(refused("bottom drive"), MnemonicError::WordCount(2));
        assert_eq!(refused(&good.replace("obey", "obay")), MnemonicError::UnknownWord(3));
        assert_eq!(refused(&good.replace("drive", "obey")), MnemonicError::Checksum);
        assert_eq!(refused(&"zoo ".repeat(400)), MnemonicError::TooLong(1600));
        assert!(!refused(&good.replace("obey", "obay")).to_string().contains("obay"));
    }

    /// A phrase copied from paper with capitals or line breaks must give the same key.
    #[test]
    fn case_and_spacing_do_not_matter() {
        let tidy = "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong";
        let loose = " Zoo zoo zoo zoo zoo zoo\n zoo ZOO zoo zoo zoo\twrong\n";
        let (tidy, loose) = (check(tidy, "").ok().unwrap(), check(loose, "").ok().unwrap());
        assert_eq!(tidy.seed, loose.seed);
        assert_eq!(tidy.phrase, loose.phrase);
    }

    /// Two new wallets with the same phrase would share their coins.
    #[test]
    fn new_phrases_are_valid_and_differ() {
        for (words, count) in [(WordCount::Twelve, 12), (WordCount::TwentyFour, 24)] {
            let (one, two) = (generate_mnemonic(words), generate_mnemonic(words));
            assert_ne!(one, two);
            assert_eq!(one.split(' ').count(), count);
            assert!(check(&one, "").is_ok());
        }
    }
}
