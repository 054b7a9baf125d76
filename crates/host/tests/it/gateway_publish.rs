//! Ports of a lease that the node offers to everybody.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nicompute_host::gateway::{Limits, PublishError, Route};
use nicompute_market::LeaseId;

use crate::gateway_world::{PATIENCE, World, eventually, noise};

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A tenant's server that sends back what it got.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("accepts");
            std::thread::spawn(move || {
                let mut all = Vec::new();
                if socket.read_to_end(&mut all).is_ok() {
                    drop(socket.write_all(&all));
                }
            });
        }
    });
    port
}

/// Sends everything, ends, and reads everything.
async fn talk(at: SocketAddr, bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let talk = tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(at)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&bytes)?;
        socket.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        socket.read_to_end(&mut back)?;
        Ok(back)
    });
    talk.await.expect("does not panic")
}

/// A web server that was rented must be reachable, byte for byte, by many at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_published_port_reaches_the_tenants_server() {
    let Some(world) = World::new().await else { return };
    let at = world.gateway.publish(world.route.lease, service(), any()).expect("publishes");
    let visits: Vec<_> = (1..=8_usize)
        .map(|number| {
            crate::gateway_world::background(async move {
                let bytes = noise(number << 17);
                assert!(talk(at, bytes.clone()).await.expect("talks") == bytes);
            })
        })
        .collect();
    for visit in visits {
        visit.await.expect("every byte");
    }
    assert_eq!(world.gateway.stats().published_connections, 8);
    assert_eq!(world.gateway.stats().published_refused, 0);
}

/// Nothing behind a port, a paused lease and a closed route must be an error at once, never an empty page or a wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_a_server_is_reset() {
    let mut limits = Limits::standard();
    limits.agent = Duration::from_millis(500);
    let Some(world) = World::with_limits(limits).await else { return };
    let lease = world.route.lease;
    let closed = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
    let nothing = world.gateway.publish(lease, closed.port(), any()).expect("publishes");
    assert!(talk(nothing, b"GET".to_vec()).await.is_err());
    let at = world.gateway.publish(lease, service(), any()).expect("publishes");
    let pid = i32::try_from(world.agent_pid()).expect("fits");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stops");
    assert!(talk(at, b"GET".to_vec()).await.is_err(), "paused");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
    assert_eq!(talk(at, b"GET".to_vec()).await.expect("talks"), b"GET");
    let open = tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(at).expect("connects");
        socket.write_all(b"half").expect("writes");
        socket
    });
    let mut open = open.await.expect("does not panic");
    world.gateway.close(lease);
    let end = tokio::task::spawn_blocking(move || open.read(&mut [0; 1])).await.expect("ends");
    assert!(end.is_err() || end.is_ok_and(|count| count == 0));
    eventually("nobody listens", || TcpStream::connect(at).is_err()).await;
    assert!(world.gateway.published(lease).is_empty());
}

/// A reconciler asks again every few seconds; it must get the same port, and never another lease's.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_is_idempotent_and_bounded() {
    let mut limits = Limits::standard();
    limits.published_per_lease = 2;
    let world = World::without_agent(limits).await;
    let (gateway, lease) = (&world.gateway, world.route.lease);
    let first = gateway.publish(lease, 80, any()).expect("publishes");
    assert_eq!(gateway.publish(lease, 80, any()).expect("again"), first);
    assert_eq!(gateway.publish(lease, 80, first).expect("by its address"), first);
    gateway.open(&world.route).expect("opens again");
    assert_eq!(gateway.published(lease), [(80, first)]);
    let other: SocketAddr = "127.0.0.2:0".parse().expect("an address");
    assert!(matches!(gateway.publish(lease, 80, other), Err(PublishError::Elsewhere { .. })));
    assert!(matches!(gateway.publish(lease, 81, first), Err(PublishError::Listen { .. })));
    assert!(matches!(gateway.publish(lease, 0, any()), Err(PublishError::Port)));
    gateway.publish(lease, 81, any()).expect("publishes");
    assert!(matches!(gateway.publish(lease, 82, any()), Err(PublishError::TooMany { max: 2 })));
    let nobody = LeaseId::from_random_bytes([9; 16]);
    assert!(matches!(gateway.publish(nobody, 80, any()), Err(PublishError::NoRoute(_))));
    gateway.withdraw(lease, 80);
    gateway.publish(lease, 82, any()).expect("there is room again");
}

