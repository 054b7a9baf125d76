//! What a synapse says about one of its two ends.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Number;

/// One end of the line, as a synapse describes it. Everything is optional, and each side fills in what it knows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TerminalInfo {
    /// The HTTP status of the answer.
    #[serde(deserialize_with = "whole")]
    pub status_code: Option<u16>,
    /// A phrase that goes with the status.
    pub status_message: Option<String>,
    /// How long this side worked, in seconds.
    #[serde(deserialize_with = "number")]
    pub process_time: Option<Number>,
    /// Its address.
    pub ip: Option<String>,
    /// Its port.
    #[serde(deserialize_with = "whole")]
    pub port: Option<u16>,
    /// The version of its software as one number.
    #[serde(deserialize_with = "whole")]
    pub version: Option<u64>,
    /// When it signed, in nanoseconds since 1970.
    #[serde(deserialize_with = "whole")]
    pub nonce: Option<u64>,
    /// A name that it drew for itself when it started.
    pub uuid: Option<String>,
    /// Its hotkey's SS58 text.
    pub hotkey: Option<String>,
    /// Its signature: `0x` and 128 hex digits.
    pub signature: Option<String>,
}

/// Python writes some of these numbers as texts, and reads both.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written<T> {
    Number(T),
    Text(String),
}

fn whole<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let number = match Option::<Written<u64>>::deserialize(from)? {
        None => return Ok(None),
        Some(Written::Number(number)) => Some(number),
        Some(Written::Text(text)) => crate::btauth::parse_nonce(&text),
    };
    let number = number.and_then(|number| T::try_from(number).ok());
    number.map(Some).ok_or_else(|| serde::de::Error::custom("a whole number in range is needed"))
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Number>, D::Error> {
    let number = match Option::<Written<Number>>::deserialize(from)? {
        None => return Ok(None),
        Some(Written::Number(number)) => Some(number),
        Some(Written::Text(text)) => serde_json::from_str(&text).ok(),
    };
    number.map(Some).ok_or_else(|| serde::de::Error::custom("a number is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's middleware writes versions, ports and times as texts; a client that fails at them cannot read its answers.
    #[test]
    fn numbers_may_be_written_as_texts() {
        let text = r#"{"status_code": 200, "process_time": "9.1e-05", "port": "8091", "version": "190", "nonce": null}"#;
        let info: TerminalInfo = serde_json::from_str(text).unwrap();
        assert_eq!((info.status_code, info.port, info.version), (Some(200), Some(8091), Some(190)));
        assert_eq!(info.process_time.unwrap().as_f64(), Some(9.1e-5));
        assert_eq!(info.nonce, None);
        for bad in
            [r#"{"port": 70000}"#, r#"{"port": "x"}"#, r#"{"nonce": -1}"#, r#"{"nonce": 1.5}"#]
        {
            assert!(serde_json::from_str::<TerminalInfo>(bad).is_err(), "{bad}");
        }
    }
}
