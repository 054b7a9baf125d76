//! Every cheater by name: what it does, by which check it is caught, and how surely.

use nicompute_market::Figure;
use nicompute_proof::{DevicePlan, Place, ProofParams, Refusal, Stage};

use super::devices::{
    self, InventedWalks, Partial, half_of_the_rows, hankel, in_place_of, not_there, one_step_short,
    replayed, skipping, skipping_walks, width_one,
};
use super::frames::{self, Answer, Bend, Bent, Dripping, Replay};
use super::ring::{Bout, Clock, Clocked, Judgement, Ring, Seed, honest, recorded};
use crate::device::Device;
use crate::prover::Prover;

/// One way to cheat.
#[derive(Clone, Copy)]
pub struct Cheat {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// The check that finds it.
    pub caught_by: Catch,
    /// The part of its sessions that earns nothing, as a formula in the sizes of the session.
    pub formula: &'static str,
    rate: Rate,
    enter: fn(&Ring, Seed, &mut Clock) -> Box<dyn Answer>,
}

/// The check that finds a cheater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catch {
    /// A sampled row is not what the session's keys give.
    Row,
    /// A sampled walk is not what the session's keys give.
    Walk,
    /// Commitments contradict each other.
    Commitment,
    /// An answer of another shape than was asked for.
    Protocol,
    /// A frame that is too long.
    Oversized,
    /// An answer after its deadline.
    Late(Stage),
    /// A proof that holds and shows too little of this for the class.
    Class(Figure),
    /// A sampled row, or where none of them is wrong the class, for which too little of this is shown.
    RowOrClass(Figure),
}

/// How surely a cheater is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rate {
    /// Always, but for odds that no number of sessions would show.
    Certain,
    /// Where one of the sampled rows is among so many percent of all.
    SampledRows(u64),
    /// Where one of the sampled walks is among so many percent of all.
    SampledWalks(u64),
}

/// Every cheater.
#[must_use]
pub const fn table() -> &'static [Cheat] {
    &TABLE
}

/// The cheater of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Cheat> {
    TABLE.iter().find(|cheat| cheat.name == name)
}

const CERTAIN: &str = "1";
const SAMPLED: &str = "1 - C((1-x)N, k) / C(N, k), about 1 - (1-x)^k";
/// So many times as long as an honest machine's is a fill that ends after its deadline.
const LATE_TIMES: u64 = 16;

static TABLE: [Cheat; 32] = [
    certain(
        "hankel",
        "forges products of v1.9.0's matrices, whose entries follow from i + j, in O(n²)",
        Catch::Row,
        |_, _, _| alone(hankel()),
    ),
    certain(
        "width-one",
        "computes products of width 1 and stretches them: v1.9.0 read n back from the machine",
        Catch::Row,
        |_, _, _| alone(width_one()),
    ),
    certain(
        "fewer-roots",
        "commits to one device fewer than it was asked for: v1.9.0 counted what was answered",
        Catch::Protocol,
        |_, _, _| bent(frames::fewer_roots),
    ),
    skip::<1>("skipped-rows-1"),
    skip::<5>("skipped-rows-5"),
    skip::<10>("skipped-rows-10"),
    skip::<20>("skipped-rows-20"),
    skip_on_the_clock::<1>("skipped-rows-1-timed"),
    skip_on_the_clock::<5>("skipped-rows-5-timed"),
    skip_on_the_clock::<10>("skipped-rows-10-timed"),
    skip_on_the_clock::<20>("skipped-rows-20-timed"),
    certain(
        "half-of-the-rows",
        "computes the first half of every block of rows and walks over noise in the other",
        Catch::Row,
        |_, _, _| alone(half_of_the_rows()),
    ),
    certain("one-step-short", "leaves out the last product of every row", Catch::Row, |_, _, _| {
        alone(one_step_short())
    }),
    skip_walks::<10>("skipped-walks-10"),
    skip_walks::<20>("skipped-walks-20"),
    hold::<99>(
        "plot-of-99-percent",
        "computes every row and holds 99 % of them; computes the others again when a walk comes by",
    ),
    hold::<95>("plot-of-95-percent", "the same with 95 %"),
    hold::<90>("plot-of-90-percent", "the same with 90 %"),
    certain(
        "recompute-on-demand",
        "commits to every row and holds none; computes each again when a walk comes by",
        Catch::Late(Stage::Walk),
        |_, _, clock| counted(devices::truncated(0), clock),
    ),
    certain(
        "one-device-for-eight",
        "lists eight devices and does the work of all, one after the other, on one",
        Catch::Class(Figure::OpsPerSecond),
        one_for_eight,
    ),
    certain(
        "swapped-devices",
        "shows the rows of each of two devices as the other's",
        Catch::Row,
        |_, _, _| swapped(),
    ),
    certain(
        "one-plot-for-two",
        "shows the rows of one device as those of a second one too",
        Catch::Row,
        |ring, _, _| one_plot_for_two(ring),
    ),
    certain(
        "replayed-transcript",
        "plays back the frames of an honest session of before",
        Catch::Commitment,
        |ring, seed, _| replay(ring, seed),
    ),
    certain(
        "replayed-plot",
        "shows the rows of a session of before under fresh commitments",
        Catch::Row,
        |ring, seed, _| alone(replayed(ring.keys(seed.earlier()))),
    ),
    certain(
        "other-validators-nonce",
        "answers with the rows of a session that another validator has under way",
        Catch::Row,
        |ring, seed, _| alone(replayed(ring.keys_of_other_validator(seed))),
    ),
    certain(
        "invented-walks",
        "fills honestly and walks under a nonce of its own",
        Catch::Walk,
        |_, _, _| alone(InventedWalks(honest("cpu"))),
    ),
    certain(
        "half-speed",
        "does all of the work at half the speed of the device that it claims to be",
        Catch::Class(Figure::OpsPerSecond),
        |_, _, clock| slower(2, clock),
    ),
    certain(
        "late-commit",
        "does all of the work and commits when the time for it is over",
        Catch::Late(Stage::Fill),
        |_, _, clock| slower(LATE_TIMES, clock),
    ),
    certain(
        "devices-not-there",
        "lists a second device that is not there and answers noise for it",
        Catch::Row,
        |_, _, _| ghost(),
    ),
    certain(
        "oversized-frame",
        "announces a frame of four gigabytes",
        Catch::Oversized,
        |_, _, _| bent(frames::oversized),
    ),
    certain(
        "truncated-frame",
        "sends half of a frame and falls silent",
        Catch::Late(Stage::Fill),
        |_, _, _| bent(frames::truncated),
    ),
    certain(
        "byte-a-second",
        "sends its frames a byte a second",
        Catch::Late(Stage::Pings),
        dripping,
    ),
];

