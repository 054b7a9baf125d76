//! `nicompute register`: burns coins for a slot on the subnet. The only command that needs the secret coldkey.

use clap::Args;
use nicompute_daemon::{SystemClock, Tasks};
use nicompute_keys::Password;
use nicompute_keys::wallet::WalletPath;
use nicompute_market::Netuid;

use crate::args::{KeyArgs, SubtensorArgs};
use crate::exit::{Exit, Failure};

/// Options of `nicompute register`.
#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    #[command(flatten)]
    subtensor: SubtensorArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// A file with the coldkey's password, when it has one.
    #[arg(long, value_name = "FILE")]
    password_file: Option<std::path::PathBuf>,
    /// Burn at most this many rao.
    #[arg(long, value_name = "RAO")]
    burn_max: u64,
}

/// Registers the hotkey.
pub(crate) fn run(args: &RegisterArgs) -> anyhow::Result<()> {
    let wallet = WalletPath::new(&args.keys.root()?, &args.keys.name)?;
    let hotkey = args.keys.load_hotkey()?.hotkey();
    let password = match &args.password_file {
        Some(file) => Some(Password::new(std::fs::read_to_string(file)?.trim_end().to_owned())),
        None => None,
    };
    let coldkey = wallet.load_coldkey(|| password).map_err(|error| {
        let hint = error.hint().unwrap_or("--password-file FILE opens an encrypted coldkey");
        Failure::new(Exit::Config, "the coldkey cannot be used").hint(hint).because(error)
    })?;
    let netuid = Netuid(args.subtensor.netuid);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let chain = args.subtensor.connect(&SystemClock::shared(), &Tasks::new()).await?;
        if let Some(uid) = chain.uid_of(netuid, &hotkey).await? {
            return print(&format!("{hotkey} is uid {uid} already"));
        }
        let burn = chain.burn(netuid).await?.get();
        if burn > args.burn_max {
            let what = format!("a slot costs {burn} rao, more than --burn-max {}", args.burn_max);
            return Err(Failure::new(Exit::Refused, what).hint("wait, or raise --burn-max").into());
        }
        chain.burned_register(netuid, &hotkey, &coldkey).await?;
        let uid = chain.uid_of(netuid, &hotkey).await?;
        let uid = uid.map_or_else(|| "not listed yet".to_owned(), |uid| format!("uid {uid}"));
        print(&format!("{hotkey} is registered on subnet {netuid}: {uid}"))
    })
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(line: &str) -> anyhow::Result<()> {
    println!("{line}");
    Ok(())
}
