//! What can go wrong on the way to the chain and back.

use std::net::IpAddr;
use std::time::Duration;

use nicompute_daemon::Kind;
use nicompute_market::{BlockNumber, Netuid, Rao};
use subxt::rpcs;

use crate::chain::ENDPOINTS_MAX;
use crate::dispatch::ModuleError;
use crate::pool::PoolRejection;
use crate::url::ParseNodeUrlError;

/// JSON-RPC's code of a method that the node does not have.
pub(crate) const CODE_NO_METHOD: i32 = -32601;

/// Why no connection to a chain came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not one.
    #[error("read the chain's endpoint")]
    Endpoint(#[from] ParseNodeUrlError),
    /// No endpoint at all, or too many.
    #[error("{0} endpoints are given; use 1 to {ENDPOINTS_MAX}")]
    Count(usize),
    /// No node answers there, or what answers is no node that this client can use.
    #[error("connect to the chain at {endpoint}")]
    Unusable {
        /// Where.
        endpoint: String,
        /// Why not.
        #[source]
        source: ReadError,
    },
}

impl ConnectError {
    /// Who can do something about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Endpoint(_) | Self::Count(_) => Kind::Caller,
            Self::Unusable { source, .. } => source.kind(),
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Endpoint(_) | Self::Count(_) => None,
            Self::Unusable { source, .. } => source.remedy(),
        }
    }
}

/// What the node said, or why it said nothing.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NodeError(rpcs::Error);

/// A value that is not what its name promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A field that this client needs is not there.
    #[error("there is no field {0:?}")]
    Field(&'static str),
    /// A value of another kind.
    #[error("expected {0}")]
    Kind(&'static str),
    /// Deeper or larger than anything a chain answers.
    #[error("the value is too deep or too large")]
    Size,
    /// Bytes that are no value of the type that the metadata names.
    #[error("the bytes do not fit the metadata: {0}")]
    Decode(String),
}

/// Why something could not be read from the chain.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The chain gave no answer within the deadline.
    #[error("the chain at {endpoint} gave no answer within {} s", waited.as_secs())]
    Gone {
        /// Where the chain was last.
        endpoint: String,
        /// For how long it was tried.
        waited: Duration,
        /// What the last try ended with; none if it was still under way.
        #[source]
        source: Option<NodeError>,
    },
    /// The node refused the request.
    #[error("the node refused {request}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Its answer.
        #[source]
        source: NodeError,
    },
    /// The endpoint serves another chain than when this client connected, or than its name says.
    #[error("the chain at {endpoint} is another one than expected: its genesis block differs")]
    OtherChain {
        /// Where.
        endpoint: String,
    },
    /// The node's runtime lacks something that a Subtensor has.
    #[error("the node's runtime has no {0}: is it a Subtensor?")]
    Missing(String),
    /// The node answered with something that cannot be understood.
    #[error("understand the node's answer about {about}")]
    Shape {
        /// What it was about.
        about: &'static str,
        /// What is wrong with it.
        #[source]
        source: ShapeError,
    },
    /// There is no such subnet.
    #[error("subnet {0} does not exist")]
    NoSubnet(Netuid),
    /// The node has forgotten the block, or the state after it.
    #[error("the node does not keep block 0x{} any more", hex::encode(block))]
    Pruned {
        /// The block's hash.
        block: [u8; 32],
    },
    /// The chain is not that high.
    #[error("there is no block {0}")]
    NoBlock(BlockNumber),
}

impl ReadError {
    /// The same error, or what it means when the block was asked about.
    pub(crate) fn at_block(self, block: [u8; 32]) -> Self {
        match self {
            Self::Refused { source, .. } if source.is_about_pruned_state() => {
                Self::Pruned { block }
            }
            other => other,
        }
    }

    /// Who can do something about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Gone { .. } | Self::Refused { .. } => Kind::Elsewhere,
            Self::OtherChain { .. }
            | Self::Missing(_)
            | Self::Shape { .. }
            | Self::NoSubnet(_)
            | Self::Pruned { .. }
            | Self::NoBlock(_) => Kind::Caller,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Gone { .. } => "check that the node runs and that its address is right",
            Self::OtherChain { .. } => {
                "check the endpoint; where the chain itself began anew, restart this program"
            }
            Self::Missing(_) | Self::Shape { .. } => "check the endpoint, or upgrade this program",
            Self::NoSubnet(_) => "check the netuid and the network",
            Self::Pruned { .. } => "use an archive node, such as `archive`",
            Self::NoBlock(_) => "use the number of a block that exists",
            Self::Refused { .. } => return None,
        })
    }
}

/// Why something cannot be said to any chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// More bytes than the chain takes.
    #[error("{len} bytes are too many: the chain takes {len_max}")]
    TooLong {
        /// How many there are.
        len: usize,
        /// How many there may be.
        len_max: usize,
    },
}

