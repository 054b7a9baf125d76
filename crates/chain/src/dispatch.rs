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
const PASSING: [(&str, &str); 6] = [
    ("SettingWeightsTooFast", "wait until the subnet's weights rate limit has passed"),
    ("ServingRateLimitExceeded", "wait until the subnet's serving rate limit has passed"),
    ("TxRateLimitExceeded", "wait some blocks and try again"),
    ("StakingRateLimitExceeded", "wait for the next block and try again"),
    ("TooManyRegistrationsThisBlock", "wait for the next block and try again"),
    ("TooManyRegistrationsThisInterval", "wait for the next registration interval"),
];

/// Names of pallets' errors that stay until somebody does something.
const STAYING: [(&str, &str); 27] = [
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
        assert_eq!(error("SomethingNew").remedy(), None);
        assert_eq!(error("SomethingNew").kind(), Kind::Caller);
        assert_eq!(error("DuplicateUids").to_string(), "SubtensorModule.DuplicateUids");
    }
}
