//! What a session is bound to, what a prover says about its devices, and what it is asked to do.

use serde::{Deserialize, Serialize};

use nicompute_market::{Hotkey, LeaseId};

use crate::params::ProofParams;

/// The most devices of one machine.
pub const DEVICES_MAX: usize = 32;
/// The longest id or name of a device, in bytes.
pub const TEXT_LEN_MAX: usize = 96;

/// 32 random bytes that the verifier drew when a stage began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub [u8; 32]);

/// What makes a session this session and no other; every key depends on all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// The hotkey of the validator that asks and signs.
    pub validator: [u8; 32],
    /// The hotkey of the provider that answers.
    pub provider: [u8; 32],
    /// The lease in which the prover runs.
    pub lease: [u8; 16],
    /// A recent finalised block: nothing of this session was known before it.
    pub block_number: u64,
    /// That block's hash.
    pub block_hash: [u8; 32],
}

/// The hardware that a device is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Processor and main memory.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A disk, by a file that is read past the system's cache.
    Disk,
}

/// What a prover says about one device. Nothing of it is evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceClaim {
    /// The hardware.
    pub kind: DeviceKind,
    /// A name that is unique in the machine, such as a GPU's UUID; enters the device's keys.
    pub id: String,
    /// The model's name.
    pub name: String,
    /// Memory that a plot may use now.
    pub memory_bytes: u64,
}

/// One device's share of the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevicePlan {
    /// Place in the list of claims.
    pub device: u16,
    /// Rows to compute and to hold.
    pub rows: u64,
    /// Walks over them.
    pub walks: u32,
}

/// What is wrong with a prover's claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// More devices than any machine has.
    #[error("{0} devices, at most 32")]
    TooMany(usize),
    /// An id or name that is empty, too long, or holds control characters.
    #[error("device {0} has an id or name that is not 1 to 96 bytes of plain text")]
    Text(u16),
    /// The same device twice.
    #[error("two devices have the same kind and id")]
    SameTwice,
    /// No device of the kind that is to be proven.
    #[error("no device of the kind that is to be proven")]
    NoneOfKind,
    /// A device that cannot hold one panel.
    #[error("device {0} has too little free memory for the smallest plot")]
    Memory(u16),
    /// More devices than can be checked at these sizes, even without LINK and COPY.
    #[error("a check of {0} devices of this size is more than 2^39 products")]
    Work(usize),
}

impl Binding {
    /// Binds a session to its two parties, a lease and a block.
    #[must_use]
    pub const fn new(
        validator: &Hotkey,
        provider: &Hotkey,
        lease: &LeaseId,
        (block_number, block_hash): (u64, [u8; 32]),
    ) -> Self {
        Self {
            validator: *validator.as_bytes(),
            provider: *provider.as_bytes(),
            lease: *lease.as_bytes(),
            block_number,
            block_hash,
        }
    }
}

impl DeviceKind {
    /// The number that stands in key material.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Cpu => 0,
            Self::Cuda => 1,
            Self::Disk => 2,
        }
    }

    /// The percentage of its free memory that a device must fill. A GPU is filled, so that nobody else can be in it, and
    /// what it claims already leaves out what the session needs besides; a machine's main memory and its disk also hold the prover, the container and the system.
    const fn share_percent(self) -> u64 {
        match self {
            Self::Cpu | Self::Disk => 50,
            Self::Cuda => 99,
        }
    }
}

