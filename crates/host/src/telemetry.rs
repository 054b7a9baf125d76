//! The GPUs, watched from outside of every container.
//!
//! One thread of its own asks the driver's library, over and over, and hands out each answer as a [`Look`]. A driver that
//! never comes back from a call holds up that thread and nobody else: readers see how old the last answer is. It owns a
//! bounded history; it draws no conclusion, and changes nothing on a GPU.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nicompute_daemon::SharedClock;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};
use tokio::sync::watch;

pub use crate::nvml::{Answer, FailureKind, GpuFailure, GpuSample, Gpus, NvmlLibrary};

/// How often the driver is asked.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How old the last answer may be before the driver counts as silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Readings of one GPU that are kept: an hour at the usual pace.
pub const HISTORY_MAX: usize = 360;
/// GPUs whose readings are kept; those that are gone longest are forgotten first.
const HISTORIES_MAX: usize = 2 * crate::nvml::GPUS_MAX;
/// Errors of one GPU that are kept, the latest.
pub const XIDS_MAX: usize = 32;
/// Errors of one GPU that are taken from the driver in one look.
const XIDS_PER_LOOK_MAX: usize = 64;
/// The library counts the GPUs when it is opened, so it is opened anew after so many looks, and after any failure.
const LOOKS_PER_OPENING: u32 = 6;

/// One answer of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Counts the looks; 0 is none yet.
    pub number: u64,
    /// When the answer came.
    pub at_unix_ms: u64,
    /// The same on the monotonic clock.
    pub at: Duration,
    /// The answer.
    pub answer: Answer,
}

/// An error that the driver reported about a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    /// NVIDIA's number of the error; 79 is a GPU that has fallen off its bus.
    pub code: u64,
    /// When it was heard of.
    pub at_unix_ms: u64,
}

/// One sample of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// When.
    pub at_unix_ms: u64,
    /// What.
    pub sample: GpuSample,
}

/// What is remembered of one GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The latest readings, oldest first, at most [`HISTORY_MAX`].
    pub readings: VecDeque<Reading>,
    /// The latest errors, oldest first, at most [`XIDS_MAX`].
    pub xids: VecDeque<Xid>,
}

/// Whether the driver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// It was not asked yet.
    Unasked,
    /// It answered lately.
    Answers,
    /// It has not answered for so long.
    Silent(Duration),
}

/// Whoever tells of the GPUs: the watch over the driver, or a test's own hand.
pub trait GpuSource: std::fmt::Debug + Send + Sync {
    /// The looks as they come; only the latest is kept.
    fn looks(&self) -> watch::Receiver<Arc<Look>>;
    /// Whether the driver answers.
    fn voice(&self) -> Voice;
    /// What is remembered of a GPU.
    fn history(&self, uuid: &str) -> History;
}

/// The watch. Ends its thread when it is dropped, unless the driver holds the thread for ever.
#[derive(Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
    /// The thread ends when this is gone; a message makes it look at once.
    nudge: SyncSender<()>,
}

#[derive(Debug)]
struct Shared {
    clock: SharedClock,
    began: Duration,
    look: watch::Sender<Arc<Look>>,
    histories: Mutex<BTreeMap<String, History>>,
}

// === impl Look ===

impl Look {
    /// None yet.
    #[must_use]
    pub const fn none() -> Self {
        Self { number: 0, at_unix_ms: 0, at: Duration::ZERO, answer: Answer::NoLibrary }
    }

    /// The sample of a GPU.
    #[must_use]
    pub fn sample(&self, uuid: &str) -> Option<&GpuSample> {
        match &self.answer {
            Answer::Gpus(gpus) => gpus.samples.iter().find(|sample| sample.gpu.uuid == uuid),
            Answer::NoLibrary | Answer::Broken(_) => None,
        }
    }
}

// === impl Telemetry ===

