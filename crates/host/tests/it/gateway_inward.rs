//! Connections from inside to the client (`-R`), sockets, and the client's key agent.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use nicompute_host::gateway::{AgentForwarding, Limits};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::gateway_world::{PATIENCE, World, eventually, noise, run, stderr, stdout};

/// A service on the client's side that sends back what it was told.
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

/// Reads the client's words until one line has the text.
async fn line_with(client: &mut Child, text: &str) -> String {
    let mut lines = BufReader::new(client.stderr.take().expect("piped")).lines();
    let find = async {
        loop {
            let line = lines.next_line().await.expect("reads").expect("says it before its end");
            if line.contains(text) {
                return line;
            }
        }
    };
    tokio::time::timeout(PATIENCE, find).await.expect("in time")
}

/// A client with a port of the container forwarded to it, and that port.
async fn with_port(world: &World, service: u16) -> (Child, u16) {
    let mut ssh = world.ssh();
    ssh.args(["-N", "-R", &format!("0:127.0.0.1:{service}")]).arg(world.target());
    let mut client = ssh.spawn().expect("starts");
    let line = line_with(&mut client, "Allocated port").await;
    let port = line.split(' ').nth(2).expect("a port").parse().expect("a number");
    (client, port)
}

async fn blocking(work: impl FnOnce() + Send + 'static) {
    let done = tokio::task::spawn_blocking(work);
    tokio::time::timeout(PATIENCE, done).await.expect("in time").expect("works");
}

/// A model server at home that the container reports to is what `-R` is for; every byte must pass, both ways at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_inside_leads_to_the_client() {
    let Some(world) = World::new().await else { return };
    let (mut client, port) = with_port(&world, echo_service()).await;
    blocking(move || {
        let workers = (1..=8).map(|number| {
            std::thread::spawn(move || {
                let bytes = noise(number << 18);
                let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connects");
                socket.write_all(&bytes).expect("writes");
                socket.shutdown(Shutdown::Write).expect("half-closes");
                let mut back = Vec::new();
                socket.read_to_end(&mut back).expect("reads");
                assert!(back == bytes, "{} of {}", back.len(), bytes.len());
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.join().expect("every byte");
        }
    })
    .await;
    client.kill().await.expect("dies");
    eventually("nothing listens when the client is gone", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    })
    .await;
}

/// A port that a client takes back must be free for the next, and one that is taken must be refused with words.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_ports_are_taken_back_and_refused() {
    let Some(world) = World::new().await else { return };
    let control = world.path("ctl");
    let mut master = world.ssh();
    master.args(["-M", "-N", "-S", &control]).arg(world.target());
    let _master = master.spawn().expect("starts");
    eventually("the master listens", || Path::new(&control).exists()).await;
    let ask = |what: &str, spec: &str| {
        let mut ssh = world.ssh();
        ssh.args(["-S", &control, "-O", what, "-R", spec]).arg(world.target());
        ssh
    };
    let given = stdout(&run(ask("forward", "0:127.0.0.1:1")).await);
    let port: u16 = given.trim().parse().expect("a port");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    stdout(&run(ask("cancel", "0:127.0.0.1:1")).await);
    eventually("it is closed", || TcpStream::connect(("127.0.0.1", port)).is_err()).await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = taken.local_addr().expect("bound").port();
    let _held = TcpListener::bind(("127.0.0.1", taken));
    let output = run(ask("forward", &format!("{taken}:127.0.0.1:1"))).await;
    let again = run(ask("forward", &format!("{taken}:127.0.0.1:1"))).await;
    assert!(!output.status.success() || !again.status.success(), "{}", stderr(&output));
}

/// One client must not take every port of the container.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_ports_are_limited() {
    let mut limits = Limits::standard();
    limits.forwards_per_connection = 2;
    let Some(world) = World::with_limits(limits).await else { return };
    let mut ssh = world.ssh();
    for target in 1..=3 {
        ssh.args(["-R", &format!("0:127.0.0.1:{target}")]);
    }
    ssh.args(["-o", "ExitOnForwardFailure=no"]).arg(world.target()).arg("echo on");
    let output = run(ssh).await;
    assert_eq!(stdout(&output), "on\n", "the session goes on");
    assert_eq!(stderr(&output).matches("Allocated port").count(), 2, "{}", stderr(&output));
}

