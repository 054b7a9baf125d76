//! What a round measures besides the plot and its walks: which legs are asked for, at which sizes, and what they showed.
//!
//! LINK, COPY and NET are stages of the main session. Main memory and the disk are sessions of their own in the same
//! lease, after it, of the same protocol. None of them can take away what the main session has shown, except by a wrong
//! answer.

use std::str::FromStr;

use nicompute_market::Machine;
use nicompute_proof::{
    DeviceKind, Leg as Played, Limits, Measured, ParamsRecord, ProofParams, Rate, Transcript,
};

use crate::config::{ProofProfile, ProofSize};

const SECOND_NS: u64 = 1_000_000_000;
/// Bytes of NET each way in the local market: a blink on loopback.
const NET_SMALL_BYTES: u64 = 2 << 20;
/// Bytes of NET each way elsewhere: half a second of a gigabit.
const NET_FULL_BYTES: u64 = 64 << 20;
/// The part of the walks that goes over a neighbour's plot, as a divisor: twice the plot, so that a machine without
/// NVLink needs seconds and not minutes.
const LINK_DIVISOR: u32 = 16;
/// Bytes that each device brings to the host at the full size.
const COPY_BYTES: u64 = 4 << 30;
/// Main memory below this has the panels of the small profile.
const RAM_SMALL_BYTES: u64 = 4 << 30;
/// Rows of a panel of main memory: on most machines, and where those would be more panels than the protocol knows.
const RAM_PANEL_ROWS: u32 = 1 << 18;
const RAM_PANEL_ROWS_MAX: u32 = 1 << 20;
const PANELS_MAX: u64 = 4096;
/// What is said where a machine has not even the room for one panel.
pub(crate) const NO_ROOM: &str = "the machine's offer has no room for the least size of it";
/// Bytes of main memory for each logical processor: some twenty seconds of its work at a width of 256.
const RAM_BYTES_PER_CORE: u64 = 1 << 30;
/// Bytes of a disk's plot for each logical processor: some twenty seconds of its work at a width of 4096.
const DISK_BYTES_PER_CORE: u64 = 64 << 20;
const DISK_BYTES_MAX: u64 = 4 << 30;
/// Rows of a disk's plot are what disks read at least.
const DISK_ROW_BYTES: u32 = 4096;
/// Bytes of a disk that are read one after the other.
const DISK_COPY_BYTES: u64 = 512 << 20;

/// Something that a round can measure besides the plot and its walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegKind {
    /// Walks of every device over the next one's plot.
    Link,
    /// Rows from every device to the host.
    Copy,
    /// Bytes between this validator and the prover, both ways.
    Net,
    /// Main memory, on a machine with GPUs.
    Ram,
    /// A disk.
    Disk,
}

/// The legs that a validator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegSet(u8);

/// A text that names no set of legs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no leg: link, copy, net, ram, disk, separated by commas, or none")]
pub struct LegSetError(String);

/// What one leg showed, or why it did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegFigure {
    /// Its stable name.
    pub leg: &'static str,
    /// Bytes that were moved; of main memory and disks, bytes of the plot that was answered for, wherever it lay.
    pub bytes: u64,
    /// Bytes in a second, at least.
    pub bytes_per_second: u64,
    /// Why nothing was shown.
    pub reason: Option<String>,
    /// The transcript that shows it, where it is not the round's.
    pub transcript: Option<[u8; 32]>,
}

impl LegKind {
    const ALL: [Self; 5] = [Self::Link, Self::Copy, Self::Net, Self::Ram, Self::Disk];

    const fn bit(self) -> u8 {
        match self {
            Self::Link => 1,
            Self::Copy => 2,
            Self::Net => 4,
            Self::Ram => 8,
            Self::Disk => 16,
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Copy => "copy",
            Self::Net => "net",
            Self::Ram => "ram",
            Self::Disk => "disk",
        }
    }
}

impl LegSet {
    /// No leg.
    pub const NONE: Self = Self(0);
    /// The line alone: what the local market asks for.
    pub const NET: Self = Self(LegKind::Net.bit());
    /// What devices do among themselves: what is left where the validator is on the same machine.
    pub const DEVICES: Self = Self(LegKind::Link.bit() | LegKind::Copy.bit());
    /// Every leg: what strangers are asked for.
    pub const ALL: Self = Self(31);

