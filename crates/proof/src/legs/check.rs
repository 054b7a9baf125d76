//! Whether the legs of a transcript are those that its parameters ask for, and the bytes of NET those of its nonces.

use crate::derive::SessionKeys;
use crate::exchange::{Exchange, ExchangeError};
use crate::frame::error_text;
use crate::legs::{Leg, NET_CHUNK_LEN, Net, NetStream};
use crate::params::ProofParams;

impl Exchange {
    /// Checks the shape of LINK and COPY, and NET wholly; the answers of LINK and COPY are recomputed with the sample.
    pub(crate) fn check_legs(
        &self,
        params: &ProofParams,
        keys: &SessionKeys,
    ) -> Result<(), ExchangeError> {
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
            && net_holds(legs.down.as_ref(), params.net_down_bytes(), |net| {
                keys.net_down(&net.nonce)
            })
            && net_holds(legs.up.as_ref(), params.net_up_bytes(), |net| keys.net_up(&net.nonce));
        if is_whole { Ok(()) } else { Err(ExchangeError::Legs) }
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

fn net_holds(net: Option<&Net>, asked: u64, key: impl Fn(&Net) -> [u8; 32]) -> bool {
    match net {
        None => asked == 0,
        Some(net) => {
            (1..=asked).contains(&net.bytes)
                && net.bytes.is_multiple_of(NET_CHUNK_LEN as u64)
                && NetStream::digest_of(key(net), net.bytes) == net.digest
        }
    }
}
