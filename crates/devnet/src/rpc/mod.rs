//! The JSON-RPC door: Substrate's methods over WebSocket and HTTP, with limits on everything that a client decides.
//!
//! The new `chainHead_*` and `transactionWatch_*` families are not offered; clients then use the methods that are.

mod author;
mod beacon;
mod chain;
mod control;
mod error;
mod gate;
mod state;
mod system;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::server::{
    BatchRequestConfig, RandomStringIdProvider, Server, ServerConfig, ServerHandle,
};
use jsonrpsee::{RpcModule, SubscriptionSink};
use nicompute_daemon::CancellationToken;
use serde::Serialize;
use tokio::sync::mpsc;

pub(crate) use gate::Gate;
use gate::Held;

use crate::devnet::Order;
use crate::hash::H256;
use crate::node::Node;

/// Connections at once. A market of one machine has a few per process; Python tools open one each.
pub const CONNECTIONS_MAX: u32 = 256;
/// The largest request. An extrinsic of the longest kind is 128 KiB of hex.
pub const REQUEST_BYTES_MAX: u32 = 1024 * 1024;
/// The largest answer. The metadata is under 1 MiB of hex, a full metagraph under 2 MiB.
pub const RESPONSE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Subscriptions of one connection.
pub const SUBSCRIPTIONS_MAX: u32 = 256;
/// Requests of one batch.
pub const BATCH_MAX: u32 = 256;
/// Messages that wait for a client that reads slowly.
const MESSAGE_BUFFER: u32 = 256;
/// The length of a subscription's id.
const SUBSCRIPTION_ID_LEN: usize = 16;

/// How long connections may take to end before they are left to themselves.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What every method can reach.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node: Arc<Node>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) stop: CancellationToken,
}

/// The open door.
#[derive(Debug)]
pub(crate) struct Door {
    handle: ServerHandle,
    stop: CancellationToken,
}

impl Door {
    /// Ends every connection.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        // Fails only if the server is gone already.
        if self.handle.stop().is_ok()
            && tokio::time::timeout(CLOSE_LIMIT, self.handle.clone().stopped()).await.is_err()
        {
            tracing::warn!("a connection did not end in time");
        }
    }
}

/// Why the door could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    #[error("could not listen")]
    Listen(#[source] std::io::Error),
    #[error("a method is registered twice")]
    Register(#[source] RegisterMethodError),
}

/// Takes the port.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Begins to answer.
pub(crate) fn open(
    listener: TcpListener,
    context: Context,
    gate: Arc<Gate>,
) -> Result<Door, DoorError> {
    let config = ServerConfig::builder()
        .max_connections(CONNECTIONS_MAX)
        .max_request_body_size(REQUEST_BYTES_MAX)
        .max_response_body_size(RESPONSE_BYTES_MAX)
        .max_subscriptions_per_connection(SUBSCRIPTIONS_MAX)
        .set_batch_request_config(BatchRequestConfig::Limit(BATCH_MAX))
        .set_message_buffer_capacity(MESSAGE_BUFFER)
        .set_id_provider(RandomStringIdProvider::new(SUBSCRIPTION_ID_LEN))
        .build();
    let held = RpcServiceBuilder::new().layer_fn(move |inner| Held::new(inner, Arc::clone(&gate)));
    let builder = Server::builder().set_config(config).set_rpc_middleware(held);
    let server = builder.build_from_tcp(listener).map_err(DoorError::Listen)?;
    let stop = context.stop.clone();
    let methods = methods(context).map_err(DoorError::Register)?;
    Ok(Door { handle: server.start(methods), stop })
}

fn methods(context: Context) -> Result<RpcModule<Context>, RegisterMethodError> {
    let mut module = RpcModule::new(context);
    system::register(&mut module)?;
    state::register(&mut module)?;
    chain::register(&mut module)?;
    author::register(&mut module)?;
    beacon::register(&mut module)?;
    control::register(&mut module)?;
    let mut names: Vec<&'static str> = module.method_names().collect();
    names.push("rpc_methods");
    names.sort_unstable();
    module
        .register_method("rpc_methods", move |_, _, _| serde_json::json!({ "methods": names }))?;
    Ok(module)
}

/// Bytes as clients write them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// Bytes from a client, with or without `0x`.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>, error::RpcError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode(digits).map_err(|_| error::params("a parameter is not hex"))
}

/// A hash from a client.
pub(super) fn hash(text: &str) -> Result<H256, error::RpcError> {
    unhex(text)?.try_into().map_err(|_| error::params("a hash has 32 bytes"))
}

/// Sends one notification. Says whether the client still listens.
pub(super) async fn send(sink: &SubscriptionSink, message: &impl Serialize) -> bool {
    match serde_json::value::to_raw_value(message) {
        Ok(message) => sink.send(message).await.is_ok(),
        Err(error) => {
            tracing::error!(error = %error, "a notification could not be written");
            false
        }
    }
}
