//! Weights by commit and reveal: hashes that their author reveals, and sealed weights that a beacon's round opens.
//!
//! A commit belongs to the epoch in which it gets into a block and is revealed `RevealPeriodEpochs` epochs later: hashes by
//! a call in exactly that epoch, sealed ones by the chain itself before the epoch's consensus runs, or later in the same
//! epoch when the round's signature comes late. What cannot be opened, names another hotkey or says weights that would be
//! refused in the clear is dropped without a word, as on the real chain.

use parity_scale_codec::{Decode, Encode};

use crate::call::{SubtensorCall, WeightVector};
use crate::events::{self, DispatchError, Event, SubtensorEvent};
use crate::hash::{H256, blake2_256};
use crate::items::{self, Account, TimelockedCommit, WeightCommit};
use crate::runtime::{Exec, ROOT, beacon, neurons, weights};
use crate::state::Read;

/// The longest sealed commit; a longer one is no call.
pub(crate) const COMMIT_BYTES_MAX: usize = 5_000;
/// Commits of one hotkey that wait to be revealed.
const UNREVEALED_MAX: usize = 10;
/// The version of sealed commits that this chain opens.
pub(crate) const COMMIT_REVEAL_VERSION: u16 = 4;
/// Sealed commits that one block opens: each costs two pairings. The rest waits for the next block of the epoch.
const OPENED_PER_BLOCK_MAX: usize = 256;
/// Epochs of one subnet that are looked through for expired commits; there is never more than one per reveal period.
const EPOCHS_SCANNED_MAX: usize = 1_024;
/// Hotkeys of one subnet whose commits the consensus looks at; a subnet has at most as many slots.
const COMMITTERS_MAX: usize = 4_096;

/// A subnet and one of its mechanisms.
pub(crate) type Target = (u16, u8);

/// What a hash commit promised.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revealed<'a> {
    pub(crate) uids: &'a [u16],
    pub(crate) values: &'a [u16],
    pub(crate) salt: &'a [u16],
    pub(crate) version_key: u64,
}

/// A sealed commit as its call brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealedCommit<'a> {
    pub(crate) commit: &'a [u8],
    pub(crate) round: u64,
    pub(crate) version: u16,
}

/// What a sealed commit holds.
#[derive(Debug, Decode)]
struct Payload {
    hotkey: Vec<u8>,
    vector: WeightVector,
}

impl<'c> Revealed<'c> {
    /// What a call reveals, and where; none for every other call.
    pub(crate) fn of(call: &'c SubtensorCall) -> Option<(Target, Self)> {
        match call {
            SubtensorCall::RevealWeights { netuid, uids, values, salt, version_key } => {
                Some(((*netuid, 0), Self { uids, values, salt, version_key: *version_key }))
            }
            SubtensorCall::RevealMechanismWeights {
                netuid,
                mecid,
                uids,
                values,
                salt,
                version_key,
            } => Some(((*netuid, *mecid), Self { uids, values, salt, version_key: *version_key })),
            _ => None,
        }
    }
}

impl<'c> SealedCommit<'c> {
    /// What a call commits sealed, and where; none for every other call.
    pub(crate) fn of(call: &'c SubtensorCall) -> Option<(Target, Self)> {
        match call {
            SubtensorCall::CommitTimelockedWeights { netuid, commit, reveal_round, version } => {
                Some(((*netuid, 0), Self { commit, round: *reveal_round, version: *version }))
            }
            SubtensorCall::CommitTimelockedMechanismWeights {
                netuid,
                mecid,
                commit,
                reveal_round,
                version,
            } => {
                Some(((*netuid, *mecid), Self { commit, round: *reveal_round, version: *version }))
            }
            SubtensorCall::CommitCrv3MechanismWeights { netuid, mecid, commit, reveal_round } => {
                let version = COMMIT_REVEAL_VERSION;
                Some(((*netuid, *mecid), Self { commit, round: *reveal_round, version }))
            }
            _ => None,
        }
    }
}

/// Whether a subnet takes weights by commit and reveal only.
pub(crate) fn is_on(state: &impl Read, netuid: u16) -> bool {
    items::COMMIT_REVEAL_ENABLED.get(state, &netuid).unwrap_or_default()
}

/// Whether a subnet's epoch runs in this block and has not run yet.
pub(crate) fn epoch_is_due(state: &impl Read, block: u64, netuid: u16) -> bool {
    let last = items::LAST_EPOCH_BLOCK.get(state, &netuid).unwrap_or_default();
    let tempo = u64::from(items::TEMPO.get(state, &netuid).unwrap_or_default());
    tempo > 0 && block.saturating_sub(last) >= tempo
}

