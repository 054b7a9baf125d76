//! NVIDIA GPUs: the same rows, trees and walks as on a processor, by the kernels in `crates/prover/cuda`.
//!
//! Only the driver is used, and only what every driver since CUDA 11.4 has; it is loaded when a machine is looked at, so
//! that the program starts without one. Each GPU has a thread of the prover's, two queues, and memory that is allocated and
//! touched before any clock runs. Nothing here decides whether a proof holds.

#![expect(
    unsafe_code,
    reason = "the driver is a library of C functions, and its kernels take addresses"
)]

mod copy;
mod device;
mod driver;
mod error;
mod fill;
mod gpu;
mod kernels;
mod layout;
mod walks;
mod work;

pub use device::{CudaDevice, Found, NotUsable};
pub use error::{CudaCode, CudaError};
