//! A market of real processes for tests: each daemon is the binary under test, as a child that a test may kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Existing, Keypair, Scheme};
use serde_json::{Value, json};

/// How long a daemon may take to be ready, to stop, or to reach a state.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// A thousand coins.
const COINS: u64 = 1_000_000_000_000;

/// The binary under test.
pub(crate) fn binary() -> Command {
    #[expect(clippy::disallowed_methods, reason = "the test runs the product")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicompute"));
    command.stdin(Stdio::null());
    command
}

/// Any other program.
pub(crate) fn program(name: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the test judges with other programs")]
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Says loudly that a judge is missing; under `NICOMPUTE_TEST_STRICT=1` that is a failure.
pub(crate) fn skip(why: &str) {
    #[expect(clippy::disallowed_methods, reason = "a gate of the tests")]
    let is_strict = std::env::var("NICOMPUTE_TEST_STRICT").is_ok_and(|value| value == "1");
    assert!(!is_strict, "a judge is missing: {why}");
    eprintln!("SKIPPED: {why}");
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

/// Waits until a condition gives a value.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    #[expect(clippy::disallowed_methods, reason = "tests wait on the machine's clock")]
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(value) = ask() {
            return value;
        }
        #[expect(clippy::disallowed_methods, reason = "tests wait on the machine's clock")]
        let now = Instant::now();
        assert!(now < until, "{what}: not within {LIMIT:?}");
        #[expect(clippy::disallowed_methods, reason = "a test has no executor to block")]
        std::thread::sleep(POLL);
    }
}

/// How much of a daemon's log a test that fails shows.
const LINES_SHOWN: usize = 60;

/// One daemon process.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    stdin: Option<ChildStdin>,
    state_dir: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon; its log goes to `<state dir>.log`.
    pub(crate) fn start(state_dir: &Path, args: &[String]) -> Self {
        let log = state_dir.with_extension("log");
        let sink = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = binary();
        command.args(args).arg("--state-dir").arg(state_dir).arg("--exit-with-stdin");
        command.stdin(Stdio::piped()).stdout(sink.try_clone().unwrap()).stderr(sink);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        Self { child, stdin, state_dir: state_dir.to_owned(), log }
    }

    /// Waits for the ready file.
    pub(crate) fn ready(&mut self) -> Value {
        let file = self.state_dir.join("ready.json");
        let (child, log) = (&mut self.child, &self.log);
        wait_for("a ready daemon", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}:\n{}", fs::read_to_string(log).unwrap_or_default());
            serde_json::from_slice(&fs::read(&file).ok()?).ok()
        })
    }

    /// SIGKILL, as the machine's power or the kernel's memory killer would.
    pub(crate) fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the end of a daemon", || child.try_wait().unwrap())
    }

    /// Ends the daemon in good order.
    pub(crate) fn stop(&mut self) {
        drop(self.stdin.take());
        let status = self.wait_for_end();
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    /// Everything that the daemon logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The resident memory of the process in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed must not leave a daemon behind.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(LINES_SHOWN).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            eprintln!("{}:\n{}", self.log.display(), lines.join("\n"));
        }
    }
}

/// A folder with a chain on which one validator and one provider are registered.
#[derive(Debug)]
pub(crate) struct World {
    /// Everything lies here.
    pub(crate) dir: tempfile::TempDir,
    /// The local chain.
    pub(crate) chain: Daemon,
    /// Its address.
    pub(crate) ws: String,
    /// The validator's hotkey.
    pub(crate) validator: Keypair,
    /// The provider's hotkey.
    pub(crate) miner: Keypair,
}

