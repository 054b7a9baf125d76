//! Keys, limits and the words of refusals, as a client sees them.

use std::time::Duration;

use nicompute_api::{ApiConfig, Limits, Market, serve};
use nicompute_client::{ApiBase, MarketClient, MarketError, OfferQuery};
use nicompute_daemon::{Secret, SystemClock, Tasks};
use nicompute_market::{Hotkey, LeaseId};
use nicompute_validator::{Denied, Principal, RentalAct};
use nicompute_wire::codes::Code;
use nicompute_wire::market_api::{
    MarketOfferView, MarketOffersView, MarketStatusView, RentRequest, RentalView, RentalsView,
};
use nicompute_wire::node::{ExtendRequest, KeysRequest, MachineView};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const KEY: &str = "nic_1_secret";
const BUDGET: Duration = Duration::from_secs(10);

/// One offer, one lease, one key.
#[derive(Debug, Clone)]
struct Memory;

fn lease_id() -> LeaseId {
    LeaseId::from_random_bytes([5; 16])
}

fn rental() -> RentalView {
    RentalView {
        id: lease_id(),
        provider: Hotkey::from_bytes([1; 32]),
        offer: "machine".parse().unwrap(),
        state: "running".to_owned(),
        reason: None,
        requested_at_unix_ms: 1,
        expires_at_unix_ms: 2,
        price_micro_usd_per_hour: 3,
        detail: None,
        ssh: None,
        ports: Vec::new(),
    }
}

impl Market for Memory {
    async fn offers(&self) -> Result<MarketOffersView, Denied> {
        let machine = MachineView {
            cpu_model: "cpu".to_owned(),
            cores: 8,
            memory_bytes: 1 << 34,
            disk_bytes: 1 << 40,
            gpus: Vec::new(),
        };
        let offer = MarketOfferView {
            provider: Hotkey::from_bytes([1; 32]),
            uid: 1,
            offer: "machine".parse().unwrap(),
            machine,
            price_micro_usd_per_hour: 3,
            images: Vec::new(),
            runtime: "sandbox".to_owned(),
            limits: "enforced".to_owned(),
            available: false,
            conditions: nicompute_wire::node::ConditionsView::default(),
            proof: None,
        };
        Ok(MarketOffersView { offers: vec![offer] })
    }

    async fn status(&self) -> Result<MarketStatusView, Denied> {
        // Slower than the deadline of the tests.
        tokio::time::sleep(BUDGET).await;
        Err(Denied { code: Code::Internal, detail: "unreached".to_owned(), hint: None })
    }

    async fn rent(&self, _: &Principal, _: RentRequest) -> Result<RentalView, Denied> {
        let hint = Some("rent another offer".to_owned());
        Err(Denied { code: Code::Occupied, detail: "taken".to_owned(), hint })
    }

    async fn leases(&self, _: &Principal) -> Result<RentalsView, Denied> {
        Ok(RentalsView { leases: vec![rental()] })
    }

    async fn lease(&self, _: &Principal, id: LeaseId) -> Result<RentalView, Denied> {
        let missing =
            Denied { code: Code::NoSuchLease, detail: "no such lease".to_owned(), hint: None };
        if id == lease_id() { Ok(rental()) } else { Err(missing) }
    }

    async fn release(&self, who: &Principal, id: LeaseId) -> Result<RentalView, Denied> {
        self.lease(who, id).await
    }

    async fn act(
        &self,
        who: &Principal,
        id: LeaseId,
        act: RentalAct,
    ) -> Result<RentalView, Denied> {
        let detail = Some(format!("{act:?}"));
        Ok(RentalView { detail, ..self.lease(who, id).await? })
    }

    async fn transcript(&self, digest: [u8; 32]) -> Result<Option<Vec<u8>>, Denied> {
        Ok((digest == [7; 32]).then(|| vec![1, 2, 3]))
    }

    async fn principal_of(&self, api_key: &str) -> Result<Option<Principal>, Denied> {
        let principal = Principal::new("1");
        Ok((api_key == KEY).then_some(principal))
    }
}

async fn start(limits: Limits) -> (String, Tasks) {
    let tasks = Tasks::new();
    let config = ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), limits };
    let address = serve(config, Memory, SystemClock::shared(), tasks.clone()).await.unwrap();
    (address.to_string(), tasks)
}

fn client(address: &str, key: Option<&str>) -> MarketClient {
    let base: ApiBase = format!("http://{address}").parse().unwrap();
    MarketClient::new(base, key.map(|key| Secret::new(key.to_owned())), BUDGET).unwrap()
}

fn code<T: std::fmt::Debug>(answer: Result<T, MarketError>) -> (u16, String) {
    match answer.unwrap_err() {
        MarketError::Refused(refusal) => (refusal.status, refusal.code),
        other => panic!("{other:?}"),
    }
}

