//! Events as Subtensor numbers them, and the dispatch errors that calls end with.

#![expect(clippy::cast_possible_truncation, reason = "the codec's derive casts variant indices")]

use parity_scale_codec::{Compact, Encode};

use crate::items::Account;

/// Everything that this chain deposits into `System.Events`.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum Event {
    #[codec(index = 0)]
    System(SystemEvent),
    #[codec(index = 5)]
    Balances(BalancesEvent),
    #[codec(index = 6)]
    TransactionPayment(PaymentEvent),
    #[codec(index = 7)]
    Subtensor(SubtensorEvent),
    #[codec(index = 18)]
    Commitments(CommitmentsEvent),
    #[codec(index = 26)]
    Drand(DrandEvent),
    #[codec(index = 30)]
    MevShield(ShieldEvent),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum SystemEvent {
    #[codec(index = 0)]
    ExtrinsicSuccess(DispatchInfo),
    #[codec(index = 1)]
    ExtrinsicFailed(DispatchError, DispatchInfo),
    #[codec(index = 2)]
    CodeUpdated,
    #[codec(index = 3)]
    NewAccount(Account),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum BalancesEvent {
    #[codec(index = 0)]
    Endowed(Account, u64),
    #[codec(index = 2)]
    Transfer { from: Account, to: Account, amount: u64 },
    #[codec(index = 8)]
    Withdraw(Account, u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum PaymentEvent {
    #[codec(index = 0)]
    TransactionFeePaid { who: Account, actual_fee: u64, tip: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum SubtensorEvent {
    /// Coldkey, hotkey, coins, alpha, subnet, fee.
    #[codec(index = 2)]
    StakeAdded(Account, Account, u64, u64, u16, u64),
    /// Coldkey, hotkey, coins, alpha, subnet, fee.
    #[codec(index = 3)]
    StakeRemoved(Account, Account, u64, u64, u16, u64),
    #[codec(index = 5)]
    WeightsSet(u16, u16),
    #[codec(index = 7)]
    NeuronRegistered(u16, u16, Account),
    #[codec(index = 29)]
    AxonServed(u16, Account),
    #[codec(index = 30)]
    PrometheusServed(u16, Account),
    /// Hotkey, subnet and mechanism, hash.
    #[codec(index = 86)]
    WeightsCommitted(Account, u16, [u8; 32]),
    /// Hotkey, subnet and mechanism, hash.
    #[codec(index = 87)]
    WeightsRevealed(Account, u16, [u8; 32]),
    /// Hotkey, subnet and mechanism, hash of the commit, round.
    #[codec(index = 108)]
    TimelockedWeightsCommitted(Account, u16, [u8; 32], u64),
    /// Subnet and mechanism, hotkey.
    #[codec(index = 109)]
    TimelockedWeightsRevealed(u16, Account),
    #[codec(index = 111)]
    IncentiveAlphaEmittedToMiners { netuid: u16, emissions: Vec<u64> },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum CommitmentsEvent {
    #[codec(index = 0)]
    Commitment { netuid: u16, who: Account },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum DrandEvent {
    #[codec(index = 1)]
    NewPulse { rounds: Vec<u64> },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub(crate) enum ShieldEvent {
    #[codec(index = 0)]
    EncryptedSubmitted { id: [u8; 32], who: Account },
}

/// Weight, class and whether a fee was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) struct DispatchInfo {
    ref_time: Compact<u64>,
    proof_size: Compact<u64>,
    class: DispatchClass,
    pays_fee: Pays,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) enum DispatchClass {
    Normal,
    Mandatory = 2,
}

/// Whether a call costs its signer a fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) enum Pays {
    Yes,
    No,
}

/// The weight that every call is said to have; this chain does not meter computation.
pub(crate) const CALL_REF_TIME: u64 = 100_000_000;

impl DispatchInfo {
    /// A call of a user.
    pub(crate) const fn normal(pays_fee: Pays) -> Self {
        Self {
            ref_time: Compact(CALL_REF_TIME),
            proof_size: Compact(0),
            class: DispatchClass::Normal,
            pays_fee,
        }
    }

    /// An inherent.
    pub(crate) const fn mandatory() -> Self {
        Self {
            ref_time: Compact(CALL_REF_TIME),
            proof_size: Compact(0),
            class: DispatchClass::Mandatory,
            pays_fee: Pays::Yes,
        }
    }
}

/// When in a block an event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) enum Phase {
    ApplyExtrinsic(u32),
    #[codec(index = 2)]
    Initialization,
}

/// Why a call failed, in Substrate's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) enum DispatchError {
    #[codec(index = 3)]
    Module { index: u8, error: [u8; 4] },
    #[codec(index = 7)]
    Token(TokenError),
    #[codec(index = 8)]
    Arithmetic(ArithmeticError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) enum TokenError {
    #[codec(index = 0)]
    FundsUnavailable,
    #[codec(index = 2)]
    BelowMinimum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode)]
pub(crate) enum ArithmeticError {
    #[codec(index = 1)]
    Overflow,
}

const fn module(index: u8, error: u8) -> DispatchError {
    DispatchError::Module { index, error: [error, 0, 0, 0] }
}

/// A call that this chain lists and does not carry out.
pub(crate) const CALL_FILTERED: DispatchError = module(0, 5);
/// `Balances.ExistentialDeposit`.
pub(crate) const BALANCES_EXISTENTIAL_DEPOSIT: DispatchError = module(5, 3);
/// `Sudo.RequireSudo`.
pub(crate) const REQUIRE_SUDO: DispatchError = module(12, 0);
/// `Commitments.TooManyFieldsInCommitmentInfo`.
pub(crate) const TOO_MANY_FIELDS: DispatchError = module(18, 0);
/// `Commitments.AccountNotAllowedCommit`.
pub(crate) const ACCOUNT_NOT_ALLOWED_COMMIT: DispatchError = module(18, 1);
/// `Commitments.SpaceLimitExceeded`.
pub(crate) const SPACE_LIMIT_EXCEEDED: DispatchError = module(18, 2);

macro_rules! subtensor_errors {
    ($($name:ident = $index:literal $text:literal;)*) => {
        $(pub(crate) const $name: DispatchError = module(7, $index);)*
        /// Every error above, for the test that holds them against the interface table.
        #[cfg(test)]
        pub(crate) const SUBTENSOR_ERRORS: &[(u8, &str)] = &[$(($index, $text)),*];
    };
}

subtensor_errors! {
    INVALID_IP_TYPE = 1 "InvalidIpType";
    INVALID_IP_ADDRESS = 2 "InvalidIpAddress";
    INVALID_PORT = 3 "InvalidPort";
    NOT_REGISTERED_IN_SUBNET = 4 "HotKeyNotRegisteredInSubNet";
    HOTKEY_ACCOUNT_NOT_EXISTS = 5 "HotKeyAccountNotExists";
    NOT_REGISTERED_IN_NETWORK = 6 "HotKeyNotRegisteredInNetwork";
    NON_ASSOCIATED_COLDKEY = 7 "NonAssociatedColdKey";
    NOT_ENOUGH_STAKE_TO_WITHDRAW = 9 "NotEnoughStakeToWithdraw";
    NOT_ENOUGH_STAKE_TO_SET_WEIGHTS = 10 "NotEnoughStakeToSetWeights";
    NOT_ENOUGH_BALANCE_TO_STAKE = 12 "NotEnoughBalanceToStake";
    NEURON_NO_VALIDATOR_PERMIT = 15 "NeuronNoValidatorPermit";
    WEIGHT_VEC_NOT_EQUAL_SIZE = 16 "WeightVecNotEqualSize";
    DUPLICATE_UIDS = 17 "DuplicateUids";
    UID_VEC_CONTAIN_INVALID_ONE = 18 "UidVecContainInvalidOne";
    WEIGHT_VEC_LENGTH_IS_LOW = 19 "WeightVecLengthIsLow";
    HOTKEY_ALREADY_REGISTERED = 21 "HotKeyAlreadyRegisteredInSubNet";
    MAX_WEIGHT_EXCEEDED = 27 "MaxWeightExceeded";
    SETTING_WEIGHTS_TOO_FAST = 29 "SettingWeightsTooFast";
    INCORRECT_WEIGHT_VERSION_KEY = 30 "IncorrectWeightVersionKey";
    SERVING_RATE_LIMIT_EXCEEDED = 31 "ServingRateLimitExceeded";
    UIDS_LENGTH_EXCEED_UIDS = 32 "UidsLengthExceedUidsInSubNet";
    REGISTRATION_DISABLED = 37 "SubNetRegistrationDisabled";
    REGISTRATION_NOT_PERMITTED_ON_ROOT = 42 "RegistrationNotPermittedOnRootSubnet";
    CAN_NOT_SET_ROOT_WEIGHTS = 47 "CanNotSetRootNetworkWeights";
    NO_NEURON_ID_AVAILABLE = 48 "NoNeuronIdAvailable";
    NO_WEIGHTS_COMMIT_FOUND = 51 "NoWeightsCommitFound";
    INVALID_REVEAL = 52 "InvalidRevealCommitHashNotMatch";
    COMMIT_REVEAL_ENABLED = 53 "CommitRevealEnabled";
    COMMIT_REVEAL_DISABLED = 54 "CommitRevealDisabled";
    MECHANISM_DOES_NOT_EXIST = 74 "MechanismDoesNotExist";
    SUBNET_NOT_EXISTS = 76 "SubnetNotExists";
    TOO_MANY_UNREVEALED_COMMITS = 77 "TooManyUnrevealedCommits";
    EXPIRED_WEIGHT_COMMIT = 78 "ExpiredWeightCommit";
    REVEAL_TOO_EARLY = 79 "RevealTooEarly";
    COMMITTING_WEIGHTS_TOO_FAST = 81 "CommittingWeightsTooFast";
    AMOUNT_TOO_LOW = 82 "AmountTooLow";
    SLIPPAGE_TOO_HIGH = 84 "SlippageTooHigh";
    SUBTOKEN_DISABLED = 94 "SubtokenDisabled";
    INCORRECT_COMMIT_REVEAL_VERSION = 111 "IncorrectCommitRevealVersion";
    INVALID_REVEAL_ROUND = 112 "InvalidRevealRound";
    REGISTRATION_PRICE_LIMIT = 136 "RegistrationPriceLimitExceeded";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Schema, Shape};

    /// A shifted error number makes every client print another reason than the real one.
    #[test]
    fn error_numbers_are_those_of_the_table() {
        let schema = Schema::load().unwrap();
        let Shape::Enum(variants) = &schema.types["PalletSubtensorError"].shape else { panic!() };
        for (index, name) in SUBTENSOR_ERRORS {
            assert!(variants.iter().any(|v| v.index == *index && v.name == *name), "{name}");
        }
        for (table, index, name) in [
            ("FrameSystemError", 5, "CallFiltered"),
            ("PalletBalancesError", 3, "ExistentialDeposit"),
            ("PalletSudoError", 0, "RequireSudo"),
            ("PalletCommitmentsError", 0, "TooManyFieldsInCommitmentInfo"),
            ("PalletCommitmentsError", 1, "AccountNotAllowedCommit"),
            ("PalletCommitmentsError", 2, "SpaceLimitExceeded"),
        ] {
            let Shape::Enum(variants) = &schema.types[table].shape else { panic!() };
            assert!(variants.iter().any(|v| v.index == index && v.name == name), "{table} {name}");
        }
    }
}
