//! A validator that is killed anywhere between the decision and the chain's last word, on a real chain.
//!
//! The chain's clock is the test's: blocks come while something waits for them, so nothing here depends on the machine's
//! speed. A kill is a future that is never polled again; what survives it is the folder.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use nicompute_daemon::{Clock as _, ManualClock, SystemClock, Tasks};
use nicompute_devnet::{Beacon, Devnet, DevnetConfig, Genesis, SubnetGenesis};
use nicompute_keys::{Keypair, Scheme};
use nicompute_market::{Catalogue, Rao, ScorePolicy};

use super::*;
use crate::config::{Intervals, Policies, ProofSize, Provers, ValidatorConfig};
use crate::legs::LegSet;
use crate::loops::follow as chain_view;
use crate::session::SshDoor;
use crate::store::DirLock;
use crate::validator::{Parts, context};

const NETUID: Netuid = Netuid(27);
const BLOCK: Duration = Duration::from_secs(1);
const TEMPO: u16 = 100;
/// How many blocks can be undone where forks are made.
const LAG: u32 = 6;
/// How long a step of ours may be quiet before the chain makes another block.
const QUIET: Duration = Duration::from_millis(40);
/// Blocks after which something that did not happen never will.
const BLOCKS_MAX: u32 = 600;
/// After how many polls a validator is killed; the last ones are beyond everything that it does.
const KILLS: [u32; 14] = [1, 2, 4, 6, 8, 10, 13, 16, 20, 25, 32, 40, 60, 100];

/// A chain that moves when it is told to, and a validator's folder.
struct World {
    devnet: Devnet,
    chain: Chain,
    clock: Arc<ManualClock>,
    tasks: Tasks,
    folder: tempfile::TempDir,
}

/// How a future that may be killed ended.
enum Ended {
    Done(Outcome),
    Killed,
}

struct Polled<'f> {
    inner: Pin<Box<dyn Future<Output = Outcome> + Send + 'f>>,
    left: u32,
}

impl Future for Polled<'_> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Ended> {
        if self.left == 0 {
            return Poll::Ready(Ended::Killed);
        }
        self.left -= 1;
        match self.inner.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Ended::Done(outcome)),
            Poll::Pending if self.left == 0 => Poll::Ready(Ended::Killed),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn hotkey() -> Keypair {
    Keypair::from_uri("//Alice//hot", Scheme::Sr25519).unwrap()
}

fn config(dir: &Path) -> ValidatorConfig {
    let class = "version = 1\ndevices_max = 8\n[[class]]\nname = 'CPU'\ndevice = 'cpu'\nbase_score_micro = 1\n";
    ValidatorConfig {
        state_dir: dir.to_owned(),
        netuid: NETUID,
        hotkey: hotkey(),
        catalogue: Catalogue::parse(class).unwrap(),
        catalogue_origin: None,
        proof: ProofSize::Small,
        legs: LegSet::NONE,
        provers: Provers { cpu: Arc::from([0].as_slice()), cuda: Arc::from([1].as_slice()) },
        intervals: Intervals::DEVNET,
        policies: Policies {
            score: ScorePolicy { age_millis_max: 1, rented_multiplier_milli: 1_000 },
            burn_share_ppm: 0,
            sessions_max: 1,
        },
        devnet: true,
    }
}

