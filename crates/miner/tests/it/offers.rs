//! A node that offers what a file says: slices beside each other, files that change, files that are wrong.

use std::time::Duration;

use nicompute_host::runtime::Presence;
use nicompute_miner::{ApiLimits, MinerConfig, StartError};
use nicompute_wire::codes::Code;
use nicompute_wire::node::{LeaseView, OfferView, OffersView};
use serde_json::{Value, json};

use crate::http::PATIENCE;
use crate::world::{Node, World, ask, id, key, path};

/// How often the file is looked at, and a little more.
const LOOK: Duration = Duration::from_secs(3);

pub(crate) fn slice(name: &str, more: &str) -> String {
    format!(
        "[[offer]]\nid = \"{name}\"\ncores_milli = 100\nmemory = \"64 MiB\"\ndisk = \"64 MiB\"\n\
         price_micro_usd_per_hour = 7\n{more}\n"
    )
}

pub(crate) fn config(world: &World, text: &str) -> MinerConfig {
    let file = world.dir.path().join("offers.toml");
    std::fs::write(&file, text).unwrap();
    MinerConfig { offers: Some(file), ..world.config() }
}

pub(crate) fn ask_for(byte: u8, offer: &str) -> Value {
    let mut asked = ask(byte);
    asked["offer"] = json!(offer);
    asked
}

async fn offers(node: &Node<'_>) -> Vec<OfferView> {
    node.get("//Validator", "/v1/offers").await.json::<OffersView>().offers
}

/// Each slice must be leased by itself and with its own share, however many are; a lease of one must not keep the others.
#[tokio::test]
async fn slices_are_leased_beside_each_other() {
    let world = World::new();
    let text = slice("s", "copies = 6");
    let node = world.start_with(config(&world, &text), ApiLimits::standard()).await.unwrap();
    let listed = offers(&node).await;
    assert_eq!(listed.len(), 6);
    assert!(listed.iter().all(|offer| offer.available));
    for byte in 1..=6 {
        let asked = ask_for(byte, &format!("s-{byte}"));
        assert_eq!(node.post("//Validator", "/v1/leases", &asked).await.status, 201);
    }
    for byte in 1..=6 {
        let lease = node.until(byte, "running").await;
        let share = lease.share.unwrap();
        assert_eq!((share.cores_milli, share.memory_bytes), (100, 64 << 20));
        assert_eq!(lease.price_micro_usd_per_hour, Some(7));
        let spec = world.machine.spec_of(id(byte)).unwrap();
        assert_eq!((spec.cores_milli, spec.disk_bytes), (100, 64 << 20));
    }
    assert!(offers(&node).await.iter().all(|offer| !offer.available));
    let taken = node.post("//Validator", "/v1/leases", &ask_for(7, "s-1")).await;
    assert_eq!(taken.code(), Some(Code::Occupied));
    let unknown = node.post("//Validator", "/v1/leases", &ask_for(7, "machine")).await;
    assert_eq!(unknown.code(), Some(Code::NoSuchOffer));
}

