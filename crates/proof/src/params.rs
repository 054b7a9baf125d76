//! The sizes of one proof session, checked once so that the rest of the crate may trust them.

use serde::{Deserialize, Serialize};

use crate::legs::NET_CHUNK_LEN;

/// The version of every byte format in this crate; a change of any of them is a new number.
pub const PROOF_VERSION: u16 = 2;
/// The largest absolute value of an operand: nine bits with a sign, exact in bf16, fp16, i16 and f32.
pub const OPERAND_MAX: i16 = 255;
/// The walk results that share one leaf of the walk tree.
pub const WALK_GROUP: u32 = 64;

const N_MIN: u32 = 128;
/// Above this width a sum of products of random operands could leave the exact range of fp32 (`docs/proof.md`, 2).
const N_MAX: u32 = 4096;
/// Widths are whole vectors of every kernel, on CPUs and tensor cores.
const N_STEP: u32 = 64;
/// One step would leave only one product between the seed and the plot.
const STEPS_MIN: u16 = 2;
const STEPS_MAX: u16 = 16;
const PANEL_ROWS_MIN: u32 = 64;
const PANEL_ROWS_MAX: u32 = 1 << 20;
/// 4 TiB of plot in one device: far above any device, and far below an overflow of the operation count.
const PLOT_BYTES_MAX: u64 = 1 << 42;
/// One progress frame for each panel, so this is also the limit on progress frames of a device.
pub(crate) const PANELS_LEN_MAX: usize = 4096;
const PANELS_MAX: u64 = PANELS_LEN_MAX as u64;
/// The longest path: that of the tree over the most rows. Trees over walks are smaller.
pub(crate) const PATH_LEN_MAX: usize = (PANELS_MAX * PANEL_ROWS_MAX as u64).ilog2() as usize;
const SAMPLED_ROWS_MAX: u16 = 256;
/// The same, as a length of what is opened.
pub(crate) const SAMPLED_ROWS_LEN_MAX: usize = SAMPLED_ROWS_MAX as usize;
const WALKS_MAX: u32 = 1 << 26;
const READS_MAX: u16 = 256;
/// Walks that every profile has replayed: skipping a tenth of them passes eight times in a hundred.
const SAMPLED_WALKS: u16 = 24;
const SAMPLED_WALKS_MAX: u16 = 64;
/// The same, as a length of what is opened.
pub(crate) const SAMPLED_WALKS_LEN_MAX: usize = SAMPLED_WALKS_MAX as usize;
/// The same as [`WALK_GROUP`], as a length.
pub(crate) const WALK_GROUP_LEN: usize = WALK_GROUP as usize;
/// 256 MiB in one direction: some seconds of a fast line, half a second of whoever checks the digest again.
const NET_BYTES_MAX: u64 = 1 << 28;
/// Products that a check of one device may cost: a few seconds of one core, three times what the widest profile needs.
/// Without it, a transcript of a stranger could keep a checker busy for days.
const CHECK_PRODUCTS_MAX: u64 = 1 << 36;
/// Products that a check of all devices may cost: nine GPUs of the widest profile with every leg, eighteen without.
const CHECK_PRODUCTS_IN_ALL_MAX: u64 = 1 << 39;
/// Twice the mean of an operand's square, exactly: 2·Σv²/512 over -255..=255.
const OPERAND_SQUARE_MEAN_TWICE: u64 = 43_435;
/// The square of the distance, in standard deviations, that a sum must keep from 2^24.
const SIGMA_SQUARED_MIN: u64 = 144;

