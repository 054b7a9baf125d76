//! The walk through a fresh market, step by step, each step looked at from outside.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use nicompute_chain::Chain;
use nicompute_client::{ApiBase, MarketClient, OfferQuery, SshAccess};
use nicompute_daemon::{Clock as _, Secret, SharedClock, SystemClock, Tasks};
use nicompute_market::{LeaseId, Netuid, Rao};
use nicompute_wire::market_api::{LegView, ProofView, RentRequest, RentalView};
use nicompute_wire::node::OptionsView;

use super::children::Child;
use super::daemons::{self, NETUID, TEMPO};
use super::genesis::{ENDOWMENT_RAO, Endowed, GenesisFile, Subnet, VALIDATOR_STAKE_RAO, Validator};
use super::market::{provider, until};
use super::steps::Steps;
use super::sweep;
use super::wallets::{self, Party};
use crate::daemons::write_atomically;
use crate::exit::{Exit, Failure};
use crate::openssh;

/// The longest wait for anything but a proof and an epoch.
const STEP_MAX: Duration = Duration::from_secs(20);
/// The longest wait for a proof of the small profile on a slow machine.
const PROOF_MAX: Duration = Duration::from_secs(90);
/// Epochs that may pass before the incentive shows.
const EPOCHS_MAX: u32 = 3;
/// The longest single question to the market's API.
const CALL_MAX: Duration = Duration::from_secs(15);
/// How long the rental of the walk lasts at most.
const RENTAL_SECONDS: u64 = 600;
/// What the walk asks of the rented machine; the answer is the product, so no banner can be taken for it.
const QUESTION: &str = "echo $((6*7)) $(id -u)";
const ANSWER: &str = "42 0";

/// Coins for a provider that joins later: 10.
const GIFT_RAO: u64 = 10 * 1_000_000_000;

const SUBNET: Netuid = Netuid(NETUID);

/// What is to be booted.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) miners: u8,
    pub(crate) validators: u8,
    pub(crate) runtime: String,
    pub(crate) proof: &'static str,
    pub(crate) block_time: Duration,
    pub(crate) profile: String,
    pub(crate) finality_lag: u32,
    /// Whether weights are committed first and revealed later.
    pub(crate) commit_reveal: bool,
    /// Subnets beside the market's own.
    pub(crate) netuids: Vec<u16>,
}

/// A market that has been walked through.
#[derive(Debug)]
pub(crate) struct Ready {
    dir: PathBuf,
    chain_url: String,
    api_url: String,
    api_key_file: PathBuf,
}

impl Ready {
    /// The lines that a person can try.
    pub(crate) fn lines(&self) -> Vec<String> {
        let dir = self.dir.display();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("nicompute"));
        let program = program.display();
        let api = format!("--api {} --api-key-file {}", self.api_url, self.api_key_file.display());
        vec![
            String::new(),
            "The market is up. Try, in another terminal:".to_owned(),
            format!("  {program} offers {api}"),
            format!("  {program} rent {api} --duration 1h"),
            format!("  {program} ps {api}"),
            format!(
                "  btcli wallet overview --subtensor.chain_endpoint {} --wallet-path {dir}/wallets",
                self.chain_url
            ),
            format!("  {program} verify {dir}/validator-1/transcripts/*.pog"),
            "Ctrl-C ends it.".to_owned(),
        ]
    }
}

struct Walk<'a> {
    plan: &'a Plan,
    steps: &'a mut Steps,
    children: &'a mut Vec<Child>,
    clock: SharedClock,
    began_unix_ms: u64,
    tasks: Tasks,
    miners: Vec<Party>,
    validators: Vec<Party>,
}

/// Boots everything and rents once.
pub(crate) async fn run(
    plan: &Plan,
    steps: &mut Steps,
    children: &mut Vec<Child>,
) -> anyhow::Result<Ready> {
    let tasks = Tasks::new();
    let mut walk = Walk {
        plan,
        steps,
        children,
        began_unix_ms: SystemClock::new().unix_ms(),
        clock: SystemClock::shared(),
        tasks: tasks.clone(),
        miners: Vec::new(),
        validators: Vec::new(),
    };
    let outcome = Box::pin(walk.all()).await;
    tasks.shutdown(STEP_MAX).await;
    outcome
}

