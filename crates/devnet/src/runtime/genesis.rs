//! Writes the first state.

use std::collections::BTreeSet;

use nicompute_market::{Coldkey, Hotkey};

use crate::config::{
    Genesis, GenesisError, MECHANISMS_MAX, Parameters, Registration, SubnetGenesis,
};
use crate::items;
use crate::runtime::{Exec, ROOT, balances, neurons, reveal, stake};
use crate::shield::ShieldKey;
use crate::state::{Changes, Map, Overlay};
use crate::yuma::{LiquidAlpha, NEURONS_MAX};

/// The reveal periods that the real chain takes.
const REVEAL_PERIOD_EPOCHS: std::ops::RangeInclusive<u64> = 1..=100;
/// Weights and incentives of a mechanism are keyed by `mechanism · 4096 + netuid`.
pub(crate) const NETUID_MAX: u16 = 4_095;
/// TAO's share in a neuron's stake weight, of 2^64; the real chain's default.
const TAO_WEIGHT: u64 = 971_718_665_099_567_868;
/// The owner's cut of the emission, of 65,535: 18 %.
const OWNER_CUT: u16 = 11_796;
/// The liquidity that both sides of a new pool begin with, in rao.
const POOL_RAO: u64 = 1_000_000_000_000;
/// The bounds of liquid alpha while it is off; the real chain's defaults, and its steepness in hundredths.
const ALPHA_OFF: LiquidAlpha = LiquidAlpha { low: 45_875, high: 58_982, steepness: 1_000 };

/// The key of the bytes that make each genesis different.
pub(crate) const NONCE_KEY: &[u8] = b":nicompute-devnet:genesis-nonce";

/// The first state of a chain, different for every nonce.
pub(crate) fn build(genesis: &Genesis, nonce: [u8; 32]) -> Result<Changes, GenesisError> {
    check(genesis)?;
    let empty = Map::new();
    let mut exec = Exec::new(Overlay::new(&empty), 0);
    exec.state.write(NONCE_KEY.to_vec(), Some(nonce.to_vec()));
    let shield = ShieldKey::new(&nonce).announced().to_vec();
    items::CURRENT_KEY.put(&mut exec.state, &shield);
    items::NEXT_KEY.put(&mut exec.state, &shield);
    items::NUMBER.put(&mut exec.state, &0);
    items::TAO_WEIGHT.put(&mut exec.state, &TAO_WEIGHT);
    items::SUBNET_OWNER_CUT.put(&mut exec.state, &OWNER_CUT);
    let version = genesis.commit_reveal_version.unwrap_or(reveal::COMMIT_REVEAL_VERSION);
    items::COMMIT_REVEAL_VERSION.put(&mut exec.state, &version);
    items::STAKE_THRESHOLD.put(&mut exec.state, &genesis.stake_threshold.0);
    for (who, coins) in &genesis.endowed {
        let held = balances::account(&exec.state, who.as_bytes()).free;
        let total = items::TOTAL_ISSUANCE.get(&exec.state).unwrap_or_default();
        if held.max(total).checked_add(coins.0).is_none() {
            return Err(GenesisError::Coins);
        }
        balances::mint(&mut exec.state, who.as_bytes(), coins.0);
    }
    root(&mut exec.state);
    for subnet in &genesis.subnets {
        create(&mut exec, subnet)?;
    }
    let networks = u16::try_from(genesis.subnets.len()).unwrap_or(u16::MAX).saturating_add(1);
    items::TOTAL_NETWORKS.put(&mut exec.state, &networks);
    exec.store_events();
    Ok(exec.state.into_changes())
}

fn check(genesis: &Genesis) -> Result<(), GenesisError> {
    let mut seen = BTreeSet::new();
    for subnet in &genesis.subnets {
        let netuid = subnet.netuid.0;
        if netuid == ROOT || netuid > NETUID_MAX {
            return Err(GenesisError::Netuid(netuid));
        }
        if !seen.insert(netuid) {
            return Err(GenesisError::Twice(netuid));
        }
        if subnet.tempo == 0 {
            return Err(GenesisError::Tempo(netuid));
        }
        let (uids, mechanisms) = (subnet.parameters.max_uids, subnet.parameters.mechanisms);
        if uids == 0 || usize::from(uids) > NEURONS_MAX {
            return Err(GenesisError::Uids(netuid, uids));
        }
        if mechanisms == 0 || mechanisms > MECHANISMS_MAX {
            return Err(GenesisError::Mechanisms(netuid, mechanisms));
        }
        if !REVEAL_PERIOD_EPOCHS.contains(&subnet.parameters.reveal_period_epochs) {
            return Err(GenesisError::RevealPeriod(netuid));
        }
        let neurons = subnet.validators.len().saturating_add(subnet.miners.len());
        if neurons > usize::from(uids) {
            return Err(GenesisError::TooManyNeurons(netuid));
        }
    }
    Ok(())
}

