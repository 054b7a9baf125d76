//! A provider's node on loopback: leases in memory, the real signatures, and lies on demand.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use nicompute_daemon::{OnError, SharedClock, SystemClock, Tasks};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Hotkey, LeaseId};
use nicompute_wire::btauth::{self, sign_response};
use nicompute_wire::codes::{Code, Problem};
use nicompute_wire::hostkey;
use nicompute_wire::node::LeaseRequest;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub(crate) const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
const OTHER_HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP//////////////////////////////////////////";

/// What the provider does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Answers without a signature.
    Unsigned,
    /// Answers that another key signed.
    OtherSigner,
    /// A lease whose gateway has another host key than the hotkey vouches for.
    OtherHostKey,
    /// Takes no request for a lease, because somebody has the machine.
    Occupied,
    /// Takes a lease and then never says that it is over.
    NeverReleases,
    /// Signed answers of another shape.
    Nonsense,
    /// Says that the offer is taken.
    Unavailable,
    /// Offers without limits.
    NoLimits,
    /// Says of every lease that a renter had it, as soon as it is asked why a proof ended.
    Preempts,
    /// Takes a lease, loses the answer, and calls itself occupied when it is asked again. Releases do not reach it.
    TakesAndForgets,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) lie: Lie,
    pub(crate) price: u64,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    /// What it checks nonces by.
    pub(crate) clock: SharedClock,
    /// Method and path of every request.
    pub(crate) log: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) request: LeaseRequest,
    pub(crate) holder: Hotkey,
    pub(crate) is_over: bool,
    /// Questions after it that did not wait for a change.
    pub(crate) asked: u32,
    pub(crate) is_preempted: bool,
}

#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) key: Keypair,
    pub(crate) address: SocketAddr,
    pub(crate) inner: Arc<Mutex<Inner>>,
    /// Without a permit no request for a lease gets past the door, though it is counted as one that waits.
    pub(crate) gate: Arc<Semaphore>,
    stop: Tasks,
}

impl Provider {
    pub(crate) async fn start(seed: &str, lie: Lie) -> Self {
        Self::start_at(IpAddr::from([127, 0, 0, 1]), seed, lie).await
    }

    pub(crate) async fn start_at(ip: IpAddr, seed: &str, lie: Lie) -> Self {
        let key = Keypair::from_uri(seed, Scheme::Sr25519).unwrap();
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let clock = SystemClock::shared();
        let inner = Inner { lie, price: 1_000, leases: BTreeMap::new(), clock, log: Vec::new() };
        let stop = Tasks::new();
        let provider = Self {
            key,
            address,
            inner: Arc::new(Mutex::new(inner)),
            gate: Arc::new(Semaphore::new(1)),
            stop,
        };
        let app = Router::new().fallback(answer).with_state(provider.clone());
        let token = provider.stop.token().clone();
        provider.stop.spawn("provider", OnError::Log, async move {
            let ended = async move { token.cancelled().await };
            Ok(axum::serve(listener, app).with_graceful_shutdown(ended).await?)
        });
        provider
    }

    pub(crate) fn hotkey(&self) -> Hotkey {
        self.key.hotkey()
    }

    pub(crate) fn set_lie(&self, lie: Lie) {
        self.inner.lock().unwrap().lie = lie;
    }

    /// Leases that are held now.
    pub(crate) fn held(&self) -> Vec<LeaseId> {
        let inner = self.inner.lock().unwrap();
        inner.leases.iter().filter(|(_, lease)| !lease.is_over).map(|(id, _)| *id).collect()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.inner.lock().unwrap().log.iter().filter(|entry| entry.starts_with(call)).count()
    }

