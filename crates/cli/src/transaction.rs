//! One transaction of a coldkey: what it costs is shown, a person agrees, the key is opened, and the chain is followed until
//! nothing can undo it.
//!
//! Nothing is signed before it was agreed to, and no password is asked for before that. Passwords come from Bittensor's own
//! variable, from a file or from the terminal, and are kept nowhere.

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Args;
use nicompute_chain::{
    Call, Chain, Condition, Depth, EndpointState, Included, NodeUrl, PoolRejection, SubmitError,
};
use nicompute_daemon::ErrorChain;
use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Keypair, Password, Scheme, env_password, env_password_name};
use nicompute_market::{Coldkey, Netuid, Rao};
use serde_json::{Value, json};

use crate::args::KeyArgs;
use crate::chain_failures::{unread, unsent};
use crate::coins::coins;
use crate::commands::wallet::secrets::{ask, read_secret};
use crate::exit::{Exit, Failure};
use crate::market_args::print;
use crate::text::shown;

/// How often something is signed.
const ATTEMPTS_MAX: u32 = 3;

/// How a transaction is agreed to.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags that have nothing to do with each other")]
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
    /// JSON on standard output: the plan, and what became of it. The plan is shown on standard error all the same.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In words.
    pub(crate) what: String,
    /// What else should be known before it is agreed to.
    pub(crate) notes: Vec<String>,
    /// In words, afterwards.
    pub(crate) done: String,
    /// The call.
    pub(crate) call: Call,
    /// Coins that leave the coldkey besides the fee.
    pub(crate) cost: Rao,
    /// The price of a slot above which nothing is signed.
    pub(crate) price_limit: Option<(Netuid, Rao)>,
}

/// What was carried out, to be shown as JSON where that was asked for.
#[derive(Debug)]
#[must_use]
pub(crate) struct Done {
    json: Option<Value>,
}

/// What is read after something was carried out.
#[derive(Debug)]
pub(crate) struct Later {
    /// For people.
    pub(crate) text: String,
    /// Its name in JSON.
    pub(crate) name: &'static str,
    /// Its value there.
    pub(crate) value: Value,
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
///
/// What was done is said as soon as it is known, so that no later trouble can hide that it was.
pub(crate) async fn carry_out(
    chain: &Chain,
    purse: &Purse,
    consent: &ConsentArgs,
    plan: &Plan,
    out: &mut dyn Write,
) -> anyhow::Result<Option<Done>> {
    // The fee depends on the length, and a key that nobody has signs as long as any other.
    let stranger = Keypair::generate(Scheme::Sr25519);
    let fee = chain.estimate_fee(&plan.call, &stranger).await.map_err(unsent)?;
    let balance = chain.balance(&purse.coldkey.0).await.map_err(unread)?;
    let mut facts = facts(chain, purse, plan, (fee, balance));
    show(chain, purse, plan, (fee, balance))?;
    refuse_strangers(&chain.endpoints())?;
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
        facts["sent"] = json!(false);
        print(out, consent.json.then_some(&facts), String::new)?;
        return Ok(None);
    }
    agree(consent)?;
    let pair = purse.coldkey(consent)?;
    // The person and the key may have taken minutes.
    if let Some((netuid, limit)) = plan.price_limit {
        check_price(chain, netuid, limit).await?;
    }
    let included = send(chain, plan, &pair).await?;
    facts["sent"] = json!(true);
    facts["extrinsic"] = json!(hex_of(&included.hash));
    facts["block"] = json!(included.block.number);
    facts["block_hash"] = json!(hex_of(&included.block.hash));
    let done = Done { json: consent.json.then_some(facts) };
    let (number, hash) = (included.block.number, hex_of(&included.hash));
    let line = format!("{}: extrinsic {hash} in block {number}", plan.done);
    if consent.json {
        say(&line)?;
    } else {
        writeln!(out, "{line}")?;
        out.flush()?;
    }
    Ok(Some(done))
}

impl Done {
    /// The end of the command, with what was read afterwards. That it could not be read undoes nothing.
    pub(crate) fn end(
        self,
        later: anyhow::Result<Later>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let later = match later {
            Ok(later) => later,
            Err(error) => {
                let error = shown(&ErrorChain(error.as_ref()).to_string());
                say(&format!("note: it is done; what came of it could not be read: {error}"))?;
                Later { text: String::new(), name: "later", value: Value::Null }
            }
        };
        match self.json {
            Some(mut facts) => {
                facts[later.name] = later.value;
                print(out, Some(&facts), String::new)
            }
            None if later.text.is_empty() => Ok(()),
            None => Ok(writeln!(out, "{}", later.text)?),
        }
    }
}

/// Refuses a registration that has become too expensive.
pub(crate) async fn check_price(chain: &Chain, netuid: Netuid, limit: Rao) -> anyhow::Result<Rao> {
    let price = chain.burn(netuid).await.map_err(unread)?;
    if price > limit {
        let what =
            format!("a slot costs {} coins, and the limit is {}", coins(price), coins(limit));
        let hint = "raise --max-cost, or wait: the price falls while nobody registers";
        return Err(Failure::new(Exit::Refused, what).hint(hint).into());
    }
    Ok(price)
}