/// The sizes of a session as they stand in frames and transcripts: any numbers at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParamsRecord {
    /// [`PROOF_VERSION`].
    pub version: u16,
    /// Width of the matrix and bytes of a plot row.
    pub n: u32,
    /// Products in the chain of a row.
    pub steps: u16,
    /// The most rows that a device is asked for; less where its memory is short.
    pub rows: u64,
    /// Rows of a panel, for each of which the prover reports a subtree root.
    pub panel_rows: u32,
    /// Rows that the verifier recomputes, per device.
    pub sampled_rows: u16,
    /// Walks per device.
    pub walks: u32,
    /// Dependent reads of a walk.
    pub reads: u16,
    /// Walks that the verifier replays, per device, and again as many of LINK.
    pub sampled_walks: u16,
    /// Walks of each device over the plot of the next one; 0 where that is not asked. Fewer than over its own, for the way
    /// there may be a hundred times narrower.
    pub link_walks: u32,
    /// The most rows that each device brings to the host; 0 where that is not asked.
    pub copy_rows: u64,
    /// Bytes that the verifier sends to the prover; 0 where that is not asked.
    pub net_down_bytes: u64,
    /// Bytes that the prover sends to the verifier; 0 where that is not asked.
    pub net_up_bytes: u64,
}

/// The sizes of a session, within their bounds and with exact arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProofParams {
    record: ParamsRecord,
}

/// Why numbers are not the sizes of a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// A format that this program does not know.
    #[error("proof version {0}, this program speaks {PROOF_VERSION}")]
    Version(u16),
    /// A number outside its bounds.
    #[error("{field} is {value}, expected {expected}")]
    Bound {
        /// The field's name.
        field: &'static str,
        /// What stood there.
        value: u64,
        /// What may stand there.
        expected: &'static str,
    },
    /// Sums of products could be rounded by a tensor core.
    #[error("a width of {0} is not exact in fp32")]
    Inexact(u32),
}

/// How it is known that fp32 accumulators hold every partial sum exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exactness {
    /// Even the largest operands stay below 2^24.
    WorstCase,
    /// Operands drawn by the verifier's keys stay below 2^24 with this distance in standard deviations.
    Statistical {
        /// The square of the distance, rounded down.
        sigma_squared: u64,
    },
}

impl ProofParams {
    /// The local market's profile: 64 MiB of plot, checked in milliseconds.
    ///
    /// 32,768 walks of 32 reads read 256 MiB, four times the plot, in about a tenth of a second.
    #[must_use]
    pub const fn small() -> Self {
        Self {
            record: ParamsRecord {
                version: PROOF_VERSION,
                n: 256,
                steps: 2,
                rows: 262_144,
                panel_rows: 16_384,
                sampled_rows: 64,
                walks: 32_768,
                reads: 32,
                sampled_walks: SAMPLED_WALKS,
                link_walks: 0,
                copy_rows: 0,
                net_down_bytes: 0,
                net_up_bytes: 0,
            },
        }
    }

    /// The same sizes with another number of rows, rounded down to whole panels.
    ///
    /// # Errors
    /// Where no panel is left, or the plot is too large.
    pub fn with_rows(self, rows: u64) -> Result<Self, ParamsError> {
        let panel = u64::from(self.record.panel_rows);
        let rows = rows.checked_div(panel).unwrap_or(0).saturating_mul(panel);
        Self::try_from(ParamsRecord { rows, ..self.record })
    }

    /// The numbers for a frame or a transcript.
    #[must_use]
    pub const fn record(&self) -> ParamsRecord {
        self.record
    }

    /// Width of the matrix, which is also the bytes of a plot row.
    #[must_use]
    pub const fn n(&self) -> usize {
        self.record.n as usize
    }

    /// Products in the chain of a row.
    #[must_use]
    pub const fn steps(&self) -> u16 {
        self.record.steps
    }

