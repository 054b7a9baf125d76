//! The only room that touches a machine: container runtimes, the tenants' network, inventory, the SSH gateway. Each is
//! behind a trait or a plain type, with a fake that works.

pub mod cdi;
pub mod gateway;
pub mod inventory;
pub mod net;
mod nvml;
pub mod runtime;
pub mod telemetry;
