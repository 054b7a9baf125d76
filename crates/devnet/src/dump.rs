//! Everything that can be seen of a chain, for people and scripts that look at it from outside.

use std::collections::BTreeMap;

use nicompute_market::AccountId;
use serde::{Deserialize, Serialize};

use crate::extrinsic::Signed;
use crate::face::Face;
use crate::items::{self, Account};
use crate::ledger::Kept;
use crate::node::{Inner, Node};
use crate::rpc::hex;
use crate::runtime::{ROOT, neurons, stake};
use crate::schema::{Profile, Shape};
use crate::state::{Overlay, Read};

/// The newest blocks that are listed.
const BLOCKS_LISTED_MAX: usize = 32;
/// The hotkeys and epochs whose commits are listed.
const COMMITTERS_LISTED_MAX: usize = 4_096;
/// The accounts that are listed.
const ACCOUNTS_LISTED_MAX: usize = 1_024;

/// A chain at its newest block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The hash of the first block.
    pub genesis: String,
    /// The newest block's number.
    pub best: u64,
    /// The newest final block's number.
    pub finalized: u64,
    /// How many blocks the second trails the first.
    pub finality_lag: u32,
    /// Time between blocks.
    pub block_time_ms: u64,
    /// The version of the runtime.
    pub spec_version: u32,
    /// How its metadata writes single-field types.
    pub profile: String,
    /// The newest blocks, the newest first.
    pub blocks: Vec<BlockDump>,
    /// The subnets besides the root network.
    pub subnets: Vec<SubnetDump>,
    /// Accounts with coins or transactions.
    pub accounts: Vec<AccountDump>,
    /// The waiting extrinsics.
    pub pool: Vec<WaitingDump>,
}

/// A block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDump {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: String,
    /// Whether nothing can undo it.
    pub is_final: bool,
    /// The calls of its signed extrinsics.
    pub calls: Vec<String>,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetDump {
    /// Its number.
    pub netuid: u16,
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub owner: String,
    /// The hotkey whose neuron weights are burned to.
    pub owner_hotkey: String,
    /// How many epochs there were.
    pub epochs: u64,
    /// The block of the last one.
    pub last_epoch_block: u64,
    /// Its hyperparameters by their names in storage.
    pub hyperparameters: BTreeMap<String, u64>,
    /// Its neurons in the order of their uids.
    pub neurons: Vec<NeuronDump>,
    /// Weights that were promised or sealed and are not open yet.
    pub pending_commits: Vec<CommitDump>,
}

/// Weights that nobody can read yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitDump {
    /// Of which mechanism.
    pub mechanism: u8,
    /// Whose.
    pub hotkey: String,
    /// In which block they were committed.
    pub block: u64,
    /// In which epoch.
    pub epoch: u64,
    /// The hash that promises them, where they are promised by one.
    pub hash: Option<String>,
    /// The round of the beacon that opens them, where they are sealed for one.
    pub round: Option<u64>,
}

/// A neuron.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeuronDump {
    /// Its uid.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: String,
    /// Its coldkey.
    pub coldkey: String,
    /// Its stake weight in rao.
    pub stake_rao: u64,
    /// Whether it may validate.
    pub validator_permit: bool,
    /// Whether it set weights recently enough, or is new.
    pub active: bool,
    /// The block in which it registered.
    pub registered_at: u64,
    /// The block in which it last set weights.
    pub last_update: u64,
    /// Its share of what miners earn, of 65,535.
    pub incentive: u16,
    /// Its share of what validators earn, of 65,535.
    pub dividends: u16,
    /// The weight that the majority gives it, of 65,535.
    pub consensus: u16,
    /// How much of its weights lies within the consensus, of 65,535.
    pub validator_trust: u16,
    /// What it earned in the last epoch, in rao.
    pub emission_rao: u64,
    /// Where it serves.
    pub axon: Option<String>,
    /// Its weights as `[uid, weight]`, by mechanism.
    pub weights: BTreeMap<u8, Vec<(u16, u16)>>,
    /// Its bonds as `[uid, bond]`, by mechanism.
    pub bonds: BTreeMap<u8, Vec<(u16, u16)>>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDump {
    /// Its address.
    pub account: String,
    /// Its coins in rao.
    pub free_rao: u64,
    /// How many extrinsics it sent.
    pub nonce: u32,
}

/// A waiting extrinsic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingDump {
    /// Its hash.
    pub hash: String,
    /// Who signed it.
    pub signer: String,
    /// Its nonce.
    pub nonce: u32,
    /// Its call.
    pub call: String,
}

