//! Stake: each hotkey has, on each subnet, a pool of alpha in which coldkeys hold shares.
//!
//! Every subnet here runs the stable mechanism (number 0): one coin buys one alpha and back, with no slippage and no fee.
//! Dividends grow the pool, so that shares are worth more; all divisions round down in favour of the pool.

use crate::events::{self, ArithmeticError, DispatchError, Event, SubtensorEvent};
use crate::items::{self, Account};
use crate::runtime::{Exec, ROOT, balances};
use crate::state::{Overlay, Read};

/// What an alpha costs, in rao: one coin.
pub(crate) const PRICE_RAO: u64 = 1_000_000_000;
/// The smallest stake that may be added at once, in rao; the real chain's `InitialMinStake`.
pub(crate) const STAKE_MIN_RAO: u64 = 2_000_000;
/// Shares are stored as fixed-point numbers with 64 fractional bits; here the fraction is always zero.
const SHARE_FRACTION_BITS: u32 = 64;
/// How much of its dividends a validator keeps before its nominators share them, of 65,535.
const DEFAULT_TAKE: u16 = 11_796;

/// What a hotkey has on a subnet in all.
pub(crate) fn of_hotkey(state: &impl Read, hotkey: &Account, netuid: u16) -> u64 {
    items::TOTAL_HOTKEY_ALPHA.get(state, hotkey, &netuid).unwrap_or_default()
}

/// What a coldkey has behind a hotkey on a subnet.
pub(crate) fn of_pair(state: &impl Read, hotkey: &Account, coldkey: &Account, netuid: u16) -> u64 {
    let held = shares_of(state, hotkey, coldkey, netuid);
    let all = all_shares(state, hotkey, netuid);
    scale(held, of_hotkey(state, hotkey, netuid), all)
}

/// What counts as the neuron's stake in consensus: its alpha and a part of its coins on the root network.
pub(crate) fn weight(state: &impl Read, hotkey: &Account, netuid: u16) -> u64 {
    of_hotkey(state, hotkey, netuid).saturating_add(root_weight(state, hotkey))
}

/// The part of a hotkey's root stake that counts on every subnet.
pub(crate) fn root_weight(state: &impl Read, hotkey: &Account) -> u64 {
    let tao_weight = u128::from(items::TAO_WEIGHT.get(state).unwrap_or_default());
    let root = u128::from(of_hotkey(state, hotkey, ROOT));
    u64::try_from(root.saturating_mul(tao_weight) >> 64).unwrap_or(u64::MAX)
}

/// `add_stake`.
pub(crate) fn add(
    exec: &mut Exec<'_>,
    coldkey: &Account,
    hotkey: &Account,
    netuid: u16,
    amount: u64,
) -> Result<(), DispatchError> {
    check_pair(&exec.state, hotkey, netuid)?;
    if amount < STAKE_MIN_RAO {
        return Err(events::AMOUNT_TOO_LOW);
    }
    balances::withdraw(exec, coldkey, amount, events::NOT_ENOUGH_BALANCE_TO_STAKE)?;
    // Staked coins leave the free balances and stay in existence.
    let issued = items::TOTAL_ISSUANCE.get(&exec.state).unwrap_or_default();
    items::TOTAL_ISSUANCE.put(&mut exec.state, &issued.saturating_add(amount));
    credit(&mut exec.state, hotkey, coldkey, netuid, amount)?;
    shift(&mut exec.state, netuid, amount, u64::saturating_add);
    let event = SubtensorEvent::StakeAdded(*coldkey, *hotkey, amount, amount, netuid, 0);
    exec.emit(Event::Subtensor(event));
    Ok(())
}

/// `remove_stake`.
pub(crate) fn remove(
    exec: &mut Exec<'_>,
    coldkey: &Account,
    hotkey: &Account,
    netuid: u16,
    amount: u64,
) -> Result<(), DispatchError> {
    check_pair(&exec.state, hotkey, netuid)?;
    if amount == 0 {
        return Err(events::AMOUNT_TOO_LOW);
    }
    let reserve = items::SUBNET_TAO.get(&exec.state, &netuid).unwrap_or_default();
    if reserve < amount || of_pair(&exec.state, hotkey, coldkey, netuid) < amount {
        return Err(events::NOT_ENOUGH_STAKE_TO_WITHDRAW);
    }
    debit(&mut exec.state, hotkey, coldkey, netuid, amount);
    shift(&mut exec.state, netuid, amount, u64::saturating_sub);
    let issued = items::TOTAL_ISSUANCE.get(&exec.state).unwrap_or_default();
    items::TOTAL_ISSUANCE.put(&mut exec.state, &issued.saturating_sub(amount));
    balances::mint(&mut exec.state, coldkey, amount);
    let event = SubtensorEvent::StakeRemoved(*coldkey, *hotkey, amount, amount, netuid, 0);
    exec.emit(Event::Subtensor(event));
    Ok(())
}

/// Whether a purchase at this highest price can be made: all of it or nothing, since the price never moves.
pub(crate) const fn check_buying(limit_price: u64) -> Result<(), DispatchError> {
    if limit_price < PRICE_RAO { Err(events::SLIPPAGE_TOO_HIGH) } else { Ok(()) }
}

/// The same for a sale at this lowest price.
pub(crate) const fn check_selling(limit_price: u64) -> Result<(), DispatchError> {
    if limit_price > PRICE_RAO { Err(events::SLIPPAGE_TOO_HIGH) } else { Ok(()) }
}

