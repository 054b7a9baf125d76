//! The exact integer kernels of both sides: the verifier recomputes rows with the code that a processor proves with.
//!
//! A kernel multiplies rows of operands with the session's matrix, mixes the sums, and digests rows of a walk. There is a
//! portable one and one for each set of vector instructions; all give the same bits, and tests compare them with each
//! other and with 64-bit arithmetic. Which one runs is decided when a matrix is laid out, by what the processor has.
//!
//! This folder is the only place of the room with `unsafe`: vector loads and stores, and calls of functions that need
//! an instruction set that was detected before.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod matrix;
mod portable;
mod replay;
#[cfg(test)]
mod tests;

pub use matrix::{BLOCK_ROWS, ChainMatrix};
pub use portable::{mix_to_operands, mix_to_plot};
pub use replay::Replay;

use crate::walk::WalkKey;

/// Columns of the matrix that are worked on together.
const TILE_COLUMNS: usize = 32;
/// Operand rows that share each load of the matrix.
const GROUP_ROWS: usize = 8;

/// A kernel by the instructions that it needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kernel {
    /// Any processor.
    Portable,
    /// x86-64 with AVX2: `vpmaddwd` on 16 operands.
    Avx2,
    /// x86-64 with AVX-512 F and BW: `vpmaddwd` on 32 operands.
    Avx512,
    /// x86-64 with AVX-512 F, BW and VNNI: `vpdpwssd` on 32 operands, product and sum in one instruction.
    Avx512Vnni,
}

/// A kernel that this processor can run: made by detection alone, so that it is the proof that an `unsafe` call needs.
#[derive(Clone, Copy, Debug)]
struct Checked(Kernel);

/// Two neighbouring rows of the matrix in the columns of one tile: cell and cell below, column after column, as the
/// multiply-add instructions want them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct PairOfRows([[i16; 2]; TILE_COLUMNS]);

/// Sums of one operand row in the columns of one tile.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Sums([i32; TILE_COLUMNS]);

/// Two neighbouring operands of each row of a group. Rows that a group lacks are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
struct OperandPairs([[i16; 2]; GROUP_ROWS]);

/// One run of matrix rows in the columns of one tile, and the operands that meet it.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    operands: &'a [OperandPairs],
    matrix: &'a [PairOfRows],
    /// What the caller will need soon: a kernel may fetch it into the cache on the way.
    ahead: &'a [PairOfRows],
}

impl Kernel {
    /// Every kernel, from the slowest to the fastest.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Vnni];

    /// The fastest kernel of this processor.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rfind(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has the instructions.
    #[must_use]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let has_512 = || has!("avx512f") && has!("avx512bw");
            match self {
                Self::Portable => true,
                Self::Avx2 => has!("avx2"),
                Self::Avx512 => has_512(),
                Self::Avx512Vnni => has_512() && has!("avx512vnni"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// A word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
        }
    }

    /// A walk's state after it read a row. A kernel that this processor lacks falls back to the portable one.
    #[inline]
    #[must_use]
    pub fn absorb(self, key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
        self.checked().absorb(key, mixed, row)
    }

    /// This kernel where the processor has it, and otherwise the portable one.
    fn checked(self) -> Checked {
        Checked(if self.is_available() { self } else { Self::Portable })
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls that need the instruction set that was detected")]
impl Checked {
    /// Adds the products of a group of operand rows and one run of matrix rows to the rows' sums.
    fn add_run(self, run: &Run<'_>, sums: &mut [Sums; GROUP_ROWS]) {
        match self.0 {
            Kernel::Portable => portable::add_run(run, sums),
            // SAFETY: in each arm, a `Checked` names only what was detected on this processor.
            Kernel::Avx2 => unsafe { avx2::add_run(run, sums) },
            // SAFETY: as above.
            Kernel::Avx512 => unsafe { avx512::add_run(run, sums) },
            // SAFETY: as above.
            Kernel::Avx512Vnni => unsafe { avx512::add_run_vnni(run, sums) },
        }
    }

    /// One tile of sums as operands of the next step.
    fn mix_operands(self, at: (u32, u32), sums: &Sums, operands: &mut [i16]) {
        match self.0 {
            Kernel::Portable => portable::mix_operands(at, &sums.0, operands),
            // SAFETY: in each arm, a `Checked` names only what was detected on this processor.
            Kernel::Avx2 => unsafe { avx2::mix_operands(at, sums, operands) },
            // SAFETY: as above.
            Kernel::Avx512 | Kernel::Avx512Vnni => unsafe {
                avx512::mix_operands(at, sums, operands);
            },
        }
    }

    /// One tile of sums as bytes of the plot.
    fn mix_plot(self, at: (u32, u32), sums: &Sums, plot: &mut [u8]) {
        match self.0 {
            Kernel::Portable => portable::mix_plot(at, &sums.0, plot),
            // SAFETY: in each arm, a `Checked` names only what was detected on this processor.
            Kernel::Avx2 => unsafe { avx2::mix_plot(at, sums, plot) },
            // SAFETY: as above.
            Kernel::Avx512 | Kernel::Avx512Vnni => unsafe { avx512::mix_plot(at, sums, plot) },
        }
    }

    #[inline]
    fn absorb(self, key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
        match self.0 {
            Kernel::Portable => key.absorb(mixed, row),
            // SAFETY: in each arm, a `Checked` names only what was detected on this processor.
            Kernel::Avx2 => unsafe { avx2::absorb(key, mixed, row) },
            // SAFETY: as above.
            Kernel::Avx512 | Kernel::Avx512Vnni => unsafe { avx512::absorb(key, mixed, row) },
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Checked {
    fn add_run(self, run: &Run<'_>, sums: &mut [Sums; GROUP_ROWS]) {
        portable::add_run(run, sums);
    }

    fn mix_operands(self, at: (u32, u32), sums: &Sums, operands: &mut [i16]) {
        portable::mix_operands(at, &sums.0, operands);
    }

    fn mix_plot(self, at: (u32, u32), sums: &Sums, plot: &mut [u8]) {
        portable::mix_plot(at, &sums.0, plot);
    }

    fn absorb(self, key: &WalkKey, mixed: u64, row: &[u8]) -> u64 {
        key.absorb(mixed, row)
    }
}

impl PairOfRows {
    const ZERO: Self = Self([[0; 2]; TILE_COLUMNS]);
}

impl OperandPairs {
    const ZERO: Self = Self([[0; 2]; GROUP_ROWS]);
}

impl Sums {
    const ZERO: Self = Self([0; TILE_COLUMNS]);
}
