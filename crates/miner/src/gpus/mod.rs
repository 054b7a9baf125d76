//! The watch over the GPUs of leases: what the driver says from outside of the containers, against what was leased.
//!
//! One loop hears each look, lets the judge weigh it, and tells the leases: degraded with evidence, ended with evidence. It
//! may repeat itself: the same words again change nothing. A GPU that is missing is offered to nobody.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nicompute_daemon::{CancellationToken, ErrorChain, SharedClock};
use nicompute_host::telemetry::{Answer, GpuSource, History, Look, SILENT_AFTER, Voice};
use nicompute_market::{EndReason, Lease, LeaseId};
use nicompute_wire::gpus::{GpuHealthView, LeaseGpusView, XIDS_SHOWN_MAX, XidView};

use crate::leases::Leases;
use judge::Judge;
pub(crate) use judge::Standing;

/// How often the loop looks whether the driver still answers.
const CHECK_EVERY: Duration = Duration::from_secs(15);
/// Bytes of the evidence of one lease.
const EVIDENCE_BYTES_MAX: usize = 1_024;

/// GPUs that cannot be given to anybody now. Cheap to clone; written by the watch alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct AbsentGpus(Arc<Mutex<BTreeSet<String>>>);

/// The watch of one node.
#[derive(Debug)]
pub(crate) struct GpuWatch {
    source: Arc<dyn GpuSource>,
    leases: Arc<Leases>,
    absent: AbsentGpus,
    /// What is offered, so that it is watched before it is leased.
    offered: BTreeSet<String>,
    clock: SharedClock,
    judge: Mutex<Judge>,
}

/// What the loop remembers between two rounds.
#[derive(Debug, Default)]
struct Told {
    /// When the driver last said something about its GPUs: on the monotonic clock, and on the wall.
    good: Option<(Duration, u64)>,
    /// What was said of each lease.
    of: BTreeMap<LeaseId, String>,
}

/// What is to be said of one lease.
#[derive(Debug, Default)]
struct News {
    degraded: Vec<String>,
    back: Vec<(String, String)>,
    lost: Vec<String>,
}

// === impl AbsentGpus ===

impl AbsentGpus {
    /// The first of these that is absent.
    pub(crate) fn first_of<'a>(
        &self,
        mut uuids: impl Iterator<Item = &'a String>,
    ) -> Option<String> {
        let absent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uuids.find(|uuid| absent.contains(*uuid)).cloned()
    }

    fn replace(&self, now: BTreeSet<String>) {
        let mut absent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for uuid in now.difference(&absent) {
            tracing::error!(gpu = %uuid, "a GPU is missing and is offered no more");
        }
        for uuid in absent.difference(&now) {
            tracing::info!(gpu = %uuid, "a GPU that was missing is there again");
        }
        *absent = now;
    }
}

// === impl GpuWatch ===

impl GpuWatch {
    pub(crate) fn new(
        source: Arc<dyn GpuSource>,
        leases: Arc<Leases>,
        absent: AbsentGpus,
        offered: impl IntoIterator<Item = String>,
        clock: SharedClock,
    ) -> Self {
        let offered = offered.into_iter().collect();
        Self { source, leases, absent, offered, clock, judge: Mutex::default() }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut looks = self.source.looks();
        // A driver that never says a word is silent since now.
        let begun = (self.clock.monotonic(), self.clock.unix_ms());
        let mut told = Told { good: Some(begun), ..Told::default() };
        loop {
            let look = Arc::clone(&looks.borrow_and_update());
            if let Err(error) = self.round(&look, &mut told).await {
                tracing::warn!(error = %ErrorChain(&error), "what becomes of the GPUs could not be stored");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = looks.changed() => if changed.is_err() {
                    tracing::warn!("the watch over the GPUs has ended; leases go on");
                    return;
                },
                () = self.clock.sleep(CHECK_EVERY) => {}
            }
        }
    }

    /// Hears a look and says what follows from it.
    async fn round(&self, look: &Look, told: &mut Told) -> Result<(), crate::leases::Denied> {
        let leased = self.leases.with_gpus().await?;
        let mut watched = self.offered.clone();
        watched.extend(leased.iter().flat_map(|(_, gpus)| gpus.iter().cloned()));
        if let Answer::Gpus(_) = look.answer {
            told.good = Some((look.at, look.at_unix_ms));
        }
        let now = self.clock.monotonic();
        let silent_since = told
            .good
            .filter(|(at, _)| now.saturating_sub(*at) >= SILENT_AFTER)
            .map(|(_, at_unix_ms)| at_unix_ms);
        let absent = {
            let mut judge = self.judge();
            judge.hear(look, &watched, |uuid| self.source.history(uuid).xids.back().copied());
            // Of a GPU that nobody has leased nobody must be told that it is back.
            let is_leased = |uuid: &String| leased.iter().any(|(_, gpus)| gpus.contains(uuid));
            watched.iter().filter(|uuid| !is_leased(uuid)).for_each(|uuid| judge.told_back(uuid));
            if let Some(since) = silent_since {
                judge.silence(since);
            }
            judge.absent()
        };
        self.absent.replace(absent);
        told.of.retain(|lease, _| leased.iter().any(|(known, _)| known == lease));
        for (lease, gpus) in &leased {
            self.tell(*lease, self.news(gpus), told).await;
        }
        Ok(())
    }

