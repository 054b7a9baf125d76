//! The hash that stands for a synapse's body in the signature: SHA3-256 over the hashes of the fields that its class names.
//!
//! No synapse of NI Compute names any, so in practice it is one constant and says nothing about the body. The general rule
//! is kept for the classes of others, as far as Python's `str()` can be told without Python.

use sha3::{Digest as _, Sha3_256};

/// The hash of a synapse that names no field: that of the empty text.
pub const EMPTY_BODY_HASH: &str =
    "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";

/// Exponents of ten between which Python writes a float without one.
const PLAIN_EXPONENTS: std::ops::Range<i32> = -4..16;

/// A value of a field as Python holds it; dictionaries keep the order in which they were written.
#[derive(Debug, Clone, PartialEq)]
pub enum PyValue {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An `int`.
    Int(i128),
    /// A `float`.
    Float(f64),
    /// A `str`.
    Text(String),
    /// A `list`.
    List(Vec<Self>),
    /// A `dict` with text keys.
    Dict(Vec<(String, Self)>),
}

/// A text inside a list or dictionary for which Python's own tables decide how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a text inside a list or dictionary has characters beyond printable ASCII")]
pub struct NotCovered;

/// The hash of these fields, in the order in which the class names them.
///
/// # Errors
/// When a field holds what is not covered.
pub fn body_hash(fields: &[PyValue]) -> Result<String, NotCovered> {
    let mut hashes = String::new();
    for field in fields {
        hashes.push_str(&sha3_hex(&text(field)?));
    }
    Ok(sha3_hex(&hashes))
}

fn sha3_hex(text: &str) -> String {
    hex::encode(Sha3_256::digest(text))
}

/// Python's `str()`.
fn text(value: &PyValue) -> Result<String, NotCovered> {
    match value {
        PyValue::Text(text) => Ok(text.clone()),
        PyValue::None
        | PyValue::Bool(_)
        | PyValue::Int(_)
        | PyValue::Float(_)
        | PyValue::List(_)
        | PyValue::Dict(_) => repr(value),
    }
}

/// Python's `repr()`.
fn repr(value: &PyValue) -> Result<String, NotCovered> {
    Ok(match value {
        PyValue::None => "None".to_owned(),
        PyValue::Bool(true) => "True".to_owned(),
        PyValue::Bool(false) => "False".to_owned(),
        PyValue::Int(number) => number.to_string(),
        PyValue::Float(number) => float(*number),
        PyValue::Text(text) => quoted(text)?,
        PyValue::List(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(repr).collect();
            format!("[{}]", items?.join(", "))
        }
        PyValue::Dict(entries) => {
            let entry = |(key, value): &(String, PyValue)| {
                Ok(format!("{}: {}", quoted(key)?, repr(value)?))
            };
            let entries: Result<Vec<_>, NotCovered> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries?.join(", "))
        }
    })
}

fn quoted(text: &str) -> Result<String, NotCovered> {
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(NotCovered);
    }
    let text = text.replace('\\', "\\\\");
    Ok(match (text.contains('\''), text.contains('"')) {
        (false, _) => format!("'{text}'"),
        (true, false) => format!("\"{text}\""),
        (true, true) => format!("'{}'", text.replace('\'', "\\'")),
    })
}

/// A float as Python writes it.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if PLAIN_EXPONENTS.contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another text for the same number would be another hash, and the peer would answer 500.
    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.5, "1.5"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e22, "1e+22"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (2.5e-300, "2.5e-300"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for (number, written) in cases {
            assert_eq!(float(number), written);
        }
    }

    /// Quotes decide the text too; what cannot be told is refused and not guessed.
    #[test]
    fn texts_inside_are_quoted_as_python_quotes_them() {
        let cases = [
            ("it's", "\"it's\""),
            ("plain", "'plain'"),
            ("say \"so\"", "'say \"so\"'"),
            ("it's \"so\"", "'it\\'s \"so\"'"),
            ("back\\slash", "'back\\\\slash'"),
        ];
        for (text, written) in cases {
            assert_eq!(quoted(text).as_deref(), Ok(written));
        }
        for text in ["é", "line\nbreak", "\u{7f}"] {
            assert_eq!(quoted(text), Err(NotCovered));
            let list = PyValue::List(vec![PyValue::Text(text.to_owned())]);
            assert_eq!(body_hash(&[list]), Err(NotCovered));
            assert!(body_hash(&[PyValue::Text(text.to_owned())]).is_ok(), "a field is not quoted");
        }
        assert_eq!(body_hash(&[]).as_deref(), Ok(EMPTY_BODY_HASH));
    }
}
