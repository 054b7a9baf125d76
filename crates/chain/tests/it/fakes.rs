//! Nodes that are not what they seem: one that passes on what a real one says, except where a rule says otherwise, and one
//! that breaks the WebSocket itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jsonrpsee::RpcModule;
use jsonrpsee::core::client::{ClientT as _, SubscriptionClientT as _};
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::server::{Server, ServerHandle};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is answered instead; none passes the question on.
type Rule = Box<dyn Fn(&str, &[Value]) -> Option<Result<Value, ErrorObjectOwned>> + Send + Sync>;
/// A question that is passed on, and what is answered instead of what came back.
type Twist = Option<(&'static str, Result<Value, ErrorObjectOwned>)>;

/// The questions of the client.
const METHODS: [&str; 15] = [
    "system_chain",
    "system_chainType",
    "system_health",
    "system_accountNextIndex",
    "chain_getBlockHash",
    "chain_getHeader",
    "chain_getFinalizedHead",
    "chain_getBlock",
    "state_getRuntimeVersion",
    "state_getMetadata",
    "state_call",
    "state_getStorage",
    "state_queryStorageAt",
    "state_getKeysPaged",
    "author_submitExtrinsic",
];

/// A node that says what another one says, except where its rule says otherwise.
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    rule: Arc<Mutex<Rule>>,
    twist: Arc<Mutex<Twist>>,
    handle: ServerHandle,
}

struct Inner {
    real: WsClient,
    rule: Arc<Mutex<Rule>>,
    twist: Arc<Mutex<Twist>>,
}

impl Liar {
    pub(crate) async fn before(real: &str) -> Self {
        Self::at(real, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn at(real: &str, address: SocketAddr) -> Self {
        let real = WsClientBuilder::default().build(real).await.unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(|_, _| None)));
        let twist = Arc::new(Mutex::new(None));
        let inner = Inner { real, rule: Arc::clone(&rule), twist: Arc::clone(&twist) };
        let mut module = RpcModule::new(inner);
        for name in METHODS {
            let answer = move |params: Params<'static>, inner: Arc<Inner>, _| async move {
                let list: Vec<Value> = params.parse().unwrap_or_default();
                if let Some(answer) = (inner.rule.lock().unwrap())(name, &list) {
                    return answer;
                }
                let mut array = ArrayParams::new();
                for value in list {
                    array.insert(value).unwrap();
                }
                let answer: Result<Value, _> = inner.real.request(name, array).await;
                if let Some((twisted, instead)) = &*inner.twist.lock().unwrap()
                    && *twisted == name
                {
                    return instead.clone();
                }
                answer.map_err(|error| match error {
                    jsonrpsee::core::ClientError::Call(error) => error,
                    other => ErrorObjectOwned::owned(-1, other.to_string(), None::<()>),
                })
            };
            module.register_async_method(name, answer).unwrap();
        }
        let heads = ("chain_subscribeNewHeads", "chain_newHead", "chain_unsubscribeNewHeads");
        module
            .register_subscription(heads.0, heads.1, heads.2, |_, pending, inner, _| async move {
                let sink = pending.accept().await.unwrap();
                let (ask, end) = ("chain_subscribeNewHeads", "chain_unsubscribeNewHeads");
                let mute = (inner.rule.lock().unwrap())(ask, &[]).is_some();
                let empty = ArrayParams::new();
                let mut real = inner.real.subscribe::<Value, _>(ask, empty, end).await.unwrap();
                while let Some(Ok(head)) = real.next().await {
                    let head = serde_json::value::to_raw_value(&head).unwrap();
                    if !mute && sink.send(head).await.is_err() {
                        return;
                    }
                    if sink.is_closed() {
                        return;
                    }
                }
            })
            .unwrap();
        let server = Server::builder().build(address).await.unwrap();
        let address = server.local_addr().unwrap();
        Self { address, rule, twist, handle: server.start(module) }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Answers by this rule from now on.
    pub(crate) fn answers(
        &self,
        rule: impl Fn(&str, &[Value]) -> Option<Result<Value, ErrorObjectOwned>> + Send + Sync + 'static,
    ) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Passes this question on from now on, and answers something else.
    pub(crate) fn twists(&self, method: &'static str, answer: Result<Value, ErrorObjectOwned>) {
        *self.twist.lock().unwrap() = Some((method, answer));
    }

    pub(crate) async fn stop(self) {
        self.handle.stop().unwrap();
        self.handle.stopped().await;
    }
}

/// What a [`Wire`] does with the connections that go through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Connections stay open, and nothing comes over them.
    Silence,
    /// These bytes come instead of the node's, and nothing after them.
    Bytes(Vec<u8>),
    /// Connections end, and new ones are not taken.
    Cut,
}

/// The wire between a client and a node, which can fail.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    fault: watch::Sender<Fault>,
    running: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn before(real: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fault = watch::Sender::new(Fault::None);
        let faults = fault.clone();
        #[expect(clippy::disallowed_methods, reason = "a test's own helper, aborted at its end")]
        let running = tokio::spawn(async move {
            let mut joined = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if *faults.borrow() == Fault::Cut {
                    continue;
                }
                joined.spawn(carry(stream, real, faults.subscribe()));
            }
        });
        Self { address, fault, running }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) fn fails(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn carry(mut client: TcpStream, real: SocketAddr, mut fault: watch::Receiver<Fault>) {
    let Ok(mut node) = TcpStream::connect(real).await else { return };
    let (mut from_client, mut from_node) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let now = fault.borrow_and_update().clone();
        match now {
            Fault::None | Fault::Silence => {}
            Fault::Cut => return,
            Fault::Bytes(bytes) => {
                if client.write_all(&bytes).await.is_err() {
                    return;
                }
                // Whatever the client makes of it, the connection is left open.
                while client.read(&mut from_client).await.is_ok_and(|count| count > 0) {}
                return;
            }
        }
        let silent = *fault.borrow() == Fault::Silence;
        tokio::select! {
            changed = fault.changed() => if changed.is_err() { return },
            read = client.read(&mut from_client) => {
                let count = read.unwrap_or(0);
                if count == 0 || node.write_all(&from_client[..count]).await.is_err() {
                    return;
                }
            }
            read = node.read(&mut from_node), if !silent => {
                let count = read.unwrap_or(0);
                if count == 0 || client.write_all(&from_node[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
