//! The JSON text inside a keyfile, as Bittensor's wallet packages write it and as all of their versions wrote it.
//!
//! The fields here are the file's, not ours: nothing is believed before `keyfile` has derived the address again.

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

/// A text that is wiped when dropped.
pub(super) struct SecretText(pub(super) Zeroizing<String>);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// What a keyfile may hold. Unknown fields of newer versions are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Read {
    pub(super) account_id: Option<String>,
    pub(super) public_key: Option<String>,
    /// Very old files have a space before the name.
    #[serde(alias = " ss58Address")]
    pub(super) ss58_address: Option<String>,
    pub(super) crypto_type: Option<u64>,
    pub(super) private_key: Option<SecretText>,
    pub(super) secret_phrase: Option<SecretText>,
    /// Wallet 3.0.4 and 4.1.1 write raw bytes here after `regenerate_coldkey(seed=…)`; such a value is passed over.
    pub(super) secret_seed: Option<SecretText>,
    /// These two mark an export of polkadot.js.
    pub(super) encoded: Option<SecretText>,
    pub(super) encoding: Option<serde::de::IgnoredAny>,
}

/// What we write: the same fields under the same names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Write<'a> {
    pub(super) account_id: &'a str,
    pub(super) public_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) private_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_phrase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_seed: Option<&'a str>,
    pub(super) ss58_address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) crypto_type: Option<u8>,
}

/// `0x` and an exact number of hex digits, or nothing.
pub(super) fn hex_bytes<const LEN: usize>(text: &str) -> Option<Zeroizing<[u8; LEN]>> {
    let mut bytes = Zeroizing::new([0u8; LEN]);
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode_to_slice(digits, bytes.as_mut()).ok()?;
    Some(bytes)
}

/// `0x` and hex digits, in a text that is wiped.
pub(super) fn hex_text(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(vec![0u8; bytes.len().saturating_mul(2)]);
    hex::encode_to_slice(bytes, &mut text).expect("two digits a byte");
    let digits = std::str::from_utf8(&text).expect("hex digits are ASCII");
    Zeroizing::new(["0x", digits].concat())
}
