//! Why something is not done to a lease.

use nicompute_host::runtime::RuntimeError;
use nicompute_market::{LeaseRefusal, OfferId};

use crate::store::StoreError;

/// Why something is not done to a lease. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No offer of this name.
    #[error("there is no offer {0}")]
    NoSuchOffer(OfferId),
    /// Held, and not to be waited for.
    #[error("another lease holds the offer, or is still being cleared away")]
    Occupied,
    /// A GPU of the offer is missing on the machine at the moment.
    #[error("the GPU {0} of the offer is missing at the moment")]
    GpuMissing(String),
    /// Other leases have the ports.
    #[error("this node has fewer ports left than field options.ports asks for")]
    NoPorts,
    /// The id is that of another order.
    #[error("this lease id was used before, in a request with other words")]
    OtherWords,
    /// No such image in the offer.
    #[error("field image names none of the offer's images")]
    NoSuchImage,
    /// No image at all.
    #[error("this node has no image at the moment")]
    NoImages,
    /// A field that breaks a rule.
    #[error("field {field} {problem}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that is none, or too many of them.
    #[error("{0}")]
    BadKey(String),
    /// Whoever asks holds no lease of this id: what is not yours does not exist.
    #[error("you hold no lease of this id here")]
    NoSuchLease,
    /// It does not fit where the lease stands.
    #[error(transparent)]
    WrongState(#[from] LeaseRefusal),
    /// One lease must not fill the disk with its history.
    #[error("the lease was changed as often as a lease can be")]
    Spent,
    /// Others change it at the same time.
    #[error("the lease is changing too fast")]
    Changing,
    /// The store.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The runtime.
    #[error("the runtime failed")]
    Runtime(#[from] RuntimeError),
}

impl Denied {
    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }
}
