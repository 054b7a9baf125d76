//! More than ten thousand damaged transcripts and frames, from seeds: each is refused with its reason, without a panic, and
//! without an allocation above its bound. A test binary of its own, because its allocator counts.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod allocations;
mod frames;
mod mutation;
mod swollen;
mod transcripts;

use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{LeaseId, UnixMillis};
use nicompute_proof::{
    Binding, DeviceKind, EntropyError, Limits, ParamsRecord, ProofParams, SessionConfig,
    VerifierSession,
};
use nicompute_prover::{CpuDevice, Device};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// What a prover under test says it has: little, so that no verifier can make it take more.
const MEMORY_BYTES: u64 = 2 << 20;

/// From a seed, since a mnemonic's derivation takes as long as a whole session here.
fn validator() -> Keypair {
    Keypair::from_seed([1; 32], Scheme::Sr25519)
}

/// Bytes of a line leg; the frames of that are many, so only a part of the corpus has it.
const NET_BYTES: u64 = 131_072;

/// A session of milliseconds with two devices and their legs, and with so many bytes both ways.
fn session(net_bytes: u64) -> VerifierSession {
    let record = ParamsRecord {
        n: 128,
        rows: 512,
        panel_rows: 128,
        sampled_rows: 8,
        walks: 64,
        reads: 4,
        sampled_walks: 2,
        link_walks: 64,
        copy_rows: 64,
        net_down_bytes: net_bytes,
        net_up_bytes: net_bytes,
        ..ProofParams::small().record()
    };
    let provider = Keypair::from_seed([2; 32], Scheme::Sr25519).hotkey();
    let lease = LeaseId::from_random_bytes([7; 16]);
    let config = SessionConfig {
        params: ProofParams::try_from(record).unwrap(),
        kind: DeviceKind::Cpu,
        binding: Binding::new(&validator().hotkey(), &provider, &lease, (1234, [0xB1; 32])),
        limits: Limits::small(),
        set_up_at: UnixMillis(1_700_000_000_000),
    };
    let mut next = 0;
    let entropy = move || {
        next += 1;
        Ok::<_, EntropyError>([next; 32])
    };
    VerifierSession::new(config, Box::new(entropy), 0)
}

fn devices() -> Vec<Box<dyn Device>> {
    ["cpu-0", "cpu-1"]
        .map(|id| -> Box<dyn Device> {
            Box::new(CpuDevice::new(id, "honest processor", MEMORY_BYTES, 1))
        })
        .into()
}
