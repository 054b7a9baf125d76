//! Handing in a round of a recorded beacon: `devnet_pulse(round, signature)`.

use jsonrpsee::RpcModule;
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::Params;

use super::{Context, error, unhex};
use crate::runtime::beacon::SIGNATURE_LEN;

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_blocking_method("devnet_pulse", |params, context, _| {
        let (round, signature) = pulse(&params)?;
        context.node.offer_pulse(round, signature).map_err(|error| error::pulse(&error))?;
        Ok::<_, error::RpcError>(round)
    })?;
    Ok(())
}

fn pulse(params: &Params<'_>) -> Result<(u64, [u8; SIGNATURE_LEN]), error::RpcError> {
    let wrong = || error::params("a round and its signature of 48 bytes in hex");
    let mut params = params.sequence();
    let round: u64 = params.next().map_err(|_| wrong())?;
    let signature: String = params.next().map_err(|_| wrong())?;
    let signature = unhex(&signature)?.try_into().map_err(|_| wrong())?;
    Ok((round, signature))
}
