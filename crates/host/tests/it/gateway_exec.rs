//! Commands and shells, as OpenSSH's client sees them.

use std::time::Duration;

use crate::gateway_world::{
    World, answer_when, eventually, noise, run, run_with_input, stderr, stdout,
};

/// A wrong exit code or mixed output breaks every script that a renter runs.
#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_outputs_arrive_unmixed() {
    let Some(world) = World::new().await else { return };
    let output = run(world.ssh_to("echo out; echo err >&2; exit 7")).await;
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    for code in [0, 1, 127, 255] {
        let output = run(world.ssh_to(format!("exit {code}"))).await;
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    }
}

/// A command that a signal ended must not look like one that succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_by_signal_is_told() {
    let Some(world) = World::new().await else { return };
    let output = run(world.ssh_to("kill -TERM $$")).await;
    assert_eq!(output.status.code(), Some(255));
    let output = run(world.ssh_to("kill -USR2 $$")).await;
    assert_eq!(output.status.code(), Some(255));
}

/// A program that reads to the end of its input must see that end, and keep its output open after it.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_input_arrives_and_output_goes_on() {
    let Some(world) = World::new().await else { return };
    let output = run_with_input(world.ssh_to("cat; echo done"), b"\0\x01\x02text".to_vec()).await;
    assert_eq!(stdout(&output).as_bytes(), b"\0\x01\x02textdone\n");
    let output = run_with_input(world.ssh_to("wc -c"), noise(3 << 20)).await;
    assert_eq!(stdout(&output).trim(), (3 << 20).to_string());
}

/// A session in a strange place or with a strange environment is not the machine that was rented.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_a_login() {
    let Some(world) = World::new().await else { return };
    let mut ssh = world.ssh();
    ssh.args(["-o", "SetEnv=LANG=C.UTF-8 NI_JOB=7 LD_PRELOAD=/evil BASH_ENV=/evil"]);
    ssh.arg(world.target());
    ssh.arg("echo $USER $HOME $(pwd) $LANG $NI_JOB [$LD_PRELOAD$BASH_ENV] $PATH; grep SigBlk /proc/self/status; umask");
    let text = stdout(&run(ssh).await);
    let mut lines = text.lines();
    let words: Vec<&str> = lines.next().expect("a line").split(' ').collect();
    assert_eq!(words[1], words[2], "{text}");
    assert_eq!(words[3..6], ["C.UTF-8", "7", "[]"], "{text}");
    assert!(words[6].ends_with(":/.nicompute/bin"), "{text}");
    assert_eq!(lines.next(), Some("SigBlk:\t0000000000000000"), "{text}");
}

/// A shell without a terminal of the right size, or one that swallows its exit code, is unusable.
#[tokio::test(flavor = "multi_thread")]
async fn a_shell_runs_on_a_terminal() {
    let Some(world) = World::new().await else { return };
    let mut ssh = world.ssh();
    ssh.args(["-tt", "-e", "none"]).arg(world.target()).env("TERM", "xterm-256color");
    let script =
        b"tty; echo term=$TERM tty=$SSH_TTY; test -t 0 && test -t 1 && echo yes-tty; exit 5\n";
    let output = run_with_input(ssh, script.to_vec()).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("/dev/pts/") && text.contains("term=xterm-256color"), "{text}");
    assert!(text.contains("yes-tty"), "{text}");
}

/// ^C must reach the program in the foreground, not the connection.
#[tokio::test(flavor = "multi_thread")]
async fn control_c_interrupts_the_program() {
    let Some(world) = World::new().await else { return };
    let mut ssh = world.ssh();
    ssh.args(["-tt", "-e", "none"]).arg(world.target());
    // A shell that is between two programs may lose the interruption of one of them, never its own.
    ssh.arg("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done");
    let output = answer_when(ssh, "ready", b"\x03").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(9), "{text}");
    assert!(text.contains("interrupted"), "{text}");
}

/// A terminal's first bytes must arrive as they are, whatever they look like.
#[tokio::test(flavor = "multi_thread")]
async fn terminal_output_is_not_interpreted() {
    let Some(world) = World::new().await else { return };
    let mut ssh = world.ssh();
    ssh.args(["-tt"]).arg(world.target()).arg(r"printf '\001\000\000\000\377\377\377\377x'");
    let output = run(ssh).await;
    assert_eq!(output.stdout, b"\x01\0\0\0\xff\xff\xff\xffx", "{}", stderr(&output));
}