    /// Whether a leg is asked for.
    #[must_use]
    pub const fn has(self, leg: LegKind) -> bool {
        self.0 & leg.bit() != 0
    }
}

impl FromStr for LegSet {
    type Err = LegSetError;

    fn from_str(text: &str) -> Result<Self, LegSetError> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        text.split(',').try_fold(Self::NONE, |set, name| {
            let leg = LegKind::ALL.into_iter().find(|leg| leg.name() == name);
            leg.map(|leg| Self(set.0 | leg.bit())).ok_or_else(|| LegSetError(name.to_owned()))
        })
    }
}

impl ProofSize {
    /// The main session's profile with the legs that are stages of it. A profile that is the same for every machine stays
    /// as it is.
    #[must_use]
    pub fn with_stages(self, profile: ProofProfile, legs: LegSet) -> ProofProfile {
        let record = profile.params.record();
        let net = match self {
            Self::Fixed(_) => return profile,
            Self::Small => NET_SMALL_BYTES,
            Self::Full => NET_FULL_BYTES,
        };
        let asked = |leg: LegKind, size: u64| if legs.has(leg) { size } else { 0 };
        let is_gpu = profile.kind == DeviceKind::Cuda;
        let linked = record.walks.checked_div(LINK_DIVISOR).unwrap_or(0).next_multiple_of(64);
        let copied = COPY_BYTES.checked_div(u64::from(record.n)).unwrap_or(0).min(record.rows);
        let with = ParamsRecord {
            link_walks: if is_gpu && legs.has(LegKind::Link) { linked } else { 0 },
            copy_rows: if is_gpu { asked(LegKind::Copy, copied) } else { 0 },
            net_down_bytes: asked(LegKind::Net, net),
            net_up_bytes: asked(LegKind::Net, net),
            ..record
        };
        let params = ProofParams::try_from(with).unwrap_or(profile.params);
        ProofProfile { params, ..profile }
    }

    /// The sessions of their own that follow the main one, each with its leg; a leg without a session is one that the
    /// machine has no room for, which is a reason to be stored and not a leg that was not asked for.
    #[must_use]
    pub fn further(
        self,
        machine: &Machine,
        main: DeviceKind,
        legs: LegSet,
    ) -> Vec<(LegKind, Option<ProofProfile>)> {
        let mut further = Vec::new();
        if self != Self::Full {
            if legs.has(LegKind::Ram) && main == DeviceKind::Cuda {
                further.push((LegKind::Ram, small(DeviceKind::Cpu)));
            }
            if legs.has(LegKind::Disk) {
                further.push((LegKind::Disk, small(DeviceKind::Disk)));
            }
            return further;
        }
        let cores = u64::from(machine.cores.max(1));
        if legs.has(LegKind::Ram) && main == DeviceKind::Cuda {
            let bytes = cores.saturating_mul(RAM_BYTES_PER_CORE).min(machine.memory_bytes / 2);
            further.push((LegKind::Ram, ram(bytes)));
        }
        if legs.has(LegKind::Disk) {
            let bytes = cores.saturating_mul(DISK_BYTES_PER_CORE).min(DISK_BYTES_MAX);
            let bytes = bytes.min(machine.disk_bytes / 4);
            further.push((LegKind::Disk, disk(bytes)));
        }
        further
    }
}

/// A megabyte, for the local market and for tests.
fn small(kind: DeviceKind) -> Option<ProofProfile> {
    let copy_rows = if kind == DeviceKind::Disk { 4096 } else { 0 };
    let params = ParamsRecord {
        n: 128,
        rows: 8192,
        panel_rows: 1024,
        walks: 1024,
        reads: 4,
        copy_rows,
        ..ProofParams::small().record()
    };
    let params = ProofParams::try_from(params).ok()?;
    Some(ProofProfile { params, limits: Limits::small(), kind })
}

