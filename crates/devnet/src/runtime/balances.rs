//! Coins: accounts, transfers, and the total that must always add up.

use crate::call::BalancesCall;
use crate::events::{
    self, ArithmeticError, BalancesEvent, DispatchError, Event, SystemEvent, TokenError,
};
use crate::items::{self, Account, AccountInfo};
use crate::runtime::Exec;
use crate::state::{Overlay, Read};

/// The smallest balance an account may have, in rao.
pub(crate) const EXISTENTIAL_DEPOSIT_RAO: u64 = 500;

/// An account as it is stored, or an empty one.
pub(crate) fn account(state: &impl Read, who: &Account) -> AccountInfo {
    items::ACCOUNT.get(state, who).unwrap_or_default()
}

/// Counts one extrinsic of the account.
pub(crate) fn bump_nonce(state: &mut Overlay<'_>, who: &Account) {
    let mut info = account(state, who);
    info.nonce = info.nonce.saturating_add(1);
    items::ACCOUNT.put(state, who, &info);
}

/// Adds coins to an account and to both totals.
pub(crate) fn mint(state: &mut Overlay<'_>, who: &Account, amount: u64) {
    let mut info = account(state, who);
    info.free = info.free.saturating_add(amount);
    info.providers = 1;
    items::ACCOUNT.put(state, who, &info);
    change_totals(state, amount, u64::saturating_add);
}

/// Takes coins from an account and from both totals. Takes no more than there is.
pub(crate) fn burn(state: &mut Overlay<'_>, who: &Account, amount: u64) {
    let mut info = account(state, who);
    let taken = amount.min(info.free);
    info.free = info.free.saturating_sub(taken);
    items::ACCOUNT.put(state, who, &info);
    change_totals(state, taken, u64::saturating_sub);
}

/// The coins in balances, and those in balances and stake together, which the two pallets count separately.
fn change_totals(state: &mut Overlay<'_>, amount: u64, how: fn(u64, u64) -> u64) {
    for item in [&items::BALANCES_ISSUANCE, &items::TOTAL_ISSUANCE] {
        let total = item.get(state).unwrap_or_default();
        item.put(state, &how(total, amount));
    }
}

/// Carries out either kind of transfer.
pub(crate) fn transfer(
    exec: &mut Exec<'_>,
    from: &Account,
    call: &BalancesCall,
) -> Result<(), DispatchError> {
    let (dest, value, keep_alive) = match call {
        BalancesCall::TransferAllowDeath { dest, value } => (dest, value.0, false),
        BalancesCall::TransferKeepAlive { dest, value } => (dest, value.0, true),
    };
    let to = *dest.account();
    let mut sender = account(&exec.state, from);
    let left = sender.free.checked_sub(value).ok_or(unavailable())?;
    if left < EXISTENTIAL_DEPOSIT_RAO && (keep_alive || left > 0) {
        // Nothing here reaps accounts, so dust is refused in both kinds of transfer.
        return Err(unavailable());
    }
    if to == *from || value == 0 {
        exec.emit(Event::Balances(BalancesEvent::Transfer { from: *from, to, amount: value }));
        return Ok(());
    }
    let mut receiver = account(&exec.state, &to);
    let is_new = receiver.providers == 0;
    let filled = receiver.free.checked_add(value);
    let filled = filled.ok_or(DispatchError::Arithmetic(ArithmeticError::Overflow))?;
    if filled < EXISTENTIAL_DEPOSIT_RAO {
        return Err(DispatchError::Token(TokenError::BelowMinimum));
    }
    sender.free = left;
    receiver.free = filled;
    receiver.providers = 1;
    items::ACCOUNT.put(&mut exec.state, from, &sender);
    items::ACCOUNT.put(&mut exec.state, &to, &receiver);
    if is_new {
        exec.emit(Event::System(SystemEvent::NewAccount(to)));
        exec.emit(Event::Balances(BalancesEvent::Endowed(to, value)));
    }
    exec.emit(Event::Balances(BalancesEvent::Transfer { from: *from, to, amount: value }));
    Ok(())
}

const fn unavailable() -> DispatchError {
    DispatchError::Token(TokenError::FundsUnavailable)
}

/// Takes coins from an account that must stay alive, for a purchase.
pub(crate) fn withdraw(
    exec: &mut Exec<'_>,
    who: &Account,
    amount: u64,
    too_poor: DispatchError,
) -> Result<(), DispatchError> {
    let free = account(&exec.state, who).free;
    let left = free.checked_sub(amount).ok_or(too_poor)?;
    if left < EXISTENTIAL_DEPOSIT_RAO {
        return Err(events::BALANCES_EXISTENTIAL_DEPOSIT);
    }
    burn(&mut exec.state, who, amount);
    exec.emit(Event::Balances(BalancesEvent::Withdraw(*who, amount)));
    Ok(())
}
