//! A request for a lease, from bytes to an order.

use nicompute_market::{Hotkey, LeaseKeys, LeaseOptions, Purpose};
use nicompute_wire::node::LeaseRequest;
use serde::de::DeserializeOwned;

use super::refusal::Refusal;
use crate::leases::Order;

/// Reads a JSON body.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::unreadable("the body", &error))
}

/// What the caller asks for.
pub(super) fn order(holder: Hotkey, request: LeaseRequest) -> Result<Order, Refusal> {
    let purpose: Purpose =
        request.purpose.parse().map_err(|error| Refusal::unreadable("field purpose", &error))?;
    let options = LeaseOptions::try_from(request.options)
        .map_err(|error| Refusal::unreadable("the body", &error))?;
    Ok(Order {
        id: request.id,
        offer: request.offer,
        purpose,
        holder,
        keys: LeaseKeys { user: request.ssh_keys, terminal: request.terminal_key },
        image: request.image,
        duration_seconds: request.duration_seconds,
        full_seconds: None,
        options,
        legacy: None,
    })
}
