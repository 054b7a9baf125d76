//! Storage, metadata, versions and runtime calls, at any block that is still known.

use std::sync::Arc;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::types::{Params, ParamsSequence};
use jsonrpsee::{PendingSubscriptionSink, RpcModule};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Context, error, hash, hex, send, unhex};
use crate::api;
use crate::face::Face;
use crate::hash::H256;
use crate::node::{Inner, Node};
use crate::state::{Past, Read as _};
use crate::version;

/// The most keys of one page; Substrate's own limit.
const KEYS_MAX: usize = 1_000;
/// The most keys of a list without pages, which old clients still use.
const UNPAGED_KEYS_MAX: usize = 65_536;
/// The most keys of one query or subscription.
const WATCHED_KEYS_MAX: usize = 4_096;

pub(super) fn register(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("state_getMetadata", |params, context, _| {
        face(&params, context).map(|face| hex(&face.metadata.v14))
    })?;
    module.register_method("state_getRuntimeVersion", |params, context, _| {
        face(&params, context).map(|face| version::json(face.runtime.spec_version))
    })?;
    module.register_alias("chain_getRuntimeVersion", "state_getRuntimeVersion")?;
    module.register_blocking_method("state_call", |params, context, _| {
        let mut params = params.sequence();
        let (method, data): (String, String) = (next(&mut params)?, next(&mut params)?);
        let data = unhex(&data)?;
        let inner = context.node.read();
        let (_, state) = at(&inner, &mut params)?;
        let answer = api::call(&context.node, &state, &method, &data);
        answer.map(|bytes| hex(&bytes)).map_err(|error| error::execution(&error.to_string()))
    })?;
    values(module)?;
    keys(module)?;
    module.register_subscription(
        "state_subscribeStorage",
        "state_storage",
        "state_unsubscribeStorage",
        |params, pending, context, _| follow_storage(params, pending, context),
    )?;
    module.register_subscription(
        "state_subscribeRuntimeVersion",
        "state_runtimeVersion",
        "state_unsubscribeRuntimeVersion",
        |_, pending, context, _| follow_version(pending, context),
    )?;
    Ok(())
}

fn values(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("state_getStorage", |params, context, _| {
        let mut params = params.sequence();
        let key = unhex(&next::<String>(&mut params)?)?;
        let inner = context.node.read();
        let (_, state) = at(&inner, &mut params)?;
        Ok::<_, error::RpcError>(state.raw(&key).map(hex))
    })?;
    module.register_alias("state_getStorageAt", "state_getStorage")?;
    module.register_method("state_queryStorageAt", |params, context, _| {
        let mut params = params.sequence();
        let keys = key_list(&next::<Vec<String>>(&mut params)?)?;
        let inner = context.node.read();
        let (at, state) = at(&inner, &mut params)?;
        let changes = keys.iter().map(|key| (key, state.raw(key)));
        Ok::<_, error::RpcError>(json!([change_set(&at, changes)]))
    })?;
    Ok(())
}

fn keys(module: &mut RpcModule<Context>) -> Result<(), RegisterMethodError> {
    module.register_method("state_getKeys", |params, context, _| {
        let mut params = params.sequence();
        let prefix = unhex(&next::<String>(&mut params)?)?;
        let inner = context.node.read();
        let (_, state) = at(&inner, &mut params)?;
        let keys = state.keys(&prefix, None, UNPAGED_KEYS_MAX);
        Ok::<_, error::RpcError>(keys.iter().map(|key| hex(key)).collect::<Vec<_>>())
    })?;
    module.register_method("state_getKeysPaged", |params, context, _| {
        let mut params = params.sequence();
        let prefix = unhex(&optional::<String>(&mut params)?.unwrap_or_default())?;
        let count: usize = next(&mut params)?;
        if count > KEYS_MAX {
            return Err(error::params("a page has at most 1000 keys"));
        }
        let after = optional::<String>(&mut params)?.map(|key| unhex(&key)).transpose()?;
        let inner = context.node.read();
        let (_, state) = at(&inner, &mut params)?;
        let keys = state.keys(&prefix, after.as_deref(), count);
        Ok(keys.iter().map(|key| hex(key)).collect::<Vec<_>>())
    })?;
    Ok(())
}