const fn certain(
    name: &'static str,
    does: &'static str,
    caught_by: Catch,
    enter: fn(&Ring, Seed, &mut Clock) -> Box<dyn Answer>,
) -> Cheat {
    Cheat { name, does, caught_by, formula: CERTAIN, rate: Rate::Certain, enter }
}

/// The strongest of those who skip rows: where a walk comes by such a row, it computes it, and here nobody looks at the time,
/// so that the sample of rows stands alone. A walk over the noise would be found too.
const fn skip<const PERCENT: u64>(name: &'static str) -> Cheat {
    Cheat {
        name,
        does: "commits to noise in the place of x of its rows, and computes such a row when a walk comes by",
        caught_by: Catch::Row,
        formula: SAMPLED,
        rate: Rate::SampledRows(PERCENT),
        enter: |_, _, _| alone(skipping(PERCENT)),
    }
}

/// The same under the rules of a session, in which what is computed while walking takes its time.
const fn skip_on_the_clock<const PERCENT: u64>(name: &'static str) -> Cheat {
    let does = "the same, and its walks are timed as any machine's";
    let caught_by = Catch::RowOrClass(Figure::WalkBytesPerSecond);
    certain(name, does, caught_by, |_, _, clock| counted(skipping(PERCENT), clock))
}

const fn skip_walks<const PERCENT: u64>(name: &'static str) -> Cheat {
    Cheat {
        name,
        does: "holds every row, does not do x of its walks, and commits to noise as their results",
        caught_by: Catch::Walk,
        formula: SAMPLED,
        rate: Rate::SampledWalks(PERCENT),
        enter: |_, _, _| alone(skipping_walks(PERCENT)),
    }
}

const fn hold<const PERCENT: u64>(name: &'static str, does: &'static str) -> Cheat {
    certain(name, does, Catch::Class(Figure::WalkBytesPerSecond), |_, _, clock| {
        counted(devices::truncated(PERCENT), clock)
    })
}

fn counted(device: Partial, clock: &mut Clock) -> Box<dyn Answer> {
    let computed_again = device.computed_again();
    alone(Clocked::new(device, clock.lane()).counting(computed_again))
}

impl Cheat {
    /// The part of its sessions that earns nothing, with these sizes.
    #[must_use]
    pub fn predicted(&self, params: &ProofParams) -> f64 {
        let record = params.record();
        match self.rate {
            Rate::Certain => 1.0,
            Rate::SampledRows(percent) => found(record.rows, percent, record.sampled_rows),
            Rate::SampledWalks(percent) => {
                found(record.walks.into(), percent, record.sampled_walks)
            }
        }
    }

    /// One session against the verifier.
    #[must_use]
    pub fn bout(&self, ring: &Ring, seed: Seed) -> Bout {
        let mut clock = Clock::default();
        let mut answer = (self.enter)(ring, seed, &mut clock);
        ring.meet(seed, &clock, answer.as_mut())
    }
}

/// Honest machines of one and of eight devices, under the same rules: the refusals of the others are then about cheating.
#[must_use]
pub fn honest_bout(ring: &Ring, seed: Seed, devices: usize) -> Bout {
    let mut clock = Clock::default();
    let boxed = |place: usize| -> Box<dyn Device> {
        Box::new(Clocked::new(honest(&format!("cpu-{place}")), clock.lane()))
    };
    let mut prover = Prover::new((0..devices).map(boxed).collect());
    ring.meet(seed, &clock, &mut prover)
}