/// Main memory of this size, or as much of it as the protocol knows, or less where less is free; nothing where no panel
/// fits.
fn ram(bytes: u64) -> Option<ProofProfile> {
    let small = ProofParams::small().record();
    let panels = |panel_rows: u32| whole_panels(bytes, small.n, panel_rows) / u64::from(panel_rows);
    let panel_rows = match bytes {
        ..RAM_SMALL_BYTES => small.panel_rows,
        _ if panels(RAM_PANEL_ROWS) <= PANELS_MAX => RAM_PANEL_ROWS,
        _ => RAM_PANEL_ROWS_MAX,
    };
    let rows = panels(panel_rows).min(PANELS_MAX).saturating_mul(u64::from(panel_rows));
    let walks = u32::try_from(rows / u64::from(small.reads)).unwrap_or(u32::MAX).min(1 << 26);
    let walks = walks.next_multiple_of(64).max(64);
    let params = ParamsRecord { rows, panel_rows, walks, ..small };
    Some(ProofProfile {
        params: ProofParams::try_from(params).ok()?,
        limits: Limits {
            ready_ns: 60 * SECOND_NS,
            fill_ns: 120 * SECOND_NS,
            walk_ns: 60 * SECOND_NS,
            ..Limits::small()
        },
        kind: DeviceKind::Cpu,
    })
}

/// A file of this size, or less where less is free; nothing where no panel fits.
fn disk(bytes: u64) -> Option<ProofProfile> {
    let panel_rows = 1024;
    let rows = whole_panels(bytes, DISK_ROW_BYTES, panel_rows);
    let params = ParamsRecord {
        n: DISK_ROW_BYTES,
        steps: 2,
        rows,
        panel_rows,
        walks: 1024,
        reads: 16,
        copy_rows: (DISK_COPY_BYTES / u64::from(DISK_ROW_BYTES)).min(rows),
        ..ProofParams::small().record()
    };
    Some(ProofProfile {
        params: ProofParams::try_from(params).ok()?,
        limits: Limits {
            ready_ns: 60 * SECOND_NS,
            fill_ns: 120 * SECOND_NS,
            walk_ns: 90 * SECOND_NS,
            copy_ns: 60 * SECOND_NS,
            ..Limits::small()
        },
        kind: DeviceKind::Disk,
    })
}

fn whole_panels(bytes: u64, n: u32, panel_rows: u32) -> u64 {
    let panel = u64::from(n).saturating_mul(u64::from(panel_rows));
    bytes.checked_div(panel).unwrap_or(0).saturating_mul(u64::from(panel_rows))
}

/// What the main session's own legs showed.
#[must_use]
pub fn figures(transcript: &Transcript) -> Vec<LegFigure> {
    let legs = &transcript.exchange.legs;
    let Measured { link, copy, net_down, net_up, .. } = transcript.measured;
    let mut figures = Vec::new();
    for (leg, played, rate) in [("link", &legs.link, link), ("copy", &legs.copy, copy)] {
        match (played, rate) {
            (Played::Declined { text, .. }, _) => figures.push(LegFigure::missing(leg, text)),
            (Played::Answered { .. }, Some(rate)) => figures.push(LegFigure::shown(leg, rate)),
            (Played::Answered { .. } | Played::NotAsked, _) => {}
        }
    }
    figures.extend(net_down.map(|rate| LegFigure::shown("net-down", rate)));
    figures.extend(net_up.map(|rate| LegFigure::shown("net-up", rate)));
    figures
}

/// The sampled legs that the validator wanted and the session left out when it saw how many devices there are.
#[must_use]
pub(crate) fn left_out(wanted: &ProofParams, transcript: &Transcript) -> Vec<LegFigure> {
    let exchange = &transcript.exchange;
    let many = "more devices than one check has room for";
    let alone = "one device has no neighbour";
    let mut missing = Vec::new();
    if wanted.link() && exchange.params.link_walks == 0 {
        let why = if exchange.devices.len() > 1 { many } else { alone };
        missing.push(LegFigure::missing("link", why));
    }
    if wanted.copy_rows() > 0 && exchange.params.copy_rows == 0 {
        missing.push(LegFigure::missing("copy", many));
    }
    missing
}

