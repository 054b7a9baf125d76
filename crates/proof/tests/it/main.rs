//! The frozen formats of the proof, from outside of the crate.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod golden;
mod hostile;
