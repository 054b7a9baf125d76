//! `GET /v1/leases/{id}/gpus`: how the GPUs of a lease are, seen from outside of its container.
//!
//! These are the words of the provider's driver: a hint for the holder, never evidence of what a machine can do.

use serde::{Deserialize, Serialize};

/// Errors of one GPU in a view, the latest.
pub const XIDS_SHOWN_MAX: usize = 32;

/// The GPUs of one lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGpusView {
    /// `answers`, `silent`, or `none` where the node watches no GPUs.
    pub driver: String,
    /// How old the driver's last answer is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_age_ms: Option<u64>,
    /// One for each leased GPU, in the lease's order.
    pub gpus: Vec<GpuHealthView>,
}

/// One leased GPU. What the driver does not tell is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuHealthView {
    /// The driver's UUID.
    pub uuid: String,
    /// `present`, `missing` while a loss is not confirmed, `degraded`, `lost`, or `unknown`.
    pub state: String,
    /// What is known about a state that is not `present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// When it was sampled last, on the provider's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_at_unix_ms: Option<u64>,
    /// The driver's name for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<u32>,
    /// What it draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_milliwatts: Option<u32>,
    /// What it may draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit_milliwatts: Option<u32>,
    /// Clock of the multiprocessors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
    /// Clock of the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_clock_mhz: Option<u32>,
    /// Why it is slower than it could be, in the driver's terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<String>,
    /// Memory errors that were mended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_corrected: Option<u64>,
    /// Memory errors that were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecc_uncorrected: Option<u64>,
    /// Errors that the driver reported during the lease, at most [`XIDS_SHOWN_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xids: Vec<XidView>,
}

/// An error that the driver reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XidView {
    /// NVIDIA's number of the error.
    pub code: u64,
    /// When the node heard of it, on its own clock.
    pub at_unix_ms: u64,
}
