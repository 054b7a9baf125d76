//! The public error codes and the body of an error answer (RFC 9457).
//!
//! A code never changes its meaning and is never used again after it has gone. Each has a page `docs/errors/<code>.md`.
//! What is said here goes to strangers: the inner cause of an error stays in the log, under the request's id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";
const TYPE_PREFIX: &str = "urn:nicompute:error:";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $status:literal, $title:literal;)+) => {
        /// A public error code.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code as it is written everywhere.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("NIC-", $number),)+
                }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)+
                }
            }

            /// One phrase that is the same for every error of this code.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)+
                }
            }
        }
    };
}

codes! {
    /// A header of btauth/1 is missing or malformed.
    NotSigned = "0001", 401, "the request is not signed";
    /// Bound to another hotkey.
    WrongReceiver = "0002", 401, "the request was signed for another receiver";
    /// Too old, or from the future.
    NotFresh = "0003", 401, "the request is not fresh";
    /// The signature does not fit.
    BadSignature = "0004", 401, "the signature does not hold";
    /// The same signed request once more.
    Replayed = "0005", 401, "the request was already accepted";
    /// Known, and not allowed.
    NotPermitted = "0006", 403, "this hotkey may not do that";
    /// Missing, unknown or revoked.
    ApiKeyRefused = "0007", 401, "the API key is not accepted";
    /// A field is wrong.
    BadRequest = "0010", 400, "the request cannot be read";
    /// Over the limit.
    BodyTooLarge = "0011", 413, "the body is too large";
    /// No route.
    NoSuchPath = "0012", 404, "there is no such path";
    /// Wrong verb.
    MethodNotAllowed = "0013", 405, "this path does not take that method";
    /// Rate limit or no room in the replay memory.
    TooManyRequests = "0014", 429, "too many requests";
    /// Over the limit.
    HeadersTooLarge = "0015", 431, "the headers are too large";
    /// Known to the protocol, not done by this node.
    NotSupported = "0016", 501, "this node does not do that";
    /// Unknown, withdrawn or another provider's.
    NoSuchOffer = "0020", 404, "there is no such offer";
    /// Unknown or not the caller's.
    NoSuchLease = "0021", 404, "there is no such lease";
    /// The same id with other contents.
    LeaseConflict = "0022", 409, "this lease id is taken by other terms";
    /// Cores, memory, disk or GPUs are taken.
    NoCapacity = "0023", 507, "the machine has no room for this lease";
    /// For example pausing an ended lease.
    WrongState = "0024", 409, "the lease is not in a state for that";
    /// Not on the offer's list.
    NoSuchImage = "0025", 422, "the image is not offered";
    /// No OpenSSH public key.
    BadSshKey = "0026", 422, "the SSH key cannot be used";
    /// Beyond the offer's own size.
    OverTheOffer = "0027", 422, "the lease asks for more than the offer has";
    /// Another lease holds it.
    Occupied = "0028", 409, "the offer is held by another lease";
    /// The container runtime refused.
    RuntimeFailed = "0030", 500, "the machine could not start the container";
    /// More work at once than its limit.
    Overloaded = "0031", 503, "the node is busy";
    /// No new work is taken.
    ShuttingDown = "0032", 503, "the node is shutting down";
    /// No fresh view of the subnet.
    ChainUnavailable = "0033", 503, "the chain cannot be reached";
    /// No connection to its node.
    ProviderUnreachable = "0034", 502, "the provider cannot be reached";
    /// Unsigned, or signed by somebody else.
    ProviderNotBelieved = "0035", 502, "the provider's answer is not believed";
    /// The deadline passed.
    Deadline = "0036", 504, "it took too long";
    /// A defect of this program.
    Internal = "0099", 500, "something broke here";
}

/// The text is no code that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a known error code")]
pub struct UnknownCode;

/// The body of an error answer.
///
/// A reader of an older version may meet a code that it does not know, so the code is a text here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// A URN that ends in the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's own phrase.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time: the field, its problem.
    pub detail: String,
    /// Such as `NIC-0021`; see [`Problem::known`].
    pub code: String,
    /// What the caller can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// By which the operator finds the cause in the log.
    pub request_id: String,
}

// === impl Code ===

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

// === impl Problem ===

impl Problem {
    /// The body of an error answer.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>, request_id: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code: code.to_string(),
            hint: None,
            request_id: request_id.into(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The code, where this version knows it.
    #[must_use]
    pub fn known(&self) -> Option<Code> {
        self.code.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use expect_test::expect;

    use super::*;

    /// A code without a page leaves the user alone with a number.
    #[test]
    fn every_code_has_its_page() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        for code in Code::ALL {
            let page = fs::read_to_string(dir.join(format!("{code}.md"))).unwrap();
            let head = format!("# {code}: {}\n\nHTTP status {}.\n", code.title(), code.status());
            assert!(page.starts_with(&head), "the head of the page of {code}");
            for part in ["## Cause\n", "## What the user does\n", "## What the operator does\n"] {
                let after = page.split_once(part).unwrap().1;
                assert!(after.lines().next().unwrap().len() > 10);
            }
        }
        let pages: BTreeSet<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("NIC-"))
            .collect();
        let known: BTreeSet<_> = Code::ALL.iter().map(|code| format!("{code}.md")).collect();
        assert_eq!(pages, known, "pages without a code");
    }

    /// Two meanings under one number, or a status that is no error, would mislead every client.
    #[test]
    fn codes_are_distinct_and_parse() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!((400..=599).contains(&code.status()));
        }
        assert_eq!("NIC-9999".parse::<Code>(), Err(UnknownCode));
    }

    /// The shape of an error is a public contract.
    #[test]
    fn the_body_of_an_error_is_stable() {
        let problem =
            Problem::new(Code::NoSuchLease, "no lease 0", "r-1").with_hint("list the leases");
        let text = serde_json::to_string_pretty(&problem).unwrap();
        expect![[r#"
            {
              "type": "urn:nicompute:error:NIC-0021",
              "title": "there is no such lease",
              "status": 404,
              "detail": "no lease 0",
              "code": "NIC-0021",
              "hint": "list the leases",
              "request_id": "r-1"
            }"#]]
        .assert_eq(&text);
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
        assert_eq!(problem.known(), Some(Code::NoSuchLease));
    }

    /// A newer peer's code must still be shown to the user by an older program.
    #[test]
    fn an_unknown_code_is_still_an_error() {
        let text = r#"{"type":"urn:x","title":"t","status":418,"detail":"d","code":"NIC-8000","request_id":"r"}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!((problem.known(), problem.code.as_str()), (None, "NIC-8000"));
    }
}
