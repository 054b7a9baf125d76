//! Proofs: which provider is due, the lease for it, the session, the evidence, and the lease given back whatever happened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nicompute_client::{
    ExecEvent, ExecStream, LeaseKey, LeaseKeyError, LeaseSession, NodeClient, NodeError, SshError,
};
use nicompute_daemon::{BoxError, ErrorChain, OnError, Tasks};
use nicompute_market::{
    Evidence, Hotkey, LeaseId, LeaseState, Offer, PROOF_LEASE_MILLIS_MAX, UnixMillis, Verdict,
};
use nicompute_proof::DeviceKind;
use nicompute_wire::codes::Code;
use nicompute_wire::node::LeaseRequest;

use crate::session::{Channel, ChannelEvent, Proven, SessionError, SessionPlan, prove};
use crate::state::{Session, Shared, fresh_lease_id};
use crate::store::{NewEvidence, ProofLease};

/// Sessions at the same time. Each checks on one core when its prover is done.
const SESSIONS_MAX: usize = 4;
/// How long a provider may take to answer a question.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How long a lease may take to come up.
const UP_MAX: Duration = Duration::from_secs(60);
/// How long entering and uploading may take.
const ENTER_MAX: Duration = Duration::from_secs(60);
/// Where the prover is put: memory, executable, gone with the lease.
const PROVER_PATH: &str = "/run/nicompute/prover";
/// Owner may read, write, execute; others may read and execute.
const PROVER_MODE: u32 = 0o755;
/// Characters of a reason that is stored.
const DETAIL_CHARS_MAX: usize = 500;

/// A provider that is due.
#[derive(Debug, Clone)]
struct Due {
    provider: Hotkey,
    address: SocketAddr,
    offer: Offer,
}

