//! A request for a lease, from bytes to a lease that may be stored. Everything that a caller can get wrong is found here.

use nicompute_market::{
    Hotkey, LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, Lease, PROOF_LEASE_MILLIS_MAX, Purpose,
    SSH_KEYS_MAX, Terms, UnixMillis,
};
use nicompute_wire::codes::Code;
use nicompute_wire::node::LeaseRequest;
use nicompute_wire::ssh_key::SshKey;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::Api;
use super::refusal::Refusal;
use crate::store::Words;

const MILLIS: u64 = 1000;

/// Reads a JSON body.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::unreadable("the body", &error))
}

/// The lease that is asked for, and the words in which it is asked.
pub(super) async fn lease(
    api: &Api,
    holder: Hotkey,
    request: LeaseRequest,
    now: UnixMillis,
) -> Result<(Lease, Words), Refusal> {
    if request.offer != *api.offers.id() {
        return Err(Refusal::new(
            Code::NoSuchOffer,
            format!("there is no offer {}", request.offer),
        )
        .hint("GET /v1/offers lists what there is"));
    }
    let purpose: Purpose =
        request.purpose.parse().map_err(|error| Refusal::unreadable("field purpose", &error))?;
    let duration_ms = duration_ms(request.duration_seconds, purpose)?;
    let ssh_keys = ssh_keys(&request.ssh_keys)?;
    if ssh_keys.is_empty() {
        return Err(Refusal::new(Code::BadSshKey, "field ssh_keys is empty: nobody could enter"));
    }
    let words = words(&holder, &request, &ssh_keys);
    let image = image(api, request.image).await?;
    let terms = Terms { id: request.id, offer: request.offer, purpose, holder, ssh_keys, image };
    Ok((Lease::requested(terms, now, duration_ms), words))
}

/// The new end of a lease whose holder wants so many seconds more from now.
pub(super) fn new_end(
    lease: &Lease,
    duration_seconds: u64,
    now: UnixMillis,
) -> Result<UnixMillis, Refusal> {
    let until = now.saturating_add_millis(duration_seconds.saturating_mul(MILLIS));
    let latest = match lease.terms.purpose {
        Purpose::Proof => lease.requested_at.saturating_add_millis(PROOF_LEASE_MILLIS_MAX),
        Purpose::Rental => now.saturating_add_millis(LEASE_MILLIS_MAX),
    };
    if until > latest {
        return Err(too_long(lease.terms.purpose));
    }
    Ok(until)
}

/// The keys in their canonical text, each once.
pub(super) fn ssh_keys(texts: &[String]) -> Result<Vec<String>, Refusal> {
    if texts.len() > SSH_KEYS_MAX {
        let detail = format!("field ssh_keys has {} keys, at most 16 are taken", texts.len());
        return Err(Refusal::new(Code::BadSshKey, detail));
    }
    let mut keys: Vec<String> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let key: SshKey = text.parse().map_err(|error| {
            Refusal::new(Code::BadSshKey, format!("key {index} of field ssh_keys {error}"))
                .hint("give the one line of a .pub file, such as ~/.ssh/id_ed25519.pub")
        })?;
        if !keys.iter().any(|known| known == key.as_str()) {
            keys.push(key.into_string());
        }
    }
    Ok(keys)
}

async fn image(api: &Api, asked: Option<String>) -> Result<String, Refusal> {
    let mut images = api.offers.images().await?;
    match asked {
        Some(image) if images.contains(&image) => Ok(image),
        Some(_) => {
            Err(Refusal::new(Code::NoSuchImage, "field image names none of the offer's images")
                .hint("GET /v1/offers lists them"))
        }
        None if images.is_empty() => {
            Err(Refusal::new(Code::NoSuchImage, "this node has no image at the moment"))
        }
        None => Ok(images.swap_remove(0)),
    }
}

fn duration_ms(seconds: u64, purpose: Purpose) -> Result<u64, Refusal> {
    let duration_ms = seconds.saturating_mul(MILLIS);
    if duration_ms < LEASE_MILLIS_MIN {
        return Err(Refusal::new(Code::BadRequest, "field duration_seconds is less than 10"));
    }
    let longest = match purpose {
        Purpose::Proof => PROOF_LEASE_MILLIS_MAX,
        Purpose::Rental => LEASE_MILLIS_MAX,
    };
    if duration_ms > longest { Err(too_long(purpose)) } else { Ok(duration_ms) }
}

fn too_long(purpose: Purpose) -> Refusal {
    let detail = match purpose {
        Purpose::Proof => "field duration_seconds: a proof holds a machine for 600 s at most",
        Purpose::Rental => "field duration_seconds: a lease may end in 2678400 s (31 days) at most",
    };
    Refusal::new(Code::BadRequest, detail)
}

/// One text for everything that was said, with the keys as they are understood.
fn words(holder: &Hotkey, request: &LeaseRequest, keys: &[String]) -> Words {
    let said = serde_json::json!([
        holder,
        request.offer,
        request.purpose,
        keys,
        request.image,
        request.duration_seconds,
    ]);
    Words(Sha256::digest(said.to_string()).into())
}