/// `commit_weights` and `commit_mechanism_weights`.
pub(crate) fn commit_hash(
    exec: &mut Exec<'_>,
    who: &Account,
    target: Target,
    hash: H256,
) -> Result<(), DispatchError> {
    let uid = committer(&exec.state, exec.block, who, target, None)?;
    let netuid = target.0;
    let index = weights::index(target);
    let mut commits = items::WEIGHT_COMMITS.get(&exec.state, &index, who).unwrap_or_default();
    let expired = |commit: &WeightCommit| is_expired(&exec.state, exec.block, netuid, commit.1);
    let gone = commits.iter().take_while(|commit| expired(commit)).count();
    commits.drain(..gone);
    if commits.len() >= UNREVEALED_MAX {
        return Err(events::TOO_MANY_UNREVEALED_COMMITS);
    }
    commits.push((hash, epoch(&exec.state, exec.block, netuid), exec.block, 0));
    items::WEIGHT_COMMITS.put(&mut exec.state, &index, who, &commits);
    exec.emit(Event::Subtensor(SubtensorEvent::WeightsCommitted(*who, index, hash)));
    neurons::set_entry(&mut exec.state, &items::LAST_UPDATE, index, uid, exec.block);
    Ok(())
}

/// `commit_timelocked_weights`, `commit_timelocked_mechanism_weights` and `commit_crv3_mechanism_weights`.
pub(crate) fn commit_sealed(
    exec: &mut Exec<'_>,
    who: &Account,
    target: Target,
    sealed: SealedCommit<'_>,
) -> Result<(), DispatchError> {
    let uid = committer(&exec.state, exec.block, who, target, Some(sealed.version))?;
    let index = weights::index(target);
    let epoch = epoch(&exec.state, exec.block, target.0);
    let mut commits =
        items::TIMELOCKED_COMMITS.get(&exec.state, &index, &epoch).unwrap_or_default();
    if commits.iter().filter(|commit| commit.0 == *who).count() >= UNREVEALED_MAX {
        return Err(events::TOO_MANY_UNREVEALED_COMMITS);
    }
    commits.push((*who, exec.block, sealed.commit.to_vec(), sealed.round));
    items::TIMELOCKED_COMMITS.put(&mut exec.state, &index, &epoch, &commits);
    let hash = blake2_256(sealed.commit);
    let event = SubtensorEvent::TimelockedWeightsCommitted(*who, index, hash, sealed.round);
    exec.emit(Event::Subtensor(event));
    neurons::set_entry(&mut exec.state, &items::LAST_UPDATE, index, uid, exec.block);
    Ok(())
}

/// `reveal_weights` and `reveal_mechanism_weights`.
pub(crate) fn reveal(
    exec: &mut Exec<'_>,
    who: &Account,
    target: Target,
    revealed: Revealed<'_>,
) -> Result<(), DispatchError> {
    let netuid = target.0;
    if !items::NETWORKS_ADDED.get(&exec.state, &netuid).unwrap_or_default() {
        return Err(events::SUBNET_NOT_EXISTS);
    }
    let index = weights::index(target);
    if !is_on(&exec.state, netuid) {
        return Err(events::COMMIT_REVEAL_DISABLED);
    }
    let commits = items::WEIGHT_COMMITS.get(&exec.state, &index, who);
    let mut commits = commits.ok_or(events::NO_WEIGHTS_COMMIT_FOUND)?;
    let expired = |commit: &WeightCommit| is_expired(&exec.state, exec.block, netuid, commit.1);
    let gone = commits.iter().take_while(|commit| expired(commit)).count();
    let expired: Vec<WeightCommit> = commits.drain(..gone).collect();
    let hash = hash_of(who, index, revealed);
    let was_expired = expired.iter().any(|commit| commit.0 == hash);
    let Some(position) = commits.iter().position(|commit| commit.0 == hash) else {
        return Err(match (was_expired, commits.is_empty()) {
            (true, _) => events::EXPIRED_WEIGHT_COMMIT,
            (false, true) => events::NO_WEIGHTS_COMMIT_FOUND,
            (false, false) => events::INVALID_REVEAL,
        });
    };
    let committed = commits.get(position).map(|commit| commit.1);
    if !committed.is_some_and(|epoch| is_in_window(&exec.state, exec.block, netuid, epoch)) {
        return Err(events::REVEAL_TOO_EARLY);
    }
    commits.drain(..=position);
    if commits.is_empty() {
        items::WEIGHT_COMMITS.remove(&mut exec.state, &index, who);
    } else {
        items::WEIGHT_COMMITS.put(&mut exec.state, &index, who, &commits);
    }
    let vector = WeightVector {
        dests: revealed.uids.to_vec(),
        weights: revealed.values.to_vec(),
        version_key: revealed.version_key,
    };
    weights::apply(exec, who, target, &vector)?;
    exec.emit(Event::Subtensor(SubtensorEvent::WeightsRevealed(*who, index, hash)));
    Ok(())
}

