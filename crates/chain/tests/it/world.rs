//! A chain for a test: started here, or the node that `NICOMPUTE_TEST_ENDPOINT` names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nicompute_chain::{Chain, Endpoint, Limits};
use nicompute_daemon::{SharedClock, SystemClock, Tasks};
use nicompute_devnet::{Chaos, Devnet, DevnetConfig, Genesis, Profile, SubnetGenesis};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Netuid, Rao};
use tempfile::TempDir;

/// Time between the local chain's blocks.
pub(crate) const BLOCK_TIME: Duration = Duration::from_millis(200);
/// The subnet of the tests, and one that takes weights by commit and reveal only.
pub(crate) const NETUID: Netuid = Netuid(27);
pub(crate) const SEALED_NETUID: Netuid = Netuid(28);
/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A coin.
pub(crate) const COIN: u64 = 1_000_000_000;

/// A chain and a client of it.
pub(crate) struct World {
    pub(crate) chain: Chain,
    pub(crate) netuid: Netuid,
    /// An account with many coins.
    pub(crate) rich: Keypair,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) local: Option<Local>,
}

/// A local chain that can be stopped and started again.
pub(crate) struct Local {
    folder: TempDir,
    profile: Profile,
    running: Tasks,
    finality_lag: u32,
    devnet: Option<Devnet>,
    pub(crate) address: SocketAddr,
    pub(crate) validator: Keypair,
}

pub(crate) fn alice() -> Keypair {
    Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap()
}

pub(crate) fn fresh() -> Keypair {
    Keypair::generate(Scheme::Sr25519)
}

pub(crate) fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint { ip: ip.parse::<IpAddr>().unwrap(), port, version: 190 }
}

/// Short enough for tests of what is gone, long enough for a busy machine.
pub(crate) const LIMITS: Limits = Limits {
    connect: Duration::from_secs(30),
    read: Duration::from_secs(20),
    submit: Duration::from_secs(60),
    come_home: Duration::from_millis(200),
};

impl Local {
    pub(crate) async fn start(profile: Profile) -> Self {
        Self::start_at(profile, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(profile: Profile, address: SocketAddr) -> Self {
        Self::start_with(profile, address, 0).await
    }

    /// A chain whose blocks become final some blocks later.
    pub(crate) async fn lagging(profile: Profile, finality_lag: u32) -> Self {
        Self::start_with(profile, SocketAddr::from(([127, 0, 0, 1], 0)), finality_lag).await
    }

    async fn start_with(profile: Profile, address: SocketAddr, finality_lag: u32) -> Self {
        let mut local = Self {
            finality_lag,
            devnet: None,
            folder: tempfile::tempdir().unwrap(),
            profile,
            running: Tasks::new(),
            address,
            validator: fresh(),
        };
        local.go_on().await;
        local
    }

    /// Starts it on the port that it had.
    pub(crate) async fn go_on(&mut self) {
        self.running = Tasks::new();
        let subnet = |netuid| {
            let owner = alice();
            let mut subnet = SubnetGenesis::new(netuid, owner.coldkey(), fresh().hotkey());
            subnet.validators =
                vec![(self.validator.hotkey(), alice().coldkey(), Rao(100_000 * COIN))];
            subnet
        };
        let mut sealed = subnet(SEALED_NETUID);
        sealed.parameters.switches.commit_reveal = true;
        sealed.validators.clear();
        let genesis = Genesis {
            endowed: vec![(alice().account(), Rao(1_000_000 * COIN))],
            subnets: vec![subnet(NETUID), sealed],
            ..Genesis::default()
        };
        let config = DevnetConfig {
            listen: self.address,
            block_time: BLOCK_TIME,
            profile: self.profile,
            finality_lag: self.finality_lag,
            ..DevnetConfig::new(self.folder.path(), genesis)
        };
        let devnet = Devnet::start(config, SystemClock::shared(), &self.running).await.unwrap();
        self.address = devnet.address();
        self.devnet = Some(devnet);
    }

    /// Does something to the chain.
    pub(crate) async fn chaos(&self, chaos: Chaos) {
        let devnet = self.devnet.as_ref().expect("the chain runs");
        println!("{:?}", devnet.chaos(chaos).await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.devnet = None;
        assert!(self.running.shutdown(PATIENCE).await, "the local chain did not stop");
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }
}

impl World {
    pub(crate) async fn local(profile: Profile) -> Self {
        Self::around(Local::start(profile).await).await
    }

    /// A client of this local chain.
    pub(crate) async fn around(local: Local) -> Self {
        let mut world = Self::at(&local.url(), NETUID).await;
        world.local = Some(local);
        world
    }

    /// The node that the environment names, if it names one.
    pub(crate) async fn named() -> Option<Self> {
        let read = |name| {
            #[expect(clippy::disallowed_methods, reason = "a gate of the tests, read at run time")]
            std::env::var(name).ok()
        };
        let Some(endpoint) = read("NICOMPUTE_TEST_ENDPOINT") else {
            println!("SKIPPED: no real node, NICOMPUTE_TEST_ENDPOINT names none");
            return None;
        };
        let netuid = read("NICOMPUTE_TEST_NETUID").map_or(1, |text| text.parse().unwrap());
        Some(Self::at(&endpoint, Netuid(netuid)).await)
    }

    async fn at(endpoint: &str, netuid: Netuid) -> Self {
        let (clock, tasks) = (SystemClock::shared(), Tasks::new());
        let chain = Chain::connect_with(endpoint, LIMITS, clock.clone(), &tasks).await.unwrap();
        Self { chain, netuid, rich: alice(), clock, tasks, local: None }
    }

    pub(crate) fn local_mut(&mut self) -> &mut Local {
        self.local.as_mut().expect("a test of the local chain")
    }

    /// A coldkey with coins.
    pub(crate) async fn coldkey(&self, coins: u64) -> Keypair {
        let coldkey = fresh();
        self.chain.transfer(&coldkey.account(), Rao(coins * COIN), &self.rich).await.unwrap();
        coldkey
    }

    /// Ends everything that the test has started.
    pub(crate) async fn end(mut self) {
        assert!(self.tasks.shutdown(PATIENCE).await, "the client did not stop");
        if let Some(local) = &mut self.local {
            local.stop().await;
        }
    }
}