/// Without its key nobody may see, take or end a lease.
#[tokio::test]
async fn leases_need_a_key() {
    let (address, tasks) = start(Limits::default()).await;
    for key in [None, Some("nic_1_wrong"), Some("")] {
        let api = client(&address, key);
        let refused = (401, "NIC-0007".to_owned());
        assert_eq!(code(api.leases().await), refused);
        assert_eq!(code(api.lease(lease_id()).await), refused);
        assert_eq!(code(api.release(lease_id()).await), refused);
    }
    let api = client(&address, Some(KEY));
    assert_eq!(api.leases().await.unwrap().leases, [rental()]);
    let stranger = LeaseId::from_random_bytes([9; 16]);
    assert_eq!(code(api.lease(stranger).await), (404, "NIC-0021".to_owned()));
    assert!(tasks.shutdown(BUDGET).await);
}

/// A filter that is ignored rents a machine that the renter did not want.
#[tokio::test]
async fn offers_are_filtered_and_public() {
    let (address, tasks) = start(Limits::default()).await;
    let api = client(&address, None);
    let all = api.offers(&OfferQuery::default()).await.unwrap();
    assert_eq!(all.offers.len(), 1);
    let many = OfferQuery { cores: Some(9), ..OfferQuery::default() };
    assert_eq!(api.offers(&many).await.unwrap().offers.len(), 0);
    assert_eq!(api.transcript(&"07".repeat(32)).await.unwrap(), [1, 2, 3]);
    assert_eq!(code(api.transcript(&"08".repeat(32)).await), (404, "NIC-0012".to_owned()));
    assert!(tasks.shutdown(BUDGET).await);
}

/// One caller in a loop, a slow answer, a huge body: each has its own public code.
#[tokio::test]
async fn limits_have_codes() {
    let limits = Limits {
        burst: 4,
        per_second: 1,
        body_bytes_max: 1024,
        answer_max: Duration::from_millis(200),
        ..Limits::default()
    };
    let (address, tasks) = start(limits).await;
    let api = client(&address, Some(KEY));
    assert_eq!(code(api.status().await), (504, "NIC-0036".to_owned()));
    let body = "x".repeat(2000);
    let answer = raw(&address, &format!(
        "POST /v1/leases HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("NIC-0011"), "{answer}");
    let mut last = (0, String::new());
    for _ in 0..8 {
        if let Err(MarketError::Refused(refusal)) = api.leases().await {
            last = (refusal.status, refusal.code);
        }
    }
    assert_eq!(last, (429, "NIC-0014".to_owned()));
    assert!(tasks.shutdown(BUDGET).await);
}

/// The router's own refusals speak the same language as ours.
#[tokio::test]
async fn every_error_is_a_problem() {
    let (address, tasks) = start(Limits::default()).await;
    let cases = [
        ("GET /nowhere", "", "404", "NIC-0012"),
        ("PUT /v1/offers", "", "405", "NIC-0013"),
        ("GET /v1/offers?cores=many", "", "400", "NIC-0010"),
        ("GET /v1/offers?gpo=H100", "", "400", "NIC-0010"),
        ("GET /v1/leases/1", "authorization: Bearer nic_1_secret\r\n", "404", "NIC-0021"),
        ("POST /v1/leases", "authorization: Bearer nic_1_secret\r\n", "400", "NIC-0010"),
        ("GET /v1/transcripts/zz", "", "404", "NIC-0012"),
    ];
    for (line, headers, status, code) in cases {
        let request = format!("{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        let answer = raw(&address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {answer}");
        assert!(answer.contains("application/problem+json"), "{line}: {answer}");
        assert!(answer.contains(code) && answer.contains("request_id"), "{line}: {answer}");
    }
    assert!(tasks.shutdown(BUDGET).await);
}

async fn raw(address: &str, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may close before it has read a body that it refuses.
    let ended = tokio::time::timeout(BUDGET, socket.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "no end of the answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A renter whose wish arrives as another one loses work: each path must reach the market as what it says, for the lease
/// that it names, and for its owner alone.
#[tokio::test]
async fn every_act_reaches_the_market() {
    let (address, _tasks) = start(Limits::default()).await;
    let market = client(&address, Some(KEY));
    let said = |view: RentalView| view.detail.unwrap();
    let id = lease_id();
    assert_eq!(said(market.pause(id).await.unwrap()), "Pause");
    assert_eq!(said(market.resume(id).await.unwrap()), "Resume");
    assert_eq!(said(market.restart(id).await.unwrap()), "Restart");
    let extend = ExtendRequest { duration_seconds: 7 };
    assert_eq!(
        said(market.extend(id, &extend).await.unwrap()),
        "Extend(ExtendRequest { duration_seconds: 7 })"
    );
    let keys = KeysRequest { ssh_keys: vec!["k".to_owned()], slot: Some("terminal".to_owned()) };
    let told = said(market.keys(id, &keys).await.unwrap());
    assert!(told.contains("terminal") && told.contains("\"k\""), "{told}");
    let nobody = client(&address, None);
    assert!(nobody.pause(id).await.is_err() && nobody.keys(id, &keys).await.is_err());
}
