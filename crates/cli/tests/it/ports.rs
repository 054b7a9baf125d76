//! A tenant's web server, reached by others at the provider's address; and a renter's keys, lent to programs inside only
//! where the order said so. On each runtime, with real clients.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use nicompute_client::{HeldLease, NodeClient, ReachedPort};
use nicompute_market::LeaseId;
use serde_json::{Value, json};

use crate::renting::{On, Provider, Rental, lease_id, new_key, run, text};
use crate::traces;
use crate::world::{binary, program, wait_for};

/// The tenant's server.
const INSIDE: u16 = 8000;
/// How long one visitor waits.
const VISIT: Duration = Duration::from_secs(10);

/// A tenant's page that nobody reaches is no page; on a provider with an engine.
#[test]
fn a_tenants_page_is_reached_in_docker() {
    page(On::Docker);
}

/// The same without an engine.
#[test]
fn a_tenants_page_is_reached_in_the_sandbox() {
    page(On::Sandbox);
}

/// A few ports that most likely nothing else has; the node leaves out the others.
pub(crate) fn range() -> String {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).unwrap();
    let first = 20_000 + u16::from_ne_bytes(bytes) % 10_000;
    format!("{first}-{}", first + 19)
}

fn page(on: On) {
    let Some(provider) = Provider::new(on) else { return };
    let hotkey = provider.world.miner.hotkey();
    let state_dir = provider.world.dir.path().join("m");
    let (dir, range) = (provider.world.dir.path().join("renter"), range());
    let words = ["--ports.range", &range];
    let (mut miner, node) = provider.start(&words);
    let (key, id) = (new_key(&dir), lease_id());
    let wishes = json!({ "options": { "ports": [INSIDE] } });
    assert!(provider.ask_with(&node, id, &key, &wishes).is_some(), "{}", miner.log());
    let held = provider.running(&node, id, &miner);
    let rental = provider.rental(&node, &held, &dir);
    let at = open(&provider, &node, id);
    assert!(visit(at).is_none(), "nothing is served yet");
    rental.says(
        "mkdir /root/page; cd /root/page; echo 'the page' > index.html; \
         nohup python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 </dev/null &",
    );
    serves(at);

    // The node's death closes the port, and its next life opens the same one.
    miner.kill_9();
    refused(at);
    let (mut miner, node) = provider.start(&words);
    assert_eq!(open(&provider, &node, id), at);
    serves(at);

    // Another program takes it while the node is away: the lease goes on, and the port comes back.
    miner.kill_9();
    let other = TcpListener::bind(at).unwrap();
    let (mut miner, node) = provider.start(&words);
    let shut = until(&provider, &node, id, |port| port.problem.is_some());
    assert_eq!((shut.at, provider.running(&node, id, &miner).id), (at, id));
    let why = shut.problem.unwrap();
    wait_for("a reason", || {
        let held = provider.lease(&node, id)?;
        held.ports[0].problem.as_ref()?.contains("another program").then_some(())
    });
    assert!(!why.is_empty());
    drop(other);
    assert_eq!(open(&provider, &node, id), at);
    serves(at);

    assert!(provider.release(&node, id).is_some());
    provider.ended(&node, id);
    refused(at);
    traces::wait_until_gone(&state_dir, id, hotkey, None);
    miner.stop();
}

/// Where the tenant's server is reached, once the node listens.
pub(crate) fn open(provider: &Provider, node: &NodeClient, id: LeaseId) -> SocketAddr {
    until(provider, node, id, |port| port.problem.is_none()).at
}

fn until(
    provider: &Provider,
    node: &NodeClient,
    id: LeaseId,
    stands: impl Fn(&ReachedPort) -> bool,
) -> ReachedPort {
    wait_for("the port to stand so", || {
        let held: HeldLease = provider.lease(node, id)?;
        assert!(!held.state.is_final(), "{:?}", held.state);
        let [port] = <[ReachedPort; 1]>::try_from(held.ports).ok()?;
        assert_eq!(port.container_port, INSIDE);
        stands(&port).then_some(port)
    })
}

fn serves(at: SocketAddr) {
    let page = wait_for("the page", || visit(at).filter(|page| !page.is_empty()));
    assert!(page.starts_with("HTTP/1.0 200") && page.ends_with("the page\n"), "{page}");
}

/// What a visitor gets, if the connection is no error.
fn visit(at: SocketAddr) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&at, VISIT).ok()?;
    socket.set_read_timeout(Some(VISIT)).unwrap();
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    socket.read_to_string(&mut page).ok()?;
    Some(page)
}