/// An operator who changes prices or slices must not have to stop tenants, and one who makes a mistake must not lose the
/// offers that there were.
#[tokio::test]
async fn a_changed_file_is_used_and_a_wrong_one_is_not() {
    let world = World::new();
    let first = config(&world, &slice("old", ""));
    let file = first.offers.clone().unwrap();
    let node = world.start_with(first, ApiLimits::standard()).await.unwrap();
    let asked = ask_for(1, "old");
    assert_eq!(node.post("//Validator", "/v1/leases", &asked).await.status, 201);
    let sold = node.until(1, "running").await;
    let becomes = async |names: &[&str]| {
        let reached = async {
            loop {
                world.clock.advance(LOOK);
                tokio::task::yield_now().await;
                let listed = offers(&node).await;
                if listed.iter().map(|offer| offer.id.as_str()).eq(names.iter().copied()) {
                    break listed;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap()
    };
    std::fs::write(&file, slice("new", "").replace("= 7", "= 9")).unwrap();
    let listed = becomes(&["new"]).await;
    assert_eq!(listed[0].price_micro_usd_per_hour, 9);
    let still = node.lease(1).await;
    assert_eq!((&still.state, &still.share), (&sold.state, &sold.share));
    assert_eq!(still.price_micro_usd_per_hour, Some(7), "as it was sold");
    let again = node.post("//Validator", "/v1/leases", &ask_for(1, "old")).await;
    assert_eq!(again.status, 200, "its answer may have been lost: {again:?}");

    std::fs::write(&file, "[[offer]]\nid = \"broken\"\n").unwrap();
    world.clock.advance(LOOK);
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert_eq!(offers(&node).await[0].id.as_str(), "new");
    }
    std::fs::write(&file, slice("newest", "")).unwrap();
    becomes(&["newest"]).await;
    assert!(matches!(world.machine.containers()[..], [(_, Presence::Running { .. })]));
}

/// An operator who says so must not have to wait for the node to look at the file by itself.
#[tokio::test]
async fn the_file_is_read_again_at_a_hangup() {
    // A hangup that nobody listens for ends this process.
    let _listens = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    let world = World::new();
    let first = config(&world, &slice("old", ""));
    let file = first.offers.clone().unwrap();
    let node = world.start_with(first, ApiLimits::standard()).await.unwrap();
    assert_eq!(offers(&node).await[0].id.as_str(), "old");
    std::fs::write(&file, slice("new", "")).unwrap();
    // Nobody moves the clock: the node does not look by itself.
    let reached = async {
        loop {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
                .unwrap();
            tokio::task::yield_now().await;
            if offers(&node).await[0].id.as_str() == "new" {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
}

/// A slice of half a core that is listed as a whole one is sold to whoever asks for a core.
#[tokio::test]
async fn parts_of_cores_are_not_listed_as_cores() {
    let world = World::new();
    let half = slice("half", "").replace("= 100", "= 500");
    let more = slice("more", "").replace("= 100", "= 1_500");
    let text = format!("{half}{more}");
    let node = world.start_with(config(&world, &text), ApiLimits::standard()).await.unwrap();
    let cores: Vec<u32> = offers(&node).await.iter().map(|offer| offer.machine.cores).collect();
    assert_eq!(cores, [0, 1]);
}

/// A node that starts with a file that it does not understand would sell something else than its owner meant.
#[tokio::test]
async fn a_node_does_not_start_with_a_wrong_file() {
    let world = World::new();
    let text = slice("a", "cores = 1_000_000").replace("cores_milli = 100\n", "");
    let config = config(&world, &text);
    let Err(error) = world.start_with(config, ApiLimits::standard()).await else {
        panic!("the node started");
    };
    assert!(matches!(error, StartError::Offers(_)), "{error}");
    let said = nicompute_daemon::ErrorChain(&error).to_string();
    assert!(said.contains("line 1: cores") && error.remedy().is_some(), "{said}");
}

/// What the offer's owner does not take must be refused before anything is held, with the field that is wrong.
#[tokio::test]
async fn an_offers_conditions_are_kept() {
    let world = World::new();
    let more = "min_duration = \"30m\"\nmax_duration = \"2h\"\nvolumes = false\nimages = [\"fake\"]\n\
                maintenance = [{ from = 2023-11-15T00:00:00Z, until = 2023-11-15T01:00:00Z }]";
    let node =
        world.start_with(config(&world, &slice("a", more)), ApiLimits::standard()).await.unwrap();
    // The clock stands at 2023-11-14T22:13:20Z.
    let refused = async |change: Value| {
        let mut asked = ask_for(9, "a");
        for (field, value) in change.as_object().unwrap() {
            asked[field] = value.clone();
        }
        let answer = node.post("//Validator", "/v1/leases", &asked).await;
        assert_eq!(answer.status / 100, 4, "{change}");
        answer.json::<Value>()["detail"].as_str().unwrap().to_owned()
    };
    assert!(refused(json!({ "duration_seconds": 600 })).await.contains("duration_seconds"));
    assert!(refused(json!({ "duration_seconds": 7201 })).await.contains("duration_seconds"));
    assert!(refused(json!({ "duration_seconds": 6401 })).await.contains("maintenance"));
    let volumes = json!({ "options": { "volumes": [{ "name": "x", "target": "/x" }] } });
    assert!(refused(volumes).await.contains("options.volumes"));
    assert!(refused(json!({ "options": { "class": "kata" } })).await.contains("options.class"));
    assert!(refused(json!({ "options": { "ports": [80] } })).await.contains("options.ports"));
    let egress = json!({ "options": { "network": "egress" } });
    assert!(refused(egress).await.contains("options.network"));
    assert!(refused(json!({ "image": "other" })).await.contains("image"));
    let proof = json!({ "purpose": "proof", "duration_seconds": 60 });
    let mut asked = ask_for(1, "a");
    for (field, value) in proof.as_object().unwrap() {
        asked[field] = value.clone();
    }
    assert_eq!(
        node.post("//Validator", "/v1/leases", &asked).await.status,
        201,
        "a proof is short"
    );
    node.until(1, "running").await;
    node.send("//Validator", "DELETE", &path(1), b"").await;
    node.until(1, "ended").await;
    let asked = ask_for(2, "a");
    assert_eq!(node.post("//Validator", "/v1/leases", &asked).await.status, 201);
    let extend = json!({ "duration_seconds": 7000 });
    let extended = node.post("//Validator", &format!("{}/extend", path(2)), &extend).await;
    assert_eq!(extended.code(), Some(Code::BadRequest));
    let lease: LeaseView = node.lease(2).await;
    assert_eq!(lease.holder, key("//Validator").hotkey());
}

/// A GPU that is gone at a reboot, or a disk that filled up, makes a file wrong; a node that did not start for it would leave
/// every tenant without a way in.
#[tokio::test]
async fn a_wrong_file_does_not_lock_tenants_out() {
    let world = World::new();
    let good = slice("a", "");
    let node = world.start_with(config(&world, &good), ApiLimits::standard()).await.unwrap();
    let asked = ask_for(1, "a");
    assert_eq!(node.post("//Validator", "/v1/leases", &asked).await.status, 201);
    node.until(1, "running").await;
    node.kill().await;
    let wrong = config(&world, &slice("a", "gpus = [\"GPU-gone\"]"));
    let file = wrong.offers.clone().unwrap();
    let node = world.start_with(wrong, ApiLimits::standard()).await.unwrap();
    assert_eq!(node.lease(1).await.state, "running");
    assert!(offers(&node).await.is_empty());
    std::fs::write(&file, good).unwrap();
    let offered = async {
        while offers(&node).await.is_empty() {
            world.clock.advance(LOOK);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, offered).await.unwrap();
    node.send("//Validator", "DELETE", &path(1), b"").await;
    node.until(1, "ended").await;
}

/// The longest time that an owner gives must not be had twice by extending a lease.
#[tokio::test]
async fn extending_keeps_to_the_longest_time() {
    let world = World::new();
    let text = slice("a", "max_duration = \"2h\"");
    let node = world.start_with(config(&world, &text), ApiLimits::standard()).await.unwrap();
    let asked = ask_for(1, "a");
    assert_eq!(node.post("//Validator", "/v1/leases", &asked).await.status, 201);
    node.until(1, "running").await;
    let extend = async |seconds: u64| {
        let body = json!({ "duration_seconds": seconds });
        node.post("//Validator", &format!("{}/extend", path(1)), &body).await.status
    };
    assert_eq!(extend(7201).await, 400);
    assert_eq!(extend(7200).await, 200);
}

/// What an offer says is fetched must be fetched when a renter asks for it, and a disk that is sold must not be sold again
/// under another name.
#[tokio::test]
async fn images_are_fetched_and_a_disk_is_sold_once() {
    let world = World::new();
    world.machine.set_registry(&["docker.io/big/x:1"]);
    let whole = world.start().await;
    let disk = whole.get("//Validator", "/v1/offers").await.json::<OffersView>().offers[0]
        .machine
        .disk_bytes;
    whole.kill().await;
    let most = disk / 4 * 3;
    let sold = |name: &str| slice(name, "").replace("\"64 MiB\"\nprice", &format!("{most}\nprice"));
    let fetches = vec!["docker.io/big/*".parse().unwrap()];
    let first = MinerConfig { fetches, ..config(&world, &sold("old")) };
    let file = first.offers.clone().unwrap();
    let node = world.start_with(first, ApiLimits::standard()).await.unwrap();
    let mut asked = ask_for(1, "old");
    asked["image"] = json!("docker.io/big/x:1");
    assert_eq!(node.post("//Validator", "/v1/leases", &asked).await.status, 201);
    node.until(1, "running").await;
    std::fs::write(&file, sold("new")).unwrap();
    let listed = async {
        loop {
            world.clock.advance(LOOK);
            tokio::task::yield_now().await;
            let listed = offers(&node).await;
            if listed[0].id.as_str() == "new" {
                break listed;
            }
        }
    };
    let listed = tokio::time::timeout(PATIENCE, listed).await.unwrap();
    assert!(!listed[0].available, "the disk is leased");
    let taken = node.post("//Validator", "/v1/leases", &ask_for(2, "new")).await;
    assert_eq!(taken.code(), Some(Code::Occupied));
}
