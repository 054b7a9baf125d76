//! What a client can say to the chain. Each call returns when it stands in a block and the chain did not undo it.

use nicompute_keys::Keypair;
use nicompute_market::{AccountId, Hotkey, Netuid, Rao, Uid};
use scale_value::{Composite, Value};

use crate::chain::Chain;
use crate::error::SubmitError;
use crate::neurons::Endpoint;
use crate::runtime::{SUBTENSOR, account_value, number_value};
use crate::submit::{Call, Included};

/// The protocol number that axons announce; the SDK's constant.
const AXON_PROTOCOL: u8 = 4;
/// The mechanism that a subnet has when it has one.
const FIRST_MECHANISM: u8 = 0;

impl Chain {
    /// Registers a hotkey on a subnet, paid by its coldkey at the price of the moment.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it.
    pub async fn burned_register(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
        coldkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        let fields = [("netuid", number_value(netuid.0)), ("hotkey", account_value(&hotkey.0))];
        self.submit(&Call::new(SUBTENSOR, "burned_register", fields), coldkey).await
    }

    /// Announces where the neuron's API is.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it.
    pub async fn serve_axon(
        &self,
        netuid: Netuid,
        endpoint: Endpoint,
        hotkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        let (ip, ip_type) = endpoint.ip_number();
        let fields = [
            ("netuid", number_value(netuid.0)),
            ("version", number_value(endpoint.version)),
            ("ip", number_value(ip)),
            ("port", number_value(endpoint.port)),
            ("ip_type", number_value(ip_type)),
            ("protocol", number_value(AXON_PROTOCOL)),
            ("placeholder1", number_value(0_u8)),
            ("placeholder2", number_value(0_u8)),
        ];
        self.submit(&Call::new(SUBTENSOR, "serve_axon", fields), hotkey).await
    }

    /// Announces where the neuron's metrics are.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it.
    pub async fn serve_prometheus(
        &self,
        netuid: Netuid,
        endpoint: Endpoint,
        hotkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        let (ip, ip_type) = endpoint.ip_number();
        let fields = [
            ("netuid", number_value(netuid.0)),
            ("version", number_value(endpoint.version)),
            ("ip", number_value(ip)),
            ("port", number_value(endpoint.port)),
            ("ip_type", number_value(ip_type)),
        ];
        self.submit(&Call::new(SUBTENSOR, "serve_prometheus", fields), hotkey).await
    }

    /// Sets a validator's weights as they are given; bringing them into shape is the market's work.
    ///
    /// # Errors
    /// [`SubmitError::CommitRevealRequired`] before anything is sent where the subnet does not take plain weights, and
    /// otherwise when the chain cannot be reached, does not take it or undoes it.
    pub async fn set_weights(
        &self,
        netuid: Netuid,
        weights: &[(Uid, u16)],
        version_key: u64,
        hotkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        let at = self.at().await?;
        let enabled = self.subnet_values(&at, netuid, &["CommitRevealWeightsEnabled"]).await?;
        if enabled.first().is_some_and(|enabled| enabled.bool().unwrap_or(false)) {
            return Err(SubmitError::CommitRevealRequired(netuid));
        }
        let list =
            |numbers: Vec<u16>| Value::unnamed_composite(numbers.into_iter().map(number_value));
        let mut fields = vec![
            ("netuid", number_value(netuid.0)),
            ("dests", list(weights.iter().map(|(uid, _)| uid.0).collect())),
            ("weights", list(weights.iter().map(|(_, weight)| *weight).collect())),
            ("version_key", number_value(version_key)),
        ];
        let mut name = "set_weights";
        if at.runtime.has_call(SUBTENSOR, "set_mechanism_weights") {
            name = "set_mechanism_weights";
            fields.push(("mecid", number_value(FIRST_MECHANISM)));
        }
        match self.submit(&Call::new(SUBTENSOR, name, fields), hotkey).await {
            Err(SubmitError::Dispatch(error)) if error.name == "CommitRevealEnabled" => {
                Err(SubmitError::CommitRevealRequired(netuid))
            }
            outcome => outcome,
        }
    }

    /// Sends coins, never so many that the sender's account would end.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it.
    pub async fn transfer(
        &self,
        to: &AccountId,
        amount: Rao,
        from: &Keypair,
    ) -> Result<Included, SubmitError> {
        let dest = Value::unnamed_variant("Id", [account_value(to)]);
        let fields = [("dest", dest), ("value", number_value(amount.0))];
        self.submit(&Call::new("Balances", "transfer_keep_alive", fields), from).await
    }

    /// Stakes coins on a hotkey of a subnet.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it.
    pub async fn add_stake(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
        amount: Rao,
        coldkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        let fields = [
            ("hotkey", account_value(&hotkey.0)),
            ("netuid", number_value(netuid.0)),
            ("amount_staked", number_value(amount.0)),
        ];
        self.submit(&Call::new(SUBTENSOR, "add_stake", fields), coldkey).await
    }
}

impl Call {
    fn new(
        pallet: &'static str,
        name: &'static str,
        fields: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        Self { pallet, name, fields: Composite::named(fields) }
    }
}
