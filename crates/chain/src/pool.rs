//! Why a node's transaction pool refuses an extrinsic, in names and with what to do about it.

use std::fmt;

use nicompute_daemon::Kind;

/// JSON-RPC codes of the pool.
const CODE_FORMAT: i32 = 1001;
const CODE_INVALID: i32 = 1010;
const CODE_UNKNOWN_VALIDITY: i32 = 1011;
const CODE_BANNED: i32 = 1012;
const CODE_ALREADY_IMPORTED: i32 = 1013;
const CODE_TOO_LOW_PRIORITY: i32 = 1014;
const CODE_CYCLE: i32 = 1015;
const CODE_FULL: i32 = 1016;
/// The longest text of a node that is repeated in an error.
const TEXT_LEN_MAX: usize = 200;

/// The pool's answer to an extrinsic that it did not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolRejection {
    /// The runtime refuses it for a reason of its own.
    #[error("the chain refuses it: {0}")]
    Refused(Refusal),
    /// The signer cannot pay the fee.
    #[error("the signer cannot pay the fee")]
    Payment,
    /// Its nonce was used already.
    #[error("its nonce was used by another extrinsic")]
    Stale,
    /// Its nonce lies ahead.
    #[error("its nonce is ahead of the chain")]
    Future,
    /// The signature does not fit: usually another runtime version than the one it was signed for.
    #[error("the signature does not fit the node's runtime")]
    BadProof,
    /// The block in which it was born is too old.
    #[error("it was signed too long ago")]
    Ancient,
    /// The node has banned this very extrinsic for some minutes.
    #[error("the node has banned this extrinsic for now")]
    Banned,
    /// It is in the pool already.
    #[error("it is in the pool already")]
    AlreadyImported,
    /// Another extrinsic with this nonce waits in the pool.
    #[error("another extrinsic with this nonce is waiting")]
    Priority,
    /// The pool is full.
    #[error("the pool is full")]
    Full,
    /// A reason that this client has no name for.
    #[error("code {code}: {text}")]
    Other {
        /// The JSON-RPC code.
        code: i32,
        /// The node's words.
        text: String,
    },
}

/// Subtensor's own reasons (`CustomTransactionError`), by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say what the table below says in words")]
pub enum Refusal {
    StakeTooLow,
    BalanceTooLow,
    SubnetNotExists,
    HotkeyAccountNotExists,
    NotEnoughStakeToWithdraw,
    RateLimitExceeded,
    InsufficientLiquidity,
    SlippageTooHigh,
    TransferDisallowed,
    HotkeyNotRegistered,
    InvalidIpAddress,
    ServingRateLimitExceeded,
    InvalidPort,
    ZeroMaxAmount,
    InvalidRevealRound,
    CommitNotFound,
    CommitNotInRevealRange,
    LengthsUnequal,
    UidNotFound,
    EvmKeyAssociateRateLimitExceeded,
    ColdkeySwapDisputed,
    InvalidRealAccount,
    BadRequest,
    Unnamed(u8),
}

