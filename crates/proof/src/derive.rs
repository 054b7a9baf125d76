//! Everything random in a session, derived from the verifier's nonces and from what the session is bound to.
//!
//! One tree of BLAKE3 `derive_key` calls, each with its own context, so that no key serves two purposes and none
//! exists before the nonce that it depends on.

use std::collections::BTreeSet;

use crate::binding::{Binding, DeviceClaim, DevicePlan, Nonce};
use crate::legs::Answered;
use crate::operand::{key_stream, operand_row};
use crate::params::{PROOF_VERSION, ProofParams};
use crate::tree::TreeKeys;

/// The context strings, in the order in which keys come to exist.
pub mod context {
    /// N1 and the binding to the session key.
    pub const SESSION: &str = "nicompute 2026 proof/2 session";
    /// The session key to the key of the matrix B.
    pub const MATRIX: &str = "nicompute 2026 proof/2 matrix";
    /// The session key and a device to the device key.
    pub const DEVICE: &str = "nicompute 2026 proof/2 device";
    /// The device key to the key of its first operands.
    pub const OPERANDS: &str = "nicompute 2026 proof/2 operands";
    /// The device key to the key of its row leaves.
    pub const ROW_LEAF: &str = "nicompute 2026 proof/2 row leaf";
    /// The device key to the key of its row tree's nodes.
    pub const ROW_NODE: &str = "nicompute 2026 proof/2 row node";
    /// The device key to the key of its walk leaves.
    pub const WALK_LEAF: &str = "nicompute 2026 proof/2 walk leaf";
    /// The device key to the key of its walk tree's nodes.
    pub const WALK_NODE: &str = "nicompute 2026 proof/2 walk node";
    /// The device key and N2 to the key of its walks.
    pub const WALK: &str = "nicompute 2026 proof/2 walk";
    /// The device key and NL to the key of its walks over the next device's plot.
    pub const LINK: &str = "nicompute 2026 proof/2 link";
    /// The device key to the key of its link leaves.
    pub const LINK_LEAF: &str = "nicompute 2026 proof/2 link leaf";
    /// The device key to the key of its link tree's nodes.
    pub const LINK_NODE: &str = "nicompute 2026 proof/2 link node";
    /// The device key and NC to the key of the rows that it brings to the host.
    pub const COPY: &str = "nicompute 2026 proof/2 copy";
    /// The copy key to the key of the copied rows' leaves.
    pub const COPY_LEAF: &str = "nicompute 2026 proof/2 copy leaf";
    /// The copy key to the key of the copied rows' nodes.
    pub const COPY_NODE: &str = "nicompute 2026 proof/2 copy node";
    /// The session key and ND to the key of the bytes to the prover.
    pub const NET_DOWN: &str = "nicompute 2026 proof/2 net down";
    /// The session key and NU to the key of the bytes from the prover.
    pub const NET_UP: &str = "nicompute 2026 proof/2 net up";
    /// The device key and N3 to the key that samples rows and walks.
    pub const SAMPLE: &str = "nicompute 2026 proof/2 sample";
}

/// The keys of one session, known to both sides from START on.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    session: [u8; 32],
    matrix: [u8; 32],
}

/// The keys of one device in one session.
#[derive(Clone, Debug)]
pub struct DeviceKeys {
    device: [u8; 32],
    operands: [u8; 32],
    rows: TreeKeys,
    walks: TreeKeys,
    links: TreeKeys,
}

/// What the verifier asks one device to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Distinct rows, ascending.
    pub rows: Vec<u64>,
    /// Distinct walks, ascending.
    pub walks: Vec<u32>,
    /// Distinct walks over the next device's plot, ascending; none where LINK was not answered.
    pub links: Vec<u32>,
    /// Distinct places in the run of copied rows, ascending; none where COPY was not answered.
    pub copies: Vec<u64>,
}

impl SessionKeys {
    /// Derives the session's keys from the first nonce and everything that the session is bound to.
    #[must_use]
    pub fn derive(n1: &Nonce, binding: &Binding, params: &ProofParams) -> Self {
        let session = blake3::Hasher::new_derive_key(context::SESSION)
            .update(&PROOF_VERSION.to_le_bytes())
            .update(&n1.0)
            .update(&binding.block_number.to_le_bytes())
            .update(&binding.block_hash)
            .update(&binding.validator)
            .update(&binding.provider)
            .update(&binding.lease)
            .update(&params.key_material())
            .finalize();
        let session = *session.as_bytes();
        Self { session, matrix: blake3::derive_key(context::MATRIX, &session) }
    }

