//! What a provider should know about its machine before a validator looks, each with its remedy.

use nicompute_host::inventory::Inventory;
use nicompute_market::{
    Capability, Catalogue, DeviceKind, Evidence, NameFinding, Score, ScorePolicy, Shortfall, Track,
    UnixMillis, Verdict, score,
};
use nicompute_proof::DeviceClaim;
use nicompute_validator::DeviceShown;

/// A GPU of which less than this percentage is free is in use.
const FREE_PERCENT_MIN: u64 = 97;

/// One device, judged.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) shown: DeviceShown,
    /// The class that it is paid as.
    pub(super) class: Option<String>,
    /// How its name relates to that.
    pub(super) name: NameFinding,
    /// The nearest better paid class, and what is missing.
    pub(super) next: Option<(String, Vec<Shortfall>)>,
}

/// Something about the machine that costs its provider money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// There is no GPU that could be proven, in the prover's words.
    NoGpu(String),
    /// The driver's library is there and does not work.
    DriverBroken(String),
    /// The driver lists GPUs that the prover could not use.
    Unused(Vec<String>),
    /// A part of a GPU's memory is taken.
    MemoryInUse {
        /// The GPU.
        id: String,
        /// What is free.
        free_bytes: u64,
        /// What there is.
        all_bytes: u64,
    },
    /// The processor was measured, and the catalogue pays none.
    NoClassForProcessors,
    /// A name that disagrees with what was shown.
    Name {
        /// The device.
        device: u16,
        /// How.
        finding: NameFinding,
    },
    /// A better paid class is not met.
    Below {
        /// The device.
        device: u16,
        /// The class.
        class: String,
        /// The minimums that are not met.
        shortfalls: Vec<Shortfall>,
    },
}

/// What is known of the machine before it is proven.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// What the driver's own library lists.
    pub(super) inventory: &'a Inventory,
    /// What the prover can use.
    pub(super) claims: &'a [DeviceClaim],
    /// What the prover said besides.
    pub(super) said: &'a str,
}

/// Judges every device by itself.
pub(super) fn judge(shown: Vec<DeviceShown>, catalogue: &Catalogue) -> Vec<Judged> {
    let judged = shown.into_iter().map(|shown| Judged {
        class: catalogue.classify(&shown.shown).map(|class| class.name.clone()),
        name: catalogue.judge_name(&shown.name, &shown.shown),
        next: catalogue
            .next_above(&shown.shown)
            .map(|(class, shortfalls)| (class.name.clone(), shortfalls)),
        shown,
    });
    judged.collect()
}

/// What the whole machine would score now.
pub(super) fn machine_score(shown: Capability, catalogue: &Catalogue, now: UnixMillis) -> Score {
    let evidence = [Evidence { at: now, verdict: Verdict::Passed(shown) }];
    let track = Track { evidence: &evidence, is_rented: false };
    let policy = ScorePolicy { age_millis_max: 1, rented_multiplier_milli: 1_000 };
    score(track, catalogue, policy, now)
}

/// Everything that there is to say.
pub(super) fn findings(seen: Seen<'_>, judged: &[Judged], catalogue: &Catalogue) -> Vec<Finding> {
    let mut findings = of_driver(seen);
    let Seen { inventory, claims, .. } = seen;
    for claim in claims.iter().filter(|claim| claim.kind == nicompute_proof::DeviceKind::Cuda) {
        let gpu = inventory.gpus.iter().find(|gpu| gpu.uuid == claim.id);
        let all_bytes = gpu.map_or(0, |gpu| gpu.memory_bytes);
        let free_bytes = claim.memory_bytes;
        if free_bytes < all_bytes / 100 * FREE_PERCENT_MIN {
            let id = claim.id.clone();
            findings.push(Finding::MemoryInUse { id, free_bytes, all_bytes });
        }
    }
    let pays_processors = catalogue.classes.iter().any(|class| class.device == DeviceKind::Cpu);
    for Judged { shown, name, next, .. } in judged {
        let device = shown.device;
        match shown.shown.kind {
            DeviceKind::Cpu if !pays_processors => findings.push(Finding::NoClassForProcessors),
            DeviceKind::Gpu if name.is_mismatch() => {
                findings.push(Finding::Name { device, finding: name.clone() });
            }
            DeviceKind::Cpu | DeviceKind::Gpu => {}
        }
        if let Some((class, shortfalls)) = next {
            let (class, shortfalls) = (class.clone(), shortfalls.clone());
            findings.push(Finding::Below { device, class, shortfalls });
        }
    }
    findings
}

fn of_driver(Seen { inventory, claims, said }: Seen<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        inventory.notes.iter().map(|note| Finding::DriverBroken(note.clone())).collect();
    if !claims.iter().any(|claim| claim.kind == nicompute_proof::DeviceKind::Cuda) {
        findings.push(Finding::NoGpu(said.trim().to_owned()));
    }
    let is_used = |uuid: &str| claims.iter().any(|claim| claim.id == uuid);
    let unused = inventory.gpus.iter().filter(|gpu| !is_used(&gpu.uuid));
    let unused: Vec<String> = unused.map(|gpu| format!("{} ({})", gpu.name, gpu.uuid)).collect();
    if !unused.is_empty() {
        findings.push(Finding::Unused(unused));
    }
    findings
}

