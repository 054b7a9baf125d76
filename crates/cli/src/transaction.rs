//! One transaction of a coldkey: what it costs is shown, a person agrees, the key is opened, and the chain is followed until
//! nothing can undo it.
//!
//! Nothing is signed before it was agreed to, and no password is asked for before that. Passwords come from Bittensor's own
//! variable, from a file or from the terminal, and are kept nowhere.

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Args;
use nicompute_chain::{Call, Chain, Depth, Included};
use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Keypair, Password, Scheme, env_password, env_password_name};
use nicompute_market::{Coldkey, Rao};

use crate::args::KeyArgs;
use crate::chain_failures::{unread, unsent};
use crate::coins::coins;
use crate::commands::wallet::secrets::{ask, read_secret};
use crate::exit::{Exit, Failure};

/// How a transaction is agreed to.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConsentArgs {
    /// Show what would happen and what it costs, and send nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Agree without being asked: for scripts.
    #[arg(long, short = 'y', visible_alias = "no-prompt")]
    yes: bool,
    /// A file whose first line is the coldkey's password. Otherwise it is asked for on the terminal.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In words.
    pub(crate) what: String,
    /// The call.
    pub(crate) call: Call,
    /// Coins that leave the coldkey besides the fee.
    pub(crate) cost: Rao,
}

/// What a command knows about the wallet before its coldkey is opened.
#[derive(Debug)]
pub(crate) struct Purse {
    wallet: WalletPath,
    /// The public half of the coldkey.
    pub(crate) coldkey: Coldkey,
}

impl Purse {
    /// The wallet that the options name.
    pub(crate) fn open(keys: &KeyArgs) -> anyhow::Result<Self> {
        let wallet = WalletPath::new(&keys.root()?, &keys.name).map_err(|error| {
            let hint = error.hint();
            Failure::new(Exit::Usage, "that name is not possible").because(error).hint(hint)
        })?;
        let coldkey = wallet.load_coldkeypub().map_err(|error| {
            let hint = error.hint().unwrap_or("nicompute wallet new-coldkey makes one");
            let what = format!("the coldkey of wallet {} is not known", keys.name);
            Failure::new(Exit::Config, what).hint(hint).because(error)
        })?;
        Ok(Self { wallet, coldkey })
    }

    /// Opens the coldkey.
    fn coldkey(&self, consent: &ConsentArgs) -> anyhow::Result<Keypair> {
        let mut trouble = None;
        let loaded = self.wallet.load_coldkey(|| match self.password(consent) {
            Ok(password) => password,
            Err(error) => {
                trouble = Some(error);
                None
            }
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        let pair = loaded.map_err(|error| {
            let hint = error.hint().unwrap_or("--password-file FILE opens an encrypted coldkey");
            Failure::new(Exit::Config, "the coldkey cannot be used").hint(hint).because(error)
        })?;
        if pair.coldkey() != self.coldkey {
            let what = "coldkey and coldkeypub.txt are of different keys";
            let hint = "nicompute wallet regen-coldkeypub --overwrite writes the public half anew";
            return Err(Failure::new(Exit::Config, what).hint(hint).into());
        }
        Ok(pair)
    }

    fn password(&self, consent: &ConsentArgs) -> anyhow::Result<Option<Password>> {
        if let Some(file) = &consent.password_file {
            let text = read_secret(file)?;
            return Ok(Some(Password::new(text.lines().next().unwrap_or_default().to_owned())));
        }
        let file = std::path::absolute(self.wallet.coldkey_file())?;
        let name = env_password_name(&file);
        if let Some(value) = std::env::var_os(&name) {
            return Ok(Some(env_password(&name, &value.to_string_lossy()).map_err(|error| {
                let hint =
                    "it holds what btcli put there: base64 of the password, masked with the name";
                Failure::new(Exit::Config, "the password's variable is unusable")
                    .hint(hint)
                    .because(error)
            })?));
        }
        match ask("password of the coldkey")? {
            Some(text) => Ok(Some(Password::new(text.as_str().to_owned()))),
            None => {
                Err(Failure::new(Exit::Usage, "the coldkey is encrypted and there is no terminal")
                    .hint("give --password-file FILE")
                    .into())
            }
        }
    }
}

/// Shows the plan, asks, opens the coldkey and carries it out. `None` where nothing was to be sent.
pub(crate) async fn carry_out(
    chain: &Chain,
    purse: &Purse,
    consent: &ConsentArgs,
    plan: &Plan,
) -> anyhow::Result<Option<Included>> {
    // The fee depends on the length, and a key that nobody has signs as long as any other.
    let stranger = Keypair::generate(Scheme::Sr25519);
    let fee = chain.estimate_fee(&plan.call, &stranger).await.map_err(unsent)?;
    let balance = chain.balance(&purse.coldkey.0).await.map_err(unread)?;
    show(purse, plan, fee, balance)?;
    let whole = plan.cost.get().saturating_add(fee.get());
    if whole > balance.get() {
        let what = format!(
            "the coldkey has {} coins, and this takes {}",
            coins(balance),
            coins(Rao(whole))
        );
        return Err(Failure::new(Exit::Refused, what)
            .hint("send coins to the coldkey first")
            .into());
    }
    if consent.dry_run {
        say("dry run: nothing was sent")?;
        return Ok(None);
    }
    agree(consent)?;
    let pair = purse.coldkey(consent)?;
    say("sent when signed; waiting until no fork can undo it")?;
    let included = chain.submit(&plan.call, &pair, Depth::Finalized).await.map_err(unsent)?;
    Ok(Some(included))
}

fn show(purse: &Purse, plan: &Plan, fee: Rao, balance: Rao) -> anyhow::Result<()> {
    say(&plan.what)?;
    say(&format!("  coldkey  {}", purse.coldkey))?;
    say(&format!("  cost     {} coins", coins(plan.cost)))?;
    say(&format!("  fee      about {} coins", coins(fee)))?;
    say(&format!("  balance  {} coins", coins(balance)))
}

fn agree(consent: &ConsentArgs) -> anyhow::Result<()> {
    if consent.yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let what = "this must be agreed to, and there is no terminal to ask on";
        let hint = "--yes agrees, --dry-run only shows";
        return Err(Failure::new(Exit::Usage, what).hint(hint).into());
    }
    write!(std::io::stderr(), "Do it? [y/N] ")?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not agreed to; nothing was sent").into())
}

/// What is for the person and not for the next program.
fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}