/// Why something could not be said to the chain, or what became of it.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The chain had to be read first.
    #[error("prepare the extrinsic")]
    Read(#[from] ReadError),
    /// The subnet takes weights by commit and reveal only.
    #[error("subnet {0} takes weights by commit and reveal only")]
    CommitRevealRequired(Netuid),
    /// The call does not fit the node's runtime.
    #[error("the node's runtime does not take this call: {0}")]
    Encode(String),
    /// The pool did not take it: nothing has changed.
    #[error("the node did not take the extrinsic")]
    Pool(#[from] PoolRejection),
    /// It is in a block, and the chain undid it: only the fee is gone.
    #[error("the chain undid the extrinsic")]
    Dispatch(#[from] ModuleError),
    /// It is in no block and can be in none any more: nothing has changed.
    #[error("the extrinsic 0x{} has expired without being carried out", hex::encode(hash))]
    Expired {
        /// The extrinsic's hash.
        hash: [u8; 32],
    },
    /// Registration costs more than the caller wants to pay. Nothing was sent.
    #[error("registration on subnet {netuid} costs {price}, and the limit is {limit}")]
    TooExpensive {
        /// The subnet.
        netuid: Netuid,
        /// The price now.
        price: Rao,
        /// The caller's limit.
        limit: Rao,
    },
    /// The subnet takes no proof of work for a registration.
    #[error("subnet {0} takes no registration by proof of work")]
    NoProofOfWork(Netuid),
    /// The subnet takes proofs of work, and this program makes none.
    #[error("this program registers by payment only, not by proof of work")]
    ProofOfWorkNotOffered,
    /// A rate limit of the chain has not passed. Nothing was sent.
    #[error("the chain takes this again in {blocks} blocks")]
    TooSoon {
        /// Blocks until then.
        blocks: u64,
    },
    /// Nobody else could reach the address. Nothing was sent.
    #[error("{ip} cannot be reached by others on this network")]
    Unreachable {
        /// The address.
        ip: IpAddr,
    },
    /// It was sent, and no block with it was seen in time. It may still be included.
    #[error("the extrinsic 0x{} was sent, and not seen in a block", hex::encode(hash))]
    Unknown {
        /// The extrinsic's hash.
        hash: [u8; 32],
        /// What the search ended with; none if blocks came without it.
        #[source]
        source: Option<ReadError>,
    },
}

impl SubmitError {
    /// Who can do something about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read(error) => error.kind(),
            Self::CommitRevealRequired(_)
            | Self::Encode(_)
            | Self::TooExpensive { .. }
            | Self::NoProofOfWork(_)
            | Self::ProofOfWorkNotOffered
            | Self::Unreachable { .. } => Kind::Caller,
            Self::Pool(rejection) => rejection.kind(),
            Self::Dispatch(error) => error.kind(),
            Self::Unknown { .. } | Self::Expired { .. } | Self::TooSoon { .. } => Kind::Elsewhere,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Read(error) => error.remedy(),
            Self::CommitRevealRequired(_) => {
                Some("commit to the weights and reveal them, as `nicompute validator` does")
            }
            Self::Encode(_) => Some("upgrade this program, or check the network"),
            Self::Pool(rejection) => rejection.remedy(),
            Self::Dispatch(error) => error.remedy(),
            Self::Expired { .. } => Some("do it again"),
            Self::TooExpensive { .. } => {
                Some("raise the limit, or wait: the price falls while nobody registers")
            }
            Self::NoProofOfWork(_) | Self::ProofOfWorkNotOffered => {
                Some("register by payment: `nicompute subnet register`")
            }
            Self::TooSoon { .. } => Some("wait so many blocks and try again"),
            Self::Unreachable { .. } => {
                Some("announce the address at which the internet reaches this machine")
            }
            Self::Unknown { .. } => Some("look at the chain before it is tried again"),
        }
    }
}

impl NodeError {
    pub(crate) const fn new(error: rpcs::Error) -> Self {
        Self(error)
    }

    /// No node of several said anything.
    pub(crate) fn silent() -> Self {
        Self(rpcs::Error::Client("no node answered in time".into()))
    }

    /// Whether the connection is of no use any more. What the node itself answered is no such case.
    pub(crate) const fn lost(&self) -> bool {
        !matches!(self.0, rpcs::Error::User(_) | rpcs::Error::Deserialization(_))
    }

    /// Whether the node says that it has forgotten the state of a block.
    fn is_about_pruned_state(&self) -> bool {
        let rpcs::Error::User(error) = &self.0 else { return false };
        let says = |words: &str| error.message.contains(words);
        says("State already discarded") || says("UnknownBlock") || says("Unknown block")
    }

    /// Whether the node has no such method, or offers it to nobody: what was asked was not done.
    pub(crate) const fn is_about_missing_method(&self) -> bool {
        matches!(&self.0, rpcs::Error::User(error) if error.code == CODE_NO_METHOD)
    }

    /// Whether the node says that its runtime has no function of that name. Any other refusal may pass.
    pub(crate) fn is_about_missing_export(&self) -> bool {
        let rpcs::Error::User(error) = &self.0 else { return false };
        let data = error.data.as_ref().map_or("", |data| data.get());
        let text = format!("{} {data}", error.message).to_lowercase();
        text.contains("not found")
            && (text.contains("exported method") || text.contains("method not found"))
    }

    /// The pool's verdict, if this is one.
    pub(crate) fn pool_rejection(&self) -> Option<PoolRejection> {
        let rpcs::Error::User(error) = &self.0 else { return None };
        let data = error.data.as_ref().map(|data| data.get());
        PoolRejection::parse(error.code, &error.message, data)
    }
}
