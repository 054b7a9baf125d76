//! The market's own messages: what crosses the line between parties, in shapes that are kept stable.
//!
//! Signed requests and answers, the node API, the market API and the public error codes. Nothing here opens a connection.

pub mod market_api;
pub mod node;
