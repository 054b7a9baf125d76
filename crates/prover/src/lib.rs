//! Proof of hardware, the prover's side: devices, the session, and the provers that cheat.
//!
//! The binary is uploaded into a lease and believed in nothing: the verifier checks every answer and times it on its own
//! clock, so a provider may as well bring a faster prover of its own. The integer kernels are the verifier's, in `proof`.
//! This room has no network and reads no clock; its `unsafe` is the driver of GPUs.

pub mod cheats;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod disk;
mod in_process;
mod legs;
pub mod machine;
mod plot;
pub mod program;
mod prover;
pub mod stdio;

pub use cpu::CpuDevice;
pub use device::{Device, DeviceError, FillTask, Gone, Peer, PlotView, ReportPanel};
pub use disk::{DiskDevice, DiskError};
pub use in_process::{exchange, prove_in_process};
pub use nicompute_proof::{BLOCK_ROWS, ChainMatrix, Kernel};
pub use prover::{Flow, Prover, ProverError, SOFTWARE, Sink};
