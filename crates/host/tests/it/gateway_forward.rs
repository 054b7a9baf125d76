//! Forwarded connections: into the container, and never out of the gateway itself.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::gateway_world::{World, eventually, noise, run, run_with_input, stderr, stdout};

/// A service inside that says what it was told, once for each connection.
fn echo_service() -> u16 {
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

/// Notebooks and dashboards are reached by a forwarded port; half-closed connections must keep their other half.
#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_reaches_a_service_inside() {
    let Some(world) = World::new().await else { return };
    let service = echo_service();
    let free = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
    let control = world.path("ctl");
    let mut ssh = world.ssh();
    ssh.args(["-N", "-M", "-S", &control, "-L", &format!("127.0.0.1:{free}:localhost:{service}")]);
    ssh.arg(world.target());
    let mut client = ssh.spawn().expect("starts");
    eventually("the client listens", || Path::new(&control).exists()).await;
    let talk = tokio::task::spawn_blocking(move || {
        let workers = (1..=8).map(|number| {
            std::thread::spawn(move || {
                let bytes = noise(number << 18);
                let mut socket = TcpStream::connect(("127.0.0.1", free)).expect("connects");
                socket.write_all(&bytes).expect("writes");
                socket.shutdown(std::net::Shutdown::Write).expect("half-closes");
                let mut back = Vec::new();
                socket.read_to_end(&mut back).expect("reads");
                assert!(back == bytes, "{} of {}", back.len(), bytes.len());
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.join().expect("every byte");
        }
    });
    tokio::time::timeout(crate::gateway_world::PATIENCE, talk)
        .await
        .expect("in time")
        .expect("works");
    client.kill().await.expect("dies");
}

/// `-W` is how one machine is reached through another.
#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_forwarded() {
    let Some(world) = World::new().await else { return };
    let service = echo_service();
    let mut ssh = world.ssh();
    ssh.args(["-W", &format!("127.0.0.1:{service}")]).arg(world.target());
    let output = run_with_input(ssh, b"through".to_vec()).await;
    assert_eq!(stdout(&output), "through");
}

/// A refused connection must be told at once and leave the session as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_refused() {
    let Some(world) = World::new().await else { return };
    let free = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
    for target in [format!("127.0.0.1:{free}"), "example.invalid:80".to_owned()] {
        let mut ssh = world.ssh();
        ssh.args(["-W", &target]).arg(world.target());
        let output = run(ssh).await;
        assert_eq!(output.status.code(), Some(255));
        assert!(stderr(&output).contains("cannot connect"), "{}", stderr(&output));
    }
}
