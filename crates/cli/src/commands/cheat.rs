//! `nicompute cheat`: lets a cheater loose on a verifier, in this process, and shows how it is caught.

use std::io::Write;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use nicompute_daemon::ErrorChain;
use nicompute_prover::cheats::{Cheat, Judgement, Ring, Seed, find, fits, table};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

/// A count of refusals this unlikely under the predicted rate is reported as a failure.
const ALARM: f64 = 1e-9;
/// The most sessions of one cheater.
const RUNS_MAX: u32 = 100_000;

/// Options of `nicompute cheat`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Args)]
pub(crate) struct CheatArgs {
    /// The cheater's name.
    #[arg(value_name = "NAME", required_unless_present_any = ["list", "all"])]
    name: Option<String>,
    /// Name every cheater, what it does, and by what it is caught.
    #[arg(long, conflicts_with_all = ["name", "all"])]
    list: bool,
    /// Let every cheater loose, one after the other.
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Sessions of each cheater.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RUNS_MAX)))]
    runs: u32,
    /// The seed of the first session; the same seeds give the same sessions.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

/// What a cheater came to.
struct Outcome {
    cheat: &'static Cheat,
    caught: u32,
    runs: u32,
    predicted: f64,
    elapsed_ms: u64,
    modelled_ns: u64,
    /// Why, in the last session that earned nothing.
    reason: Option<String>,
    /// Another reason than the one that is meant for it.
    stray: Option<String>,
}

/// Runs it. A cheater that is not caught at its rate ends with code 1.
pub(crate) fn run(args: &CheatArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let ring = Ring::standard();
    if args.list {
        return list(args, &ring, out);
    }
    let chosen: Vec<&'static Cheat> = match &args.name {
        None => table().iter().collect(),
        Some(name) => vec![find(name).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("no cheater is called {name}"))
                .hint("nicompute cheat --list names them")
        })?],
    };
    let mut outcomes = Vec::with_capacity(chosen.len());
    for cheat in chosen {
        let outcome = outcome(cheat, &ring, args);
        if !args.json {
            out.write_all(outcome.lines().as_bytes()).context("write the outcome")?;
        }
        outcomes.push(outcome);
    }
    if args.json {
        let all: Vec<Value> = outcomes.iter().map(Outcome::document).collect();
        writeln!(out, "{:#}", json!({ "cheaters": all })).context("write the outcome")?;
    }
    out.flush().context("write the outcome")?;
    match outcomes.iter().find(|outcome| !outcome.is_as_predicted()) {
        None => Ok(()),
        Some(outcome) => {
            let what = format!("{} was not caught as predicted", outcome.cheat.name);
            Err(Failure::new(Exit::Failed, what)
                .hint("this is a defect of the verifier: report it with the seed")
                .into())
        }
    }
}

fn list(args: &CheatArgs, ring: &Ring, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = if args.json {
        let all = table().iter().map(|cheat| {
            json!({
                "name": cheat.name,
                "does": cheat.does,
                "caught_by": cheat.caught_by.to_string(),
                "formula": cheat.formula,
                "predicted": cheat.predicted(ring.params()),
            })
        });
        format!("{:#}\n", json!({ "cheaters": all.collect::<Vec<_>>() }))
    } else {
        let line = |cheat: &Cheat| {
            format!("{:<24}{}\n{:<24}caught by {}\n", cheat.name, cheat.does, "", cheat.caught_by)
        };
        table().iter().map(line).collect()
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write the list")
}

fn outcome(cheat: &'static Cheat, ring: &Ring, args: &CheatArgs) -> Outcome {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long it took a person's machine, and nothing else"
    )]
    let began = Instant::now();
    let (mut caught, mut modelled_ns, mut reason, mut stray) = (0, 0, None, None);
    for run in 0..args.runs {
        let bout = cheat.bout(ring, Seed::new(args.seed.wrapping_add(run.into())));
        modelled_ns = bout.modelled_ns;
        let judgement = bout.judgement();
        let why = match &judgement {
            Judgement::Refused(refusal) => format!("refused: {}", ErrorChain(*refusal)),
            Judgement::Unpaid(_) => judgement.to_string(),
            Judgement::Paid => continue,
        };
        if cheat.caught_by.is(&judgement) {
            caught += 1;
        } else {
            stray = Some(why.clone());
        }
        reason = Some(why);
    }
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let predicted = cheat.predicted(ring.params());
    Outcome { cheat, caught, runs: args.runs, predicted, elapsed_ms, modelled_ns, reason, stray }
}

