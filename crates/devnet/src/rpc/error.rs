//! Errors with the numbers that Substrate's nodes use, because clients read them.

use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::types::error::INVALID_PARAMS_CODE;

use crate::chaos::ChaosError;
use crate::node::{ExtrinsicFormat, SubmitError};
use crate::pool::PoolError;
use crate::runtime::beacon::PulseError;

pub(super) type RpcError = ErrorObjectOwned;

const CLIENT_ERROR: i32 = 4003;
const BAD_FORMAT: i32 = 1001;
const INVALID_TRANSACTION: i32 = 1010;
const UNKNOWN_VALIDITY: i32 = 1011;
const ALREADY_IMPORTED: i32 = 1013;
const TOO_LOW_PRIORITY: i32 = 1014;
const IMMEDIATELY_DROPPED: i32 = 1016;

/// A parameter that is missing or of the wrong kind.
pub(super) fn params(what: &str) -> RpcError {
    RpcError::owned(INVALID_PARAMS_CODE, "Invalid params", Some(what))
}

/// A block that is not, or no longer, known.
pub(super) fn unknown_block(hash: &str) -> RpcError {
    let message = format!("Client error: UnknownBlock: State already discarded for {hash}");
    RpcError::owned(CLIENT_ERROR, message, None::<()>)
}

/// A runtime call that failed.
pub(super) fn execution(what: &str) -> RpcError {
    RpcError::owned(CLIENT_ERROR, format!("Client error: Execution failed: {what}"), None::<()>)
}

/// A pulse that was not taken.
pub(super) fn pulse(error: &PulseError) -> RpcError {
    RpcError::owned(CLIENT_ERROR, format!("Client error: {error}"), None::<()>)
}

/// An extrinsic that was not taken.
pub(super) fn submit(error: SubmitError) -> RpcError {
    match error {
        SubmitError::Format(ExtrinsicFormat::MetadataHash) => RpcError::owned(
            UNKNOWN_VALIDITY,
            "Unknown Transaction Validity",
            Some("Could not lookup information required to validate the transaction"),
        ),
        SubmitError::Format(format) => {
            let message = format!("Extrinsic has invalid format: {format}");
            RpcError::owned(BAD_FORMAT, message, None::<()>)
        }
        SubmitError::Invalid(invalid) => {
            RpcError::owned(INVALID_TRANSACTION, "Invalid Transaction", Some(invalid.to_string()))
        }
        SubmitError::Pool(pool) => refused_by_pool(pool),
    }
}

fn refused_by_pool(error: PoolError) -> RpcError {
    match error {
        PoolError::AlreadyImported => RpcError::owned(
            ALREADY_IMPORTED,
            "Transaction Already Imported",
            Some("The transaction is already in the pool."),
        ),
        PoolError::NonceTaken => RpcError::owned(
            TOO_LOW_PRIORITY,
            "Priority is too low",
            Some(
                "The transaction has too low priority to replace another transaction already in \
                 the pool.",
            ),
        ),
        PoolError::Full => RpcError::owned(
            IMMEDIATELY_DROPPED,
            "Immediately Dropped",
            Some("The transaction couldn't enter the pool because of the limit."),
        ),
    }
}

/// A fault that was not made.
pub(super) fn control(error: &ChaosError) -> RpcError {
    RpcError::owned(CLIENT_ERROR, error.to_string(), None::<()>)
}
