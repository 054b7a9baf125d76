//! `nicompute wallet …`: makes, restores and lists keys in Bittensor's wallet folders, with `btcli`'s names for things.
//!
//! A new mnemonic is printed once, to standard output, and is nowhere but in the keyfile afterwards. Nothing is
//! overwritten without `--overwrite`, and whether something would be is asked before a password is.

mod money;
pub(crate) mod secrets;

use std::fs;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nicompute_daemon::ErrorChain;
use nicompute_keys::wallet::{self, ListError, NameError, Secrecy, WalletPath, WalletSummary};
use nicompute_keys::{
    Existing, KeyfileError, Keypair, Password, Public, Scheme, WordCount, WriteError,
    generate_mnemonic,
};
use nicompute_market::AccountId;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::KeyArgs;
use crate::exit::{Exit, Failure};

use secrets::{LockArgs, OptionalLockArgs, SecretArg, ask, read_secret, warn_about_argument};

/// Keys and wallets.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum WalletCommand {
    /// Make a new coldkey: the key that owns coins.
    NewColdkey(NewColdkey),
    /// Make a new hotkey: the key that a daemon signs with.
    NewHotkey(NewHotkey),
    /// Restore a coldkey from its mnemonic or seed.
    RegenColdkey(RegenColdkey),
    /// Store the public half of a coldkey, for a machine that must not hold the secret.
    RegenColdkeypub(RegenColdkeypub),
    /// Restore a hotkey from its mnemonic or seed.
    RegenHotkey(RegenHotkey),
    /// Show all wallets and their hotkeys.
    List(List),
    /// Show the coldkey's coins and stake.
    Balance(money::BalanceArgs),
    /// Send coins from the coldkey.
    Transfer(money::TransferArgs),
}

/// Options of `new-coldkey`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewColdkey {
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of `new-hotkey`.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewHotkey {
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    fresh: FreshArgs,
    #[command(flatten)]
    lock: OptionalLockArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of `regen-coldkey`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegenColdkey {
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    origin: OriginArgs,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of `regen-hotkey`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegenHotkey {
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    origin: OriginArgs,
    #[command(flatten)]
    lock: OptionalLockArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of `regen-coldkeypub`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegenColdkeypub {
    #[command(flatten)]
    keys: KeyArgs,
    /// The coldkey's SS58 address.
    #[arg(long, visible_alias = "ss58-address", value_name = "ADDRESS")]
    ss58: AccountId,
    #[command(flatten)]
    store: StoreArgs,
}

/// Options of `list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct List {
    #[command(flatten)]
    keys: KeyArgs,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// What a new key is drawn from.
#[derive(Debug, Clone, Args)]
struct FreshArgs {
    /// How many words the mnemonic has.
    #[arg(
        long,
        visible_alias = "n_words",
        default_value = "12",
        value_parser = ["12", "24"],
        value_name = "COUNT"
    )]
    n_words: String,
}

/// What a key is restored from; without any of these, the mnemonic is read from standard input.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
struct OriginArgs {
    /// Read the mnemonic from this file; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    mnemonic_file: Option<PathBuf>,
    /// The mnemonic itself, as btcli takes it. Other users of the machine can read it there.
    #[arg(long, value_name = "WORDS")]
    mnemonic: Option<SecretArg>,
    /// The seed as 64 hex digits, as btcli takes it. Other users of the machine can read it there.
    #[arg(long, value_name = "HEX")]
    seed: Option<SecretArg>,
}

/// How a key is stored.
#[derive(Debug, Clone, Args)]
struct StoreArgs {
    /// The signature scheme: sr25519 or ed25519.
    #[arg(long, default_value = "sr25519", value_name = "SCHEME")]
    crypto_type: Scheme,
    /// Replace a key that is already there. Without its mnemonic the old key is gone for good.
    #[arg(long)]
    overwrite: bool,
}

/// Runs one wallet command; what it shows goes to `out`.
pub(crate) fn run(command: WalletCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        WalletCommand::NewColdkey(args) => {
            let wallet = wallet_of(&args.keys)?;
            let coldkey = Slot::Coldkey(&wallet);
            let pair = args.store.free(&coldkey)?.draw(&args.fresh)?;
            let stored = args.store.put(&coldkey, &pair, args.lock.password()?)?;
            stored.show(out)?;
            show_mnemonic(out, &pair)
        }
        WalletCommand::NewHotkey(args) => {
            let wallet = wallet_of(&args.keys)?;
            let hotkey = Slot::Hotkey(&wallet, &args.keys.hotkey);
            let pair = args.store.free(&hotkey)?.draw(&args.fresh)?;
            let stored = args.store.put(&hotkey, &pair, args.lock.password()?)?;
            stored.show(out)?;
            show_mnemonic(out, &pair)
        }
        WalletCommand::RegenColdkey(args) => {
            let wallet = wallet_of(&args.keys)?;
            let coldkey = Slot::Coldkey(&wallet);
            let pair = args.store.free(&coldkey)?.restore(&args.origin)?;
            args.store.put(&coldkey, &pair, args.lock.password()?)?.show(out)
        }
        WalletCommand::RegenHotkey(args) => {
            let wallet = wallet_of(&args.keys)?;
            let hotkey = Slot::Hotkey(&wallet, &args.keys.hotkey);
            let pair = args.store.free(&hotkey)?.restore(&args.origin)?;
            args.store.put(&hotkey, &pair, args.lock.password()?)?.show(out)
        }
        WalletCommand::RegenColdkeypub(args) => regen_coldkeypub(&args, out),
        WalletCommand::List(args) => list(&args, out),
        WalletCommand::Balance(args) => money::balance(&args, out),
        WalletCommand::Transfer(args) => money::transfer(&args, out),
    }
}