impl Outcome {
    fn is_as_predicted(&self) -> bool {
        self.stray.is_none() && fits(self.caught, self.runs, self.predicted, ALARM)
    }

    fn rate(&self) -> f64 {
        f64::from(self.caught) / f64::from(self.runs)
    }

    fn lines(&self) -> String {
        let verdict = match (&self.reason, self.caught) {
            (Some(reason), _) => reason.clone(),
            (None, _) => "proven, and paid".to_owned(),
        };
        let stray = self.stray.as_ref().map(|why| format!("{:<24}NOT MEANT: {why}\n", ""));
        format!(
            "{:<24}{verdict}\n{:<24}caught {} of {}: {:.4}, predicted {:.4} ({}); {} ms here\n{}",
            self.cheat.name,
            "",
            self.caught,
            self.runs,
            self.rate(),
            self.predicted,
            self.cheat.formula,
            self.elapsed_ms,
            stray.unwrap_or_default(),
        )
    }

    fn document(&self) -> Value {
        json!({
            "name": self.cheat.name,
            "does": self.cheat.does,
            "caught_by": self.cheat.caught_by.to_string(),
            "formula": self.cheat.formula,
            "predicted": self.predicted,
            "runs": self.runs,
            "caught": self.caught,
            "rate": self.rate(),
            "as_predicted": self.is_as_predicted(),
            "reason": self.reason,
            "elapsed_ms": self.elapsed_ms,
            "modelled_ns": self.modelled_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nicompute_proof::{DeviceKind, Limits};
    use nicompute_validator::ProofSize;

    fn cheat(name: Option<&str>, runs: u32) -> (anyhow::Result<()>, String) {
        let args = CheatArgs {
            name: name.map(str::to_owned),
            list: name.is_none(),
            all: false,
            runs,
            seed: 7,
            json: name.is_some(),
        };
        let mut out = Vec::new();
        let ended = run(&args, &mut out);
        (ended, String::from_utf8(out).unwrap())
    }

    /// A person who doubts the proof must be able to see each fraud fail, with the reason.
    #[test]
    fn cheaters_are_named_and_caught() {
        let (ended, text) = cheat(None, 1);
        assert!(ended.is_ok() && table().iter().all(|cheat| text.contains(cheat.name)));
        let (ended, text) = cheat(Some("hankel"), 2);
        assert!(ended.is_ok(), "{ended:?}");
        let document: Value = serde_json::from_str(&text).unwrap();
        let hankel = &document["cheaters"][0];
        assert_eq!((&hankel["caught"], &hankel["as_predicted"]), (&json!(2), &json!(true)));
        assert!(hankel["reason"].as_str().unwrap().contains("row"), "{hankel}");
        let (ended, _) = cheat(Some("nobody"), 1);
        assert!(ended.unwrap_err().to_string().contains("nobody"));
    }

    /// Under narrower limits than a validator sets, a cheater would be shown to fail by a check that nobody makes.
    #[test]
    fn a_bout_has_the_limits_of_a_validator() {
        let gpus = ProofSize::Full.profile(80 << 30, DeviceKind::Cuda).limits;
        let limits = *Ring::standard().limits();
        let stages = |limits: Limits| {
            let Limits { hello_ns, ready_ns, pong_ns, fill_ns, walk_ns, openings_ns, .. } = limits;
            [hello_ns, ready_ns, pong_ns, fill_ns, walk_ns, openings_ns]
        };
        assert_eq!(stages(limits), stages(gpus));
    }
}
