//! What an editor's remote mode does: one connection with a proxy, a script on the standard input of `bash`, a server on
//! 127.0.0.1 inside that is reached through the proxy, and a second channel beside a stalled upload.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::gateway_world::{
    PATIENCE, World, eventually, has_program, noise, run, run_with_input, stdout,
};

/// A client with a proxy on a port that was free; ssh takes no port 0 for it.
async fn with_proxy(world: &World, arguments: &[&str]) -> (Child, u16) {
    let search = async {
        loop {
            let free = TcpListener::bind("127.0.0.1:0").expect("binds");
            let port = free.local_addr().expect("bound").port();
            drop(free);
            let mut ssh = world.ssh();
            ssh.args(["-o", "ExitOnForwardFailure=yes", "-D", &format!("127.0.0.1:{port}")]);
            ssh.arg("-T").arg(world.target()).args(arguments).stdin(Stdio::piped());
            let mut client = ssh.spawn().expect("starts");
            // Where somebody else took the port in between, the client ends and another one is tried.
            while client.try_wait().expect("is asked").is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return (client, port);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("in time")
}

/// A request through the proxy by SOCKS version 5.
fn through_proxy(proxy: u16, port: u16, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(("127.0.0.1", proxy))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&[5, 1, 0])?;
    let mut chosen = [0; 2];
    socket.read_exact(&mut chosen)?;
    let [high, low] = port.to_be_bytes();
    socket.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low])?;
    let mut answer = [0; 10];
    socket.read_exact(&mut answer)?;
    if answer[1] != 0 {
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    socket.write_all(request)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    socket.read_to_end(&mut back)?;
    Ok(back)
}

/// Where an editor's start-up fails, half of all renters go elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_editors_remote_mode_starts() {
    let Some(world) = World::new().await else { return };
    if !has_program("python3").await {
        return;
    }
    let (mut client, proxy) = with_proxy(&world, &["bash"]).await;
    let server = r#"
echo "start: $(uname -s)"
cat > server.py <<'END'
import socket, sys
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(8)
print("listeningOn==%d==" % s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept(); data = b""
    while True:
        more = c.recv(65536)
        if not more: break
        data += more
    c.sendall(b"server says " + data); c.close()
END
exec python3 server.py
"#;
    let script = format!("cd {}\n{server}", world.dir.path().display());
    let mut input = client.stdin.take().expect("piped");
    input.write_all(script.as_bytes()).await.expect("writes");
    let mut output = client.stdout.take().expect("piped");
    let mut seen = Vec::new();
    let port = loop {
        let read = tokio::time::timeout(PATIENCE, output.read_buf(&mut seen)).await;
        assert!(read.expect("in time").expect("reads") > 0, "the server never came");
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some(port) = text.split("==").nth(1).filter(|_| text.matches("==").count() == 2) {
            assert!(text.starts_with("start: Linux\n"), "{text}");
            break port.parse::<u16>().expect("a port");
        }
    };
    let bytes = noise(1 << 20);
    let sent = bytes.clone();
    let talk = tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            let back = through_proxy(proxy, port, &sent).expect("talks");
            assert!(back.strip_prefix(b"server says ") == Some(&sent[..]), "{} bytes", back.len());
        }
    });
    talk.await.expect("works");
    client.kill().await.expect("dies");
    eventually("the server inside is gone", || TcpStream::connect(("127.0.0.1", port)).is_err())
        .await;
}

/// One upload that is not read, far bigger than any window or buffer, must not hold up the other channels of its
/// connection, and must arrive whole when it is read in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_big_stalled_upload_leaves_its_connection_usable() {
    let Some(world) = World::new().await else { return };
    let control = world.path("ctl");
    let mut master = world.ssh();
    master.args(["-M", "-N", "-S", &control]).arg(world.target());
    let _master = master.spawn().expect("starts");
    eventually("the master listens", || Path::new(&control).exists()).await;
    let shared = |command: &str| {
        let mut ssh = world.ssh();
        ssh.args(["-S", &control, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]);
        ssh.arg(world.target()).arg(command);
        ssh
    };
    let (marker, go_on) = (world.path("stalled"), world.path("go-on"));
    let wait = format!("touch {marker}; while ! [ -e {go_on} ]; do sleep 0.05; done; sha256sum");
    let bytes = noise(40 << 20);
    let upload = crate::gateway_world::background(run_with_input(shared(&wait), bytes.clone()));
    eventually("the stalled one begins", || Path::new(&marker).exists()).await;
    // Long enough for the upload to fill every window and buffer on its way.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..5 {
        let began = tokio::time::Instant::now();
        assert_eq!(stdout(&run(shared("echo free")).await), "free\n");
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
    let beside = run_with_input(shared("cat"), bytes[..6 << 20].to_vec()).await;
    assert!(beside.stdout == bytes[..6 << 20], "{} bytes came back", beside.stdout.len());
    std::fs::write(&go_on, "").expect("writes");
    let sum = stdout(&upload.await.expect("does not panic"));
    let expected = run_with_input(sha256(), bytes).await;
    assert_eq!(sum, stdout(&expected));
}

fn sha256() -> Command {
    let mut sum = Command::new("sha256sum");
    sum.stdout(Stdio::piped()).stderr(Stdio::piped());
    sum
}

/// A client that does not read one channel's output must still get the other channels'.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_download_leaves_its_connection_usable() {
    let Some(world) = World::new().await else { return };
    let control = world.path("ctl");
    let mut master = world.ssh();
    master.args(["-M", "-N", "-S", &control]).arg(world.target());
    let _master = master.spawn().expect("starts");
    eventually("the master listens", || Path::new(&control).exists()).await;
    let shared = |command: &str| {
        let mut ssh = world.ssh();
        ssh.args(["-S", &control, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]);
        ssh.arg(world.target()).arg(command);
        ssh
    };
    let marker = world.path("began");
    let mut stalled = shared(&format!("touch {marker}; cat /dev/zero")).spawn().expect("starts");
    eventually("it begins", || Path::new(&marker).exists()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..5 {
        assert_eq!(stdout(&run(shared("echo free")).await), "free\n");
    }
    let bytes = noise(8 << 20);
    let both = run_with_input(shared("cat"), bytes.clone()).await;
    assert!(both.stdout == bytes, "{} bytes came back", both.stdout.len());
    stalled.kill().await.expect("dies");
}
