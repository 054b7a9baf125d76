//! One proof of one provider, from the lease to the stored verdict, by the same way that a renter takes.
//!
//! A machine that cannot be proven because somebody holds it keeps its evidence only where this validator's own books say
//! who: a running rental that it brokered itself. Any other "occupied" is a miss like silence, for a provider's word alone
//! would pay for hardware that is never there again. A lease of another validator costs a miss or two, not the evidence,
//! unless it is still there after [`UNREACHABLE_AFTER`] tries in a row. A machine without a passed proof has nothing to keep:
//! there "occupied" is neither evidence nor a miss, so that validators who start together do not blame it for each other.
//!
//! A proof that had its sure time may be ended by its node for a renter. That is the provider's word, so it excuses little:
//! where this validator's own books have the renter it is neither evidence nor a miss; otherwise one session counts as a
//! miss instead of a refusal, and until a proof has passed the next ones count as what they would have been. A session that knew its sample is excused once
//! whoever rents, for else a cheater would rent its machine whenever the sample is not to its liking.
//!
//! A round is over when its lease is, whatever it waits for, so that nobody holds a session's place for longer. It has one
//! main session: a leg that sticks ends it as a miss, for a second session would be a second try at the rates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nicompute_client::{HeldLease, LeaseKey, Node, NodeClient, NodeError, SshAccess};
use nicompute_daemon::ErrorChain;
use nicompute_market::{
    Catalogue, EndReason, Evidence, FailReason, Hotkey, LeaseId, LeaseState, Offer,
    PROOF_LEASE_MILLIS_MAX, PROOF_SURE_MILLIS, Purpose, Verdict,
};
use nicompute_proof::{SignedTranscript, Transcript};
use nicompute_wire::codes::Code;
use nicompute_wire::node::{LeaseRequest, OptionsView};

use crate::board::{Phase, Running, Tries, UNREACHABLE_AFTER};
use crate::config::ProofProfile;
use crate::context::Context;
use crate::files;
use crate::legs::{LegFigure, LegKind, NO_ROOM, figures, figures_of_further, left_out};
use crate::loops::LoopError;
use crate::loops::prove::give_back;
use crate::loops::prove_plan::Due;
use crate::session::{
    Blame, ProofChannel, Proven, SessionPlan, name_mismatches, play, prove_until,
};
use crate::store::{NewEvidence, ProofLease, Rental, StoredEvidence, TranscriptBlob};

/// What a provider has for each question before the lease runs.
const ASK_BUDGET: Duration = Duration::from_secs(10);
/// From the accepted request to a lease that runs.
const PREPARE_BUDGET: Duration = Duration::from_secs(120);
/// From the lease that runs to the prover that runs.
const OPEN_BUDGET: Duration = Duration::from_secs(60);
/// What a further session may need of a lease.
const FURTHER_BUDGET: Duration = Duration::from_secs(240);
/// From the request for a lease to the end of its round; what is left of the lease is for giving it back.
const ROUND_MAX: Duration = Duration::from_millis(PROOF_LEASE_MILLIS_MAX - RELEASE_MILLIS);
const RELEASE_MILLIS: u64 = 20_000;
const ROUND_OVER: &str = "the lease's time was over";
/// Characters of a detail that is stored.
const DETAIL_CHARS_MAX: usize = 500;
const MILLIS: u64 = 1000;

/// One session under way.
#[derive(Debug)]
pub(crate) struct Session {
    ctx: Arc<Context>,
    provider: Hotkey,
    address: SocketAddr,
    lease: LeaseId,
    /// When the round is over, on the monotonic clock.
    ends_at: Duration,
}

/// A lease that runs, and what is to be proven in it.
#[derive(Debug)]
struct Taken {
    who: Node,
    held: HeldLease,
    key: LeaseKey,
    profile: ProofProfile,
    further: Vec<(LegKind, Option<ProofProfile>)>,
}