fn root(state: &mut Overlay<'_>) {
    items::NETWORKS_ADDED.put(state, &ROOT, &true);
    items::SUBNETWORK_N.put(state, &ROOT, &0);
    items::MAX_ALLOWED_UIDS.put(state, &ROOT, &64);
    items::MAX_ALLOWED_VALIDATORS.put(state, &ROOT, &64);
    items::TEMPO.put(state, &ROOT, &100);
    items::REGISTRATION_ALLOWED.put(state, &ROOT, &false);
    items::TOKEN_SYMBOL.put(state, &ROOT, &"\u{3c4}".as_bytes().to_vec());
    items::COMMIT_REVEAL_ENABLED.put(state, &ROOT, &false);
}

fn create(exec: &mut Exec<'_>, subnet: &SubnetGenesis) -> Result<(), GenesisError> {
    let netuid = subnet.netuid.0;
    let (owner, owner_hotkey) = (subnet.owner_coldkey.as_bytes(), subnet.owner_hotkey.as_bytes());
    let state = &mut exec.state;
    if !neurons::associate(state, owner, owner_hotkey) {
        return Err(GenesisError::Hotkey(subnet.owner_hotkey));
    }
    items::NETWORKS_ADDED.put(state, &netuid, &true);
    items::SUBNETWORK_N.put(state, &netuid, &0);
    items::SUBNET_OWNER.put(state, &netuid, owner);
    items::SUBNET_OWNER_HOTKEY.put(state, &netuid, owner_hotkey);
    items::SUBNET_MECHANISM.put(state, &netuid, &0);
    items::SUBTOKEN_ENABLED.put(state, &netuid, &true);
    items::NETWORK_REGISTERED_AT.put(state, &netuid, &0);
    items::FIRST_EMISSION_BLOCK.put(state, &netuid, &1);
    items::TOKEN_SYMBOL.put(state, &netuid, &subnet.symbol.as_bytes().to_vec());
    items::SUBNET_TAO.put(state, &netuid, &POOL_RAO);
    for item in [&items::TOTAL_ISSUANCE, &items::TOTAL_STAKE] {
        let total = item.get(state).unwrap_or_default();
        item.put(state, &total.checked_add(POOL_RAO).ok_or(GenesisError::Coins)?);
    }
    items::SUBNET_ALPHA_IN.put(state, &netuid, &POOL_RAO);
    items::TEMPO.put(state, &netuid, &subnet.tempo);
    let identity = items::SubnetIdentity {
        subnet_name: subnet.name.as_bytes().to_vec(),
        ..items::SubnetIdentity::default()
    };
    items::SUBNET_IDENTITIES.put(state, &netuid, &identity);
    parameters(state, netuid, subnet.tempo, &subnet.parameters);
    for (hotkey, coldkey, held) in &subnet.validators {
        let uid = enter(exec, netuid, hotkey, coldkey)?;
        neurons::set_entry(&mut exec.state, &items::VALIDATOR_PERMIT, netuid, uid, true);
        let state = &mut exec.state;
        stake::credit(state, hotkey.as_bytes(), coldkey.as_bytes(), netuid, held.0)
            .map_err(|_| GenesisError::Coins)?;
        let out = items::SUBNET_ALPHA_OUT.get(state, &netuid).unwrap_or_default();
        let out = out.checked_add(held.0).ok_or(GenesisError::Coins)?;
        items::SUBNET_ALPHA_OUT.put(state, &netuid, &out);
    }
    for (hotkey, coldkey) in &subnet.miners {
        enter(exec, netuid, hotkey, coldkey)?;
    }
    Ok(())
}

