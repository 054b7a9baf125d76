//! From a call to the pool: encoding, the nonce, the signature, and handing it over.
//!
//! What the pool took is never signed anew: from then on the very same bytes are followed, and sent again where a pool
//! lost them. Signed anew is only what the pool did not take because of a race.

use std::sync::Arc;
use std::time::Duration;

use nicompute_daemon::{Backoff, ErrorChain};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{AccountId, BlockNumber, Rao};
use subxt::SubstrateConfig;
use subxt::config::DefaultExtrinsicParamsBuilder;
use subxt::config::substrate::{AccountId32, MultiSignature};
use subxt::transactions::Signer;

use crate::call::Call;
use crate::chain::{At, Chain};
use crate::error::{CODE_NO_METHOD, ReadError, ShapeError, SubmitError};
use crate::follow::Delivery;
use crate::link::{Hash, Rpc};
use crate::pool::PoolRejection;
use crate::prepared::{Facts, Prepared};
use crate::reads::Head;
use crate::runtime::{Runtime, encode_u32};

/// How often an extrinsic is signed anew when the pool did not take it because of a race.
const SIGN_ANEW: Backoff =
    Backoff { first: Duration::from_millis(250), cap: Duration::from_secs(3), tries_max: 8 };
/// How long an extrinsic waits for those of lower nonces that are signed and not sent yet.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Where an extrinsic ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Included {
    /// The block it is in.
    pub block: Head,
    /// Its hash.
    pub hash: [u8; 32],
}

/// How deep in the chain an extrinsic must be before its caller goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// In the best block or below. A fork may still undo it.
    Included,
    /// In a block that will never be undone.
    Finalized,
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

// === impl Chain ===

impl Chain {
    /// A call's bytes under the node's metadata, before they are signed.
    ///
    /// # Errors
    /// When the chain cannot be read, or its runtime has no such call.
    pub async fn call_bytes(&self, call: &Call) -> Result<Vec<u8>, SubmitError> {
        encode(&self.at().await?.runtime, call)
    }

