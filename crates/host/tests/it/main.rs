//! What the machine room promises, checked from outside. What a machine lacks is skipped aloud.

mod conformance;
mod docker;
mod gateway_container;
mod gateway_exec;
mod gateway_files;
mod gateway_forward;
mod gateway_hostile;
mod gateway_lifecycle;
mod gateway_limits;
mod gateway_world;
mod gpus;
mod net;
mod net_world;
mod sandbox_crash;
mod sandbox_inside;
mod sandbox_limits;
mod support;
