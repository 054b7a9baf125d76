//! A subnet's neurons, all at once.
//!
//! One runtime API tells nearly everything; what it leaves out is one more question about all neurons together. Where the
//! API is missing, the list of neurons and the subnet's state tell the same; where those are missing too, the storage
//! does, except that the stake weights then know nothing of parents and children.

use nicompute_market::{BlockNumber, Coldkey, Hotkey, Netuid, Rao, Uid};

use crate::error::{ReadError, ShapeError};
use crate::neurons::{Endpoint, Neuron};
use crate::plain::Plain;
use crate::reads::Identity;
use crate::runtime::{SUBTENSOR, account_value, number_value};
use crate::subnets::SUBNET_API;
use crate::view::{Item, View, shape};

const NEURONS_API: &str = "NeuronInfoRuntimeApi";
const ABOUT: &str = "the neurons of a subnet";

/// All neurons of a subnet at one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metagraph {
    /// The block.
    pub block: BlockNumber,
    /// The neurons, by uid.
    pub neurons: Vec<Neuron>,
}

impl Metagraph {
    /// The neuron of a hotkey.
    #[must_use]
    pub fn neuron(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.hotkey == *hotkey)
    }
}

impl View {
    /// All neurons of a subnet.
    ///
    /// # Errors
    /// When the subnet does not exist or the chain cannot be read.
    pub async fn metagraph(&self, netuid: Netuid) -> Result<Metagraph, ReadError> {
        if self.has_api(SUBNET_API, "get_metagraph") {
            self.metagraph_by_api(netuid).await
        } else if self.has_api(NEURONS_API, "get_neurons_lite") {
            self.metagraph_by_list(netuid).await
        } else {
            self.metagraph_by_storage(netuid).await
        }
    }

    /// The way of today's runtimes.
    async fn metagraph_by_api(&self, netuid: Netuid) -> Result<Metagraph, ReadError> {
        let key = || vec![number_value(netuid.0)];
        let trust = vec![((SUBTENSOR, "ValidatorTrust"), key())];
        let (graph, trust) = tokio::try_join!(
            self.api(SUBNET_API, "get_metagraph", key()),
            self.items(ABOUT, trust)
        )?;
        let graph = graph.option().map_err(shape(ABOUT))?.ok_or(ReadError::NoSubnet(netuid))?;
        let trust = Column::of(trust.first().and_then(Option::as_ref)).map_err(shape(ABOUT))?;
        let neurons = Columns::of_graph(graph, trust).and_then(|columns| columns.neurons());
        self.graph(neurons.map_err(shape(ABOUT))?)
    }

    /// The way of runtimes without it.
    async fn metagraph_by_list(&self, netuid: Netuid) -> Result<Metagraph, ReadError> {
        if !self.subnet_exists(netuid).await? {
            return Err(ReadError::NoSubnet(netuid));
        }
        let arguments = vec![number_value(netuid.0)];
        let list = self.api(NEURONS_API, "get_neurons_lite", arguments.clone()).await?;
        let state = if self.has_api(SUBNET_API, "get_subnet_state") {
            Some(self.api(SUBNET_API, "get_subnet_state", arguments).await?)
        } else {
            None
        };
        let read = || {
            let state = match &state {
                Some(answer) => answer.option()?,
                None => None,
            };
            let mut neurons =
                list.list()?.iter().map(from_list).collect::<Result<Vec<_>, ShapeError>>()?;
            if let Some(state) = state {
                add_state(&mut neurons, state)?;
            }
            Ok(neurons)
        };
        self.graph(read().map_err(shape(ABOUT))?)
    }

