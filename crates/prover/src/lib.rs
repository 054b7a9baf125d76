//! Proof of hardware, the prover's side: kernels, devices, the session, and the provers that cheat.
//!
//! The binary is uploaded into a lease and believed in nothing: the verifier checks every answer and times it on its own
//! clock, so a provider may as well bring a faster prover of its own. This room has no network, reads no clock, and is
//! the only one besides `agent` and `host` that has `unsafe` (vector instructions, behind detection at run time).

pub mod cheats;
mod cpu;
mod device;
mod in_process;
mod kernel;
pub mod machine;
mod plot;
mod prover;
pub mod stdio;

pub use cpu::CpuDevice;
pub use device::{Device, DeviceError, FillTask, Gone, ReportPanel};
pub use in_process::{exchange, prove_in_process};
pub use kernel::{BLOCK_ROWS, Kernel, KernelMatrix};
pub use prover::{Flow, Prover, ProverError, SOFTWARE, Sink};
