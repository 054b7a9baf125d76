//! The chain of products on a processor: one portable kernel, one for AVX2, chosen at run time.
//!
//! Both give the same bits; tests compare them with each other and with 64-bit arithmetic. The portable kernel is the
//! verifier's own.

use nicompute_proof::{ChainMatrix, WalkKey};

/// Rows that a kernel takes at a time: their operands and sums stay in the second-level cache at small widths.
pub const BLOCK_ROWS: usize = 64;

/// A kernel that this processor can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2.
    Avx2,
}

/// The session's matrix in the layout of one kernel.
#[derive(Debug)]
pub struct KernelMatrix(Layout);

#[derive(Debug)]
enum Layout {
    Portable(ChainMatrix),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Packed),
}

impl Kernel {
    /// The fastest kernel of this processor.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Portable
    }

    /// A walk's state after it read a row.
    #[inline]
    #[must_use]
    pub fn absorb(self, key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if std::arch::is_x86_feature_detected!("avx2") => {
                avx2::absorb(key, mixed, row)
            }
            Self::Portable | Self::Avx2 => key.absorb(mixed, row),
        }
    }
}

impl KernelMatrix {
    /// Lays out a matrix of `n` rows and columns for a kernel; a kernel that this processor lacks falls back to the
    /// portable one.
    #[must_use]
    pub fn new(kernel: Kernel, rows: &[i16], n: usize, steps: u16) -> Self {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 if std::arch::is_x86_feature_detected!("avx2") => {
                Self(Layout::Avx2(avx2::Packed::new(rows, n, steps)))
            }
            Kernel::Portable | Kernel::Avx2 => {
                Self(Layout::Portable(ChainMatrix::from_rows(rows, n, steps)))
            }
        }
    }

    /// Runs the chain over the first operands of some rows; `operands` is used up.
    pub fn chain(&self, operands: &mut [i16], plot: &mut [u8]) {
        match &self.0 {
            Layout::Portable(matrix) => matrix.chain(operands, plot),
            #[cfg(target_arch = "x86_64")]
            Layout::Avx2(packed) => packed.chain(operands, plot),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "kernel_avx2.rs"]
mod avx2;

#[cfg(test)]
mod tests {
    use nicompute_proof::operand_row;

    use super::*;

    fn operands(seed: u8, count: usize) -> Vec<i16> {
        let mut out = vec![0; count];
        operand_row(&[seed; 32], 0, &mut vec![0; count * 2], &mut out);
        out
    }

    /// A fast kernel with another result would make every honest machine with it fail.
    #[test]
    fn kernels_agree_with_each_other() {
        for (n, steps) in [(128, 2), (192, 3), (256, 2), (1088, 2)] {
            let rows = operands(1, n * n);
            for count in [1, 2, 3, 4, 5, 63, 64, 66] {
                let first = operands(2, n * count);
                let [portable, fast] = [Kernel::Portable, Kernel::detect()].map(|kernel| {
                    let mut plot = vec![0; n * count];
                    let matrix = KernelMatrix::new(kernel, &rows, n, steps);
                    matrix.chain(&mut first.clone(), &mut plot);
                    plot
                });
                assert_eq!(portable, fast, "n {n} steps {steps} rows {count}");
            }
        }
    }

    /// The largest operands must neither saturate nor wrap in 16-bit multiply-add instructions.
    #[test]
    fn kernels_agree_on_the_largest_operands() {
        let n = 4096;
        for (left, right) in [(255, 255), (-255, 255), (-255, -255)] {
            let rows = vec![right; n * n];
            let [portable, fast] = [Kernel::Portable, Kernel::detect()].map(|kernel| {
                let mut plot = vec![0; n * 4];
                KernelMatrix::new(kernel, &rows, n, 2).chain(&mut vec![left; n * 4], &mut plot);
                plot
            });
            assert_eq!(portable, fast);
        }
    }
}
