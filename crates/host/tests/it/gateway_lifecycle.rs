//! What happens around a session: keys that come and go, restarts, agents that vanish or do not answer.

use std::time::Duration;

use nicompute_host::gateway::{Limits, PasswordHash, Route, RouteError};
use nicompute_market::LeaseId;

use crate::gateway_world::{World, eventually, key_pair, run, stderr, stdout, write_private};

/// Whoever gets in without the lease's key has somebody else's machine.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_leases_keys_open_it() {
    let world = World::without_agent(Limits::standard()).await;
    let (stranger, _) = key_pair();
    write_private(world.path("stranger").as_ref(), &stranger);
    let mut refusals = Vec::new();
    for (user, key) in
        [(world.user(), "stranger"), ("nobody".to_owned(), "id"), ("root".to_owned(), "stranger")]
    {
        let output = run(world.ssh_as(&user, key)).await;
        assert_eq!(output.status.code(), Some(255));
        refusals.push(stderr(&output).replace(&user, "USER"));
    }
    assert!(refusals[0].contains("Permission denied (publickey)"), "{refusals:?}");
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
}

/// `root` is the name that every guide uses; it must open the one lease of the key, and never another tenant's who has put
/// the same public key into his: neither while both are open nor when the right one has ended.
#[tokio::test(flavor = "multi_thread")]
async fn root_stands_for_the_keys_only_lease() {
    let Some(world) = World::new().await else { return };
    let as_root = || {
        let mut ssh = world.ssh();
        ssh.arg("root@127.0.0.1").arg("echo in");
        ssh
    };
    assert_eq!(stdout(&run(as_root()).await), "in\n");
    let other = Route {
        lease: LeaseId::from_random_bytes([8; 16]),
        socket_dir: world.dir.path().join("other"),
        ..world.route.clone()
    };
    world.gateway.open(&other).expect("opens");
    assert_eq!(run(as_root()).await.status.code(), Some(255));
    assert_eq!(stdout(&run(world.ssh_to("echo in")).await), "in\n");
    world.gateway.open(&world.route).expect("opens again");
    world.gateway.close(other.lease);
    assert_eq!(run(as_root()).await.status.code(), Some(255), "it might be the other's key");
    assert_eq!(stdout(&run(world.ssh_to("echo in")).await), "in\n", "its own name always works");
}

/// A tenant who rents again with his key must not lose `root` for that, and one who has no other name must not lose it
/// to anybody who knows his public key.
#[tokio::test(flavor = "multi_thread")]
async fn root_is_not_taken_away_by_the_same_holder_nor_from_older_clients() {
    let Some(world) = World::new().await else { return };
    let as_root = || {
        let mut ssh = world.ssh();
        ssh.arg("root@127.0.0.1").arg("echo in");
        ssh
    };
    let with_holder = Route { holder: Some([1; 32]), ..world.route.clone() };
    world.gateway.open(&with_holder).expect("opens");
    let second = Route {
        lease: LeaseId::from_random_bytes([8; 16]),
        socket_dir: world.dir.path().join("second"),
        ..with_holder.clone()
    };
    world.gateway.open(&second).expect("opens");
    assert_eq!(run(as_root()).await.status.code(), Some(255), "it guessed");
    world.gateway.close(second.lease);
    assert_eq!(stdout(&run(as_root()).await), "in\n");
    let password = Some(PasswordHash::new("Ab3dEf6hIj").expect("hashes"));
    let older = Route { password, ..with_holder };
    world.gateway.open(&older).expect("opens");
    let stranger = Route { holder: None, ..second };
    world.gateway.open(&stranger).expect("opens");
    assert_eq!(stdout(&run(as_root()).await), "in\n");
    world.gateway.close(older.lease);
    assert_eq!(run(as_root()).await.status.code(), Some(255), "the stranger has it now");
}

/// A wrong host key is an attack; the client must be able to see it.
#[tokio::test(flavor = "multi_thread")]
async fn another_host_key_is_noticed() {
    let world = World::without_agent(Limits::standard()).await;
    let (_, public) = key_pair();
    let port = world.gateway.local_addr().port();
    std::fs::write(world.path("known_hosts"), format!("[127.0.0.1]:{port} {public}\n"))
        .expect("writes");
    let output = run(world.ssh_to("true")).await;
    assert!(stderr(&output).contains("Host key verification failed"), "{}", stderr(&output));
}

/// A key that was taken away must not keep a session, and a closed route must let nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_keys_and_closed_routes_end_sessions() {
    let Some(world) = World::new().await else { return };
    for close in [false, true] {
        let marker = world.path(&format!("began-{close}"));
        let mut client =
            world.ssh_to(format!("touch {marker}; sleep 1000")).spawn().expect("starts");
        eventually("the session begins", || std::path::Path::new(&marker).exists()).await;
        if close {
            world.gateway.close(world.route.lease);
        } else {
            let route = Route { keys: vec![key_pair().1], ..world.route.clone() };
            world.gateway.open(&route).expect("opens");
        }
        let ended = tokio::time::timeout(crate::gateway_world::PATIENCE, client.wait()).await;
        assert_eq!(ended.expect("in time").expect("ends").code(), Some(255));
        assert_eq!(run(world.ssh_to("true")).await.status.code(), Some(255));
        world.gateway.open(&world.route).expect("opens");
        world.connected().await;
        assert_eq!(stdout(&run(world.ssh_to("echo in")).await), "in\n");
    }
    world.gateway.close(world.route.lease);
    eventually("the socket is removed", || !world.socket().exists()).await;
    world.gateway.close(world.route.lease);
    assert!(!world.gateway.connected(world.route.lease));
}

