//! The kernels of `crates/prover/cuda/kernels.cu` as calls with types. Their sizes and the meaning of every argument are
//! agreed there; nothing here looks inside a buffer.

use std::ffi::{CStr, c_void};

use cudarc::driver::sys;

use super::driver::check;
use super::error::CudaError;
use super::gpu::Stream;

/// Rows of one call are whole tiles of the product kernel, and so are columns.
pub(super) const TILE: u32 = 128;
/// Dynamic shared memory of the product kernel.
const STEP_SHARED: u32 = 65_536;
const WIDE_BLOCK: u32 = 256;
const HASH_BLOCK: u32 = 128;
/// Operands that one thread makes: a block of ChaCha8 holds 32.
const OPERANDS_PER_THREAD: u32 = 32;
/// Rows that one block hashes, four threads each.
const LEAVES_PER_BLOCK: u32 = 32;
/// Walks of one block, a warp each.
const WALKS_PER_BLOCK: u32 = 8;

/// The functions of a loaded module.
pub(super) struct Kernels {
    operands: sys::CUfunction,
    step: sys::CUfunction,
    leaves: sys::CUfunction,
    nodes: sys::CUfunction,
    walks: sys::CUfunction,
}

/// A 32-byte key as the kernels take it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Key([u32; 8]);

/// Rows of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// How many, a multiple of [`TILE`].
    pub(super) count: u32,
    /// Width.
    pub(super) n: u32,
}

/// One product of the chain.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) operands: u64,
    pub(super) matrix: u64,
    /// Where the next operands go; not read at the last step.
    pub(super) next: u64,
    /// Where the plot's rows go; not read before the last step.
    pub(super) plot: u64,
    pub(super) number: u32,
    pub(super) is_last: bool,
}

/// Walks over one plot.
#[derive(Clone, Copy)]
pub(super) struct Walks {
    pub(super) plot: u64,
    pub(super) rows: u64,
    pub(super) n: u32,
    /// Key words, as many bytes as a row.
    pub(super) words: u64,
    pub(super) seed: u64,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) reads: u32,
    /// Where the results go, eight bytes each.
    pub(super) results: u64,
}

impl From<&[u8; 32]> for Key {
    fn from(bytes: &[u8; 32]) -> Self {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self(words)
    }
}

/// The pointers to some values, as a launch takes its arguments.
macro_rules! arguments {
    ($($value:expr),+ $(,)?) => {
        [$((&raw const $value).cast_mut().cast::<c_void>()),+]
    };
}

impl Kernels {
    /// No kernels: for a GPU of which the module is not loaded yet.
    pub(super) const fn none() -> Self {
        let none = std::ptr::null_mut();
        Self { operands: none, step: none, leaves: none, nodes: none, walks: none }
    }

    /// Finds the functions of a module.
    pub(super) fn of(module: sys::CUmodule) -> Result<Self, CudaError> {
        let find = |name: &CStr| {
            let mut function = std::ptr::null_mut();
            // SAFETY: the module is loaded, the name ends with a zero byte, and the pointer is to a live handle.
            let found =
                unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
            check("cuModuleGetFunction", found).map(|()| function)
        };
        let kernels = Self {
            operands: find(c"nic_operands")?,
            step: find(c"nic_step")?,
            leaves: find(c"nic_leaves")?,
            nodes: find(c"nic_nodes")?,
            walks: find(c"nic_walks")?,
        };
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was just found in a loaded module.
        let set =
            unsafe { sys::cuFuncSetAttribute(kernels.step, attribute, STEP_SHARED.cast_signed()) };
        check("cuFuncSetAttribute", set)?;
        Ok(kernels)
    }

    /// Writes operand rows from number `first` on.
    ///
    /// # Safety
    /// `out` must be the GPU's memory and hold `rows`, two bytes an operand, until the queue has come past this.
    pub(super) unsafe fn operands(
        &self,
        stream: &Stream,
        out: u64,
        key: Key,
        first: u64,
        rows: Rows,
    ) -> Result<(), CudaError> {
        let Rows { count, n } = rows;
        let threads = count.saturating_mul(n) / OPERANDS_PER_THREAD;
        let mut arguments = arguments![out, key, first, count, n];
        let grid = (threads.div_ceil(WIDE_BLOCK), 1);
        // SAFETY: the arguments are those of the kernel, in order; the caller vouches for the memory.
        unsafe {
            launch("nic_operands", self.operands, (grid, WIDE_BLOCK, 0), stream, &mut arguments)
        }
    }