impl World {
    async fn start(way: Way, finality_lag: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let owner = Keypair::from_uri("//Alice", Scheme::Sr25519).unwrap();
        let miner = Keypair::from_uri("//Bob//hot", Scheme::Sr25519).unwrap();
        let mut subnet = SubnetGenesis::new(NETUID, owner.coldkey(), hotkey().hotkey());
        subnet.tempo = TEMPO;
        subnet.parameters.weights_rate_limit = 0;
        subnet.parameters.switches.commit_reveal = way != Way::Plain;
        subnet.validators = vec![(hotkey().hotkey(), owner.coldkey(), Rao(100_000_000_000_000))];
        subnet.miners = vec![(miner.hotkey(), owner.coldkey())];
        let genesis = Genesis {
            subnets: vec![subnet],
            beacon: Some(Beacon::Own { seed: [7; 32], period_s: 1 }),
            commit_reveal_version: (way == Way::Hash).then_some(0),
            ..Genesis::default()
        };
        let config = DevnetConfig {
            block_time: BLOCK,
            finality_lag,
            ..DevnetConfig::new(folder.path().join("chain"), genesis)
        };
        let clock = ManualClock::at_unix_ms(SystemClock::new().unix_ms());
        let tasks = Tasks::new();
        let devnet = Devnet::start(config, clock.clone(), &tasks).await.unwrap();
        let chain = Chain::connect(&devnet.ws_url(), SystemClock::shared(), &tasks).await.unwrap();
        let world = Self { devnet, chain, clock, tasks, folder };
        world.blocks(2).await;
        world
    }

