//! Integration tests of the wire: recorded exchanges of Bittensor's SDK, and everything a hostile peer may send.

#[cfg(test)]
mod axon;
#[cfg(test)]
mod axon_hostile;
#[cfg(test)]
mod btauth;
#[cfg(test)]
mod btauth_hostile;