    /// The way of nodes that describe no API at all, as those with the fourteenth metadata.
    async fn metagraph_by_storage(&self, netuid: Netuid) -> Result<Metagraph, ReadError> {
        let of = |name: &'static str| ((SUBTENSOR, name), vec![number_value(netuid.0)]);
        let names = [
            "NetworksAdded",
            "SubnetworkN",
            "Active",
            "ValidatorPermit",
            "LastUpdate",
            "Incentive",
            "Dividends",
            "Consensus",
            "ValidatorTrust",
            "Emission",
        ];
        let mut items: Vec<Item<'_>> = names.into_iter().map(of).collect();
        items.push(((SUBTENSOR, "TaoWeight"), Vec::new()));
        let values = self.items(ABOUT, items).await?;
        let [added, count, columns @ .., tao_weight] = values.as_slice() else {
            return Err(ReadError::NoSubnet(netuid));
        };
        if !matches!(added, Some(Plain::Bool(true))) {
            return Err(ReadError::NoSubnet(netuid));
        }
        let count = count.as_ref().map_or(Ok(0), Plain::u16).map_err(shape(ABOUT))?;
        let tao_weight = tao_weight.as_ref().map_or(Ok(0), Plain::u64).map_err(shape(ABOUT))?;
        let slots = self.slots(netuid, count).await?;
        let mut neurons = self.owned(netuid, &slots, tao_weight).await?;
        for (index, column) in columns.iter().enumerate() {
            add_column(&mut neurons, index, column.as_ref()).map_err(shape(ABOUT))?;
        }
        self.graph(neurons)
    }

    /// The hotkeys in the slots, and since when.
    async fn slots(
        &self,
        netuid: Netuid,
        count: u16,
    ) -> Result<Vec<(Uid, Hotkey, BlockNumber)>, ReadError> {
        let keys = |uid: u16| vec![number_value(netuid.0), number_value(uid)];
        let each = |uid| {
            [((SUBTENSOR, "Keys"), keys(uid)), ((SUBTENSOR, "BlockAtRegistration"), keys(uid))]
        };
        let values = self.items(ABOUT, (0..count).flat_map(each).collect()).await?;
        let slot = |(uid, pair): (u16, &[Option<Plain>])| {
            let [Some(hotkey), block] = pair else { return Err(ShapeError::Kind("a hotkey")) };
            let block = block.as_ref().map_or(Ok(0), Plain::u64)?;
            Ok((Uid(uid), Hotkey(hotkey.account()?), BlockNumber(block)))
        };
        let slots: Result<Vec<_>, ShapeError> =
            (0..count).zip(values.chunks(2)).map(slot).collect();
        slots.map_err(shape(ABOUT))
    }

    /// The neurons with what is stored under their hotkeys.
    async fn owned(
        &self,
        netuid: Netuid,
        slots: &[(Uid, Hotkey, BlockNumber)],
        tao_weight: u64,
    ) -> Result<Vec<Neuron>, ReadError> {
        let each = |(_, hotkey, _): &(Uid, Hotkey, BlockNumber)| {
            let account = || account_value(&hotkey.0);
            let on = |netuid: u16| vec![account(), number_value(netuid)];
            let items: [Item<'static>; 4] = [
                ((SUBTENSOR, "Owner"), vec![account()]),
                ((SUBTENSOR, "Axons"), vec![number_value(netuid.0), account()]),
                ((SUBTENSOR, "TotalHotkeyAlpha"), on(netuid.0)),
                ((SUBTENSOR, "TotalHotkeyAlpha"), on(0)),
            ];
            items
        };
        let values = self.items(ABOUT, slots.iter().flat_map(each).collect()).await?;
        let neuron = |(slot, values): (&(Uid, Hotkey, BlockNumber), &[Option<Plain>])| {
            let [owner, axon, alpha, tao] = values else {
                return Err(ShapeError::Kind("four values"));
            };
            let owner = owner.as_ref().ok_or(ShapeError::Kind("an owner"))?.account()?;
            let mut neuron = Neuron::new(slot.0, slot.1, Coldkey(owner));
            neuron.registered_at = slot.2;
            neuron.axon = axon.as_ref().map_or(Ok(None), Endpoint::read)?;
            neuron.alpha_stake = Rao(alpha.as_ref().map_or(Ok(0), Plain::u64)?);
            neuron.tao_stake = Rao(tao.as_ref().map_or(Ok(0), Plain::u64)?);
            neuron.stake = weighted(neuron.alpha_stake, neuron.tao_stake, tao_weight);
            Ok(neuron)
        };
        let neurons: Result<Vec<_>, ShapeError> =
            slots.iter().zip(values.chunks(4)).map(neuron).collect();
        neurons.map_err(shape(ABOUT))
    }