impl Refusal {
    /// The refusal of a number.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::StakeTooLow,
            2 => Self::BalanceTooLow,
            3 => Self::SubnetNotExists,
            4 => Self::HotkeyAccountNotExists,
            5 => Self::NotEnoughStakeToWithdraw,
            6 => Self::RateLimitExceeded,
            7 => Self::InsufficientLiquidity,
            8 => Self::SlippageTooHigh,
            9 => Self::TransferDisallowed,
            10 => Self::HotkeyNotRegistered,
            11 => Self::InvalidIpAddress,
            12 => Self::ServingRateLimitExceeded,
            13 => Self::InvalidPort,
            14 => Self::ZeroMaxAmount,
            15 => Self::InvalidRevealRound,
            16 => Self::CommitNotFound,
            17 => Self::CommitNotInRevealRange,
            18 => Self::LengthsUnequal,
            19 => Self::UidNotFound,
            20 => Self::EvmKeyAssociateRateLimitExceeded,
            21 => Self::ColdkeySwapDisputed,
            22 => Self::InvalidRealAccount,
            255 => Self::BadRequest,
            other => Self::Unnamed(other),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::StakeTooLow => "the stake is too low",
            Self::BalanceTooLow => "the balance is too low",
            Self::SubnetNotExists => "the subnet does not exist",
            Self::HotkeyAccountNotExists => "the hotkey has no account",
            Self::NotEnoughStakeToWithdraw => "there is less stake than that",
            Self::RateLimitExceeded => "too soon after the last time",
            Self::InsufficientLiquidity => "the pool has too little liquidity",
            Self::SlippageTooHigh => "the price would move too far",
            Self::TransferDisallowed => "the subnet allows no transfer of stake",
            Self::HotkeyNotRegistered => "the hotkey is not registered on the subnet",
            Self::InvalidIpAddress => "the chain does not take this address",
            Self::ServingRateLimitExceeded => "the address was announced a moment ago",
            Self::InvalidPort => "port 0 cannot be announced",
            Self::ZeroMaxAmount => "the largest amount would be zero",
            Self::InvalidRevealRound => "the reveal round is in the past",
            Self::CommitNotFound => "there is no such commitment",
            Self::CommitNotInRevealRange => "the commitment cannot be revealed now",
            Self::LengthsUnequal => "lists of different lengths",
            Self::UidNotFound => "a uid that does not exist",
            Self::EvmKeyAssociateRateLimitExceeded => "an EVM key was associated a moment ago",
            Self::ColdkeySwapDisputed => "the coldkey's swap is disputed",
            Self::InvalidRealAccount => "the account acted for is invalid",
            Self::BadRequest => "a malformed request",
            Self::Unnamed(_) => "a reason without a name",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::StakeTooLow => "add stake to the hotkey, or use one with a validator permit",
            Self::BalanceTooLow => "send coins to the coldkey",
            Self::SubnetNotExists => "check the netuid and the network",
            Self::HotkeyAccountNotExists | Self::HotkeyNotRegistered => {
                "register the hotkey on this subnet first"
            }
            Self::RateLimitExceeded | Self::ServingRateLimitExceeded => {
                "wait some blocks and try again"
            }
            Self::InvalidIpAddress => {
                "announce an address that others can reach; 127.0.0.1 is refused, \
                 on one machine use 127.0.0.2 or above"
            }
            Self::InvalidPort => "announce the port on which the node listens",
            Self::UidNotFound => "read the metagraph again",
            Self::NotEnoughStakeToWithdraw => "use a smaller amount",
            Self::InsufficientLiquidity => "use a smaller amount: the subnet's pool is small",
            Self::SlippageTooHigh => "use a smaller amount, or allow a worse price",
            Self::TransferDisallowed => "the subnet's owner has switched transfers of stake off",
            Self::ZeroMaxAmount => "use a larger limit",
            Self::InvalidRevealRound => {
                "commit again, for a round of the beacon that is still to come"
            }
            Self::CommitNotFound => "commit again: there is nothing to reveal",
            Self::CommitNotInRevealRange => "reveal in the epoch that the subnet's period names",
            Self::LengthsUnequal => "give lists of one length",
            Self::EvmKeyAssociateRateLimitExceeded => "wait some blocks and try again",
            Self::ColdkeySwapDisputed => "settle the dispute about the coldkey first",
            Self::InvalidRealAccount => "act for an account that exists",
            Self::BadRequest => "upgrade this program, or check the network",
            Self::Unnamed(_) => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed(code) => write!(f, "{} ({code})", self.words()),
            other => f.write_str(other.words()),
        }
    }
}

impl PoolRejection {
    /// The rejection in a JSON-RPC error, if it is one of the pool.
    #[must_use]
    pub fn parse(code: i32, message: &str, data: Option<&str>) -> Option<Self> {
        let data = data.unwrap_or_default();
        Some(match code {
            CODE_INVALID => Self::invalid(message, data),
            CODE_BANNED => Self::Banned,
            CODE_ALREADY_IMPORTED => Self::AlreadyImported,
            CODE_TOO_LOW_PRIORITY => Self::Priority,
            CODE_FULL => Self::Full,
            CODE_FORMAT | CODE_UNKNOWN_VALIDITY | CODE_CYCLE => Self::other(code, message, data),
            _ => return None,
        })
    }

