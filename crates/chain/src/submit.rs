//! One extrinsic from signing to the block it is in.
//!
//! It is sent once; after that the blocks themselves are searched for it, from the best one back to where it was born, so
//! that a lost connection or a restarted node loses no outcome. Sent again are the very same bytes, which the chain takes
//! at most once; signed anew is only what the pool did not take.

use std::time::Duration;

use nicompute_daemon::{Backoff, ErrorChain};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::BlockNumber;
use scale_value::{Composite, Value};
use subxt::SubstrateConfig;
use subxt::config::substrate::{AccountId32, BlakeTwo256, MultiSignature};
use subxt::config::{DefaultExtrinsicParamsBuilder, Hasher as _, Header as _};
use subxt::transactions::Signer;

use crate::chain::{At, Chain};
use crate::error::{ReadError, ShapeError, SubmitError};
use crate::link::{Hash, Rpc};
use crate::plain::Plain;
use crate::pool::PoolRejection;
use crate::reads::Head;

/// Blocks for which a signed extrinsic may be included.
const ERA_BLOCKS: u64 = 128;
/// The longest wait for a new head before the node is asked for one.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(15);
/// Blocks without the extrinsic after which the same bytes are sent again: the node may have lost its pool.
const SEND_AGAIN_BLOCKS: u64 = 5;
/// How often an extrinsic is signed anew when the pool did not take it because of a race.
const SIGN_ANEW: Backoff =
    Backoff { first: Duration::from_millis(250), cap: Duration::from_secs(3), tries_max: 5 };

/// Where an extrinsic ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Included {
    /// The block it is in.
    pub block: Head,
    /// Its hash.
    pub hash: [u8; 32],
}

/// A call by name.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) pallet: &'static str,
    pub(crate) name: &'static str,
    pub(crate) fields: Composite<()>,
}

/// A signed extrinsic on its way.
#[derive(Debug)]
struct Sent {
    at: At,
    bytes: Vec<u8>,
    hash: Hash,
}

/// What is known after the bytes were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// The pool has them.
    Taken,
    /// The connection broke: they may or may not have arrived.
    Lost,
}

/// How far the search has come.
#[derive(Debug)]
struct Search {
    /// The best block that was looked at.
    head: BlockNumber,
    /// Blocks without it, at most an era of them.
    without: Vec<Hash>,
}

struct KeySigner<'a>(&'a Keypair);

impl Signer<SubstrateConfig> for KeySigner<'_> {
    fn account_id(&self) -> AccountId32 {
        AccountId32(*self.0.account().as_bytes())
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        let signature = self.0.sign(payload);
        match self.0.scheme() {
            Scheme::Sr25519 => MultiSignature::Sr25519(signature),
            Scheme::Ed25519 => MultiSignature::Ed25519(signature),
        }
    }
}

impl Chain {
    /// Signs a call, sends it and waits for the block with it.
    pub(crate) async fn submit(
        &self,
        call: &Call,
        signer: &Keypair,
    ) -> Result<Included, SubmitError> {
        let clock = self.shared.link.clock();
        let until = clock.monotonic().saturating_add(self.shared.limits.submit);
        let mut attempt = 1;
        let (sent, delivery) = loop {
            let sent = self.sign(call, signer).await?;
            match self.send(&sent).await {
                Ok(delivery) => break (sent, delivery),
                Err(rejection)
                    if rejection.cured_by_signing_anew() && attempt < SIGN_ANEW.tries_max =>
                {
                    tracing::debug!(call = call.name, %rejection, "extrinsic is signed anew");
                    self.shared.forget_runtime();
                    clock.sleep(SIGN_ANEW.delay(attempt)).await;
                    attempt += 1;
                }
                Err(rejection) => return Err(rejection.into()),
            }
        };
        let (block, index) = self.find(&sent, delivery, until).await?;
        self.verdict(&sent, block, index).await?;
        Ok(Included { block, hash: sent.hash.0 })
    }

    async fn sign(&self, call: &Call, signer: &Keypair) -> Result<Sent, SubmitError> {
        let at = self.at().await?;
        let signer = KeySigner(signer);
        let account = &signer.account_id();
        let ask = |rpc: Rpc| async move { rpc.system_account_next_index(account).await };
        let limit = self.shared.limits.read;
        let nonce = self.shared.link.ask(limit, "system_accountNextIndex", ask).await?;
        let params = DefaultExtrinsicParamsBuilder::new()
            .nonce(nonce)
            .mortal_from_unchecked(ERA_BLOCKS, at.head.number.0, at.hash())
            .build();
        let payload = subxt::transactions::dynamic(call.pallet, call.name, call.fields.clone());
        let encode = |error: subxt::error::ExtrinsicError| SubmitError::Encode(error.to_string());
        let mut signable = at
            .runtime
            .offline
            .transactions()
            .create_signable_offline(&payload, params)
            .map_err(encode)?;
        let signed = signable.sign(&signer).map_err(encode)?;
        Ok(Sent { at, hash: signed.hash(), bytes: signed.into_encoded() })
    }