    /// The most rows that a device is asked for.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.record.rows
    }

    /// Rows of a panel, a power of two.
    #[must_use]
    pub const fn panel_rows(&self) -> u32 {
        self.record.panel_rows
    }

    /// Rows that the verifier recomputes, per device.
    #[must_use]
    pub const fn sampled_rows(&self) -> usize {
        self.record.sampled_rows as usize
    }

    /// Walks per device, a multiple of [`WALK_GROUP`].
    #[must_use]
    pub const fn walks(&self) -> u32 {
        self.record.walks
    }

    /// Dependent reads of a walk.
    #[must_use]
    pub const fn reads(&self) -> u16 {
        self.record.reads
    }

    /// Walks that the verifier replays, per device.
    #[must_use]
    pub const fn sampled_walks(&self) -> usize {
        self.record.sampled_walks as usize
    }

    /// Whether every device also walks over the plot of the next one.
    #[must_use]
    pub const fn link(&self) -> bool {
        self.record.link_walks > 0
    }

    /// Walks of each device over the plot of the next one; 0 where that is not asked.
    #[must_use]
    pub const fn link_walks(&self) -> u32 {
        self.record.link_walks
    }

    /// The same sizes without LINK, for a machine with one device.
    #[must_use]
    pub const fn without_link(self) -> Self {
        Self { record: ParamsRecord { link_walks: 0, ..self.record } }
    }

    /// The same sizes without the legs that are sampled, LINK and COPY, for a machine with more devices than can be
    /// checked with them.
    #[must_use]
    pub const fn without_sampled_legs(self) -> Self {
        Self { record: ParamsRecord { link_walks: 0, copy_rows: 0, ..self.record } }
    }

    /// The most rows that each device brings to the host; 0 where that is not asked.
    #[must_use]
    pub const fn copy_rows(&self) -> u64 {
        self.record.copy_rows
    }

    /// The rows that a device with this many brings to the host.
    #[must_use]
    pub fn copied_rows(&self, plan_rows: u64) -> u64 {
        self.record.copy_rows.min(plan_rows)
    }

    /// Bytes that the verifier sends to the prover; 0 where that is not asked.
    #[must_use]
    pub const fn net_down_bytes(&self) -> u64 {
        self.record.net_down_bytes
    }

    /// Bytes that the prover sends to the verifier; 0 where that is not asked.
    #[must_use]
    pub const fn net_up_bytes(&self) -> u64 {
        self.record.net_up_bytes
    }

    /// Whether a device may be given this many rows: whole panels, enough to sample from, no more than asked for.
    #[must_use]
    pub fn allows_rows(&self, rows: u64) -> bool {
        rows <= self.rows()
            && rows.is_multiple_of(u64::from(self.panel_rows()))
            && rows >= u64::from(self.record.sampled_rows).saturating_mul(2)
    }

    /// Whether a checker takes it upon itself to recompute the samples of so many devices.
    #[must_use]
    pub fn allows_devices(&self, count: usize) -> bool {
        check_products(&self.record).saturating_mul(count as u64) <= CHECK_PRODUCTS_IN_ALL_MAX
    }

    /// The bytes of the fixed layout that is hashed into the session key.
    #[must_use]
    pub fn key_material(&self) -> Vec<u8> {
        let record = &self.record;
        let mut bytes = Vec::with_capacity(62);
        bytes.extend_from_slice(&record.version.to_le_bytes());
        bytes.extend_from_slice(&record.n.to_le_bytes());
        bytes.extend_from_slice(&record.steps.to_le_bytes());
        bytes.extend_from_slice(&record.rows.to_le_bytes());
        bytes.extend_from_slice(&record.panel_rows.to_le_bytes());
        bytes.extend_from_slice(&record.sampled_rows.to_le_bytes());
        bytes.extend_from_slice(&record.walks.to_le_bytes());
        bytes.extend_from_slice(&record.reads.to_le_bytes());
        bytes.extend_from_slice(&record.sampled_walks.to_le_bytes());
        bytes.extend_from_slice(&record.link_walks.to_le_bytes());
        bytes.extend_from_slice(&record.copy_rows.to_le_bytes());
        bytes.extend_from_slice(&record.net_down_bytes.to_le_bytes());
        bytes.extend_from_slice(&record.net_up_bytes.to_le_bytes());
        bytes
    }

    /// How it is known that every product of the chain is exact on tensor cores.
    ///
    /// # Errors
    /// Where it is not.
    pub fn exactness(&self) -> Result<Exactness, ParamsError> {
        exactness(self.record.n)
    }
}

