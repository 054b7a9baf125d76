//! What only a devnet offers: faults on command, and a look at everything.

use jsonrpsee::RpcModule;
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::Params;
use tokio::sync::oneshot;

use super::{Context, error};
use crate::chaos::{Chaos, ChaosDone, ChaosError};
use crate::devnet::Order;
use crate::dump;

/// What the names of these methods begin with.
pub(super) const PREFIX: &str = "devnet_";

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_async_method("devnet_chaos", |params, context, _| async move {
        let chaos = chaos(&params)?;
        make(&context, chaos).await.map_err(|failure| error::control(&failure))
    })?;
    module.register_blocking_method("devnet_dump", |_, context, _| {
        Ok::<_, error::RpcError>(dump::of(&context.node))
    })?;
    Ok(())
}

/// The fault, as the only parameter or as the parameters themselves.
fn chaos(params: &Params<'_>) -> Result<Chaos, error::RpcError> {
    params.one().or_else(|_| params.parse()).map_err(|_| {
        error::params(
            "a fault: {\"stall\": {\"ms\": 5000}}, {\"fork\": {\"depth\": 2}}, \"restart\" \
             or {\"upgrade\": {\"change\": \"all\"}}",
        )
    })
}

/// Carries out a fault. A restart ends this connection too, so it is answered before it happens.
async fn make(context: &Context, chaos: Chaos) -> Result<Option<ChaosDone>, ChaosError> {
    let (done, answer) = oneshot::channel();
    context.orders.send(Order { chaos, done }).await.map_err(|_| ChaosError::Stopped)?;
    if chaos == Chaos::Restart {
        return Ok(None);
    }
    answer.await.map_err(|_| ChaosError::Stopped)?.map(Some)
}