    /// Whether the node's runtime has a call of this name.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn has_call(&self, pallet: &str, name: &str) -> Result<bool, ReadError> {
        Ok(self.at().await?.runtime.has_call(pallet, name))
    }

    /// What the chain would take for carrying this out, besides what the call itself moves.
    ///
    /// # Errors
    /// When the chain cannot be read, or its runtime has no such call.
    pub async fn estimate_fee(&self, call: &Call, signer: &Keypair) -> Result<Rao, SubmitError> {
        const API: &str = "TransactionPaymentApi";
        let at = self.at().await?;
        let nonce = self.next_nonce(&signer.account()).await?;
        let mut arguments = self.sign(&at, call, signer, (nonce, at.head))?;
        let length = u32::try_from(arguments.len()).unwrap_or(u32::MAX);
        arguments.extend(encode_u32(length));
        let limit = self.shared.limits.read;
        let function = "TransactionPaymentApi_query_info";
        let bytes = self.shared.call_raw(limit, function, &arguments, at.hash()).await?;
        let answer = at.runtime.api_answer(API, "query_info", &bytes)?;
        let fee = answer.field("partial_fee").and_then(crate::plain::Plain::u64);
        let shape = |source: ShapeError| ReadError::Shape { about: "a fee", source };
        Ok(Rao(fee.map_err(shape)?))
    }

    /// Signs a call with the signer's next nonce, and sends nothing. Until what it returns is dropped, no other extrinsic
    /// of this client gets that nonce.
    ///
    /// # Errors
    /// When the chain cannot be read, or its runtime has no such call.
    pub async fn prepare(&self, call: &Call, signer: &Keypair) -> Result<Prepared, SubmitError> {
        let at = self.at().await?;
        let birth = self.birth(&at, call.era_blocks).await?;
        let account = signer.account();
        let next = self.next_nonce(&account).await?;
        let slot = self.shared.nonces.take(account, next);
        let nonce = slot.nonce();
        let bytes = self.sign(&at, call, signer, (nonce, birth))?;
        let facts = Facts {
            genesis: self.genesis_hash(),
            signer: account,
            nonce,
            birth,
            era_blocks: call.era_blocks,
            spec_version: at.runtime.spec_version,
            transaction_version: at.runtime.transaction_version,
        };
        Ok(Prepared::new(facts, bytes, Some(Arc::new(slot))))
    }

    /// Signs a call, sends it and waits until it is as deep in the chain as asked. Several at once are fine: each gets its
    /// own nonce, and each is carried out once.
    ///
    /// # Errors
    /// When the chain cannot be reached, does not take it or undoes it. Only [`SubmitError::Unknown`] leaves open whether
    /// it is carried out; one that must be known after that is made with [`Chain::prepare`].
    pub async fn submit(
        &self,
        call: &Call,
        signer: &Keypair,
        depth: Depth,
    ) -> Result<Included, SubmitError> {
        let clock = self.shared.link.clock();
        let mut attempt = 1;
        loop {
            let prepared = self.prepare(call, signer).await?;
            let rejection = match self.hand_over(&prepared).await {
                Ok(delivery) => return self.follow(&prepared, delivery, depth).await,
                Err(rejection) => rejection,
            };
            if !rejection.cured_by_signing_anew() || attempt >= SIGN_ANEW.tries_max {
                return Err(rejection.into());
            }
            tracing::debug!(call = call.name, %rejection, "extrinsic is signed anew");
            // Its nonce is free again for whoever signs next.
            drop(prepared);
            self.shared.forget_runtimes();
            clock.sleep(SIGN_ANEW.delay(attempt)).await;
            attempt += 1;
        }
    }

    /// Carries out what was prepared, be it just now or by an earlier process: looks for it on the chain, sends the same
    /// bytes where they are missing, follows forks, and waits until it is as deep as asked.
    ///
    /// # Errors
    /// [`SubmitError::Pool`] when the pool did not take it: nothing has changed, and a new one may be prepared.
    /// [`SubmitError::Expired`] when it can never be carried out any more. [`SubmitError::Dispatch`] when the chain undid
    /// it. [`SubmitError::Unknown`] when the chain was silent for too long: ask [`Chain::fate`] later.
    pub async fn carry_out(
        &self,
        prepared: &Prepared,
        depth: Depth,
    ) -> Result<Included, SubmitError> {
        self.check_chain(prepared)?;
        if prepared.slot.as_ref().is_some_and(|slot| !slot.is_sent()) {
            let delivery = self.hand_over(prepared).await?;
            return self.follow(prepared, delivery, depth).await;
        }
        let facts = &prepared.facts;
        let hold = match prepared.slot {
            Some(_) => None,
            None => self.shared.nonces.take_sent(facts.signer, facts.nonce),
        };
        let outcome = self.follow(prepared, Delivery::Unsent, depth).await;
        drop(hold);
        outcome
    }

    /// An extrinsic of another chain must not be looked for here: it would seem to have expired.
    pub(crate) fn check_chain(&self, prepared: &Prepared) -> Result<(), ReadError> {
        if prepared.facts.genesis == self.genesis_hash() {
            return Ok(());
        }
        Err(ReadError::OtherChain { endpoint: self.endpoint().to_string() })
    }

    /// The first sending: after everything of a lower nonce, and once.
    async fn hand_over(&self, prepared: &Prepared) -> Result<Delivery, PoolRejection> {
        if let Some(slot) = &prepared.slot {
            let turn = slot.turn(self.shared.link.clock(), TURN_WAIT_MAX).await;
            turn.map_err(|_| PoolRejection::Future)?;
        }
        let delivery = self.send(prepared).await?;
        if let Some(slot) = &prepared.slot {
            slot.sent();
        }
        Ok(delivery)
    }

    /// Hands it to the pool. Only what the pool itself says is a verdict. A connection that breaks meanwhile, an error of
    /// something in between and an answer that nobody understands are none: the bytes may have arrived, and the search will
    /// tell.
    pub(crate) async fn send(&self, prepared: &Prepared) -> Result<Delivery, PoolRejection> {
        let bytes = &prepared.bytes;
        let ask = |rpc: Rpc| async move { rpc.author_submit_extrinsic(bytes).await };
        let limit = self.shared.limits.read;
        match self.shared.link.ask_once(limit, "author_submitExtrinsic", ask).await {
            Ok(_) => Ok(Delivery::Taken),
            Err(ReadError::Refused { source, .. }) => match source.pool_rejection() {
                Some(PoolRejection::AlreadyImported) => Ok(Delivery::Taken),
                Some(rejection) => Err(rejection),
                None if source.is_about_missing_method() => {
                    Err(PoolRejection::other(CODE_NO_METHOD, &source.to_string(), ""))
                }
                None => {
                    tracing::debug!(error = %ErrorChain(&source), "no verdict of the pool");
                    Ok(Delivery::Lost)
                }
            },
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "connection lost while sending");
                Ok(Delivery::Lost)
            }
        }
    }

    /// The block that a signature refers to: a final one, so that no fork takes it away, unless finality has fallen so far
    /// behind that half of the extrinsic's life would be over.
    async fn birth(&self, at: &At, era_blocks: u64) -> Result<Head, ReadError> {
        let finalized = self.finalized().await?;
        let oldest = at.head.number.0.saturating_sub(era_blocks / 2);
        if finalized.number.0 >= oldest {
            return Ok(finalized);
        }
        let number = BlockNumber(oldest);
        let hash = self.block_hash(number).await?.ok_or_else(crate::chain::no_head)?;
        Ok(Head { number, hash })
    }

    async fn next_nonce(&self, account: &AccountId) -> Result<u64, ReadError> {
        let account = &AccountId32(*account.as_bytes());
        let ask = |rpc: Rpc| async move { rpc.system_account_next_index(account).await };
        self.shared.link.ask(self.shared.limits.read, "system_accountNextIndex", ask).await
    }

    fn sign(
        &self,
        at: &At,
        call: &Call,
        signer: &Keypair,
        (nonce, birth): (u64, Head),
    ) -> Result<Vec<u8>, SubmitError> {
        let params = DefaultExtrinsicParamsBuilder::new()
            .nonce(nonce)
            .mortal_from_unchecked(call.era_blocks, birth.number.0, Hash::from(birth.hash))
            .build();
        let payload = subxt::transactions::dynamic(call.pallet, call.name, call.fields.clone());
        let mut signable = at
            .runtime
            .offline
            .transactions()
            .create_signable_offline(&payload, params)
            .map_err(|error| no_call(call, &error))?;
        let signed = signable.sign(&KeySigner(signer)).map_err(|error| no_call(call, &error))?;
        Ok(signed.into_encoded())
    }
}

/// A call's bytes under a runtime's metadata.
pub(crate) fn encode(runtime: &Runtime, call: &Call) -> Result<Vec<u8>, SubmitError> {
    let payload = subxt::transactions::dynamic(call.pallet, call.name, call.fields.clone());
    let bytes = runtime.offline.transactions().call_data(&payload);
    bytes.map_err(|error| no_call(call, &error))
}

fn no_call(call: &Call, error: &subxt::error::ExtrinsicError) -> SubmitError {
    SubmitError::Encode(format!("{}.{}: {error}", call.pallet, call.name))
}