    fn news(&self, gpus: &[String]) -> News {
        let judge = self.judge();
        let mut news = News::default();
        for uuid in gpus {
            match judge.standing(uuid) {
                Standing::Unknown | Standing::Present | Standing::Missing => {}
                Standing::Degraded(text) => news.degraded.push(text),
                Standing::Lost(text) => news.lost.push(text),
                Standing::Back(text) => news.back.push((uuid.clone(), text)),
            }
        }
        news.degraded.dedup();
        news
    }

    async fn tell(&self, lease: LeaseId, news: News, told: &mut Told) {
        let News { degraded, back, lost } = news;
        let done = if lost.is_empty() {
            let words = degraded.iter().chain(back.iter().map(|(_, text)| text));
            let text = joined(words.map(String::as_str));
            if text.is_empty() || told.of.get(&lease) == Some(&text) {
                return;
            }
            tracing::warn!(%lease, evidence = %text, "the GPUs of a lease are not as they were leased");
            let done = self.leases.degrade(lease, &text).await.map(drop);
            if done.is_ok() {
                told.of.insert(lease, text);
            }
            done
        } else {
            let text = joined(lost.iter().map(String::as_str));
            tracing::error!(%lease, evidence = %text, "a GPU of a lease is lost; the lease ends");
            self.leases.end(lease, EndReason::Gpu, &text).await.map(drop)
        };
        match done {
            Ok(()) => {
                let mut judge = self.judge();
                back.iter().for_each(|(uuid, _)| judge.told_back(uuid));
            }
            // A lease that is on its way up or down cannot be degraded; the next round says it again.
            Err(error) => {
                tracing::debug!(%lease, error = %ErrorChain(&error), "the lease was not told");
            }
        }
    }

    /// How the GPUs of a lease are, for its holder.
    pub(crate) fn view(&self, lease: &Lease) -> LeaseGpusView {
        let look = Arc::clone(&self.source.looks().borrow());
        let age = self.clock.monotonic().saturating_sub(look.at).as_millis();
        let driver = match self.source.voice() {
            Voice::Answers => "answers",
            Voice::Silent(_) => "silent",
            Voice::Unasked => "none",
        };
        let since = lease.requested_at.get();
        let gpu = |uuid: &String| {
            let standing = self.judge().standing(uuid);
            gpu_view(uuid, standing, &self.source.history(uuid), since)
        };
        LeaseGpusView {
            driver: driver.to_owned(),
            answer_age_ms: (look.number > 0).then(|| u64::try_from(age).unwrap_or(u64::MAX)),
            gpus: lease.terms.share.gpus.iter().map(gpu).collect(),
        }
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The view of one GPU. A holder sees what happened since its lease began, and nothing of those before.
fn gpu_view(uuid: &str, standing: Standing, history: &History, since_ms: u64) -> GpuHealthView {
    let (state, evidence) = match standing {
        Standing::Unknown => ("unknown", None),
        Standing::Present => ("present", None),
        Standing::Missing => ("missing", None),
        Standing::Degraded(text) => ("degraded", Some(text)),
        Standing::Lost(text) => ("lost", Some(text)),
        Standing::Back(text) => ("present", Some(text)),
    };
    let mut view = GpuHealthView {
        uuid: uuid.to_owned(),
        state: state.to_owned(),
        evidence,
        ..GpuHealthView::default()
    };
    let xids = history.xids.iter().filter(|xid| xid.at_unix_ms >= since_ms);
    view.xids = xids
        .rev()
        .take(XIDS_SHOWN_MAX)
        .map(|xid| XidView { code: xid.code, at_unix_ms: xid.at_unix_ms })
        .collect();
    view.xids.reverse();
    let last = history.readings.back().filter(|reading| reading.at_unix_ms >= since_ms);
    let Some(reading) = last else { return view };
    let sample = &reading.sample;
    GpuHealthView {
        sampled_at_unix_ms: Some(reading.at_unix_ms),
        name: Some(sample.gpu.name.clone()),
        memory_bytes: Some(sample.gpu.memory_bytes),
        memory_used_bytes: sample.memory_used_bytes,
        temperature_celsius: sample.temperature_celsius,
        power_milliwatts: sample.power_milliwatts,
        power_limit_milliwatts: sample.power_limit_milliwatts,
        clock_mhz: sample.clock_mhz,
        memory_clock_mhz: sample.memory_clock_mhz,
        throttled: sample.throttled.iter().map(|reason| (*reason).to_owned()).collect(),
        ecc_corrected: sample.ecc_corrected,
        ecc_uncorrected: sample.ecc_uncorrected,
        ..view
    }
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut all = texts.collect::<Vec<_>>().join(". ");
    all.truncate(all.floor_char_boundary(EVIDENCE_BYTES_MAX));
    all
}
