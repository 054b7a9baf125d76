//! The provider's node in process: its whole API over real sockets on loopback, a fake machine, and a clock that the
//! tests move.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test, as the tests themselves do"
)]

mod http;
mod world;

mod axon;
mod axon_limits;
mod axon_rent;
mod gpus;
mod hostile;
mod life;
mod limits;
mod offers;
mod ports;
mod probe;
mod real;
mod refusals;
mod restart;
mod signatures;
mod start;