/// Where a key goes.
enum Slot<'a> {
    Coldkey(&'a WalletPath),
    Hotkey(&'a WalletPath, &'a str),
}

/// What was stored, for showing.
struct Stored {
    role: &'static str,
    account: AccountId,
    file: PathBuf,
    encrypted: bool,
}

impl Slot<'_> {
    fn file(&self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Coldkey(wallet) => Ok(wallet.coldkey_file()),
            Self::Hotkey(wallet, name) => wallet.hotkey_file(name).map_err(bad_name),
        }
    }
}

impl StoreArgs {
    const fn existing(&self) -> Existing {
        if self.overwrite { Existing::Replace } else { Existing::Refuse }
    }

    /// Refuses an occupied place before anything is asked or drawn.
    fn free(&self, slot: &Slot<'_>) -> anyhow::Result<&Self> {
        let path = slot.file()?;
        if !self.overwrite && fs::symlink_metadata(&path).is_ok() {
            return Err(not_written(WriteError::Exists { path }));
        }
        Ok(self)
    }

    fn draw(&self, fresh: &FreshArgs) -> anyhow::Result<Keypair> {
        let words = if fresh.n_words == "24" { WordCount::TwentyFour } else { WordCount::Twelve };
        Ok(Keypair::from_mnemonic(&generate_mnemonic(words), self.crypto_type)?)
    }

    fn restore(&self, origin: &OriginArgs) -> anyhow::Result<Keypair> {
        origin.restore(self.crypto_type)
    }

    #[expect(clippy::needless_pass_by_value, reason = "the password ends here")]
    fn put(
        &self,
        slot: &Slot<'_>,
        pair: &Keypair,
        password: Option<Password>,
    ) -> anyhow::Result<Stored> {
        let (lock, existing) = (password.as_ref(), self.existing());
        let (role, written) = match slot {
            Slot::Coldkey(wallet) => ("coldkey", wallet.write_coldkey(pair, lock, existing)),
            Slot::Hotkey(wallet, name) => {
                ("hotkey", wallet.write_hotkey(name, pair, lock, existing))
            }
        };
        written.map_err(not_written)?;
        let (account, file) = (pair.account(), slot.file()?);
        Ok(Stored { role, account, file, encrypted: lock.is_some() })
    }
}

impl Stored {
    fn show(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Self { role, account, file, encrypted } = self;
        let lock = if *encrypted { " (encrypted)" } else { "" };
        writeln!(out, "{role}  {account}")?;
        writeln!(out, "file  {}{lock}", file.display())?;
        Ok(())
    }
}

impl OriginArgs {
    fn restore(&self, scheme: Scheme) -> anyhow::Result<Keypair> {
        if let Some(seed) = &self.seed {
            warn_about_argument("--seed");
            let mut bytes = [0u8; 32];
            let digits = seed.0.trim();
            hex::decode_to_slice(digits.strip_prefix("0x").unwrap_or(digits), &mut bytes)
                .map_err(|_| Failure::new(Exit::Usage, "the seed is not 64 hex digits"))?;
            return Ok(Keypair::from_seed(bytes, scheme));
        }
        let phrase = match (&self.mnemonic, &self.mnemonic_file) {
            (Some(phrase), _) => {
                warn_about_argument("--mnemonic");
                phrase.0.clone()
            }
            (None, Some(path)) => read_secret(path)?,
            (None, None) => ask_mnemonic()?,
        };
        Keypair::from_mnemonic(&phrase, scheme).map_err(|error| {
            Failure::new(Exit::Usage, "the mnemonic gives no key")
                .because(error)
                .hint("compare each word and their order with what you wrote down")
                .into()
        })
    }
}

