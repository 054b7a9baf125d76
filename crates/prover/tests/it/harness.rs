//! A verifier with fixed keys, a repeatable source of "random" bytes, and a clock of the test's.

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{LeaseId, UnixMillis};
use nicompute_proof::{
    Binding, DeviceKind, EntropyError, Limits, ParamsRecord, ProofParams, Refusal, SessionConfig,
    Transcript, VerifierSession,
};
use nicompute_prover::{CpuDevice, Device, Prover, prove_in_process};

/// A profile that takes milliseconds: 4,096 rows of 128 bytes in four panels.
pub(crate) fn tiny() -> ProofParams {
    ProofParams::try_from(ParamsRecord {
        n: 128,
        rows: 4096,
        panel_rows: 1024,
        walks: 256,
        reads: 8,
        ..ProofParams::small().record()
    })
    .unwrap()
}

pub(crate) fn validator() -> Keypair {
    Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap()
}

pub(crate) fn config(params: ProofParams) -> SessionConfig {
    let provider = Keypair::from_uri("//Bob", Scheme::Sr25519).unwrap().hotkey();
    let lease = LeaseId::from_random_bytes([7; 16]);
    SessionConfig {
        params,
        kind: DeviceKind::Cpu,
        binding: Binding::new(&validator().hotkey(), &provider, &lease, (1234, [0xB1; 32])),
        limits: Limits::small(),
        set_up_at: UnixMillis(1_700_000_000_000),
    }
}

/// A session whose three nonces are all `seed`, `seed + 1`, `seed + 2`.
pub(crate) fn session(config: SessionConfig, seed: u8) -> VerifierSession {
    let mut next = seed;
    let entropy = move || {
        next = next.wrapping_add(1);
        Ok::<_, EntropyError>([next; 32])
    };
    VerifierSession::new(config, Box::new(entropy), 0)
}

pub(crate) fn honest() -> CpuDevice {
    CpuDevice::new("cpu", "honest processor", 4 << 30, 2)
}

pub(crate) fn boxed(device: impl Device + 'static) -> Vec<Box<dyn Device>> {
    vec![Box::new(device)]
}

/// A clock that goes on by a millisecond whenever it is read.
pub(crate) fn ticking() -> impl FnMut() -> u64 {
    let mut now = 0_u64;
    move || {
        now += 1_000_000;
        now
    }
}

/// Runs a tiny session with these devices.
pub(crate) fn prove(devices: Vec<Box<dyn Device>>) -> Result<Box<Transcript>, Refusal> {
    prove_with(config(tiny()), devices)
}

pub(crate) fn prove_with(
    config: SessionConfig,
    devices: Vec<Box<dyn Device>>,
) -> Result<Box<Transcript>, Refusal> {
    prove_in_process(&mut session(config, 0), &mut Prover::new(devices), &mut ticking())
}
