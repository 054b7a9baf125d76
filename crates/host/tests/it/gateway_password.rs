//! The password door of leases that older clients made: what their SSH library does, and what a guesser gets.

use std::sync::Arc;
use std::time::Duration;

use nicompute_host::gateway::{Limits, PasswordHash, Route};
use russh::MethodKind;
use russh::client::{self, AuthResult};
use russh::keys::PublicKeyOrCertificate;
use tokio::process::Command;

use crate::gateway_world::{PATIENCE, World, key_pair, run, stderr, stdout, write_private};

const PASSWORD: &str = "Ab3dEf6hIj";

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

async fn connect(world: &World) -> client::Handle<Trusting> {
    let config = Arc::new(client::Config::default());
    let connect = client::connect(config, world.gateway.local_addr(), Trusting);
    tokio::time::timeout(PATIENCE, connect).await.expect("in time").expect("connects")
}

fn with_password(world: &mut World) {
    world.route.password = Some(PasswordHash::new(PASSWORD).expect("hashes"));
    world.gateway.open(&world.route).expect("opens");
}

/// OpenSSH with a password in place of a key.
fn by_password(world: &World, program: &str, password: &str) -> Command {
    let ask = world.path("ask");
    std::fs::write(&ask, format!("#!/bin/sh\necho '{password}'\n")).expect("writes");
    std::fs::set_permissions(&ask, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("chmod");
    let mut client = Command::new(program);
    client.args(["-F", "none", "-o", "PreferredAuthentications=password"]);
    client.args(["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]);
    client.arg("-o").arg(format!("UserKnownHostsFile={}", world.path("known_hosts")));
    client.arg("-o").arg(format!("Port={}", world.gateway.local_addr().port()));
    client.env("SSH_ASKPASS", ask).env("SSH_ASKPASS_REQUIRE", "force");
    client.kill_on_drop(true).stdin(std::process::Stdio::null());
    client
}

/// A v1.9.0 validator comes as `root` with a password, copies a file and runs commands; any byte on standard error fails
/// the miner.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_its_lease_and_says_nothing_else() {
    let Some(mut world) = World::new().await else { return };
    with_password(&mut world);
    world.route.greeting = Some("hello".to_owned());
    world.gateway.open(&world.route).expect("opens");
    for user in ["root".to_owned(), world.user()] {
        let mut ssh = by_password(&world, "ssh", PASSWORD);
        ssh.args(["-o", "SendEnv=LC_ALL", "-o", "LogLevel=ERROR"]).env("LC_ALL", "xx_YY.nothing");
        ssh.arg(format!("{user}@127.0.0.1")).arg("bash -c 'echo in $LC_ALL'");
        let output = run(ssh).await;
        assert_eq!(stdout(&output), "in\n");
        assert_eq!(stderr(&output), "", "a validator takes this for a failure");
    }
    let (from, to) = (world.path("from"), world.path("to"));
    std::fs::write(&from, "script").expect("writes");
    let mut scp = by_password(&world, "scp", PASSWORD);
    scp.arg(&from).arg(format!("root@127.0.0.1:{to}"));
    stdout(&run(scp).await);
    assert_eq!(std::fs::read(&to).expect("arrived"), b"script");
}

/// paramiko asks what is possible, and a refused password must leave the list as it was: without that it falls back to a
/// prompt that never comes and hangs for half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_answered_at_once_and_may_be_corrected() {
    let Some(mut world) = World::new().await else { return };
    with_password(&mut world);
    let both = [MethodKind::PublicKey, MethodKind::Password];
    let mut client = connect(&world).await;
    let began = tokio::time::Instant::now();
    let first = client.authenticate_none("root").await.expect("answers");
    let wrong = client.authenticate_password("root", "wrong password").await.expect("answers");
    for answer in [first, wrong] {
        let AuthResult::Failure { remaining_methods, .. } = answer else { panic!("let in") };
        assert_eq!(remaining_methods.iter().copied().collect::<Vec<_>>(), both);
    }
    let right = client.authenticate_password("root", PASSWORD).await.expect("answers");
    assert!(right.success());
    assert!(began.elapsed() < Duration::from_secs(20), "it hung: {:?}", began.elapsed());
    assert_eq!(world.gateway.stats().passwords_refused, 1);
}

/// A lease of our own clients has keys alone; a password must not even be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn leases_without_a_password_do_not_ask_for_one() {
    let world = World::without_agent(Limits::standard()).await;
    let mut client = connect(&world).await;
    for user in ["root".to_owned(), world.user(), "nobody".to_owned()] {
        let AuthResult::Failure { remaining_methods, .. } =
            client.authenticate_none(&user).await.expect("answers")
        else {
            panic!("let in")
        };
        assert_eq!(remaining_methods.iter().copied().collect::<Vec<_>>(), [MethodKind::PublicKey]);
        assert!(!client.authenticate_password(&user, "").await.expect("answers").success());
    }
}

async fn log_in(world: &World) -> bool {
    let mut client = connect(world).await;
    client.authenticate_password("root", PASSWORD).await.expect("answers").success()
}

/// Once the owner has a key, the password that went over the wire must be worth nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_switches_the_password_off() {
    let Some(mut world) = World::new().await else { return };
    with_password(&mut world);
    assert!(log_in(&world).await && world.gateway.password_open(world.route.lease));
    assert_eq!(stdout(&run(world.ssh_to("echo by key")).await), "by key\n");
    assert!(!world.gateway.password_open(world.route.lease));
    assert!(!log_in(&world).await);
    world.gateway.open(&world.route).expect("opens");
    assert!(!log_in(&world).await, "the same route again brings it back");
    world.restart_gateway().await;
    assert!(!world.gateway.password_open(world.route.lease), "a restart brings it back");
    with_password(&mut world);
    assert!(world.gateway.password_open(world.route.lease), "a new one is another");
}

/// `root` and a password must never choose between two leases.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_two_leases_opens_neither_as_root() {
    let mut world = World::without_agent(Limits::standard()).await;
    with_password(&mut world);
    let other = Route {
        lease: nicompute_market::LeaseId::from_random_bytes([8; 16]),
        socket_dir: world.dir.path().join("other"),
        ..world.route.clone()
    };
    world.gateway.open(&other).expect("opens");
    let mut client = connect(&world).await;
    assert!(!client.authenticate_password("root", PASSWORD).await.expect("answers").success());
    let own = client.authenticate_password(world.user(), PASSWORD).await.expect("answers");
    assert!(own.success());
}

/// A guesser is slowed down after ten attempts from his address, and then even the right word is not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_limited_for_each_address() {
    let mut limits = Limits::standard();
    limits.agent = Duration::from_millis(100);
    let mut world = World::without_agent(limits).await;
    with_password(&mut world);
    let mut refused = 0;
    for _ in 0..3 {
        let mut client = connect(&world).await;
        for _ in 0..4 {
            let guess = client.authenticate_password("root", "some guess").await;
            refused += usize::from(guess.is_ok_and(|guess| !guess.success()));
        }
    }
    assert_eq!(refused, 12);
    let mut client = connect(&world).await;
    assert!(!client.authenticate_password("root", PASSWORD).await.expect("answers").success());
    let (private, public) = key_pair();
    write_private(world.path("late").as_ref(), &private);
    let keys = vec![public];
    world.gateway.open(&Route { keys, ..world.route.clone() }).expect("opens");
    let output = run(world.ssh_as("root", "late")).await;
    assert!(!stderr(&output).contains("Permission denied"), "keys go on: {}", stderr(&output));
}