    async fn blocks(&self, count: u32) {
        for _ in 0..count {
            let before = self.devnet.head();
            // The block loop may not have begun to wait yet: it is told until it has made one.
            while self.devnet.head() == before {
                self.clock.advance(BLOCK);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// A validator that has just been started on the folder, without its loops.
    async fn validator(&self) -> Arc<Context> {
        let dir = self.folder.path().join("validator");
        std::fs::create_dir_all(&dir).unwrap();
        let lock = DirLock::take(&dir).unwrap();
        let heads = self.chain.subscribe_heads();
        let parts =
            Parts { chain: Some(self.chain.clone()), heads, view: None, door: Arc::new(SshDoor) };
        let ctx = context(config(&dir), lock, parts, SystemClock::shared(), self.tasks.clone());
        Arc::new(ctx.await.unwrap())
    }

    /// Runs something of ours while the chain makes blocks, until it is done or killed.
    async fn run<'f>(&self, of: impl Future<Output = Outcome> + Send + 'f, polls: u32) -> Ended {
        let mut polled = Polled { inner: Box::pin(of), left: polls };
        for _ in 0..BLOCKS_MAX {
            if let Ok(ended) = tokio::time::timeout(QUIET, &mut polled).await {
                return ended;
            }
            self.blocks(1).await;
        }
        panic!("{BLOCKS_MAX} blocks brought no end");
    }

    /// What the validator's loop does about these weights, once. Gives whether they are said for good.
    async fn step(&self, ctx: &Arc<Context>, weights: &[(Uid, u16)], polls: u32) -> Option<bool> {
        let outcome = self.run(one_look(ctx, &self.chain, weights), polls).await;
        match outcome {
            Ended::Killed => None,
            Ended::Done(outcome) => {
                let text = outcome.unwrap();
                Some(text == "nothing to do")
            }
        }
    }

    /// The number of extrinsics that the validator has on the chain.
    async fn extrinsics(&self) -> u64 {
        let call = Call::set_weights(NETUID, &[], 0);
        self.chain.prepare(&call, &hotkey()).await.unwrap().nonce()
    }

    /// The validator as it is after a kill.
    async fn restarted(&self, ctx: Arc<Context>) -> Arc<Context> {
        ctx.store.close().await;
        drop(ctx);
        self.validator().await
    }

    /// The newest block that says weights, among those that are not final.
    fn block_with_weights(&self) -> Option<u64> {
        let dump = self.devnet.dump();
        let says = |calls: &[String]| calls.iter().any(|call| call.contains("weights"));
        let mut open = dump.blocks.iter().filter(|block| !block.is_final);
        open.find(|block| says(&block.calls)).map(|block| block.number)
    }

    async fn until_said(&self, ctx: &Arc<Context>, weights: &[(Uid, u16)], last: &str) {
        for _ in 0..BLOCKS_MAX {
            match self.run(one_look(ctx, &self.chain, weights), u32::MAX).await {
                Ended::Done(Ok(text)) if text == last => return,
                Ended::Done(outcome) => drop(outcome.unwrap()),
                Ended::Killed => panic!("nobody kills it"),
            }
        }
        panic!("never: {last}");
    }

    async fn until_on_chain(&self, ctx: &Arc<Context>, weights: &[(Uid, u16)]) {
        for _ in 0..BLOCKS_MAX {
            chain_view::run(ctx).await.unwrap();
            note_opened(ctx, &self.chain, ctx.view().unwrap().own).await.unwrap();
            let last = ctx.store.last_submission().await.unwrap().unwrap();
            let on_chain = self.chain.weights_of(NETUID, Uid(0)).await.unwrap();
            if on_chain == weights && last.step == Step::Done {
                assert_eq!(last.note, "opened");
                return;
            }
            self.blocks(1).await;
        }
        panic!("{weights:?} are not on the chain");
    }
}

/// What `weights::run` does when these weights follow from the scores.
async fn one_look(ctx: &Arc<Context>, chain: &Chain, weights: &[(Uid, u16)]) -> Outcome {
    chain_view::run(ctx).await?;
    if let Some(open) = ctx.store.open_submission().await? {
        return follow(ctx, chain, &open).await;
    }
    if let Some(text) = reveal_due(ctx, chain).await? {
        return Ok(text);
    }
    let last = ctx.store.last_said().await?.filter(|last| last.said.weights == weights);
    if last.as_ref().is_some_and(|it| it.said.way == Way::Hash && it.step != Step::Done) {
        return Ok("a commit waits".to_owned());
    }
    if last.is_some() {
        return Ok("nothing to do".to_owned());
    }
    begin(ctx, chain, 0, weights.to_vec()).await
}

/// Kills a validator at each place and looks what the chain has of it in the end.
async fn killed_anywhere(way: Way, finality_lag: u32, expected: u64) {
    let world = World::start(way, finality_lag).await;
    let mut killed = 0;
    for (interval, polls) in (1_u16..).zip(KILLS) {
        let weights = [(Uid(0), interval), (Uid(1), u16::MAX)];
        let before = world.extrinsics().await;
        let mut polls = polls;
        let mut ctx = world.validator().await;
        for look in 0.. {
            assert!(look < 400, "no end");
            match world.step(&ctx, &weights, polls).await {
                Some(true) => break,
                Some(false) => {
                    if !ctx.store.commits(Way::Hash).await.unwrap().is_empty() {
                        world.blocks(1).await;
                    }
                }
                None => {
                    killed += 1;
                    ctx.store.close().await;
                    drop(ctx);
                    ctx = world.validator().await;
                    // The next kill comes later, so that the reveal is hit as well as the commit.
                    polls = polls.saturating_mul(2).saturating_add(1);
                }
            }
        }
        if way == Way::Timelocked {
            world.until_on_chain(&ctx, &weights).await;
        }
        let on_chain = world.chain.weights_of(NETUID, Uid(0)).await.unwrap();
        assert_eq!(on_chain, weights, "interval {interval}");
        let sent = world.extrinsics().await - before;
        assert_eq!(sent, expected, "interval {interval} said {way:?} {sent} times");
        let last = ctx.store.last_submission().await.unwrap().unwrap();
        assert_eq!((last.step, last.said.weights.as_slice()), (Step::Done, &weights[..]));
        ctx.store.close().await;
    }
    assert!(killed > 8, "{killed} kills");
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}

/// A validator that says its weights twice, or never, after a crash is punished by the chain or pays nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_weights_are_set_once_whenever_it_is_killed() {
    killed_anywhere(Way::Plain, 0, 1).await;
}

/// The same where a block can be undone for a while after it was seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_weights_are_set_once_when_finality_lags() {
    killed_anywhere(Way::Plain, 3, 1).await;
}