    fn graph(&self, mut neurons: Vec<Neuron>) -> Result<Metagraph, ReadError> {
        neurons.sort_by_key(|neuron| neuron.uid);
        Ok(Metagraph { block: self.at.head.number, neurons })
    }
}

/// A value for each neuron; one that is missing at the end reads as nothing, since old neurons' lists may be shorter.
#[derive(Clone, Copy)]
struct Column<'a>(&'a [Plain]);

impl<'a> Column<'a> {
    fn of(list: Option<&'a Plain>) -> Result<Self, ShapeError> {
        list.map_or(Ok(Self(&[])), |list| list.list().map(Self))
    }

    fn u64(self, at: usize) -> Result<u64, ShapeError> {
        self.0.get(at).map_or(Ok(0), Plain::u64)
    }

    fn u16(self, at: usize) -> Result<u16, ShapeError> {
        self.0.get(at).map_or(Ok(0), Plain::u16)
    }

    fn flag(self, at: usize) -> Result<bool, ShapeError> {
        self.0.get(at).map_or(Ok(false), Plain::bool)
    }
}

/// The metagraph as the API tells it: one list for each property.
struct Columns<'a> {
    hotkeys: &'a [Plain],
    coldkeys: &'a [Plain],
    identities: Column<'a>,
    axons: Column<'a>,
    active: Column<'a>,
    permits: Column<'a>,
    last_update: Column<'a>,
    emission: Column<'a>,
    dividends: Column<'a>,
    incentives: Column<'a>,
    consensus: Column<'a>,
    trust: Column<'a>,
    registered_at: Column<'a>,
    alpha_stake: Column<'a>,
    tao_stake: Column<'a>,
    total_stake: Column<'a>,
}

impl<'a> Columns<'a> {
    fn of_graph(graph: &'a Plain, trust: Column<'a>) -> Result<Self, ShapeError> {
        let column = |name| graph.field(name)?.list().map(Column);
        Ok(Self {
            hotkeys: graph.field("hotkeys")?.list()?,
            coldkeys: graph.field("coldkeys")?.list()?,
            identities: Column::of(graph.optional_field("identities"))?,
            axons: column("axons")?,
            active: column("active")?,
            permits: column("validator_permit")?,
            last_update: column("last_update")?,
            emission: column("emission")?,
            dividends: column("dividends")?,
            incentives: column("incentives")?,
            consensus: column("consensus")?,
            trust,
            registered_at: column("block_at_registration")?,
            alpha_stake: column("alpha_stake")?,
            tao_stake: column("tao_stake")?,
            total_stake: column("total_stake")?,
        })
    }

    fn neurons(&self) -> Result<Vec<Neuron>, ShapeError> {
        if self.hotkeys.len() != self.coldkeys.len() {
            return Err(ShapeError::Kind("as many coldkeys as hotkeys"));
        }
        let pairs = self.hotkeys.iter().zip(self.coldkeys).enumerate();
        pairs.map(|(at, (hotkey, coldkey))| self.neuron(at, hotkey, coldkey)).collect()
    }

    fn neuron(&self, at: usize, hotkey: &Plain, coldkey: &Plain) -> Result<Neuron, ShapeError> {
        let uid = u16::try_from(at).map_err(|_| ShapeError::Size)?;
        let hotkey = Hotkey(hotkey.account()?);
        let identity = match self.identities.0.get(at) {
            Some(identity) => identity.option()?.map(Identity::read).transpose()?,
            None => None,
        };
        Ok(Neuron {
            axon: self.axons.0.get(at).map_or(Ok(None), Endpoint::read)?,
            stake: Rao(self.total_stake.u64(at)?),
            alpha_stake: Rao(self.alpha_stake.u64(at)?),
            tao_stake: Rao(self.tao_stake.u64(at)?),
            validator_permit: self.permits.flag(at)?,
            active: self.active.flag(at)?,
            last_update: BlockNumber(self.last_update.u64(at)?),
            incentive: self.incentives.u16(at)?,
            dividends: self.dividends.u16(at)?,
            consensus: self.consensus.u16(at)?,
            validator_trust: self.trust.u16(at)?,
            emission: Rao(self.emission.u64(at)?),
            registered_at: BlockNumber(self.registered_at.u64(at)?),
            identity,
            ..Neuron::new(Uid(uid), hotkey, Coldkey(coldkey.account()?))
        })
    }
}

