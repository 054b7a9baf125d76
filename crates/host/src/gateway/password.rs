//! The password of a lease that an older client made: kept as a salted hash, compared in constant time.
//!
//! Such passwords are made by the node and random, so the hash need not be slow; it is slow enough that a stolen store
//! is no list of logins.

use std::fmt;
use std::sync::Arc;

use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;
use tokio::sync::Semaphore;

/// What the text form begins with; the number is that of the rounds.
const SCHEME: &str = "pbkdf2-sha256$4096";
const ROUNDS: u32 = 4096;
const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;
/// The shortest password; what older nodes give out has 10 characters.
const PASSWORD_LEN_MIN: usize = 8;
/// The longest that is hashed, so that a stranger's guess costs no more than another's.
const PASSWORD_LEN_MAX: usize = 128;

/// Attempts that are compared at once.
const COMPARED_AT_ONCE: usize = 2;
/// Attempts that are compared or wait for it; more are refused.
const COMPARING_MAX: usize = 64;

/// Where passwords are compared: away from the threads that carry everybody's bytes, since a stranger's guess costs as
/// much as a login.
#[derive(Debug)]
pub(super) struct Comparing {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Default for Comparing {
    fn default() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self { places: of(COMPARING_MAX), turns: of(COMPARED_AT_ONCE) }
    }
}

impl Comparing {
    /// Which hashes the password fits; `None` where too many attempts wait already. Every one is compared, so that the
    /// time says nothing about which it was.
    pub(super) async fn fits(
        &self,
        hashes: Vec<PasswordHash>,
        password: &str,
    ) -> Option<Vec<bool>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let password = password.to_owned();
        let work = move || {
            let fits = hashes.iter().map(|hash| hash.matches(&password)).collect();
            // Held by the work and not by whoever waits for it: he may be gone long before.
            drop((place, turn));
            fits
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

/// A password that can be checked and not read.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    salt: [u8; SALT_LEN],
    hash: [u8; HASH_LEN],
}

/// Why there is no password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// Too short to be worth guessing, or too long.
    #[error("a password has {PASSWORD_LEN_MIN} to {PASSWORD_LEN_MAX} bytes")]
    Length,
    /// The system gave no randomness.
    #[error("no randomness for a salt")]
    Random,
    /// Not what `to_text` gives.
    #[error("the text is no password hash")]
    Text,
}

impl PasswordHash {
    /// Hashes a password with a new salt.
    ///
    /// # Errors
    /// For a length that is not taken, or where the system gives no randomness.
    pub fn new(password: &str) -> Result<Self, PasswordHashError> {
        if !(PASSWORD_LEN_MIN..=PASSWORD_LEN_MAX).contains(&password.len()) {
            return Err(PasswordHashError::Length);
        }
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).map_err(|_| PasswordHashError::Random)?;
        Ok(Self { salt, hash: derive(password, &salt) })
    }

    /// The text that a store keeps.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{SCHEME}${}${}", hex::encode(self.salt), hex::encode(self.hash))
    }

    /// Reads what [`PasswordHash::to_text`] gave.
    ///
    /// # Errors
    /// For any other text.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        let fields = text.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix('$'));
        let (salt_text, hash_text) =
            fields.and_then(|fields| fields.split_once('$')).ok_or(PasswordHashError::Text)?;
        let (mut salt, mut hash) = ([0; SALT_LEN], [0; HASH_LEN]);
        hex::decode_to_slice(salt_text, &mut salt).map_err(|_| PasswordHashError::Text)?;
        hex::decode_to_slice(hash_text, &mut hash).map_err(|_| PasswordHashError::Text)?;
        Ok(Self { salt, hash })
    }

    /// What tells it from other passwords of the lease and says nothing about it.
    pub(super) fn mark(&self) -> String {
        hex::encode(self.salt)
    }

    /// Whether this is the password. Takes the same time whatever is wrong with it.
    #[must_use]
    pub fn matches(&self, password: &str) -> bool {
        let fits = password.len() <= PASSWORD_LEN_MAX;
        let derived = derive(if fits { password } else { "" }, &self.salt);
        let pairs = derived.iter().zip(&self.hash);
        let difference = pairs.fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        difference == 0 && fits
    }
}

fn derive(password: &str, salt: &[u8]) -> [u8; HASH_LEN] {
    let mut hash = [0; HASH_LEN];
    pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, ROUNDS, &mut hash);
    hash
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A password that is not recognised after a restart locks a validator out; one that is shown is no secret.
    #[test]
    fn a_hash_survives_its_text_and_shows_nothing() {
        let hash = PasswordHash::new("Ab3dEf6hIj").expect("hashes");
        let again = PasswordHash::parse(&hash.to_text()).expect("reads");
        assert_eq!(again, hash);
        assert!(again.matches("Ab3dEf6hIj"));
        for wrong in ["", "Ab3dEf6hI", "Ab3dEf6hIjk", "ab3dEf6hIj", &"x".repeat(100_000)] {
            assert!(!again.matches(wrong), "{wrong:.20}");
        }
        assert_ne!(PasswordHash::new("Ab3dEf6hIj").expect("hashes"), hash, "salts differ");
        assert_eq!(format!("{hash:?}"), "PasswordHash(..)");
        assert!(!hash.to_text().contains("Ab3dEf6hIj"));
    }

    /// The form is what stores hold: RFC 8018's function over known values, checked with another implementation.
    #[test]
    fn the_text_is_frozen() {
        let text = format!("{SCHEME}${}${}", "00".repeat(SALT_LEN), KNOWN);
        assert!(PasswordHash::parse(&text).expect("reads").matches("correct horse"));
    }

    /// A damaged store must not become a password that anything opens.
    #[test]
    fn other_texts_are_refused() {
        let good = PasswordHash::new("Ab3dEf6hIj").expect("hashes").to_text();
        let cut = &good[..good.len() - 1];
        let zeros = good.replace("4096", "1");
        for bad in ["", "x", SCHEME, cut, &zeros, &format!("{good}0"), &format!("{good}$")] {
            assert_eq!(PasswordHash::parse(bad), Err(PasswordHashError::Text), "{bad}");
        }
        assert_eq!(PasswordHash::new("short"), Err(PasswordHashError::Length));
        assert_eq!(PasswordHash::new(&"x".repeat(129)), Err(PasswordHashError::Length));
    }

    /// Guesses must not take the node's threads, nor wait in a line without an end.
    #[tokio::test]
    async fn comparing_has_an_end() {
        let comparing = Comparing::default();
        let hash = PasswordHash::new("Ab3dEf6hIj").expect("hashes");
        let other = PasswordHash::new("another one").expect("hashes");
        let both = || vec![other.clone(), hash.clone()];
        assert_eq!(comparing.fits(both(), "Ab3dEf6hIj").await, Some(vec![false, true]));
        let room = Arc::clone(&comparing.places);
        let crowd = room.try_acquire_many(64).expect("all were given back");
        assert_eq!(comparing.fits(both(), "Ab3dEf6hIj").await, None);
        drop(crowd);
        assert_eq!(comparing.fits(both(), "no").await, Some(vec![false, false]));
    }

    const KNOWN: &str = "280ba1882736d9cb3214d1e4c761cf21902e704b467f4c7b198f3a3e0debab98";
}
