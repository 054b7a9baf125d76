//! Text of others on the way to a terminal.
//!
//! Whoever answers a question may write what he likes into a name or an error: nothing of it may move the cursor, set the
//! clipboard, reorder a line or fill the screen.

use std::fmt::Write as _;

/// Characters of one error that are shown.
const SHOWN_MAX: usize = 4_000;

/// One line of at most so many characters that a terminal shows as they are.
pub(crate) fn plain(text: &str, chars_max: usize) -> String {
    text.chars().map(|c| if is_unseen(c) { ' ' } else { c }).take(chars_max).collect()
}

/// An error or a hint. Its lines stay lines.
pub(crate) fn shown(text: &str) -> String {
    let plain = |c: char| if c != '\n' && is_unseen(c) { ' ' } else { c };
    text.chars().map(plain).take(SHOWN_MAX).collect()
}

/// JSON whose strings hold no character that a terminal obeys: it is escaped, so a reader of JSON gets the same text.
pub(crate) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of strings JSON has line ends and spaces alone, and within them those are escaped already.
        if c == '\n' || !is_unseen(c) {
            text.push(c);
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            let written = write!(text, "\\u{unit:04x}");
            debug_assert!(written.is_ok(), "writing into a string cannot fail");
        }
    }
    text
}

/// Controls, and what changes the order or the look of other characters without being seen.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}]52;c;x\u{7}b\u{9b}2Jc\u{202e}d\u{7f}e\u{e0041}";

    /// A node's words must not set the clipboard, clear the screen or reorder a row of a table.
    #[test]
    fn a_terminal_obeys_nobodys_text() {
        for text in [plain(HOSTILE, 100), shown(HOSTILE)] {
            assert_eq!(text, "a ]52;c;x b 2Jc d e ");
        }
        assert_eq!(plain("äöü\n", 2), "äö");
        assert_eq!(shown("one\ntwo"), "one\ntwo");
        assert_eq!(shown(&"x".repeat(100_000)).len(), SHOWN_MAX);
    }

    /// A script that reads our JSON must get the text as it was, and a person who looks at it must not be fooled.
    #[test]
    fn json_stays_the_same_and_is_harmless() {
        let json = serde_json::to_string_pretty(&serde_json::json!({ "name": HOSTILE })).unwrap();
        let text = escaped(&json);
        assert!(!text.chars().any(|c| c != '\n' && is_unseen(c)), "{text:?}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["name"], HOSTILE);
    }
}
