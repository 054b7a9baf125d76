//! `nicompute subnet`, `stake`, `wallet balance` and `wallet transfer` against a chain of their own process.

use std::fs;

use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Existing, Keypair, Password, Scheme};
use serde_json::Value;

use crate::wallet::{Outcome, attempt};
use crate::world::World;

const COIN: u64 = 1_000_000_000;

/// A run of the program with the world's chain and one of its wallets.
fn run(world: &World, wallet: &str, words: &[&str]) -> Outcome {
    let wallets = world.dir.path().join("wallets").display().to_string();
    let keys = ["--wallet.path", &wallets, "--wallet.name", wallet];
    let chain = ["--subtensor.chain_endpoint", &world.ws];
    attempt(&[words, &chain, &keys].concat(), "")
}

fn done(world: &World, wallet: &str, words: &[&str]) -> Outcome {
    let outcome = run(world, wallet, words);
    assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
    outcome
}

/// What a read prints as JSON. The reads of subnets know no wallets.
fn read(world: &World, words: &[&str]) -> Value {
    let chain = ["--subtensor.chain_endpoint", world.ws.as_str(), "--json"];
    let outcome = attempt(&[words, &chain].concat(), "");
    assert_eq!(outcome.code, Some(0), "{words:?}: {outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// It failed with this code, said this, and said what to do.
fn refused(outcome: &Outcome, code: i32, what: &str) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    assert!(outcome.stderr.contains(what), "{what:?} is not in {outcome:?}");
    let by_clap = outcome.stderr.contains("--help");
    assert!(by_clap || outcome.stderr.contains("hint: "), "no remedy: {outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
}

fn free(world: &World, wallet: &str) -> u64 {
    let outcome = done(world, wallet, &["wallet", "balance", "--json"]);
    let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
    shown["free_rao"].as_u64().unwrap()
}

fn hotkey(world: &World, wallet: &str, name: &str) -> String {
    let wallet = WalletPath::new(&world.dir.path().join("wallets"), wallet).unwrap();
    wallet.load_hotkey(name).unwrap().hotkey().to_string()
}

/// An owner who registers must see the price first, agree to it, and never pay more than the limit.
#[test]
fn a_slot_is_taken_at_a_price_that_was_shown() {
    let world = World::new();
    let wallets = world.dir.path().join("wallets");
    let wallet = WalletPath::new(&wallets, "miner").unwrap();
    let second = Keypair::generate(Scheme::Sr25519);
    wallet.write_hotkey("second", &second, None, Existing::Refuse).unwrap();
    let rules = read(&world, &["subnet", "hyperparameters"]);
    let price = rules["registration_price_rao"].as_u64().unwrap();
    assert!(price > 0 && rules["tempo"] == 10, "{rules}");

    let register = ["subnet", "register", "--wallet.hotkey", "second"];
    let with = |more: &[&'static str]| run(&world, "miner", &[&register, more].concat());
    let before = free(&world, "miner");
    let dry = with(&["--dry-run"]);
    assert!(dry.code == Some(0) && dry.stderr.contains("dry run"), "{dry:?}");
    assert!(dry.stderr.contains("cost") && dry.stderr.contains("fee"), "{dry:?}");
    refused(&with(&[]), 2, "there is no terminal");
    refused(&with(&["--yes", "--max-cost", "0.001"]), 3, "a slot costs");
    refused(&with(&["--yes", "--max-cost", "1e3"]), 2, "expected coins");
    refused(&with(&["--yes", "--pow"]), 3, "proof of work");
    assert_eq!(free(&world, "miner"), before, "something was paid");

    // A coldkey's machine has no hotkeys: its address, or its public file, is enough.
    let missing = ["subnet", "register", "--yes", "--wallet.hotkey", "elsewhere"];
    refused(&run(&world, "miner", &missing), 78, "the address of hotkey miner/elsewhere");
    fs::remove_file(wallet.hotkey_file("second").unwrap()).unwrap();
    let registered = with(&["--yes", "--max-cost", "2"]);
    assert_eq!(registered.code, Some(0), "{registered:?}");
    assert!(registered.stdout.contains("uid 2"), "{registered:?}");
    assert!(registered.stderr.contains("genesis  0x"), "no chain was named: {registered:?}");
    let paid = before - free(&world, "miner");
    // The price falls from block to block, and the fee comes on top.
    assert!(paid > price / 2 && paid < 2 * COIN, "{paid} for {price}");
    let address = second.hotkey().to_string();
    let again = done(&world, "miner", &["register", "--yes", "--hotkey-ss58", &address]);
    assert!(again.stdout.contains("already"), "{again:?}");

    let graph = read(&world, &["subnet", "metagraph"]);
    assert_eq!(graph["neurons"][2]["hotkey"], second.hotkey().to_string());
    let listed = read(&world, &["subnet", "list"]);
    let netuids: Vec<_> = listed["subnets"].as_array().unwrap().iter().collect();
    assert!(netuids.iter().any(|subnet| subnet["netuid"] == 27), "{listed}");
    for read in [["subnet", "metagraph"], ["subnet", "list"], ["subnet", "hyperparameters"]] {
        let shown = attempt(&[&read[..], &["--subtensor.chain_endpoint", &world.ws]].concat(), "");
        assert!(shown.code == Some(0) && shown.stdout.lines().count() > 2, "{shown:?}");
    }
}

/// Coins are moved to the rao, and only those that were named.
#[test]
fn coins_move_exactly() {
    let world = World::new();
    let validator = hotkey(&world, "validator", "default");
    let friend = Keypair::generate(Scheme::Sr25519).account().to_string();
    let before = free(&world, "miner");
    let send = ["wallet", "transfer", "--to", &friend, "--amount", "1.000000007"];
    refused(&run(&world, "miner", &send), 2, "there is no terminal");
    let sent = done(&world, "miner", &[&send[..], &["--yes"]].concat());
    assert!(sent.stdout.contains("sent 1.000000007 coins"), "{sent:?}");
    let (_, hash) = sent.stdout.split_once("extrinsic ").expect("a hash");
    let (hash, _) = hash.split_once(" in block ").expect("a block");
    assert!(sent.stderr.contains(&format!("sending extrinsic {hash}\n")), "{sent:?}");
    let shown = read(&world, &["wallet", "balance", "--ss58", &friend]);
    assert_eq!(shown["free_rao"], 1_000_000_007);
    let fee = before - free(&world, "miner") - 1_000_000_007;
    assert!(fee > 0 && fee < COIN, "{fee}");

    let stake = ["--hotkey-ss58", validator.as_str()];
    let add = [&["stake", "add", "--amount", "5.5", "--yes"], &stake[..]].concat();
    let staked = done(&world, "miner", &add);
    assert!(staked.stdout.contains("5.5 alpha are staked"), "{staked:?}");
    assert!(staked.stderr.contains("no limit on the price"), "{staked:?}");
    let listed = done(&world, "miner", &["stake", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["stake"][0]["hotkey"], validator);
    assert!(listed["stake"][0]["alpha_rao"].as_u64().unwrap() >= 5_500_000_000, "{listed}");
    let too_much = [&["stake", "remove", "--amount", "5000", "--yes"], &stake[..]].concat();
    refused(&run(&world, "miner", &too_much), 3, "are staked on");
    done(&world, "miner", &[&["stake", "remove", "--all", "--yes"], &stake[..]].concat());
    let dry = [&["stake", "add", "--amount", "99999999", "--dry-run"], &stake[..]].concat();
    refused(&run(&world, "miner", &dry), 3, "the coldkey has");
}

/// A script needs the receipt of what it paid, and the plan of what it would pay, in a form that it can read.
#[test]
fn a_script_gets_plan_and_receipt() {
    let world = World::new();
    let friend = Keypair::generate(Scheme::Sr25519).account().to_string();
    let send = ["wallet", "transfer", "--to", &friend, "--amount", "2", "--json"];
    let shown = |more: &str| -> Value {
        let outcome = done(&world, "miner", &[&send[..], &[more]].concat());
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let plan = shown("--dry-run");
    assert!(plan["sent"] == false && plan.get("extrinsic").is_none(), "{plan}");
    assert!(plan["cost_rao"] == 2 * COIN && plan["fee_rao"].as_u64() > Some(0), "{plan}");
    let receipt = shown("--yes");
    assert!(receipt["sent"] == true && receipt["block"].as_u64() > Some(0), "{receipt}");
    for hash in ["extrinsic", "block_hash", "genesis"] {
        assert_eq!(receipt[hash].as_str().unwrap().len(), 2 + 64, "{hash} in {receipt}");
    }
    assert_eq!(receipt["balance_after_rao"], free(&world, "miner"));
    let hotkey = hotkey(&world, "miner", "default");
    let register = ["register", "--hotkey-ss58", &hotkey, "--yes", "--json"];
    let again: Value = serde_json::from_str(&done(&world, "miner", &register).stdout).unwrap();
    assert!(again["sent"] == false && again["uid"].is_u64(), "{again}");
}

/// A wrong password, a wrong word or a wrong chain changes nothing, and each has its own exit code.
#[test]
fn nothing_happens_by_mistake() {
    let world = World::new();
    let wallets = world.dir.path().join("wallets");
    let locked = WalletPath::new(&wallets, "locked").unwrap();
    let coldkey = Keypair::generate(Scheme::Sr25519);
    let password = Password::new("Wander-Lamp-8-Orchard".to_owned());
    locked.write_coldkey(&coldkey, Some(&password), Existing::Refuse).unwrap();
    let address = coldkey.account().to_string();
    done(&world, "miner", &["wallet", "transfer", "--to", &address, "--amount", "10", "--yes"]);

    let file = world.dir.path().join("password");
    let shown = file.display().to_string();
    let back = ["wallet", "transfer", "--to", &address, "--amount", "1", "--yes"];
    let with_file = [&back[..], &["--password-file", &shown]].concat();
    fs::write(&file, "Wander-Lamp-9-Orchard\n").unwrap();
    refused(&run(&world, "locked", &with_file), 78, "the coldkey cannot be used");
    refused(&run(&world, "locked", &back), 2, "there is no terminal");
    assert_eq!(free(&world, "locked"), 10 * COIN);
    fs::write(&file, "Wander-Lamp-8-Orchard\n").unwrap();
    done(&world, "locked", &with_file);

    let to = ["wallet", "transfer", "--yes", "--to"];
    for (amount, what) in [("-1", "--amount"), ("0", "nothing"), ("1.0000000001", "nine digits")] {
        refused(
            &run(&world, "miner", &[&to[..], &[&address, "--amount", amount]].concat()),
            2,
            what,
        );
    }
    refused(&run(&world, "miner", &[&to[..], &["5abc", "--amount", "1"]].concat()), 2, "5abc");
    refused(&run(&world, "nobody", &back), 78, "the coldkey of wallet nobody");
    let gone = attempt(&["subnet", "list", "--subtensor.chain_endpoint", "ws://127.0.0.1:1"], "");
    refused(&gone, 4, "no chain");
    let none = attempt(
        &["subnet", "metagraph", "--netuid", "999", "--subtensor.chain_endpoint", &world.ws],
        "",
    );
    refused(&none, 5, "subnet 999 does not exist");
}
