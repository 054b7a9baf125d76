//! Why the chain undid an extrinsic that it had taken, in names and with what to do about it.

use nicompute_daemon::Kind;

/// An error of a pallet, by its name in the node's metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pallet}.{name}")]
pub struct ModuleError {
    /// The pallet, or `Runtime` for an error of no pallet.
    pub pallet: String,
    /// The error's name, such as `SettingWeightsTooFast`.
    pub name: String,
}

/// Names of pallets' errors that pass by themselves, with what to do meanwhile.
const PASSING: [(&str, &str); 13] = [
    ("SettingWeightsTooFast", "wait until the subnet's weights rate limit has passed"),
    ("ServingRateLimitExceeded", "wait until the subnet's serving rate limit has passed"),
    ("TxRateLimitExceeded", "wait some blocks and try again"),
    ("StakingRateLimitExceeded", "wait for the next block and try again"),
    ("TooManyRegistrationsThisBlock", "wait for the next block and try again"),
    ("TooManyRegistrationsThisInterval", "wait for the next registration interval"),
    ("NetworkTxRateLimitExceeded", "wait some blocks and try again"),
    ("CommittingWeightsTooFast", "wait until the subnet's weights rate limit has passed"),
    ("RevealTooEarly", "wait for the epoch in which the commit may be revealed"),
    ("TooManyUnrevealedCommits", "wait until the commits of this epoch are revealed"),
    ("DisabledTemporarily", "wait: the chain has switched this call off for now"),
    ("AdminActionProhibitedDuringWeightsWindow", "wait until the epoch has begun"),
    ("NoNeuronIdAvailable", "wait until a neuron's immunity ends: every slot is taken"),
];

