//! The command line of each daemon of a local market: the same commands that a person would type on the real network.

use std::net::Ipv4Addr;
use std::path::Path;

use super::walk::Plan;
use super::wallets::{self, HOTKEY, Party};

/// The subnet of the local market.
pub(crate) const NETUID: u16 = 27;
/// Blocks between two epochs.
pub(crate) const TEMPO: u16 = 10;

/// The catalogue of a local market: it alone has a class for processors.
pub(crate) const CATALOGUE: &str = "\
# The local market pays for processors, so that it works on a machine without a GPU. No other network does.
# It asks for no minimum, since none fits every machine: here a proof is a demonstration, and who recomputes is paid.
version = 1
devices_max = 8

[[class]]
name = \"CPU\"
device = \"cpu\"
base_score_micro = 10000
";

/// The address of the n-th provider: the chain refuses 127.0.0.1, so they begin at 127.0.0.2.
pub(crate) fn miner_address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, index.saturating_add(2))
}

/// `nicompute devnet chain …`
pub(crate) fn chain(genesis: &Path, plan: &Plan) -> Vec<String> {
    let block_time = format!("{}ms", plan.block_time.as_millis());
    let genesis = genesis.display().to_string();
    let lag = plan.finality_lag.to_string();
    words(&[
        "devnet",
        "chain",
        "--listen",
        "127.0.0.1:0",
        "--genesis",
        &genesis,
        "--block-time",
        &block_time,
        "--profile",
        &plan.profile,
        "--finality-lag",
        &lag,
    ])
}

/// `nicompute miner …`
pub(crate) fn miner(
    dir: &Path,
    party: &Party,
    index: u8,
    chain: &str,
    runtime: &str,
) -> Vec<String> {
    let address = miner_address(index).to_string();
    let mut args = words(&["miner", "--devnet", "--axon.port", "0", "--ssh.port", "0"]);
    args.extend(words(&["--axon.ip", &address, "--axon.external_ip", &address]));
    args.extend(words(&["--runtime", runtime, "--on-shutdown", "end-leases"]));
    args.extend(common(dir, party, chain));
    args.extend(words(&["--mask", &dir.display().to_string()]));
    args
}

/// `nicompute validator …`
pub(crate) fn validator(dir: &Path, party: &Party, chain: &str, proof: &str) -> Vec<String> {
    let catalogue = dir.join("catalogue.toml").display().to_string();
    let key = api_key_file(dir, party).display().to_string();
    let mut args = words(&["validator", "--devnet", "--api.listen", "127.0.0.1:0"]);
    args.extend(words(&[
        "--catalogue",
        &catalogue,
        "--catalogue.unsigned",
        "--api-key-file",
        &key,
        "--proof",
        proof,
    ]));
    args.extend(common(dir, party, chain));
    args
}

/// The file with the renter's API key that a validator makes at its first start.
pub(crate) fn api_key_file(dir: &Path, party: &Party) -> std::path::PathBuf {
    dir.join(format!("{}.api-key", party.name))
}

fn common(dir: &Path, party: &Party, chain: &str) -> Vec<String> {
    let wallets = wallets::root(dir).display().to_string();
    let netuid = NETUID.to_string();
    let mut args = words(&["--netuid", &netuid, "--subtensor.chain_endpoint", chain]);
    args.extend(words(&["--wallet.path", &wallets, "--wallet.name", &party.name]));
    args.extend(words(&["--wallet.hotkey", HOTKEY]));
    args
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
