//! One proof session: the verifier's side, played over any channel that carries bytes both ways.
//!
//! The moment of a frame is read as soon as its bytes are here, before anything is computed; the computing itself happens
//! off the async threads.

use std::time::Duration;

use async_trait::async_trait;
use nicompute_daemon::{BoxError, Clock, SharedClock};
use nicompute_keys::Keypair;
use nicompute_market::{Capability, Hotkey, LeaseId, UnixMillis};
use nicompute_proof::{
    Binding, DeviceKind, Entropy, EntropyError, Limits, Output, ProofParams, Refusal,
    SessionConfig, SignedTranscript, Stage, Transcript, VerifierSession,
};

/// Bytes of the prover's standard error that are kept to explain a failure.
const STDERR_BYTES_MAX: usize = 2048;

/// What came from the prover's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// Bytes of the session.
    Bytes(Vec<u8>),
    /// Bytes that explain something to a person.
    Diagnostic(Vec<u8>),
    /// The prover is gone.
    Closed,
}

/// Bytes both ways between the verifier and a prover.
#[async_trait]
pub trait Channel: Send {
    /// What comes next. Cancel-safe.
    async fn next(&mut self) -> ChannelEvent;
    /// Sends bytes.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), BoxError>;
}

/// What a session is about.
#[derive(Debug, Clone)]
pub struct SessionPlan {
    /// The provider that is tested.
    pub provider: Hotkey,
    /// The lease in which its prover runs.
    pub lease: LeaseId,
    /// A recent finalised block: number and hash.
    pub block: (u64, [u8; 32]),
    /// The sizes.
    pub params: ProofParams,
    /// How long each stage may take.
    pub limits: Limits,
    /// The kind of device that is proven.
    pub kind: DeviceKind,
}

/// A session that came to a verdict.
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
        /// Why.
        refusal: Refusal,
        /// The evidence, where there is something to compute again.
        transcript: Option<Box<SignedTranscript>>,
    },
}

