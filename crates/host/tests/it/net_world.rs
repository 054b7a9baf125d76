//! A machine, its provider's network and the internet beyond, each a network namespace of its own, for tests of the
//! tenants' network. Nothing of the real machine is touched, and everything goes with the processes that hold it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nicompute_host::net::{Fabric, NetConfig};
use nicompute_market::LeaseId;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{LIMIT, is_root, random, skip, wait_for};

/// How long a packet that is dropped is waited for; what is let through comes within a millisecond.
pub(crate) const DROPPED: Duration = Duration::from_millis(700);
/// A public address.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// A public address that the operator has closed.
pub(crate) const CLOSED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// A resolver in the provider's own network.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 53);
/// The machine in the provider's network, and the way out of it.
pub(crate) const MACHINE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);
/// Another of the machine's addresses, as an engine's bridge has one.
pub(crate) const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
/// Addresses beyond the router that no tenant may reach, though the machine can.
pub(crate) const FORBIDDEN: [Ipv4Addr; 9] = [
    ROUTER,
    CLOSED,
    Ipv4Addr::new(10, 9, 9, 9),
    Ipv4Addr::new(172, 20, 0, 9),
    Ipv4Addr::new(192, 168, 77, 9),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(198, 18, 0, 9),
];

/// A network namespace, held by a process that does nothing.
#[derive(Debug)]
pub(crate) struct Place {
    holder: Child,
}

/// The whole world of one test.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) machine: Place,
    pub(crate) outside: Place,
    pub(crate) config: NetConfig,
}

/// A server that says who called it.
#[derive(Debug)]
pub(crate) struct Server {
    socket: Arc<UdpSocket>,
    heard: Arc<Mutex<Vec<(String, SocketAddr)>>>,
}

impl Place {
    pub(crate) fn new() -> Self {
        // Ends with the thread that made it, and by itself when even that is missed.
        let mut command = program("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "900"]);
        let holder = command.stdin(Stdio::null()).spawn().expect("a namespace");
        let place = Self { holder };
        let number = |path: &str| std::fs::read_link(path).expect("namespace");
        let here = number("/proc/self/ns/net");
        while number(&place.path()) == here {
            std::thread::yield_now();
        }
        place
    }

    /// The process in it.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Does something in it, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                enter(&self.path());
                act()
            });
            work.join().expect("the work in a namespace")
        })
    }

    /// Runs a program in it.
    pub(crate) fn run(&self, line: &str) -> Output {
        let words: Vec<&str> = line.split(' ').collect();
        self.inside(|| program(words[0]).args(&words[1..]).output().expect("run"))
    }

    /// Runs a program in it that must succeed.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a TCP server says, where the connection is let through.
    pub(crate) fn asks(&self, to: Ipv4Addr, port: u16) -> Option<String> {
        self.asks_within(to, port, DROPPED)
    }

    /// The same where it must be let through.
    pub(crate) fn reaches(&self, to: Ipv4Addr, port: u16) -> String {
        let said = self.asks_within(to, port, LIMIT);
        said.expect("what must be reachable")
    }

    fn asks_within(&self, to: Ipv4Addr, port: u16, limit: Duration) -> Option<String> {
        self.inside(|| {
            let mut stream = TcpStream::connect_timeout(&(to, port).into(), limit).ok()?;
            stream.set_read_timeout(Some(LIMIT)).expect("timeout");
            let mut said = String::new();
            stream.read_to_string(&mut said).ok()?;
            Some(said)
        })
    }

    /// Which of the addresses can be reached, asked all at once.
    pub(crate) fn reachable(&self, targets: &[(Ipv4Addr, u16)]) -> Vec<(Ipv4Addr, u16)> {
        std::thread::scope(|scope| {
            let asked: Vec<_> = targets
                .iter()
                .map(|(to, port)| scope.spawn(|| self.asks(*to, *port).map(|_| (*to, *port))))
                .collect();
            asked.into_iter().filter_map(|thread| thread.join().expect("asked")).collect()
        })
    }

    /// A socket in it, at all its addresses.
    pub(crate) fn udp(&self, port: u16) -> UdpSocket {
        self.udp_at(Ipv4Addr::UNSPECIFIED, port)
    }

    fn udp_at(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        self.inside(|| UdpSocket::bind((address, port)).expect("bind"))
    }

    /// A TCP server at all its addresses that tells each caller its address as it came in.
    pub(crate) fn serves_tcp(&self, port: u16) {
        let listener =
            self.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer =
                    stream.peer_addr().map_or_else(|_| String::new(), |peer| peer.to_string());
                drop(stream.write_all(peer.as_bytes()));
            }
        });
    }

    /// A TCP server at all its addresses that answers, when a caller has said everything, how much it was.
    pub(crate) fn counts_tcp(&self, port: u16) {
        let listener =
            self.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let heard = std::io::copy(&mut stream, &mut std::io::sink());
                    heard.and_then(|bytes| stream.write_all(&bytes.to_ne_bytes()))
                });
            }
        });
    }

    /// Whether so much passes to a server that counts.
    pub(crate) fn uploads(&self, to: Ipv4Addr, port: u16, bytes: usize) -> bool {
        self.inside(|| {
            let mut stream =
                TcpStream::connect_timeout(&(to, port).into(), LIMIT).expect("connect");
            stream.set_write_timeout(Some(LIMIT)).expect("timeout");
            stream.set_read_timeout(Some(LIMIT)).expect("timeout");
            let mut counted = [0; 8];
            let sent = stream.write_all(&vec![b'x'; bytes]);
            let sent = sent.and_then(|()| stream.shutdown(std::net::Shutdown::Write));
            let sent = sent.and_then(|()| stream.read_exact(&mut counted));
            sent.is_ok_and(|()| usize::try_from(u64::from_ne_bytes(counted)) == Ok(bytes))
        })
    }

    /// The largest packet of a link.
    pub(crate) fn mtu(&self, link: &str) -> u32 {
        let shown = self.ok(&format!("ip -o link show dev {link}"));
        let mut words = shown.split_ascii_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).expect("mtu").parse().expect("number")
    }

    /// Sends a message of that type and code to each.
    pub(crate) fn sends_icmp(&self, kind: u8, code: u8, to: &[Ipv4Addr]) {
        self.inside(|| {
            let (family, raw) = (AddressFamily::INET, SocketType::RAW);
            let socket = rustix::net::socket(family, raw, Some(ipproto::ICMP)).expect("socket");
            // An empty message of type and code alone has this checksum.
            let [a, b] = (!u16::from_be_bytes([kind, code])).to_be_bytes();
            for to in to {
                let to = SocketAddrV4::new(*to, 0);
                // What is refused at once is not let through either.
                let _ = sendto(&socket, &[kind, code, a, b, 0, 0, 0, 0], SendFlags::empty(), &to);
            }
        });
    }

    /// A UDP server at all its addresses that keeps what it hears.
    pub(crate) fn serves_udp(&self, port: u16) -> Server {
        self.serves_udp_at(Ipv4Addr::UNSPECIFIED, port)
    }

    /// The same at one address, which its answers then come from.
    pub(crate) fn serves_udp_at(&self, address: Ipv4Addr, port: u16) -> Server {
        let socket = Arc::new(self.udp_at(address, port));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (listening, keeps) = (Arc::clone(&socket), Arc::clone(&heard));
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            while let Ok((length, from)) = listening.recv_from(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                keeps.lock().expect("lock").push((text, from));
            }
        });
        Server { socket, heard }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

