//! Freivalds' check: a second way to see that products are right, which shares no code with the kernels.
//!
//! For secret random weights `s`, a product `c = a·B` is right only if `c·s = a·(B·s)`. The right side costs one pass
//! over the matrix for all rows together and then `n` multiplications a row, instead of `n²`. All of it is in the field
//! of integers modulo the prime `p = 2^61 - 1`.
//!
//! **Error bound.** Let `d = c - a·B` be different from zero in some place `j`. Sums and products of operands stay below
//! 2^32 in absolute value, so `d[j]` is different from zero modulo `p`, and of all values of `s[j]` exactly one gives
//! `d·s = 0`, whatever the other weights are. A weight is 61 random bits modulo `p`, so that no value is likelier than
//! `2 / 2^61`: a wrong row passes with probability at most `2^-60`, and any of `R` rows of `T` steps with at most
//! `R·T·2^-60`. This holds only where the weights are drawn after the products are fixed.
//!
//! The verifier does not need it: it computes whole rows again. `nicompute verify --audit` uses it against the kernels
//! themselves, with weights from the machine on which it runs.

use crate::derive::SessionKeys;
use crate::exchange::{Exchange, ExchangeError};
use crate::kernel::{BLOCK_ROWS, ChainMatrix, mix_to_operands};
use crate::operand::{key_stream, operand_row};
use crate::params::ProofParams;

/// The field's prime.
pub const FREIVALDS_PRIME: u64 = (1 << 61) - 1;

/// Weights for one matrix, and what the matrix makes of them.
#[derive(Clone)]
pub struct Audit {
    /// `s`, one for each column.
    weights: Vec<u64>,
    /// `B·s`, one for each row.
    images: Vec<u64>,
}

/// Why an audit found fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The content cannot be computed again at all.
    #[error("the content cannot be computed again")]
    Exchange(#[from] ExchangeError),
    /// This machine's kernel computed another product than the field says.
    #[error(
        "the kernel {kernel} computed a wrong product: device {device}, row {row}, step {step}"
    )]
    Product {
        /// The kernel.
        kernel: &'static str,
        /// The device, by its place in the claims.
        device: u16,
        /// The row.
        row: u64,
        /// The step, from 0.
        step: u32,
    },
}

impl Audit {
    /// Draws weights for a matrix of `n` columns, given row after row, from a seed that whoever made the products must not
    /// have known.
    #[must_use]
    pub fn new(rows: &[i16], n: usize, seed: &[u8; 32]) -> Self {
        let mut stream = vec![0; n.saturating_mul(8)];
        key_stream(seed, 0, &mut stream);
        let weight = |bytes: &[u8; 8]| {
            let word = u64::from_le_bytes(*bytes) >> 3;
            if word == FREIVALDS_PRIME { 0 } else { word }
        };
        let weights: Vec<u64> = stream.as_chunks::<8>().0.iter().map(weight).collect();
        let images = rows
            .chunks_exact(n)
            .map(|row| dot(row.iter().map(|cell| i64::from(*cell)), &weights))
            .collect();
        Self { weights, images }
    }

    /// Whether these sums are the product of these operands, as far as the error bound goes. A row of another length is
    /// none.
    #[must_use]
    pub fn check(&self, operands: &[i16], sums: &[i32]) -> bool {
        let fits = operands.len() == self.images.len() && sums.len() == self.weights.len();
        fits && dot(sums.iter().map(|sum| i64::from(*sum)), &self.weights)
            == dot(operands.iter().map(|operand| i64::from(*operand)), &self.images)
    }
}

impl Exchange {
    /// Computes the chains of all opened rows once more, step by step, and checks every product over the field. Returns
    /// the number of products.
    ///
    /// # Errors
    /// At the first product that is wrong, or where the content contradicts itself.
    pub fn audit(&self, seed: &[u8; 32]) -> Result<u64, AuditError> {
        let params = ProofParams::try_from(self.params).map_err(ExchangeError::from)?;
        let keys = SessionKeys::derive(&self.n1, &self.binding, &params);
        let (n, mut products) = (params.n(), 0_u64);
        let rows = keys.matrix_rows(n);
        let audit = Audit::new(&rows, n, seed);
        let matrix = ChainMatrix::from_rows(&rows, n, params.steps());
        for device in &self.devices {
            let claim = self.claims.get(usize::from(device.plan.device));
            let keys = keys.device(claim.ok_or(ExchangeError::Plans)?, &device.plan);
            let opened: Vec<u64> = device.rows.iter().map(|opening| opening.row).collect();
            for indices in opened.chunks(BLOCK_ROWS) {
                let mut operands = vec![0; indices.len().saturating_mul(n)];
                let mut scratch = vec![0; n.saturating_mul(2)];
                for (index, row) in indices.iter().zip(operands.chunks_exact_mut(n)) {
                    operand_row(keys.operands(), *index, &mut scratch, row);
                }
                let wrong = |(row, step)| AuditError::Product {
                    kernel: matrix.kernel().name(),
                    device: device.plan.device,
                    row,
                    step,
                };
                let checked = audit.chain(&matrix, &params, indices, &mut operands);
                products = products.saturating_add(checked.map_err(wrong)?);
            }
        }
        Ok(products)
    }
}