/// Editors and databases talk over sockets of the file system, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_forwarded_both_ways() {
    let Some(world) = World::new().await else { return };
    let service = echo_service();
    let (inside, outside) = (world.path("inside.sock"), world.path("outside.sock"));
    let served = world.path("served.sock");
    let listener = UnixListener::bind(&served).expect("binds");
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("accepts");
            let mut all = Vec::new();
            if socket.read_to_end(&mut all).is_ok() {
                drop(socket.write_all(&all));
            }
        }
    });
    let mut ssh = world.ssh();
    ssh.args(["-N", "-R", &format!("{inside}:127.0.0.1:{service}")]);
    ssh.args(["-L", &format!("{outside}:{served}")]).arg(world.target());
    let mut client = ssh.spawn().expect("starts");
    for path in [inside.clone(), outside] {
        eventually("it is listened on", || UnixStream::connect(&path).is_ok()).await;
        blocking(move || {
            let bytes = noise(300_000);
            let mut socket = UnixStream::connect(path).expect("connects");
            socket.write_all(&bytes).expect("writes");
            socket.shutdown(Shutdown::Write).expect("half-closes");
            let mut back = Vec::new();
            socket.read_to_end(&mut back).expect("reads");
            assert!(back == bytes);
        })
        .await;
    }
    let mode = std::fs::metadata(&inside).expect("exists");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
    client.kill().await.expect("dies");
    eventually("the socket is removed", || !Path::new(&inside).exists()).await;
}

/// A socket that is not there must be refused, and a path must reach nothing but a socket.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_cannot_be_had_are_refused() {
    let Some(world) = World::new().await else { return };
    let missing = world.path("missing.sock");
    let local = world.path("local.sock");
    let mut ssh = world.ssh();
    ssh.args(["-N", "-L", &format!("{local}:{missing}")]).arg(world.target());
    let mut client = ssh.spawn().expect("starts");
    eventually("it listens", || Path::new(&local).exists()).await;
    blocking(move || {
        let mut socket = UnixStream::connect(local).expect("connects");
        assert_eq!(socket.read(&mut [0; 1]).unwrap_or(0), 0, "nothing comes back");
    })
    .await;
    client.kill().await.expect("dies");
    std::fs::write(world.path("file"), "kept").expect("writes");
    for path in [world.path("file"), world.path("no/folder.sock"), format!("/{}", "x".repeat(120))]
    {
        let mut ssh = world.ssh();
        ssh.args(["-o", "ExitOnForwardFailure=yes", "-R", &format!("{path}:127.0.0.1:1")]);
        ssh.arg(world.target()).arg("true");
        assert_eq!(run(ssh).await.status.code(), Some(255), "{path}");
    }
    assert_eq!(std::fs::read(world.path("file")).expect("reads"), b"kept");
}

/// A key agent with one key, and the variable that leads to it.
async fn key_agent(world: &World) -> (Child, String) {
    let socket = world.path("agent.sock");
    let mut agent = Command::new("ssh-agent");
    agent.args(["-D", "-a", &socket]).kill_on_drop(true).stdout(Stdio::null());
    let mut agent = agent.spawn().expect("starts");
    eventually("the agent listens", || UnixStream::connect(&socket).is_ok()).await;
    let mut add = Command::new("ssh-add");
    add.env("SSH_AUTH_SOCK", &socket).arg(world.path("id")).stderr(Stdio::null());
    assert!(add.status().await.expect("runs").success());
    assert!(agent.try_wait().expect("is asked").is_none());
    (agent, socket)
}

/// Keys that are lent without being asked are keys that are stolen; where the lease allows it, git inside must find them,
/// through a socket that is the session's own and gone with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_agent_is_lent_only_where_it_is_allowed() {
    let Some(mut world) = World::new().await else { return };
    let (_agent, socket) = key_agent(&world).await;
    let ask = |world: &World, command: &str| {
        // The world's own client is told to know no agent.
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-A", "-i", &world.path("id")]);
        ssh.arg("-o").arg(format!("IdentityAgent={socket}"));
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", world.path("known_hosts")));
        ssh.args(["-p", &world.gateway.local_addr().port().to_string()]);
        ssh.arg(world.target()).arg(command).stdin(Stdio::null()).kill_on_drop(true);
        ssh
    };
    let off = run(ask(&world, "echo \"[$SSH_AUTH_SOCK]\"")).await;
    assert_eq!(stdout(&off), "[]\n");
    world.route.agent_forwarding = AgentForwarding::On;
    world.gateway.open(&world.route).expect("opens");
    let command = "echo $SSH_AUTH_SOCK; stat -c %a $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); ssh-add -l; ssh-add -l";
    let on = stdout(&run(ask(&world, command)).await);
    let lines: Vec<_> = on.lines().collect();
    assert!(lines[0].starts_with("/tmp/ssh-"), "{on}");
    assert_eq!(lines[1..3], ["600", "700"], "{on}");
    assert!(lines[3].contains("ED25519") && lines[3] == lines[4], "{on}");
    let path = lines[0].to_owned();
    eventually("the socket is gone", || !Path::new(&path).parent().expect("has one").exists())
        .await;
}
