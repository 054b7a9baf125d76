//! The client against chains: the local one in both of its metadata profiles, a real node where one is named, and none.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod local;
#[cfg(test)]
mod world;
