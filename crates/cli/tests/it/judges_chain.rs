//! Others' programs judge the local chain: Bittensor's Python SDK in its two living versions, and `btcli` of both.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nicompute_chain::{Chain, Endpoint, Neuron};
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_devnet::{Devnet, DevnetConfig, Genesis, SubnetGenesis};
use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Coldkey, Hotkey, Netuid, Rao, Uid};
use tempfile::TempDir;

use crate::judges;

const NETUID: Netuid = Netuid(27);
const COIN: u64 = 1_000_000_000;
const BLOCK_TIME: Duration = Duration::from_millis(500);
/// How long one run of a judge may take.
const JUDGE_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How much of a judge's words is repeated when it is content.
const SHOWN_LINES: usize = 25;
/// The port that the scripts announce.
const SERVED_PORT: u16 = 9010;
const WALLET: &str = "judge";
const WALLET_HOTKEY: &str = "first";

/// One version of the SDK.
struct Judge {
    python: PathBuf,
    script: &'static str,
    folder: TempDir,
}

/// The chain that is judged, and the neuron that weights go to.
struct Judged {
    url: String,
    tasks: Tasks,
    chain: Chain,
    target: Uid,
    target_hotkey: Hotkey,
}

impl Judge {
    /// The judge, if there is one here.
    fn find(variable: &str, script: &'static str) -> Option<Self> {
        let python = judges::python(variable)?;
        Some(Self { python, script, folder: tempfile::tempdir().unwrap() })
    }

    fn wallets(&self) -> PathBuf {
        self.folder.path().join("wallets")
    }

    /// Runs a script of `tests/judges`.
    async fn script(&self, arguments: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/judges");
        let script = root.join(self.script).display().to_string();
        self.run(&self.python, &[&[script.as_str()], arguments].concat()).await
    }

    /// Runs the `btcli` beside the interpreter.
    async fn btcli(&self, arguments: &[&str]) -> String {
        self.run(&self.python.with_file_name("btcli"), arguments).await
    }