/// A commit whose salt is lost, or that is revealed twice, leaves the validator without weights for an epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashed_weights_are_committed_and_revealed_once_whenever_it_is_killed() {
    killed_anywhere(Way::Hash, 0, 2).await;
}

/// Sealed weights must be in the chain once, and be opened by the chain's own beacon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_weights_are_committed_once_whenever_it_is_killed() {
    killed_anywhere(Way::Timelocked, 0, 1).await;
}

/// Kills a validator at every step of an extrinsic that it has just stored: before it is sent, in the pool, and in a block that
/// a fork takes away, with the pool.
async fn killed_at_every_step(
    world: &World,
    mut ctx: Arc<Context>,
    weights: &[(Uid, u16)],
) -> Arc<Context> {
    let before = world.extrinsics().await;
    assert!(world.devnet.dump().pool.is_empty(), "nothing is sent yet");
    ctx = world.restarted(ctx).await;
    assert!(ctx.store.open_submission().await.unwrap().is_some(), "it was not stored");
    for look in 0.. {
        assert!(look < 400, "never in the pool");
        let mut polled =
            Polled { inner: Box::pin(one_look(&ctx, &world.chain, weights)), left: u32::MAX };
        // No block comes, so that it can get no further than into the pool.
        let ended = tokio::time::timeout(QUIET, &mut polled).await;
        assert!(ended.is_err(), "it ended without a block");
        drop(polled);
        if !world.devnet.dump().pool.is_empty() {
            break;
        }
    }
    ctx = world.restarted(ctx).await;
    world.blocks(1).await;
    let block = world.block_with_weights().expect("the weights are in no block");
    assert!(world.devnet.dump().pool.is_empty());
    assert!(world.devnet.head() - block < 3, "it is too deep for the fork");
    let fork = nicompute_devnet::Chaos::Fork { depth: LAG, drop: true };
    world.devnet.chaos(fork).await.unwrap();
    assert_eq!(world.block_with_weights(), None, "the fork left them in block {block}");
    assert_eq!(world.extrinsics().await, before);
    world.restarted(ctx).await
}

/// Weights that come twice, or never, after a kill or a fork at the worst moment are punished by the chain or pay nobody.
async fn once_through_kills_and_forks(way: Way) {
    let world = World::start(way, LAG).await;
    world.blocks(LAG).await;
    let ctx = world.validator().await;
    let weights = [(Uid(0), 9), (Uid(1), u16::MAX)];
    drop(sign(&ctx, &world.chain, 0, weights.to_vec()).await.unwrap());
    let mut ctx = killed_at_every_step(&world, ctx, &weights).await;
    let mut expected = 1;
    if way == Way::Hash {
        world.until_said(&ctx, &weights, "a commit waits").await;
        let commit = ctx.store.commits(way).await.unwrap().remove(0);
        let due = commit.epoch.unwrap() + 1;
        while next_epoch(&world.chain.now().await.unwrap(), NETUID).await.unwrap() < due {
            world.blocks(1).await;
        }
        drop(sign_reveal(&ctx, &world.chain, &commit).await.unwrap());
        ctx = killed_at_every_step(&world, ctx, &weights).await;
        expected = 2;
    }
    world.until_said(&ctx, &weights, "nothing to do").await;
    if way == Way::Timelocked {
        world.until_on_chain(&ctx, &weights).await;
    }
    assert_eq!(world.chain.weights_of(NETUID, Uid(0)).await.unwrap(), weights);
    assert_eq!(world.extrinsics().await, expected);
    let last = ctx.store.last_submission().await.unwrap().unwrap();
    assert_eq!((last.id, last.step), (1, Step::Done));
    ctx.store.close().await;
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}

/// A block that a fork takes away takes the weights with it: the same bytes must come again, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_weights_survive_kills_and_forks() {
    once_through_kills_and_forks(Way::Plain).await;
}

