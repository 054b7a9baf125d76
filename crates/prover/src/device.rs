//! What a prover asks of a device, whatever its hardware.

use std::sync::Arc;

use nicompute_proof::{
    DeviceClaim, DeviceKeys, DeviceOpenings, DevicePlan, Digest, Nonce, OpenDevice, ProofParams,
    SessionKeys, TreeError,
};

use crate::disk::DiskError;

/// One device of the machine: it holds a plot, walks over it and opens it.
///
/// The calls of a session come in the order of the methods. All devices of a machine work at the same time, each in a
/// thread of its own.
pub trait Device: Send + std::fmt::Debug {
    /// What this device says about itself.
    fn claim(&self) -> DeviceClaim;

    /// Allocates everything that the session will need, before any clock runs.
    ///
    /// # Errors
    /// Where there is not enough memory.
    fn prepare(&mut self, params: &ProofParams, plan: &DevicePlan) -> Result<(), DeviceError>;

    /// Whether the task of [`Self::fill`] must hold the matrix. A device that makes the matrix itself saves the machine the
    /// time.
    fn needs_matrix(&self) -> bool {
        true
    }

    /// Computes the plot, reports every panel in order, and commits to it.
    ///
    /// # Errors
    /// Where the device fails or the verifier is gone.
    fn fill(
        &mut self,
        task: &FillTask,
        report: &mut ReportPanel<'_>,
    ) -> Result<Digest, DeviceError>;

    /// Walks over the plot and commits to the results.
    ///
    /// # Errors
    /// Where the device fails.
    fn walk(&mut self, n2: &Nonce) -> Result<Digest, DeviceError>;

    /// Where the plot is, for a neighbour that walks over it; nothing before [`Self::fill`], and nothing where no other
    /// device can reach it.
    fn plot(&self) -> Option<PlotView> {
        None
    }

    /// Walks over the next device's plot, `params.link_walks()` walks of as many reads as over its own, and commits to
    /// the results.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where it cannot reach that plot.
    fn link(&mut self, nonce: &Nonce, peer: &Peer) -> Result<Digest, DeviceError> {
        let _ = (nonce, peer);
        Err(DeviceError::Unsupported("walks over another device's plot"))
    }

    /// Brings a run of rows to the host, hashes them there under fresh keys ([`CopyKey`](nicompute_proof::CopyKey)),
    /// and commits to them: the leaf of place `i` is row `key.row(i)`.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where it has no rows to bring.
    fn copy(&mut self, nonce: &Nonce) -> Result<Digest, DeviceError> {
        let _ = nonce;
        Err(DeviceError::Unsupported("copies to the host"))
    }

    /// Opens rows and walks, and those of the legs that were answered.
    ///
    /// # Errors
    /// Where there is no such row or walk.
    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError>;
}

/// Where a plot is, for others than its owner.
#[derive(Clone)]
pub enum PlotView {
    /// In main memory.
    Memory(Arc<Vec<u8>>),
    /// In the memory of a GPU of this process.
    Cuda {
        /// The driver's number of the GPU.
        ordinal: u32,
        /// The first byte's address in it.
        address: u64,
        /// The plot's length.
        bytes: u64,
    },
}

/// The next device, whose plot is walked over.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where its plot is.
    pub view: PlotView,
    /// Its rows.
    pub rows: u64,
}

/// Takes a panel's number and root; an error means that nobody listens any more.
pub type ReportPanel<'a> = dyn FnMut(u32, Digest) -> Result<(), Gone> + Send + 'a;

/// The verifier is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the verifier is gone")]
pub struct Gone;

/// What a device needs to fill its plot.
#[derive(Clone, Debug)]
pub struct FillTask {
    /// The sizes.
    pub params: ProofParams,
    /// This device's share.
    pub plan: DevicePlan,
    /// The machine's keys.
    pub session: SessionKeys,
    /// The device's keys.
    pub keys: DeviceKeys,
    /// The matrix, row after row, shared by all devices; empty where none of them needs it.
    pub matrix: Arc<Vec<i16>>,
}

/// Why a device cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Memory for the plot could not be had.
    #[error("no {0} bytes of memory for the plot")]
    Memory(u64),
    /// A call out of order, or another device's.
    #[error("the device was asked for something that it does not hold")]
    Order,
    /// A row or walk that does not exist.
    #[error("a place that the device does not hold")]
    Place(#[from] TreeError),
    /// The file system or the disk under it does not do what the proof needs.
    #[error("the disk cannot be proven")]
    Disk(#[from] DiskError),
    /// Something that this device cannot do at all.
    #[error("this device has no {0}")]
    Unsupported(&'static str),
    /// Nobody listens any more.
    #[error("the session was given up")]
    Gone(#[from] Gone),
    /// A GPU failed, or cannot do these sizes.
    #[cfg(feature = "cuda")]
    #[error("the GPU failed")]
    Cuda(#[from] crate::cuda::CudaError),
}

impl std::fmt::Debug for PlotView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(plot) => f.debug_tuple("Memory").field(&plot.len()).finish(),
            Self::Cuda { ordinal, bytes, .. } => {
                f.debug_struct("Cuda").field("ordinal", ordinal).field("bytes", bytes).finish()
            }
        }
    }
}
