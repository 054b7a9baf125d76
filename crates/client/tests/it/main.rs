//! The client against servers that answer rightly, wrongly, too much, too late and in somebody else's name.

#[cfg(test)]
mod axon;
#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod market;
#[cfg(test)]
mod node;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod ssh_server;