    /// The session key itself.
    #[must_use]
    pub const fn session(&self) -> &[u8; 32] {
        &self.session
    }

    /// The key of the matrix.
    #[must_use]
    pub const fn matrix(&self) -> &[u8; 32] {
        &self.matrix
    }

    /// The key of the bytes that the verifier sends, which the prover never learns before it has them.
    #[must_use]
    pub fn net_down(&self, nonce: &Nonce) -> [u8; 32] {
        with_nonce(context::NET_DOWN, &self.session, nonce)
    }

    /// The key of the bytes that the prover sends, which it does not know before NU.
    #[must_use]
    pub fn net_up(&self, nonce: &Nonce) -> [u8; 32] {
        with_nonce(context::NET_UP, &self.session, nonce)
    }

    /// The matrix B, row after row; all devices of the session share it.
    #[must_use]
    pub fn matrix_rows(&self, n: usize) -> Vec<i16> {
        let mut scratch = vec![0; n.saturating_mul(2)];
        let mut rows = vec![0; n.saturating_mul(n)];
        for (index, row) in (0_u64..).zip(rows.chunks_exact_mut(n)) {
            operand_row(&self.matrix, index, &mut scratch, row);
        }
        rows
    }

    /// The keys of one device: of its place in the claims, its kind and id, and its share of the work.
    #[must_use]
    pub fn device(&self, claim: &DeviceClaim, plan: &DevicePlan) -> DeviceKeys {
        let id_len = u8::try_from(claim.id.len()).unwrap_or(u8::MAX);
        let device = blake3::Hasher::new_derive_key(context::DEVICE)
            .update(&self.session)
            .update(&plan.device.to_le_bytes())
            .update(&[claim.kind.number(), id_len])
            .update(claim.id.as_bytes())
            .update(&plan.rows.to_le_bytes())
            .update(&plan.walks.to_le_bytes())
            .finalize();
        DeviceKeys::from_device_key(*device.as_bytes())
    }
}

impl DeviceKeys {
    pub(crate) fn from_device_key(device: [u8; 32]) -> Self {
        let key = |context| blake3::derive_key(context, &device);
        Self {
            operands: key(context::OPERANDS),
            rows: TreeKeys { leaf: key(context::ROW_LEAF), node: key(context::ROW_NODE) },
            walks: TreeKeys { leaf: key(context::WALK_LEAF), node: key(context::WALK_NODE) },
            links: TreeKeys { leaf: key(context::LINK_LEAF), node: key(context::LINK_NODE) },
            device,
        }
    }

    /// The device key itself.
    #[must_use]
    pub const fn device(&self) -> &[u8; 32] {
        &self.device
    }

    /// The key of the first operands of every row.
    #[must_use]
    pub const fn operands(&self) -> &[u8; 32] {
        &self.operands
    }

    /// The keys of the tree over rows.
    #[must_use]
    pub const fn rows(&self) -> &TreeKeys {
        &self.rows
    }

    /// The keys of the tree over walk results.
    #[must_use]
    pub const fn walks(&self) -> &TreeKeys {
        &self.walks
    }

    /// The keys of the tree over results of walks on the next device's plot.
    #[must_use]
    pub const fn links(&self) -> &TreeKeys {
        &self.links
    }

    /// The key of this device's walks, which no one knows before N2.
    #[must_use]
    pub fn walk_key(&self, n2: &Nonce) -> [u8; 32] {
        with_nonce(context::WALK, &self.device, n2)
    }

    /// The key of this device's walks over the next device's plot, which no one knows before NL.
    #[must_use]
    pub fn link_key(&self, nonce: &Nonce) -> [u8; 32] {
        with_nonce(context::LINK, &self.device, nonce)
    }

    /// The key of the rows that this device brings to the host, which no one knows before NC.
    #[must_use]
    pub fn copy_key(&self, nonce: &Nonce) -> [u8; 32] {
        with_nonce(context::COPY, &self.device, nonce)
    }

