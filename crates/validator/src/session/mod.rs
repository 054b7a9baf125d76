//! One proof session: the verifier's side, played over any channel that carries bytes both ways.
//!
//! The moment of a frame is read as soon as its bytes are here, before anything is computed; the long computation at the
//! end happens off the async threads. A prover that falls silent once the clock runs has refused the proof: else a cheater
//! would hang up whenever the sample is not to its liking.

mod channel;
mod shown;
mod ssh;

use std::time::Duration;

use nicompute_daemon::{Clock, ErrorChain, SharedClock};
use nicompute_keys::Keypair;
use nicompute_market::{Capability, Hotkey, LeaseId, UnixMillis};
use nicompute_proof::{
    Binding, Entropy, EntropyError, Output, Refusal, SessionConfig, SignedTranscript, Stage,
    Transcript, VerifierSession,
};

use crate::config::ProofProfile;

pub use channel::{ChannelError, ProofChannel, ProofDoor};
pub use shown::{DeviceShown, capability, name_mismatches, shown_by_device};
pub(crate) use ssh::SshDoor;

/// What a session is about.
#[derive(Debug, Clone)]
pub struct SessionPlan {
    /// The provider that is tested.
    pub provider: Hotkey,
    /// The lease in which its prover runs.
    pub lease: LeaseId,
    /// A recent finalised block: number and hash.
    pub block: (u64, [u8; 32]),
    /// What is proven.
    pub profile: ProofProfile,
}

/// What a session came to.
#[derive(Debug)]
pub enum Proven {
    /// The proof holds.
    Passed {
        /// What was shown.
        shown: Capability,
        /// The evidence.
        transcript: Box<SignedTranscript>,
    },
    /// The machine did not do the work.
    Refused {
        /// Why, for people.
        detail: String,
        /// The evidence, where there is something to compute again.
        transcript: Option<Box<SignedTranscript>>,
    },
    /// The prover went away before the clock ran: nothing was shown either way.
    Lost(String),
    /// It failed on this side, which says nothing about the provider.
    Own(String),
}

/// Plays a session to its end.
pub async fn prove(
    plan: &SessionPlan,
    key: &Keypair,
    clock: &SharedClock,
    channel: &mut dyn ProofChannel,
) -> Proven {
    let config = SessionConfig {
        params: plan.profile.params,
        kind: plan.profile.kind,
        binding: Binding::new(&key.hotkey(), &plan.provider, &plan.lease, plan.block),
        limits: plan.profile.limits,
        set_up_at: UnixMillis(clock.unix_ms()),
    };
    let entropy: Box<dyn Entropy> = Box::new(system_entropy);
    let mut session = Box::new(VerifierSession::new(config, entropy, now_ns(&**clock)));
    loop {
        let deadline_ns = session.deadline_ns();
        let received = tokio::select! {
            received = channel.receive() => Some(received),
            () = wait_for_deadline(deadline_ns, clock) => None,
        };
        let at_ns = now_ns(&**clock);
        let stage = session.stage();
        let outcome = match received {
            None => session.on_time(at_ns).map(|()| Output::default()),
            Some(Ok(Some(bytes))) => match on_bytes(session, bytes, at_ns).await {
                Ok((returned, outcome)) => {
                    session = returned;
                    outcome
                }
                Err(error) => return Proven::Own(format!("the verifier was lost: {error}")),
            },
            Some(Ok(None)) => return gone(stage, "the prover went away"),
            Some(Err(error)) => return gone(stage, &ErrorChain(&error).to_string()),
        };
        match outcome {
            Ok(Output { send, done }) => {
                if !send.is_empty()
                    && let Err(error) = channel.send(&send).await
                    && done.is_none()
                {
                    return gone(session.stage(), &ErrorChain(&error).to_string());
                }
                if let Some(transcript) = done {
                    return passed(*transcript, key);
                }
            }
            Err(refusal) => return refused(&refusal, &mut session, key, channel).await,
        }
    }
}

fn system_entropy() -> Result<[u8; 32], EntropyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| EntropyError)?;
    Ok(bytes)
}

fn now_ns(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_nanos()).unwrap_or(u64::MAX)
}

/// Sleeps until the running stage is over its limit.
async fn wait_for_deadline(deadline_ns: Option<u64>, clock: &SharedClock) {
    let deadline = deadline_ns.map_or(Duration::MAX, Duration::from_nanos);
    let left = deadline.saturating_sub(clock.monotonic());
    // A nanosecond past the limit, so that the session agrees.
    clock.sleep(left.saturating_add(Duration::from_nanos(1))).await;
}

type Worked = (Box<VerifierSession>, Result<Output, Refusal>);

/// The last stage computes for long; the others answer at once, while the prover's clock runs.
async fn on_bytes(
    mut session: Box<VerifierSession>,
    bytes: Vec<u8>,
    at_ns: u64,
) -> Result<Worked, tokio::task::JoinError> {
    if session.stage() != Stage::Openings {
        let outcome = session.on_bytes(&bytes, at_ns);
        return Ok((session, outcome));
    }
    let work = tokio::task::spawn_blocking(move || {
        let outcome = session.on_bytes(&bytes, at_ns);
        (session, outcome)
    });
    work.await
}

/// What it means that the prover is gone depends on whether it had something to lose.
fn gone(stage: Stage, why: &str) -> Proven {
    match stage {
        Stage::Hello | Stage::Ready | Stage::Pings => Proven::Lost(why.to_owned()),
        Stage::Fill
        | Stage::Walk
        | Stage::Link
        | Stage::Copy
        | Stage::Down
        | Stage::Up
        | Stage::Openings
        | Stage::Over => {
            Proven::Refused { detail: format!("{why} in the stage {stage}"), transcript: None }
        }
    }
}

fn passed(transcript: Transcript, key: &Keypair) -> Proven {
    let Some(shown) = capability(&transcript) else {
        return Proven::Own(
            "the devices that were proven are of a kind without a class".to_owned(),
        );
    };
    match transcript.sign(key) {
        Ok(signed) => Proven::Passed { shown, transcript: Box::new(signed) },
        Err(error) => Proven::Own(ErrorChain(&error).to_string()),
    }
}

async fn refused(
    refusal: &Refusal,
    session: &mut VerifierSession,
    key: &Keypair,
    channel: &mut dyn ProofChannel,
) -> Proven {
    let detail = ErrorChain(refusal).to_string();
    if refusal.is_own_fault() {
        return Proven::Own(detail);
    }
    // Telling the prover is a courtesy; it may be gone.
    if let Ok(farewell) = nicompute_proof::encode(&refusal.farewell())
        && let Err(error) = channel.send(&farewell).await
    {
        tracing::debug!(error = %ErrorChain(&error), "the prover was not told of its refusal");
    }
    let signed = session.take_evidence().map(|transcript| transcript.sign(key)).transpose();
    match signed {
        Ok(transcript) => Proven::Refused { detail, transcript: transcript.map(Box::new) },
        Err(error) => Proven::Own(ErrorChain(&error).to_string()),
    }
}
