//! What a transcript has shown: of each device by itself, and of the machine as its least device.

use nicompute_market::{Capability, Catalogue, DeviceKind, NameFinding};
use nicompute_proof::Transcript;

/// What one device has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceShown {
    /// Its place in the claims.
    pub device: u16,
    /// The name that it gave itself.
    pub name: String,
    /// Its own bytes and operations, over the time that all devices took together.
    pub shown: Capability,
}

/// What each device has shown by itself: `bytes = rows × n`, `ops = 2 × steps × rows × n²` over the fill's time, `walk bytes =
/// walks × reads × n` over the walk's time. All devices worked at the same time, so the time is the machine's.
#[must_use]
pub fn shown_by_device(transcript: &Transcript) -> Vec<DeviceShown> {
    let (exchange, measured) = (&transcript.exchange, &transcript.measured);
    let n = u64::from(exchange.params.n);
    let ops_of_a_byte = n.saturating_mul(2).saturating_mul(u64::from(exchange.params.steps));
    let bytes_of_a_walk = n.saturating_mul(u64::from(exchange.params.reads));
    let devices = exchange.devices.iter().filter_map(|device| {
        let claim = exchange.claims.get(usize::from(device.plan.device))?;
        let bytes = device.plan.rows.saturating_mul(n);
        let walked = u64::from(device.plan.walks).saturating_mul(bytes_of_a_walk);
        let shown = Capability {
            kind: kind_of(claim.kind)?,
            devices: 1,
            bytes_per_device: bytes,
            ops_per_second: per_second(bytes.saturating_mul(ops_of_a_byte), measured.fill_ns),
            walk_bytes_per_second: per_second(walked, measured.walk_ns),
        };
        Some(DeviceShown { device: device.plan.device, name: claim.name.clone(), shown })
    });
    devices.collect()
}

/// What a machine has shown: every figure of the device that showed least of it, which all of its devices have shown.
/// Nothing where the devices are of a kind that no class is for.
#[must_use]
pub fn capability(transcript: &Transcript) -> Option<Capability> {
    let shown = shown_by_device(transcript);
    let count = u32::try_from(shown.len()).unwrap_or(u32::MAX);
    let least = shown.into_iter().map(|device| device.shown).reduce(|a, b| Capability {
        bytes_per_device: a.bytes_per_device.min(b.bytes_per_device),
        ops_per_second: a.ops_per_second.min(b.ops_per_second),
        walk_bytes_per_second: a.walk_bytes_per_second.min(b.walk_bytes_per_second),
        ..a
    });
    least.map(|least| Capability { devices: count, ..least })
}

/// Where a device's name disagrees with what it has shown, for its provider.
#[must_use]
pub fn name_mismatches(
    transcript: &Transcript,
    catalogue: &Catalogue,
) -> Vec<(DeviceShown, NameFinding)> {
    let judged = shown_by_device(transcript).into_iter().map(|device| {
        let finding = catalogue.judge_name(&device.name, &device.shown);
        (device, finding)
    });
    // A processor has no model in the catalogue, and its name buys nothing.
    judged
        .filter(|(device, finding)| device.shown.kind == DeviceKind::Gpu && finding.is_mismatch())
        .collect()
}

const fn kind_of(kind: nicompute_proof::DeviceKind) -> Option<DeviceKind> {
    match kind {
        nicompute_proof::DeviceKind::Cpu => Some(DeviceKind::Cpu),
        nicompute_proof::DeviceKind::Cuda => Some(DeviceKind::Gpu),
        nicompute_proof::DeviceKind::Disk => None,
    }
}

fn per_second(amount: u64, ns: u64) -> u64 {
    let scaled = u128::from(amount).saturating_mul(1_000_000_000);
    let rate = scaled.checked_div(u128::from(ns)).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
