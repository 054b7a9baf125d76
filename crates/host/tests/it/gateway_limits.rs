//! Each limit of the gateway, reached by real clients.

use std::time::Duration;

use nicompute_host::gateway::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway_world::{
    PATIENCE, World, eventually, key_pair, noise, run, run_with_input, stderr, stdout,
    write_private,
};

async fn bytes_until_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    drop(read.expect("the gateway ends it"));
    bytes
}

/// A connection that never says who it is must not hold its place for ever.
#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_clients_are_dropped() {
    let mut limits = Limits::standard();
    limits.login = Duration::from_millis(300);
    let world = World::without_agent(limits).await;
    let address = world.gateway.local_addr();
    let mut silent = TcpStream::connect(address).await.expect("connects");
    assert!(bytes_until_end(&mut silent).await.starts_with(b"SSH-2.0-nicompute\r\n"));
    let mut halfway = TcpStream::connect(address).await.expect("connects");
    halfway.write_all(b"SSH-2.0-slow\r\n").await.expect("writes");
    assert!(bytes_until_end(&mut halfway).await.len() > 100);
}

/// Once a client is known, the deadline of its login must not end its session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_login_deadline() {
    let mut limits = Limits::standard();
    limits.login = Duration::from_secs(2);
    let Some(world) = World::with_limits(limits).await else { return };
    assert_eq!(stdout(&run(world.ssh_to("sleep 2.5; echo still")).await), "still\n");
}

/// Connections of strangers have a number of places; the oldest makes room, and whoever logs in gives his back.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_have_a_total() {
    let mut limits = Limits::standard();
    limits.half_open = 2;
    let Some(world) = World::with_limits(limits).await else { return };
    let address = world.gateway.local_addr();
    let mut greeting = [0; 7];
    let mut first = TcpStream::connect(address).await.expect("connects");
    first.read_exact(&mut greeting).await.expect("is greeted");
    let mut second = TcpStream::connect(address).await.expect("connects");
    second.read_exact(&mut greeting).await.expect("is greeted");
    let mut third = TcpStream::connect(address).await.expect("connects");
    third.read_exact(&mut greeting).await.expect("is greeted");
    bytes_until_end(&mut first).await;
    assert_eq!(world.gateway.stats().half_open, 2);
    for _ in 0..3 {
        assert_eq!(stdout(&run(world.ssh_to("echo in")).await), "in\n");
    }
    drop((second, third));
    eventually("places are given back", || world.gateway.stats().half_open == 0).await;
}

/// One lease's renter must not take every place of the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn connections_into_one_lease_are_limited() {
    let mut limits = Limits::standard();
    limits.connections_per_lease = 1;
    let Some(world) = World::with_limits(limits).await else { return };
    let marker = world.path("began");
    let mut first = world.ssh_to(format!("touch {marker}; sleep 1000")).spawn().expect("starts");
    eventually("the first is in", || std::path::Path::new(&marker).exists()).await;
    let output = run(world.ssh_to("true")).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(stderr(&output).contains("too many connections"), "{}", stderr(&output));
    first.kill().await.expect("dies");
    let mut again = false;
    for _ in 0..100 {
        again = run(world.ssh_to("true")).await.status.success();
        if again {
            break;
        }
    }
    assert!(again, "the place is given back");
}

/// Channels over the limit are refused, and the others of the connection go on.
#[tokio::test(flavor = "multi_thread")]
async fn channels_are_limited_for_each_connection_and_lease() {
    for by_lease in [false, true] {
        let mut limits = Limits::standard();
        if by_lease {
            limits.channels_per_lease = 2;
        } else {
            limits.channels_per_connection = 2;
        }
        let Some(world) = World::with_limits(limits).await else { return };
        let control = world.path("ctl");
        let mut master = world.ssh();
        master.args(["-M", "-N", "-S", &control]).arg(world.target());
        let _master = master.spawn().expect("starts");
        eventually("the master listens", || std::path::Path::new(&control).exists()).await;
        let shared = |command: String| {
            let mut ssh = world.ssh();
            // Without this a client that was refused would go round the shared connection with one of its own.
            ssh.args(["-S", &control, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]);
            ssh.arg(world.target()).arg(command);
            ssh
        };
        let mut held = Vec::new();
        for number in 0..2 {
            let marker = world.path(&format!("began-{number}"));
            let command = format!("touch {marker}; cat; echo end");
            let mut ssh = shared(command);
            held.push(ssh.stdin(std::process::Stdio::piped()).spawn().expect("starts"));
            eventually("it begins", || std::path::Path::new(&marker).exists()).await;
        }
        let output = run(shared("echo in".to_owned())).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
        for mut client in held {
            drop(client.stdin.take());
            let output = client.wait_with_output().await.expect("ends");
            assert_eq!(stdout(&output), "end\n");
        }
        let mut again = String::new();
        for _ in 0..100 {
            let output = run(shared("echo in".to_owned())).await;
            again = String::from_utf8_lossy(&output.stdout).into_owned();
            if again == "in\n" {
                break;
            }
        }
        assert_eq!(again, "in\n", "places are given back");
    }
}

/// Keys are not guessed, but each attempt costs a signature check.
#[tokio::test(flavor = "multi_thread")]
async fn authentication_attempts_are_limited() {
    let mut limits = Limits::standard();
    limits.auth_attempts = 3;
    let world = World::without_agent(limits).await;
    let mut ssh = world.ssh();
    for number in 0..6 {
        let path = world.path(&format!("stranger-{number}"));
        write_private(path.as_ref(), &key_pair().0);
        ssh.args(["-i", &path]);
    }
    ssh.args(["-l", "nobody", "127.0.0.1", "true"]);
    let output = run(ssh).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(!stderr(&output).contains("Permission denied"), "cut off before: {}", stderr(&output));
}

/// A full channel must wait and go on without losing a byte, however small its room is.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_through_little_room_are_whole() {
    let mut limits = Limits::standard();
    limits.upload_per_channel = 64 << 10;
    limits.upload_per_lease = 64 << 10;
    let Some(world) = World::with_limits(limits).await else { return };
    let bytes = noise(8 << 20);
    let output = run_with_input(world.ssh_to("sleep 0.3; cat"), bytes.clone()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
}

/// A command line or an environment over its limit is refused without harm to the session's connection.
#[tokio::test(flavor = "multi_thread")]
async fn long_commands_run_up_to_the_limit() {
    let Some(world) = World::new().await else { return };
    let command = |len: usize| format!("echo {}", "x".repeat(len - 5));
    // A single argument of a program has 128 KiB on Linux, so longer ones come through standard input anyway.
    let output = run(world.ssh_to(command(100_000))).await;
    assert_eq!(stdout(&output).len(), 100_000 - 4);
    let mut ssh = world.ssh();
    let value = "x".repeat(20_000);
    ssh.args(["-o", &format!("SetEnv=NI_LONG={value}"), &world.target(), "echo [$NI_LONG]"]);
    assert_eq!(stdout(&run(ssh).await), "[]\n");
}
