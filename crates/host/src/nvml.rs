//! What NVIDIA's management library says about the GPUs now. It is loaded at run time and never links the program to a driver.
//!
//! Every call into it may take long, or never come back where a GPU has fallen off its bus: callers keep it off their own
//! threads. Nothing is changed on a GPU.

use std::ffi::{OsStr, OsString};

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, GpuVirtualizationMode, MemoryError, TemperatureSensor,
};
use nvml_wrapper::error::NvmlError;

use crate::inventory::{Gpu, GpuShare};

/// The name under which drivers install the library; the unversioned one belongs to development packages.
const NVML_LIBRARY: &str = "libnvidia-ml.so.1";
/// More GPUs than any machine holds, MIG slices included.
pub(crate) const GPUS_MAX: usize = 256;
/// Processes of one GPU that are told.
const PIDS_MAX: usize = 256;
/// Longest processor or GPU name that is passed on.
const NAME_CHARS_MAX: usize = 96;

/// Where the management library is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvmlLibrary(OsString);

/// What the library says about one GPU or one MIG slice. What a device does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSample {
    /// What it is.
    pub gpu: Gpu,
    /// `0` for the first GPU, `0:1` for the second slice of the first.
    pub index: String,
    /// Its place on the PCI bus, for a slice that of its GPU.
    pub bus_id: Option<String>,
    /// The number in `/dev/nvidia<minor>`, for a slice that of its GPU.
    pub minor: Option<u32>,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Temperature of the chip.
    pub temperature_celsius: Option<u32>,
    /// What it draws.
    pub power_milliwatts: Option<u32>,
    /// What it may draw.
    pub power_limit_milliwatts: Option<u32>,
    /// Clock of the multiprocessors.
    pub clock_mhz: Option<u32>,
    /// Clock of the memory.
    pub memory_clock_mhz: Option<u32>,
    /// Why it is slower than it could be.
    pub throttled: Vec<&'static str>,
    /// Memory errors since the driver was loaded that were mended.
    pub ecc_corrected: Option<u64>,
    /// Memory errors since the driver was loaded that were not.
    pub ecc_uncorrected: Option<u64>,
    /// Processes that compute on it, as the host numbers them.
    pub pids: Vec<u32>,
}

/// A GPU that is counted and does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFailure {
    /// Its number with the driver.
    pub index: u32,
    /// Whether the library knows it no more.
    pub kind: FailureKind,
    /// What the library said.
    pub problem: String,
}

/// What a failure says about the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing: a question was not answered, and the GPU may be there.
    Unanswered,
    /// The library says that it is gone.
    Gone,
}

/// All GPUs at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpus {
    /// Those that answered, in the driver's order.
    pub samples: Vec<GpuSample>,
    /// Those that did not.
    pub failures: Vec<GpuFailure>,
    /// The driver's version.
    pub driver: Option<String>,
}

/// What a question to the library came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It told.
    Gpus(Gpus),
    /// There is no such library: a machine without NVIDIA's driver.
    NoLibrary,
    /// The library is there and does not work, with its words.
    Broken(String),
}

// === impl NvmlLibrary ===

impl Default for NvmlLibrary {
    fn default() -> Self {
        Self(NVML_LIBRARY.into())
    }
}

impl NvmlLibrary {
    /// Another file than the driver's.
    #[must_use]
    pub fn at(file: impl Into<OsString>) -> Self {
        Self(file.into())
    }

    fn name(&self) -> &OsStr {
        &self.0
    }