impl Finding {
    /// The stable name.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::NoGpu(_) => "no-gpu",
            Self::DriverBroken(_) => "driver-broken",
            Self::Unused(_) => "gpus-not-proven",
            Self::MemoryInUse { .. } => "memory-in-use",
            Self::NoClassForProcessors => "no-class-for-processors",
            Self::Name { .. } => "name",
            Self::Below { .. } => "below-next-class",
        }
    }

    /// What is the matter.
    pub(super) fn what(&self) -> String {
        match self {
            Self::NoGpu(said) => format!("no GPU can be proven on this machine ({said})"),
            Self::DriverBroken(note) => note.clone(),
            Self::Unused(gpus) => {
                format!("the driver lists GPUs that were not proven: {}", gpus.join(", "))
            }
            Self::MemoryInUse { id, free_bytes, all_bytes } => {
                format!(
                    "{id} has {free_bytes} of its {all_bytes} bytes free: another process holds the rest"
                )
            }
            Self::NoClassForProcessors => {
                "the processor was measured, and this catalogue pays for no processor".to_owned()
            }
            Self::Name { device, finding } => format!("device {device}: {finding}"),
            Self::Below { device, class, shortfalls } => {
                let missing: Vec<String> = shortfalls.iter().map(ToString::to_string).collect();
                format!("device {device} is below {class}: {}", missing.join("; "))
            }
        }
    }

    /// What to do about it.
    pub(super) const fn remedy(&self) -> &'static str {
        match self {
            Self::NoGpu(_) => "install the NVIDIA driver; in a container, pass the GPUs in",
            Self::DriverBroken(_) => "run nvidia-smi; install the driver again where it fails too",
            Self::Unused(_) => "check nvidia-smi, CUDA_VISIBLE_DEVICES, and the driver's version",
            Self::MemoryInUse { .. } => "nvidia-smi lists the processes: end them before a proof",
            Self::NoClassForProcessors => "offer a GPU; on a local market processors are paid",
            Self::Name { .. } => "nothing where the name is right: only what is shown is paid",
            Self::Below { .. } => {
                "stop what else runs, check power limit, temperature and clocks in nvidia-smi -q"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nicompute_host::inventory::{Gpu, GpuShare};

    fn inventory(gpus: Vec<Gpu>, notes: &[&str]) -> Inventory {
        Inventory {
            cpu_model: "x".to_owned(),
            cores: 1,
            memory_bytes: 1,
            memory_free_bytes: 1,
            disk_free_bytes: 1,
            gpus,
            gpu_driver: None,
            notes: notes.iter().map(|note| (*note).to_owned()).collect(),
        }
    }

    fn gpu(uuid: &str) -> Gpu {
        Gpu {
            uuid: uuid.to_owned(),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: 80 << 30,
            compute_capability: None,
            share: GpuShare::Whole,
        }
    }

    fn claim(uuid: &str, free_gib: u64) -> DeviceClaim {
        DeviceClaim {
            kind: nicompute_proof::DeviceKind::Cuda,
            id: uuid.to_owned(),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            memory_bytes: free_gib << 30,
        }
    }

    fn shown(name: &str, gib: u64, tera: u64, walk_giga: u64) -> DeviceShown {
        let shown = Capability {
            kind: DeviceKind::Gpu,
            devices: 1,
            bytes_per_device: gib << 30,
            ops_per_second: tera * 1_000_000_000_000,
            walk_bytes_per_second: walk_giga * 1_000_000_000,
        };
        DeviceShown { device: 0, name: name.to_owned(), shown }
    }

    /// A provider that earns less than it could must hear why, each reason by itself.
    #[test]
    fn every_reason_is_found() {
        let catalogue = Catalogue::standard();
        let codes = |inventory: &Inventory, claims: &[DeviceClaim], shown: Vec<DeviceShown>| {
            let judged = judge(shown, &catalogue);
            let all = findings(Seen { inventory, claims, said: "no driver" }, &judged, &catalogue);
            assert!(all.iter().all(|one| !one.what().is_empty() && !one.remedy().is_empty()));
            all.iter().map(Finding::code).collect::<Vec<_>>()
        };
        assert_eq!(codes(&inventory(vec![], &[]), &[], vec![]), ["no-gpu"]);
        assert_eq!(
            codes(&inventory(vec![], &["broken"]), &[], vec![]),
            ["driver-broken", "no-gpu"]
        );
        let two = inventory(vec![gpu("GPU-1"), gpu("GPU-2")], &[]);
        assert_eq!(codes(&two, &[claim("GPU-1", 79)], vec![]), ["gpus-not-proven"]);
        let one = inventory(vec![gpu("GPU-1")], &[]);
        assert_eq!(codes(&one, &[claim("GPU-1", 60)], vec![]), ["memory-in-use"]);
        let best = vec![shown("NVIDIA B300", 260, 1_200, 6_000)];
        assert_eq!(codes(&one, &[claim("GPU-1", 79)], best), Vec::<&str>::new());
        let slow = vec![shown("NVIDIA H100 80GB HBM3", 76, 400, 2_500)];
        assert_eq!(codes(&one, &[claim("GPU-1", 79)], slow), ["name", "below-next-class"]);
        let mut cpu = shown("some processor", 1, 1, 1);
        cpu.shown.kind = DeviceKind::Cpu;
        assert_eq!(codes(&one, &[claim("GPU-1", 79)], vec![cpu]), ["no-class-for-processors"]);
    }
}
