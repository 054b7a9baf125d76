//! The Subtensor client: what the chain knows about a subnet, and how to say something to it.
//!
//! One path for every network: a WebSocket to a node, metadata from that node, calls and storage by name. It owns the
//! connection and the signing of extrinsics, and is the only user of `subxt`. It never decides anything about weights,
//! knows no provider and no lease, and keeps no cache but the metadata of the runtime that the node speaks now.
//!
//! Every call has an end: a deadline after which [`ReadError::Gone`] or [`SubmitError::Unknown`] says what is known.

mod calls;
mod chain;
mod dispatch;
mod error;
mod heads;
mod link;
mod neurons;
mod plain;
mod pool;
mod reads;
mod runtime;
mod submit;
pub mod timelock;
mod url;

pub use chain::{Chain, Limits};
pub use dispatch::ModuleError;
pub use error::{ConnectError, NodeError, ReadError, ShapeError, SubmitError};
pub use neurons::{Endpoint, Metagraph, Neuron};
pub use pool::{PoolRejection, Refusal};
pub use reads::{Head, Hyperparameters};
pub use submit::Included;
pub use url::{NodeUrl, ParseNodeUrlError};