impl Walk<'_> {
    async fn all(&mut self) -> anyhow::Result<Ready> {
        self.keys()?;
        let chain_url = self.chain_up().await?;
        let chain =
            Chain::connect(&chain_url, SharedClock::clone(&self.clock), &self.tasks).await?;
        self.registered(&chain).await?;
        self.served(&chain, &chain_url).await?;
        let api_url = self.validators_up(&chain_url).await?;
        let api_key_file = daemons::api_key_file(&self.plan.dir, first(&self.validators)?);
        let key = std::fs::read_to_string(&api_key_file).context("read the API key")?;
        let base: ApiBase = api_url.parse()?;
        let api = MarketClient::new(base, Some(Secret::new(key.trim().to_owned())), CALL_MAX)?;
        self.discovered(&api).await?;
        let proof = self.proved(&api).await?;
        self.scored(&api, &chain, &proof).await?;
        self.earned(&chain).await?;
        self.rental(&api).await?;
        Ok(Ready { dir: self.plan.dir.clone(), chain_url, api_url, api_key_file })
    }

    fn keys(&mut self) -> anyhow::Result<()> {
        self.steps.begin("keys");
        let dir = &self.plan.dir;
        for number in 1..=self.plan.validators {
            self.validators.push(wallets::party(dir, format!("validator-{number}"))?);
        }
        for number in 1..=self.plan.miners {
            self.miners.push(wallets::party(dir, format!("miner-{number}"))?);
        }
        let count = self.validators.len().saturating_add(self.miners.len());
        self.steps.done("keys", &format!("{count} wallets in {}", wallets::root(dir).display()));
        Ok(())
    }

    async fn chain_up(&mut self) -> anyhow::Result<String> {
        self.steps.begin("chain up");
        let genesis = self.plan.dir.join("genesis.json");
        write_atomically(&genesis, &serde_json::to_string_pretty(&self.genesis()?)?)?;
        write_atomically(&self.plan.dir.join("catalogue.toml"), daemons::CATALOGUE)?;
        let address = self.start("chain", &daemons::chain(&genesis, self.plan)).await?;
        let url = text_of(&address, "ws")?;
        self.steps.done("chain up", &url);
        Ok(url)
    }

    fn genesis(&self) -> anyhow::Result<GenesisFile> {
        let owner = first(&self.validators)?;
        let endow = |party: &Party| Endowed { account: party.coldkey.0, rao: ENDOWMENT_RAO };
        let validator = |party: &Party| Validator {
            hotkey: party.hotkey,
            coldkey: party.coldkey,
            stake_rao: VALIDATOR_STAKE_RAO,
        };
        let subnet = |netuid| Subnet {
            netuid,
            owner_coldkey: owner.coldkey,
            owner_hotkey: owner.hotkey,
            tempo: TEMPO,
            commit_reveal: self.plan.commit_reveal,
            validators: self.validators.iter().map(validator).collect(),
        };
        let others = self.plan.netuids.iter().copied().filter(|netuid| *netuid != NETUID);
        Ok(GenesisFile {
            endowed: self.validators.iter().chain(&self.miners).map(endow).collect(),
            subnets: std::iter::once(NETUID).chain(others).map(subnet).collect(),
        })
    }

    async fn registered(&mut self, chain: &Chain) -> anyhow::Result<()> {
        self.steps.begin("registered");
        for miner in &self.miners {
            if chain.uid_of(SUBNET, &miner.hotkey).await?.is_none() {
                let coldkey = wallets::coldkey(&self.plan.dir, miner)?;
                self.fund(chain, miner).await?;
                chain.burned_register(SUBNET, &miner.hotkey, &coldkey).await?;
            }
        }
        let mut uids = Vec::new();
        for party in self.validators.iter().chain(&self.miners) {
            let uid = chain.uid_of(SUBNET, &party.hotkey).await?;
            let uid = uid.with_context(|| format!("{} is not on the subnet", party.name))?;
            uids.push(format!("{} is uid {uid}", party.name));
        }
        self.steps.done("registered", &uids.join(", "));
        Ok(())
    }

    /// A provider that joins a chain of an earlier run was not in its genesis: the owner gives it coins.
    async fn fund(&self, chain: &Chain, party: &Party) -> anyhow::Result<()> {
        if chain.balance(&party.coldkey.0).await?.get() > 0 {
            return Ok(());
        }
        let owner = wallets::coldkey(&self.plan.dir, first(&self.validators)?)?;
        chain.transfer(&party.coldkey.0, Rao(GIFT_RAO), &owner).await?;
        Ok(())
    }

    async fn served(&mut self, chain: &Chain, chain_url: &str) -> anyhow::Result<()> {
        self.steps.begin("served");
        let mut endpoints = Vec::new();
        for (miner, index) in self.miners.clone().iter().zip(0_u8..) {
            let args = daemons::miner(&self.plan.dir, miner, index, chain_url, &self.plan.runtime);
            let address = self.start(&miner.name, &args).await?;
            let wanted = text_of(&address, "axon")?;
            until("the axon on chain", STEP_MAX, || async {
                let metagraph = chain.metagraph(SUBNET).await?;
                let neuron = metagraph.neurons.iter().find(|neuron| neuron.hotkey == miner.hotkey);
                let axon = neuron.and_then(|neuron| neuron.axon.as_ref());
                let shown =
                    axon.map(|axon| std::net::SocketAddr::new(axon.ip, axon.port).to_string());
                Ok(shown.filter(|shown| *shown == wanted))
            })
            .await?;
            endpoints.push(format!("{} at {wanted}", miner.name));
        }
        self.steps.done("served", &endpoints.join(", "));
        Ok(())
    }

    async fn validators_up(&mut self, chain_url: &str) -> anyhow::Result<String> {
        self.steps.begin("discovered");
        let mut first_url = None;
        for party in &self.validators.clone() {
            let args = daemons::validator(&self.plan.dir, party, chain_url, self.plan.proof);
            let address = self.start(&party.name, &args).await?;
            let url = format!("http://{}", text_of(&address, "api")?);
            first_url.get_or_insert(url);
        }
        first_url.context("a market has a validator")
    }

    async fn discovered(&mut self, api: &MarketClient) -> anyhow::Result<()> {
        let mut found = Vec::new();
        for miner in &self.miners {
            let offer = until("the offer in the market", STEP_MAX, || async {
                let offers = api.offers(&OfferQuery::default()).await?.offers;
                Ok(offers.into_iter().find(|offer| offer.provider == miner.hotkey))
            })
            .await?;
            let machine = &offer.machine;
            found.push(format!(
                "{}: {} cores, {} MiB, {} GPUs, {}, limits: {}",
                offer.offer,
                machine.cores,
                machine.memory_bytes >> 20,
                machine.gpus.len(),
                offer.runtime,
                offer.limits,
            ));
        }
        self.steps.done("discovered", &found.join("; "));
        Ok(())
    }

    /// The lease for the proof, and the proof itself.
    async fn proved(&mut self, api: &MarketClient) -> anyhow::Result<ProofView> {
        self.steps.begin("leased");
        let miner = first(&self.miners)?.hotkey;
        let lease = until("the lease for a proof", STEP_MAX, || async {
            let provider = provider(api, miner).await?;
            let running = provider.as_ref().and_then(|p| p.session.as_ref().map(|s| s.lease));
            let proven = provider.and_then(|p| p.proof).filter(|proof| self.is_of_this_run(proof));
            Ok(running.or_else(|| proven.and_then(|proof| proof.lease)))
        })
        .await?;
        self.steps.done("leased", &format!("lease {lease} for a proof"));
        self.steps.begin("proved");
        let proof = until("the proof", PROOF_MAX, || async {
            let proof = provider(api, miner).await?.and_then(|provider| provider.proof);
            Ok(proof.filter(|proof| self.is_of_this_run(proof)))
        })
        .await?;
        if proof.verdict != "passed" {
            let what = format!("the proof was {}: {}", proof.verdict, proof.reason);
            return Err(Failure::new(Exit::Failed, what).into());
        }
        let leg = |leg: &LegView| match &leg.reason {
            None => format!(", {} {:.2} GB/s", leg.leg, giga(leg.bytes_per_second)),
            Some(_) => format!(", {} not shown", leg.leg),
        };
        let legs: Vec<String> = proof.legs.iter().map(leg).collect();
        let measured = format!(
            "{} MiB answered for, {:.2} Gop/s, {:.2} GB/s walked{}; transcript {}",
            proof.bytes_per_device >> 20,
            giga(proof.ops_per_second),
            giga(proof.walk_bytes_per_second),
            legs.concat(),
            proof.transcript.get(..16).unwrap_or_default(),
        );
        self.steps.done("proved", &measured);
        Ok(proof)
    }

    /// A folder that is used again holds proofs of earlier runs; they show nothing about this one.
    const fn is_of_this_run(&self, proof: &ProofView) -> bool {
        proof.at_unix_ms >= self.began_unix_ms
    }

    async fn scored(
        &mut self,
        api: &MarketClient,
        chain: &Chain,
        proof: &ProofView,
    ) -> anyhow::Result<()> {
        self.steps.begin("scored");
        let class = proof.class.as_deref().unwrap_or("no class");
        if proof.score_micro == 0 {
            let what = format!("the score is zero: {}", proof.reason);
            return Err(Failure::new(Exit::Failed, what).into());
        }
        self.steps.done("scored", &format!("class {class}, {} millionths", proof.score_micro));
        self.steps.begin("weights set");
        let (validator, miner) = (first(&self.validators)?.hotkey, first(&self.miners)?.hotkey);
        let from = chain.uid_of(SUBNET, &validator).await?.context("the validator has a uid")?;
        let to = chain.uid_of(SUBNET, &miner).await?.context("the miner has a uid")?;
        let limit = match self.plan.commit_reveal {
            true => self.epochs().saturating_add(STEP_MAX),
            false => STEP_MAX,
        };
        let weight = until("the weight on chain", limit, || async {
            let on_chain = chain.weights_of(SUBNET, from).await?;
            Ok(on_chain.into_iter().find(|(uid, weight)| *uid == to && *weight > 0))
        })
        .await?;
        let block = api.status().await?.weights_block;
        let block = block.map_or_else(String::new, |block| format!(" in block {block}"));
        self.steps.done("weights set", &format!("uid {from} gives uid {to} {}{block}", weight.1));
        Ok(())
    }

    /// The epochs in which anything that an epoch decides must have been decided.
    fn epochs(&self) -> Duration {
        self.plan.block_time.saturating_mul(u32::from(TEMPO)).saturating_mul(EPOCHS_MAX)
    }

    /// The epoch after the weights, and what it gave.
    async fn earned(&mut self, chain: &Chain) -> anyhow::Result<()> {
        self.steps.begin("epoch run");
        let miner = first(&self.miners)?.hotkey;
        let limit = self.epochs().saturating_add(STEP_MAX);
        let metagraph = chain.metagraph(SUBNET).await?;
        let before = metagraph.block;
        // A folder that is used again has an incentive already: then a whole tempo must pass.
        let is_paid = metagraph.neuron(&miner).is_some_and(|neuron| neuron.incentive > 0);
        let wanted = before.get().saturating_add(if is_paid { u64::from(TEMPO) } else { 0 });
        let neuron = until("an epoch with these weights", limit, || async {
            let metagraph = chain.metagraph(SUBNET).await?;
            let is_over = metagraph.block.get() >= wanted;
            let mut neurons = metagraph.neurons.into_iter().filter(|_| is_over);
            let paid = neurons.find(|n| n.hotkey == miner && n.incentive > 0);
            Ok(paid.map(|neuron| (metagraph.block, neuron)))
        })
        .await?;
        self.steps.done("epoch run", &format!("between block {before} and block {}", neuron.0));
        let (uid, incentive) = (neuron.1.uid, neuron.1.incentive);
        self.steps.done(
            "incentive seen",
            &format!("uid {uid}: incentive {incentive} of 65535, {} per epoch", neuron.1.emission),
        );
        Ok(())
    }

    /// A rental from the offer to the sweep.
    async fn rental(&mut self, api: &MarketClient) -> anyhow::Result<()> {
        self.steps.begin("rented");
        let folder = self.plan.dir.join("renter");
        let key = openssh::key(&folder).await?;
        let lease = self.rent(api, &key.public).await?;
        let access = lease.ssh.as_ref().context("a running lease can be entered")?;
        let access = SshAccess::check(access)?;
        self.steps.done("rented", &format!("lease {} until its release", lease.id));
        self.steps.begin("ssh answered");
        let arguments = openssh::arguments(&folder, &key.file, &access)?;
        let said = openssh::answer(&arguments, QUESTION).await?;
        if said.trim() != ANSWER {
            let what = format!("ssh answered {:?}, expected {ANSWER:?}", said.trim());
            return Err(Failure::new(Exit::Failed, what).into());
        }
        self.steps.done(
            "ssh answered",
            &format!("ssh -p {} {}@{} says {ANSWER}", access.port(), access.user(), access.host()),
        );
        self.steps.begin("released");
        api.release(lease.id).await?;
        until("the end of the lease", STEP_MAX, || async {
            let state = api.lease(lease.id).await?.state;
            Ok((state == "ended").then_some(()))
        })
        .await?;
        self.steps.done("released", &format!("lease {}", lease.id));
        self.steps.begin("swept clean");
        sweep::wait_until_gone(&self.plan.dir, lease.id).await?;
        let miner = first(&self.miners)?;
        let node = (&*miner.name, miner.hotkey);
        sweep::runtime_has_nothing(&self.plan.dir, node, &self.plan.runtime, lease.id).await?;
        self.steps.done("swept clean", "no container, process, mount or folder names the lease");
        Ok(())
    }

    async fn rent(&self, api: &MarketClient, public_key: &str) -> anyhow::Result<RentalView> {
        let miner = first(&self.miners)?.hotkey;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let id = LeaseId::from_random_bytes(random);
        let offer = until("a free offer", STEP_MAX, || async {
            let offers = api.offers(&OfferQuery::default()).await?.offers;
            Ok(offers.into_iter().find(|offer| offer.provider == miner && offer.available))
        })
        .await?;
        let request = RentRequest {
            id,
            provider: miner,
            offer: offer.offer,
            ssh_keys: vec![public_key.to_owned()],
            image: None,
            duration_seconds: RENTAL_SECONDS,
            price_micro_usd_per_hour_max: Some(offer.price_micro_usd_per_hour),
            terminal_key: None,
            options: OptionsView::default(),
        };
        until("a running lease", STEP_MAX, || async {
            let lease = api.rent(&request).await?;
            if lease.state == "failed" {
                anyhow::bail!("the lease failed: {}", lease.reason.unwrap_or_default());
            }
            Ok((lease.state == "running" && lease.ssh.is_some()).then_some(lease))
        })
        .await
    }

    async fn start(&mut self, name: &str, args: &[String]) -> anyhow::Result<serde_json::Value> {
        let child = Child::start(&self.plan.dir, name, args)?;
        self.children.push(child);
        let child = self.children.last_mut().context("the child was just added")?;
        child.ready().await
    }
}

fn first(parties: &[Party]) -> anyhow::Result<&Party> {
    parties.first().context("a market has at least one of each party")
}

fn text_of(value: &serde_json::Value, field: &str) -> anyhow::Result<String> {
    let text = value.get(field).and_then(serde_json::Value::as_str);
    text.map(str::to_owned).with_context(|| format!("the ready file has no {field}"))
}

/// Billions with a fraction, for people; not used in any decision.
#[expect(clippy::cast_precision_loss, reason = "shown to people with two digits")]
fn giga(number: u64) -> f64 {
    number as f64 / 1e9
}
