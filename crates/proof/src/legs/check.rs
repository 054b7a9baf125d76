//! Whether the legs of a transcript are those that its parameters ask for, and the bytes of NET those of its nonces.

use crate::derive::SessionKeys;
use crate::exchange::{Exchange, ExchangeError};
use crate::frame::error_text;
use crate::legs::{Leg, Legs, NET_CHUNK_LEN, Net, NetStream};
use crate::params::ProofParams;

impl Exchange {
    /// Checks the shape of all legs and computes nothing.
    pub(crate) fn check_legs(&self, params: &ProofParams) -> Result<(), ExchangeError> {
        let legs = &self.legs;
        let roots = |answered: bool| move |has_root: bool| has_root == answered;
        let link = roots(legs.link.nonce().is_some());
        let copy = roots(legs.copy.nonce().is_some());
        let is_whole = is_asked(&legs.link, u64::from(params.link_walks()))
            && is_asked(&legs.copy, params.copy_rows())
            && self
                .devices
                .iter()
                .all(|device| link(device.link_root.is_some()) && copy(device.copy_root.is_some()))
            && net_is_whole(legs.down.as_ref(), params.net_down_bytes())
            && net_is_whole(legs.up.as_ref(), params.net_up_bytes());
        if is_whole { Ok(()) } else { Err(ExchangeError::Legs) }
    }

    /// Computes the bytes of NET again, up to half a gigabyte, so that this comes after everything that costs nothing.
    pub(crate) fn check_net(&self, keys: &SessionKeys) -> Result<(), ExchangeError> {
        let Legs { down, up, .. } = &self.legs;
        let holds = |net: &Net, key| NetStream::digest_of(key, net.bytes) == net.digest;
        let hold = down.is_none_or(|net| holds(&net, keys.net_down(&net.nonce)))
            && up.is_none_or(|net| holds(&net, keys.net_up(&net.nonce)));
        if hold { Ok(()) } else { Err(ExchangeError::Legs) }
    }
}

fn is_asked(leg: &Leg, size: u64) -> bool {
    let asked = size > 0;
    match leg {
        Leg::NotAsked => !asked,
        Leg::Declined { text, .. } => asked && error_text(text) == *text,
        Leg::Answered { .. } => asked,
    }
}

/// A size that the parameters allow, which [`Exchange::check_net`] may then compute again.
fn net_is_whole(net: Option<&Net>, asked: u64) -> bool {
    match net {
        None => asked == 0,
        Some(net) => {
            (1..=asked).contains(&net.bytes) && net.bytes.is_multiple_of(NET_CHUNK_LEN as u64)
        }
    }
}
