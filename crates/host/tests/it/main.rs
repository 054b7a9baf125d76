//! What the machine room promises, checked from outside.

mod gateway_exec;
mod gateway_files;
mod gateway_forward;
mod gateway_lifecycle;
mod gateway_world;
