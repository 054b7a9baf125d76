//! What a machine has, as its owner claims it, and what a proof has shown of it.

use serde::{Deserialize, Serialize};

/// A GPU as NVML names it on its owner's machine: a claim, never evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// NVML's UUID (`GPU-…` or `MIG-…`).
    pub uuid: String,
    /// The product name.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// A machine as its owner describes it: claims, never evidence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// The processor's model name.
    pub cpu_model: String,
    /// Logical processors.
    pub cores: u32,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Disk space that tenants may use, in bytes.
    pub disk_bytes: u64,
    /// GPUs, in bus order.
    pub gpus: Vec<Gpu>,
}

/// The kind of device that did the work of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The machine's processors and main memory, as one device.
    Cpu,
    /// One GPU and its memory.
    Gpu,
}

/// What a proof has shown of the devices of one machine. `docs/proof.md` says of every number what it bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// What the devices are.
    pub kind: DeviceKind,
    /// How many devices worked at the same time.
    pub devices: u32,
    /// Bytes that were held at once, of the device that held least.
    pub bytes_per_device: u64,
    /// Integer multiply-adds counted as two operations, per second, of the slowest device.
    pub ops_per_second: u64,
    /// Bytes that dependent reads fetched per second, of the slowest device.
    pub walk_bytes_per_second: u64,
}
