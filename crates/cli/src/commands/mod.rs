//! One file for each command.

pub(crate) mod catalogue;
pub(crate) mod chain;
pub(crate) mod cheat;
pub(crate) mod devnet_control;
pub(crate) mod doctor;
pub(crate) mod miner;
pub(crate) mod offers;
pub(crate) mod prove;
pub(crate) mod ps;
pub(crate) mod release;
pub(crate) mod rent;
pub(crate) mod rent_acts;
pub(crate) mod ssh;
pub(crate) mod stake;
pub(crate) mod subnet;
pub(crate) mod validator;
pub(crate) mod verify;
pub(crate) mod wallet;