/// The same for a commit, and for its reveal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashed_weights_survive_kills_and_forks() {
    once_through_kills_and_forks(Way::Hash).await;
}

/// The same for sealed weights, which the chain opens itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_weights_survive_kills_and_forks() {
    once_through_kills_and_forks(Way::Timelocked).await;
}

/// Weights of a chain that began anew must neither be waited for nor keep the new chain from getting any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_of_another_chain_are_given_up() {
    let world = World::start(Way::Plain, 0).await;
    let ctx = world.validator().await;
    let weights = vec![(Uid(1), u16::MAX)];
    let call = Call::set_weights(NETUID, &weights, 0);
    let prepared = world.chain.prepare(&call, &hotkey()).await.unwrap();
    let stored = NewSubmission {
        decided_at: ctx.now(),
        genesis: [9; 32],
        way: Way::Plain,
        weights,
        version_key: 0,
        salt: Vec::new(),
        extrinsic: signed(&prepared),
        opens: None,
    };
    let stored = ctx.store.begin_submission(stored).await.unwrap();
    drop(prepared);
    let text = follow(&ctx, &world.chain, &stored).await.unwrap();
    assert!(text.contains("another chain"), "{text}");
    assert!(ctx.store.open_submission().await.unwrap().is_none());
    assert_eq!(world.extrinsics().await, 0);
    ctx.store.close().await;
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}

/// A commit whose epoch has passed while the validator was down must be given up, not revealed in vain for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missed_reveal_is_given_up() {
    let world = World::start(Way::Hash, 0).await;
    let ctx = world.validator().await;
    let weights = [(Uid(0), 5), (Uid(1), u16::MAX)];
    assert_eq!(world.step(&ctx, &weights, u32::MAX).await, Some(false));
    let open = ctx.store.commits(Way::Hash).await.unwrap().remove(0);
    let me = hotkey().hotkey();
    let held = world.chain.hash_commits_of(NETUID, &me).await.unwrap();
    let said = Sealed { hotkey: &me, weights: &weights, version_key: 0 };
    let hash = timelock::commit_hash(NETUID, said, &open.said.salt);
    assert_eq!(held.iter().map(|commit| commit.hash).collect::<Vec<_>>(), [hash]);
    assert_eq!((Some(held[0].block), held[0].epoch), (open.said_block, open.epoch));
    assert_eq!(open.said.salt.len(), SALT_LEN);
    world.blocks(2 * u32::from(TEMPO)).await;
    let text = reveal_due(&ctx, &world.chain).await.unwrap().unwrap();
    assert!(text.contains("the epoch of its reveal is over"), "{text}");
    let last = ctx.store.last_submission().await.unwrap().unwrap();
    assert_eq!(last.step, Step::Failed);
    assert!(world.chain.weights_of(NETUID, Uid(0)).await.unwrap().is_empty());
    ctx.store.close().await;
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}

/// A reveal that a node refuses for a moment must come again, or an epoch goes without weights; until it is taken, nobody may
/// read the weights from this validator's status either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reveal_that_was_refused_comes_again() {
    let world = World::start(Way::Hash, 0).await;
    let ctx = world.validator().await;
    let weights = [(Uid(0), 5), (Uid(1), u16::MAX)];
    assert_eq!(world.step(&ctx, &weights, u32::MAX).await, Some(false));
    let commit = ctx.store.commits(Way::Hash).await.unwrap().remove(0);
    // The chain takes no reveal in the epoch of the commit.
    let early = say_reveal(&ctx, &world.chain, &commit).await.unwrap();
    assert!(early.contains("cannot be revealed now"), "{early}");
    assert!(ctx.store.open_submission().await.unwrap().is_none());
    assert!(ctx.store.last_weight_set().await.unwrap().is_none());
    for look in 0.. {
        assert!(look < BLOCKS_MAX, "no end");
        if world.step(&ctx, &weights, u32::MAX).await == Some(true) {
            break;
        }
        world.blocks(1).await;
    }
    assert_eq!(world.chain.weights_of(NETUID, Uid(0)).await.unwrap(), weights);
    assert_eq!(ctx.store.last_weight_set().await.unwrap().unwrap().weights, weights);
    assert_eq!(world.extrinsics().await, 2);
    // Asked for again, the chain says that there is no such commit: the weights stand nevertheless.
    let commit = Submission { id: again(&ctx, &commit).await, ..commit };
    let text = say_reveal(&ctx, &world.chain, &commit).await.unwrap();
    assert!(text.contains("revealed"), "{text}");
    ctx.store.close().await;
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}

