//! What happens in every block by itself: numbers and hashes, the price of registration, emission, and epochs.

use crate::events::{DispatchInfo, Event, SubtensorEvent, SystemEvent};
use crate::hash::H256;
use crate::items::{self, Account};
use crate::runtime::reveal::Target;
use crate::runtime::{Exec, ROOT, neurons, registration, reveal, stake};
use crate::state::{Overlay, Read};
use crate::yuma::{self, EpochInput, EpochOutput, LiquidAlpha};

/// How many block hashes the state keeps; extrinsics may be mortal for at most as many blocks.
pub(crate) const BLOCK_HASH_COUNT: u32 = 256;
/// Alpha that every subnet emits in a block, in rao.
pub(crate) const BLOCK_EMISSION_RAO: u64 = 1_000_000_000;

/// Begins a block: the first extrinsic, the timestamp, is applied here too.
pub(crate) fn begin(exec: &mut Exec<'_>, parent: &H256, now_ms: u64, slot: u64) {
    let number = u32::try_from(exec.block).unwrap_or(u32::MAX);
    let state = &mut exec.state;
    items::NUMBER.put(state, &number);
    items::PARENT_HASH.put(state, parent);
    items::CURRENT_SLOT.put(state, &slot);
    let last = number.saturating_sub(1);
    items::BLOCK_HASH.put(state, &last, parent);
    // The genesis hash stays for good: signatures of immortal extrinsics cover it.
    if let Some(old) = last.checked_sub(BLOCK_HASH_COUNT).filter(|old| *old > 0) {
        items::BLOCK_HASH.remove(state, &old);
    }
    reveal::open_matured(exec);
    for netuid in neurons::netuids(&exec.state) {
        if netuid != ROOT {
            subnet_step(exec, netuid);
        }
    }
    exec.begin_extrinsic(0);
    items::NOW.put(&mut exec.state, &now_ms);
    exec.emit(Event::System(SystemEvent::ExtrinsicSuccess(DispatchInfo::mandatory())));
}

/// Ends a block with that many extrinsics.
pub(crate) fn end(exec: &mut Exec<'_>, extrinsics: u32) {
    items::EXTRINSIC_COUNT.put(&mut exec.state, &extrinsics);
    exec.store_events();
}

fn subnet_step(exec: &mut Exec<'_>, netuid: u16) {
    registration::lower_price(&mut exec.state, netuid);
    emit_block(exec, netuid);
    let since = items::BLOCKS_SINCE_LAST_STEP.get(&exec.state, &netuid).unwrap_or_default();
    if !reveal::epoch_is_due(&exec.state, exec.block, netuid) {
        items::BLOCKS_SINCE_LAST_STEP.put(&mut exec.state, &netuid, &since.saturating_add(1));
        return;
    }
    run_epoch(exec, netuid);
    let block = exec.block;
    let state = &mut exec.state;
    let index = items::SUBNET_EPOCH_INDEX.get(state, &netuid).unwrap_or_default();
    items::BLOCKS_SINCE_LAST_STEP.put(state, &netuid, &0);
    items::LAST_EPOCH_BLOCK.put(state, &netuid, &block);
    items::LAST_STEP_BLOCK.put(state, &netuid, &block);
    items::SUBNET_EPOCH_INDEX.put(state, &netuid, &index.saturating_add(1));
}

/// Splits one block's alpha: the owner's cut first, the rest in halves for servers and validators.
fn emit_block(exec: &mut Exec<'_>, netuid: u16) {
    let state = &mut exec.state;
    let cut = items::SUBNET_OWNER_CUT.get(state).unwrap_or_default();
    let owner = stake::scale(BLOCK_EMISSION_RAO, u64::from(cut), u64::from(u16::MAX));
    let rest = BLOCK_EMISSION_RAO.saturating_sub(owner);
    let server = rest / 2;
    for (item, amount) in [
        (&items::PENDING_OWNER_CUT, owner),
        (&items::PENDING_SERVER, server),
        (&items::PENDING_VALIDATOR, rest.saturating_sub(server)),
    ] {
        let pending = item.get(state, &netuid).unwrap_or_default();
        item.put(state, &netuid, &pending.saturating_add(amount));
    }
    items::ALPHA_OUT_EMISSION.put(state, &netuid, &BLOCK_EMISSION_RAO);
}

