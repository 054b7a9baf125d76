//! What a prover asks of a device, whatever its hardware.

use nicompute_proof::{
    DeviceClaim, DeviceKeys, DeviceOpenings, DevicePlan, Digest, Nonce, OpenDevice, ProofParams,
    SessionKeys, TreeError,
};

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

    /// Opens rows and walks.
    ///
    /// # Errors
    /// Where there is no such row or walk.
    fn open(&mut self, ask: &OpenDevice) -> Result<DeviceOpenings, DeviceError>;
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
    /// The matrix, row after row, shared by all devices.
    pub matrix: std::sync::Arc<Vec<i16>>,
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
    /// Nobody listens any more.
    #[error("the session was given up")]
    Gone(#[from] Gone),
}