    /// What to open, which no one knows before N3: distinct, ascending, from one ChaCha8 stream of 8-byte draws; rows
    /// first, then walks, then those of the legs that were answered.
    #[must_use]
    pub fn sample(
        &self,
        n3: &Nonce,
        params: &ProofParams,
        plan: &DevicePlan,
        answered: Answered,
    ) -> Sample {
        let mut draws = Draws::new(with_nonce(context::SAMPLE, &self.device, n3));
        let rows = draws.distinct(params.sampled_rows(), plan.rows);
        let walks = draws.distinct(params.sampled_walks(), u64::from(plan.walks));
        let links = if answered.link { params.sampled_walks() } else { 0 };
        let links = draws.distinct(links, u64::from(params.link_walks()));
        let copies = if answered.copy { params.sampled_rows() } else { 0 };
        let copies = draws.distinct(copies, params.copied_rows(plan.rows));
        let short = |walks: BTreeSet<u64>| {
            walks.into_iter().filter_map(|walk| u32::try_from(walk).ok()).collect()
        };
        Sample {
            rows: rows.into_iter().collect(),
            walks: short(walks),
            links: short(links),
            copies: copies.into_iter().collect(),
        }
    }
}

/// A key of another key and a nonce.
fn with_nonce(context: &str, key: &[u8; 32], nonce: &Nonce) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    *hasher.update(key).update(&nonce.0).finalize().as_bytes()
}

/// A stream of 8-byte numbers, one ChaCha8 stream number for each block of eight.
#[derive(Debug)]
struct Draws {
    key: [u8; 32],
    block: u64,
    waiting: Vec<u64>,
}

impl Draws {
    const fn new(key: [u8; 32]) -> Self {
        Self { key, block: 0, waiting: Vec::new() }
    }

    fn next(&mut self) -> u64 {
        loop {
            if let Some(draw) = self.waiting.pop() {
                return draw;
            }
            let mut bytes = [0_u8; 64];
            key_stream(&self.key, self.block, &mut bytes);
            self.block = self.block.wrapping_add(1);
            self.waiting
                .extend(bytes.as_chunks::<8>().0.iter().rev().map(|b| u64::from_le_bytes(*b)));
        }
    }

    /// `count` distinct numbers below `end`; the parameters keep `count` at most half of `end`.
    fn distinct(&mut self, count: usize, end: u64) -> BTreeSet<u64> {
        let wanted = count.min(usize::try_from(end).unwrap_or(usize::MAX));
        let mut found = BTreeSet::new();
        while found.len() < wanted {
            found.insert(scale(self.next(), end));
        }
        found
    }
}

/// Maps a uniform 64-bit number to `0..end`: the high half of the product.
#[inline(always)]
#[must_use]
pub const fn scale(draw: u64, end: u64) -> u64 {
    ((draw as u128).wrapping_mul(end as u128) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamsRecord;

    /// A sample that repeats or leaves the range would check less than the profile promises.
    #[test]
    fn samples_are_distinct_and_in_range() {
        let keys = DeviceKeys::from_device_key([5; 32]);
        let params = ProofParams::small();
        for rows in [128, 16_384, 262_144] {
            let plan = DevicePlan { device: 0, rows, walks: 64 };
            let sample = keys.sample(&Nonce([9; 32]), &params, &plan, Answered::NONE);
            assert_eq!(sample.rows.len(), 64);
            assert!(sample.links.is_empty() && sample.copies.is_empty());
            assert_eq!(sample.walks.len(), 24);
            assert!(sample.rows.is_sorted_by(|a, b| a < b));
            assert!(sample.walks.is_sorted_by(|a, b| a < b));
            assert!(sample.rows.iter().all(|row| *row < rows));
            assert!(sample.walks.iter().all(|walk| *walk < 64));
            assert_ne!(sample, keys.sample(&Nonce([8; 32]), &params, &plan, Answered::NONE));
        }
    }

    /// A leg whose answers were never sampled would be believed.
    #[test]
    fn answered_legs_are_sampled() {
        let keys = DeviceKeys::from_device_key([5; 32]);
        let record =
            ParamsRecord { link_walks: 640, copy_rows: 1024, ..ProofParams::small().record() };
        let params = ProofParams::try_from(record).unwrap();
        let plan = DevicePlan { device: 0, rows: 16_384, walks: 32_768 };
        let answered = Answered { link: true, copy: true };
        let sample = keys.sample(&Nonce([9; 32]), &params, &plan, answered);
        assert_eq!((sample.links.len(), sample.copies.len()), (24, 64));
        assert!(sample.copies.iter().all(|place| *place < 1024));
        assert!(sample.links.iter().all(|walk| *walk < 640));
        let none = keys.sample(&Nonce([9; 32]), &params, &plan, Answered::NONE);
        assert_eq!((sample.rows, sample.walks), (none.rows, none.walks));
    }
}
