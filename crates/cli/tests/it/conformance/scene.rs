//! The chain that all clients are compared on, and the wallet that they use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use nicompute_chain::{Call, Chain, Depth};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::{Devnet, DevnetConfig, Genesis, SubnetGenesis};
use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Existing, Keypair, Scheme};
use nicompute_market::{BlockNumber, Netuid, Rao, Uid};
use tempfile::TempDir;

/// The subnet in question.
pub(super) const NETUID: Netuid = Netuid(27);
/// A subnet that takes weights by commit and reveal only.
pub(super) const COMMIT_NETUID: Netuid = Netuid(26);
/// The wallet's name.
pub(super) const WALLET: &str = "judge";
/// One coin.
pub(super) const COIN: u64 = 1_000_000_000;
const BLOCK_TIME: Duration = Duration::from_millis(400);
/// Some epochs pass in a test, so that there is something to compare.
const TEMPO: u16 = 25;
/// The window of a reveal is an epoch: long enough for a client that starts Python first.
const COMMIT_TEMPO: u16 = 80;
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a height may be waited for: some epochs, on a busy machine.
const HEIGHT_LIMIT: Duration = Duration::from_secs(90);

/// The chain and the keys.
#[derive(Debug)]
pub(super) struct Scene {
    folder: TempDir,
    tasks: Tasks,
    /// Where the chain is.
    pub(super) url: String,
    /// The same for questions of the test itself.
    pub(super) node: SocketAddr,
    /// The client under test.
    pub(super) chain: Chain,
    /// The key with the coins.
    pub(super) coldkey: Keypair,
    /// A validator from the first block, uid 0.
    pub(super) first: Keypair,
    /// A hotkey that the client registers.
    pub(super) newcomer: Keypair,
    /// Another one.
    pub(super) latecomer: Keypair,
    /// An account that gets coins.
    pub(super) friend: Keypair,
}

impl Scene {
    /// Boots a chain on which the wallet's first hotkey is a validator.
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [coldkey, first, newcomer, latecomer, friend] =
            std::array::from_fn(|_| Keypair::generate(Scheme::Sr25519));
        let wallet = WalletPath::new(&folder.path().join("wallets"), WALLET).unwrap();
        wallet.write_coldkey(&coldkey, None, Existing::Refuse).unwrap();
        for (name, key) in [("first", &first), ("newcomer", &newcomer), ("latecomer", &latecomer)] {
            wallet.write_hotkey(name, key, None, Existing::Refuse).unwrap();
        }
        let rich = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
        let mut subnet = SubnetGenesis::new(NETUID, coldkey.coldkey(), first.hotkey());
        subnet.tempo = TEMPO;
        subnet.parameters.weights_rate_limit = 0;
        subnet.parameters.burn_half_life = 0;
        subnet.validators = vec![(first.hotkey(), coldkey.coldkey(), Rao(100_000 * COIN))];
        // A neighbour for every number below: btcli 9 takes the list of subnets for a table indexed by it.
        let neighbour = |netuid| SubnetGenesis::new(Netuid(netuid), rich.coldkey(), rich.hotkey());
        let mut subnets: Vec<_> = (1..COMMIT_NETUID.0).map(neighbour).collect();
        let mut committing = SubnetGenesis { netuid: COMMIT_NETUID, ..subnet.clone() };
        committing.tempo = COMMIT_TEMPO;
        committing.miners = vec![(latecomer.hotkey(), coldkey.coldkey())];
        committing.parameters.switches.commit_reveal = true;
        subnets.extend([committing, subnet]);
        let endowed = [(&rich, 1_000_000), (&coldkey, 10_000)];
        let endowed = endowed.map(|(key, coins)| (key.account(), Rao(coins * COIN))).into();
        let genesis = Genesis { endowed, subnets, ..Genesis::default() };
        let mut config = DevnetConfig::new(folder.path().join("chain"), genesis);
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.block_time = BLOCK_TIME;
        let (clock, tasks) = (SystemClock::shared(), Tasks::new());
        let devnet = Devnet::start(config, clock.clone(), &tasks).await.unwrap();
        let url = devnet.ws_url();
        let chain = Chain::connect(&url, clock, &tasks).await.unwrap();
        let node = url.trim_start_matches("ws://").trim_end_matches('/').parse().unwrap();
        Self { folder, tasks, url, node, chain, coldkey, first, newcomer, latecomer, friend }
    }

    /// The folder with the wallet.
    pub(super) fn wallets(&self) -> PathBuf {
        self.folder.path().join("wallets")
    }

    /// Waits until the chain has a height.
    pub(super) async fn reach(&self, height: u64) {
        let mut heads = self.chain.subscribe_heads();
        let reached = heads.wait_for(|head| head.number >= BlockNumber(height));
        let reached = tokio::time::timeout(HEIGHT_LIMIT, reached).await;
        assert!(reached.is_ok_and(|head| head.is_ok()), "block {height} did not come");
    }

    /// Commits to weights by their hash and waits until they may be revealed.
    pub(super) async fn commit(&self, weights: &[(Uid, u16)], salt: &[u16], version_key: u64) {
        let hash = self.commit_hash(weights, salt, version_key);
        let call = Call::commit_weights(COMMIT_NETUID, hash);
        self.chain.submit(&call, &self.first, Depth::Finalized).await.unwrap();
        // They may be in the epoch after that of the commit.
        let next = self.chain.next_epoch_start(COMMIT_NETUID).await.unwrap();
        self.reach(next.0 + 1).await;
    }

    /// What Subtensor hashes for a commit: who, where, the weights, the salt and the version key, each in SCALE.
    pub(super) fn commit_hash(
        &self,
        weights: &[(Uid, u16)],
        salt: &[u16],
        version_key: u64,
    ) -> [u8; 32] {
        let list = |numbers: Vec<u16>| {
            let len = u8::try_from(numbers.len()).unwrap() << 2;
            let bytes = numbers.into_iter().flat_map(u16::to_le_bytes);
            std::iter::once(len).chain(bytes).collect::<Vec<u8>>()
        };
        let mut hash = Blake2b::<U32>::new();
        hash.update(self.first.account().as_bytes());
        hash.update(COMMIT_NETUID.0.to_le_bytes());
        hash.update(list(weights.iter().map(|(uid, _)| uid.0).collect()));
        hash.update(list(weights.iter().map(|(_, value)| *value).collect()));
        hash.update(list(salt.to_vec()));
        hash.update(version_key.to_le_bytes());
        hash.finalize().into()
    }

    /// Waits until an epoch has passed since now, so that weights have become shares and emission.
    pub(super) async fn pass_an_epoch(&self) {
        let next = self.chain.next_epoch_start(NETUID).await.unwrap();
        self.reach(next.0 + 1).await;
    }

    pub(super) async fn end(self) {
        assert!(self.tasks.shutdown(STOP_LIMIT).await, "the chain did not stop");
    }
}