/// Names of pallets' errors that stay until somebody does something.
const STAYING: [(&str, &str); 55] = [
    ("HotKeyNotRegisteredInSubNet", "register the hotkey on this subnet first"),
    ("HotKeyNotRegisteredInNetwork", "register the hotkey on this subnet first"),
    ("HotKeyAccountNotExists", "register the hotkey on some subnet first"),
    ("HotKeyAlreadyRegisteredInSubNet", "nothing to do: the hotkey has a neuron on this subnet"),
    ("NonAssociatedColdKey", "use the coldkey that owns this hotkey"),
    ("NotEnoughBalanceToStake", "send coins to the coldkey: it must hold the registration's price"),
    ("InsufficientTaoBalance", "send coins to the coldkey"),
    ("NotEnoughStakeToSetWeights", "add stake to the hotkey"),
    ("NeuronNoValidatorPermit", "add stake until the hotkey is among the subnet's validators"),
    ("InvalidIpAddress", "announce a reachable address; on one machine 127.0.0.2 or above"),
    ("InvalidIpType", "announce an IPv4 or IPv6 address"),
    ("InvalidPort", "announce the port on which the node listens"),
    ("SubnetNotExists", "check the netuid and the network"),
    ("MechanismDoesNotExist", "check the netuid and the network"),
    ("SubNetRegistrationDisabled", "ask the subnet's owner to open registration"),
    ("RegistrationNotPermittedOnRootSubnet", "register on a subnet, not on the root"),
    ("IncorrectWeightVersionKey", "upgrade: the subnet asks for a newer validator"),
    ("WeightVecLengthIsLow", "give weights to more neurons"),
    ("WeightVecNotEqualSize", "give as many weights as uids"),
    ("MaxWeightExceeded", "spread the weights: one is above the subnet's limit"),
    ("UidVecContainInvalidOne", "read the metagraph again"),
    ("UidsLengthExceedUidsInSubNet", "read the metagraph again"),
    ("DuplicateUids", "name each uid once"),
    ("CommitRevealEnabled", "this subnet takes weights by commit and reveal only"),
    ("CanNotSetRootNetworkWeights", "set weights on a subnet, not on the root"),
    ("CommitRevealDisabled", "this subnet takes plain weights"),
    ("NoWeightsCommitFound", "commit again: there is nothing to reveal"),
    ("ExpiredWeightCommit", "commit again: the time to reveal has passed"),
    ("InvalidRevealCommitHashNotMatch", "reveal exactly what was committed, salt included"),
    ("InvalidRevealRound", "commit again, for a round of the beacon that is still to come"),
    ("IncorrectCommitRevealVersion", "upgrade: the chain takes another version of commits"),
    ("InputLengthsUnequal", "give lists of one length"),
    ("RegistrationPriceLimitExceeded", "raise the limit, or wait until the price has fallen"),
    ("SubtokenDisabled", "wait until the subnet's owner has started it"),
    ("TransferDisallowed", "the subnet's owner has switched transfers of stake off"),
    ("SlippageTooHigh", "use a smaller amount, or allow a worse price"),
    ("InsufficientLiquidity", "use a smaller amount: the subnet's pool is small"),
    ("InsufficientAlphaBalance", "use a smaller amount: there is less stake than that"),
    ("NotEnoughStake", "add stake to the hotkey"),
    ("NotEnoughStakeToWithdraw", "use a smaller amount: there is less stake than that"),
    ("StakeUnavailable", "use a smaller amount: part of the stake is locked"),
    ("RootStakeLocked", "wait until the lock on the root's stake ends"),
    ("UnlockAmountTooHigh", "use a smaller amount: part of the stake is locked"),
    ("BalanceWithdrawalError", "send coins to the coldkey"),
    ("ZeroBalanceAfterWithdrawn", "use a smaller amount: the account would end"),
    ("ColdkeySwapAnnounced", "the coldkey is being swapped: use the new one"),
    ("ColdkeySwapDisputed", "the coldkey's swap is disputed: settle that first"),
    ("NetworkDissolveAlreadyQueued", "use another subnet: this one is being dissolved"),
    ("WaitingForDissolvedSubnetCleanup", "wait: a dissolved subnet is being cleaned up"),
    ("KeepAlive", "send less: the account must keep its existential deposit"),
    ("ExistentialDeposit", "send more: an account begins with the existential deposit"),
    ("SpaceLimitExceeded", "publish less, or wait for the next epoch"),
    ("AccountNotAllowedCommit", "register the hotkey on this subnet first"),
    ("AmountTooLow", "use a larger amount"),
    ("FundsUnavailable", "send coins to the signing account"),
];

impl ModuleError {
    /// Who can do something about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if find(&PASSING, &self.name).is_some() { Kind::Elsewhere } else { Kind::Caller }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        find(&PASSING, &self.name).or_else(|| find(&STAYING, &self.name))
    }
}

fn find(table: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == name).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rate limit taken for a refusal would stop a validator; a refusal retried would hammer the chain.
    #[test]
    fn passing_errors_are_told_from_staying_ones() {
        let error =
            |name: &str| ModuleError { pallet: "SubtensorModule".into(), name: name.into() };
        assert_eq!(error("SettingWeightsTooFast").kind(), Kind::Elsewhere);
        assert_eq!(error("NeuronNoValidatorPermit").kind(), Kind::Caller);
        assert!(error("NeuronNoValidatorPermit").remedy().is_some());
        for passing in ["TooManyUnrevealedCommits", "RevealTooEarly", "CommittingWeightsTooFast"] {
            assert_eq!(error(passing).kind(), Kind::Elsewhere);
        }
        for staying in [
            "ExpiredWeightCommit",
            "NoWeightsCommitFound",
            "InvalidRevealCommitHashNotMatch",
            "IncorrectCommitRevealVersion",
            "InvalidRevealRound",
        ] {
            assert_eq!(error(staying).kind(), Kind::Caller);
            assert!(error(staying).remedy().is_some(), "{staying}");
        }
        assert_eq!(error("SomethingNew").remedy(), None);
        assert_eq!(error("SomethingNew").kind(), Kind::Caller);
        assert_eq!(error("DuplicateUids").to_string(), "SubtensorModule.DuplicateUids");
    }
}
