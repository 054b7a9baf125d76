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

/// What a provider hears where its lease ends before its proof.
const LEASE_OVER: &str = "the lease's time was over";
/// How long the last words to a prover may take.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

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
        /// What it says of the machine.
        blame: Blame,
        /// The evidence, where there is something to compute again.
        transcript: Option<Box<SignedTranscript>>,
    },
    /// A leg after the walks took too long, or the prover went away in it. Nothing was opened, so nothing is proven; a
    /// second session would be a second try at the rates.
    LegStuck {
        /// The leg's stage.
        stage: Stage,
        /// Why, for people.
        detail: String,
    },
    /// The prover went away, gave up or was too slow before the clock ran: nothing was shown either way.
    Lost(String),
    /// It failed on this side, which says nothing about the provider.
    Own(String),
}

/// What a refusal says of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// It was too slow, or gone while its clock ran: that can befall anybody.
    Unfinished,
    /// It was gone once it knew the sample: that can befall anybody once, and hides a wrong answer.
    Unopened,
    /// It gave a wrong answer, which no honest machine gives.
    Wrong,
}

/// Plays a session to its end, and says what class of machine it shows.
pub async fn prove(
    plan: &SessionPlan,
    key: &Keypair,
    clock: &SharedClock,
    channel: &mut dyn ProofChannel,
) -> Proven {
    prove_until(plan, key, (clock, Duration::MAX), channel).await
}

/// The same, but over at a moment of the monotonic clock, whatever its stages may still take.
pub(crate) async fn prove_until(
    plan: &SessionPlan,
    key: &Keypair,
    (clock, ends_at): (&SharedClock, Duration),
    channel: &mut dyn ProofChannel,
) -> Proven {
    match play(plan, key, (clock, ends_at), channel).await {
        Ok(transcript) => passed(*transcript, key),
        Err(ended) => ended,
    }
}

/// Plays a session to its end; gives the transcript of a proof that holds, and never [`Proven::Passed`].
pub(crate) async fn play(
    plan: &SessionPlan,
    key: &Keypair,
    (clock, ends_at): (&SharedClock, Duration),
    channel: &mut dyn ProofChannel,
) -> Result<Box<Transcript>, Proven> {
    let config = SessionConfig {
        params: plan.profile.params,
        kind: plan.profile.kind,
        binding: Binding::new(&key.hotkey(), &plan.provider, &plan.lease, plan.block),
        limits: plan.profile.limits,
        set_up_at: UnixMillis(clock.unix_ms()),
    };
    let entropy: Box<dyn Entropy> = Box::new(system_entropy);
    let mut session = Box::new(VerifierSession::new(config, entropy, now_ns(&**clock)));
    let until = |session: &VerifierSession| {
        let stage = session.deadline_ns().map_or(Duration::MAX, Duration::from_nanos);
        stage.min(ends_at)
    };
    loop {
        let deadline = until(&session);
        let received = tokio::select! {
            received = channel.receive() => Some(received),
            () = wait_for_deadline(deadline, clock) => None,
        };
        let at_ns = now_ns(&**clock);
        let stage = session.stage();
        if clock.monotonic() >= ends_at {
            return Err(gone(stage, LEASE_OVER));
        }
        let outcome = match received {
            None => session.on_time(at_ns).map(|()| Output::default()),
            Some(Ok(Some(bytes))) => match on_bytes(session, bytes, at_ns).await {
                Ok((returned, outcome)) => {
                    session = returned;
                    outcome
                }
                Err(error) => return Err(Proven::Own(format!("the verifier was lost: {error}"))),
            },
            Some(Ok(None)) => return Err(gone(stage, "the prover went away")),
            Some(Err(error)) => return Err(gone(stage, &ErrorChain(&error).to_string())),
        };
        match outcome {
            Ok(Output { send, done }) => {
                let deadline = done.is_none().then(|| until(&session));
                let sent = send_in_time(channel, &send, deadline, clock).await;
                match (done, sent) {
                    // Whether the prover still hears BYE changes nothing.
                    (Some(transcript), _) => return Ok(transcript),
                    (None, Ok(())) => {}
                    (None, Err(error)) => return Err(gone(session.stage(), &error)),
                }
            }
            Err(refusal) => {
                return Err(refused((&refusal, stage), &mut session, key, (channel, clock)).await);
            }
        }
    }
}

/// Sends, but not beyond the stage's limit: a prover that stops reading must not hold the verifier.
async fn send_in_time(
    channel: &mut dyn ProofChannel,
    bytes: &[u8],
    deadline: Option<Duration>,
    clock: &SharedClock,
) -> Result<(), String> {
    if bytes.is_empty() {
        return Ok(());
    }
    let limit = async {
        match deadline {
            Some(deadline) => wait_for_deadline(deadline, clock).await,
            None => clock.sleep(FAREWELL_MAX).await,
        }
    };
    tokio::select! {
        sent = channel.send(bytes) => sent.map_err(|error| ErrorChain(&error).to_string()),
        () = limit => Err("the prover stopped reading".to_owned()),
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
async fn wait_for_deadline(deadline: Duration, clock: &SharedClock) {
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

fn gone(stage: Stage, why: &str) -> Proven {
    unfinished(stage, format!("{why} in the stage {stage}"))
}

/// What it means that a prover is gone, has given up or is too slow depends on whether it had something to lose, and on
/// nothing else: whoever says so is not treated worse than whoever hangs up.
fn unfinished(stage: Stage, detail: String) -> Proven {
    match stage {
        Stage::Hello | Stage::Ready | Stage::Pings => Proven::Lost(detail),
        Stage::Link | Stage::Copy | Stage::Down | Stage::Up => Proven::LegStuck { stage, detail },
        Stage::Fill | Stage::Walk => {
            Proven::Refused { detail, blame: Blame::Unfinished, transcript: None }
        }
        Stage::Openings | Stage::Over => {
            Proven::Refused { detail, blame: Blame::Unopened, transcript: None }
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
    (refusal, stage): (&Refusal, Stage),
    session: &mut VerifierSession,
    key: &Keypair,
    (channel, clock): (&mut dyn ProofChannel, &SharedClock),
) -> Proven {
    let detail = ErrorChain(refusal).to_string();
    if refusal.is_own_fault() {
        return Proven::Own(detail);
    }
    // Telling the prover is a courtesy; it may be gone.
    if let Ok(farewell) = nicompute_proof::encode(&refusal.farewell())
        && let Err(error) = send_in_time(channel, &farewell, None, clock).await
    {
        tracing::debug!(error, "the prover was not told of its refusal");
    }
    match refusal {
        Refusal::Deadline { stage, .. } => return unfinished(*stage, detail),
        Refusal::Prover { .. } => return unfinished(stage, detail),
        _ => {}
    }
    let signed = session.take_evidence().map(|transcript| transcript.sign(key)).transpose();
    match signed {
        Ok(transcript) => {
            let blame = blame(refusal, stage);
            Proven::Refused { detail, blame, transcript: transcript.map(Box::new) }
        }
        Err(error) => Proven::Own(ErrorChain(&error).to_string()),
    }
}

/// Answers that are not what the keys give are what honest machines do not send, whatever happens to them or to the line.
fn blame(refusal: &Refusal, stage: Stage) -> Blame {
    match refusal {
        Refusal::Mismatch { .. } | Refusal::Stream { .. } | Refusal::Openings(_) => Blame::Wrong,
        _ if stage == Stage::Openings => Blame::Unopened,
        _ => Blame::Unfinished,
    }
}