/// Connects from one of this machine's own addresses.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("binds");
    socket.connect(to).await
}

/// One stranger who connects and says nothing must not take every place of a tenant's server, nor keep the one he has.
#[tokio::test(flavor = "multi_thread")]
async fn places_at_published_ports_are_shared_and_end_when_idle() {
    use tokio::io::AsyncReadExt as _;
    let mut limits = Limits::standard();
    limits.published_connections_per_address = 1;
    let Some(world) = World::with_limits(limits).await else { return };
    let at = world.gateway.publish(world.route.lease, service(), any()).expect("publishes");
    let _held = connect_from([127, 0, 0, 2], at).await.expect("connects");
    eventually("it is served", || world.gateway.stats().published_connections == 1).await;
    // The reset may be quicker than the client.
    if let Ok(mut second) = connect_from([127, 0, 0, 2], at).await {
        assert!(second.read(&mut [0]).await.is_err(), "more than its share");
    }
    assert_eq!(talk(at, b"x".to_vec()).await.expect("others have theirs"), b"x");
    limits.published_idle = Duration::from_millis(100);
    let Some(world) = World::with_limits(limits).await else { return };
    let at = world.gateway.publish(world.route.lease, service(), any()).expect("publishes");
    let mut idle = connect_from([127, 0, 0, 2], at).await.expect("connects");
    let ended = tokio::time::timeout(PATIENCE, idle.read(&mut [0])).await;
    assert!(ended.expect("it is ended").is_err());
}

/// Strangers who connect to one lease's port must not take the node's descriptors, nor the other leases' room.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_published_ports_are_limited() {
    let mut limits = Limits::standard();
    limits.published_connections_per_lease = 2;
    let Some(world) = World::with_limits(limits).await else { return };
    let at = world.gateway.publish(world.route.lease, service(), any()).expect("publishes");
    let open = tokio::task::spawn_blocking(move || {
        [(); 2].map(|()| TcpStream::connect(at).expect("connects"))
    });
    let open = open.await.expect("does not panic");
    eventually("both are served", || world.gateway.stats().published_connections == 2).await;
    assert!(talk(at, b"x".to_vec()).await.is_err());
    drop(open);
    let mut again = false;
    for _ in 0..200 {
        again = talk(at, b"x".to_vec()).await.is_ok();
        if again {
            break;
        }
    }
    assert!(again, "places are given back");
}

/// Strangers who flood the ports of some leases must not take the descriptors of the node, nor shut the ports of all.
#[tokio::test(flavor = "multi_thread")]
async fn published_ports_of_all_leases_have_a_limit_and_each_a_reserve() {
    let mut limits = Limits::standard();
    limits.published_connections = 3;
    limits.connections_reserved_per_lease = 1;
    let Some(world) = World::with_limits(limits).await else { return };
    let at = world.gateway.publish(world.route.lease, service(), any()).expect("publishes");
    let connect = |count: usize| {
        tokio::task::spawn_blocking(move || {
            let sockets = (0..count).map(|_| TcpStream::connect(at).expect("connects"));
            sockets.collect::<Vec<_>>()
        })
    };
    let open = connect(3).await.expect("does not panic");
    eventually("three are served", || world.gateway.stats().published_connections == 3).await;
    assert!(talk(at, b"x".to_vec()).await.is_err(), "the gateway is full");
    // Of another lease, the first one gets in all the same, and waits for the agent that it does not have.
    let other = Route {
        lease: LeaseId::from_random_bytes([8; 16]),
        socket_dir: world.dir.path().join("other"),
        init_pid: None,
        ..world.route.clone()
    };
    std::fs::create_dir(&other.socket_dir).expect("makes");
    world.gateway.open(&other).expect("opens");
    let there = world.gateway.publish(other.lease, 80, any()).expect("publishes");
    let waits = tokio::net::TcpStream::connect(there).await.expect("connects");
    eventually("it has a place", || world.gateway.stats().published_connections == 4).await;
    let refused = world.gateway.stats().published_refused;
    let more = tokio::net::TcpStream::connect(there).await;
    eventually("no more", || world.gateway.stats().published_refused > refused).await;
    drop((open, waits, more));
}
