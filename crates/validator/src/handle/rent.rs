//! A request for a rental, from the renter's words to a lease that its provider has taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nicompute_client::{HeldLease, NodeClient, NodeError};
use nicompute_market::{
    LEASE_MILLIS_MAX, LEASE_MILLIS_MIN, LeaseId, LeaseOptions, LeaseState, Offer, Purpose,
    SSH_KEYS_MAX,
};
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::{RentRequest, RentalView};
use nicompute_wire::node::LeaseRequest;
use nicompute_wire::ssh_key::SshKey;

use crate::asking::Asker;
use crate::board::Running;
use crate::context::Context;
use crate::denied::Denied;
use crate::handle::{Principal, views};
use crate::loops::rentals;
use crate::store::{Inserted, Rental};

/// Rentals of one API key that are not over, at most.
pub(crate) const OPEN_RENTALS_PER_KEY_MAX: u32 = 64;
/// What a provider has for each question.
const ASK_BUDGET: Duration = Duration::from_secs(5);
/// How long an offer that is still being cleared after its last lease is waited for.
const CLEARING_PATIENCE: Duration = Duration::from_secs(8);
/// The pause between two tries.
const CLEARING_PAUSE: Duration = Duration::from_millis(300);
/// The domain of the hash of a request's words.
const WORDS_CONTEXT: &str = "nicompute 2026 rental words";
const MILLIS: u64 = 1000;

pub(super) async fn rent(
    ctx: &Arc<Context>,
    who: &Principal,
    request: RentRequest,
) -> Result<RentalView, Denied> {
    let asked = Asked::check(request)?;
    // What was taken before is found first: by now the offer may be gone, or dearer.
    if let Some(known) = ctx.store.rental(asked.request.id).await? {
        return same(who, &known, &asked);
    }
    let is_proof = |running: &Running| running.lease == asked.request.id;
    if ctx.board.lock().sessions.values().any(is_proof) {
        return Err(taken());
    }
    let address = address(ctx, &asked)?;
    let node = ctx.dialer.node(address, asked.provider);
    let offer = offer(ctx, &node, &asked).await?;
    let now = ctx.now();
    let rental = Rental {
        lease: asked.request.id,
        owner: who.id.clone(),
        provider: asked.provider,
        address,
        offer: asked.request.offer.clone(),
        words: asked.words,
        request: asked.request.clone(),
        price_per_hour: offer.price_per_hour,
        requested_at: now,
        expires_at: now
            .saturating_add_millis(asked.request.duration_seconds.saturating_mul(MILLIS)),
        state: LeaseState::Requested,
        is_accepted: false,
        is_release_asked: false,
        is_known: true,
        ssh: None,
        ports: Vec::new(),
        detail: None,
    };
    // Before it is stored, so that the rentals loop leaves it to this request.
    let asker = ctx.asking.begin(rental.lease, ctx.clock.monotonic());
    match ctx.store.add_rental(&rental, OPEN_RENTALS_PER_KEY_MAX).await? {
        Inserted::New => take(ctx, asker, &node, &rental).await,
        Inserted::Taken => Err(taken()),
        Inserted::Known(known) => same(who, &known, &asked),
        Inserted::TooMany => Err(Denied::new(
            Code::TooManyRequests,
            format!("an API key has {OPEN_RENTALS_PER_KEY_MAX} open leases at most"),
        )
        .hint("release leases that you do not use")),
    }
}

/// A request whose every word was checked.
#[derive(Debug)]
struct Asked {
    provider: nicompute_market::Hotkey,
    request: LeaseRequest,
    price_max: Option<u64>,
    words: [u8; 32],
}

impl Asked {
    fn check(request: RentRequest) -> Result<Self, Denied> {
        let duration_ms = request.duration_seconds.saturating_mul(MILLIS);
        if !(LEASE_MILLIS_MIN..=LEASE_MILLIS_MAX).contains(&duration_ms) {
            let detail = "field duration_seconds: a lease lasts 10 s to 2678400 s (31 days)";
            return Err(Denied::new(Code::BadRequest, detail));
        }
        if request.ssh_keys.is_empty() || request.ssh_keys.len() > SSH_KEYS_MAX {
            let detail = format!("field ssh_keys: a lease has 1 to {SSH_KEYS_MAX} keys");
            return Err(Denied::new(Code::BadSshKey, detail));
        }
        let mut ssh_keys: Vec<String> = Vec::with_capacity(request.ssh_keys.len());
        for (index, text) in request.ssh_keys.iter().enumerate() {
            let key: SshKey = text.parse().map_err(|error| {
                Denied::new(Code::BadSshKey, format!("key {index} of field ssh_keys {error}"))
                    .hint("give the one line of a .pub file, such as ~/.ssh/id_ed25519.pub")
            })?;
            ssh_keys.push(key.into_string());
        }
        LeaseOptions::try_from(request.options.clone())
            .map_err(|error| Denied::new(Code::BadRequest, error.to_string()))?;
        let provider = request.provider;
        let asked = LeaseRequest {
            id: request.id,
            offer: request.offer,
            purpose: Purpose::Rental.as_str().to_owned(),
            ssh_keys,
            image: request.image,
            duration_seconds: request.duration_seconds,
            terminal_key: request.terminal_key.as_deref().map(terminal_key).transpose()?,
            options: request.options,
        };
        let price_max = request.price_micro_usd_per_hour_max;
        let said = serde_json::json!([provider, asked, price_max]).to_string();
        let words = blake3::derive_key(WORDS_CONTEXT, said.as_bytes());
        Ok(Self { provider, request: asked, price_max, words })
    }
}

