//! Whole sessions between the real verifier and provers, honest and not.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, outside of test functions"
)]

mod binary;
mod cheaters;
mod deadlines;
mod disk;
mod emulated;
mod golden;
mod harness;
mod hostile;
mod legs;
mod many_devices;
#[cfg(feature = "cuda")]
mod mock_cuda;
mod session;
mod transcript;