/// Opens every subnet's sealed commits whose epoch has come, before the consensus of this block runs.
pub(crate) fn open_matured(exec: &mut Exec<'_>) {
    let mut left = OPENED_PER_BLOCK_MAX;
    for netuid in neurons::netuids(&exec.state) {
        if netuid != ROOT {
            for mecid in 0..neurons::mechanisms(&exec.state, netuid) {
                open_subnet(exec, (netuid, mecid), &mut left);
            }
        }
    }
}

/// What the pool asks of a reveal: a commit, and its window.
pub(crate) fn check_reveal(
    state: &impl Read,
    block: u64,
    who: &Account,
    target: Target,
    revealed: Revealed<'_>,
) -> Result<(), DispatchError> {
    let index = weights::index(target);
    let commits = items::WEIGHT_COMMITS.get(state, &index, who).unwrap_or_default();
    let hash = hash_of(who, index, revealed);
    let found = commits.iter().find(|commit| commit.0 == hash);
    let found = found.ok_or(events::NO_WEIGHTS_COMMIT_FOUND)?;
    if is_in_window(state, block, target.0, found.1) {
        Ok(())
    } else {
        Err(events::REVEAL_TOO_EARLY)
    }
}

/// What the pool asks of a sealed commit: a round that the chain has not passed.
pub(crate) fn check_round(state: &impl Read, round: u64) -> Result<(), DispatchError> {
    if round < items::LAST_STORED_ROUND.get(state).unwrap_or_default() {
        return Err(events::INVALID_REVEAL_ROUND);
    }
    Ok(())
}

/// The block of each neuron's oldest commit that still waits, by uid; none where nothing waits or commit-reveal is off.
/// The consensus ignores weights that such a neuron gives to one that was registered later: it could not mean it.
pub(crate) fn waiting_since(
    state: &impl Read,
    block: u64,
    target: Target,
    n: u16,
) -> Vec<Option<u64>> {
    let netuid = target.0;
    let mut since: Vec<Option<u64>> = vec![None; usize::from(n)];
    if !is_on(state, netuid) {
        return since;
    }
    let index = weights::index(target);
    let mut note = |who: &Account, committed: u64| {
        let uid = neurons::uid(state, netuid, who).map(usize::from);
        if let Some(cell) = uid.and_then(|uid| since.get_mut(uid)) {
            *cell = Some(cell.map_or(committed, |known| known.min(committed)));
        }
    };
    let prefix = items::WEIGHT_COMMITS.first_prefix(&index);
    for key in state.keys(&prefix, None, COMMITTERS_MAX) {
        let who = key.last_chunk::<32>().copied().unwrap_or_default();
        let commits = items::WEIGHT_COMMITS.get(state, &index, &who).unwrap_or_default();
        let waits = commits.iter().find(|commit| !is_expired(state, block, netuid, commit.1));
        if let Some(commit) = waits {
            note(&who, commit.2);
        }
    }
    for epoch in epochs_with_commits(state, index) {
        let commits = items::TIMELOCKED_COMMITS.get(state, &index, &epoch).unwrap_or_default();
        commits.iter().for_each(|commit| note(&commit.0, commit.1));
    }
    since
}

/// The hash that a commit promises its weights with: blake2b-256 of what a reveal says, with its author and subnet.
pub(crate) fn hash_of(who: &Account, index: u16, revealed: Revealed<'_>) -> H256 {
    let Revealed { uids, values, salt, version_key } = revealed;
    blake2_256(&(who, index, uids, values, salt, version_key).encode())
}

/// The epoch that a commit or reveal in this block belongs to: one more while an epoch is due and has not run.
fn epoch(state: &impl Read, block: u64, netuid: u16) -> u64 {
    let index = items::SUBNET_EPOCH_INDEX.get(state, &netuid).unwrap_or_default();
    index.saturating_add(u64::from(epoch_is_due(state, block, netuid)))
}