fn check_pair(state: &impl Read, hotkey: &Account, netuid: u16) -> Result<(), DispatchError> {
    if !items::NETWORKS_ADDED.get(state, &netuid).unwrap_or_default() {
        return Err(events::SUBNET_NOT_EXISTS);
    }
    if netuid != ROOT && !items::SUBTOKEN_ENABLED.get(state, &netuid).unwrap_or_default() {
        return Err(events::SUBTOKEN_DISABLED);
    }
    if items::OWNER.get(state, hotkey).is_none() {
        return Err(events::HOTKEY_ACCOUNT_NOT_EXISTS);
    }
    Ok(())
}

/// Coins and alpha of a subnet's pool move together: one for one.
fn shift(state: &mut Overlay<'_>, netuid: u16, amount: u64, how: fn(u64, u64) -> u64) {
    for item in [&items::SUBNET_TAO, &items::SUBNET_ALPHA_OUT] {
        let now = item.get(state, &netuid).unwrap_or_default();
        item.put(state, &netuid, &how(now, amount));
    }
    let total = items::TOTAL_STAKE.get(state).unwrap_or_default();
    items::TOTAL_STAKE.put(state, &how(total, amount));
}

/// Puts alpha behind a hotkey in the name of a coldkey.
pub(crate) fn credit(
    state: &mut Overlay<'_>,
    hotkey: &Account,
    coldkey: &Account,
    netuid: u16,
    amount: u64,
) -> Result<(), DispatchError> {
    let total = of_hotkey(state, hotkey, netuid);
    let all = all_shares(state, hotkey, netuid);
    let bought = if total == 0 || all == 0 { amount } else { scale(amount, all, total) };
    let grown = total.checked_add(amount).zip(all.checked_add(bought));
    let (total, all) = grown.ok_or(DispatchError::Arithmetic(ArithmeticError::Overflow))?;
    let held = shares_of(state, hotkey, coldkey, netuid).saturating_add(bought);
    items::TOTAL_HOTKEY_ALPHA.put(state, hotkey, &netuid, &total);
    items::TOTAL_HOTKEY_SHARES.put(state, hotkey, &netuid, &fixed(all));
    items::ALPHA.put(state, (hotkey, coldkey, &netuid), &fixed(held));
    remember(state, hotkey, coldkey);
    Ok(())
}

fn debit(state: &mut Overlay<'_>, hotkey: &Account, coldkey: &Account, netuid: u16, amount: u64) {
    let total = of_hotkey(state, hotkey, netuid);
    let all = all_shares(state, hotkey, netuid);
    let held = shares_of(state, hotkey, coldkey, netuid);
    // Rounded up, so that the pool never pays for a fraction.
    let sold = scale_up(amount, all, total).min(held);
    items::TOTAL_HOTKEY_ALPHA.put(state, hotkey, &netuid, &total.saturating_sub(amount));
    items::TOTAL_HOTKEY_SHARES.put(state, hotkey, &netuid, &fixed(all.saturating_sub(sold)));
    items::ALPHA.put(state, (hotkey, coldkey, &netuid), &fixed(held.saturating_sub(sold)));
}

/// Pays dividends: the hotkey's owner takes its part, the rest makes every share worth more.
pub(crate) fn pay_dividends(
    state: &mut Overlay<'_>,
    hotkey: &Account,
    netuid: u16,
    amount: u64,
) -> Result<(), DispatchError> {
    let owner = items::OWNER.get(state, hotkey).unwrap_or(*hotkey);
    let take = items::DELEGATES.get(state, hotkey).unwrap_or(DEFAULT_TAKE);
    let taken = scale(amount, u64::from(take), u64::from(u16::MAX));
    let rest = amount.saturating_sub(taken);
    if all_shares(state, hotkey, netuid) == 0 {
        return credit(state, hotkey, &owner, netuid, amount);
    }
    let total = of_hotkey(state, hotkey, netuid).saturating_add(rest);
    items::TOTAL_HOTKEY_ALPHA.put(state, hotkey, &netuid, &total);
    credit(state, hotkey, &owner, netuid, taken)
}

/// Lists the hotkey among those that the coldkey has stake behind.
fn remember(state: &mut Overlay<'_>, hotkey: &Account, coldkey: &Account) {
    let mut staking = items::STAKING_HOTKEYS.get(state, coldkey).unwrap_or_default();
    if !staking.contains(hotkey) {
        staking.push(*hotkey);
        items::STAKING_HOTKEYS.put(state, coldkey, &staking);
    }
}

fn shares_of(state: &impl Read, hotkey: &Account, coldkey: &Account, netuid: u16) -> u64 {
    whole(items::ALPHA.get(state, hotkey, coldkey, &netuid).unwrap_or_default())
}

fn all_shares(state: &impl Read, hotkey: &Account, netuid: u16) -> u64 {
    whole(items::TOTAL_HOTKEY_SHARES.get(state, hotkey, &netuid).unwrap_or_default())
}

fn whole(fixed: u128) -> u64 {
    u64::try_from(fixed >> SHARE_FRACTION_BITS).unwrap_or(u64::MAX)
}

fn fixed(whole: u64) -> u128 {
    u128::from(whole) << SHARE_FRACTION_BITS
}

/// `amount · numerator / denominator`, rounded down; zero when there is nothing to divide by.
pub(crate) fn scale(amount: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(amount).saturating_mul(u128::from(numerator));
    let quotient = product.checked_div(u128::from(denominator)).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

fn scale_up(amount: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(amount).saturating_mul(u128::from(numerator));
    u64::try_from(product.div_ceil(u128::from(denominator).max(1))).unwrap_or(u64::MAX)
}
