//! Integration tests of the program, driven as a user drives it.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod chain_commands;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod devnet_up;
mod doctor;
#[cfg(test)]
mod judges;
#[cfg(test)]
mod judges_axon;
#[cfg(test)]
mod judges_axon_rent;
#[cfg(test)]
mod judges_btauth;
#[cfg(test)]
mod judges_chain;
#[cfg(test)]
mod judges_reveal;
#[cfg(test)]
mod judges_wallet;
#[cfg(test)]
mod kill9;
#[cfg(test)]
mod kill_anywhere;
#[cfg(test)]
mod original_flags;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod proving;
#[cfg(test)]
mod renting;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod wallet;
#[cfg(test)]
mod world;