/// What a session of its own showed: the bytes that it answered for and how fast they are read, and of a disk both ways of reading.
#[must_use]
pub(crate) fn figures_of_further(
    leg: LegKind,
    transcript: &Transcript,
    hash: [u8; 32],
) -> Vec<LegFigure> {
    let measured = &transcript.measured;
    let walk = Rate {
        bytes: measured.plot_bytes,
        ns: measured.walk_ns,
        bytes_per_second: measured.walk_bytes_per_second,
    };
    let figures = match (leg, measured.copy) {
        (LegKind::Disk, Some(copy)) => {
            let run = Rate { bytes: measured.plot_bytes, ..copy };
            vec![LegFigure::shown("disk", run), LegFigure::shown("disk-random", walk)]
        }
        (LegKind::Disk, None) => vec![LegFigure::shown("disk-random", walk)],
        _ => vec![LegFigure::shown("ram", walk)],
    };
    figures.into_iter().map(|figure| LegFigure { transcript: Some(hash), ..figure }).collect()
}

impl LegFigure {
    /// A leg that showed nothing, and why.
    pub(crate) fn missing(leg: &'static str, reason: &str) -> Self {
        let reason = Some(reason.to_owned());
        Self { leg, bytes: 0, bytes_per_second: 0, reason, transcript: None }
    }

    const fn shown(leg: &'static str, rate: Rate) -> Self {
        let Rate { bytes, bytes_per_second, .. } = rate;
        Self { leg, bytes, bytes_per_second, reason: None, transcript: None }
    }
}

#[cfg(test)]
mod tests {
    use nicompute_market::Gpu;
    use nicompute_proof::SignedTranscript;

    use super::*;

    fn machine(gpus: usize) -> Machine {
        let gpu = |at: usize| Gpu {
            uuid: format!("GPU-{at}"),
            name: "NVIDIA H200".to_owned(),
            memory_bytes: 141 << 30,
        };
        Machine {
            cpu_model: "processor".to_owned(),
            cores: 64,
            memory_bytes: 1 << 40,
            disk_bytes: 1 << 40,
            gpus: (0..gpus).map(gpu).collect(),
        }
    }

    /// A leg that is not asked for must cost nobody anything, and a typo must not quietly leave one out.
    #[test]
    fn sets_of_legs_are_read_exactly() {
        let set: LegSet = "link,net".parse().unwrap();
        assert!(set.has(LegKind::Link) && set.has(LegKind::Net) && !set.has(LegKind::Disk));
        assert_eq!("none".parse(), Ok(LegSet::NONE));
        assert_eq!("link,copy,net,ram,disk".parse(), Ok(LegSet::ALL));
        for bad in ["", "link,", "Link", "all"] {
            assert!(bad.parse::<LegSet>().is_err(), "{bad}");
        }
    }

    /// Sizes that the protocol's bounds refuse would silently leave the legs out.
    #[test]
    fn every_leg_is_asked_for_at_the_full_size() {
        let full = ProofSize::Full;
        let profile = full.profile(141 << 30, DeviceKind::Cuda);
        let params = full.with_stages(profile, LegSet::ALL).params;
        assert!(params.link_walks() > 0 && params.copy_rows() == 1 << 20);
        assert!(params.allows_devices(8), "a check of eight GPUs");
        assert_eq!((params.net_down_bytes(), params.net_up_bytes()), (64 << 20, 64 << 20));
        let further = full.further(&machine(8), DeviceKind::Cuda, LegSet::ALL);
        let [(LegKind::Ram, Some(ram)), (LegKind::Disk, Some(disk))] = further.as_slice() else {
            panic!("{further:?}")
        };
        assert_eq!(ram.params.rows() * 256, 64 << 30);
        assert_eq!(
            (disk.params.rows() * 4096, disk.params.copy_rows() * 4096),
            (4 << 30, 512 << 20)
        );
        assert_eq!(full.further(&machine(8), DeviceKind::Cuda, LegSet::NET), []);
        let cpu = full.further(&machine(0), DeviceKind::Cpu, LegSet::ALL);
        assert!(matches!(cpu.as_slice(), [(LegKind::Disk, Some(_))]));
        let none = full.with_stages(profile, LegSet::NONE);
        assert_eq!(none, profile);
    }

