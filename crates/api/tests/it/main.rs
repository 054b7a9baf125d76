//! The edge over real sockets, with a market in memory behind it.

#[cfg(test)]
mod edge;
