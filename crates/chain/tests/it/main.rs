//! The client against chains: the local one in both of its metadata profiles, a real node where one is named, and none.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod doubt;
#[cfg(test)]
mod fakes;
#[cfg(test)]
mod finality;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod local;
#[cfg(test)]
mod metadata;
#[cfg(test)]
mod several;
#[cfg(test)]
mod world;
