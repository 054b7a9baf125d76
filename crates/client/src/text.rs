//! Text from other parties, made fit for logs and terminals.

/// The text without control characters and cut to a number of characters.
#[must_use]
pub fn plain(text: &str, chars_max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider's text must not be able to move the cursor of whoever reads it, or to fill a log.
    #[test]
    fn control_characters_and_length_are_cut() {
        assert_eq!(plain("a\u{1b}[2Jb\nc", 100), "a [2Jb c");
        assert_eq!(plain("äöü", 2), "äö");
    }
}
