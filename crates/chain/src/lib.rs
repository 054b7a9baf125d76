//! The Subtensor client: what the chain knows about a subnet, and how to say something to it.
//!
//! One path for every network: a WebSocket to a node, metadata from that node, calls and storage by name. It owns the
//! connection and the signing of extrinsics, and is the only user of `subxt`. It never decides anything about weights,
//! knows no provider and no lease, and keeps no cache but the metadata of the runtime that the node speaks now.
//!
//! Reads go through a [`View`] of one block. What is said is a [`Call`]; signed it is a [`Prepared`], which can be stored
//! before it is sent, is followed through forks until it is final, and is never signed anew once a pool took it. Several
//! nodes of one chain stand in for each other, the preferred one first.
//!
//! Every call has an end: a deadline after which [`ReadError::Gone`] or [`SubmitError::Unknown`] says what is known.

mod call;
mod calls;
mod chain;
mod dispatch;
mod error;
mod follow;
mod heads;
mod link;
mod metagraph;
mod neurons;
mod nonces;
mod now;
mod place;
mod plain;
mod pool;
mod prepared;
mod reads;
mod runtime;
mod serve;
mod submit;
mod subnets;
pub mod timelock;
mod url;
mod view;

pub use call::{COMMITMENT_LEN_MAX, Call};
pub use chain::{Chain, Limits};
pub use dispatch::ModuleError;
pub use error::{CallError, ConnectError, NodeError, ReadError, ShapeError, SubmitError};
pub use follow::Fate;
pub use metagraph::Metagraph;
pub use neurons::{Endpoint, Neuron};
pub use place::{Condition, EndpointState};
pub use pool::{PoolRejection, Refusal};
pub use prepared::{Prepared, PreparedError};
pub use reads::{Announced, Head, Identity, StakePosition};
pub use serve::Served;
pub use submit::{Depth, Included};
pub use subnets::{Beacon, HashCommit, Hyperparameters, SubnetInfo, TimelockedCommit, WeightsWay};
pub use url::{NodeUrl, ParseNodeUrlError};
pub use view::View;