impl TryFrom<ParamsRecord> for ProofParams {
    type Error = ParamsError;

    fn try_from(record: ParamsRecord) -> Result<Self, Self::Error> {
        if record.version != PROOF_VERSION {
            return Err(ParamsError::Version(record.version));
        }
        let n_fits = (N_MIN..=N_MAX).contains(&record.n) && record.n.is_multiple_of(N_STEP);
        if !n_fits {
            return Err(bound("n", record.n, "a multiple of 64 from 128 to 4096"));
        }
        exactness(record.n)?;
        let steps_fit = (STEPS_MIN..=STEPS_MAX).contains(&record.steps);
        if !steps_fit {
            return Err(bound("steps", record.steps, "2 to 16"));
        }
        let panel_fits = (PANEL_ROWS_MIN..=PANEL_ROWS_MAX).contains(&record.panel_rows)
            && record.panel_rows.is_power_of_two();
        if !panel_fits {
            return Err(bound("panel_rows", record.panel_rows, "a power of two from 64 to 2^20"));
        }
        let panel = u64::from(record.panel_rows);
        let rows_fit = record.rows >= panel
            && record.rows.is_multiple_of(panel)
            && record.rows.checked_div(panel).is_some_and(|panels| panels <= PANELS_MAX)
            && record.rows.saturating_mul(u64::from(record.n)) <= PLOT_BYTES_MAX;
        if !rows_fit {
            return Err(bound("rows", record.rows, "1 to 4096 whole panels, at most 4 TiB"));
        }
        let sampled = u64::from(record.sampled_rows);
        let sampled_fit = (1..=SAMPLED_ROWS_MAX).contains(&record.sampled_rows)
            && sampled.saturating_mul(2) <= record.rows;
        if !sampled_fit {
            return Err(bound("sampled_rows", sampled, "1 to 256, at most half of the rows"));
        }
        let walks_fit =
            (1..=WALKS_MAX).contains(&record.walks) && record.walks.is_multiple_of(WALK_GROUP);
        if !walks_fit {
            return Err(bound("walks", record.walks, "a multiple of 64 up to 2^26"));
        }
        let reads_fit = (1..=READS_MAX).contains(&record.reads);
        if !reads_fit {
            return Err(bound("reads", record.reads, "1 to 256"));
        }
        let replayed = u32::from(record.sampled_walks);
        let replayed_fit = (1..=SAMPLED_WALKS_MAX).contains(&record.sampled_walks)
            && replayed.saturating_mul(2) <= record.walks;
        if !replayed_fit {
            return Err(bound("sampled_walks", replayed, "1 to 64, at most half of the walks"));
        }
        check_legs(&record)?;
        let products = check_products(&record);
        if products > CHECK_PRODUCTS_MAX {
            let expected = "at most 2^36 in sampled rows and walks together";
            return Err(bound("products to check", products, expected));
        }
        Ok(Self { record })
    }
}

fn bound(field: &'static str, value: impl Into<u64>, expected: &'static str) -> ParamsError {
    ParamsError::Bound { field, value: value.into(), expected }
}

/// The sizes of the legs that follow the walks.
fn check_legs(record: &ParamsRecord) -> Result<(), ParamsError> {
    let sampled = u64::from(record.sampled_rows).saturating_mul(2);
    let replayed = u32::from(record.sampled_walks).saturating_mul(2);
    let linked = record.link_walks;
    let linked_fit =
        linked.is_multiple_of(WALK_GROUP) && (replayed..=record.walks).contains(&linked);
    if linked != 0 && !linked_fit {
        let expected = "0, or a multiple of 64 from twice the sampled walks to all walks";
        return Err(bound("link_walks", linked, expected));
    }
    let copied = record.copy_rows;
    if copied != 0 && !(sampled..=record.rows).contains(&copied) {
        let expected = "0, or from twice the sampled rows to all rows";
        return Err(bound("copy_rows", copied, expected));
    }
    let nets = [("net_down_bytes", record.net_down_bytes), ("net_up_bytes", record.net_up_bytes)];
    for (field, bytes) in nets {
        if bytes > NET_BYTES_MAX || !bytes.is_multiple_of(NET_CHUNK_LEN as u64) {
            return Err(bound(field, bytes, "a multiple of 131,072 up to 2^28"));
        }
    }
    Ok(())
}