    /// A leg that the session leaves out by itself would otherwise be gone without a word.
    #[test]
    fn a_leg_that_was_left_out_has_a_reason() {
        const TRANSCRIPT: &str = include_str!("../../proof/testdata/transcript-v2.hex");
        let bytes = hex::decode(TRANSCRIPT.trim()).unwrap();
        let signed = SignedTranscript::decode(&bytes).unwrap();
        let mut transcript = signed.transcript().clone();
        let profile = ProofSize::Full.profile(141 << 30, DeviceKind::Cuda);
        let wanted = ProofSize::Full.with_stages(profile, LegSet::ALL).params;
        let reasons = |transcript: &Transcript| -> Vec<_> {
            let missing = left_out(&wanted, transcript);
            missing.into_iter().map(|figure| (figure.leg, figure.reason.unwrap())).collect()
        };
        assert_eq!(reasons(&transcript), [], "every leg was asked for");
        transcript.exchange.params.link_walks = 0;
        transcript.exchange.params.copy_rows = 0;
        let many = "more devices than one check has room for".to_owned();
        assert_eq!(reasons(&transcript), [("link", many.clone()), ("copy", many)]);
        transcript.exchange.devices.truncate(1);
        transcript.exchange.params.copy_rows = 1 << 20;
        assert_eq!(reasons(&transcript), [("link", "one device has no neighbour".to_owned())]);
    }

    /// On a machine with many processors the panels were more than the protocol knows, and the leg was gone without a word.
    #[test]
    fn no_size_of_machine_loses_a_leg() {
        let asked = |cores: u32, memory_bytes: u64, disk_bytes: u64| {
            let machine = Machine { cores, memory_bytes, disk_bytes, ..machine(8) };
            ProofSize::Full.further(&machine, DeviceKind::Cuda, LegSet::ALL)
        };
        let ram = |cores: u32, memory_bytes: u64| {
            let further = asked(cores, memory_bytes, 1 << 40);
            let [(LegKind::Ram, Some(ram)), (LegKind::Disk, Some(_))] = further.as_slice() else {
                panic!("{cores} {memory_bytes}: {further:?}")
            };
            ram.params.rows() * 256
        };
        assert_eq!(ram(384, 3 << 40), 384 << 30);
        assert_eq!(ram(256, 1 << 40), 256 << 30);
        assert_eq!(ram(u32::MAX, u64::MAX), 1 << 40, "what an offer may say");
        for cores in [1, 3, 4, 15, 16, 255, 257, 1_023, 1_025, 100_000] {
            for memory in [8 << 20, 1 << 30, (4 << 30) - 1, 33 << 30, 999 << 30, 1 << 45] {
                assert!(ram(cores, memory) <= memory / 2, "{cores} {memory}");
            }
        }
        assert_eq!(asked(1, 0, 0), [(LegKind::Ram, None), (LegKind::Disk, None)]);
        for memory in (0..40).map(|bits| 3_u64 << bits) {
            for kind in [DeviceKind::Cuda, DeviceKind::Cpu] {
                let profile = ProofSize::Full.profile(memory, kind);
                let params = ProofSize::Full.with_stages(profile, LegSet::ALL).params;
                assert!(params.net_up_bytes() > 0, "{memory}");
                assert_eq!(params.link_walks() > 0, kind == DeviceKind::Cuda, "{memory}");
                assert_eq!(params.copy_rows() > 0, kind == DeviceKind::Cuda, "{memory}");
            }
        }
    }

    /// The local market has seconds: the line, two megabytes each way, and nothing else.
    #[test]
    fn the_small_size_asks_for_the_line_only() {
        let small = ProofSize::Small.profile(1 << 34, DeviceKind::Cpu);
        let params = ProofSize::Small.with_stages(small, LegSet::ALL).params;
        assert_eq!(
            (params.net_down_bytes(), params.link_walks(), params.copy_rows()),
            (2 << 20, 0, 0)
        );
    }
}