/// Standard input where something is piped in, else a question on the terminal.
fn ask_mnemonic() -> anyhow::Result<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() {
        return read_secret(Path::new("-"));
    }
    let none = || {
        Failure::new(Exit::Usage, "there is no mnemonic and no terminal to ask on")
            .hint("give --mnemonic-file FILE, or the words on standard input")
    };
    Ok(ask("mnemonic (not shown)")?.ok_or_else(none)?)
}

fn wallet_of(keys: &KeyArgs) -> anyhow::Result<WalletPath> {
    WalletPath::new(&keys.root()?, &keys.name).map_err(bad_name)
}

fn bad_name(error: NameError) -> anyhow::Error {
    let hint = error.hint();
    Failure::new(Exit::Usage, "that name is not possible").because(error).hint(hint).into()
}

fn not_written(error: WriteError) -> anyhow::Error {
    let hint = match &error {
        WriteError::Exists { .. } => Some(
            "choose another name; --overwrite replaces the key, which is then gone unless you have its mnemonic",
        ),
        other => other.hint(),
    };
    with_hint(Failure::new(Exit::Failed, "the key was not stored").because(error), hint).into()
}

fn with_hint(failure: Failure, hint: Option<&str>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn regen_coldkeypub(args: &RegenColdkeypub, out: &mut dyn Write) -> anyhow::Result<()> {
    let wallet = wallet_of(&args.keys)?;
    let public = Public { account: args.ss58, scheme: args.store.crypto_type };
    wallet.write_coldkeypub(&public, args.store.existing()).map_err(not_written)?;
    let (account, file) = (public.account, wallet.coldkeypub_file());
    Stored { role: "coldkeypub", account, file, encrypted: false }.show(out)
}

fn show_mnemonic(out: &mut dyn Write, pair: &Keypair) -> anyhow::Result<()> {
    let Some(mnemonic) = pair.mnemonic() else { return Ok(()) };
    writeln!(out, "mnemonic  {mnemonic}")?;
    writeln!(out)?;
    writeln!(out, "Write the mnemonic down on paper: it is the only way to restore this key, and")?;
    writeln!(out, "whoever has it has the key. It is not shown again.")?;
    Ok(())
}

fn list(args: &List, out: &mut dyn Write) -> anyhow::Result<()> {
    let root = args.keys.root()?;
    let wallets = wallet::list(&root).map_err(|error| {
        let exit = match &error {
            ListError::Missing { .. } => Exit::NotFound,
            ListError::Io { .. } | ListError::TooMany { .. } => Exit::Config,
        };
        let hint = error.hint();
        with_hint(Failure::new(exit, "no wallets were listed").because(error), hint)
    })?;
    if args.json {
        let wallets: Vec<Value> = wallets.iter().map(wallet_json).collect();
        let text = serde_json::to_string_pretty(&json!({ "path": root, "wallets": wallets }))?;
        writeln!(out, "{text}")?;
        return Ok(());
    }
    for wallet in &wallets {
        writeln!(out, "{}", wallet.name)?;
        writeln!(out, "  coldkey  {}", line(&wallet.coldkey, wallet.secret))?;
        for hotkey in &wallet.hotkeys {
            writeln!(out, "  hotkey {}  {}", hotkey.name, line(&hotkey.hotkey, hotkey.secret))?;
        }
    }
    Ok(())
}

fn line<Key: std::fmt::Display>(key: &Result<Key, KeyfileError>, secret: Secrecy) -> String {
    match key {
        Ok(key) => format!("{key}  {}", secrecy(secret)),
        Err(error) => format!("{}  ({})", secrecy(secret), ErrorChain(error)),
    }
}

const fn secrecy(secret: Secrecy) -> &'static str {
    match secret {
        Secrecy::Absent => "public half only",
        Secrecy::Clear => "not encrypted",
        Secrecy::Encrypted => "encrypted",
    }
}

fn wallet_json(wallet: &WalletSummary) -> Value {
    let hotkeys: Vec<Value> = wallet
        .hotkeys
        .iter()
        .map(|hotkey| {
            json!({
                "name": hotkey.name,
                "hotkey": hotkey.hotkey.as_ref().ok(),
                "secret": secrecy_json(hotkey.secret),
                "problem": problem(&hotkey.hotkey),
            })
        })
        .collect();
    json!({
        "name": wallet.name,
        "coldkey": wallet.coldkey.as_ref().ok(),
        "secret": secrecy_json(wallet.secret),
        "problem": problem(&wallet.coldkey),
        "hotkeys": hotkeys,
    })
}

/// These words are a contract.
const fn secrecy_json(secret: Secrecy) -> &'static str {
    match secret {
        Secrecy::Absent => "absent",
        Secrecy::Clear => "clear",
        Secrecy::Encrypted => "encrypted",
    }
}

fn problem<Key>(key: &Result<Key, KeyfileError>) -> Option<String> {
    key.as_ref().err().map(|error| ErrorChain(error).to_string())
}
