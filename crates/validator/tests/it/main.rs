//! The validator in one process: real signatures, a real store, real proofs; providers on loopback that a test makes lie.

#[cfg(test)]
mod chain;
#[cfg(test)]
mod door;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod legs;
#[cfg(test)]
mod provider;
#[cfg(test)]
mod proving;
#[cfg(test)]
mod rentals;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod world;
