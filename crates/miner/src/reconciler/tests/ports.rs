//! Ports of leases that others reach: given, kept, and freed.

use nicompute_market::PublishedPort;

use super::*;

async fn lease(process: &Process, byte: u8) -> Lease {
    process.store().get(terms(byte).id).await.unwrap().unwrap()
}

fn problem(process: &Process, byte: u8, inside: u16) -> Option<&'static str> {
    process.reconciler.ports.problem(terms(byte).id, inside)
}

/// People were told the number of a port: it must be the same after a restart of the node, closed with the lease, and
/// free for others after it.
#[tokio::test]
async fn ports_stay_the_same_until_the_lease_is_over() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(2, 3_600_000).await;
    let given = lease(&process, 2).await.published;
    let inside: Vec<_> = given.iter().map(|port| port.container_port).collect();
    assert_eq!(inside, [80, 8080], "held with the offer");
    process.look().await;
    assert_eq!(process.routes.published(terms(2).id), given);
    assert_eq!(problem(&process, 2, 80), None);
    drop(process);
    let process = world.start(FOR_EVER).await;
    assert!(problem(&process, 2, 80).is_some(), "nobody listens yet");
    process.look().await;
    assert_eq!(process.routes.published(terms(2).id), given);
    process.apply(2, LeaseEvent::PauseAsked).await;
    process.look().await;
    assert_eq!(process.routes.published(terms(2).id), given);
    process.apply(2, LeaseEvent::EndAsked(EndReason::Released)).await;
    assert_eq!(lease(&process, 2).await.published, given, "until nothing of it is left");
    process.look().await;
    assert!(process.routes.published(terms(2).id).is_empty());
    assert_eq!(lease(&process, 2).await.published, []);
}

/// A port that another program took while the node was away must cost nobody his lease, nor move, and come back by itself.
#[tokio::test]
async fn a_port_that_is_taken_meanwhile_costs_no_lease() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(2, 3_600_000).await;
    process.look().await;
    let given = lease(&process, 2).await.published;
    drop(process);
    let routes = FakeRoutes::default();
    routes.taken.lock().unwrap().insert(given[0].port);
    let process = world.start_with(FOR_EVER, routes).await;
    process.look().await;
    assert_eq!(process.state(2).await, LeaseState::Running);
    assert_eq!(lease(&process, 2).await.published, given);
    assert_eq!(process.routes.published(terms(2).id), given[1..]);
    assert_eq!((problem(&process, 2, 80), problem(&process, 2, 8080)), (Some("taken"), None));
    process.routes.taken.lock().unwrap().clear();
    process.look().await;
    assert_eq!(process.routes.published(terms(2).id), given);
    assert_eq!(problem(&process, 2, 80), None);
}

/// While it is prepared, nobody knows a lease's ports yet: one that another program has is given up for one that is free.
#[tokio::test]
async fn a_taken_port_is_given_up_before_anybody_knows_it() {
    let world = World::new();
    let process = world.start(FOR_EVER).await;
    process.ask(2, 3_600_000).await;
    let first = lease(&process, 2).await.published;
    let taken = |port: &PublishedPort| port.port;
    *process.routes.taken.lock().unwrap() = first.iter().map(taken).collect();
    // The numbers that are given up may be drawn again; of eight, six are free.
    process.look().await;
    let now = lease(&process, 2).await;
    assert_eq!(now.state, LeaseState::Running);
    assert_eq!(process.routes.published(terms(2).id), now.published);
    assert!(now.published.iter().all(|port| !first.iter().any(|old| old.port == port.port)));
}