/// Gives a hotkey its coldkey and its slot.
fn enter(
    exec: &mut Exec<'_>,
    netuid: u16,
    hotkey: &Hotkey,
    coldkey: &Coldkey,
) -> Result<u16, GenesisError> {
    let known = neurons::uid(&exec.state, netuid, hotkey.as_bytes()).is_some();
    let theirs = neurons::associate(&mut exec.state, coldkey.as_bytes(), hotkey.as_bytes());
    if known || !theirs {
        return Err(GenesisError::Hotkey(*hotkey));
    }
    neurons::register(exec, netuid, hotkey.as_bytes()).ok_or(GenesisError::TooManyNeurons(netuid))
}

fn parameters(state: &mut Overlay<'_>, netuid: u16, tempo: u16, given: &Parameters) {
    for (item, value) in [
        (&items::MAX_ALLOWED_UIDS, given.max_uids),
        (&items::MIN_ALLOWED_UIDS, given.max_uids.min(64)),
        (&items::MAX_ALLOWED_VALIDATORS, given.max_validators),
        (&items::MIN_ALLOWED_WEIGHTS, given.min_allowed_weights),
        (&items::MAX_WEIGHTS_LIMIT, given.max_weight),
        (&items::IMMUNITY_PERIOD, given.immunity_period),
        (&items::ACTIVITY_CUTOFF, given.activity_cutoff),
        (&items::KAPPA, given.kappa),
        (&items::RHO, 10),
        (&items::MIN_NON_IMMUNE_UIDS, given.min_non_immune_uids),
        (&items::BONDS_PENALTY, given.bonds_penalty),
        (&items::BURN_HALF_LIFE, given.burn_half_life),
        (&items::ADJUSTMENT_INTERVAL, 100),
        (&items::TARGET_REGISTRATIONS, 2),
        (&items::MAX_REGISTRATIONS_PER_BLOCK, given.max_uids),
    ] {
        item.put(state, &netuid, &value);
    }
    for (item, value) in [
        (&items::WEIGHTS_RATE_LIMIT, given.weights_rate_limit),
        (&items::WEIGHTS_VERSION_KEY, given.weights_version_key),
        (&items::SERVING_RATE_LIMIT, given.serving_rate_limit),
        (&items::BONDS_MOVING_AVERAGE, given.bonds_moving_average),
        (&items::BURN, given.burn.0),
        (&items::MIN_BURN, given.burn.0),
        (&items::MAX_BURN, given.burn_max.0.max(given.burn.0)),
        (&items::DIFFICULTY, 10_000_000),
        (&items::MIN_DIFFICULTY, 10_000_000),
        (&items::MAX_DIFFICULTY, u64::MAX / 4),
        (&items::ADJUSTMENT_ALPHA, 0),
        (&items::REVEAL_PERIOD_EPOCHS, given.reveal_period_epochs),
        (&items::LAST_EPOCH_BLOCK, 0),
        (&items::BLOCKS_SINCE_LAST_STEP, 0),
    ] {
        item.put(state, &netuid, &value);
    }
    for (item, value) in [
        (&items::REGISTRATION_ALLOWED, given.registration == Registration::Open),
        (&items::POW_REGISTRATION_ALLOWED, false),
        (&items::COMMIT_REVEAL_ENABLED, given.switches.commit_reveal),
        (&items::YUMA3_ON, given.switches.yuma3),
        (&items::LIQUID_ALPHA_ON, given.liquid_alpha.is_some()),
        (&items::BONDS_RESET_ON, false),
        (&items::TRANSFER_TOGGLE, true),
    ] {
        item.put(state, &netuid, &value);
    }
    let milli = u32::from(given.activity_cutoff).saturating_mul(1_000);
    let factor = milli.checked_div(u32::from(tempo)).unwrap_or(0);
    items::ACTIVITY_CUTOFF_FACTOR.put(state, &netuid, &factor);
    let alpha = given.liquid_alpha.unwrap_or(ALPHA_OFF);
    let steepness = i16::try_from(alpha.steepness).unwrap_or(i16::MAX);
    items::ALPHA_SIGMOID_STEEPNESS.put(state, &netuid, &steepness);
    items::ALPHA_VALUES.put(state, &netuid, &(alpha.low, alpha.high));
    // A number with 64 fractional bits.
    let increase = (u128::from(given.burn_increase_percent) << 64) / 100;
    items::BURN_INCREASE_MULT.put(state, &netuid, &increase);
    items::MECHANISM_COUNT.put(state, &netuid, &given.mechanisms);
}