fn reveal_period(state: &impl Read, netuid: u16) -> u64 {
    items::REVEAL_PERIOD_EPOCHS.get(state, &netuid).unwrap_or(1)
}

fn is_in_window(state: &impl Read, block: u64, netuid: u16, committed: u64) -> bool {
    epoch(state, block, netuid) == committed.saturating_add(reveal_period(state, netuid))
}

fn is_expired(state: &impl Read, block: u64, netuid: u16, committed: u64) -> bool {
    epoch(state, block, netuid) > committed.saturating_add(reveal_period(state, netuid))
}

/// The checks that both kinds of commit share, in the real chain's order; the version only of sealed ones.
fn committer(
    state: &impl Read,
    block: u64,
    who: &Account,
    (netuid, mecid): Target,
    version: Option<u16>,
) -> Result<u16, DispatchError> {
    weights::ensure_mechanism(state, netuid, mecid)?;
    if !is_on(state, netuid) {
        return Err(events::COMMIT_REVEAL_DISABLED);
    }
    let asked = items::COMMIT_REVEAL_VERSION.get(state).unwrap_or(COMMIT_REVEAL_VERSION);
    if version.is_some_and(|version| version != asked) {
        return Err(events::INCORRECT_COMMIT_REVEAL_VERSION);
    }
    let uid = neurons::uid(state, netuid, who).ok_or(events::NOT_REGISTERED_IN_SUBNET)?;
    if !weights::rate_allows(state, block, (netuid, mecid), uid) {
        return Err(events::COMMITTING_WEIGHTS_TOO_FAST);
    }
    Ok(uid)
}

fn epochs_with_commits(state: &impl Read, index: u16) -> Vec<u64> {
    let prefix = items::TIMELOCKED_COMMITS.first_prefix(&index);
    let keys = state.keys(&prefix, None, EPOCHS_SCANNED_MAX);
    keys.iter().filter_map(|key| key.last_chunk::<8>().copied().map(u64::from_le_bytes)).collect()
}

fn open_subnet(exec: &mut Exec<'_>, target: Target, left: &mut usize) {
    let (netuid, index) = (target.0, weights::index(target));
    let period = reveal_period(&exec.state, netuid);
    let current = epoch(&exec.state, exec.block, netuid);
    let due = current.saturating_sub(period);
    for old in epochs_with_commits(&exec.state, index).into_iter().filter(|old| *old < due) {
        items::TIMELOCKED_COMMITS.remove(&mut exec.state, &index, &old);
    }
    if current < period {
        return;
    }
    let Some(commits) = items::TIMELOCKED_COMMITS.get(&exec.state, &index, &due) else { return };
    let mut waiting: Vec<TimelockedCommit> = Vec::new();
    for commit in commits {
        let pulse = items::PULSES.get(&exec.state, &commit.3).filter(|_| *left > 0);
        let Some(pulse) = pulse else {
            waiting.push(commit);
            continue;
        };
        *left = left.saturating_sub(1);
        let who = commit.0;
        match open_one(exec, target, &commit, &pulse) {
            Ok(()) => {
                let event = SubtensorEvent::TimelockedWeightsRevealed(index, who);
                exec.emit(Event::Subtensor(event));
            }
            Err(reason) => tracing::debug!(netuid, reason, "a sealed commit was dropped"),
        }
    }
    if waiting.is_empty() {
        items::TIMELOCKED_COMMITS.remove(&mut exec.state, &index, &due);
    } else {
        items::TIMELOCKED_COMMITS.put(&mut exec.state, &index, &due, &waiting);
    }
}

fn open_one(
    exec: &mut Exec<'_>,
    target: Target,
    (who, _, commit, _): &TimelockedCommit,
    pulse: &beacon::Pulse,
) -> Result<(), &'static str> {
    let opened = beacon::open(commit, &pulse.signature).map_err(|_| "it does not open")?;
    let vector = payload(who, &opened)?;
    weights::apply(exec, who, target, &vector).map_err(|_| "its weights are refused")
}

/// The weights that a commit holds: with the hotkey, which must be the sender's, or in the older form without.
fn payload(who: &Account, opened: &[u8]) -> Result<WeightVector, &'static str> {
    if let Ok(Payload { hotkey, vector }) = Payload::decode(&mut &opened[..])
        && let Some(named) = hotkey.first_chunk::<32>()
    {
        return if named == who { Ok(vector) } else { Err("it names another hotkey") };
    }
    WeightVector::decode(&mut &opened[..]).map_err(|_| "it holds no weights")
}
