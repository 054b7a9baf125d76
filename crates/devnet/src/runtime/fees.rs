//! Fees: what a coldkey's call costs. Calls that a hotkey signs are free, as on the real chain.

use crate::call::{Call, SubtensorCall};
use crate::events::{BalancesEvent, Event, PaymentEvent, Pays};
use crate::items::Account;
use crate::runtime::{Exec, balances};

/// What every paid call costs, in rao.
const BASE_FEE_RAO: u64 = 100_000;
/// What each byte of a paid extrinsic costs, in rao.
const BYTE_FEE_RAO: u64 = 500;

/// Whether a call costs a fee.
pub(crate) const fn pays(call: &Call) -> Pays {
    match call {
        Call::Subtensor(call) => match call {
            SubtensorCall::SetWeights { .. }
            | SubtensorCall::SetMechanismWeights { .. }
            | SubtensorCall::ServeAxon { .. }
            | SubtensorCall::ServeAxonTls { .. }
            | SubtensorCall::ServePrometheus { .. }
            | SubtensorCall::CommitWeights { .. }
            | SubtensorCall::RevealWeights { .. }
            | SubtensorCall::CommitMechanismWeights { .. }
            | SubtensorCall::RevealMechanismWeights { .. }
            | SubtensorCall::CommitCrv3MechanismWeights { .. }
            | SubtensorCall::CommitTimelockedWeights { .. }
            | SubtensorCall::CommitTimelockedMechanismWeights { .. } => Pays::No,
            SubtensorCall::AddStake { .. }
            | SubtensorCall::RemoveStake { .. }
            | SubtensorCall::AddStakeLimit { .. }
            | SubtensorCall::RemoveStakeLimit { .. }
            | SubtensorCall::BurnedRegister { .. }
            | SubtensorCall::RegisterLimit { .. } => Pays::Yes,
        },
        Call::Commitments(_) => Pays::No,
        Call::Balances(_) | Call::Shield(_) | Call::Listed(_) => Pays::Yes,
    }
}

/// The two parts of a fee: for the call and for its length.
pub(crate) fn parts(pays: Pays, encoded_len: usize) -> (u64, u64) {
    match pays {
        Pays::No => (0, 0),
        Pays::Yes => {
            let len = u64::try_from(encoded_len).unwrap_or(u64::MAX);
            (BASE_FEE_RAO, BYTE_FEE_RAO.saturating_mul(len))
        }
    }
}

/// The whole fee without tip.
pub(crate) fn fee(pays: Pays, encoded_len: usize) -> u64 {
    let (base, len) = parts(pays, encoded_len);
    base.saturating_add(len)
}

/// Takes fee and tip from the signer and burns them. Validity has seen that the balance covers them.
pub(crate) fn charge(
    exec: &mut Exec<'_>,
    signer: &Account,
    pays: Pays,
    tip: u64,
    encoded_len: usize,
) {
    let due = fee(pays, encoded_len).saturating_add(tip);
    if due == 0 {
        return;
    }
    balances::burn(&mut exec.state, signer, due);
    exec.emit(Event::Balances(BalancesEvent::Withdraw(*signer, due)));
    let paid = PaymentEvent::TransactionFeePaid { who: *signer, actual_fee: due, tip };
    exec.emit(Event::TransactionPayment(paid));
}
