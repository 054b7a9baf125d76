//! Reads of the best block in one word. Several of one block are read through one [`View`](crate::View).

use std::time::Duration;

use nicompute_market::{AccountId, BlockNumber, Coldkey, Hotkey, Netuid, Rao, Uid};

use crate::chain::Chain;
use crate::error::ReadError;
use crate::metagraph::Metagraph;
use crate::reads::{Announced, Identity, StakePosition};
use crate::subnets::{
    Beacon, HashCommit, Hyperparameters, SubnetInfo, TimelockedCommit, WeightsWay,
};

impl Chain {
    /// Time between two blocks, as the runtime plans it.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn block_time(&self) -> Result<Duration, ReadError> {
        self.now().await?.block_time()
    }

    /// All neurons of a subnet.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn metagraph(&self, netuid: Netuid) -> Result<Metagraph, ReadError> {
        self.now().await?.metagraph(netuid).await
    }

    /// The rules of a subnet.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn hyperparameters(&self, netuid: Netuid) -> Result<Hyperparameters, ReadError> {
        self.now().await?.hyperparameters(netuid).await
    }

    /// How a subnet takes weights now.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn weights_way(&self, netuid: Netuid) -> Result<WeightsWay, ReadError> {
        self.now().await?.weights_way(netuid).await
    }

    /// The block in which the subnet's next epoch begins.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn next_epoch_start(&self, netuid: Netuid) -> Result<BlockNumber, ReadError> {
        self.now().await?.next_epoch_start(netuid).await
    }

    /// The price of a registration now.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn burn(&self, netuid: Netuid) -> Result<Rao, ReadError> {
        self.now().await?.burn(netuid).await
    }

    /// The hotkey of the subnet's owner, which burns what it earns; none if the subnet has none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn owner_hotkey(&self, netuid: Netuid) -> Result<Option<Hotkey>, ReadError> {
        self.now().await?.owner_hotkey(netuid).await
    }

    /// All subnets, the root first.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn subnets(&self) -> Result<Vec<SubnetInfo>, ReadError> {
        self.now().await?.subnets().await
    }

    /// The beacon that the chain follows; none if it follows none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn beacon(&self) -> Result<Option<Beacon>, ReadError> {
        self.now().await?.beacon().await
    }

    /// The newest round whose randomness the chain has; zero if it has none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn last_stored_round(&self) -> Result<u64, ReadError> {
        self.now().await?.last_stored_round().await
    }

    /// An account's free coins.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn balance(&self, account: &AccountId) -> Result<Rao, ReadError> {
        self.now().await?.balance(account).await
    }

    /// The slot of a hotkey on a subnet; none if it is not registered there.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn uid_of(&self, netuid: Netuid, hotkey: &Hotkey) -> Result<Option<Uid>, ReadError> {
        self.now().await?.uid_of(netuid, hotkey).await
    }

    /// Where a hotkey's API is said to be; none if nothing usable was announced.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn axon_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Option<Announced>, ReadError> {
        self.now().await?.axon_of(netuid, hotkey).await
    }

    /// The weights that a neuron has set.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn weights_of(&self, netuid: Netuid, uid: Uid) -> Result<Vec<(Uid, u16)>, ReadError> {
        self.now().await?.weights_of(netuid, uid).await
    }

    /// Everything that a coldkey has staked.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn stakes_of(&self, coldkey: &Coldkey) -> Result<Vec<StakePosition>, ReadError> {
        self.now().await?.stakes_of(coldkey).await
    }

    /// The bytes that a hotkey has published on a subnet; none if it has published none in the clear.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn commitment_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        self.now().await?.commitment_of(netuid, hotkey).await
    }

    /// What an account says about itself; none if it says nothing.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn identity_of(&self, account: &AccountId) -> Result<Option<Identity>, ReadError> {
        self.now().await?.identity_of(account).await
    }

    /// A hotkey's timelocked commits that the chain has not opened yet, the oldest first.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn timelocked_commits_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Vec<TimelockedCommit>, ReadError> {
        self.now().await?.timelocked_commits_of(netuid, hotkey).await
    }

    /// A hotkey's hashed commits that are not revealed yet, the oldest first.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn hash_commits_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Vec<HashCommit>, ReadError> {
        self.now().await?.hash_commits_of(netuid, hotkey).await
    }
}
