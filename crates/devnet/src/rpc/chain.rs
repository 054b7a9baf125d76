//! Blocks, headers and hashes, asked for or followed.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::Params;
use jsonrpsee::{PendingSubscriptionSink, RpcModule};
use parity_scale_codec::Encode as _;
use serde_json::{Value, json};

use super::{BATCH_MAX, Context, error, hash, hex, send};
use crate::hash::H256;
use crate::ledger::{Header, Kept, Ledger};

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("chain_getBlockHash", |params, context, _| {
        let asked: Option<Value> =
            params.sequence().optional_next().map_err(|_| error::params("a block number"))?;
        block_hash(&context.node.read().ledger, asked)
    })?;
    module.register_alias("chain_getHead", "chain_getBlockHash")?;
    module.register_method("chain_getFinalizedHead", |_, context, _| {
        hex(&context.node.read().ledger.head().hash)
    })?;
    module.register_alias("chain_getFinalisedHead", "chain_getFinalizedHead")?;
    module.register_method("chain_getHeader", |params, context, _| {
        let asked = optional_hash(&params)?;
        let inner = context.node.read();
        let kept = find(&inner.ledger, asked.as_ref());
        Ok::<_, error::RpcError>(kept.map(|kept| header_json(&kept.block.header)))
    })?;
    module.register_method("chain_getBlock", |params, context, _| {
        let asked = optional_hash(&params)?;
        let inner = context.node.read();
        Ok::<_, error::RpcError>(find(&inner.ledger, asked.as_ref()).map(block_json))
    })?;
    for (subscribe, notify, unsubscribe) in [
        ("chain_subscribeNewHeads", "chain_newHead", "chain_unsubscribeNewHeads"),
        ("chain_subscribeAllHeads", "chain_allHead", "chain_unsubscribeAllHeads"),
        ("chain_subscribeFinalizedHeads", "chain_finalizedHead", "chain_unsubscribeFinalizedHeads"),
    ] {
        module.register_subscription(
            subscribe,
            notify,
            unsubscribe,
            |_, pending, context, _| follow_heads(pending, context),
        )?;
    }
    Ok(())
}

/// The newest header, then every later one.
async fn follow_heads(pending: PendingSubscriptionSink, context: Arc<Context>) {
    let mut heads = context.node.heads();
    let Ok(sink) = pending.accept().await else { return };
    let mut next = *heads.borrow_and_update();
    loop {
        let newest = *heads.borrow_and_update();
        while next <= newest {
            let header = header_of(&context, next);
            // A client that fell so far behind that the block is forgotten goes on with the next one.
            if let Some(header) = header
                && !send(&sink, &header).await
            {
                return;
            }
            next = next.saturating_add(1);
        }
        tokio::select! {
            () = sink.closed() => return,
            () = context.stop.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}

fn header_of(context: &Context, number: u32) -> Option<Value> {
    let inner = context.node.read();
    inner.ledger.by_number(number).map(|kept| header_json(&kept.block.header))
}

fn block_hash(ledger: &Ledger, asked: Option<Value>) -> Result<Value, error::RpcError> {
    match asked {
        None | Some(Value::Null) => Ok(json!(hex(&ledger.head().hash))),
        Some(Value::Array(numbers)) => {
            if numbers.len() > usize::try_from(BATCH_MAX).unwrap_or(usize::MAX) {
                return Err(error::params("too many block numbers"));
            }
            let hashes = numbers.iter().map(|number| numbered(ledger, number));
            Ok(Value::Array(hashes.collect::<Result<_, _>>()?))
        }
        Some(number) => numbered(ledger, &number),
    }
}

fn numbered(ledger: &Ledger, number: &Value) -> Result<Value, error::RpcError> {
    let number = u32::try_from(block_number(number)?).ok();
    Ok(json!(number.and_then(|number| ledger.hash_of(number)).map(|hash| hex(&hash))))
}

fn block_number(number: &Value) -> Result<u64, error::RpcError> {
    let bad = || error::params("a block number is a number or its hex text");
    if let Some(number) = number.as_u64() {
        return Ok(number);
    }
    let text = number.as_str().ok_or_else(bad)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| bad()),
        None => text.parse().map_err(|_| bad()),
    }
}

fn optional_hash(params: &Params<'_>) -> Result<Option<H256>, error::RpcError> {
    let text: Option<String> =
        params.sequence().optional_next().map_err(|_| error::params("a block hash"))?;
    text.map(|text| hash(&text)).transpose()
}

fn find<'l>(ledger: &'l Ledger, asked: Option<&H256>) -> Option<&'l Kept> {
    match asked {
        None => Some(ledger.head()),
        Some(hash) => ledger.by_hash(hash),
    }
}

fn block_json(kept: &Kept) -> Value {
    let extrinsics: Vec<String> = kept.block.extrinsics.iter().map(|bytes| hex(bytes)).collect();
    let header = header_json(&kept.block.header);
    json!({ "block": { "header": header, "extrinsics": extrinsics }, "justifications": null })
}

fn header_json(header: &Header) -> Value {
    let logs: Vec<String> = header.digest.iter().map(|item| hex(&item.encode())).collect();
    json!({
        "parentHash": hex(&header.parent),
        "number": format!("{:#x}", header.number),
        "stateRoot": hex(&header.state_root),
        "extrinsicsRoot": hex(&header.extrinsics_root),
        "digest": { "logs": logs },
    })
}
