//! What becomes of each GPU, look after look. Pure: it is told what the driver said and when, and remembers.
//!
//! One answer without a GPU says nothing; several over some time degrade its lease; a loss is certain only when the driver
//! goes on to answer without it for minutes, or shows another GPU in its place. A driver that does not answer is no news,
//! nor is one that fails at a card it counts, and no news never ends a rental.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nicompute_host::telemetry::{Answer, FailureKind, Gpus, Look, Xid};

/// From when on a GPU that is missing degrades its lease and is offered no more: so many looks, and so long.
const DEGRADED_LOOKS: u32 = 2;
const DEGRADED_AFTER: Duration = Duration::from_secs(10);
/// From when on it is lost. A reset takes a GPU away for up to half a minute.
const LOST_LOOKS: u32 = 6;
const LOST_AFTER: Duration = Duration::from_secs(300);
/// The same, where the driver shows another GPU in its place or says that it has fallen off its bus.
const CERTAIN_LOOKS: u32 = 3;
const CERTAIN_AFTER: Duration = Duration::from_secs(30);
/// NVIDIA's number for a GPU that has fallen off its bus.
const XID_OFF_THE_BUS: u64 = 79;

/// How a GPU stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Standing {
    /// Nobody told yet.
    #[default]
    Unknown,
    /// There.
    Present,
    /// Not in the last answer; that may be chance.
    Missing,
    /// Missing for a while, or not to be asked about, with what shows it.
    Degraded(String),
    /// Gone for certain, with what shows it.
    Lost(String),
    /// There again after it was degraded.
    Back(String),
}

/// The memory of all watched GPUs.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    gpus: BTreeMap<String, Watched>,
    looks: u64,
}

#[derive(Debug, Default)]
struct Watched {
    seen: Option<Seen>,
    missing: Option<Missing>,
    /// The same, in answers that told of every card.
    gone: Option<Missing>,
    standing: Standing,
}

#[derive(Debug)]
struct Seen {
    at_unix_ms: u64,
    bus_id: Option<String>,
}

#[derive(Debug)]
struct Missing {
    since: Duration,
    since_unix_ms: u64,
    looks: u32,
}

// === impl Judge ===

impl Judge {
    /// Hears one look about the GPUs that are watched. Others are forgotten. The same look again changes nothing.
    pub(crate) fn hear(
        &mut self,
        look: &Look,
        watched: &BTreeSet<String>,
        last_xid: impl Fn(&str) -> Option<Xid>,
    ) {
        self.gpus.retain(|uuid, _| watched.contains(uuid));
        for uuid in watched {
            if !self.gpus.contains_key(uuid) {
                self.gpus.insert(uuid.clone(), Watched::default());
            }
        }
        if look.number == 0 || look.number == self.looks {
            return;
        }
        self.looks = look.number;
        let Answer::Gpus(gpus) = &look.answer else { return };
        for (uuid, watched) in &mut self.gpus {
            match look.sample(uuid) {
                Some(sample) => watched.found(look.at_unix_ms, sample.bus_id.clone()),
                None => watched.missed(uuid, look, gpus, last_xid(uuid)),
            }
        }
    }

    /// The driver has not answered since that moment, or nothing that makes sense: nobody knows how its GPUs are.
    pub(crate) fn silence(&mut self, since_unix_ms: u64) {
        let text = format!("the GPU driver has not answered since {since_unix_ms} (Unix ms)");
        for watched in self.gpus.values_mut() {
            if !matches!(watched.standing, Standing::Lost(_)) {
                watched.standing = Standing::Degraded(text.clone());
            }
        }
    }

    /// How a GPU stands.
    pub(crate) fn standing(&self, uuid: &str) -> Standing {
        self.gpus.get(uuid).map(|watched| watched.standing.clone()).unwrap_or_default()
    }

    /// That a GPU is back was told to its holder.
    pub(crate) fn told_back(&mut self, uuid: &str) {
        if let Some(watched) = self.gpus.get_mut(uuid)
            && matches!(watched.standing, Standing::Back(_))
        {
            watched.standing = Standing::Present;
        }
    }