/// The products that recomputing one device's sample costs.
fn check_products(record: &ParamsRecord) -> u64 {
    let n = u64::from(record.n);
    let read = u64::from(record.sampled_walks).saturating_mul(u64::from(record.reads));
    let linked = if record.link_walks == 0 { 0 } else { read };
    let copied = if record.copy_rows == 0 { 0 } else { u64::from(record.sampled_rows) };
    u64::from(record.sampled_rows)
        .saturating_add(copied)
        .saturating_add(linked)
        .saturating_add(read)
        .saturating_mul(u64::from(record.steps))
        .saturating_mul(n.saturating_mul(n))
}

/// The rule of `docs/proof.md`, 2: worst case below 2^24, or twelve standard deviations of room.
fn exactness(n: u32) -> Result<Exactness, ParamsError> {
    let worst = u64::from(n).saturating_mul(255 * 255);
    if worst < 1 << 24 {
        return Ok(Exactness::WorstCase);
    }
    // The variance of a sum is n·(mean square)², and the mean square is half of the constant.
    let variance_times_four =
        u64::from(n).saturating_mul(OPERAND_SQUARE_MEAN_TWICE * OPERAND_SQUARE_MEAN_TWICE);
    let sigma_squared = (1_u64 << 50).checked_div(variance_times_four).unwrap_or(0);
    if sigma_squared < SIGMA_SQUARED_MIN {
        return Err(ParamsError::Inexact(n));
    }
    Ok(Exactness::Statistical { sigma_squared })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A profile that its own bounds refuse could never be proven by anybody.
    #[test]
    fn the_small_profile_is_within_its_bounds() {
        let widest = ParamsRecord {
            n: 4096,
            steps: 4,
            rows: 32 << 20,
            panel_rows: 65_536,
            ..ProofParams::small().record()
        };
        assert!(ProofParams::try_from(widest).is_ok(), "the GPU profile of the specification");
        let small = ProofParams::small();
        assert_eq!(ProofParams::try_from(small.record()), Ok(small));
        assert_eq!(small.exactness(), Ok(Exactness::WorstCase));
        assert_eq!(small.with_rows(100_000).unwrap().rows(), 98_304);
        assert!(small.with_rows(16_383).is_err());
    }

    /// A width at which fp32 rounds would refuse honest GPUs; one that is exact must be allowed.
    #[test]
    fn exactness_ends_after_4096() {
        assert_eq!(exactness(258), Ok(Exactness::WorstCase));
        assert_eq!(exactness(4096), Ok(Exactness::Statistical { sigma_squared: 145 }));
        assert_eq!(exactness(4160), Err(ParamsError::Inexact(4160)));
        let mean_twice: i32 = (-255..=255).map(|v: i32| 2 * v * v).sum::<i32>() / 512;
        assert_eq!(u64::try_from(mean_twice).unwrap(), OPERAND_SQUARE_MEAN_TWICE);
    }

    /// A machine of eight GPUs must be checkable with every leg, and a stranger's transcript of many devices, each within
    /// its own limit, must not keep a checker busy for minutes.
    #[test]
    fn the_work_of_a_check_is_limited_over_all_devices() {
        let gpu = ParamsRecord {
            n: 4096,
            steps: 4,
            rows: 32 << 20,
            panel_rows: 65_536,
            walks: WALKS_MAX,
            reads: 16,
            link_walks: WALKS_MAX / 16,
            copy_rows: 1 << 20,
            ..ProofParams::small().record()
        };
        let gpu = ProofParams::try_from(gpu).unwrap();
        assert!(gpu.allows_devices(8) && gpu.allows_devices(9) && !gpu.allows_devices(10));
        let bare = gpu.without_sampled_legs();
        assert!(bare.allows_devices(16) && bare.allows_devices(18) && !bare.allows_devices(19));
        assert!(ProofParams::small().allows_devices(crate::binding::DEVICES_MAX));
    }

    /// A bound that is not enforced lets a frame ask for unbounded work or memory.
    #[test]
    fn each_bound_is_enforced_at_its_limit() {
        let small = ProofParams::small().record();
        let cases: [(&str, ParamsRecord); 30] = [
            ("n", ParamsRecord { n: 64, ..small }),
            ("n", ParamsRecord { n: 300, ..small }),
            ("n", ParamsRecord { n: 4160, ..small }),
            ("steps", ParamsRecord { steps: 1, ..small }),
            ("steps", ParamsRecord { steps: 17, ..small }),
            ("panel_rows", ParamsRecord { panel_rows: 32, ..small }),
            ("panel_rows", ParamsRecord { panel_rows: 96, ..small }),
            ("panel_rows", ParamsRecord { panel_rows: 1 << 21, ..small }),
            ("rows", ParamsRecord { rows: 0, ..small }),
            ("rows", ParamsRecord { rows: 16_385, ..small }),
            ("rows", ParamsRecord { rows: 16_384 * 4097, ..small }),
            ("rows", ParamsRecord { rows: 1 << 31, panel_rows: 1 << 20, n: 4096, ..small }),
            ("sampled_rows", ParamsRecord { sampled_rows: 0, ..small }),
            ("sampled_rows", ParamsRecord { sampled_rows: 257, ..small }),
            ("sampled_rows", ParamsRecord { sampled_rows: 64, rows: 64, panel_rows: 64, ..small }),
            ("walks", ParamsRecord { walks: 0, ..small }),
            ("walks", ParamsRecord { walks: 65, ..small }),
            ("reads", ParamsRecord { reads: 257, ..small }),
            ("sampled_walks", ParamsRecord { sampled_walks: 65, ..small }),
            ("sampled_walks", ParamsRecord { sampled_walks: 33, walks: 64, ..small }),
            ("link_walks", ParamsRecord { link_walks: 96, ..small }),
            ("link_walks", ParamsRecord { link_walks: 32_768 + 64, ..small }),
            ("link_walks", ParamsRecord { link_walks: 64, sampled_walks: 33, ..small }),
            ("copy_rows", ParamsRecord { copy_rows: 127, ..small }),
            ("copy_rows", ParamsRecord { copy_rows: 262_145, ..small }),
            ("net_down_bytes", ParamsRecord { net_down_bytes: 1, ..small }),
            ("net_down_bytes", ParamsRecord { net_down_bytes: (1 << 28) + (1 << 17), ..small }),
            ("net_up_bytes", ParamsRecord { net_up_bytes: (1 << 17) + 1, ..small }),
            ("products to check", ParamsRecord { n: 4096, reads: 125, link_walks: 64, ..small }),
            ("products to check", ParamsRecord { n: 4096, steps: 16, ..small }),
        ];
        for (name, record) in cases {
            let refused = ProofParams::try_from(record).unwrap_err();
            assert!(
                matches!(refused, ParamsError::Bound { field, .. } if field == name),
                "{name}: {refused}"
            );
        }
        let legs = ParamsRecord {
            link_walks: 64,
            copy_rows: 128,
            net_down_bytes: 1 << 28,
            net_up_bytes: 1 << 17,
            ..small
        };
        assert!(ProofParams::try_from(legs).is_ok());
        let other = ParamsRecord { version: 1, ..small };
        assert_eq!(ProofParams::try_from(other), Err(ParamsError::Version(1)));
    }
}