/// What was shown besides the plot and its walks.
#[derive(Debug, Default)]
struct Besides {
    figures: Vec<LegFigure>,
    transcripts: Vec<TranscriptBlob>,
}

/// What became of a try.
#[derive(Debug)]
enum Ended {
    /// The verifier came to a verdict.
    Verdict(Proven, Besides),
    /// Nothing was shown, and it is the provider's doing as far as can be seen.
    Missed(String),
    /// The provider says that somebody holds the machine.
    Occupied(String),
    /// The provider says that it made room for a renter; what the session would have come to.
    Preempted(Box<Self>),
    /// Nothing can be said of the provider.
    Void(String),
}

impl Session {
    /// Takes the provider's place on the board; nothing when another session has it, or when there is no randomness.
    pub(crate) fn new(ctx: &Arc<Context>, due: Due) -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        let lease = LeaseId::from_random_bytes(bytes);
        let head = ctx.head();
        let running =
            Running { lease, is_accepted: false, phase: Phase::Leasing, started_at: ctx.now() };
        let mut board = ctx.board.lock();
        if board.sessions.contains_key(&due.provider) {
            return None;
        }
        board.sessions.insert(due.provider, running);
        board.tries.entry(due.provider).or_default().last = head;
        drop(board);
        let Due { provider, address } = due;
        let ends_at = ctx.clock.monotonic().saturating_add(ROUND_MAX);
        Some(Self { ctx: Arc::clone(ctx), provider, address, lease, ends_at })
    }

    pub(crate) const fn context(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// Proves, gives the lease back, stores the verdict.
    pub(crate) async fn run(self) -> Result<(), LoopError> {
        let stop = self.ctx.tasks.token().clone();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ended::Void("the validator is shutting down".to_owned()),
            ended = self.attempt_and_ask() => ended,
        };
        self.ctx.board.set_phase(&self.provider, Phase::Releasing);
        let recorded = self.record(ended).await;
        // The verdict is stored first: a kill between the two costs the provider a minute, not its proof.
        let released = self.release().await;
        self.ctx.board.lock().sessions.remove(&self.provider);
        recorded.and(released)
    }

    /// A try, and why it ended where that may be no fault of the machine.
    async fn attempt_and_ask(&self) -> Ended {
        let ended = self.attempt().await;
        let is_open = match &ended {
            Ended::Missed(_) => self.ctx.board.is_accepted(&self.provider),
            Ended::Verdict(Proven::Refused { blame, .. }, _) => *blame != Blame::Wrong,
            Ended::Verdict(Proven::Lost(_) | Proven::LegStuck { .. }, _) => true,
            Ended::Verdict(Proven::Passed { .. } | Proven::Own(_), _)
            | Ended::Occupied(_)
            | Ended::Preempted(_)
            | Ended::Void(_) => false,
        };
        if !is_open {
            return ended;
        }
        let node = self.ctx.dialer.node(self.address, self.provider);
        match node.lease(self.lease, ASK_BUDGET).await {
            Ok(HeldLease {
                state:
                    LeaseState::Ending(EndReason::Preempted) | LeaseState::Ended(EndReason::Preempted),
                ..
            }) => Ended::Preempted(Box::new(ended)),
            Ok(_) | Err(_) => ended,
        }
    }

    async fn attempt(&self) -> Ended {
        let node = self.ctx.dialer.node(self.address, self.provider);
        let taken = match self.in_time(self.take_lease(&node)).await {
            Some(Ok(taken)) => taken,
            Some(Err(ended)) => return ended,
            None => return Ended::Missed(ROUND_OVER.to_owned()),
        };
        let access = match taken.who.access(&taken.held) {
            Ok(Some(access)) => access,
            Ok(None) => return Ended::Missed("the lease cannot be entered".to_owned()),
            Err(error) => return Ended::Missed(ErrorChain(&error).to_string()),
        };
        self.prove_in(&access, &taken).await
    }

    /// What work comes to, or nothing where the round ends first.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let left = self.ends_at.saturating_sub(self.ctx.clock.monotonic());
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.ctx.clock.sleep(left) => None,
        }
    }

    async fn take_lease(&self, node: &NodeClient) -> Result<Taken, Ended> {
        let who = node.node(ASK_BUDGET).await.map_err(|error| missed(&error))?;
        let offers = node.offers(ASK_BUDGET).await.map_err(|error| missed(&error))?;
        let offer = self.choose(offers)?;
        let is_free = offer.available;
        let profile = self.ctx.config.profile(&offer.machine);
        let further = self.ctx.config.further(&offer.machine);
        let key = LeaseKey::generate().map_err(|error| void(&error))?;
        let begun_at = self.ctx.now();
        let intent = ProofLease {
            lease: self.lease,
            provider: self.provider,
            address: self.address,
            begun_at,
            expires_at: begun_at.saturating_add_millis(PROOF_LEASE_MILLIS_MAX),
        };
        self.ctx.store.add_proof_lease(&intent).await.map_err(|error| void(&error))?;
        let request = LeaseRequest {
            id: self.lease,
            offer: offer.id,
            purpose: Purpose::Proof.as_str().to_owned(),
            ssh_keys: vec![key.public_openssh().map_err(|error| void(&error))?],
            image: None,
            duration_seconds: PROOF_LEASE_MILLIS_MAX.checked_div(MILLIS).unwrap_or(0),
            terminal_key: None,
            options: OptionsView::default(),
        };
        // An offer that is not free is asked for as well: the node has a line, and remembers who came in vain.
        node.create_lease(&request, ASK_BUDGET).await.map_err(|error| match error {
            NodeError::Refused(_) if !is_free => Ended::Occupied(ErrorChain(&error).to_string()),
            error => missed(&error),
        })?;
        self.ctx.board.set_accepted(&self.provider);
        let held =
            node.settled(self.lease, PREPARE_BUDGET).await.map_err(|error| missed(&error))?;
        match held.state {
            LeaseState::Running => Ok(Taken { who, held, key, profile, further }),
            LeaseState::Failed(FailReason::Occupied) => {
                Err(Ended::Occupied("the proof lease is failed: occupied".to_owned()))
            }
            other => Err(Ended::Missed(format!("the proof lease is {other}"))),
        }
    }

    /// The largest offer that may be proven now; of offers that are not free, the one that is asked for all the same.
    fn choose(&self, offers: Vec<Offer>) -> Result<Offer, Ended> {
        let is_devnet = self.ctx.config.devnet;
        let (fit, unfit): (Vec<_>, Vec<_>) =
            offers.into_iter().partition(|offer| is_devnet || offer.runtime.limits_enforced());
        if fit.is_empty() {
            let why = if unfit.is_empty() { "no offers" } else { "no offer with enforced limits" };
            return Err(Ended::Missed(why.to_owned()));
        }
        let size =
            |offer: &Offer| (offer.available, offer.machine.gpus.len(), offer.machine.memory_bytes);
        fit.into_iter().max_by_key(size).ok_or_else(|| Ended::Missed("no offers".to_owned()))
    }

    async fn prove_in(&self, access: &SshAccess, taken: &Taken) -> Ended {
        let mut besides = Besides::default();
        let proven = match self.prove_once(access, taken).await {
            Ok(proven) => proven,
            Err(ended) => return ended,
        };
        if let Proven::Passed { transcript, .. } = &proven {
            let transcript = transcript.transcript();
            besides.figures.extend(figures(transcript));
            besides.figures.extend(left_out(&taken.profile.params, transcript));
            for (leg, profile) in &taken.further {
                if let Err(wrong) =
                    self.prove_besides(access, taken, (*leg, *profile), &mut besides).await
                {
                    return Ended::Verdict(wrong, Besides::default());
                }
            }
        }
        Ended::Verdict(proven, besides)
    }

    async fn prove_once(&self, access: &SshAccess, taken: &Taken) -> Result<Proven, Ended> {
        let (plan, mut channel) = self.open(access, taken, taken.profile).await?;
        let key = &self.ctx.config.hotkey;
        Ok(prove_until(&plan, key, (&self.ctx.clock, self.ends_at), &mut *channel).await)
    }

    /// A session of its own for main memory or a disk. What it cannot show is a reason in the report; what it shows
    /// wrongly is a wrong proof.
    async fn prove_besides(
        &self,
        access: &SshAccess,
        taken: &Taken,
        (leg, profile): (LegKind, Option<ProofProfile>),
        besides: &mut Besides,
    ) -> Result<(), Proven> {
        let missing = |why: &str| LegFigure::missing(leg.name(), why);
        let Some(profile) = profile else {
            besides.figures.push(missing(NO_ROOM));
            return Ok(());
        };
        if self.ctx.clock.monotonic().saturating_add(FURTHER_BUDGET) > self.ends_at {
            besides.figures.push(missing("the lease has no time left for it"));
            return Ok(());
        }
        let (plan, mut channel) = match self.open(access, taken, profile).await {
            Ok(opened) => opened,
            Err(Ended::Missed(why) | Ended::Occupied(why) | Ended::Void(why)) => {
                besides.figures.push(missing(&why));
                return Ok(());
            }
            Err(Ended::Verdict(..) | Ended::Preempted(_)) => return Ok(()),
        };
        let key = &self.ctx.config.hotkey;
        let timing = (&self.ctx.clock, self.ends_at);
        let why = match play(&plan, key, timing, &mut *channel).await {
            Ok(transcript) => match transcript.clone().sign(key) {
                Ok(signed) => {
                    let hash = signed.digest();
                    besides.figures.extend(figures_of_further(leg, &transcript, hash));
                    besides.transcripts.push(TranscriptBlob { hash, bytes: signed.into_bytes() });
                    return Ok(());
                }
                Err(error) => ErrorChain(&error).to_string(),
            },
            Err(Proven::Refused { detail, blame: Blame::Wrong, transcript }) => {
                let detail = format!("{}: {detail}", leg.name());
                return Err(Proven::Refused { detail, blame: Blame::Wrong, transcript });
            }
            Err(
                Proven::Refused { detail, .. }
                | Proven::LegStuck { detail, .. }
                | Proven::Lost(detail)
                | Proven::Own(detail),
            ) => detail,
            Err(Proven::Passed { .. }) => return Ok(()),
        };
        besides.figures.push(missing(&why));
        Ok(())
    }

    async fn open(
        &self,
        access: &SshAccess,
        taken: &Taken,
        profile: ProofProfile,
    ) -> Result<(SessionPlan, Box<dyn ProofChannel>), Ended> {
        let Some(view) = self.ctx.view() else { return Err(Ended::Void("no chain".to_owned())) };
        self.ctx.board.set_phase(&self.provider, Phase::Connecting);
        let prover = self.ctx.config.provers.of(profile.kind);
        let opened = self.ctx.door.open(access, &taken.key, &prover, OPEN_BUDGET);
        let Some(opened) = self.in_time(opened).await else {
            return Err(Ended::Missed(ROUND_OVER.to_owned()));
        };
        let channel = opened.map_err(|error| Ended::Missed(ErrorChain(&error).to_string()))?;
        self.ctx.board.set_phase(&self.provider, Phase::Proving);
        let plan = SessionPlan {
            provider: self.provider,
            lease: self.lease,
            block: (view.finalized.number.get(), view.finalized.hash),
            profile,
        };
        Ok((plan, channel))
    }

    /// Writes down what the try came to.
    async fn record(&self, ended: Ended) -> Result<(), LoopError> {
        let provider = self.provider;
        let mut besides = Besides::default();
        let mut wrong = false;
        let ended = match ended {
            Ended::Preempted(was) => match self.excused(*was).await? {
                Some(ended) => ended,
                None => return Ok(()),
            },
            ended => ended,
        };
        let (verdict, detail, transcript) = match ended {
            Ended::Preempted(_) => return Ok(()),
            Ended::Occupied(detail) if self.may_be_occupied().await? => {
                tracing::debug!(%provider, detail, "an occupied machine is proven later");
                return Ok(());
            }
            Ended::Verdict(Proven::Passed { shown, transcript }, shown_besides) => {
                besides = shown_besides;
                let detail = passed_detail(transcript.transcript(), &self.ctx.config.catalogue);
                (Verdict::Passed(shown), detail, Some(transcript))
            }
            Ended::Verdict(Proven::Refused { detail, blame, transcript }, _) => {
                wrong = self.is_wrong(blame).await?;
                (Verdict::Refused, detail, transcript)
            }
            Ended::Verdict(Proven::LegStuck { detail, .. } | Proven::Lost(detail), _)
            | Ended::Missed(detail)
            | Ended::Occupied(detail) => {
                if self.count_miss() < UNREACHABLE_AFTER {
                    tracing::info!(%provider, detail, "a proof did not come about");
                    return Ok(());
                }
                (Verdict::Unreachable, detail, None)
            }
            Ended::Verdict(Proven::Own(detail), _) | Ended::Void(detail) => {
                tracing::warn!(%provider, detail, "a proof failed on this side");
                return Ok(());
            }
        };
        if !matches!(verdict, Verdict::Unreachable) {
            self.forget_misses();
        }
        if matches!(verdict, Verdict::Passed(_)) {
            self.ctx.board.lock().tries.entry(self.provider).or_default().was_preempted = false;
        }
        self.store((verdict, detail, wrong), transcript, besides).await
    }

    /// What counts of a session that was ended for a renter: the first time in a row nothing where this validator knows the
    /// renter, and a miss where it does not; after that what the session came to. Else a provider that cannot pass would
    /// have a renter come each time.
    async fn excused(&self, was: Ended) -> Result<Option<Ended>, LoopError> {
        let provider = self.provider;
        let is_known = self.made_room_for_ours().await?;
        let is_first = {
            let mut board = self.ctx.board.lock();
            let tries = board.tries.entry(provider).or_default();
            !std::mem::replace(&mut tries.was_preempted, true)
        };
        Ok(match (is_first, is_known) {
            (true, true) => {
                tracing::debug!(%provider, "a proof made room for a renter of this market");
                None
            }
            (true, false) => Some(Ended::Missed("the proof made room for a renter".to_owned())),
            (false, _) => Some(was),
        })
    }

    /// Whether this proof had its sure time, and a renter of this validator came in the meantime.
    async fn made_room_for_ours(&self) -> Result<bool, LoopError> {
        let begun_at = {
            let board = self.ctx.board.lock();
            board.sessions.get(&self.provider).map(|running| running.started_at)
        };
        let Some(begun_at) = begun_at else { return Ok(false) };
        if self.ctx.now().millis_since(begun_at) < PROOF_SURE_MILLIS {
            return Ok(false);
        }
        let open = self.ctx.store.open_rentals().await?;
        Ok(open.iter().any(|rental| {
            rental.provider == self.provider && rental.is_taken() && rental.requested_at >= begun_at
        }))
    }

    async fn is_rented(&self, how: fn(&Rental) -> bool) -> Result<bool, LoopError> {
        let open = self.ctx.store.open_rentals().await?;
        Ok(open.iter().any(|rental| rental.provider == self.provider && how(rental)))
    }

    async fn store(
        &self,
        (verdict, detail, is_wrong): (Verdict, String, bool),
        transcript: Option<Box<SignedTranscript>>,
        besides: Besides,
    ) -> Result<(), LoopError> {
        let provider = self.provider;
        let blob = transcript
            .map(|signed| TranscriptBlob { hash: signed.digest(), bytes: signed.into_bytes() });
        tracing::info!(%provider, lease = %self.lease, ?verdict, detail, "a proof session ended");
        let stored = StoredEvidence {
            provider,
            lease: Some(self.lease),
            block: self.ctx.head(),
            evidence: Evidence { at: self.ctx.now(), verdict },
            is_wrong,
            detail: nicompute_client::plain(&detail, DETAIL_CHARS_MAX),
            transcript: blob.as_ref().map(|blob| blob.hash),
        };
        // The file first: whoever sees the verdict finds it.
        for blob in blob.iter().chain(&besides.transcripts) {
            files::keep(self.ctx.transcripts_dir(), blob.clone()).await;
        }
        let Besides { figures, transcripts } = besides;
        let plain = |figure: LegFigure| LegFigure {
            reason: figure.reason.map(|why| nicompute_client::plain(&why, DETAIL_CHARS_MAX)),
            ..figure
        };
        let legs = figures.into_iter().map(plain).collect();
        let new = NewEvidence { stored, transcript: blob, legs, leg_transcripts: transcripts };
        let forgotten = self.ctx.store.add_evidence(new).await?;
        files::remove(self.ctx.transcripts_dir(), forgotten).await;
        Ok(())
    }

    /// Gives the lease back, if one was asked for. What fails here is done by the next sweep.
    async fn release(&self) -> Result<(), LoopError> {
        let leases = self.ctx.store.proof_leases().await?;
        match leases.iter().find(|intent| intent.lease == self.lease) {
            Some(intent) => give_back(&self.ctx, intent).await.map(drop),
            None => Ok(()),
        }
    }

    /// Whether a renter of this validator holds the machine, or there is no passed proof that "occupied" could keep alive.
    async fn may_be_occupied(&self) -> Result<bool, LoopError> {
        let latest = self.ctx.store.latest_evidence().await?;
        let mut latest = latest.iter().filter(|stored| stored.provider == self.provider);
        if !latest.any(|stored| matches!(stored.evidence.verdict, Verdict::Passed(_))) {
            return Ok(true);
        }
        self.is_rented(Rental::holds_machine).await
    }

    /// Whether a refusal is as good as a wrong answer: so is the second one in a row that keeps its answers to itself.
    async fn is_wrong(&self, blame: Blame) -> Result<bool, LoopError> {
        match blame {
            Blame::Wrong => Ok(true),
            Blame::Unfinished => Ok(false),
            Blame::Unopened => {
                let latest = self.ctx.store.latest_evidence().await?;
                let mut latest = latest.iter().filter(|stored| stored.provider == self.provider);
                Ok(latest.any(|stored| stored.evidence.verdict == Verdict::Refused))
            }
        }
    }

    fn count_miss(&self) -> u32 {
        let mut board = self.ctx.board.lock();
        let tries = board.tries.entry(self.provider).or_default();
        tries.missed = tries.missed.saturating_add(1);
        tries.missed
    }

    fn forget_misses(&self) {
        let mut board = self.ctx.board.lock();
        let tries = board.tries.entry(self.provider).or_default();
        *tries = Tries { missed: 0, ..*tries };
    }
}

/// A refusal, told apart where the machine is said to be taken.
fn missed(error: &NodeError) -> Ended {
    match error.code() {
        Some(Code::Occupied | Code::NoCapacity) => Ended::Occupied(ErrorChain(error).to_string()),
        _ => Ended::Missed(ErrorChain(error).to_string()),
    }
}

fn void(error: &(dyn std::error::Error + 'static)) -> Ended {
    Ended::Void(ErrorChain(error).to_string())
}

/// What a provider hears of a proof that holds: also where a name disagrees with what was shown.
fn passed_detail(transcript: &Transcript, catalogue: &Catalogue) -> String {
    let mut detail = "the proof holds".to_owned();
    for (device, finding) in name_mismatches(transcript, catalogue) {
        detail = format!("{detail}; device {} ({}): {finding}", device.device, device.name);
    }
    detail
}
