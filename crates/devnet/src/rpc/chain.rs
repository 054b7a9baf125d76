//! Blocks, headers and hashes, asked for or followed.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::Params;
use jsonrpsee::{PendingSubscriptionSink, RpcModule};
use parity_scale_codec::Encode as _;
use serde_json::{Value, json};

use super::{BATCH_MAX, Context, error, hash, hex, send};
use crate::hash::H256;
use crate::ledger::{Block, Header, Ledger, Standing};
use crate::node::Node;

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("chain_getBlockHash", |params, context, _| {
        let asked: Option<Value> =
            params.sequence().optional_next().map_err(|_| error::params("a block number"))?;
        block_hash(&context.node.read().ledger, asked)
    })?;
    module.register_alias("chain_getHead", "chain_getBlockHash")?;
    module.register_method("chain_getFinalizedHead", |_, context, _| {
        hex(&context.node.finalized(&context.node.read().ledger).hash)
    })?;
    module.register_alias("chain_getFinalisedHead", "chain_getFinalizedHead")?;
    module.register_method("chain_getHeader", |params, context, _| {
        let asked = optional_hash(&params)?;
        let inner = context.node.read();
        let block = find(&inner.ledger, asked.as_ref());
        Ok::<_, error::RpcError>(block.map(|block| header_json(&block.header)))
    })?;
    module.register_method("chain_getBlock", |params, context, _| {
        let asked = optional_hash(&params)?;
        let inner = context.node.read();
        Ok::<_, error::RpcError>(find(&inner.ledger, asked.as_ref()).map(block_json))
    })?;
    module.register_subscription(
        "chain_subscribeNewHeads",
        "chain_newHead",
        "chain_unsubscribeNewHeads",
        |_, pending, context, _| follow_heads(pending, context, Which::Best),
    )?;
    module.register_subscription(
        "chain_subscribeAllHeads",
        "chain_allHead",
        "chain_unsubscribeAllHeads",
        |_, pending, context, _| follow_heads(pending, context, Which::All),
    )?;
    module.register_subscription(
        "chain_subscribeFinalizedHeads",
        "chain_finalizedHead",
        "chain_unsubscribeFinalizedHeads",
        |_, pending, context, _| follow_heads(pending, context, Which::Finalized),
    )?;
    Ok(())
}

/// Which heads a client follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Each newest block; of another branch only the one that outgrew the old branch, as Substrate tells it.
    Best,
    /// Each block of every branch.
    All,
    /// Each block that became final.
    Finalized,
}

/// The newest header, then every later one.
async fn follow_heads(pending: PendingSubscriptionSink, context: Arc<Context>, which: Which) {
    let mut heads = context.node.heads();
    let Ok(sink) = pending.accept().await else { return };
    let mut seen = None;
    loop {
        heads.mark_unchanged();
        for (hash, header) in unseen(&context.node, seen, which) {
            if !send(&sink, &header).await {
                return;
            }
            seen = Some(hash);
        }
        tokio::select! {
            () = sink.closed() => return,
            () = context.stop.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}

/// The headers behind the last one that a client saw; the newest one alone if it saw none.
fn unseen(node: &Node, seen: Option<H256>, which: Which) -> Vec<(H256, Value)> {
    let inner = node.read();
    let newest = match which {
        Which::Best | Which::All => inner.ledger.head(),
        Which::Finalized => node.finalized(&inner.ledger),
    };
    let mut blocks = match seen {
        None => vec![newest],
        Some(seen) => {
            let (blocks, standing) = inner.ledger.since(&seen);
            let all = standing == Standing::Best || which == Which::All;
            if all { blocks } else { vec![newest] }
        }
    };
    let last = newest.block.header.number;
    blocks.retain(|kept| kept.block.header.number <= last);
    blocks.into_iter().map(|kept| (kept.hash, header_json(&kept.block.header))).collect()
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

fn find<'l>(ledger: &'l Ledger, asked: Option<&H256>) -> Option<&'l Block> {
    match asked {
        None => Some(&ledger.head().block),
        Some(hash) => ledger.by_hash(hash),
    }
}

fn block_json(block: &Block) -> Value {
    let extrinsics: Vec<String> = block.extrinsics.iter().map(|bytes| hex(bytes)).collect();
    let header = header_json(&block.header);
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