/// Why there was no session.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    /// A renter has the machine; its last evidence stays.
    #[error("the offer is held by somebody else")]
    Rented,
    #[error("the provider's node did not give a lease")]
    Node(#[source] NodeError),
    #[error("the lease did not come up: {0}")]
    NotUp(LeaseState),
    #[error("the lease cannot be entered")]
    NoDoor,
    #[error("the lease's SSH key could not be made")]
    Key(#[source] LeaseKeyError),
    #[error("the lease was not entered")]
    Ssh(#[source] SshError),
    #[error("the chain has no finalised block to mix in")]
    Chain(#[source] nicompute_chain::ReadError),
    #[error("the session came to no verdict")]
    Session(#[source] SessionError),
}

impl AttemptError {
    /// Whether it says something about the provider. What is our own fault or a renter's right does not.
    const fn is_about_provider(&self) -> bool {
        match self {
            Self::Node(_) | Self::NotUp(_) | Self::NoDoor | Self::Ssh(_) => true,
            Self::Session(error) => {
                matches!(error, SessionError::Closed(_) | SessionError::Send(_))
            }
            Self::Rented | Self::Key(_) | Self::Chain(_) => false,
        }
    }
}

/// Starts a session with every provider that is due, as far as there is room.
pub(crate) async fn round(shared: &Arc<Shared>, tasks: &Tasks) {
    for due in due(shared) {
        let lease = match fresh_lease_id() {
            Ok(lease) => lease,
            Err(error) => {
                tracing::error!(%error, "no randomness for a lease");
                return;
            }
        };
        let noted =
            ProofLease { lease, provider: due.provider, address: due.address, asked: shared.now() };
        // Before the provider hears of it, so that a validator that dies here still gives it back.
        if let Err(error) = shared.store.add_proof_lease(&noted).await {
            tracing::error!(error = %ErrorChain(&error), "a lease was not noted");
            return;
        }
        let session = Session { lease, phase: "leasing", started: shared.now() };
        shared.set_session(&due.provider, Some(session));
        let state = Arc::clone(shared);
        tasks.spawn("proof session", OnError::Log, async move {
            one(&state, &due, lease).await;
            state.set_session(&due.provider, None);
            state.nudge.notify_waiters();
            Ok(())
        });
    }
}

/// Providers without a session whose evidence is missing or old enough, and that offer something free.
fn due(shared: &Shared) -> Vec<Due> {
    let now = shared.now();
    shared.view(|view| {
        let running = view.providers.values().filter(|known| known.session.is_some()).count();
        let room = SESSIONS_MAX.saturating_sub(running);
        let is_due = |provider: &Hotkey| match view.evidence.get(provider) {
            None => true,
            Some(stored) => {
                let wait = match stored.evidence.verdict {
                    Verdict::Passed(_) => shared.pace.prove_again_ms,
                    Verdict::Refused | Verdict::Unreachable => shared.pace.retry_ms,
                };
                now.millis_since(stored.evidence.at) >= wait
            }
        };
        let free = view.providers.iter().filter(|(_, known)| known.session.is_none());
        let due = free.filter(|(provider, _)| is_due(provider)).filter_map(|(provider, known)| {
            let offer = known.offers.iter().flatten().find(|offer| offer.available)?;
            Some(Due { provider: *provider, address: known.address, offer: offer.clone() })
        });
        due.take(room).collect()
    })
}

async fn one(shared: &Shared, due: &Due, lease: LeaseId) {
    let node = shared.node(due.address, due.provider);
    let outcome = attempt(shared, due, lease, &node).await;
    phase(shared, due, lease, "releasing");
    let new = match outcome {
        Ok(proven) => Some(evidence_of(shared, due, lease, proven)),
        Err(error) => {
            tracing::warn!(provider = %due.provider, lease = %lease, error = %ErrorChain(&error), "no verdict");
            let detail = short(&ErrorChain(&error).to_string());
            error.is_about_provider().then(|| new(shared, due, lease, Verdict::Unreachable, detail))
        }
    };
    give_one_back(shared, &node, lease).await;
    let Some(new) = new else { return };
    match shared.store.add_evidence(&new).await {
        Ok(stored) => {
            shared.view(|view| view.evidence.insert(due.provider, stored));
        }
        Err(error) => tracing::error!(error = %ErrorChain(&error), "evidence was not stored"),
    }
}

async fn attempt(
    shared: &Shared,
    due: &Due,
    lease: LeaseId,
    node: &NodeClient,
) -> Result<Proven, AttemptError> {
    let key = LeaseKey::generate().map_err(AttemptError::Key)?;
    let request = LeaseRequest {
        id: lease,
        offer: due.offer.id.clone(),
        purpose: "proof".to_owned(),
        ssh_keys: vec![key.public_openssh().map_err(AttemptError::Key)?],
        image: None,
        duration_seconds: PROOF_LEASE_MILLIS_MAX / 1000,
    };
    let identity = node.node(ASK_MAX).await.map_err(AttemptError::Node)?;
    node.create_lease(&request, ASK_MAX).await.map_err(|error| match error.code() {
        Some(Code::Occupied) => AttemptError::Rented,
        _ => AttemptError::Node(error),
    })?;
    let held = node.settled(lease, UP_MAX).await.map_err(AttemptError::Node)?;
    if held.state != LeaseState::Running {
        return Err(AttemptError::NotUp(held.state));
    }
    let access = identity.access(&held).map_err(AttemptError::Node)?.ok_or(AttemptError::NoDoor)?;
    phase(shared, due, lease, "connecting");
    let inside =
        LeaseSession::connect(&access, &key, ENTER_MAX).await.map_err(AttemptError::Ssh)?;
    inside
        .upload(PROVER_PATH, &shared.prover, PROVER_MODE, ENTER_MAX)
        .await
        .map_err(AttemptError::Ssh)?;
    let block = shared.chain.finalized().await.map_err(AttemptError::Chain)?;
    let (params, limits) = shared.proof.plan(due.offer.machine.memory_bytes);
    let has_gpus = !due.offer.machine.gpus.is_empty() && !shared.devnet;
    let plan = SessionPlan {
        provider: due.provider,
        lease,
        block: (block.number.get(), block.hash),
        params,
        limits,
        kind: if has_gpus { DeviceKind::Cuda } else { DeviceKind::Cpu },
    };
    let stream = inside.exec(PROVER_PATH, ENTER_MAX).await.map_err(AttemptError::Ssh)?;
    phase(shared, due, lease, "proving");
    let mut channel = Exec(stream);
    let proven = prove(plan, &shared.key, &shared.clock, &mut channel).await;
    if let Err(error) = inside.close().await {
        tracing::debug!(error = %ErrorChain(&error), "the lease's connection was gone");
    }
    proven.map_err(AttemptError::Session)
}

fn phase(shared: &Shared, due: &Due, lease: LeaseId, phase: &'static str) {
    shared.view(|view| {
        let known = view.providers.get_mut(&due.provider).and_then(|known| known.session.as_mut());
        if let Some(session) = known.filter(|session| session.lease == lease) {
            session.phase = phase;
        }
    });
}

fn evidence_of(shared: &Shared, due: &Due, lease: LeaseId, proven: Proven) -> NewEvidence {
    match proven {
        Proven::Passed { shown, transcript } => {
            tracing::info!(provider = %due.provider, lease = %lease, ?shown, "the proof holds");
            let detail = "the proof holds".to_owned();
            NewEvidence {
                transcript: Some(transcript.into_bytes()),
                ..new(shared, due, lease, Verdict::Passed(shown), detail)
            }
        }
        Proven::Refused { refusal, transcript } => {
            let why = ErrorChain(&refusal).to_string();
            tracing::warn!(provider = %due.provider, lease = %lease, refusal = %why, "the proof is refused");
            NewEvidence {
                transcript: transcript.map(|transcript| transcript.into_bytes()),
                ..new(shared, due, lease, Verdict::Refused, short(&why))
            }
        }
    }
}

fn new(
    shared: &Shared,
    due: &Due,
    lease: LeaseId,
    verdict: Verdict,
    detail: String,
) -> NewEvidence {
    NewEvidence {
        provider: due.provider,
        lease: Some(lease),
        evidence: Evidence { at: shared.now(), verdict },
        detail,
        transcript: None,
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect()
}

/// Gives back every lease for a proof that no running session holds: those of a validator that died, and those that could not
/// be given back before.
pub(crate) async fn give_back(shared: &Shared) {
    let noted = match shared.store.proof_leases().await {
        Ok(noted) => noted,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "the leases for proofs were not read");
            return;
        }
    };
    let held: Vec<LeaseId> = shared.view(|view| {
        let sessions = view.providers.values().filter_map(|known| known.session);
        sessions.map(|session| session.lease).collect()
    });
    for lease in noted.into_iter().filter(|noted| !held.contains(&noted.lease)) {
        // A provider that stays away ends the lease by itself when its time is over.
        let over = UnixMillis(lease.asked.get().saturating_add(2 * PROOF_LEASE_MILLIS_MAX));
        if shared.now() >= over {
            forget(shared, lease.lease).await;
            continue;
        }
        let node = shared.node(lease.address, lease.provider);
        give_one_back(shared, &node, lease.lease).await;
    }
}

/// Releases a lease and forgets it once the provider has agreed, or does not know it.
async fn give_one_back(shared: &Shared, node: &NodeClient, lease: LeaseId) {
    match node.release(lease, ASK_MAX).await {
        Ok(_) => forget(shared, lease).await,
        Err(error) if error.code() == Some(Code::NoSuchLease) => forget(shared, lease).await,
        Err(error) => {
            tracing::debug!(lease = %lease, error = %ErrorChain(&error), "not given back yet");
        }
    }
}

async fn forget(shared: &Shared, lease: LeaseId) {
    if let Err(error) = shared.store.remove_proof_lease(lease).await {
        tracing::error!(error = %ErrorChain(&error), "a lease for a proof was not forgotten");
    }
}

/// The prover's standard streams in a lease.
struct Exec(ExecStream);

#[async_trait]
impl Channel for Exec {
    async fn next(&mut self) -> ChannelEvent {
        match self.0.next().await {
            Some(ExecEvent::Stdout(bytes)) => ChannelEvent::Bytes(bytes),
            Some(ExecEvent::Stderr(bytes)) => ChannelEvent::Diagnostic(bytes),
            Some(ExecEvent::Exited(_) | ExecEvent::Signalled(_)) | None => ChannelEvent::Closed,
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        Ok(self.0.write(bytes).await?)
    }
}