/// Looks at everything.
pub(crate) fn of(node: &Node) -> Dump {
    let face = node.current();
    let inner = node.read();
    let state = Overlay::new(inner.ledger.state());
    let number = |kept: &Kept| u64::from(kept.block.header.number);
    let netuids = neurons::netuids(&state).into_iter().filter(|netuid| *netuid != ROOT);
    Dump {
        genesis: hex(&inner.ledger.genesis),
        best: number(inner.ledger.head()),
        finalized: number(node.finalized(&inner.ledger)),
        finality_lag: node.finality_lag(),
        block_time_ms: u64::try_from(node.block_time().as_millis()).unwrap_or(u64::MAX),
        spec_version: face.runtime.spec_version,
        profile: match face.runtime.profile {
            Profile::Flat => "flat".to_owned(),
            Profile::Modern => "modern".to_owned(),
        },
        blocks: blocks(node, &inner),
        subnets: netuids.map(|netuid| subnet(&state, netuid)).collect(),
        accounts: accounts(&state),
        pool: waiting(&inner, &face),
    }
}

fn blocks(node: &Node, inner: &Inner) -> Vec<BlockDump> {
    let ledger = &inner.ledger;
    let last = node.finalized(ledger).block.header.number;
    let mut out = Vec::new();
    let mut at = Some(ledger.head().block.header.number);
    while let Some(number) = at.filter(|_| out.len() < BLOCKS_LISTED_MAX) {
        let Some(kept) = ledger.by_number(number) else { break };
        let face = match ledger.state_after(&kept.block.header.parent) {
            Some(before) => node.face_of(&before),
            None => node.current(),
        };
        let signed = kept.block.extrinsics.iter().filter_map(|bytes| Signed::decode(bytes).ok());
        out.push(BlockDump {
            number: u64::from(number),
            hash: hex(&kept.hash),
            is_final: number <= last,
            calls: signed.map(|signed| call_name(&face, &signed.call)).collect(),
        });
        at = number.checked_sub(1);
    }
    out
}

/// `Pallet.call` as the metadata names it.
fn call_name(face: &Face, call: &[u8]) -> String {
    let [pallet, number, ..] = call else { return "unknown".to_owned() };
    let schema = &face.interface.schema;
    let Some(pallet) = schema.pallets.iter().find(|listed| listed.index == *pallet) else {
        return "unknown".to_owned();
    };
    let calls = pallet.calls.as_ref().and_then(|name| schema.types.get(name));
    let name = calls.and_then(|decl| match &decl.shape {
        Shape::Enum(variants) => variants.iter().find(|variant| variant.index == *number),
        Shape::Struct(_) | Shape::Newtype(_) | Shape::Outer => None,
    });
    let name = name.map_or("unknown", |variant| &variant.name);
    format!("{}.{name}", pallet.name)
}

fn subnet(state: &impl Read, netuid: u16) -> SubnetDump {
    let owner = items::SUBNET_OWNER.get(state, &netuid).unwrap_or_default();
    let owner_hotkey = items::SUBNET_OWNER_HOTKEY.get(state, &netuid).unwrap_or_default();
    let identity = items::SUBNET_IDENTITIES.get(state, &netuid).unwrap_or_default();
    let n = neurons::count(state, netuid);
    SubnetDump {
        netuid,
        name: String::from_utf8_lossy(&identity.subnet_name).into_owned(),
        owner: address(&owner),
        owner_hotkey: address(&owner_hotkey),
        epochs: items::SUBNET_EPOCH_INDEX.get(state, &netuid).unwrap_or_default(),
        last_epoch_block: items::LAST_EPOCH_BLOCK.get(state, &netuid).unwrap_or_default(),
        hyperparameters: hyperparameters(state, netuid),
        neurons: (0..n).filter_map(|uid| neuron(state, netuid, uid)).collect(),
        pending_commits: (0..neurons::mechanisms(state, netuid))
            .flat_map(|mecid| commits(state, netuid, mecid))
            .collect(),
    }
}

fn commits(state: &impl Read, netuid: u16, mechanism: u8) -> Vec<CommitDump> {
    let index = neurons::storage_index(netuid, mechanism);
    let mut out = Vec::new();
    for key in state.keys(&items::WEIGHT_COMMITS.first_prefix(&index), None, COMMITTERS_LISTED_MAX)
    {
        let who = key.last_chunk::<32>().copied().unwrap_or_default();
        for (hash, epoch, block, _) in
            items::WEIGHT_COMMITS.get(state, &index, &who).unwrap_or_default()
        {
            let (hotkey, hash) = (address(&who), Some(hex(&hash)));
            out.push(CommitDump { mechanism, hotkey, block, epoch, hash, round: None });
        }
    }
    let prefix = items::TIMELOCKED_COMMITS.first_prefix(&index);
    for key in state.keys(&prefix, None, COMMITTERS_LISTED_MAX) {
        let epoch = key.last_chunk::<8>().copied().map(u64::from_le_bytes).unwrap_or_default();
        for (who, block, _, round) in
            items::TIMELOCKED_COMMITS.get(state, &index, &epoch).unwrap_or_default()
        {
            let (hotkey, round) = (address(&who), Some(round));
            out.push(CommitDump { mechanism, hotkey, block, epoch, hash: None, round });
        }
    }
    out
}

