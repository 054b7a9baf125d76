//! What the machine says about itself: processor name, threads, memory that a plot may use, and its GPUs.
//!
//! Linux only, from files; whatever cannot be read counts as absent.

use std::fs;
use std::path::{Path, PathBuf};

use nicompute_proof::TEXT_LEN_MAX;

use crate::cpu::CpuDevice;
use crate::device::Device;
use crate::disk::DiskDevice;

/// What a prover found on its machine.
#[derive(Debug)]
pub struct Machine {
    /// The processor, a disk, then the GPUs that can prove.
    pub devices: Vec<Box<dyn Device>>,
    /// Why there are no GPUs, or not all of them.
    pub notes: Vec<String>,
}

/// Looks for everything that can prove. A GPU gets a context, and keeps it as long as its device lives.
#[must_use]
pub fn look() -> Machine {
    let devices: Vec<Box<dyn Device>> = vec![Box::new(cpu_device()), Box::new(disk_device())];
    let mut machine = Machine { devices, notes: Vec::new() };
    #[cfg(feature = "cuda")]
    match crate::cuda::CudaDevice::find() {
        Ok(found) => {
            let devices =
                found.devices.into_iter().map(|device| Box::new(device) as Box<dyn Device>);
            machine.devices.extend(devices);
            machine.notes.extend(found.not_usable.iter().map(|one| with_causes(one)));
        }
        Err(error) => machine.notes.push(format!("no GPU: {}", with_causes(&error))),
    }
    #[cfg(not(feature = "cuda"))]
    machine.notes.push("no GPU: this program was built without support for GPUs".to_owned());
    machine
}

/// A disk of this machine: under the folder that the prover was started in where that lies on one, else under `/tmp`.
#[must_use]
pub fn disk_device() -> DiskDevice {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    DiskDevice::at_first_of(&[here, PathBuf::from("/tmp")], threads)
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// The processor and the main memory of this machine as one device.
#[must_use]
pub fn cpu_device() -> CpuDevice {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    CpuDevice::new("cpu", &processor_name(), memory_available(Path::new("/")), threads)
}

fn processor_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    plain(name.unwrap_or_default(), "unnamed processor")
}

/// A name as a frame can carry it.
pub(crate) fn plain(name: &str, unnamed: &str) -> String {
    let mut plain = String::new();
    for c in name.trim().chars().filter(|c| !c.is_control()) {
        if plain.len() + c.len_utf8() <= TEXT_LEN_MAX {
            plain.push(c);
        }
    }
    if plain.is_empty() { unnamed.to_owned() } else { plain }
}

/// Bytes that may be used now: the system's available memory, or what the control group leaves, if that is less.
fn memory_available(root: &Path) -> u64 {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let system = read("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        kib.checked_mul(1024)
    });
    let left = |limit: &str, used: &str| {
        number(limit).map(|limit| limit.saturating_sub(number(used).unwrap_or(0)))
    };
    let group = left("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current").or_else(|| {
        left(
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
        )
    });
    system.into_iter().chain(group).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with a line break, or none, would make the verifier refuse the whole machine.
    #[test]
    fn names_are_plain_text() {
        assert_eq!(plain(" NVIDIA\nH200\u{1b} ", "unnamed"), "NVIDIAH200");
        assert_eq!(plain("\n", "unnamed"), "unnamed");
        assert_eq!(plain(&"é".repeat(60), "unnamed").len(), TEXT_LEN_MAX);
    }

    /// A prover that believes the host's memory inside a limited container would be killed in the middle of a proof.
    #[test]
    fn the_smaller_limit_counts() {
        let dir = std::env::temp_dir().join(format!("nicompute-prover-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    2048 kB\n");
        assert_eq!(memory_available(&dir), 2048 * 1024);
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(memory_available(&dir), 2048 * 1024);
        write("sys/fs/cgroup/memory.max", "1000000\n");
        write("sys/fs/cgroup/memory.current", "400000\n");
        assert_eq!(memory_available(&dir), 600_000);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(memory_available(&dir), 0);
        assert!(memory_available(Path::new("/")) > 0 && !processor_name().is_empty());
    }
}