fn run_epoch(exec: &mut Exec<'_>, netuid: u16) {
    let take = |exec: &mut Exec<'_>, item: &items::Map1<u16, u64>| {
        let pending = item.get(&exec.state, &netuid).unwrap_or_default();
        item.put(&mut exec.state, &netuid, &0);
        pending
    };
    let owner_cut = take(exec, &items::PENDING_OWNER_CUT);
    let pools =
        take(exec, &items::PENDING_SERVER).saturating_add(take(exec, &items::PENDING_VALIDATOR));
    let mechanisms = neurons::mechanisms(&exec.state, netuid).max(1);
    let share = pools.checked_div(u64::from(mechanisms)).unwrap_or(pools);
    let mut outputs = Vec::new();
    let mut stakes = Vec::new();
    for mecid in 0..mechanisms {
        // What does not divide goes to the first.
        let others = share.saturating_mul(u64::from(mechanisms.saturating_sub(1)));
        let emission = if mecid == 0 { pools.saturating_sub(others) } else { share };
        let input = input(&exec.state, exec.block, (netuid, mecid), emission);
        match yuma::epoch(&input) {
            Ok(output) => {
                store_mechanism(&mut exec.state, neurons::storage_index(netuid, mecid), &output);
                stakes = input.stake;
                outputs.push(output);
            }
            // The input is made of this chain's own state: a mismatch is a bug, and the epoch pays nobody.
            Err(error) => tracing::error!(netuid, error = %error, "epoch could not be computed"),
        }
    }
    let Some(whole) = together(&outputs) else { return };
    store(exec, netuid, &stakes, &whole);
    distribute(exec, netuid, owner_cut, &whole);
}

/// A subnet's epoch from those of its mechanisms: what is given out is added up, and shares are averaged, since each
/// mechanism gives out the same. Who is active and permitted does not depend on the mechanism.
fn together(outputs: &[EpochOutput]) -> Option<EpochOutput> {
    let mut whole = outputs.first()?.clone();
    let count = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
    let average = |of: fn(&EpochOutput) -> &Vec<u16>| -> Vec<u16> {
        let share = |uid: usize| {
            let all = outputs.iter().filter_map(|output| of(output).get(uid).copied());
            let sum: u32 = all.map(u32::from).sum();
            u16::try_from(sum.checked_div(count).unwrap_or_default()).unwrap_or(u16::MAX)
        };
        (0..whole.active.len()).map(share).collect()
    };
    let sum = |of: fn(&EpochOutput) -> &Vec<u64>| -> Vec<u64> {
        let total = |uid: usize| {
            let all = outputs.iter().filter_map(|output| of(output).get(uid).copied());
            all.fold(0_u64, u64::saturating_add)
        };
        (0..whole.active.len()).map(total).collect()
    };
    let dividends = average(|output| &output.dividends);
    let consensus = average(|output| &output.consensus);
    let validator_trust = average(|output| &output.validator_trust);
    let emission = sum(|output| &output.emission);
    let server_emission = sum(|output| &output.server_emission);
    let validator_emission = sum(|output| &output.validator_emission);
    whole.dividends = dividends;
    whole.consensus = consensus;
    whole.validator_trust = validator_trust;
    whole.emission = emission;
    whole.server_emission = server_emission;
    whole.validator_emission = validator_emission;
    Some(whole)
}

fn input(state: &impl Read, block: u64, target: Target, emission_rao: u64) -> EpochInput {
    let (netuid, mecid) = target;
    let index = neurons::storage_index(netuid, mecid);
    let n = neurons::count(state, netuid);
    let threshold = items::STAKE_THRESHOLD.get(state).unwrap_or_default();
    let hotkeys: Vec<Account> =
        (0..n).map(|uid| neurons::hotkey(state, netuid, uid).unwrap_or_default()).collect();
    let owner = items::SUBNET_OWNER_HOTKEY.get(state, &netuid).unwrap_or_default();
    let weight = |hotkey: &Account| {
        let weight = stake::weight(state, hotkey, netuid);
        if weight < threshold && *hotkey != owner { 0 } else { weight }
    };
    let per_uid = |item: &items::Map2<u16, u16, Vec<(u16, u16)>>| {
        let row = |uid: u16| {
            let row = item.get(state, &index, &uid).unwrap_or_default();
            row.into_iter().filter(|(to, _)| *to < n).collect()
        };
        (0..n).map(row).collect::<Vec<Vec<(u16, u16)>>>()
    };
    let sized = |mut list: Vec<u64>| {
        list.resize(usize::from(n), 0);
        list
    };
    let mut permits = items::VALIDATOR_PERMIT.get(state, &netuid).unwrap_or_default();
    permits.resize(usize::from(n), false);
    let registered_at =
        |uid: u16| items::BLOCK_AT_REGISTRATION.get(state, &netuid, &uid).unwrap_or_default();
    let registered_at: Vec<u64> = (0..n).map(registered_at).collect();
    let mut weights = per_uid(&items::WEIGHTS);
    drop_unmeant(&mut weights, &reveal::waiting_since(state, block, target, n), &registered_at);
    EpochInput {
        block,
        tempo: u64::from(items::TEMPO.get(state, &netuid).unwrap_or_default()),
        n: usize::from(n),
        stake: hotkeys.iter().map(weight).collect(),
        weights,
        bonds: per_uid(&items::BONDS),
        last_update: sized(items::LAST_UPDATE.get(state, &index).unwrap_or_default()),
        registered_at,
        permits,
        kappa: items::KAPPA.get(state, &netuid).unwrap_or_default(),
        bonds_moving_average: items::BONDS_MOVING_AVERAGE.get(state, &netuid).unwrap_or_default(),
        bonds_penalty: items::BONDS_PENALTY.get(state, &netuid).unwrap_or(u16::MAX),
        activity_cutoff: u64::from(items::ACTIVITY_CUTOFF.get(state, &netuid).unwrap_or_default()),
        max_validators: items::MAX_ALLOWED_VALIDATORS.get(state, &netuid).unwrap_or_default(),
        emission_rao,
        owner_uid: neurons::uid(state, netuid, &owner),
        last_step: items::LAST_STEP_BLOCK.get(state, &netuid).unwrap_or_default(),
        yuma3: items::YUMA3_ON.get(state, &netuid).unwrap_or_default(),
        liquid_alpha: liquid_alpha(state, netuid),
    }
}