impl Audit {
    /// Runs the chain of some rows. Returns the number of products, or the row and the step of the first wrong one.
    fn chain(
        &self,
        matrix: &ChainMatrix,
        params: &ProofParams,
        indices: &[u64],
        operands: &mut [i16],
    ) -> Result<u64, (u64, u32)> {
        let (n, mut products) = (params.n(), 0_u64);
        let mut sums = vec![0; operands.len()];
        for step in 0..u32::from(params.steps()) {
            matrix.multiply(operands, &mut sums);
            let rows = operands.chunks_exact_mut(n).zip(sums.chunks_exact(n));
            for (index, (operands, sums)) in indices.iter().zip(rows) {
                if !self.check(operands, sums) {
                    return Err((*index, step));
                }
                mix_to_operands(step, sums, operands);
                products = products.saturating_add(1);
            }
        }
        Ok(products)
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("n", &self.weights.len()).finish_non_exhaustive()
    }
}

/// `Σ values·weights` modulo the prime. No sum wraps: a product stays below 2^93, and there are far fewer than 2^34.
fn dot(values: impl Iterator<Item = i64>, weights: &[u64]) -> u64 {
    let sum = values.zip(weights).fold(0_i128, |sum, (value, weight)| {
        sum.wrapping_add(i128::from(value).wrapping_mul(i128::from(*weight)))
    });
    let residue = sum.checked_rem_euclid(i128::from(FREIVALDS_PRIME)).unwrap_or(0);
    u64::try_from(residue).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const N: usize = 128;

    fn operands(seed: u8, rows: usize) -> Vec<i16> {
        let mut out = vec![0; rows.saturating_mul(N)];
        operand_row(&[seed; 32], 0, &mut vec![0; out.len().saturating_mul(2)], &mut out);
        out
    }

    fn product() -> (Audit, Vec<i16>, Vec<i32>) {
        let (rows, first) = (operands(1, N), operands(2, 1));
        let mut sums = vec![0; N];
        ChainMatrix::from_rows(&rows, N, 2).multiply(&first, &mut sums);
        (Audit::new(&rows, N, &[3; 32]), first, sums)
    }

    /// An audit that refuses right products would accuse honest machines.
    #[test]
    fn right_products_pass() {
        let (audit, operands, sums) = product();
        assert!(audit.check(&operands, &sums));
        assert!(!audit.check(&operands[1..], &sums) && !audit.check(&operands, &sums[1..]));
    }

    /// The smallest error in any one place must be found, or the audit audits nothing.
    #[test]
    fn one_more_in_any_entry_is_found() {
        let (audit, operands, sums) = product();
        for at in 0..N {
            for change in [1, -1, 1 << 24, i32::MIN] {
                let mut wrong = sums.clone();
                wrong[at] = wrong[at].wrapping_add(change);
                assert!(!audit.check(&operands, &wrong), "entry {at}, {change}");
            }
        }
    }

    /// The field's arithmetic itself, against long division.
    #[test]
    fn sums_are_taken_modulo_the_prime() {
        let top = FREIVALDS_PRIME;
        let minus_one = top.wrapping_sub(1);
        assert_eq!(dot([1_i64].into_iter(), &[top]), 0);
        assert_eq!(dot([-1_i64].into_iter(), &[1]), minus_one);
        assert_eq!(dot([2_i64, -1].into_iter(), &[minus_one, minus_one]), minus_one);
    }

    proptest! {
        /// Products of another row, or with neighbours exchanged, are no products of this one.
        #[test]
        fn exchanged_entries_are_found(first in 0..N, second in 0..N, seed: [u8; 32]) {
            let (_, operands, mut sums) = product();
            let audit = Audit::new(&self::operands(1, N), N, &seed);
            let same = sums[first] == sums[second];
            sums.swap(first, second);
            prop_assert_eq!(audit.check(&operands, &sums), same);
        }
    }
}