    /// Runs a program with a home folder of its own, since the SDKs keep caches there. Its output, if it succeeds.
    async fn run(&self, program: &Path, arguments: &[&str]) -> String {
        let child = tokio::process::Command::new(program)
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("COLUMNS", "250")
            .env("NO_COLOR", "1")
            .env("BT_NO_PARSE_CLI_ARGS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let shown = format!("{} {}", program.display(), arguments.join(" "));
        let output = tokio::time::timeout(JUDGE_LIMIT, child)
            .await
            .unwrap_or_else(|_| panic!("{shown}: no end within {JUDGE_LIMIT:?}"))
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{shown}: {}\n{text}\n{errors}", output.status);
        println!("$ {shown}");
        for line in text.lines().take(SHOWN_LINES) {
            println!("{line}");
        }
        text
    }

    /// A wallet that the SDK makes, read by us.
    async fn wallet(&self) -> (Hotkey, Coldkey) {
        let folder = self.wallets();
        let shown = folder.display().to_string();
        let told = self.script(&["create", &shown, WALLET, WALLET_HOTKEY]).await;
        let wallet = WalletPath::new(&folder, WALLET).unwrap();
        let hotkey = wallet.load_hotkey(WALLET_HOTKEY).unwrap().hotkey();
        assert!(told.contains(&hotkey.to_string()), "{told} is not {hotkey}");
        (hotkey, wallet.load_coldkeypub().unwrap())
    }

    /// Lets the SDK read the chain and set weights on it.
    async fn judge(&self, judged: &Judged) {
        let (netuid, target) = (NETUID.to_string(), judged.target.to_string());
        let folder = self.wallets().display().to_string();
        let arguments = ["chain", &judged.url, &netuid, &folder, WALLET, WALLET_HOTKEY, &target];
        drop(self.script(&arguments).await);
        let own = judged.chain.metagraph(NETUID).await.unwrap();
        let wallet = WalletPath::new(&self.wallets(), WALLET).unwrap();
        let hotkey = wallet.load_hotkey(WALLET_HOTKEY).unwrap();
        let uid = own.neuron(&hotkey.hotkey()).unwrap().uid;
        let weights = judged.chain.weights_of(NETUID, uid).await.unwrap();
        assert_eq!(weights, [(uid, 21_845), (judged.target, 65_535)]);
        let served = |neuron: &Neuron| neuron.axon.is_some_and(|axon| axon.port == SERVED_PORT);
        assert_eq!(own.neurons.iter().filter(|neuron| served(neuron)).count(), 1, "{own:?}");
    }
}

impl Judged {
    /// A chain on which the judge's wallet is a validator, with one served miner.
    async fn start(folder: &Path, (hotkey, coldkey): (Hotkey, Coldkey)) -> Self {
        let (clock, tasks) = (SystemClock::shared(), Tasks::new());
        let rich = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
        let mut subnet = SubnetGenesis::new(NETUID, coldkey, hotkey);
        subnet.validators = vec![(hotkey, coldkey, Rao(100_000 * COIN))];
        let genesis = Genesis {
            endowed: vec![(rich.account(), Rao(1_000_000 * COIN)), (coldkey.0, Rao(1_000 * COIN))],
            subnets: vec![subnet],
            ..Genesis::default()
        };
        let config = DevnetConfig {
            block_time: BLOCK_TIME,
            ..DevnetConfig::new(folder.join("chain"), genesis)
        };
        let devnet = Devnet::start(config, clock.clone(), &tasks).await.unwrap();
        let chain = Chain::connect(&devnet.ws_url(), clock, &tasks).await.unwrap();
        let miner = Keypair::generate(Scheme::Sr25519);
        chain.burned_register(NETUID, &miner.hotkey(), &rich).await.unwrap();
        let axon = Endpoint { ip: [127, 0, 0, 2].into(), port: 8091, version: 190 };
        chain.serve_axon(NETUID, axon, &miner).await.unwrap();
        let target = chain.uid_of(NETUID, &miner.hotkey()).await.unwrap().expect("a uid");
        let url = devnet.ws_url();
        Self { url, tasks, chain, target, target_hotkey: miner.hotkey() }
    }

    async fn end(self) {
        assert!(self.tasks.shutdown(STOP_LIMIT).await, "the chain did not stop");
    }
}

/// A chain that only our own client can use is no stand-in for Subtensor: miners of today run SDK 10.
#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_10() {
    let Some(judge) = Judge::find(judges::PYTHON_10, "sdk10_chain.py") else { return };
    let judged = Judged::start(judge.folder.path(), judge.wallet().await).await;
    judge.judge(&judged).await;
    let network = ["--network", judged.url.as_str()];
    let listed = judge.btcli(&[&["subnets", "list"][..], &network].concat()).await;
    assert!(listed.contains("27"), "subnet 27 is not listed:\n{listed}");
    let graph = ["subnets", "metagraph", "--netuid", "27", "--mechid", "0", "--no-prompt"];
    let shown = judge.btcli(&[&graph[..], &network].concat()).await;
    let hotkey = judged.target_hotkey.to_string();
    assert!(shown.contains(&hotkey[..6]), "{hotkey} is not in the metagraph:\n{shown}");
    judged.end().await;
}

/// The newer SDK has another transport, another codec and another `btcli`.
#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_11() {
    let Some(judge) = Judge::find(judges::PYTHON_11, "sdk11_chain.py") else { return };
    let judged = Judged::start(judge.folder.path(), judge.wallet().await).await;
    judge.judge(&judged).await;
    let network = ["--network", judged.url.as_str(), "--json"];
    let listed = judge.btcli(&[&["subnets", "list"][..], &network].concat()).await;
    assert!(listed.contains("27"), "subnet 27 is not listed:\n{listed}");
    let shown = judge.btcli(&[&["subnets", "metagraph", "27"][..], &network].concat()).await;
    let hotkey = judged.target_hotkey.to_string();
    assert!(shown.contains(&hotkey), "{hotkey} is not in the metagraph:\n{shown}");
    judged.end().await;
}
