//! Passwords of leases that came through this door.

use zeroize::Zeroizing;

/// Characters of a password. 1.9.0 gives ten; its peers pass on what they get, and twenty cannot be tried out.
const CHARS: usize = 20;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Bytes from here on would make the first letters likelier.
const FAIR_BELOW: u8 = 248;

/// Draws one.
pub(super) fn draw() -> Result<Zeroizing<String>, getrandom::Error> {
    let mut password = Zeroizing::new(String::with_capacity(CHARS));
    while password.len() < CHARS {
        let mut bytes = Zeroizing::new([0_u8; CHARS]);
        getrandom::fill(bytes.as_mut_slice())?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR_BELOW);
        let letters = fair.filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()));
        for letter in letters.take(CHARS.saturating_sub(password.len())) {
            password.push(char::from(*letter));
        }
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A password that repeats, or has signs that a peer's shell would read, opens the lease to others or to nobody.
    #[test]
    fn passwords_are_plain_and_new() {
        let drawn: BTreeSet<String> = (0..200).map(|_| draw().unwrap().to_string()).collect();
        assert_eq!(drawn.len(), 200);
        assert!(drawn.iter().all(|one| one.len() == CHARS));
        let letters: BTreeSet<u8> = drawn.iter().flat_map(|one| one.bytes()).collect();
        assert_eq!(letters, ALPHABET.iter().copied().collect(), "all letters and no others");
        assert_eq!(usize::from(FAIR_BELOW) % ALPHABET.len(), 0);
    }
}