    /// Multiplies, mixes, and writes the next operands or the plot.
    ///
    /// # Safety
    /// The addresses of `step` must be the GPU's memory: `rows` of operands, a matrix of their width, and the target, all
    /// until the queue has come past this.
    pub(super) unsafe fn step(
        &self,
        stream: &Stream,
        step: Step,
        rows: Rows,
    ) -> Result<(), CudaError> {
        let Rows { count, n } = rows;
        let Step { operands, matrix, next, plot, number, is_last } = step;
        let last = u32::from(is_last);
        let mut arguments = arguments![operands, matrix, next, plot, count, n, number, last];
        let shape = ((n / TILE, count / TILE), WIDE_BLOCK, STEP_SHARED);
        // SAFETY: the arguments are those of the kernel, in order; the caller vouches for the memory.
        unsafe { launch("nic_step", self.step, shape, stream, &mut arguments) }
    }

    /// Hashes rows of the plot into leaves of 32 bytes.
    ///
    /// # Safety
    /// `plot` and `leaves` must be the GPU's memory and hold `rows`, until the queue has come past this.
    pub(super) unsafe fn leaves(
        &self,
        stream: &Stream,
        plot: u64,
        leaves: u64,
        key: Key,
        rows: Rows,
    ) -> Result<(), CudaError> {
        let Rows { count, n } = rows;
        let mut arguments = arguments![plot, leaves, key, count, n];
        let shape = ((count.div_ceil(LEAVES_PER_BLOCK), 1), HASH_BLOCK, 0);
        // SAFETY: the arguments are those of the kernel, in order; the caller vouches for the memory.
        unsafe { launch("nic_leaves", self.leaves, shape, stream, &mut arguments) }
    }

    /// Hashes pairs of nodes into `count` parents.
    ///
    /// # Safety
    /// Both addresses must be the GPU's memory, `children` twice as long as `parents`, until the queue has come past this.
    pub(super) unsafe fn nodes(
        &self,
        stream: &Stream,
        (children, parents): (u64, u64),
        key: Key,
        count: u32,
    ) -> Result<(), CudaError> {
        let mut arguments = arguments![children, parents, key, count];
        let shape = ((count.div_ceil(HASH_BLOCK), 1), HASH_BLOCK, 0);
        // SAFETY: the arguments are those of the kernel, in order; the caller vouches for the memory.
        unsafe { launch("nic_nodes", self.nodes, shape, stream, &mut arguments) }
    }

    /// Follows walks to their ends.
    ///
    /// # Safety
    /// The addresses of `walks` must be memory that this GPU can reach, a neighbour's for the plot, until the queue has
    /// come past this.
    pub(super) unsafe fn walks(&self, stream: &Stream, walks: Walks) -> Result<(), CudaError> {
        let Walks { plot, rows, n, words, seed, first, count, reads, results } = walks;
        let mut arguments = arguments![plot, words, seed, rows, n, first, count, reads, results];
        let shape = ((count.div_ceil(WALKS_PER_BLOCK), 1), WIDE_BLOCK, 0);
        // SAFETY: the arguments are those of the kernel, in order; the caller vouches for the memory.
        unsafe { launch("nic_walks", self.walks, shape, stream, &mut arguments) }
    }
}

/// Grid of two dimensions, threads of a block, bytes of dynamic shared memory.
type Shape = ((u32, u32), u32, u32);

/// Puts a kernel into a queue.
///
/// # Safety
/// The arguments must be those that the kernel takes, in order, and what they point to must be the GPU's until the queue
/// has come past it.
unsafe fn launch(
    name: &'static str,
    function: sys::CUfunction,
    (grid, block, shared): Shape,
    stream: &Stream,
    arguments: &mut [*mut c_void],
) -> Result<(), CudaError> {
    let none = std::ptr::null_mut();
    // SAFETY: function and queue are live; the driver copies the arguments before it returns; the caller vouches for them.
    let launched = unsafe {
        sys::cuLaunchKernel(
            function,
            grid.0,
            grid.1,
            1,
            block,
            1,
            1,
            shared,
            stream.raw(),
            arguments.as_mut_ptr(),
            none,
        )
    };
    check(name, launched)
}
