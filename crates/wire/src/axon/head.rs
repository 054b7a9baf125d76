//! The headers of a synapse: written in the order in which Python writes them, read strictly, signed and checked.

use std::net::IpAddr;
use std::time::Duration;

use nicompute_keys::{Keypair, Scheme, verify};
use nicompute_market::{AccountId, Hotkey};
use serde_json::Number;

use crate::axon::error::NotVerified;
use crate::axon::hash::{self, EMPTY_BODY_HASH};
use crate::axon::nonce::{self, TIMEOUT_MAX, UUID_BYTES_MAX};
use crate::axon::terminal::TerminalInfo;
use crate::axon::{DENDRITE_VERSION, OLDEST_VERSION};
use crate::btauth::{parse_nonce, parse_signature, signature_text};

/// Bytes of one header's value. The longest that a peer writes is a refusal that quotes what was signed: about 450.
pub const HEADER_VALUE_BYTES_MAX: usize = 2048;
/// Characters of a hash in hexadecimal.
const HASH_CHARS: usize = 64;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

const NAME: &str = "name";
const TIMEOUT: &str = "timeout";
const HEADER_SIZE: &str = "header_size";
const TOTAL_SIZE: &str = "total_size";
const BODY_HASH: &str = "computed_body_hash";

/// The names of one end's headers, in the order of the fields of [`TerminalInfo`].
type Names = [&'static str; 10];

const AXON: Names = [
    "bt_header_axon_status_code",
    "bt_header_axon_status_message",
    "bt_header_axon_process_time",
    "bt_header_axon_ip",
    "bt_header_axon_port",
    "bt_header_axon_version",
    "bt_header_axon_nonce",
    "bt_header_axon_uuid",
    "bt_header_axon_hotkey",
    "bt_header_axon_signature",
];
const DENDRITE: Names = [
    "bt_header_dendrite_status_code",
    "bt_header_dendrite_status_message",
    "bt_header_dendrite_process_time",
    "bt_header_dendrite_ip",
    "bt_header_dendrite_port",
    "bt_header_dendrite_version",
    "bt_header_dendrite_nonce",
    "bt_header_dendrite_uuid",
    "bt_header_dendrite_hotkey",
    "bt_header_dendrite_signature",
];

/// The headers of a request or of an answer. What is absent is `None`; what is there was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// The synapse's name.
    pub name: Option<String>,
    /// How long the caller waits: a decimal number of seconds, kept as it was written.
    pub timeout: Option<String>,
    /// The one who is called.
    pub axon: TerminalInfo,
    /// The caller.
    pub dendrite: TerminalInfo,
    /// What Python says about its own memory; nothing depends on it.
    pub header_size: Option<u64>,
    /// The same.
    pub total_size: Option<u64>,
    /// The hash that stands for the body in the signature.
    pub computed_body_hash: Option<String>,
}

/// A header of the wire that is there twice, or cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header {0} is malformed or there twice")]
pub struct HeadError(pub &'static str);

/// What a dendrite signs.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The synapse.
    pub name: &'a str,
    /// How long the caller waits.
    pub timeout: Duration,
    /// Where the one who is called is reached.
    pub axon: (IpAddr, u16),
    /// Who it is.
    pub axon_hotkey: &'a Hotkey,
    /// The caller's own address, as it knows it.
    pub dendrite_ip: IpAddr,
    /// Nanoseconds since 1970, more than in every call before under the same name.
    pub nonce_ns: u64,
    /// The name that the caller drew for itself.
    pub uuid: &'a str,
}

/// A request whose signature and time are good. Whether it is new, [`crate::axon::NonceStore`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Who signed.
    pub account: AccountId,
    /// When.
    pub nonce_ns: u64,
    /// The name that the caller drew for itself.
    pub uuid: String,
    /// How long it waits, at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
}

// === impl Head ===

impl Head {
    /// Reads headers. Those of other protocols are passed over; one of ours that is there twice could be read in two ways
    /// and is refused.
    ///
    /// # Errors
    /// At the first header that is malformed or there twice.
    pub fn parse<'h>(
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<Self, HeadError> {
        let mut head = Self::default();
        let mut seen: Vec<&'static str> = Vec::new();
        for (name, value) in headers {
            let Some(known) = known(name) else { continue };
            let text = plain(value).ok_or(HeadError(known))?;
            if seen.contains(&known) {
                return Err(HeadError(known));
            }
            seen.push(known);
            head.set(known, text).ok_or(HeadError(known))?;
        }
        Ok(head)
    }

