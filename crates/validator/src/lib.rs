//! The validator: discovers providers, proves their machines, keeps the evidence, scores, sets weights, brokers rentals.
//!
//! Its loops are idempotent and take no input: `follow` reads the subnet, `discover` the providers' offers, `prove` runs
//! sessions on leases of its own, `weights` turns stored evidence into weights on the chain, `rentals` follows the leases
//! that were brokered. What must survive is stored before it takes effect: a validator that was killed gives back, after its
//! restart, every lease that it had asked for. The outside world sees one [`Handle`].

mod api_key;
mod asking;
mod board;
mod catalogue;
mod chain_view;
mod config;
mod context;
mod denied;
mod files;
mod handle;
mod legs;
mod loops;
mod session;
mod store;
mod validator;

pub use catalogue::{
    CATALOGUE_SIGNATURE_BYTES_MAX, CatalogueOrigin, CatalogueSignError, SignedCatalogueError,
    open_catalogue, sign_catalogue,
};
pub use config::{Intervals, Policies, ProofProfile, ProofSize, Provers, ValidatorConfig};
pub use denied::Denied;
pub use handle::{Handle, Health, Principal};
pub use legs::{LegFigure, LegKind, LegSet, LegSetError, figures};
pub use loops::LoopStatus;
pub use loops::rentals::RentalAct;
pub use session::{
    Blame, ChannelError, DeviceShown, ProofChannel, ProofDoor, Proven, SessionPlan, capability,
    name_mismatches, prove, shown_by_device,
};
pub use store::{ApiKeyInfo, DirLockError, StoreError, StoredEvidence, WeightSet};
pub use validator::{StartError, StillSubnet, Validator};