    /// The GPUs that cannot be given to anybody now.
    pub(crate) fn absent(&self) -> BTreeSet<String> {
        let is_absent = |watched: &Watched| {
            matches!(watched.standing, Standing::Degraded(_) | Standing::Lost(_))
        };
        self.gpus.iter().filter(|(_, w)| is_absent(w)).map(|(uuid, _)| uuid.clone()).collect()
    }
}

// === impl Watched ===

impl Watched {
    fn found(&mut self, at_unix_ms: u64, bus_id: Option<String>) {
        self.seen = Some(Seen { at_unix_ms, bus_id });
        (self.missing, self.gone) = (None, None);
        self.standing = match std::mem::take(&mut self.standing) {
            Standing::Degraded(_) | Standing::Lost(_) => {
                Standing::Back(format!("the GPU answers again since {at_unix_ms} (Unix ms)"))
            }
            back @ Standing::Back(_) => back,
            Standing::Unknown | Standing::Present | Standing::Missing => Standing::Present,
        };
    }

    fn missed(&mut self, uuid: &str, look: &Look, gpus: &Gpus, xid: Option<Xid>) {
        let (looks, span) = count(&mut self.missing, look);
        let since = self.missing.as_ref().map_or(look.at_unix_ms, |m| m.since_unix_ms);
        // A card that could not be asked may be this one.
        if gpus.failures.iter().any(|failure| failure.kind == FailureKind::Unanswered) {
            self.gone = None;
        } else {
            count(&mut self.gone, look);
        }
        let is_gone = self.gone.as_ref().is_some_and(|gone| {
            gone.looks >= LOST_LOOKS && look.at.saturating_sub(gone.since) >= LOST_AFTER
        });
        let other = self.seen.as_ref().and_then(|seen| in_place_of(seen, gpus));
        let fell = xid.is_some_and(|xid| xid.code == XID_OFF_THE_BUS);
        let is_lost = is_gone
            || ((other.is_some() || fell) && looks >= CERTAIN_LOOKS && span >= CERTAIN_AFTER);
        if matches!(self.standing, Standing::Lost(_)) {
            return;
        }
        let evidence = || self.evidence(uuid, since, other.as_deref(), xid, gpus);
        if is_lost {
            self.standing = Standing::Lost(evidence());
        } else if looks >= DEGRADED_LOOKS && span >= DEGRADED_AFTER {
            // The text of the first moment stands: it is stored, and stored again only if it changes.
            let is_said = matches!(&self.standing, Standing::Degraded(text) if text.contains(uuid));
            if !is_said {
                self.standing = Standing::Degraded(evidence());
            }
        } else if !matches!(self.standing, Standing::Degraded(_)) {
            self.standing = Standing::Missing;
        }
    }

    fn evidence(
        &self,
        uuid: &str,
        since_unix_ms: u64,
        other: Option<&str>,
        xid: Option<Xid>,
        gpus: &Gpus,
    ) -> String {
        let mut text = format!("GPU {uuid} is missing since {since_unix_ms} (Unix ms)");
        match &self.seen {
            Some(Seen { at_unix_ms, bus_id }) => {
                let place = bus_id.as_deref().unwrap_or("an unknown place");
                text.extend([format!("; last seen at {at_unix_ms} in {place}")]);
            }
            None => text.push_str("; not seen since the node started"),
        }
        if let Some(other) = other {
            text.extend([format!("; {other} is in its place")]);
        }
        if let Some(xid) = xid {
            text.extend([format!(
                "; the driver reported error {} at {}",
                xid.code, xid.at_unix_ms
            )]);
        }
        for failure in gpus.failures.iter().take(3) {
            text.extend([format!("; GPU {} does not answer: {}", failure.index, failure.problem)]);
        }
        text.extend([format!("; the driver shows {} others", gpus.samples.len())]);
        text
    }
}

/// One more look without it: how many there were, over how long.
fn count(missing: &mut Option<Missing>, look: &Look) -> (u32, Duration) {
    let missing =
        missing.get_or_insert(Missing { since: look.at, since_unix_ms: look.at_unix_ms, looks: 0 });
    missing.looks = missing.looks.saturating_add(1);
    (missing.looks, look.at.saturating_sub(missing.since))
}