fn refused(at: SocketAddr) {
    wait_for("a port that nobody listens at", || {
        let error = TcpStream::connect_timeout(&at, VISIT).err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
}

/// A wish that is lost between the renter's command and his machine is a machine that he did not rent.
#[test]
fn a_renter_gets_what_his_command_says() {
    let Some(provider) = Provider::new(On::Sandbox) else { return };
    let (mut miner, _) = provider.start(&["--ports.range", &range()]);
    let mut validator = provider.world.start_validator();
    let api = format!("http://{}", validator.ready()["api"].as_str().unwrap());
    let dir = provider.world.dir.path();
    let nicompute = |words: &[&str]| {
        let mut command = binary();
        command.args(words).args(["--api", &api, "--api-key-file"]).arg(dir.join("api-key"));
        command.arg("--home").arg(dir.join("home")).env("TOKEN", "a secret");
        command
    };
    wait_for("a proven and free machine", || {
        let offers = binary().args(["offers", "--api", &api, "--json"]).output().unwrap();
        let offers: Value = serde_json::from_slice(&offers.stdout).ok()?;
        let offer = &offers["offers"][0];
        (offer["available"] == true && offer["proof"].is_object()).then_some(())
    });
    let wishes = "rent --duration 1h --json --port 8000 --env A=b --env TOKEN --tmpfs /scratch:4MiB \
                  --volume data:/data:64MiB --shm-size 16MiB";
    let words: Vec<&str> = wishes.split_whitespace().collect();
    let rented: Value = serde_json::from_str(&text(run(nicompute(&words), b""))).unwrap();
    let id = rented["id"].as_str().unwrap();
    let shown = text(run(nicompute(&["rent", "show", id]), b""));
    let at: SocketAddr = shown.rsplit_once(" is reached at ").unwrap().1.trim().parse().unwrap();
    assert!(shown.contains("port 8000"), "{shown}");
    assert!(text(run(nicompute(&["rent", "list"]), b"")).contains(&at.to_string()));
    let mut ssh = nicompute(&["ssh", id]);
    ssh.arg("--").arg(
        "echo $A $TOKEN; df -B1M --output=size /scratch /data /dev/shm | tail -n 3 | tr -d ' '; \
         mkdir /root/page; cd /root/page; echo 'the page' > index.html; \
         nohup python3 -m http.server 8000 --bind 127.0.0.1 >/dev/null 2>&1 </dev/null &",
    );
    let said = text(run(ssh, b""));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("b a secret", "4", "16"), "{said}");
    assert!(lines[2].parse::<u32>().unwrap() <= 64, "{said}");
    serves(at);
    assert!(run(nicompute(&["release", id]), b"").status.success());
    refused(at);
    let offer = format!("{}/machine", provider.world.miner.hotkey());
    let why = wait_for("a refusal by the machine itself", || {
        let refused = run(nicompute(&["rent", "--offer", &offer, "--class", "kata"]), b"");
        assert!(!refused.status.success());
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        (!why.contains("no free offer")).then_some(why)
    });
    assert!(why.contains("options.class"), "{why}");
    validator.stop();
    miner.stop();
}

/// A key agent with the renter's key.
struct KeyAgent {
    child: Child,
    socket: String,
}

impl KeyAgent {
    fn start(rental: &Rental) -> Self {
        // One that was killed leaves its socket, at which no other one can listen.
        let socket = rental.path(&rental.user);
        let mut agent = program("ssh-agent");
        agent.args(["-D", "-a", &socket]).stdout(Stdio::null()).stderr(Stdio::null());
        let agent = Self { child: agent.spawn().unwrap(), socket };
        wait_for("a key in the agent", || {
            let mut add = program("ssh-add");
            add.env("SSH_AUTH_SOCK", &agent.socket).arg(rental.path("id"));
            run(add, b"").status.success().then_some(())
        });
        agent
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Keys that are lent without being asked can be used by whoever owns the machine; where the renter wants it, git inside
/// must find them.
#[test]
fn keys_are_lent_only_where_the_order_says_so() {
    let Some(provider) = Provider::new(On::Sandbox) else { return };
    let (mut miner, node) = provider.start(&[]);
    let dir = provider.world.dir.path().join("renter");
    let key = new_key(&dir);
    for (wishes, is_lent) in
        [(json!({}), false), (json!({ "options": { "agent_forwarding": true } }), true)]
    {
        let said = lent(&provider, &node, &key, &wishes);
        match is_lent {
            false => assert_eq!(said, "[]\nno agent\n", "{}", miner.log()),
            true => assert!(said.starts_with("[/tmp/ssh-") && said.contains("ED25519"), "{said}"),
        }
    }
    miner.stop();
}

/// What a program inside sees of the renter's keys, in a lease of its own.
fn lent(provider: &Provider, node: &NodeClient, key: &str, wishes: &Value) -> String {
    let (id, dir) = (lease_id(), provider.world.dir.path().join("renter"));
    let asked = wait_for("a free machine", || provider.ask_with(node, id, key, wishes));
    let held = wait_for("a running lease", || {
        provider.lease(node, asked.id).filter(|held| held.state.name() == "running")
    });
    let rental = provider.rental(node, &held, &dir);
    let agent = KeyAgent::start(&rental);
    let mut ssh = rental.client("ssh");
    ssh.args(["-A", "-o", &format!("IdentityAgent={}", agent.socket), "lease"]);
    ssh.arg("echo \"[$SSH_AUTH_SOCK]\"; ssh-add -l 2>/dev/null || echo no agent");
    let said = text(run(ssh, b""));
    assert!(provider.release(node, id).is_some());
    provider.ended(node, id);
    said
}
