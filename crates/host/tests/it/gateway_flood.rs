//! Strangers in numbers: the leases' holders must get in all the same.

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