    /// Opens the library; nothing where there is none.
    pub(crate) fn open(&self) -> Result<Option<Nvml>, NvmlError> {
        match Nvml::builder().lib_path(self.name()).init() {
            Ok(nvml) => Ok(Some(nvml)),
            Err(NvmlError::LibloadingError(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks once. Blocks for as long as the driver takes.
    #[must_use]
    pub fn ask(&self) -> Answer {
        match self.open() {
            Ok(None) => Answer::NoLibrary,
            Ok(Some(nvml)) => read(&nvml).map_or_else(|error| broken(&error), Answer::Gpus),
            Err(error) => broken(&error),
        }
    }
}

// === impl Gpus ===

impl Gpus {
    /// The names under which CDI specs may have these GPUs.
    pub fn known(&self) -> impl Iterator<Item = (String, crate::cdi::KnownAs)> + '_ {
        self.samples.iter().map(|sample| {
            let known = crate::cdi::KnownAs { name: sample.index.clone(), minor: sample.minor };
            (sample.gpu.uuid.clone(), known)
        })
    }
}

pub(crate) fn broken(error: &NvmlError) -> Answer {
    Answer::Broken(shorten(&error.to_string()))
}

/// Reads all GPUs. One that fails hinders no other.
pub(crate) fn read(nvml: &Nvml) -> Result<Gpus, NvmlError> {
    let mut gpus =
        Gpus { driver: nvml.sys_driver_version().map(|v| shorten(&v)).ok(), ..Gpus::default() };
    for index in 0..nvml.device_count()? {
        if let Err(error) = read_gpu(nvml, index, &mut gpus) {
            gpus.failures.push(failure(index, &error));
        }
        if gpus.samples.len() >= GPUS_MAX || gpus.failures.len() >= GPUS_MAX {
            break;
        }
    }
    gpus.samples.truncate(GPUS_MAX);
    Ok(gpus)
}

/// Text of the driver for a log or a view.
pub(crate) fn shorten(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// Adds the GPU with that number, or its slices where it is cut into some.
fn read_gpu(nvml: &Nvml, index: u32, gpus: &mut Gpus) -> Result<(), NvmlError> {
    let device = nvml.device_by_index(index)?;
    let whole = sample(&device, index)?;
    let is_cut = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    if !is_cut {
        gpus.samples.push(whole);
        return Ok(());
    }
    for slot in 0..device.mig_device_count()? {
        // The count is the number of slots; one without a slice in it is no error.
        let Ok(slice) = device.mig_device_by_index(slot) else { continue };
        match sample_slice(&slice, slot, &whole) {
            Ok(sample) => gpus.samples.push(sample),
            // The slices after it are others'.
            Err(error) => gpus.failures.push(failure(index, &error)),
        }
    }
    Ok(())
}

fn sample_slice(
    slice: &nvml_wrapper::Device<'_>,
    slot: u32,
    whole: &GpuSample,
) -> Result<GpuSample, NvmlError> {
    let memory = slice.memory_info()?;
    Ok(GpuSample {
        gpu: Gpu {
            uuid: shorten(&slice.uuid()?),
            name: shorten(&slice.name()?),
            memory_bytes: memory.total,
            compute_capability: whole.gpu.compute_capability,
            share: GpuShare::Mig { parent: whole.gpu.uuid.clone() },
        },
        index: format!("{}:{slot}", whole.index),
        memory_used_bytes: Some(memory.used),
        pids: pids(slice),
        // Heat, power and errors are those of the whole GPU.
        ..whole.clone()
    })
}

fn failure(index: u32, error: &NvmlError) -> GpuFailure {
    let kind = match error {
        NvmlError::GpuLost | NvmlError::NotFound => FailureKind::Gone,
        _ => FailureKind::Unanswered,
    };
    GpuFailure { index, kind, problem: shorten(&error.to_string()) }
}

fn sample(device: &nvml_wrapper::Device<'_>, index: u32) -> Result<GpuSample, NvmlError> {
    let capability = device.cuda_compute_capability().ok().and_then(|capability| {
        Some((u32::try_from(capability.major).ok()?, u32::try_from(capability.minor).ok()?))
    });
    let is_vgpu = matches!(device.virtualization_mode(), Ok(GpuVirtualizationMode::Vgpu));
    let memory = device.memory_info()?;
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    Ok(GpuSample {
        gpu: Gpu {
            uuid: shorten(&device.uuid()?),
            name: shorten(&device.name()?),
            memory_bytes: memory.total,
            compute_capability: capability,
            share: if is_vgpu { GpuShare::Vgpu } else { GpuShare::Whole },
        },
        index: index.to_string(),
        bus_id: device.pci_info().ok().map(|pci| shorten(&pci.bus_id)),
        minor: device.minor_number().ok(),
        memory_used_bytes: Some(memory.used),
        temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
        power_milliwatts: device.power_usage().ok(),
        power_limit_milliwatts: device.enforced_power_limit().ok(),
        clock_mhz: device.clock_info(Clock::SM).ok(),
        memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
        throttled: device.current_throttle_reasons().map(throttled).unwrap_or_default(),
        ecc_corrected: ecc(MemoryError::Corrected),
        ecc_uncorrected: ecc(MemoryError::Uncorrected),
        pids: pids(device),
    })
}

fn pids(device: &nvml_wrapper::Device<'_>) -> Vec<u32> {
    let processes = device.running_compute_processes().unwrap_or_default();
    processes.into_iter().take(PIDS_MAX).map(|process| process.pid).collect()
}

/// The reasons that slow a GPU down; an idle one is not slowed.
fn throttled(reasons: ThrottleReasons) -> Vec<&'static str> {
    let names = [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "application clocks"),
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "synchronised with others"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "software thermal slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware thermal slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    ];
    names
        .into_iter()
        .filter(|(reason, _)| reasons.contains(*reason))
        .map(|(_, name)| name)
        .collect()
}