/// The same commit as if nobody had seen its reveal.
async fn again(ctx: &Context, commit: &Submission) -> i64 {
    let stored = ctx.store.begin_submission(commit.said.clone()).await.unwrap();
    let block = commit.said_block.unwrap();
    ctx.store.submission_said(&stored, block, (commit.epoch, ctx.now())).await.unwrap();
    stored.id
}

/// Where the owner has switched commits off, weights that wait for a reveal would keep plain ones from being set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_given_up_where_the_subnet_takes_plain_weights() {
    let world = World::start(Way::Plain, 0).await;
    let ctx = world.validator().await;
    let weights = vec![(Uid(1), u16::MAX)];
    let call = Call::commit_weights(NETUID, [3; 32]);
    let prepared = world.chain.prepare(&call, &hotkey()).await.unwrap();
    let said = NewSubmission {
        decided_at: ctx.now(),
        genesis: world.chain.genesis_hash(),
        way: Way::Hash,
        weights: weights.clone(),
        version_key: 0,
        salt: vec![1],
        extrinsic: signed(&prepared),
        opens: None,
    };
    drop(prepared);
    let stored = ctx.store.begin_submission(said).await.unwrap();
    ctx.store.submission_said(&stored, BlockNumber(1), (Some(0), ctx.now())).await.unwrap();
    let text = reveal_due(&ctx, &world.chain).await.unwrap().unwrap();
    assert!(text.contains("in the clear now"), "{text}");
    assert!(ctx.store.last_said().await.unwrap().is_none(), "they count as said");
    ctx.store.close().await;
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}

/// Sealed weights that the chain has thrown away must not pass for weights: the operator must hear of it, and new ones come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_weights_that_were_never_opened_have_failed() {
    let world = World::start(Way::Timelocked, 0).await;
    let ctx = world.validator().await;
    let weights = vec![(Uid(1), u16::MAX)];
    let call = Call::commit_timelocked_weights(NETUID, &[1, 2, 3], 9, 4);
    let prepared = world.chain.prepare(&call, &hotkey()).await.unwrap();
    let said = NewSubmission {
        decided_at: ctx.now(),
        genesis: world.chain.genesis_hash(),
        way: Way::Timelocked,
        weights: weights.clone(),
        version_key: 0,
        salt: Vec::new(),
        extrinsic: signed(&prepared),
        opens: Some(Opening { block: BlockNumber(2), round: 9 }),
    };
    drop(prepared);
    let stored = ctx.store.begin_submission(said).await.unwrap();
    ctx.store.submission_said(&stored, BlockNumber(1), (Some(0), ctx.now())).await.unwrap();
    chain_view::run(&ctx).await.unwrap();
    note_opened(&ctx, &world.chain, ctx.view().unwrap().own).await.unwrap();
    let last = ctx.store.last_submission().await.unwrap().unwrap();
    assert_eq!(last.step, Step::Failed);
    assert!(last.note.contains("thrown them away"), "{}", last.note);
    assert!(ctx.store.last_weight_set().await.unwrap().is_none());
    ctx.store.close().await;
    assert!(world.tasks.shutdown(Duration::from_secs(20)).await);
}