/// The key of the second slot in its canonical text.
fn terminal_key(text: &str) -> Result<String, Denied> {
    let key: SshKey = text.parse().map_err(|error| {
        Denied::new(Code::BadSshKey, format!("the key of field terminal_key {error}"))
    })?;
    Ok(key.into_string())
}

/// A lease that is there already: the caller's own in the same words, or nobody's business.
fn same(who: &Principal, known: &Rental, asked: &Asked) -> Result<RentalView, Denied> {
    if known.owner == who.id && known.words == asked.words {
        return Ok(views::rental(known));
    }
    Err(taken())
}

fn taken() -> Denied {
    Denied::new(Code::LeaseConflict, "this lease id was used before with other words")
        .hint("draw a new id for a new lease; repeat a request word for word")
}

fn address(ctx: &Context, asked: &Asked) -> Result<SocketAddr, Denied> {
    let Some(view) = ctx.view() else {
        return Err(Denied::new(Code::ChainUnavailable, "the subnet has not been read yet")
            .hint("ask again in some seconds"));
    };
    let known = view.peer(&asked.provider).and_then(|peer| peer.address);
    known.ok_or_else(no_such_offer)
}

/// The offer as its provider shows it now: still there, free, not dearer.
async fn offer(ctx: &Context, node: &NodeClient, asked: &Asked) -> Result<Offer, Denied> {
    let offers = node.offers(ASK_BUDGET).await.map_err(|error| Denied::from_node(&error))?;
    let named = offers.into_iter().find(|offer| offer.id == asked.request.offer);
    let offer = named.ok_or_else(no_such_offer)?;
    if !ctx.config.devnet && !offer.runtime.limits_enforced() {
        return Err(no_such_offer());
    }
    if asked.price_max.is_some_and(|max| offer.price_per_hour.get() > max) {
        let detail = format!(
            "the offer costs {} millionths of a dollar per hour now",
            offer.price_per_hour.get()
        );
        return Err(Denied::new(Code::OverTheOffer, detail).hint("accept the price or look again"));
    }
    Ok(offer)
}

fn no_such_offer() -> Denied {
    Denied::new(Code::NoSuchOffer, "no such offer can be rented here")
        .hint("list the offers to see what there is")
}

/// Asks the provider. A clear "no" ends the rental; silence leaves it to the rentals loop, which repeats the request. Without
/// the right to ask, another request for the same lease is under way, and the loop does the rest.
async fn take(
    ctx: &Arc<Context>,
    asker: Option<Asker<'_>>,
    node: &NodeClient,
    rental: &Rental,
) -> Result<RentalView, Denied> {
    let mut denied = None;
    if let Some(asker) = &asker
        && let Some(answer) = ask_patiently(ctx, asker, node, rental).await?
    {
        denied = answer.as_ref().err().map(Denied::from_node);
        rentals::settle_request(ctx, rental, node, answer).await?;
    }
    drop(asker);
    let stored = stored(ctx, rental.lease).await?;
    if stored.is_release_asked && !stored.state.is_final() {
        rentals::follow(ctx, &stored).await?;
    }
    ctx.nudges.rentals.notify_one();
    ctx.nudges.discover.notify_one();
    let stored = self::stored(ctx, rental.lease).await?;
    match denied {
        Some(denied) if stored.state.is_final() => Err(denied),
        Some(_) | None => Ok(views::rental(&stored)),
    }
}

async fn stored(ctx: &Context, lease: LeaseId) -> Result<Rental, Denied> {
    let stored = ctx.store.rental(lease).await?;
    stored.ok_or_else(|| Denied::new(Code::Internal, "the market's store lost a lease"))
}

/// An offer that is held only until its last lease is cleared away is worth a short wait. Nothing once the renter has given
/// the lease back.
async fn ask_patiently(
    ctx: &Context,
    asker: &Asker<'_>,
    node: &NodeClient,
    rental: &Rental,
) -> Result<Option<Result<HeldLease, NodeError>>, Denied> {
    let until = ctx.clock.monotonic().saturating_add(CLEARING_PATIENCE);
    loop {
        if !stored(ctx, rental.lease).await?.is_wanted() {
            return Ok(None);
        }
        let answer = rentals::ask(ctx, asker, node, rental).await;
        let is_held = answer.as_ref().is_err_and(|error| error.code() == Some(Code::Occupied));
        if !is_held || ctx.clock.monotonic() >= until {
            return Ok(Some(answer));
        }
        ctx.clock.sleep(CLEARING_PAUSE).await;
    }
}
