//! What the figures are compared with: the f32 product of the `gemm` crate, the v1.9.0 proof's way of checking one
//! element, and the most multiply-adds that a core can issue.

#![expect(unsafe_code, reason = "a C-like interface, and instructions that were detected")]

use std::hint::black_box;

use gemm_f32::gemm::f32::get_gemm_fn;
use nicompute_proof::Kernel;

/// The size of the original's matrices on a machine of 80 GB.
pub(crate) const ORIGINAL_N: u32 = 20_704;

/// `to = rows · matrix`, all row after row, on one thread.
pub(crate) fn gemm(rows: &[f32], matrix: &[f32], n: usize, to: &mut [f32]) {
    let m = rows.len() / n;
    assert!(rows.len() == m * n && matrix.len() == n * n && to.len() == rows.len());
    let stride = isize::try_from(n).expect("a width of a few thousand");
    // SAFETY: the three slices hold m × n, n × n and m × n elements, as asserted, with unit column stride.
    unsafe {
        // Written as the transposed product, which is how `gemm::gemm` turns a row-major destination: its microkernel
        // prefers column-major ones.
        get_gemm_fn()(
            n,
            m,
            n,
            to.as_mut_ptr(),
            stride,
            1,
            false,
            matrix.as_ptr(),
            stride,
            1,
            rows.as_ptr(),
            stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

/// One element of the original's product: both operand vectors come from its generator, 2n values of ten rounds each, and
/// their product is summed. In this language; the original is a loop in Python.
pub(crate) fn original_element(seeds: [u32; 2], row: u32, column: u32, n: u32) -> f64 {
    (0..n).fold(0.0, |sum, k| {
        sum + original_value(seeds[0], row, k) * original_value(seeds[1], k, column)
    })
}

fn original_value(seed: u32, row: u32, column: u32) -> f64 {
    let mut state = black_box(seed.wrapping_add(row).wrapping_add(column));
    for _ in 0..10 {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    f64::from(state) / f64::from(u32::MAX)
}

/// Rounds of independent multiply-adds in registers, with the instructions of a kernel. Returns the products made.
pub(crate) fn multiply_adds_in_registers(kernel: Kernel, rounds: u64) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        assert!(kernel.is_available());
        let a_round = match kernel {
            // SAFETY: in each arm, the instructions were detected.
            Kernel::Avx2 => unsafe { x86::avx2(rounds) },
            // SAFETY: as above.
            Kernel::Avx512 => unsafe { x86::avx512(rounds) },
            // SAFETY: as above.
            Kernel::Avx512Vnni => unsafe { x86::avx512vnni(rounds) },
            Kernel::Portable => return None,
        };
        Some(a_round * rounds)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        drop((kernel, rounds));
        None
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    /// Twelve sums of eight lanes, two products each, in two instructions. The temporary is renamed by the processor.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(rounds: u64) -> u64 {
        // SAFETY: registers alone are written, and all of them are named.
        unsafe {
            asm!(
                "2:",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm0, ymm0, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm1, ymm1, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm2, ymm2, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm3, ymm3, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm4, ymm4, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm5, ymm5, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm6, ymm6, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm7, ymm7, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm8, ymm8, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm9, ymm9, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm10, ymm10, ymm12",
                "vpmaddwd ymm12, ymm13, ymm14", "vpaddd ymm11, ymm11, ymm12",
                "dec {left}",
                "jnz 2b",
                left = inout(reg) rounds => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _,
                options(nomem, nostack),
            );
        }
        12 * 16
    }

    /// Twelve sums of sixteen lanes, two products each, in two instructions.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn avx512(rounds: u64) -> u64 {
        // SAFETY: registers alone are written, and all of them are named.
        unsafe {
            asm!(
                "2:",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm0, zmm0, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm1, zmm1, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm2, zmm2, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm3, zmm3, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm4, zmm4, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm5, zmm5, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm6, zmm6, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm7, zmm7, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm8, zmm8, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm9, zmm9, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm10, zmm10, zmm12",
                "vpmaddwd zmm12, zmm13, zmm14", "vpaddd zmm11, zmm11, zmm12",
                "dec {left}",
                "jnz 2b",
                left = inout(reg) rounds => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _, out("zmm14") _,
                options(nomem, nostack),
            );
        }
        12 * 32
    }

    /// Twelve sums of sixteen lanes, two products each, in one instruction.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn avx512vnni(rounds: u64) -> u64 {
        // SAFETY: registers alone are written, and all of them are named.
        unsafe {
            asm!(
                "2:",
                "vpdpwssd zmm0, zmm13, zmm14", "vpdpwssd zmm1, zmm13, zmm14",
                "vpdpwssd zmm2, zmm13, zmm14", "vpdpwssd zmm3, zmm13, zmm14",
                "vpdpwssd zmm4, zmm13, zmm14", "vpdpwssd zmm5, zmm13, zmm14",
                "vpdpwssd zmm6, zmm13, zmm14", "vpdpwssd zmm7, zmm13, zmm14",
                "vpdpwssd zmm8, zmm13, zmm14", "vpdpwssd zmm9, zmm13, zmm14",
                "vpdpwssd zmm10, zmm13, zmm14", "vpdpwssd zmm11, zmm13, zmm14",
                "dec {left}",
                "jnz 2b",
                left = inout(reg) rounds => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm13") _, out("zmm14") _,
                options(nomem, nostack),
            );
        }
        12 * 32
    }
}