    fn reply(&self, method: &Method, path: &str, body: &[u8], sender: Hotkey) -> (u16, String) {
        let mut inner = self.inner.lock().unwrap();
        inner.log.push(format!("{method} {path}"));
        if inner.lie == Lie::Nonsense {
            return (200, "{\"offers\": {\"a\": \"\\u001b[2J\"}}".to_owned());
        }
        let id = path.strip_prefix("/v1/leases/").map(|id| id.parse::<LeaseId>().unwrap());
        match (method, path, id) {
            (&Method::GET, "/v1/node", _) => (200, self.node().to_string()),
            (&Method::GET, "/v1/offers", _) => (200, offers(&inner).to_string()),
            (&Method::POST, "/v1/leases", _) => {
                let request: LeaseRequest = serde_json::from_slice(body).unwrap();
                let is_held = |(id, lease): (&LeaseId, &Lease)| *id != request.id && !lease.is_over;
                let is_taken = matches!(inner.lie, Lie::Occupied | Lie::Unavailable)
                    || (inner.lie == Lie::TakesAndForgets
                        && inner.leases.contains_key(&request.id));
                if is_taken || inner.leases.iter().any(is_held) {
                    return problem(Code::Occupied, "taken");
                }
                let known = inner.leases.get(&request.id);
                if known.is_some_and(|known| known.request != request) {
                    return problem(Code::LeaseConflict, "other words");
                }
                let lease = Lease {
                    request: request.clone(),
                    holder: sender,
                    is_over: false,
                    asked: 0,
                    is_preempted: false,
                };
                let lease = inner.leases.entry(request.id).or_insert(lease).clone();
                (201, view(&inner, &lease).to_string())
            }
            (method, _, Some(id)) => {
                let lie = inner.lie;
                let lease = inner.leases.get_mut(&id).filter(|lease| lease.holder == sender);
                let Some(lease) = lease else { return problem(Code::NoSuchLease, "none") };
                let is_heard = !matches!(lie, Lie::NeverReleases | Lie::TakesAndForgets);
                lease.is_over |= *method == Method::DELETE && is_heard;
                let lease = lease.clone();
                (200, view(&inner, &lease).to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Somebody asks after a lease, without waiting for a change.
    fn preempts(&self, path: &str) {
        let mut inner = self.inner.lock().unwrap();
        let id = path.strip_prefix("/v1/leases/").map(|id| id.parse::<LeaseId>().unwrap());
        let is_meant = inner.lie == Lie::Preempts;
        if let Some(lease) = id.filter(|_| is_meant).and_then(|id| inner.leases.get_mut(&id)) {
            lease.asked += 1;
            // The first one was to see whether it runs.
            lease.is_preempted = lease.asked > 1;
        }
    }

    fn node(&self) -> Value {
        let (host_key, signature) = hostkey::sign(&self.key, HOST_KEY).unwrap();
        json!({
            "hotkey": self.hotkey(), "version": "1", "runtime": "sandbox", "limits_enforced": true,
            "machine": machine(),
            "ssh": {"port": 4444, "host_key": host_key, "host_key_signature": signature},
        })
    }
}

fn machine() -> Value {
    json!({"cpu_model": "a cpu", "cores": 4, "memory_bytes": 8, "disk_bytes": 9, "gpus": []})
}

fn offers(inner: &Inner) -> Value {
    let is_free = inner.leases.values().all(|lease| lease.is_over);
    let (runtime, limits) = match inner.lie {
        Lie::NoLimits => ("sandbox-user", "not enforced"),
        _ => ("sandbox", "enforced"),
    };
    json!({"offers": [{
        "id": "machine", "machine": machine(), "price_micro_usd_per_hour": inner.price,
        "images": ["base"], "runtime": runtime, "limits": limits,
        "available": is_free && inner.lie != Lie::Unavailable,
    }]})
}

fn view(inner: &Inner, lease: &Lease) -> Value {
    let host_key = if inner.lie == Lie::OtherHostKey { OTHER_HOST_KEY } else { HOST_KEY };
    let mut view = json!({
        "id": lease.request.id, "offer": lease.request.offer, "purpose": lease.request.purpose,
        "holder": lease.holder, "state": "running", "generation": 3,
        "requested_at_unix_ms": 1, "expires_at_unix_ms": 2, "image": "base",
        "ssh": {"host": "203.0.113.9", "port": 4444, "user": lease.request.id.short(), "host_key": host_key},
    });
    let ports = lease.request.options.ports.iter().zip(20_000_u16..);
    let port = |(inside, port): (&u16, u16)| json!({"container_port": inside, "host": "203.0.113.9", "port": port});
    view["ports"] = ports.map(port).collect();
    if lease.is_over || lease.is_preempted {
        view["state"] = json!("ended");
        view["reason"] = json!(if lease.is_preempted { "preempted" } else { "released" });
        view["ssh"] = Value::Null;
    }
    view
}

fn problem(code: Code, detail: &str) -> (u16, String) {
    (code.status(), serde_json::to_string(&Problem::new(code, detail, "r")).unwrap())
}

async fn answer(State(provider): State<Provider>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let target = parts.uri.path_and_query().unwrap().as_str();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let signed = btauth::Request { method: parts.method.as_str(), target, body: &body };
    let now_ns = provider.inner.lock().unwrap().clock.unix_ns();
    let checked = btauth::check_request(header, &signed, &provider.hotkey(), now_ns).unwrap();
    let sender = *checked.sender();
    let nonce: u64 = header("X-Bittensor-Nonce").unwrap().parse().unwrap();
    if parts.method == Method::POST {
        provider.inner.lock().unwrap().log.push("waits".to_owned());
        drop(provider.gate.acquire().await.unwrap());
    }
    if parts.method == Method::GET && parts.uri.query().is_none() {
        provider.preempts(parts.uri.path());
    }
    let (status, text) = provider.reply(&parts.method, parts.uri.path(), &body, Hotkey(sender));
    let lie = provider.inner.lock().unwrap().lie;
    let eve = Keypair::from_uri("//Eve", Scheme::Sr25519).unwrap();
    let signer = if lie == Lie::OtherSigner { &eve } else { &provider.key };
    let mut response = Response::builder().status(status);
    let is_lost = lie == Lie::TakesAndForgets && status < 300 && parts.method != Method::GET;
    if lie != Lie::Unsigned && !is_lost {
        let what = btauth::Response { status, body: text.as_bytes() };
        for (name, value) in sign_response(signer, &what, nonce, &sender).0 {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            response = response.header(name, HeaderValue::from_str(&value).unwrap());
        }
    }
    response.body(Body::from(text)).unwrap()
}
