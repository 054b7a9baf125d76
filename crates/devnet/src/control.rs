//! The other end of `devnet_chaos` and `devnet_dump`: one connection to a running devnet.
//!
//! It asks first whom it talks to, and it connects to loopback addresses only: a fault is never sent to a chain that others
//! use.

use std::net::SocketAddr;
use std::time::Duration;

use jsonrpsee::core::client::{ClientT, Error as ClientError};
use jsonrpsee::rpc_params;
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::CHAIN_NAME;
use crate::chaos::Chaos;
use crate::dump::Dump;
use crate::rpc::RESPONSE_BYTES_MAX;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a devnet.
#[derive(Debug)]
pub struct Control {
    client: WsClient,
}

/// Why a devnet was not controlled.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another machine.
    #[error("{0} is not a loopback address, so no devnet listens there")]
    NotLoopback(SocketAddr),
    /// Nobody answers.
    #[error("no devnet answers at {address}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: ClientError,
    },
    /// Another chain.
    #[error("the chain at {address} is {name:?}, not a devnet")]
    NotADevnet {
        /// Where.
        address: SocketAddr,
        /// What it calls itself.
        name: String,
    },
    /// It said no.
    #[error("the devnet refused: {0}")]
    Refused(String),
    /// The answer did not come, or makes no sense.
    #[error("the devnet did not answer")]
    Unanswered(#[source] ClientError),
}

impl Control {
    /// Connects, and makes sure that it is a devnet.
    ///
    /// # Errors
    /// Where the address is not a local one, nobody answers, or another chain does.
    pub async fn connect(address: SocketAddr) -> Result<Self, ControlError> {
        if !address.ip().is_loopback() {
            return Err(ControlError::NotLoopback(address));
        }
        let unreachable = |source| ControlError::Unreachable { address, source };
        let client = WsClientBuilder::default()
            .request_timeout(PATIENCE)
            .connection_timeout(PATIENCE)
            .max_response_size(RESPONSE_BYTES_MAX)
            .build(format!("ws://{address}"))
            .await
            .map_err(unreachable)?;
        let methods: Value =
            client.request("rpc_methods", rpc_params![]).await.map_err(unreachable)?;
        let name: String =
            client.request("system_chain", rpc_params![]).await.map_err(unreachable)?;
        let listed = methods["methods"].as_array().into_iter().flatten();
        let controlled = listed.into_iter().any(|method| method == "devnet_chaos");
        if name != CHAIN_NAME || !controlled {
            return Err(ControlError::NotADevnet { address, name });
        }
        Ok(Self { client })
    }

    /// Makes a fault; what the devnet says about itself afterwards, or null before a restart.
    ///
    /// # Errors
    /// Where the devnet refuses or does not answer.
    pub async fn chaos(&self, chaos: Chaos) -> Result<Value, ControlError> {
        self.ask("devnet_chaos", vec![serde_json::json!(chaos)]).await
    }

    /// Everything that can be seen of the chain at its newest block.
    ///
    /// # Errors
    /// Where the devnet does not answer.
    pub async fn dump(&self) -> Result<Dump, ControlError> {
        self.ask("devnet_dump", Vec::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Vec<Value>,
    ) -> Result<T, ControlError> {
        self.client.request(method, params).await.map_err(|error| match error {
            ClientError::Call(refusal) => ControlError::Refused(match refusal.data() {
                Some(data) => format!("{}: {}", refusal.message(), data.get()),
                None => refusal.message().to_owned(),
            }),
            other => ControlError::Unanswered(other),
        })
    }
}
