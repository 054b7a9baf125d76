//! What a client can say to the chain in one word. Each returns when it stands in a block and the chain did not undo it.

use nicompute_keys::Keypair;
use nicompute_market::{AccountId, Hotkey, Netuid, Rao, Uid};

use crate::call::Call;
use crate::chain::Chain;
use crate::error::SubmitError;
use crate::neurons::Endpoint;
use crate::runtime::SUBTENSOR;
use crate::submit::{Depth, Included};
use crate::subnets::WeightsWay;

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
        self.submit(&Call::burned_register(netuid, hotkey), coldkey, Depth::Included).await
    }

    /// The same, for no more than a limit. Where the runtime knows limits, the chain itself keeps this one.
    ///
    /// # Errors
    /// [`SubmitError::TooExpensive`] before anything is sent when the price is above the limit now, and otherwise when the
    /// chain cannot be reached, does not take it or undoes it.
    pub async fn burned_register_within(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
        limit: Rao,
        coldkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        let price = self.burn(netuid).await?;
        if price > limit {
            return Err(SubmitError::TooExpensive { netuid, price, limit });
        }
        let call = if self.has_call(SUBTENSOR, "register_limit").await? {
            Call::register_limit(netuid, hotkey, limit)
        } else {
            Call::burned_register(netuid, hotkey)
        };
        match self.submit(&call, coldkey, Depth::Included).await {
            Err(SubmitError::Dispatch(error)) if error.name == "RegistrationPriceLimitExceeded" => {
                let price = self.burn(netuid).await?;
                Err(SubmitError::TooExpensive { netuid, price, limit })
            }
            outcome => outcome,
        }
    }

    /// Says why a hotkey cannot be registered by proof of work.
    ///
    /// # Errors
    /// Always: [`SubmitError::NoProofOfWork`] where the subnet takes none, and [`SubmitError::ProofOfWorkNotOffered`] where
    /// it does, since this program makes none.
    pub async fn pow_register(&self, netuid: Netuid) -> Result<Included, SubmitError> {
        if self.hyperparameters(netuid).await?.pow_registration_allowed {
            Err(SubmitError::ProofOfWorkNotOffered)
        } else {
            Err(SubmitError::NoProofOfWork(netuid))
        }
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
        self.submit(&Call::serve_axon(netuid, endpoint), hotkey, Depth::Included).await
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
        self.submit(&Call::serve_prometheus(netuid, endpoint), hotkey, Depth::Included).await
    }

    /// The call that sets a validator's weights in the clear: for the first mechanism where the runtime knows mechanisms.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn weights_call(
        &self,
        netuid: Netuid,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Call, SubmitError> {
        Ok(if self.has_call(SUBTENSOR, "set_mechanism_weights").await? {
            Call::set_mechanism_weights(netuid, FIRST_MECHANISM, weights, version_key)
        } else {
            Call::set_weights(netuid, weights, version_key)
        })
    }

    /// Sets a validator's weights as they are given; bringing them into shape is the market's work. It keeps no record and
    /// returns before they are final: a daemon, which may be killed meanwhile, prepares [`Chain::weights_call`] and stores it.
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
        if self.weights_way(netuid).await? != WeightsWay::Plain {
            return Err(SubmitError::CommitRevealRequired(netuid));
        }
        let call = self.weights_call(netuid, weights, version_key).await?;
        match self.submit(&call, hotkey, Depth::Included).await {
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
        self.submit(&Call::transfer_keep_alive(to, amount), from, Depth::Included).await
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
        self.submit(&Call::add_stake(netuid, hotkey, amount), coldkey, Depth::Included).await
    }

    /// Takes stake back from a hotkey of a subnet, counted in the subnet's alpha.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it.
    pub async fn remove_stake(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
        alpha: Rao,
        coldkey: &Keypair,
    ) -> Result<Included, SubmitError> {
        self.submit(&Call::remove_stake(netuid, hotkey, alpha), coldkey, Depth::Included).await
    }
}
