//! Why a GPU cannot do what was asked, in the driver's own names.

/// Why the driver, or a GPU, cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// No driver on this machine, or none inside this container.
    #[error("no NVIDIA driver here: libcuda.so.1 cannot be loaded")]
    DriverAbsent,
    /// A driver without a call that the prover needs.
    #[error("the NVIDIA driver is too old: it has no {0}")]
    DriverTooOld(&'static str),
    /// A driver that shows no GPU.
    #[error("the NVIDIA driver shows no GPU")]
    NoDevice,
    /// None of the prover's kernels runs on this GPU under this driver.
    #[error(
        "no kernel for compute capability {}.{} under a driver for CUDA {}.{}: {code}",
        capability.0, capability.1, driver.0, driver.1
    )]
    NoKernel {
        /// The GPU's compute capability.
        capability: (i32, i32),
        /// The newest CUDA version that the driver supports.
        driver: (i32, i32),
        /// What the driver said.
        code: CudaCode,
    },
    /// Sizes that the kernels do not do.
    #[error("{field} is {value}, a GPU needs {expected}")]
    Shape {
        /// The size's name.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// One GPU cannot read the memory of another.
    #[error("GPU {from} cannot read the memory of GPU {to}")]
    Peer {
        /// The one that reads.
        from: u32,
        /// The one that is read.
        to: u32,
    },
    /// A call failed. A failed kernel shows at the next call that waits for it.
    #[error("{call} failed: {code}")]
    Call {
        /// The call.
        call: &'static str,
        /// What the driver said.
        code: CudaCode,
    },
}

/// An error number of the driver with the name that the driver has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaCode {
    /// The number.
    pub number: u32,
    /// The name, such as `CUDA_ERROR_LAUNCH_FAILED`.
    pub name: String,
}

impl CudaCode {
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    pub(super) const OUT_OF_MEMORY: u32 = 2;
    /// `CUDA_ERROR_NO_DEVICE`.
    pub(super) const NO_DEVICE: u32 = 100;
    /// `CUDA_ERROR_INVALID_IMAGE` to `CUDA_ERROR_JIT_COMPILATION_DISABLED` and their like: the image does not fit.
    pub(super) const IMAGE: [u32; 7] = [200, 209, 218, 221, 222, 223, 300];
    /// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`.
    pub(super) const PEER_ALREADY: u32 = 704;
}

impl CudaError {
    /// The driver's number, where a call failed.
    pub(super) const fn number(&self) -> Option<u32> {
        match self {
            Self::Call { code, .. } => Some(code.number),
            Self::DriverAbsent
            | Self::DriverTooOld(_)
            | Self::NoDevice
            | Self::NoKernel { .. }
            | Self::Shape { .. }
            | Self::Peer { .. } => None,
        }
    }
}

impl std::fmt::Display for CudaCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.number)
    }
}
