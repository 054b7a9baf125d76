//! Handing in extrinsics, and asking what one would cost.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::Params;
use jsonrpsee::{PendingSubscriptionSink, RpcModule};
use serde_json::{Value, json};

use super::{Context, error, hex, send, unhex};
use crate::events::{CALL_REF_TIME, Pays};
use crate::node::SubmitError;
use crate::pool::Status;
use crate::runtime::fees;

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("author_submitExtrinsic", |params, context, _| {
        let hash = context.node.submit(extrinsic(&params)?).map_err(error::submit)?;
        Ok::<_, error::RpcError>(hex(&hash))
    })?;
    module.register_method("author_pendingExtrinsics", |_, context, _| {
        let inner = context.node.read();
        inner.pool.iter().map(|entry| hex(&entry.bytes)).collect::<Vec<_>>()
    })?;
    module.register_method("payment_queryInfo", |params, context, _| {
        let bytes = extrinsic(&params)?;
        let decoded = context.node.decode(&bytes);
        let (_, call) = decoded.map_err(|format| error::submit(SubmitError::Format(format)))?;
        Ok::<_, error::RpcError>(info_json(fees::pays(&call), bytes.len()))
    })?;
    module.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        |params, pending, context, _| submit_and_watch(params, pending, context),
    )?;
    Ok(())
}

async fn submit_and_watch(
    params: Params<'static>,
    pending: PendingSubscriptionSink,
    context: Arc<Context>,
) {
    let submitted = extrinsic(&params)
        .and_then(|bytes| context.node.submit_and_watch(bytes).map_err(error::submit));
    let mut statuses = match submitted {
        Ok(statuses) => statuses,
        Err(error) => return pending.reject(error).await,
    };
    let Ok(sink) = pending.accept().await else { return };
    loop {
        let status = tokio::select! {
            () = sink.closed() => return,
            () = context.stop.cancelled() => return,
            status = statuses.recv() => status,
        };
        let Some(status) = status else { return };
        if !send(&sink, &status_json(status)).await {
            return;
        }
    }
}

fn extrinsic(params: &Params<'_>) -> Result<Vec<u8>, error::RpcError> {
    let text: String =
        params.sequence().next().map_err(|_| error::params("an extrinsic in hex"))?;
    unhex(&text)
}

fn status_json(status: Status) -> Value {
    match status {
        Status::Ready => json!("ready"),
        Status::InBlock(hash) => json!({ "inBlock": hex(&hash) }),
        Status::Retracted(hash) => json!({ "retracted": hex(&hash) }),
        Status::Finalized(hash) => json!({ "finalized": hex(&hash) }),
        Status::Dropped => json!("dropped"),
        Status::Invalid => json!("invalid"),
    }
}

fn info_json(pays: Pays, len: usize) -> Value {
    json!({
        "weight": { "ref_time": CALL_REF_TIME, "proof_size": 0 },
        "class": "normal",
        "partialFee": fees::fee(pays, len).to_string(),
    })
}