/// Leaves out what a neuron whose commit still waits gives to one that was registered after the commit: the commit will say
/// otherwise.
fn drop_unmeant(weights: &mut [Vec<(u16, u16)>], since: &[Option<u64>], registered_at: &[u64]) {
    for (row, since) in weights.iter_mut().zip(since) {
        let Some(since) = since else { continue };
        let at = |uid: u16| registered_at.get(usize::from(uid)).copied().unwrap_or_default();
        row.retain(|(to, _)| *since >= at(*to));
    }
}

/// The bounds of each bond's own moving average, if the subnet has it on.
fn liquid_alpha(state: &impl Read, netuid: u16) -> Option<LiquidAlpha> {
    if !items::LIQUID_ALPHA_ON.get(state, &netuid).unwrap_or_default() {
        return None;
    }
    let (low, high) = items::ALPHA_VALUES.get(state, &netuid).unwrap_or_default();
    let steepness = items::ALPHA_SIGMOID_STEEPNESS.get(state, &netuid).unwrap_or_default();
    Some(LiquidAlpha { low, high, steepness: u16::try_from(steepness).unwrap_or_default() })
}

/// What each mechanism keeps for itself.
fn store_mechanism(state: &mut Overlay<'_>, index: u16, output: &EpochOutput) {
    items::INCENTIVE.put(state, &index, &output.incentive);
    for (uid, bonds) in (0_u16..).zip(&output.bonds) {
        items::BONDS.put(state, &index, &uid, bonds);
    }
}

fn store(exec: &mut Exec<'_>, netuid: u16, stakes: &[u64], output: &EpochOutput) {
    let state = &mut exec.state;
    items::DIVIDENDS.put(state, &netuid, &output.dividends);
    items::CONSENSUS.put(state, &netuid, &output.consensus);
    items::VALIDATOR_TRUST.put(state, &netuid, &output.validator_trust);
    items::EMISSION.put(state, &netuid, &output.emission);
    items::VALIDATOR_PERMIT.put(state, &netuid, &output.new_permits);
    items::ACTIVE.put(state, &netuid, &output.active);
    items::STAKE_WEIGHT.put(state, &netuid, &stake_weights(stakes));
    let event = SubtensorEvent::IncentiveAlphaEmittedToMiners {
        netuid,
        emissions: output.server_emission.clone(),
    };
    exec.emit(Event::Subtensor(event));
}

/// Stake as a share of the largest, of 65,535.
fn stake_weights(stake: &[u64]) -> Vec<u16> {
    let max = stake.iter().max().copied().unwrap_or_default();
    let share = |held: &u64| stake::scale(*held, u64::from(u16::MAX), max);
    stake.iter().map(|held| u16::try_from(share(held)).unwrap_or(u16::MAX)).collect()
}

/// Credits an epoch as stake. What the owner's own hotkey earns by serving is burned, as on the real chain.
fn distribute(exec: &mut Exec<'_>, netuid: u16, owner_cut: u64, output: &EpochOutput) {
    let state = &mut exec.state;
    let owner_hotkey = items::SUBNET_OWNER_HOTKEY.get(state, &netuid).unwrap_or_default();
    let owner = items::SUBNET_OWNER.get(state, &netuid).unwrap_or_default();
    let mut failed = stake::credit(state, &owner_hotkey, &owner, netuid, owner_cut).is_err();
    let mut given_out = owner_cut;
    for (uid, (server, validator)) in
        (0_u16..).zip(output.server_emission.iter().zip(&output.validator_emission))
    {
        let Some(hotkey) = neurons::hotkey(state, netuid, uid) else { continue };
        let coldkey = items::OWNER.get(state, &hotkey).unwrap_or(hotkey);
        if *server > 0 && hotkey != owner_hotkey {
            failed |= stake::credit(state, &hotkey, &coldkey, netuid, *server).is_err();
            given_out = given_out.saturating_add(*server);
        }
        if *validator > 0 {
            failed |= stake::pay_dividends(state, &hotkey, netuid, *validator).is_err();
            given_out = given_out.saturating_add(*validator);
        }
        items::ALPHA_DIVIDENDS.put(state, &netuid, &hotkey, validator);
    }
    let out = items::SUBNET_ALPHA_OUT.get(state, &netuid).unwrap_or_default();
    items::SUBNET_ALPHA_OUT.put(state, &netuid, &out.saturating_add(given_out));
    if failed {
        // Only reachable past 2^64 rao of one hotkey; whoever is at the limit stays there.
        tracing::warn!(netuid, "an emission did not fit into a stake");
    }
}