    /// Hands it to the pool. A connection that breaks meanwhile is no verdict: the search will tell.
    async fn send(&self, sent: &Sent) -> Result<Delivery, PoolRejection> {
        let bytes = &sent.bytes;
        let ask = |rpc: Rpc| async move { rpc.author_submit_extrinsic(bytes).await };
        let limit = self.shared.limits.read;
        match self.shared.link.ask_once(limit, "author_submitExtrinsic", ask).await {
            Ok(_) => Ok(Delivery::Taken),
            Err(ReadError::Refused { source, .. }) => match source.pool_rejection() {
                Some(PoolRejection::AlreadyImported) => Ok(Delivery::Taken),
                Some(rejection) => Err(rejection),
                None => Err(PoolRejection::Other { code: 0, text: source.to_string() }),
            },
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "connection lost while sending");
                Ok(Delivery::Lost)
            }
        }
    }

    /// Searches the chain until the extrinsic is found or the time is up.
    async fn find(
        &self,
        sent: &Sent,
        mut delivery: Delivery,
        until: Duration,
    ) -> Result<(Head, u32), SubmitError> {
        let clock = self.shared.link.clock();
        let mut heads = self.subscribe_heads();
        let mut search = Search { head: sent.at.head.number, without: Vec::new() };
        let mut sent_at = search.head.0;
        let mut last = None;
        while clock.monotonic() < until {
            match self.search(sent, &mut search).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => last = None,
                Err(error) => {
                    last = Some(error);
                    delivery = Delivery::Lost;
                }
            }
            let waiting = search.head.0.saturating_sub(sent_at);
            if delivery == Delivery::Lost || waiting >= SEND_AGAIN_BLOCKS {
                sent_at = search.head.0;
                // The chain takes the same bytes once: a refusal says that they are, or cannot be, in a block.
                delivery = self.send(sent).await.unwrap_or(Delivery::Taken);
            }
            let left = until.saturating_sub(clock.monotonic());
            tokio::select! {
                biased;
                changed = heads.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                () = clock.sleep(HEAD_WAIT_MAX.min(left)) => {}
            }
        }
        Err(SubmitError::Unknown { hash: sent.hash.0, source: last })
    }

    /// Looks into the blocks from the best one back to the one that it was signed at.
    async fn search(
        &self,
        sent: &Sent,
        search: &mut Search,
    ) -> Result<Option<(Head, u32)>, ReadError> {
        let head = self.head().await?;
        let mut next = Hash::from(head.hash);
        let mut without = Vec::new();
        let birth = sent.at.head.number.0;
        while next != sent.at.hash() && !search.without.contains(&next) {
            let ask = |rpc: Rpc| async move { rpc.chain_get_block(Some(next)).await };
            let limit = self.shared.limits.read;
            let block = self.shared.link.ask(limit, "chain_getBlock", ask).await?;
            let Some(block) = block.map(|details| details.block) else { break };
            let number = block.header.number();
            if number <= birth || number > birth.saturating_add(ERA_BLOCKS) {
                break;
            }
            let same = |bytes: &[u8]| BlakeTwo256.hash(bytes) == sent.hash;
            if let Some(index) = block.extrinsics.iter().position(|bytes| same(bytes)) {
                let head = Head { number: BlockNumber(number), hash: next.0 };
                return Ok(Some((head, u32::try_from(index).unwrap_or(u32::MAX))));
            }
            without.push(next);
            next = block.header.parent_hash;
        }
        search.head = head.number;
        search.without.extend(without);
        Ok(None)
    }

    /// Whether the chain carried it out, from the events of its block.
    async fn verdict(&self, sent: &Sent, block: Head, index: u32) -> Result<(), SubmitError> {
        let about = "the events of a block";
        let at = At { head: block, runtime: sent.at.runtime.clone() };
        let events = self.storage(&at, about, ("System", "Events"), Vec::<Value>::new()).await;
        let unknown = |source| SubmitError::Unknown { hash: sent.hash.0, source: Some(source) };
        let events = events.map_err(unknown)?;
        let failed = events.as_ref().map_or(Ok(None), |events| failure(events, index));
        let shape = |source| unknown(ReadError::Shape { about, source });
        match failed.map_err(shape)? {
            Some(error) => Err(at.runtime.dispatch_error(error).map_err(shape)?.into()),
            None => Ok(()),
        }
    }
}

/// What undid the extrinsic of that index, if something did.
fn failure(events: &Plain, index: u32) -> Result<Option<&Plain>, ShapeError> {
    for record in events.list()? {
        let (phase, of) = record.field("phase")?.variant()?;
        if phase != "ApplyExtrinsic" || of.u32()? != index {
            continue;
        }
        let (pallet, event) = record.field("event")?.variant()?;
        let (name, contents) = event.variant()?;
        if pallet == "System" && name == "ExtrinsicFailed" {
            return contents.field("dispatch_error").map(Some);
        }
    }
    Ok(None)
}
