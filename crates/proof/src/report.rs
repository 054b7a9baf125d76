//! What a checked transcript says, with the proven apart from what is only the signer's word.

use nicompute_market::{Hotkey, UnixMillis};

use crate::binding::DeviceClaim;
use crate::exchange::Verdict;
use crate::legs::Legs;
use crate::measured::{Measured, Times};
use crate::params::ParamsRecord;
use crate::transcript::SignedTranscript;

/// What no recomputation can show, in the order of how much hangs on it.
pub const SIGNERS_WORD: [&str; 4] = [
    "the times, and with them every rate: they were read on the signer's clock",
    "that the answers came from this provider's machine in this lease",
    "that the nonces were random, and that the block was finalised and recent",
    "the names of the devices: they are the machine's claims",
];

/// A transcript that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The validator that signed.
    pub signer: Hotkey,
    /// The provider that was tested.
    pub provider: Hotkey,
    /// The lease in which the prover ran.
    pub lease: [u8; 16],
    /// The block that the session was mixed with.
    pub block_number: u64,
    /// That block's hash.
    pub block_hash: [u8; 32],
    /// The sizes.
    pub params: ParamsRecord,
    /// The verdict, computed again.
    pub verdict: Verdict,
    /// The bytes and the rates, computed again from sizes and times. The rates rest on the signer's clock.
    pub measured: Measured,
    /// Rows and walks that were computed again, over all devices, those of the legs with them.
    pub sampled_rows: u64,
    /// See `sampled_rows`.
    pub sampled_walks: u64,
    /// What became of the legs; their bytes and rates are in `measured`.
    pub legs: Legs,
    /// The signer's word: when the session was set up.
    pub set_up_at: UnixMillis,
    /// The signer's word: how long each stage took.
    pub times: Times,
    /// The machine's claims about the devices that were tested.
    pub claims: Vec<DeviceClaim>,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
}

impl Report {
    pub(crate) fn new(signed: &SignedTranscript) -> Self {
        let transcript = signed.transcript();
        let exchange = &transcript.exchange;
        let tested = |device: u16| exchange.claims.get(usize::from(device)).cloned();
        let count = |of: fn(&crate::exchange::DeviceExchange) -> usize| {
            exchange.devices.iter().map(|device| of(device) as u64).fold(0, u64::saturating_add)
        };
        Self {
            signer: transcript.validator(),
            provider: Hotkey::from_bytes(exchange.binding.provider),
            lease: exchange.binding.lease,
            block_number: exchange.binding.block_number,
            block_hash: exchange.binding.block_hash,
            params: exchange.params,
            verdict: transcript.verdict,
            measured: transcript.measured,
            sampled_rows: count(|device| device.rows.len().saturating_add(device.copies.len())),
            sampled_walks: count(|device| device.walks.len().saturating_add(device.links.len())),
            legs: exchange.legs.clone(),
            set_up_at: UnixMillis(transcript.times.set_up_at_unix_ms),
            times: transcript.times.clone(),
            claims: exchange.devices.iter().filter_map(|one| tested(one.plan.device)).collect(),
            digest: signed.digest(),
        }
    }
}