    fn invalid(message: &str, data: &str) -> Self {
        let text = format!("{message} {data}").to_lowercase();
        if let Some(code) = custom_code(&text) {
            return Self::Refused(Refusal::from_code(code));
        }
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["inability to pay", "payment"]) {
            Self::Payment
        } else if says(&["outdated", "stale"]) {
            Self::Stale
        } else if says(&["in the future", "future"]) {
            Self::Future
        } else if says(&["bad signature", "badproof", "bad proof"]) {
            Self::BadProof
        } else if says(&["ancient"]) {
            Self::Ancient
        } else {
            Self::other(CODE_INVALID, message, data)
        }
    }

    pub(crate) fn other(code: i32, message: &str, data: &str) -> Self {
        let text = format!("{message} {data}");
        Self::Other { code, text: text.trim().chars().take(TEXT_LEN_MAX).collect() }
    }

    /// Who can do something about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Refused(Refusal::RateLimitExceeded | Refusal::ServingRateLimitExceeded)
            | Self::Stale
            | Self::Future
            | Self::Ancient
            | Self::Banned
            | Self::AlreadyImported
            | Self::Priority
            | Self::Full
            | Self::BadProof => Kind::Elsewhere,
            Self::Refused(_) | Self::Payment | Self::Other { .. } => Kind::Caller,
        }
    }

    /// Whether signing it anew, with the nonce and the runtime as they are then, may help at once.
    pub(crate) const fn cured_by_signing_anew(&self) -> bool {
        matches!(
            self,
            Self::Stale
                | Self::Future
                | Self::Ancient
                | Self::Banned
                | Self::Priority
                | Self::BadProof
        )
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => refusal.remedy(),
            Self::Payment => Some("send coins to the signing account"),
            Self::Priority | Self::AlreadyImported | Self::Full => {
                Some("wait for the next block and try again")
            }
            Self::Banned => Some("wait some minutes, or use another node"),
            _ => None,
        }
    }
}

/// The number behind the word `custom`, in whichever form the node wraps it.
fn custom_code(text: &str) -> Option<u8> {
    let (_, after) = text.split_once("custom")?;
    let digits = after.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator who reads "custom 11" does not know that 127.0.0.1 is the mistake.
    #[test]
    fn custom_codes_have_names_and_remedies() {
        for data in ["\"Custom error: 11\"", "{\"invalid\":{\"custom\":11}}"] {
            let rejection = PoolRejection::parse(1010, "Invalid Transaction", Some(data)).unwrap();
            assert_eq!(rejection, PoolRejection::Refused(Refusal::InvalidIpAddress));
            assert!(rejection.remedy().unwrap().contains("127.0.0.2"));
            assert_eq!(rejection.kind(), Kind::Caller);
        }
        let limited = PoolRejection::parse(1010, "", Some("Custom error: 12")).unwrap();
        assert_eq!(limited.kind(), Kind::Elsewhere);
        for code in (1..=22).chain([255]) {
            assert_ne!(Refusal::from_code(code), Refusal::Unnamed(code));
        }
        assert_eq!(Refusal::from_code(99).to_string(), "a reason without a name (99)");
    }

    /// A stale nonce taken for a refusal would end a daemon's work for a race that passes.
    #[test]
    fn races_are_told_from_refusals() {
        let parse =
            |code, data: &str| PoolRejection::parse(code, "Invalid Transaction", Some(data));
        for (code, data, expected) in [
            (1010, "Transaction is outdated", PoolRejection::Stale),
            (1010, "{\"invalid\":\"stale\"}", PoolRejection::Stale),
            (1010, "Transaction will be valid in the future", PoolRejection::Future),
            (1010, "Transaction has a bad signature", PoolRejection::BadProof),
            (1010, "Transaction has an ancient birth block", PoolRejection::Ancient),
            (1012, "", PoolRejection::Banned),
            (1014, "", PoolRejection::Priority),
        ] {
            let found = parse(code, data).unwrap();
            assert_eq!(found, expected);
            assert!(found.cured_by_signing_anew());
        }
        let payment = parse(1010, "Inability to pay some fees (e.g. account balance too low)");
        assert_eq!(payment, Some(PoolRejection::Payment));
        assert_eq!(parse(1013, ""), Some(PoolRejection::AlreadyImported));
        assert_eq!(parse(-32601, "no such method"), None);
        assert_eq!(parse(-32603, "upstream timed out"), None);
        assert!(matches!(parse(1001, ""), Some(PoolRejection::Other { code: 1001, .. })));
        let long = parse(1011, &"x".repeat(10_000)).unwrap();
        assert!(long.to_string().len() < 300);
    }
}