/// The GPU that is now where another one was.
fn in_place_of(seen: &Seen, gpus: &Gpus) -> Option<String> {
    let place = seen.bus_id.as_ref()?;
    let there = gpus.samples.iter().find(|sample| sample.bus_id.as_ref() == Some(place))?;
    // A slice of the same card is no other card.
    let is_whole = !there.index.contains(':');
    is_whole.then(|| there.gpu.uuid.clone())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use nicompute_host::inventory::{Gpu, GpuShare};
    use nicompute_host::telemetry::{GpuFailure, GpuSample};

    use super::*;

    /// A driver that is asked in turn, and the judge that hears it.
    #[derive(Default)]
    struct Scene {
        judge: Judge,
        seconds: u64,
        looks: u64,
        xid: Option<Xid>,
    }

    fn sample(uuid: &str, bus_id: &str) -> GpuSample {
        GpuSample {
            gpu: Gpu {
                uuid: uuid.to_owned(),
                name: "test".to_owned(),
                memory_bytes: 1,
                compute_capability: None,
                share: GpuShare::Whole,
            },
            index: "0".to_owned(),
            bus_id: Some(bus_id.to_owned()),
            minor: None,
            memory_used_bytes: None,
            temperature_celsius: None,
            power_milliwatts: None,
            power_limit_milliwatts: None,
            clock_mhz: None,
            memory_clock_mhz: None,
            throttled: Vec::new(),
            ecc_corrected: None,
            ecc_uncorrected: None,
            pids: Vec::new(),
        }
    }

    fn failure(kind: FailureKind, problem: &str) -> GpuFailure {
        GpuFailure { index: 0, kind, problem: problem.to_owned() }
    }

    impl Scene {
        fn hear(&mut self, answer: Answer) -> Standing {
            self.seconds += 10;
            self.looks += 1;
            let at = Duration::from_secs(self.seconds);
            let look = Look { number: self.looks, at_unix_ms: self.seconds * 1000, at, answer };
            let watched = BTreeSet::from(["A".to_owned()]);
            self.judge.hear(&look, &watched, |_| self.xid);
            self.judge.standing("A")
        }

        fn gpus(&mut self, samples: &[GpuSample]) -> Standing {
            self.hear(Answer::Gpus(Gpus { samples: samples.to_vec(), ..Gpus::default() }))
        }

        /// Looks until the standing changes, at most so often; how many looks that took.
        fn until_lost(&mut self, samples: &[GpuSample]) -> (u32, String) {
            for looks in 1..100 {
                if let Standing::Lost(evidence) = self.gpus(samples) {
                    return (looks, evidence);
                }
            }
            panic!("never lost: {:?}", self.judge.standing("A"));
        }
    }

    /// A driver that stumbles once would end a rental that was paid for a month.
    #[test]
    fn one_lost_answer_is_nothing() {
        let mut scene = Scene::default();
        let there = [sample("A", "01"), sample("B", "02")];
        assert_eq!(scene.gpus(&there), Standing::Present);
        assert_eq!(scene.gpus(&there[1..]), Standing::Missing);
        assert!(scene.judge.absent().is_empty());
        assert_eq!(scene.gpus(&there), Standing::Present);
        assert_eq!(scene.gpus(&there[1..]), Standing::Missing);
        let degraded = scene.gpus(&there[1..]);
        expect![[r#"Degraded("GPU A is missing since 40000 (Unix ms); last seen at 30000 in 01; the driver shows 1 others")"#]]
            .assert_eq(&format!("{degraded:?}"));
        assert_eq!(
            scene.gpus(&there[1..]),
            degraded,
            "the text stays, or it would be stored each time"
        );
        assert_eq!(scene.judge.absent().len(), 1);
        assert!(matches!(scene.gpus(&there), Standing::Back(_)));
        assert!(matches!(scene.gpus(&there), Standing::Back(_)), "until it is told");
        assert!(scene.judge.absent().is_empty());
        scene.judge.told_back("A");
        assert_eq!(scene.judge.standing("A"), Standing::Present);
    }

    /// A GPU that is gone would be billed for to the end of the lease.
    #[test]
    fn a_loss_that_lasts_is_certain() {
        let mut scene = Scene::default();
        let there = [sample("A", "01"), sample("B", "02")];
        scene.gpus(&there);
        let (looks, evidence) = scene.until_lost(&there[1..]);
        assert_eq!(looks, 31, "five minutes after the first look without it");
        expect!["GPU A is missing since 20000 (Unix ms); last seen at 10000 in 01; the driver shows 1 others"]
            .assert_eq(&evidence);
        let (_, evidence) = Scene::default().until_lost(&there[1..]);
        assert!(evidence.contains("not seen since the node started"), "{evidence}");
    }

    /// A provider that swaps the card under a tenant would be paid for the better one.
    #[test]
    fn another_gpu_in_its_place_is_certain_sooner() {
        let mut scene = Scene::default();
        scene.gpus(&[sample("A", "01")]);
        let (looks, evidence) = scene.until_lost(&[sample("C", "01")]);
        assert_eq!(looks, 4);
        assert!(evidence.contains("C is in its place"), "{evidence}");
        let mut scene = Scene::default();
        scene.gpus(&[sample("A", "01")]);
        scene.xid = Some(Xid { code: XID_OFF_THE_BUS, at_unix_ms: 15_000 });
        let failures = vec![failure(FailureKind::Gone, "fell off the bus")];
        let gone = Answer::Gpus(Gpus { failures, ..Gpus::default() });
        for _ in 0..3 {
            assert!(!matches!(scene.hear(gone.clone()), Standing::Lost(_)));
        }
        let Standing::Lost(evidence) = scene.hear(gone) else { panic!("lost") };
        expect!["GPU A is missing since 20000 (Unix ms); last seen at 10000 in 01; the driver reported error 79 at 15000; GPU 0 does not answer: fell off the bus; the driver shows 0 others"]
            .assert_eq(&evidence);
    }

    /// A card that the driver fails to ask about for an hour would end the leases of it, although nothing says that it is gone.
    #[test]
    fn a_card_that_cannot_be_asked_is_not_gone() {
        let mut scene = Scene::default();
        scene.gpus(&[sample("A", "01"), sample("B", "02")]);
        let with = |kind| {
            let samples = vec![sample("B", "02")];
            let failures = vec![failure(kind, "unknown error")];
            Answer::Gpus(Gpus { samples, failures, ..Gpus::default() })
        };
        for _ in 0..360 {
            let standing = scene.hear(with(FailureKind::Unanswered));
            assert!(!matches!(standing, Standing::Lost(_)), "{standing:?}");
        }
        assert!(matches!(scene.judge.standing("A"), Standing::Degraded(_)), "offered no more");
        // Only from now on is it known to be missing, and no hour of doubt counts for that.
        let (looks, _) = scene.until_lost(&[sample("B", "02")]);
        assert_eq!(looks, 31);
        let mut scene = Scene::default();
        scene.gpus(&[sample("A", "01")]);
        let standing = (0..31).map(|_| scene.hear(with(FailureKind::Gone))).last();
        assert!(matches!(standing, Some(Standing::Lost(_))), "the driver says that it is lost");
    }

    /// A driver that hangs for an hour must not end one rental: no news is no news.
    #[test]
    fn silence_and_a_broken_driver_never_end_anything() {
        let mut scene = Scene::default();
        scene.gpus(&[sample("A", "01")]);
        for _ in 0..500 {
            let standing = scene.hear(Answer::Broken("unknown error".to_owned()));
            assert_eq!(standing, Standing::Present, "what is known last stands");
            scene.hear(Answer::NoLibrary);
        }
        scene.judge.silence(10_000);
        let Standing::Degraded(text) = scene.judge.standing("A") else { panic!("degraded") };
        assert!(text.contains("has not answered"), "{text}");
        for _ in 0..500 {
            scene.judge.silence(10_000);
            assert!(matches!(scene.judge.standing("A"), Standing::Degraded(_)));
        }
        assert!(matches!(scene.gpus(&[sample("A", "01")]), Standing::Back(_)));
    }

    /// What nobody leases or offers any more would be remembered for ever.
    #[test]
    fn only_what_is_watched_is_remembered() {
        let mut scene = Scene::default();
        scene.gpus(&[sample("A", "01")]);
        let look = Look { number: 9, at_unix_ms: 1, at: Duration::ZERO, answer: Answer::NoLibrary };
        scene.judge.hear(&look, &BTreeSet::new(), |_| None);
        assert!(scene.judge.gpus.is_empty());
        assert_eq!(scene.judge.standing("A"), Standing::Unknown);
    }
}