fn hyperparameters(state: &impl Read, netuid: u16) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for item in [
        &items::TEMPO,
        &items::KAPPA,
        &items::RHO,
        &items::MAX_ALLOWED_UIDS,
        &items::MAX_ALLOWED_VALIDATORS,
        &items::MIN_ALLOWED_WEIGHTS,
        &items::MAX_WEIGHTS_LIMIT,
        &items::IMMUNITY_PERIOD,
        &items::MIN_NON_IMMUNE_UIDS,
        &items::ACTIVITY_CUTOFF,
        &items::BONDS_PENALTY,
        &items::BURN_HALF_LIFE,
    ] {
        let value = item.get(state, &netuid).unwrap_or_default();
        out.insert(item.0.name.to_owned(), u64::from(value));
    }
    for item in [
        &items::WEIGHTS_RATE_LIMIT,
        &items::WEIGHTS_VERSION_KEY,
        &items::SERVING_RATE_LIMIT,
        &items::BONDS_MOVING_AVERAGE,
        &items::BURN,
        &items::MIN_BURN,
        &items::MAX_BURN,
        &items::REVEAL_PERIOD_EPOCHS,
    ] {
        out.insert(item.0.name.to_owned(), item.get(state, &netuid).unwrap_or_default());
    }
    for item in [
        &items::REGISTRATION_ALLOWED,
        &items::COMMIT_REVEAL_ENABLED,
        &items::YUMA3_ON,
        &items::LIQUID_ALPHA_ON,
    ] {
        let value = item.get(state, &netuid).unwrap_or_default();
        out.insert(item.0.name.to_owned(), u64::from(value));
    }
    let mechanisms = neurons::mechanisms(state, netuid);
    out.insert(items::MECHANISM_COUNT.0.name.to_owned(), u64::from(mechanisms));
    out
}

fn neuron(state: &impl Read, netuid: u16, uid: u16) -> Option<NeuronDump> {
    let hotkey = neurons::hotkey(state, netuid, uid)?;
    let coldkey = items::OWNER.get(state, &hotkey).unwrap_or_default();
    let share = |item| neurons::entry::<u16>(state, item, netuid, uid);
    let rows = |item: &items::Map2<u16, u16, Vec<(u16, u16)>>| {
        let all = 0..neurons::mechanisms(state, netuid);
        let row = |mecid| {
            let row = item.get(state, &neurons::storage_index(netuid, mecid), &uid)?;
            (!row.is_empty()).then_some((mecid, row))
        };
        all.filter_map(row).collect()
    };
    Some(NeuronDump {
        uid,
        hotkey: address(&hotkey),
        coldkey: address(&coldkey),
        stake_rao: stake::weight(state, &hotkey, netuid),
        validator_permit: neurons::entry(state, &items::VALIDATOR_PERMIT, netuid, uid),
        active: neurons::entry(state, &items::ACTIVE, netuid, uid),
        registered_at: items::BLOCK_AT_REGISTRATION.get(state, &netuid, &uid).unwrap_or_default(),
        last_update: neurons::entry(state, &items::LAST_UPDATE, netuid, uid),
        incentive: share(&items::INCENTIVE),
        dividends: share(&items::DIVIDENDS),
        consensus: share(&items::CONSENSUS),
        validator_trust: share(&items::VALIDATOR_TRUST),
        emission_rao: neurons::entry(state, &items::EMISSION, netuid, uid),
        axon: items::AXONS.get(state, &netuid, &hotkey).map(|axon| socket(&axon)),
        weights: rows(&items::WEIGHTS),
        bonds: rows(&items::BONDS),
    })
}

fn socket(axon: &items::AxonInfo) -> String {
    let ip = match u32::try_from(axon.ip) {
        Ok(bits) if axon.ip_type == 4 => std::net::Ipv4Addr::from_bits(bits).into(),
        _ => std::net::IpAddr::V6(std::net::Ipv6Addr::from_bits(axon.ip)),
    };
    std::net::SocketAddr::new(ip, axon.port).to_string()
}

fn accounts(state: &impl Read) -> Vec<AccountDump> {
    let prefix = items::ACCOUNT.0.prefix();
    let keys = state.keys(&prefix, None, ACCOUNTS_LISTED_MAX);
    // The account itself ends its key, behind its hash.
    let account = |key: &Vec<u8>| Account::try_from(key.get(key.len().checked_sub(32)?..)?).ok();
    let known = keys.iter().filter_map(account).filter_map(|account| {
        let info = items::ACCOUNT.get(state, &account)?;
        Some(AccountDump { account: address(&account), free_rao: info.free, nonce: info.nonce })
    });
    known.collect()
}

fn waiting(inner: &Inner, face: &Face) -> Vec<WaitingDump> {
    let one = |entry: &crate::pool::Entry| WaitingDump {
        hash: hex(&entry.hash),
        signer: address(&entry.signed.signer),
        nonce: entry.signed.nonce,
        call: call_name(face, &entry.signed.call),
    };
    inner.pool.iter().map(one).collect()
}

fn address(account: &Account) -> String {
    AccountId::from_bytes(*account).to_string()
}