    /// The headers to write, in the order in which Python writes them.
    #[must_use]
    pub fn to_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::with_capacity(24);
        let mut put = |name, value: Option<String>| {
            headers.extend(value.map(|value| (name, value)));
        };
        put(NAME, self.name.clone());
        put(TIMEOUT, self.timeout.clone());
        for (names, end) in [(&AXON, &self.axon), (&DENDRITE, &self.dendrite)] {
            for (name, value) in names.iter().zip(texts(end)) {
                put(name, value);
            }
        }
        put(HEADER_SIZE, self.header_size.map(|size| size.to_string()));
        put(TOTAL_SIZE, self.total_size.map(|size| size.to_string()));
        put(BODY_HASH, self.computed_body_hash.clone());
        headers
    }

    /// How long the caller says that it waits; nothing, where it does not say it.
    ///
    /// # Errors
    /// Where the text is no number of seconds.
    fn waits(&self) -> Result<Duration, HeadError> {
        let Some(text) = &self.timeout else { return Ok(Duration::ZERO) };
        seconds(text).ok_or(HeadError(TIMEOUT))
    }

    fn set(&mut self, name: &'static str, text: &str) -> Option<()> {
        match name {
            NAME => self.name = Some(text.to_owned()),
            TIMEOUT => {
                seconds(text)?;
                self.timeout = Some(text.to_owned());
            }
            HEADER_SIZE => self.header_size = Some(parse_nonce(text)?),
            TOTAL_SIZE => self.total_size = Some(parse_nonce(text)?),
            BODY_HASH => self.computed_body_hash = Some(text.to_owned()),
            _ => {
                let axon = AXON.iter().position(|known| *known == name);
                match axon.or_else(|| DENDRITE.iter().position(|known| *known == name)) {
                    Some(field) if axon.is_some() => set_end(&mut self.axon, field, text)?,
                    Some(field) => set_end(&mut self.dendrite, field, text)?,
                    None => return None,
                }
            }
        }
        Some(())
    }
}

/// The headers of a call, signed.
#[must_use]
pub fn sign_call(key: &Keypair, call: &Call<'_>) -> Head {
    let hotkey = key.account().to_string();
    let axon_hotkey = call.axon_hotkey.to_string();
    let signed = signed_text(call.nonce_ns, &hotkey, &axon_hotkey, call.uuid, EMPTY_BODY_HASH);
    let (ip, port) = call.axon;
    Head {
        name: Some(call.name.to_owned()),
        timeout: Some(seconds_text(call.timeout)),
        axon: TerminalInfo {
            ip: Some(ip.to_string()),
            port: Some(port),
            hotkey: Some(axon_hotkey),
            ..TerminalInfo::default()
        },
        dendrite: TerminalInfo {
            ip: Some(call.dendrite_ip.to_string()),
            version: Some(DENDRITE_VERSION),
            nonce: Some(call.nonce_ns),
            uuid: Some(call.uuid.to_owned()),
            hotkey: Some(hotkey),
            signature: Some(signature_text(&key.sign(signed.as_bytes()))),
            ..TerminalInfo::default()
        },
        header_size: Some(0),
        total_size: Some(0),
        computed_body_hash: Some(EMPTY_BODY_HASH.to_owned()),
    }
}

/// Checks who a call is from and when it was signed. The address that it names is not looked at: whoever checks puts its
/// own hotkey into the signed text.
///
/// # Errors
/// The first check that fails: shape, version, time, signature.
pub fn verify_call(head: &Head, me: &Hotkey, now_ns: u64) -> Result<Verified, NotVerified> {
    let from = &head.dendrite;
    let nonce_ns = from.nonce.ok_or(NotVerified::Missing("Nonce"))?;
    let uuid = from.uuid.as_deref().ok_or(NotVerified::Missing("UUID"))?;
    let hotkey = from.hotkey.as_deref().ok_or(NotVerified::Missing("Hotkey"))?;
    let signature = from.signature.as_deref().ok_or(NotVerified::Missing("Signature"))?;
    let body_hash = head.computed_body_hash.as_deref().ok_or(NotVerified::Missing("Body Hash"))?;
    if uuid.is_empty() || uuid.len() > UUID_BYTES_MAX {
        return Err(NotVerified::Malformed("UUID"));
    }
    if body_hash.len() != HASH_CHARS || !body_hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(NotVerified::Malformed("Body Hash"));
    }
    let account: AccountId = hotkey.parse().map_err(|_| NotVerified::Malformed("Hotkey"))?;
    let bytes = parse_signature(signature).ok_or(NotVerified::Malformed("Signature"))?;
    if from.version.is_none_or(|version| version < OLDEST_VERSION) {
        return Err(NotVerified::OldVersion);
    }
    let timeout = head.waits().map_err(|_| NotVerified::Malformed("Timeout"))?.min(TIMEOUT_MAX);
    nonce::fresh(nonce_ns, timeout, now_ns)?;
    let signed = signed_text(nonce_ns, &account.to_string(), &me.to_string(), uuid, body_hash);
    if !verify(Scheme::Sr25519, &account, signed.as_bytes(), &bytes) {
        return Err(NotVerified::Signature { signed, signature: signature_text(&bytes) });
    }
    Ok(Verified { account, nonce_ns, uuid: uuid.to_owned(), timeout })
}