fn next<T: DeserializeOwned>(params: &mut ParamsSequence<'_>) -> Result<T, error::RpcError> {
    params.next().map_err(|_| error::params("a parameter is missing or of another kind"))
}

fn optional<T: DeserializeOwned>(
    params: &mut ParamsSequence<'_>,
) -> Result<Option<T>, error::RpcError> {
    params.optional_next().map_err(|_| error::params("a parameter is of another kind"))
}

/// The state that the last parameter asks for: the newest one without it.
fn at<'i>(
    inner: &'i Inner,
    params: &mut ParamsSequence<'_>,
) -> Result<(H256, Past<'i>), error::RpcError> {
    let at = match optional::<String>(params)? {
        Some(text) => hash(&text)?,
        None => inner.ledger.head().hash,
    };
    let state = inner.ledger.state_after(&at);
    Ok((at, state.ok_or_else(|| error::unknown_block(&hex(&at)))?))
}

/// The runtime of the block that the only parameter names.
fn face(params: &Params<'_>, context: &Context) -> Result<Arc<Face>, error::RpcError> {
    let inner = context.node.read();
    let (_, state) = at(&inner, &mut params.sequence())?;
    Ok(context.node.face_of(&state))
}

fn key_list(keys: &[String]) -> Result<Vec<Vec<u8>>, error::RpcError> {
    if keys.len() > WATCHED_KEYS_MAX {
        return Err(error::params("too many keys"));
    }
    keys.iter().map(|key| unhex(key)).collect()
}

fn change_set<'c>(
    block: &H256,
    changes: impl Iterator<Item = (&'c Vec<u8>, Option<&'c [u8]>)>,
) -> Value {
    let changes: Vec<_> = changes.map(|(key, value)| (hex(key), value.map(hex))).collect();
    json!({ "block": hex(block), "changes": changes })
}

/// The values of some keys, then every change of them.
async fn follow_storage(
    params: Params<'static>,
    pending: PendingSubscriptionSink,
    context: Arc<Context>,
) {
    let listed = optional::<Vec<String>>(&mut params.sequence())
        .and_then(|keys| key_list(&keys.ok_or_else(|| error::params("name the keys to follow"))?));
    let keys = match listed {
        Ok(keys) => keys,
        Err(error) => return pending.reject(error).await,
    };
    let mut heads = context.node.heads();
    let Ok(sink) = pending.accept().await else { return };
    let mut known: Option<Vec<Option<Vec<u8>>>> = None;
    loop {
        heads.mark_unchanged();
        let (block, values) = newest(&context.node, &keys);
        let changed =
            |index: usize| known.as_ref().is_none_or(|known| known.get(index) != values.get(index));
        let changes: Vec<_> = keys
            .iter()
            .zip(&values)
            .enumerate()
            .filter(|(index, _)| changed(*index))
            .map(|(_, (key, value))| (key, value.as_deref()))
            .collect();
        if (known.is_none() || !changes.is_empty())
            && !send(&sink, &change_set(&block, changes.into_iter())).await
        {
            return;
        }
        known = Some(values);
        tokio::select! {
            () = sink.closed() => return,
            () = context.stop.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}

fn newest(node: &Node, keys: &[Vec<u8>]) -> (H256, Vec<Option<Vec<u8>>>) {
    let inner = node.read();
    let state = inner.ledger.state();
    (inner.ledger.head().hash, keys.iter().map(|key| state.get(key).cloned()).collect())
}

/// The version, and again whenever the newest block brings another.
async fn follow_version(pending: PendingSubscriptionSink, context: Arc<Context>) {
    let mut heads = context.node.heads();
    let Ok(sink) = pending.accept().await else { return };
    let mut known = None;
    loop {
        heads.mark_unchanged();
        let version = context.node.current().runtime.spec_version;
        if known != Some(version) && !send(&sink, &version::json(version)).await {
            return;
        }
        known = Some(version);
        tokio::select! {
            () = sink.closed() => return,
            () = context.stop.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}
