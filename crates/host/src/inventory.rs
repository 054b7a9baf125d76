//! What this machine says that it has. These are claims: offers quote them, only a proof makes them evidence.
//!
//! Reads `/proc`, the file system and NVIDIA's management library, which is loaded at run time: a machine without it has no
//! GPUs, a machine where it is broken has a note that says so. Never changes anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::nvml::{Answer, GPUS_MAX, GpuFailure, NvmlLibrary, shorten};

/// How long the driver may take to tell of its GPUs. One without persistence mode wakes each of them first.
const GPUS_LIMIT: Duration = Duration::from_secs(60);
/// What is shown where the processor does not name itself.
const CPU_UNNAMED: &str = "unnamed processor";

/// What a machine claims to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The processor's own name.
    pub cpu_model: String,
    /// Hardware threads that this process may use.
    pub cores: u32,
    /// Memory in all.
    pub memory_bytes: u64,
    /// Memory that programs could take now without swapping.
    pub memory_free_bytes: u64,
    /// Free disk where the node keeps its state.
    pub disk_free_bytes: u64,
    /// GPUs, in the driver's order.
    pub gpus: Vec<Gpu>,
    /// Version of the GPU driver, where there is one.
    pub gpu_driver: Option<String>,
    /// What could not be read and why, in words for the operator.
    pub notes: Vec<String>,
}

/// One GPU, or one MIG slice of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The driver's UUID, `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// The driver's name for the model.
    pub name: String,
    /// Its memory in all.
    pub memory_bytes: u64,
    /// CUDA compute capability, major and minor, where the driver tells.
    pub compute_capability: Option<(u32, u32)>,
    /// What the driver says it is a part of.
    pub share: GpuShare,
}

/// Whether a GPU is whole, as the driver claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuShare {
    /// A whole GPU.
    Whole,
    /// A MIG slice of the GPU with that UUID.
    Mig {
        /// The whole GPU's UUID.
        parent: String,
    },
    /// A share that a hypervisor hands out.
    Vgpu,
}

/// Why the machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A file of the kernel is missing or makes no sense.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file of the kernel lacks a field.
    #[error("{file} does not say {field}")]
    Field {
        /// The file.
        file: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Reads the machine. `state_dir` is where the disk is measured. Blocks for some milliseconds, longer with GPUs.
///
/// # Errors
/// When the kernel's own files cannot be read. Trouble with GPUs is a note, not an error.
pub fn read(state_dir: &Path) -> Result<Inventory, InventoryError> {
    read_with(state_dir, &NvmlLibrary::default())
}

/// The same, with GPUs as another library tells of them.
///
/// # Errors
/// See [`read`].
pub fn read_with(state_dir: &Path, library: &NvmlLibrary) -> Result<Inventory, InventoryError> {
    let cpuinfo = read_file("/proc/cpuinfo")?;
    let meminfo = read_file("/proc/meminfo")?;
    let disk = rustix::fs::statvfs(state_dir)
        .map_err(|e| InventoryError::Read { path: state_dir.to_owned(), source: e.into() })?;
    let cores = std::thread::available_parallelism()
        .map_err(|source| InventoryError::Read { path: "/proc/self/status".into(), source })?;
    let mut notes = Vec::new();
    let (gpus, gpu_driver) = read_gpus(library, &mut notes);
    Ok(Inventory {
        cpu_model: cpu_model(&cpuinfo),
        cores: u32::try_from(cores.get()).unwrap_or(u32::MAX),
        memory_bytes: meminfo_bytes(&meminfo, "MemTotal")?,
        memory_free_bytes: meminfo_bytes(&meminfo, "MemAvailable")?,
        disk_free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        gpus,
        gpu_driver,
        notes,
    })
}

fn read_file(path: &str) -> Result<String, InventoryError> {
    fs::read_to_string(path).map_err(|source| InventoryError::Read { path: path.into(), source })
}

fn cpu_model(cpuinfo: &str) -> String {
    let named = |key: &str| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key && !value.trim().is_empty()).then(|| shorten(value.trim()))
        })
    };
    named("model name").or_else(|| named("Model")).unwrap_or_else(|| CPU_UNNAMED.to_owned())
}

fn meminfo_bytes(meminfo: &str, field: &'static str) -> Result<u64, InventoryError> {
    meminfo
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            (name == field).then(|| kib.saturating_mul(1024))
        })
        .ok_or(InventoryError::Field { file: "/proc/meminfo", field })
}

/// The GPUs and the driver's version. No library, no GPUs; a library that fails, or does not come back, is worth a note.
fn read_gpus(library: &NvmlLibrary, notes: &mut Vec<String>) -> (Vec<Gpu>, Option<String>) {
    let gpus = match ask_in_time(library.clone(), GPUS_LIMIT) {
        Some(Answer::Gpus(gpus)) => gpus,
        Some(Answer::NoLibrary) => return (Vec::new(), None),
        Some(Answer::Broken(problem)) => {
            notes.push(format!(
                "the GPU driver's library is installed and does not work: {problem}"
            ));
            return (Vec::new(), None);
        }
        None => {
            let seconds = GPUS_LIMIT.as_secs();
            notes.push(format!("the GPU driver did not answer within {seconds} s"));
            return (Vec::new(), None);
        }
    };
    for GpuFailure { index, problem, .. } in &gpus.failures {
        notes.push(format!("GPU {index} cannot be read: {problem}"));
    }
    if gpus.samples.len() >= GPUS_MAX {
        notes.push(format!("only the first {GPUS_MAX} GPUs are offered"));
    }
    (gpus.samples.into_iter().map(|sample| sample.gpu).collect(), gpus.driver)
}

/// Asks the driver on a thread of its own, which is left behind where it never comes back.
#[must_use]
pub fn ask_in_time(library: NvmlLibrary, limit: Duration) -> Option<Answer> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("gpu inventory".to_owned());
    // Nobody may wait for the answer any more.
    let thread = thread.spawn(move || drop(sender.try_send(library.ask())));
    match thread {
        Ok(_) => receiver.recv_timeout(limit).ok(),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An inventory that cannot be read on a machine without a GPU would keep every CPU provider off the market.
    #[test]
    fn this_machine_can_be_read() {
        let inventory = read(Path::new("/")).expect("inventory");
        assert!(inventory.cores >= 1);
        assert!(inventory.memory_bytes >= inventory.memory_free_bytes);
        assert!(inventory.memory_free_bytes > 0);
        assert!(!inventory.cpu_model.is_empty());
    }

    /// A wrong unit here would offer a thousand times too much memory.
    #[test]
    fn kernel_files_are_parsed() {
        let meminfo = "MemTotal:       24684084 kB\nMemAvailable:   1 kB\nHugePages_Total: 0\n";
        assert_eq!(meminfo_bytes(meminfo, "MemTotal").ok(), Some(24_684_084 * 1024));
        assert!(meminfo_bytes("MemTotal: lots\n", "MemTotal").is_err());
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A  CPU\x1b[0m\n"), "A  CPU[0m");
        assert_eq!(cpu_model("processor\t: 0\n"), CPU_UNNAMED);
        assert_eq!(cpu_model(&format!("model name: {}", "x".repeat(500))).len(), 96);
    }
}