impl Server {
    /// Everything that was heard until a word came.
    pub(crate) async fn heard_until(&self, word: &str) -> Vec<String> {
        let heard = || self.heard.lock().expect("lock").clone();
        wait_for("a datagram", || heard().iter().any(|(text, _)| text == word)).await;
        heard().into_iter().map(|(text, _)| text).collect()
    }

    /// Who said a word.
    pub(crate) fn who_said(&self, word: &str) -> SocketAddr {
        let heard = self.heard.lock().expect("lock");
        heard.iter().find(|(text, _)| text == word).expect("heard").1
    }

    pub(crate) fn answer(&self, to: SocketAddr, word: &str) {
        self.socket.send_to(word.as_bytes(), to).expect("send");
    }

    pub(crate) fn count(&self) -> usize {
        self.heard.lock().expect("lock").len()
    }
}

impl World {
    /// A machine behind a router, whose forward chain drops everything, as an engine sets it up.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            skip("the tenants' network: only root can make network namespaces");
            return None;
        }
        let (machine, outside) = (Place::new(), Place::new());
        for place in [&machine, &outside] {
            place.ok("ip link set lo up");
        }
        let peer = outside.path();
        machine.ok(&format!("ip link add up0 type veth peer name down0 netns {peer}"));
        machine.ok(&format!("ip addr add {MACHINE}/24 dev up0"));
        machine.ok("ip link set up0 up");
        machine.ok(&format!("ip route add default via {ROUTER}"));
        machine.ok("ip link add bridge0 type bridge");
        machine.ok(&format!("ip addr add {BRIDGE}/16 dev bridge0"));
        machine.ok("ip link set bridge0 up");
        machine.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward"));
        machine.ok("iptables -P FORWARD DROP");
        outside.ok(&format!("ip addr add {RESOLVER}/24 dev down0"));
        for address in FORBIDDEN.iter().chain([&PUBLIC]) {
            let length = if *address == ROUTER { 24 } else { 32 };
            outside.ok(&format!("ip addr add {address}/{length} dev down0"));
        }
        outside.ok("ip link set down0 up");
        outside.ok(&format!("ip route add default via {MACHINE}"));
        let mut config = NetConfig::new(&format!("net-test-{}", hex::encode(random())));
        config.machine = Some(PathBuf::from(machine.path()));
        config.deny = vec!["198.51.100.0/24".parse().expect("range")];
        config.dns = vec![IpAddr::V4(RESOLVER)];
        Some(Self { machine, outside, config })
    }

    pub(crate) async fn fabric(&self) -> Fabric {
        Fabric::open(self.config.clone()).await.expect("open")
    }

    /// Everything of the machine that the tenants' network could change.
    pub(crate) fn traces(&self) -> String {
        let links = self.machine.ok("ip -br link");
        // The state of a link's other end is no trace.
        let names: Vec<_> = links.lines().filter_map(|line| line.split(' ').next()).collect();
        let route = self.machine.ok("ip route show table all type unicast");
        let places = self.machine.ok("ip -4 rule show");
        let neighbours = self.machine.ok("ip neigh show nud permanent");
        let rules = self.machine.ok("nft list ruleset");
        format!("{names:?}\n{route}\n{places}\n{neighbours}\n{}", without_counts(&rules))
    }
}

/// Rules without what they counted.
fn without_counts(rules: &str) -> String {
    let lines = rules.lines().map(|line| match line.split_once("counter packets ") {
        Some((before, after)) => {
            let after = after.splitn(4, ' ').nth(3).unwrap_or_default();
            format!("{before}{after}")
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn lease() -> LeaseId {
    LeaseId::from_random_bytes(random())
}

fn enter(path: &str) {
    let file = File::open(path).expect("namespace");
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
        .expect("enter");
}

fn program(name: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the test builds its world with other programs")]
    let mut command = Command::new(name);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}