/// One entry of the list of neurons.
fn from_list(info: &Plain) -> Result<Neuron, ShapeError> {
    let mut stake = 0_u64;
    for entry in info.field("stake")?.list()? {
        stake = stake.saturating_add(entry.pair()?.1.u64()?);
    }
    let uid = Uid(info.field("uid")?.u16()?);
    let hotkey = Hotkey(info.field("hotkey")?.account()?);
    let coldkey = Coldkey(info.field("coldkey")?.account()?);
    Ok(Neuron {
        axon: Endpoint::read(info.field("axon_info")?)?,
        stake: Rao(stake),
        alpha_stake: Rao(stake),
        validator_permit: info.field("validator_permit")?.bool()?,
        active: info.field("active")?.bool()?,
        last_update: BlockNumber(info.field("last_update")?.u64()?),
        incentive: info.field("incentive")?.u16()?,
        dividends: info.field("dividends")?.u16()?,
        consensus: info.field("consensus")?.u16()?,
        validator_trust: info.field("validator_trust")?.u16()?,
        emission: Rao(info.field("emission")?.u64()?),
        ..Neuron::new(uid, hotkey, coldkey)
    })
}

/// The stakes of the subnet's state, which know of parents and children.
fn add_state(neurons: &mut [Neuron], state: &Plain) -> Result<(), ShapeError> {
    let column = |name| Column::of(state.optional_field(name));
    let (total, alpha, tao) =
        (column("total_stake")?, column("alpha_stake")?, column("tao_stake")?);
    let registered = column("block_at_registration")?;
    for neuron in neurons {
        let at = usize::from(neuron.uid.0);
        if at < total.0.len() {
            neuron.stake = Rao(total.u64(at)?);
            neuron.alpha_stake = Rao(alpha.u64(at)?);
            neuron.tao_stake = Rao(tao.u64(at)?);
            neuron.registered_at = BlockNumber(registered.u64(at)?);
        }
    }
    Ok(())
}

/// One stored list of the subnet, in the order in which they are asked for.
fn add_column(
    neurons: &mut [Neuron],
    index: usize,
    column: Option<&Plain>,
) -> Result<(), ShapeError> {
    let column = Column::of(column)?;
    for (at, neuron) in neurons.iter_mut().enumerate() {
        match index {
            0 => neuron.active = column.flag(at)?,
            1 => neuron.validator_permit = column.flag(at)?,
            2 => neuron.last_update = BlockNumber(column.u64(at)?),
            3 => neuron.incentive = column.u16(at)?,
            4 => neuron.dividends = column.u16(at)?,
            5 => neuron.consensus = column.u16(at)?,
            6 => neuron.validator_trust = column.u16(at)?,
            _ => neuron.emission = Rao(column.u64(at)?),
        }
    }
    Ok(())
}

/// The stake weight without parents and children: alpha, and the root's coins times the weight that the chain gives them,
/// of 2^64.
fn weighted(alpha: Rao, tao: Rao, tao_weight: u64) -> Rao {
    let of_root = (u128::from(tao.0) * u128::from(tao_weight)) >> 64;
    Rao(alpha.0.saturating_add(u64::try_from(of_root).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight that overflows would make the richest validator the poorest.
    #[test]
    fn the_roots_coins_count_by_their_weight() {
        let weight = 971_718_665_099_567_868;
        assert_eq!(weighted(Rao(0), Rao(1_000_000_000), weight), Rao(52_676_974));
        assert_eq!(weighted(Rao(7), Rao(0), weight), Rao(7));
        assert_eq!(weighted(Rao(u64::MAX), Rao(u64::MAX), u64::MAX), Rao(u64::MAX));
    }
}