/// Signs it, says its hash, sends it and follows it. The pool may refuse what was signed beside another program that uses the
/// same key; that is signed anew.
async fn send(chain: &Chain, plan: &Plan, pair: &Keypair) -> anyhow::Result<Included> {
    let mut attempt = 1;
    loop {
        let prepared = chain.prepare(&plan.call, pair).await.map_err(unsent)?;
        // Whoever loses the terminal from here on can still look for it.
        say(&format!("sending extrinsic {}", hex_of(&prepared.hash())))?;
        say("waiting until no fork can undo it")?;
        match chain.carry_out(&prepared, Depth::Finalized).await {
            Err(SubmitError::Pool(rejection))
                if attempt < ATTEMPTS_MAX && is_of_nonce(&rejection) =>
            {
                say("the node has seen another one of this key: signing anew")?;
                attempt += 1;
            }
            outcome => return outcome.map_err(unsent),
        }
    }
}

const fn is_of_nonce(rejection: &PoolRejection) -> bool {
    matches!(rejection, PoolRejection::Stale | PoolRejection::Future | PoolRejection::Priority)
}

/// Somebody who lists nodes of two chains may mean the other one.
fn refuse_strangers(endpoints: &[EndpointState]) -> anyhow::Result<()> {
    let strange = endpoints.iter().find(|state| state.condition == Condition::OtherChain);
    let Some(strange) = strange else { return Ok(()) };
    let what =
        format!("{} is of another chain than the one that would be paid on", strange.url.as_str());
    let hint = "name nodes of one chain with --subtensor.network or --subtensor.chain_endpoint";
    Err(Failure::new(Exit::Config, what).hint(hint).into())
}

/// The network by its first block.
fn network(genesis: &[u8; 32]) -> &'static str {
    let is = |url: NodeUrl| url.genesis().as_ref() == Some(genesis);
    if is(NodeUrl::FINNEY) {
        "finney"
    } else if is(NodeUrl::TEST) {
        "test"
    } else {
        "neither finney nor the test network"
    }
}

fn facts(chain: &Chain, purse: &Purse, plan: &Plan, (fee, balance): (Rao, Rao)) -> Value {
    let genesis = chain.genesis_hash();
    json!({
        "what": plan.what,
        "network": network(&genesis),
        "endpoint": chain.endpoint().as_str(),
        "genesis": hex_of(&genesis),
        "coldkey": purse.coldkey,
        "cost_rao": plan.cost,
        "fee_rao": fee,
        "balance_rao": balance,
    })
}

fn show(
    chain: &Chain,
    purse: &Purse,
    plan: &Plan,
    (fee, balance): (Rao, Rao),
) -> anyhow::Result<()> {
    let genesis = chain.genesis_hash();
    say(&plan.what)?;
    for note in &plan.notes {
        say(&format!("  {note}"))?;
    }
    say(&format!("  network  {}, at {}", network(&genesis), chain.endpoint().as_str()))?;
    say(&format!("  genesis  {}", hex_of(&genesis)))?;
    say(&format!("  coldkey  {}", purse.coldkey))?;
    say(&format!("  cost     {} coins", coins(plan.cost)))?;
    say(&format!("  fee      about {} coins", coins(fee)))?;
    say(&format!("  balance  {} coins", coins(balance)))
}

fn hex_of(hash: &[u8; 32]) -> String {
    format!("0x{}", hex::encode(hash))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Someone who means a trial chain and lists finney beside it must not pay there.
    #[test]
    fn nothing_is_paid_beside_a_node_of_another_chain() {
        let state = |url: NodeUrl, condition| EndpointState { url, condition, in_use: false };
        let mut list =
            vec![state(NodeUrl::LOCAL, Condition::Away), state(NodeUrl::FINNEY, Condition::Ready)];
        assert!(refuse_strangers(&list).is_ok());
        list[0].condition = Condition::OtherChain;
        let error = refuse_strangers(&list).unwrap_err().to_string();
        assert!(error.contains(NodeUrl::LOCAL.as_str()), "{error}");
        assert_eq!(network(&NodeUrl::ARCHIVE.genesis().unwrap()), "finney");
        assert_eq!(network(&NodeUrl::TEST.genesis().unwrap()), "test");
        assert!(network(&[0; 32]).starts_with("neither"));
    }

    /// A script that is told of a failure pays again: what was done is a success, even if nothing can be read after it.
    #[test]
    fn what_is_done_is_no_failure() {
        for json in [None, Some(json!({ "extrinsic": "0x01" }))] {
            let (is_json, mut out) = (json.is_some(), Vec::new());
            Done { json }.end(Err(anyhow::anyhow!("the node has gone")), &mut out).unwrap();
            let out = String::from_utf8(out).unwrap();
            assert_eq!(out.contains("0x01"), is_json, "{out}");
        }
    }
}