impl Telemetry {
    /// Starts to look, at once and then after each span.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(library: NvmlLibrary, every: Duration, clock: SharedClock) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            began: clock.monotonic(),
            clock,
            look: watch::Sender::new(Arc::new(Look::none())),
            histories: Mutex::default(),
        });
        let (nudge, nudges) = sync_channel(1);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("gpu telemetry".to_owned());
        // Not joined: a thread that the driver never gives back must not hold up the end of the process.
        drop(thread.spawn(move || of_thread.run(&library, every, &nudges))?);
        Ok(Self { shared, nudge })
    }

    /// The latest look.
    #[must_use]
    pub fn latest(&self) -> Arc<Look> {
        Arc::clone(&self.shared.look.borrow())
    }

    /// Asks the driver now. A question that is under way already is not repeated.
    pub fn look_now(&self) {
        if self.nudge.try_send(()).is_err() {
            tracing::trace!("the same wish waits already, or the thread is over");
        }
    }
}

impl GpuSource for Telemetry {
    fn looks(&self) -> watch::Receiver<Arc<Look>> {
        self.shared.look.subscribe()
    }

    fn voice(&self) -> Voice {
        let look = self.latest();
        let now = self.shared.clock.monotonic();
        let last = if look.number == 0 { self.shared.began } else { look.at };
        match now.saturating_sub(last) {
            silence if silence >= SILENT_AFTER => Voice::Silent(silence),
            _ if look.number == 0 => Voice::Unasked,
            _ => Voice::Answers,
        }
    }

    fn history(&self, uuid: &str) -> History {
        self.shared.histories().get(uuid).cloned().unwrap_or_default()
    }
}

// === impl Shared ===

impl Shared {
    fn histories(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, History>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, library: &NvmlLibrary, every: Duration, nudges: &Receiver<()>) {
        loop {
            let again = match library.open() {
                Ok(Some(nvml)) => self.look_often(&nvml, every, nudges),
                Ok(None) => self.tell_and_wait(Answer::NoLibrary, every, nudges),
                Err(error) => self.tell_and_wait(crate::nvml::broken(&error), every, nudges),
            };
            if again == Again::No {
                return;
            }
        }
    }

    /// Looks through one opening of the library.
    fn look_often(&self, nvml: &Nvml, every: Duration, nudges: &Receiver<()>) -> Again {
        let events = event_sets(nvml);
        for _ in 0..LOOKS_PER_OPENING {
            let answer = crate::nvml::read(nvml);
            self.hear_all(&events);
            let (answer, is_whole) = match answer {
                Ok(gpus) => {
                    let is_whole = gpus.failures.is_empty();
                    (Answer::Gpus(gpus), is_whole)
                }
                Err(error) => (crate::nvml::broken(&error), false),
            };
            if self.tell_and_wait(answer, every, nudges) == Again::No {
                return Again::No;
            }
            if !is_whole {
                break;
            }
        }
        // What came since goes with the sets.
        self.hear_all(&events);
        Again::Yes
    }

