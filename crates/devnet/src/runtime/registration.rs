//! Registration by burning coins, and the price that each registration raises and each block lowers.

use crate::events::{self, DispatchError, Event, SubtensorEvent};
use crate::items::{self, Account};
use crate::runtime::{Exec, ROOT, balances, neurons, stake};
use crate::state::{Overlay, Read};

/// `burned_register`, and with a limit `register_limit`.
pub(crate) fn burned(
    exec: &mut Exec<'_>,
    coldkey: &Account,
    netuid: u16,
    hotkey: &Account,
    limit_price: Option<u64>,
) -> Result<(), DispatchError> {
    let price = check(&exec.state, coldkey, netuid, hotkey)?;
    if limit_price.is_some_and(|limit| price > limit) {
        return Err(events::REGISTRATION_PRICE_LIMIT);
    }
    if !neurons::associate(&mut exec.state, coldkey, hotkey) {
        return Err(events::NON_ASSOCIATED_COLDKEY);
    }
    balances::withdraw(exec, coldkey, price, events::NOT_ENOUGH_BALANCE_TO_STAKE)?;
    let recycled = items::RAO_RECYCLED.get(&exec.state, &netuid).unwrap_or_default();
    items::RAO_RECYCLED.put(&mut exec.state, &netuid, &recycled.saturating_add(price));
    let uid = neurons::register(exec, netuid, hotkey).ok_or(events::NO_NEURON_ID_AVAILABLE)?;
    raise_price(&mut exec.state, netuid, price);
    exec.emit(Event::Subtensor(SubtensorEvent::NeuronRegistered(netuid, uid, *hotkey)));
    Ok(())
}

fn check(
    state: &impl Read,
    coldkey: &Account,
    netuid: u16,
    hotkey: &Account,
) -> Result<u64, DispatchError> {
    if netuid == ROOT {
        return Err(events::REGISTRATION_NOT_PERMITTED_ON_ROOT);
    }
    if !items::NETWORKS_ADDED.get(state, &netuid).unwrap_or_default() {
        return Err(events::SUBNET_NOT_EXISTS);
    }
    if !items::REGISTRATION_ALLOWED.get(state, &netuid).unwrap_or_default() {
        return Err(events::REGISTRATION_DISABLED);
    }
    if neurons::uid(state, netuid, hotkey).is_some() {
        return Err(events::HOTKEY_ALREADY_REGISTERED);
    }
    if items::OWNER.get(state, hotkey).is_some_and(|owner| owner != *coldkey) {
        return Err(events::NON_ASSOCIATED_COLDKEY);
    }
    let price = items::BURN.get(state, &netuid).unwrap_or_default();
    let needed = price.saturating_add(balances::EXISTENTIAL_DEPOSIT_RAO);
    if balances::account(state, coldkey).free < needed {
        return Err(events::NOT_ENOUGH_BALANCE_TO_STAKE);
    }
    Ok(price)
}

/// Multiplies the price by the subnet's factor, a fixed-point number with 64 fractional bits.
fn raise_price(state: &mut Overlay<'_>, netuid: u16, price: u64) {
    let factor = items::BURN_INCREASE_MULT.get(state, &netuid).unwrap_or(1 << 64);
    let (whole, fraction) = (factor >> 64, factor & u128::from(u64::MAX));
    let raised = u128::from(price)
        .saturating_mul(whole)
        .saturating_add(u128::from(price).saturating_mul(fraction) >> 64);
    set_price(state, netuid, u64::try_from(raised).unwrap_or(u64::MAX));
}

/// Lets the price fall by one block's share of its half-life.
pub(crate) fn lower_price(state: &mut Overlay<'_>, netuid: u16) {
    let price = items::BURN.get(state, &netuid).unwrap_or_default();
    let floor = items::MIN_BURN.get(state, &netuid).unwrap_or_default();
    let half_life = items::BURN_HALF_LIFE.get(state, &netuid).unwrap_or_default();
    if price <= floor || half_life == 0 {
        return;
    }
    let lowered = stake::scale(price, halving_root(half_life), u64::MAX);
    set_price(state, netuid, lowered);
}

fn set_price(state: &mut Overlay<'_>, netuid: u16, price: u64) {
    let floor = items::MIN_BURN.get(state, &netuid).unwrap_or_default();
    let ceiling = items::MAX_BURN.get(state, &netuid).unwrap_or(u64::MAX);
    items::BURN.put(state, &netuid, &price.min(ceiling).max(floor));
}

/// The largest `q` of 2^64 with `(q / 2^64)^n` at most one half, found bit by bit.
fn halving_root(n: u16) -> u64 {
    let mut root: u64 = 0;
    for bit in (0..u64::BITS).rev() {
        let candidate = root | (1 << bit);
        if power(candidate, n) <= 1 << (u64::BITS - 1) {
            root = candidate;
        }
    }
    root
}

/// `(base / 2^64)^exponent` as a number of 2^64, rounded down at each step.
fn power(base: u64, exponent: u16) -> u64 {
    let multiply = |a: u64, b: u64| {
        let product = u128::from(a).saturating_mul(u128::from(b)) >> 64;
        u64::try_from(product).unwrap_or(u64::MAX)
    };
    let mut result = u64::MAX;
    for bit in (0..u16::BITS).rev() {
        result = multiply(result, result);
        if exponent & (1 << bit) != 0 {
            result = multiply(result, base);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A price that does not halve over its half-life makes registration dearer for ever, or free at once.
    #[test]
    fn the_price_halves_over_its_half_life() {
        for half_life in [1, 7, 360, u16::MAX] {
            let root = halving_root(half_life);
            let mut price: u64 = 1_000_000_000_000;
            for _ in 0..half_life {
                price = stake::scale(price, root, u64::MAX);
            }
            let off = price.abs_diff(500_000_000_000);
            assert!(off < 1_000_000, "half-life {half_life}: {price}");
        }
    }
}