/// Signs a refusal as Python's axon does: its own nonce and name, the caller, and the hotkey that the caller asked for.
/// Fills in `head.axon`; without two addresses that are addresses nothing is signed, so that nobody has us sign a text of
/// his own.
pub fn sign_answer(key: &Keypair, head: &mut Head, nonce_ns: u64, uuid: &str) {
    let address = |text: Option<&String>| text?.parse::<AccountId>().ok().map(AccountId::to_ss58);
    let caller = address(head.dendrite.hotkey.as_ref());
    let asked = address(head.axon.hotkey.as_ref());
    let (Some(caller), Some(asked)) = (caller, asked) else {
        (head.dendrite.hotkey, head.axon.hotkey) = (None, None);
        return;
    };
    let signed = format!("{nonce_ns}.{caller}.{asked}.{uuid}");
    head.axon.nonce = Some(nonce_ns);
    head.axon.uuid = Some(uuid.to_owned());
    head.axon.signature = Some(signature_text(&key.sign(signed.as_bytes())));
}

/// Whether the axon's signature on a refusal holds. It says who refused; it is bound to no request.
#[must_use]
pub fn verify_answer(head: &Head, axon: &Hotkey, caller: &AccountId) -> bool {
    let end = &head.axon;
    let (Some(nonce), Some(uuid), Some(asked), Some(signature)) =
        (end.nonce, &end.uuid, &end.hotkey, &end.signature)
    else {
        return false;
    };
    let signed = format!("{nonce}.{caller}.{asked}.{uuid}");
    parse_signature(signature)
        .is_some_and(|bytes| verify(Scheme::Sr25519, &axon.0, signed.as_bytes(), &bytes))
}

/// A time as Python writes a float of seconds, to the millisecond.
#[must_use]
pub fn seconds_text(time: Duration) -> String {
    let millis = format!("{:03}", time.subsec_millis());
    let behind = millis.trim_end_matches('0');
    format!("{}.{}", time.as_secs(), if behind.is_empty() { "0" } else { behind })
}

fn signed_text(nonce: u64, caller: &str, axon: &str, uuid: &str, body_hash: &str) -> String {
    format!("{nonce}.{caller}.{axon}.{uuid}.{body_hash}")
}

/// A number of seconds that Python may write: digits, a point, an exponent. Beyond `u64` nanoseconds it is no time.
fn seconds(text: &str) -> Option<Duration> {
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'+' | b'-');
    if text.is_empty() || !text.bytes().all(plain) {
        return None;
    }
    let time = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    (time.as_secs() <= u64::MAX / NANOS_PER_SECOND).then_some(time)
}

fn known(name: &str) -> Option<&'static str> {
    let singles = [NAME, TIMEOUT, HEADER_SIZE, TOTAL_SIZE, BODY_HASH];
    let mut all = singles.into_iter().chain(AXON).chain(DENDRITE);
    all.find(|known| known.eq_ignore_ascii_case(name))
}

/// Visible ASCII and blanks, up to the limit: what may be repeated in a header of our own.
fn plain(value: &[u8]) -> Option<&str> {
    let fits = value.len() <= HEADER_VALUE_BYTES_MAX
        && value.iter().all(|byte| (b' '..=b'~').contains(byte));
    std::str::from_utf8(value).ok().filter(|_| fits)
}

fn texts(end: &TerminalInfo) -> [Option<String>; 10] {
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    [
        end.status_code.map(|code| code.to_string()),
        end.status_message.clone(),
        end.process_time.as_ref().and_then(Number::as_f64).map(hash::float),
        end.ip.clone(),
        end.port.map(|port| port.to_string()),
        number(end.version),
        number(end.nonce),
        end.uuid.clone(),
        end.hotkey.clone(),
        end.signature.clone(),
    ]
}

fn set_end(end: &mut TerminalInfo, field: usize, text: &str) -> Option<()> {
    let owned = || Some(text.to_owned());
    match field {
        0 => end.status_code = Some(u16::try_from(parse_nonce(text)?).ok()?),
        1 => end.status_message = owned(),
        2 => end.process_time = Some(Number::from_f64(text.parse().ok()?)?),
        3 => end.ip = owned(),
        4 => end.port = Some(u16::try_from(parse_nonce(text)?).ok()?),
        5 => end.version = Some(parse_nonce(text)?),
        6 => end.nonce = Some(parse_nonce(text)?),
        7 => end.uuid = owned(),
        8 => end.hotkey = owned(),
        _ => end.signature = owned(),
    }
    Some(())
}