/// A session without a verdict.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The channel broke.
    #[error("the prover went away: {0}")]
    Closed(String),
    /// The channel does not take bytes.
    #[error("the prover's channel takes no bytes")]
    Send(#[source] BoxError),
    /// It failed on our side, which says nothing about the provider.
    #[error("the session failed on the validator's side")]
    Own(#[source] Refusal),
    /// The computation was lost.
    #[error("the verifier's computation was lost")]
    Lost(#[source] tokio::task::JoinError),
    /// The transcript could not be signed.
    #[error("the transcript cannot be signed")]
    Sign(#[source] nicompute_proof::SignError),
    /// No clock can show this time.
    #[error("the verifier's clock has run out")]
    Clock,
}

/// Plays a session to its verdict.
///
/// # Errors
/// When the channel broke or the session failed on our side: there is no verdict then.
pub async fn prove(
    plan: SessionPlan,
    key: &Keypair,
    clock: &SharedClock,
    channel: &mut dyn Channel,
) -> Result<Proven, SessionError> {
    let config = SessionConfig {
        params: plan.params,
        kind: plan.kind,
        binding: Binding::new(&key.hotkey(), &plan.provider, &plan.lease, plan.block),
        limits: plan.limits,
        set_up_at: UnixMillis(clock.unix_ms()),
    };
    let entropy: Box<dyn Entropy> = Box::new(system_entropy);
    let mut session = Box::new(VerifierSession::new(config, entropy, now_ns(&**clock)?));
    let mut diagnostic = Vec::new();
    loop {
        let deadline_ns = session.deadline_ns();
        let event = tokio::select! {
            event = channel.next() => Some(event),
            () = wait_for_deadline(deadline_ns, clock) => None,
        };
        let at_ns = now_ns(&**clock)?;
        let outcome = match event {
            None => session.on_time(at_ns).map(|()| Output::default()),
            Some(ChannelEvent::Diagnostic(bytes)) => {
                let room = STDERR_BYTES_MAX.saturating_sub(diagnostic.len());
                diagnostic.extend(bytes.into_iter().take(room));
                continue;
            }
            Some(ChannelEvent::Closed) => return Err(SessionError::Closed(printable(&diagnostic))),
            Some(ChannelEvent::Bytes(bytes)) => {
                let (returned, outcome) = on_bytes(session, bytes, at_ns).await?;
                session = returned;
                outcome
            }
        };
        match outcome {
            Ok(output) => {
                if !output.send.is_empty() {
                    channel.send(&output.send).await.map_err(SessionError::Send)?;
                }
                if let Some(transcript) = output.done {
                    return passed(*transcript, key);
                }
            }
            Err(refusal) => return refused(refusal, &mut session, key, channel).await,
        }
    }
}

fn system_entropy() -> Result<[u8; 32], EntropyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| EntropyError)?;
    Ok(bytes)
}

fn now_ns(clock: &dyn Clock) -> Result<u64, SessionError> {
    u64::try_from(clock.monotonic().as_nanos()).map_err(|_| SessionError::Clock)
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
) -> Result<Worked, SessionError> {
    if session.stage() != Stage::Openings {
        let outcome = session.on_bytes(&bytes, at_ns);
        return Ok((session, outcome));
    }
    let work = tokio::task::spawn_blocking(move || {
        let outcome = session.on_bytes(&bytes, at_ns);
        (session, outcome)
    });
    work.await.map_err(SessionError::Lost)
}

fn passed(transcript: Transcript, key: &Keypair) -> Result<Proven, SessionError> {
    let shown = capability(&transcript);
    let transcript = Box::new(transcript.sign(key).map_err(SessionError::Sign)?);
    Ok(Proven::Passed { shown, transcript })
}

async fn refused(
    refusal: Refusal,
    session: &mut VerifierSession,
    key: &Keypair,
    channel: &mut dyn Channel,
) -> Result<Proven, SessionError> {
    if refusal.is_own_fault() {
        return Err(SessionError::Own(refusal));
    }
    // Telling the prover is a courtesy; it may be gone.
    if let Ok(farewell) = nicompute_proof::encode(&refusal.farewell())
        && let Err(error) = channel.send(&farewell).await
    {
        tracing::debug!(%error, "the prover was not told of its refusal");
    }
    let transcript = session.take_evidence().map(|transcript| transcript.sign(key));
    let transcript = transcript.transpose().map_err(SessionError::Sign)?.map(Box::new);
    Ok(Proven::Refused { refusal, transcript })
}

/// What a transcript shows, for the device that did least: `bytes = rows × n`, `ops = 2 × steps × rows × n²` over the fill's
/// time, `walk bytes = walks × reads × n` over the walk's time.
fn capability(transcript: &Transcript) -> Capability {
    let (exchange, measured) = (&transcript.exchange, &transcript.measured);
    let n = u64::from(exchange.params.n);
    let plans = || exchange.devices.iter().map(|device| device.plan);
    let rows = plans().map(|plan| plan.rows).min().unwrap_or(0);
    let walks = plans().map(|plan| plan.walks).min().unwrap_or(0);
    let bytes = rows.saturating_mul(n);
    let steps = u64::from(exchange.params.steps);
    let ops = bytes.saturating_mul(n).saturating_mul(2).saturating_mul(steps);
    let walk_bytes =
        u64::from(walks).saturating_mul(u64::from(exchange.params.reads)).saturating_mul(n);
    let is_gpu = exchange.claims.first().is_some_and(|claim| claim.kind == DeviceKind::Cuda);
    Capability {
        kind: if is_gpu {
            nicompute_market::DeviceKind::Gpu
        } else {
            nicompute_market::DeviceKind::Cpu
        },
        devices: u32::try_from(exchange.devices.len()).unwrap_or(u32::MAX),
        bytes_per_device: bytes,
        ops_per_second: per_second(ops, measured.fill_ns),
        walk_bytes_per_second: per_second(walk_bytes, measured.walk_ns),
    }
}

fn per_second(amount: u64, ns: u64) -> u64 {
    let scaled = u128::from(amount).saturating_mul(1_000_000_000);
    let rate = scaled.checked_div(u128::from(ns)).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() { "it said nothing".to_owned() } else { text }
}
