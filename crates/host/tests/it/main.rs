//! What the machine room promises, checked from outside. What a machine lacks is skipped aloud.

mod conformance;
mod docker;
mod gateway_container;
mod gateway_editor;
mod gateway_exec;
mod gateway_files;
mod gateway_flood;
mod gateway_forward;
mod gateway_hostile;
mod gateway_inward;
mod gateway_keys;
mod gateway_lifecycle;
mod gateway_limits;
mod gateway_password;
mod gateway_publish;
mod gateway_terminal;
mod gateway_world;
mod gpus;
mod net;
mod net_world;
mod sandbox_crash;
mod sandbox_inside;
mod sandbox_limits;
mod support;
