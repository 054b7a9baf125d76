//! What a client asks about accounts and hotkeys.

use nicompute_market::{AccountId, BlockNumber, Coldkey, Hotkey, Netuid, Rao, Uid};

use crate::error::{ReadError, ShapeError};
use crate::neurons::Endpoint;
use crate::plain::Plain;
use crate::runtime::{COMMITMENTS, SUBTENSOR, account_value, number_value};
use crate::view::{View, shape};

/// The most commitments or positions of one answer that are read.
const LIST_LEN_MAX: usize = 65_536;

/// A block by its number and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// The height.
    pub number: BlockNumber,
    /// The hash.
    pub hash: [u8; 32],
}

/// What a coldkey has staked on one hotkey of one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StakePosition {
    /// The hotkey.
    pub hotkey: Hotkey,
    /// The subnet; 0 is the root, whose alpha is the coin itself.
    pub netuid: Netuid,
    /// How much, in the subnet's alpha.
    pub alpha: Rao,
}

/// What somebody says about himself. Anybody may say anything: it is a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// A web page.
    pub url: String,
    /// A repository.
    pub github_repo: String,
    /// A contact.
    pub discord: String,
    /// A few words.
    pub description: String,
}

/// An announcement on the chain, with the block in which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// What was announced.
    pub endpoint: Endpoint,
    /// When.
    pub block: BlockNumber,
}

impl View {
    /// An account's free coins.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn balance(&self, account: &AccountId) -> Result<Rao, ReadError> {
        let about = "an account";
        let info = self.item(about, ("System", "Account"), vec![account_value(account)]).await?;
        let Some(info) = info else { return Ok(Rao(0)) };
        let free = info.field("data").and_then(|data| data.field("free")).and_then(Plain::u64);
        free.map(Rao).map_err(shape(about))
    }

    /// The slot of a hotkey on a subnet; none if it is not registered there.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn uid_of(&self, netuid: Netuid, hotkey: &Hotkey) -> Result<Option<Uid>, ReadError> {
        let about = "a neuron's uid";
        let keys = vec![number_value(netuid.0), account_value(&hotkey.0)];
        let uid = self.item(about, (SUBTENSOR, "Uids"), keys).await?;
        uid.map(|uid| uid.u16().map(Uid)).transpose().map_err(shape(about))
    }

    /// The hotkey of the subnet's owner, which burns what it earns; none if the subnet has none.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn owner_hotkey(&self, netuid: Netuid) -> Result<Option<Hotkey>, ReadError> {
        let about = "the subnet's owner";
        let keys = vec![number_value(netuid.0)];
        let owner = self.item(about, (SUBTENSOR, "SubnetOwnerHotkey"), keys).await?;
        owner.map(|owner| owner.account().map(Hotkey)).transpose().map_err(shape(about))
    }

    /// The weights that a neuron has set.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn weights_of(&self, netuid: Netuid, uid: Uid) -> Result<Vec<(Uid, u16)>, ReadError> {
        let about = "a neuron's weights";
        let keys = vec![number_value(netuid.0), number_value(uid.0)];
        let row = self.item(about, (SUBTENSOR, "Weights"), keys).await?;
        let Some(row) = row else { return Ok(Vec::new()) };
        let entry = |entry: &Plain| {
            let (uid, weight) = entry.pair()?;
            Ok((Uid(uid.u16()?), weight.u16()?))
        };
        let read: Result<Vec<_>, ShapeError> =
            row.list().and_then(|row| row.iter().map(entry).collect());
        read.map_err(shape(about))
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
        self.announced("Axons", netuid, hotkey).await
    }

    /// Where a hotkey's metrics are said to be; none if nothing usable was announced.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn prometheus_of(
        &self,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Option<Announced>, ReadError> {
        self.announced("Prometheus", netuid, hotkey).await
    }

    async fn announced(
        &self,
        name: &str,
        netuid: Netuid,
        hotkey: &Hotkey,
    ) -> Result<Option<Announced>, ReadError> {
        let about = "an announced address";
        let keys = vec![number_value(netuid.0), account_value(&hotkey.0)];
        let Some(info) = self.item(about, (SUBTENSOR, name), keys).await? else { return Ok(None) };
        let block = info.field("block").and_then(Plain::u64).map(BlockNumber);
        let block = block.map_err(shape(about))?;
        let endpoint = Endpoint::read(&info).map_err(shape(about))?;
        Ok(endpoint.map(|endpoint| Announced { endpoint, block }))
    }

    /// Everything that a coldkey has staked.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn stakes_of(&self, coldkey: &Coldkey) -> Result<Vec<StakePosition>, ReadError> {
        const API: &str = "StakeInfoRuntimeApi";
        let arguments = vec![account_value(&coldkey.0)];
        let list = self.api(API, "get_stake_info_for_coldkey", arguments).await?;
        let position = |info: &Plain| {
            Ok(StakePosition {
                hotkey: Hotkey(info.field("hotkey")?.account()?),
                netuid: Netuid(info.field("netuid")?.u16()?),
                alpha: Rao(info.field("stake")?.u64()?),
            })
        };
        let list = list.list().map_err(shape("a coldkey's stakes"))?;
        let positions: Result<Vec<_>, ShapeError> =
            list.iter().take(LIST_LEN_MAX).map(position).collect();
        let mut positions = positions.map_err(shape("a coldkey's stakes"))?;
        positions.retain(|position| position.alpha > Rao(0));
        Ok(positions)
    }

    /// The owner of a hotkey; none if the chain does not know it.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn owner_of(&self, hotkey: &Hotkey) -> Result<Option<Coldkey>, ReadError> {
        let about = "a hotkey's owner";
        let owner = self.item(about, (SUBTENSOR, "Owner"), vec![account_value(&hotkey.0)]).await?;
        let owner = owner.map(|owner| owner.account()).transpose().map_err(shape(about))?;
        // The item's default is the account of zeros, which nobody has.
        Ok(owner.filter(|owner| *owner.as_bytes() != [0; 32]).map(Coldkey))
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
        let about = "a commitment";
        let keys = vec![number_value(netuid.0), account_value(&hotkey.0)];
        let of = (COMMITMENTS, "CommitmentOf");
        let Some(registration) = self.item(about, of, keys).await? else { return Ok(None) };
        let info = registration.field("info").map_err(shape(about))?;
        Ok(plain_bytes(info))
    }

    /// What an account says about itself; none if it says nothing.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn identity_of(&self, account: &AccountId) -> Result<Option<Identity>, ReadError> {
        let about = "an identity";
        let keys = vec![account_value(account)];
        let mut items = self.items(about, vec![((SUBTENSOR, "IdentitiesV2"), keys)]).await?;
        let info = items.pop().flatten();
        info.as_ref().map(Identity::read).transpose().map_err(shape(about))
    }
}

// === impl Identity ===

impl Identity {
    pub(crate) fn read(info: &Plain) -> Result<Self, ShapeError> {
        let text = |name| info.field(name)?.text();
        Ok(Self {
            name: text("name")?,
            url: text("url")?,
            github_repo: text("github_repo")?,
            discord: text("discord")?,
            description: text("description")?,
        })
    }
}

/// The first field of a commitment that is plain bytes.
fn plain_bytes(info: &Plain) -> Option<Vec<u8>> {
    let first = match info {
        // A list of one field reads as that list, and the struct around it is transparent.
        Plain::List(fields) => fields.first()?,
        other => other,
    };
    let (kind, data) = first.variant().ok()?;
    if !kind.contains("Raw") {
        return None;
    }
    data.bytes().ok().map(<[u8]>::to_vec)
}