impl World {
    /// Boots the chain and registers the provider.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("nic").tempdir_in("/tmp").unwrap();
        let (validator, owner) = wallet(dir.path(), "validator");
        let (miner, provider) = wallet(dir.path(), "miner");
        let genesis = json!({
            "endowed": [
                { "account": owner.account(), "rao": COINS },
                { "account": provider.account(), "rao": COINS },
            ],
            "subnets": [{
                "netuid": 27,
                "owner_coldkey": owner.coldkey(),
                "owner_hotkey": validator.hotkey(),
                "tempo": 10,
                "validators": [{
                    "hotkey": validator.hotkey(),
                    "coldkey": owner.coldkey(),
                    "stake_rao": 100 * COINS,
                }],
            }],
        });
        fs::write(dir.path().join("genesis.json"), genesis.to_string()).unwrap();
        fs::write(dir.path().join("catalogue.toml"), CATALOGUE).unwrap();
        let mut chain = start_chain(dir.path(), "127.0.0.1:0");
        let ws = chain.ready()["ws"].as_str().unwrap().to_owned();
        let world = Self { dir, chain, ws, validator, miner };
        world.register();
        world
    }

    fn register(&self) {
        let mut command = binary();
        command.args(["register", "--max-cost", "1", "--yes"]).args(self.keys("miner"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn keys(&self, name: &str) -> Vec<String> {
        let wallets = self.dir.path().join("wallets").display().to_string();
        [
            "--netuid",
            "27",
            "--subtensor.chain_endpoint",
            &self.ws,
            "--wallet.path",
            &wallets,
            "--wallet.name",
            name,
        ]
        .map(str::to_owned)
        .into()
    }

    /// Starts the provider's node, with more options.
    pub(crate) fn start_miner(&self, more: &[&str]) -> Daemon {
        let state_dir = self.dir.path().join("m");
        drop(fs::remove_file(state_dir.join("ready.json")));
        self.start_node(&state_dir, "miner", "127.0.0.2", more)
    }

    /// Starts a second node on the first one's state folder, which must refuse.
    pub(crate) fn start_miner_again(&self) -> Daemon {
        self.start_node(&self.dir.path().join("m"), "miner", "127.0.0.3", &[])
    }

    /// Starts another node of the same provider.
    pub(crate) fn start_other_miner(&self, more: &[&str]) -> Daemon {
        self.start_node(&self.dir.path().join("other"), "miner", "127.0.0.3", more)
    }

    /// Starts a node whose hotkey is on no subnet.
    pub(crate) fn start_stranger(&self) -> Daemon {
        wallet(self.dir.path(), "stranger");
        self.start_node(&self.dir.path().join("stranger"), "stranger", "127.0.0.4", &[])
    }

    fn start_node(&self, state_dir: &Path, wallet: &str, ip: &str, more: &[&str]) -> Daemon {
        let mut args = self.keys(wallet);
        args.insert(0, "miner".to_owned());
        let own = ["--devnet", "--ssh.port", "0", "--axon.ip", ip];
        args.extend(own.map(str::to_owned));
        if !more.contains(&"--runtime") {
            args.extend(["--runtime", "sandbox"].map(str::to_owned));
        }
        if !more.contains(&"--axon.port") {
            args.extend(["--axon.port", "0"].map(str::to_owned));
        }
        args.extend(more.iter().map(|word| (*word).to_owned()));
        Daemon::start(state_dir, &args)
    }

    /// Starts the provider's node as on a real network: nothing is chosen for it but its addresses.
    pub(crate) fn start_provider(&self, more: &[&str]) -> Daemon {
        let state_dir = self.dir.path().join("m");
        drop(fs::remove_file(state_dir.join("ready.json")));
        let mut args = self.keys("miner");
        args.insert(0, "miner".to_owned());
        let own = ["--ssh.port", "0", "--axon.port", "0", "--axon.ip", "127.0.0.2"];
        args.extend(own.iter().chain(more).map(|word| (*word).to_owned()));
        Daemon::start(&state_dir, &args)
    }

    /// Starts the validator.
    pub(crate) fn start_validator(&self) -> Daemon {
        self.start_validator_with(&[])
    }

    /// The same with more options.
    pub(crate) fn start_validator_with(&self, more: &[&str]) -> Daemon {
        let mut args = self.keys("validator");
        args.insert(0, "validator".to_owned());
        let catalogue = self.dir.path().join("catalogue.toml").display().to_string();
        let key = self.dir.path().join("api-key").display().to_string();
        let own = ["--devnet", "--api.listen", "127.0.0.1:0", "--proof", "small", "--catalogue"];
        args.extend(own.iter().map(|word| (*word).to_owned()));
        args.extend([
            catalogue,
            "--catalogue.unsigned".to_owned(),
            "--api-key-file".to_owned(),
            key,
        ]);
        args.extend(more.iter().map(|word| (*word).to_owned()));
        let state_dir = self.dir.path().join("v");
        drop(fs::remove_file(state_dir.join("ready.json")));
        Daemon::start(&state_dir, &args)
    }

    /// Starts the chain again on its old port.
    pub(crate) fn restart_chain(&mut self) {
        let listen = self.ws.trim_start_matches("ws://").trim_end_matches('/').to_owned();
        self.chain = start_chain(self.dir.path(), &listen);
        self.chain.ready();
    }
}

const CATALOGUE: &str = "version = 1\ndevices_max = 8\n[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 10000\n";

fn start_chain(dir: &Path, listen: &str) -> Daemon {
    let genesis = dir.join("genesis.json").display().to_string();
    drop(fs::remove_file(dir.join("c/ready.json")));
    let words =
        ["devnet", "chain", "--listen", listen, "--genesis", &genesis, "--block-time", "500ms"];
    Daemon::start(&dir.join("c"), &words.map(str::to_owned))
}

fn wallet(dir: &Path, name: &str) -> (Keypair, Keypair) {
    let wallet = WalletPath::new(&dir.join("wallets"), name).unwrap();
    let (hotkey, coldkey) =
        (Keypair::generate(Scheme::Sr25519), Keypair::generate(Scheme::Sr25519));
    wallet.write_coldkey(&coldkey, None, Existing::Refuse).unwrap();
    wallet.write_hotkey("default", &hotkey, None, Existing::Refuse).unwrap();
    (hotkey, coldkey)
}