impl Catch {
    /// Whether this is how the validator came to pay nothing.
    #[must_use]
    pub fn is(self, judgement: &Judgement<'_>) -> bool {
        match (self, judgement) {
            (Self::RowOrClass(_), Judgement::Refused(_)) => Self::Row.is(judgement),
            (Self::RowOrClass(figure) | Self::Class(figure), Judgement::Unpaid(missing)) => {
                missing.iter().any(|shortfall| shortfall.figure == figure)
            }
            (_, Judgement::Refused(refusal)) => self.is_refusal(refusal),
            _ => false,
        }
    }

    const fn is_refusal(self, refusal: &Refusal) -> bool {
        match (self, refusal) {
            (Self::Row, Refusal::Mismatch { place: Place::Row(_), .. })
            | (Self::Walk, Refusal::Mismatch { place: Place::Walk(_), .. })
            | (Self::Commitment, Refusal::Openings(_))
            | (Self::Protocol, Refusal::Protocol { .. })
            | (Self::Oversized, Refusal::Oversized { .. }) => true,
            (Self::Late(stage), Refusal::Deadline { stage: late, .. }) => {
                stage as u8 == *late as u8
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Catch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Row => f.write_str("a sampled row"),
            Self::Walk => f.write_str("a sampled walk"),
            Self::Commitment => {
                f.write_str("the commitment, which is not its panels under this session's keys")
            }
            Self::Protocol => f.write_str("an answer that does not fit what was asked"),
            Self::Oversized => f.write_str("the limit on frames"),
            Self::Late(stage) => write!(f, "the deadline of the stage {stage}"),
            Self::Class(figure) => write!(f, "the class's minimum of {}", figure.as_str()),
            Self::RowOrClass(figure) => {
                write!(f, "a sampled row, or the class's minimum of {}", figure.as_str())
            }
        }
    }
}

impl std::fmt::Debug for Cheat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cheat").field("name", &self.name).finish_non_exhaustive()
    }
}

fn alone(device: impl Device + 'static) -> Box<dyn Answer> {
    Box::new(Prover::new(vec![Box::new(device)]))
}

fn two(first: impl Device + 'static, second: impl Device + 'static) -> Box<dyn Answer> {
    Box::new(Prover::new(vec![Box::new(first), Box::new(second)]))
}

fn bent(bend: Bend) -> Box<dyn Answer> {
    let devices: Vec<Box<dyn Device>> = vec![Box::new(honest("cpu-0")), Box::new(honest("cpu-1"))];
    Box::new(Bent { prover: Prover::new(devices), bend })
}

fn one_for_eight(_ring: &Ring, _seed: Seed, clock: &mut Clock) -> Box<dyn Answer> {
    let lane = clock.lane();
    let device = |place: usize| -> Box<dyn Device> {
        Box::new(Clocked::new(honest(&format!("cpu-{place}")), lane.clone()))
    };
    Box::new(Prover::new((0..8).map(device).collect()))
}

fn swapped() -> Box<dyn Answer> {
    let (first, second) = (devices::claim("cpu-0"), devices::claim("cpu-1"));
    two(in_place_of("cpu-0", second, 1), in_place_of("cpu-1", first, 0))
}

fn one_plot_for_two(ring: &Ring) -> Box<dyn Answer> {
    let params = ring.params();
    let first = honest("cpu-0");
    let plan = DevicePlan { device: 0, rows: params.rows(), walks: params.walks() };
    let copy = devices::copy_of(&first, plan);
    two(first, copy)
}

fn replay(ring: &Ring, seed: Seed) -> Box<dyn Answer> {
    let (hello, answers) = recorded(ring, seed.earlier());
    Box::new(Replay { hello, answers: answers.into_iter() })
}

fn slower(times: u64, clock: &mut Clock) -> Box<dyn Answer> {
    alone(Clocked::new(honest("cpu"), clock.lane()).slower(times))
}

fn ghost() -> Box<dyn Answer> {
    two(honest("cpu-0"), not_there("cpu-1"))
}

fn dripping(_ring: &Ring, _seed: Seed, clock: &mut Clock) -> Box<dyn Answer> {
    let prover = Prover::new(vec![Box::new(honest("cpu"))]);
    Box::new(Dripping { prover, lane: clock.lane() })
}

/// The odds that one of `sampled` out of `all` is among `percent` of them.
fn found(all: u64, percent: u64, sampled: u16) -> f64 {
    let skipped = all * percent / 100;
    let misses = (0..u64::from(sampled)).map(|drawn| {
        let left = all.saturating_sub(drawn);
        ratio(left.saturating_sub(skipped), left)
    });
    1.0 - misses.product::<f64>()
}

/// Counts of rows are far below 2^52, so that both are exact.
fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts below 2^52")]
    let ratio = part as f64 / whole as f64;
    ratio
}
