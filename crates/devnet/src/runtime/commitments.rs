//! What a neuron writes on the chain about itself, within its quota.

use parity_scale_codec::{Compact, Decode, Encode};

use crate::events::{self, CommitmentsEvent, DispatchError, Event};
use crate::items::{self, Account};
use crate::runtime::{Exec, neurons};

/// The most fields of one commitment; `Commitments.MaxFields`.
const FIELDS_MAX: u32 = 3;
/// A commitment counts as at least this many bytes of the quota.
const CHARGE_MIN_BYTES: u64 = 100;
/// The quota of an epoch when the chain stores none.
const SPACE_MAX_BYTES: u32 = 3_100;

/// `set_commitment`. The info's bytes were checked against their type when the call was decoded.
pub(crate) fn set(
    exec: &mut Exec<'_>,
    hotkey: &Account,
    netuid: u16,
    info: &[u8],
) -> Result<(), DispatchError> {
    if neurons::uid(&exec.state, netuid, hotkey).is_none() {
        return Err(events::ACCOUNT_NOT_ALLOWED_COMMIT);
    }
    let fields = Compact::<u32>::decode(&mut &*info).map_or(u32::MAX, |count| count.0);
    if fields > FIELDS_MAX {
        return Err(events::TOO_MANY_FIELDS);
    }
    let epoch = items::SUBNET_EPOCH_INDEX.get(&exec.state, &netuid).unwrap_or_default();
    let charge = u64::try_from(info.len()).unwrap_or(u64::MAX).max(CHARGE_MIN_BYTES);
    let used = match items::USED_SPACE_OF.get(&exec.state, &netuid, hotkey) {
        Some((last, used)) if last == epoch => used,
        _ => 0,
    };
    let used = used.saturating_add(charge);
    let quota = items::MAX_SPACE.get(&exec.state).unwrap_or(SPACE_MAX_BYTES);
    if used > u64::from(quota) {
        return Err(events::SPACE_LIMIT_EXCEEDED);
    }
    items::USED_SPACE_OF.put(&mut exec.state, &netuid, hotkey, &(epoch, used));
    let block = u32::try_from(exec.block).unwrap_or(u32::MAX);
    let mut registration = (0_u64, block).encode();
    registration.extend_from_slice(info);
    let key = items::COMMITMENT_OF.key(&netuid, hotkey);
    exec.state.write(key, Some(registration));
    items::LAST_COMMITMENT.put(&mut exec.state, &netuid, hotkey, &block);
    exec.emit(Event::Commitments(CommitmentsEvent::Commitment { netuid, who: *hotkey }));
    Ok(())
}