    fn tell_and_wait(&self, answer: Answer, every: Duration, nudges: &Receiver<()>) -> Again {
        let at_unix_ms = self.clock.unix_ms();
        if let Answer::Gpus(gpus) = &answer {
            self.remember(gpus, at_unix_ms);
        }
        let number = self.look.borrow().number.saturating_add(1);
        let look = Look { number, at_unix_ms, at: self.clock.monotonic(), answer };
        self.look.send_replace(Arc::new(look));
        match nudges.recv_timeout(every) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => Again::Yes,
            Err(RecvTimeoutError::Disconnected) => Again::No,
        }
    }

    fn remember(&self, gpus: &Gpus, at_unix_ms: u64) {
        let mut histories = self.histories();
        for sample in &gpus.samples {
            let history = histories.entry(sample.gpu.uuid.clone()).or_default();
            push(
                &mut history.readings,
                HISTORY_MAX,
                Reading { at_unix_ms, sample: sample.clone() },
            );
        }
        while histories.len() > HISTORIES_MAX {
            let seen = |history: &History| history.readings.back().map(|last| last.at_unix_ms);
            let oldest = histories.iter().min_by_key(|(_, history)| seen(history));
            let Some(uuid) = oldest.map(|(uuid, _)| uuid.clone()) else { break };
            histories.remove(&uuid);
        }
    }

    /// Takes the errors that the driver has for us, without waiting for one.
    fn hear_all(&self, events: &[(String, EventSet<'_>)]) {
        self.hear(events.iter().map(|(uuid, events)| {
            let next = || events.wait(0).ok().map(|event| event.event_data);
            (uuid.as_str(), next)
        }));
    }

    /// Each GPU has room of its own, so that a noisy one hides nothing of another.
    fn hear<'a, N: FnMut() -> Option<Option<XidError>>>(
        &self,
        gpus: impl Iterator<Item = (&'a str, N)>,
    ) {
        for (uuid, mut next) in gpus {
            for _ in 0..XIDS_PER_LOOK_MAX {
                let Some(event) = next() else { break };
                let Some(XidError::Value(code)) = event else { continue };
                let xid = Xid { code, at_unix_ms: self.clock.unix_ms() };
                tracing::warn!(gpu = %uuid, code, "the driver reports an error of a GPU");
                let mut histories = self.histories();
                push(&mut histories.entry(uuid.to_owned()).or_default().xids, XIDS_MAX, xid);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

/// One set of events for each GPU that has any.
fn event_sets(nvml: &Nvml) -> Vec<(String, EventSet<'_>)> {
    let of_gpu = |index| -> Result<_, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let events = nvml.create_event_set()?;
        let events = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
        Ok((crate::nvml::shorten(&device.uuid()?), events.map_err(|error| error.error)?))
    };
    let count = nvml.device_count().unwrap_or(0);
    let mut sets = Vec::new();
    for index in (0..count).take(crate::nvml::GPUS_MAX) {
        match of_gpu(index) {
            Ok(set) => sets.push(set),
            // Slices, older cards and other systems have none.
            Err(error) => tracing::debug!(index, %error, "a GPU tells of no errors"),
        }
    }
    sets
}

fn push<T>(list: &mut VecDeque<T>, max: usize, item: T) {
    if list.len() >= max {
        list.pop_front();
    }
    list.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Gpu, GpuShare};

    fn shared() -> Shared {
        let clock = nicompute_daemon::ManualClock::at_unix_ms(1_000);
        Shared {
            began: Duration::ZERO,
            clock,
            look: watch::Sender::new(Arc::new(Look::none())),
            histories: Mutex::default(),
        }
    }

    fn sample(uuid: &str) -> GpuSample {
        GpuSample {
            gpu: Gpu {
                uuid: uuid.to_owned(),
                name: "test".to_owned(),
                memory_bytes: 1,
                compute_capability: None,
                share: GpuShare::Whole,
            },
            index: "0".to_owned(),
            bus_id: None,
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

    /// A GPU in a storm of errors would hide that another one has fallen off its bus.
    #[test]
    fn a_noisy_gpu_hides_no_other() {
        let shared = shared();
        let mut last = [79, 0].into_iter();
        let storm: Box<dyn FnMut() -> _> = Box::new(|| Some(Some(XidError::Value(13))));
        let fallen: Box<dyn FnMut() -> _> =
            Box::new(move || last.next().map(|code| Some(XidError::Value(code))));
        shared.hear([("GPU-1", storm), ("GPU-2", fallen)].into_iter());
        let heard = |uuid: &str| -> Vec<u64> {
            shared.histories()[uuid].xids.iter().map(|xid| xid.code).collect()
        };
        assert_eq!(heard("GPU-1").len(), XIDS_MAX);
        assert_eq!(heard("GPU-2"), [79, 0]);
    }

    /// A node that runs for a year would be eaten up by its own memory of the GPUs.
    #[test]
    fn the_history_is_bounded() {
        let shared = shared();
        for at in 0..u64::try_from(HISTORY_MAX).unwrap() + 5 {
            shared.remember(&Gpus { samples: vec![sample("GPU-1")], ..Gpus::default() }, at);
        }
        let history = shared.histories()["GPU-1"].clone();
        assert_eq!(history.readings.len(), HISTORY_MAX);
        assert_eq!(history.readings[0].at_unix_ms, 5);
        for number in 0..HISTORIES_MAX + 5 {
            let at = 10_000 + u64::try_from(number).unwrap();
            let samples = vec![sample(&format!("GPU-x{number}"))];
            shared.remember(&Gpus { samples, ..Gpus::default() }, at);
        }
        assert_eq!(shared.histories().len(), HISTORIES_MAX);
        assert!(!shared.histories().contains_key("GPU-1"), "the oldest is forgotten first");
    }
}