/// Opening again without a change is what a reconciler does every few seconds; nobody may notice.
#[tokio::test(flavor = "multi_thread")]
async fn opening_again_changes_nothing() {
    let Some(world) = World::new().await else { return };
    let open = async {
        for _ in 0..50 {
            world.gateway.open(&world.route).expect("opens");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (output, ()) = tokio::join!(run(world.ssh_to("sleep 0.2; echo same")), open);
    assert_eq!(stdout(&output), "same\n");
}

/// A node that restarts must find its leases again, and they must find it.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_comes_back_after_a_gateway_restart() {
    let Some(mut world) = World::new().await else { return };
    for _ in 0..3 {
        world.restart_gateway().await;
        // At once: the gateway waits for the agent, not the renter.
        assert_eq!(stdout(&run(world.ssh_to("echo again")).await), "again\n");
    }
}

/// A client whose machine died must be told, and the next agent must be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_told_and_replaced() {
    let Some(mut world) = World::new().await else { return };
    let marker = world.path("began");
    let mut client = world.ssh_to(format!("touch {marker}; exec sleep 1000"));
    let client = client.spawn().expect("starts");
    eventually("the session begins", || std::path::Path::new(&marker).exists()).await;
    world.kill_agent().await;
    let ended =
        tokio::time::timeout(crate::gateway_world::PATIENCE, client.wait_with_output()).await;
    let output = ended.expect("in time").expect("ends");
    assert_eq!(output.status.code(), Some(255));
    assert!(
        stderr(&output).contains("the connection to the machine was lost"),
        "{}",
        stderr(&output)
    );
    world.start_agent().await;
    assert_eq!(stdout(&run(world.ssh_to("echo back")).await), "back\n");
}

/// A paused machine must not look like a hung network for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_is_reported_in_bounded_time() {
    let mut limits = Limits::standard();
    limits.agent = Duration::from_millis(500);
    let Some(world) = World::with_limits(limits).await else { return };
    let pid =
        rustix::process::Pid::from_raw(world.agent_pid().try_into().expect("fits")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stops");
    let output = run(world.ssh_to("echo never")).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(stderr(&output).contains("does not answer"), "{}", stderr(&output));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
    assert_eq!(stdout(&run(world.ssh_to("echo again")).await), "again\n");
}

/// Without an agent the renter must hear that the machine is not there, on stderr and by exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_agent_is_reported_in_bounded_time() {
    let mut limits = Limits::standard();
    limits.agent = Duration::from_millis(200);
    let world = World::without_agent(limits).await;
    let output = run(world.ssh_to("echo never")).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(stderr(&output).contains("not connected"), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

/// Bad keys must be named by their place and change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn bad_routes_are_refused_whole() {
    let world = World::without_agent(Limits::standard()).await;
    let good = world.route.keys[0].clone();
    let with = |keys| Route { keys, ..world.route.clone() };
    let error =
        world.gateway.open(&with(vec![good.clone(), "nonsense".to_owned()])).expect_err("refused");
    assert!(matches!(error, RouteError::Key { index: 1, .. }), "{error:?}");
    assert!(world.gateway.open(&with(vec![good.clone(); 64])).is_ok());
    let error = world.gateway.open(&with(vec![good; 65])).expect_err("refused");
    assert!(matches!(error, RouteError::TooManyKeys { max: 64 }), "{error:?}");
    let blocked = Route {
        lease: LeaseId::from_random_bytes([9; 16]),
        socket_dir: world.path("id").into(),
        ..world.route.clone()
    };
    assert!(matches!(world.gateway.open(&blocked), Err(RouteError::Socket { .. })));
}

/// A lease's folder lies deep; a socket's own path may have 107 bytes.
#[tokio::test(flavor = "multi_thread")]
async fn deep_folders_have_a_socket_too() {
    let world = World::without_agent(Limits::standard()).await;
    let deep = world.dir.path().join("a".repeat(100)).join("b".repeat(100));
    let route = Route {
        lease: LeaseId::from_random_bytes([3; 16]),
        socket_dir: deep.clone(),
        ..world.route.clone()
    };
    world.gateway.open(&route).expect("opens");
    assert!(deep.join("gateway.sock").exists());
}

/// A link in the place of the socket or its folder must lead the gateway nowhere: it runs as root, and what is behind the
/// link is somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn links_in_the_sockets_place_are_not_followed() {
    let world = World::without_agent(Limits::standard()).await;
    let (dir, target) = (world.dir.path().join("linked"), world.dir.path().join("precious"));
    std::fs::create_dir(&dir).expect("makes");
    std::fs::write(&target, "kept").expect("writes");
    std::os::unix::fs::symlink(&target, dir.join("gateway.sock")).expect("links");
    let route = Route {
        lease: LeaseId::from_random_bytes([4; 16]),
        socket_dir: dir.clone(),
        ..world.route.clone()
    };
    world.gateway.open(&route).expect("opens");
    let kind = std::fs::symlink_metadata(dir.join("gateway.sock")).expect("is there").file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_socket(&kind), "{kind:?}");
    assert_eq!(std::fs::read(&target).expect("reads"), b"kept");
    let (folder, link) = (world.dir.path().join("folder"), world.dir.path().join("link"));
    std::fs::create_dir(&folder).expect("makes");
    let mode = || std::fs::metadata(&folder).expect("is there").permissions();
    let before = mode();
    std::os::unix::fs::symlink(&folder, &link).expect("links");
    let lease = LeaseId::from_random_bytes([5; 16]);
    let refused = world.gateway.open(&Route { lease, socket_dir: link, ..world.route.clone() });
    assert!(matches!(refused, Err(RouteError::Socket { .. })), "{refused:?}");
    assert_eq!((mode(), std::fs::read_dir(&folder).expect("lists").count()), (before, 0));
}
