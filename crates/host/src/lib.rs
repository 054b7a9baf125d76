//! The only room that touches a machine.

pub mod gateway;