/// Refuses claims that could not be shown, keyed or told apart.
///
/// # Errors
/// At the first such claim.
pub fn check_claims(claims: &[DeviceClaim]) -> Result<(), ClaimError> {
    if claims.len() > DEVICES_MAX {
        return Err(ClaimError::TooMany(claims.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (device, claim) in (0_u16..).zip(claims) {
        if !plain(&claim.id) || !plain(&claim.name) {
            return Err(ClaimError::Text(device));
        }
        if !seen.insert((claim.kind, claim.id.as_str())) {
            return Err(ClaimError::SameTwice);
        }
    }
    Ok(())
}

/// Gives every device of a kind its rows: what the profile asks for, or less where memory is short.
///
/// # Errors
/// Where there is no such device, or one cannot hold one panel.
pub fn plan_devices(
    claims: &[DeviceClaim],
    kind: DeviceKind,
    params: &ProofParams,
) -> Result<Vec<DevicePlan>, ClaimError> {
    check_claims(claims)?;
    let mut plans = Vec::new();
    for (device, claim) in (0_u16..).zip(claims).filter(|(_, claim)| claim.kind == kind) {
        let plot_bytes =
            claim.memory_bytes.saturating_div(100).saturating_mul(kind.share_percent());
        let rows = plot_bytes.checked_div(params.n() as u64).unwrap_or(0).min(params.rows());
        let panel = u64::from(params.panel_rows());
        let rows = rows.checked_div(panel).unwrap_or(0).saturating_mul(panel);
        if !params.allows_rows(rows) {
            return Err(ClaimError::Memory(device));
        }
        plans.push(DevicePlan { device, rows, walks: params.walks() });
    }
    if plans.is_empty() { Err(ClaimError::NoneOfKind) } else { Ok(plans) }
}

/// Whether plans name existing devices once each, ascending, with sizes that the parameters allow, and at least two
/// devices where LINK is asked.
#[must_use]
pub fn plans_are_sound(claims: &[DeviceClaim], params: &ProofParams, plans: &[DevicePlan]) -> bool {
    let fewest = if params.link() { 2 } else { 1 };
    plans.len() >= fewest
        && plans.is_sorted_by(|a, b| a.device < b.device)
        && plans.iter().all(|plan| {
            usize::from(plan.device) < claims.len()
                && params.allows_rows(plan.rows)
                && plan.walks == params.walks()
        })
}

fn plain(text: &str) -> bool {
    (1..=TEXT_LEN_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(kind: DeviceKind, id: &str, memory_bytes: u64) -> DeviceClaim {
        DeviceClaim { kind, id: id.to_owned(), name: "model".to_owned(), memory_bytes }
    }

    /// A machine short of memory must be asked for less, and one without room must be told so.
    #[test]
    fn rows_follow_free_memory() {
        let small = ProofParams::small();
        let plan = |memory| {
            plan_devices(&[claim(DeviceKind::Cpu, "cpu", memory)], DeviceKind::Cpu, &small)
        };
        assert_eq!(plan(1 << 30).unwrap()[0].rows, 262_144);
        assert_eq!(plan(100 << 20).unwrap()[0].rows, 12 * 16_384);
        assert_eq!(plan(8 << 20), Err(ClaimError::Memory(0)));
        assert_eq!(plan_devices(&[], DeviceKind::Cpu, &small), Err(ClaimError::NoneOfKind));
    }

    /// Only devices of the asked kind are proven, at their place among all claims.
    #[test]
    fn a_kind_is_selected_by_place() {
        let claims = [
            claim(DeviceKind::Cpu, "cpu", 1 << 30),
            claim(DeviceKind::Cuda, "GPU-1", 1 << 30),
            claim(DeviceKind::Cuda, "GPU-2", 1 << 30),
        ];
        let plans = plan_devices(&claims, DeviceKind::Cuda, &ProofParams::small()).unwrap();
        assert_eq!(plans.iter().map(|plan| plan.device).collect::<Vec<_>>(), [1, 2]);
        assert!(plans_are_sound(&claims, &ProofParams::small(), &plans));
        let twice = [plans[0], plans[0]];
        assert!(!plans_are_sound(&claims, &ProofParams::small(), &twice));
    }

    /// Names reach logs, pages and keys: two equal devices, or control characters, would confuse all three.
    #[test]
    fn bad_claims_are_refused() {
        let good = claim(DeviceKind::Cpu, "cpu", 1);
        assert_eq!(check_claims(&[good.clone(), good.clone()]), Err(ClaimError::SameTwice));
        for bad in ["", "a\u{1b}[2J", &"x".repeat(97)] {
            assert_eq!(check_claims(&[claim(DeviceKind::Cpu, bad, 1)]), Err(ClaimError::Text(0)));
        }
        assert!(check_claims(&vec![good; 33]).is_err());
    }
}
