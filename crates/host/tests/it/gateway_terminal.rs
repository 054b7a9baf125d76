//! What a login terminal shows beside its program's output, and how long a quiet or lost client stays.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nicompute_host::gateway::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::gateway_world::{PATIENCE, World, answer_when, eventually, run, stderr, stdout};

const GREETING: &str = "lease 1234, 2 x GPU\nends at 12:00\x1b]0;owned\x07";

/// A greeting in the output of a script or a transfer breaks it; on a terminal it must not be obeyed either.
#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_is_for_login_terminals_alone() {
    let Some(mut world) = World::new().await else { return };
    world.route.greeting = Some(GREETING.to_owned());
    world.gateway.open(&world.route).expect("opens");
    assert_eq!(stdout(&run(world.ssh_to("echo plain")).await), "plain\n");
    let mut on_terminal = world.ssh();
    on_terminal.arg("-tt").arg(world.target()).arg("echo plain");
    assert_eq!(stdout(&run(on_terminal).await), "plain\r\n");
    let mut shell = world.ssh();
    shell.arg("-T").arg(world.target());
    let output = crate::gateway_world::run_with_input(shell, b"echo plain\n".to_vec()).await;
    assert_eq!(stdout(&output), "plain\n");
    let mut login = world.ssh();
    login.arg("-tt").arg(world.target());
    let output = answer_when(login, "ends at 12:00", b"exit 3\n").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("lease 1234, 2 x GPU\r\nends at 12:00?]0;owned?\r\n"), "{text:?}");
    assert_eq!(output.status.code(), Some(3));
}

/// A tenant who is not warned loses what he has not saved; a script must not find the warning in its output.
#[tokio::test(flavor = "multi_thread")]
async fn a_notice_reaches_open_terminals_alone() {
    let Some(world) = World::new().await else { return };
    let (began, go_on) = (world.path("began"), world.path("go-on"));
    let wait = format!("touch {began}; while ! [ -e {go_on} ]; do sleep 0.05; done; echo plain");
    let script = world.ssh_to(&wait).spawn().expect("starts");
    let mut login = world.ssh();
    login.arg("-tt").arg(world.target()).stdin(Stdio::piped());
    let mut login = login.spawn().expect("starts");
    let (mut input, mut output) =
        (login.stdin.take().expect("piped"), login.stdout.take().expect("piped"));
    input.write_all(b"echo rea''dy\n").await.expect("types");
    let mut seen = Vec::new();
    let mut see = async |word: &str| {
        while !String::from_utf8_lossy(&seen).contains(word) {
            let read = tokio::time::timeout(PATIENCE, output.read_buf(&mut seen)).await;
            assert!(read.expect("in time").expect("reads") > 0, "ended before {word}");
        }
    };
    see("ready").await;
    eventually("the script runs", || Path::new(&began).exists()).await;
    world.gateway.notice(world.route.lease, "ten minutes left\x1b[2J");
    see("[nicompute] ten minutes left?[2J").await;
    std::fs::write(&go_on, "").expect("writes");
    assert_eq!(stdout(&script.wait_with_output().await.expect("ends")), "plain\n");
    input.write_all(b"exit\n").await.expect("types");
    assert!(login.wait().await.expect("ends").success());
}

/// A client whose machine fell asleep must be noticed, and what it ran must go.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_is_gone() {
    let mut limits = Limits::standard();
    limits.keepalive = Duration::from_millis(200);
    let Some(world) = World::with_limits(limits).await else { return };
    let pid = world.path("pid");
    let command = format!("echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000");
    let mut client = world.ssh_to(command).spawn().expect("starts");
    eventually("it runs", || Path::new(&pid).exists()).await;
    let number = std::fs::read_to_string(&pid).expect("reads");
    let process = format!("/proc/{}", number.trim());
    let client_pid = i32::try_from(client.id().expect("runs")).expect("fits");
    let client_pid = rustix::process::Pid::from_raw(client_pid).expect("a pid");
    rustix::process::kill_process(client_pid, rustix::process::Signal::STOP).expect("stops");
    eventually("what it ran is gone", || !Path::new(&process).exists()).await;
    eventually("its place is free", || world.gateway.stats().inside == 0).await;
    rustix::process::kill_process(client_pid, rustix::process::Signal::CONT).expect("goes on");
    client.wait().await.expect("ends");
}

/// A shell in which nobody types is not a dead one: questions that the client answers must keep it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_client_that_answers_stays() {
    let mut limits = Limits::standard();
    limits.keepalive = Duration::from_millis(50);
    let Some(world) = World::with_limits(limits).await else { return };
    // Forty questions: with the standard interval these are twenty minutes.
    assert_eq!(stdout(&run(world.ssh_to("sleep 2; echo still")).await), "still\n");
}

/// Where a provider limits quiet or long connections, the client must hear why it was sent away.
#[tokio::test(flavor = "multi_thread")]
async fn quiet_and_long_connections_end_with_a_reason() {
    let span = Some(Duration::from_millis(1500));
    let mut idle = Limits::standard();
    idle.idle = span;
    let mut total = Limits::standard();
    total.total = span;
    let busy = "while true; do echo x; sleep 0.1; done";
    for (limits, command, words) in [
        (idle, "sleep 1000", "nothing was sent or received for too long"),
        (total, busy, "the longest time of one connection is over"),
    ] {
        let Some(world) = World::with_limits(limits).await else { return };
        let output = run(world.ssh_to(command)).await;
        assert_eq!(output.status.code(), Some(255));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    let Some(world) = World::with_limits(idle).await else { return };
    let used = run(world.ssh_to("for i in 1 2 3 4 5 6 7 8; do echo x; sleep 0.4; done")).await;
    assert_eq!(stdout(&used).len(), 16, "a connection in use stays");
}