/// Output of a program that ended at once is lost if the end overtakes it.
#[tokio::test(flavor = "multi_thread")]
async fn all_output_arrives_before_the_end() {
    let Some(world) = World::new().await else { return };
    for flag in ["-T", "-tt"] {
        let mut ssh = world.ssh();
        ssh.arg(flag).arg(world.target()).arg("seq 1 200000");
        let text = stdout(&run(ssh).await);
        assert_eq!(text.lines().count(), 200_000, "{flag}");
        assert_eq!(text.lines().next_back().map(str::trim), Some("200000"));
    }
}

/// When a client vanishes, what it ran must go; what was told to stay must stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_client_leaves_no_process() {
    let Some(world) = World::new().await else { return };
    let pid_file = world.path("pid");
    let command = format!("echo $$ > {pid_file}; cat /dev/zero > /dev/null & wait");
    let mut client = world.ssh_to(command).spawn().expect("starts");
    let mut pid = String::new();
    eventually("the command begins", || {
        pid = std::fs::read_to_string(&pid_file).unwrap_or_default().trim().to_owned();
        !pid.is_empty()
    })
    .await;
    client.kill().await.expect("dies");
    let group = format!("/proc/{pid}");
    eventually("the command is gone", || !std::path::Path::new(&group).exists()).await;
}

/// A job that a script leaves in the background must outlive the connection that started it.
#[tokio::test(flavor = "multi_thread")]
async fn background_jobs_outlive_their_connection() {
    let Some(world) = World::new().await else { return };
    let done = world.path("done");
    let go = world.path("go");
    let command = format!(
        "nohup sh -c 'while ! test -e {go}; do sleep 0.05; done; echo yes > {done}' >/dev/null 2>&1 </dev/null &"
    );
    assert!(run(world.ssh_to(command)).await.status.success());
    std::fs::write(go, "").expect("writes");
    eventually("the job ends by itself", || std::path::Path::new(&done).exists()).await;
}

/// Many channels on one connection are what editors and Ansible use.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_channels_share_a_connection() {
    let Some(world) = World::new().await else { return };
    let control = world.path("ctl");
    let mut master = world.ssh();
    master.args(["-M", "-N", "-S", &control]).arg(world.target());
    let mut master = master.spawn().expect("starts");
    eventually("the master listens", || std::path::Path::new(&control).exists()).await;
    let shares = (0..20).map(|number| {
        let mut ssh = world.ssh();
        ssh.args(["-S", &control]).arg(world.target()).arg(format!("sleep 0.2; echo {number}"));
        async move { (number, stdout(&run(ssh).await)) }
    });
    for (number, text) in futures_util::future::join_all(shares).await {
        assert_eq!(text.trim(), number.to_string());
    }
    master.kill().await.expect("dies");
}

/// One channel whose program does not read must not hold up the others of its connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_channel_stalls_alone() {
    let Some(world) = World::new().await else { return };
    let control = world.path("ctl");
    let mut master = world.ssh();
    master.args(["-M", "-N", "-S", &control]).arg(world.target());
    let _master = master.spawn().expect("starts");
    eventually("the master listens", || std::path::Path::new(&control).exists()).await;
    let shared = |command: &str| {
        let mut ssh = world.ssh();
        ssh.args(["-S", &control]).arg(world.target()).arg(command);
        ssh
    };
    let marker = world.path("stalled");
    let stalled = shared(&format!("touch {marker}; sleep 1000"));
    let upload = run_with_input(stalled, noise(6 << 20));
    tokio::pin!(upload);
    let others = async {
        eventually("the stalled one begins", || std::path::Path::new(&marker).exists()).await;
        // Long enough for the upload to fill every window on its way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..5 {
            assert_eq!(stdout(&run(shared("echo free")).await), "free\n");
        }
    };
    tokio::select! {
        _ = &mut upload => panic!("a program that sleeps took its input"),
        () = others => {}
    }
}

/// A big transfer that loses or changes a byte is a corrupted model.
#[tokio::test(flavor = "multi_thread")]
async fn big_transfers_keep_every_byte() {
    let Some(world) = World::new().await else { return };
    let bytes = noise(64 << 20);
    let output = run_with_input(world.ssh_to("cat"), bytes.clone()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
}

/// Agent and X11 forwarding are refused; the session that asked for them must go on.
#[tokio::test(flavor = "multi_thread")]
async fn refused_extras_do_not_end_the_session() {
    let Some(world) = World::new().await else { return };
    let mut ssh = world.ssh();
    ssh.args(["-A", "-X", "-o", "ForwardX11=yes"]).env("DISPLAY", ":99").arg(world.target());
    assert_eq!(stdout(&run(ssh_with(ssh, "echo on")).await), "on\n");
}

fn ssh_with(mut ssh: tokio::process::Command, command: &str) -> tokio::process::Command {
    ssh.arg(command);
    ssh
}
