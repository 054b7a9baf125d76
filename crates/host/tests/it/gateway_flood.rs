//! Strangers in numbers: the leases' holders must get in all the same.

use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::sync::mpsc;
use std::time::Duration;

use nicompute_host::gateway::{Limits, Route};
use nicompute_market::LeaseId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway_world::{PATIENCE, World, eventually, run, stderr, stdout};

/// A thousand connections that say nothing, or half of something, cost a bounded number of places and nobody's login.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_strangers_do_not_keep_the_renter_out() {
    let Some(world) = World::new().await else { return };
    let address = world.gateway.local_addr();
    let mut crowd = Vec::new();
    for number in 0..1000 {
        let mut stranger = TcpStream::connect(address).await.expect("connects");
        let words: &[u8] = match number % 4 {
            0 => b"",
            1 => b"S",
            2 => b"SSH-2.0-x\r\n",
            _ => b"GET / HTTP/1.1\r\n\r\n",
        };
        // One that was sent away already cannot be written to.
        drop(stranger.write_all(words).await);
        crowd.push(stranger);
        assert!(world.gateway.stats().half_open <= Limits::standard().half_open);
    }
    assert_eq!(stdout(&run(world.ssh_to("echo in")).await), "in\n");
    eventually("all came", || world.gateway.stats().connections >= 1001).await;
    let half_open = world.gateway.stats().half_open;
    assert!(half_open <= Limits::standard().half_open_per_address, "{half_open}");
    drop(crowd);
    eventually("all are gone", || world.gateway.stats().half_open == 0).await;
}

/// Somebody who sends one byte at a time before the version line must be gone at the deadline, not when he is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_version_line_is_cut_off() {
    let mut limits = Limits::standard();
    limits.login = Duration::from_millis(400);
    let world = World::without_agent(limits).await;
    let mut slow = TcpStream::connect(world.gateway.local_addr()).await.expect("connects");
    let drip = async {
        loop {
            if slow.write_all(b"S").await.is_err() {
                return;
            }
            let mut some = [0; 64];
            let read = tokio::time::timeout(Duration::from_millis(50), slow.read(&mut some)).await;
            if matches!(read, Ok(Ok(0) | Err(_))) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, drip).await.expect("it is cut off");
    eventually("its place is free", || world.gateway.stats().half_open == 0).await;
}

/// A renter who fills the gateway must not keep the other leases' renters out: each has some places of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_keeps_places_for_every_lease() {
    let mut limits = Limits::standard();
    limits.connections = 2;
    limits.connections_reserved_per_lease = 1;
    let Some(world) = World::with_limits(limits).await else { return };
    let mut held = Vec::new();
    for number in 0..2 {
        let marker = world.path(&format!("began-{number}"));
        held.push(world.ssh_to(format!("touch {marker}; sleep 1000")).spawn().expect("starts"));
        eventually("it is in", || std::path::Path::new(&marker).exists()).await;
    }
    let third = run(world.ssh_to("true")).await;
    assert!(stderr(&third).contains("too many connections"), "{}", stderr(&third));
    assert_eq!(world.gateway.stats().logins_without_room, 1);
    let other = Route {
        lease: LeaseId::from_random_bytes([8; 16]),
        socket_dir: world.dir.path().join("other"),
        ..world.route.clone()
    };
    world.gateway.open(&other).expect("opens");
    let into_other = run(world.ssh_as(&other.lease.short(), "id"));
    tokio::pin!(into_other);
    tokio::select! {
        output = &mut into_other => panic!("it waits for its agent: {}", stderr(&output)),
        () = eventually("it is in", || world.gateway.stats().inside == 3) => {}
    }
    for mut client in held {
        client.kill().await.expect("dies");
    }
}

/// Passes one connection on and never ends its side of it, as no honest client does. Gives its port, and later the
/// connection.
fn stubborn_relay(to: SocketAddr) -> (u16, mpsc::Receiver<StdStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let (give, held) = mpsc::channel();
    std::thread::spawn(move || {
        let (near, _) = listener.accept().expect("accepts");
        let far = StdStream::connect(to).expect("connects");
        give.send(far.try_clone().expect("clones")).expect("is held");
        let back = (far.try_clone().expect("clones"), near.try_clone().expect("clones"));
        std::thread::spawn(move || drop(std::io::copy(&mut &back.0, &mut &back.1)));
        drop(std::io::copy(&mut &near, &mut &far));
    });
    (port, held)
}

/// Connections to a port of this machine for which a process holds a descriptor, beside those who listen.
fn descriptors_at(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("reads");
    let held = table.lines().skip(1).filter(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && fields[3] != "0A" && fields[9] != "0"
    });
    held.count()
}

/// Whoever has a key and no place must not keep a connection for nothing: with enough of them nobody gets in any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_room_ends_whether_or_not_the_client_does() {
    let mut limits = Limits::standard();
    limits.connections_per_lease = 0;
    let world = World::without_agent(limits).await;
    let address = world.gateway.local_addr();
    let (port, held) = stubborn_relay(address);
    let output = run(world.ssh_through(port)).await;
    assert!(stderr(&output).contains("too many connections"), "{}", stderr(&output));
    let held = held.recv().expect("it connected");
    assert_eq!(world.gateway.stats().logins_without_room, 1);
    eventually("its connection is given up", || descriptors_at(address.port()) == 0).await;
    eventually("its place is free", || world.gateway.stats().half_open == 0).await;
    drop(held);
}
