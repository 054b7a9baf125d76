//! Lines of figures, and what becomes of the targets among them.

use std::time::Instant;

/// What was printed so far.
#[derive(Default)]
pub(crate) struct Figures {
    kept: Vec<String>,
    missed: Vec<String>,
    skipped: Vec<String>,
}

/// Where a figure should be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// The median of so many rounds, after one that is not counted.
pub(crate) fn median(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    round();
    let mut all: Vec<f64> = (0..rounds).map(|_| round()).collect();
    all.sort_by(f64::total_cmp);
    all[rounds / 2]
}

/// How long something takes, in seconds, with what it gives.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let done = work();
    (began.elapsed().as_secs_f64(), done)
}

/// What the next lines are about.
pub(crate) fn title(words: &str) {
    println!("\n{words}");
}

/// One figure.
pub(crate) fn line(name: &str, figure: f64, unit: &str, note: &str) {
    let note = if note.is_empty() { String::new() } else { format!("; {note}") };
    println!("  {name:<44} {figure:>10.2} {unit}{note}");
}

impl Figures {
    /// One figure that should be somewhere.
    pub(crate) fn target(&mut self, name: &str, figure: f64, target: Target, unit: &str) {
        let (keeps, wanted) = match target {
            Target::AtMost(limit) => (figure <= limit, format!("at most {limit}")),
            Target::AtLeast(limit) => (figure >= limit, format!("at least {limit}")),
        };
        let verdict = if keeps { "kept" } else { "MISSED" };
        println!("  {name:<44} {figure:>10.2} {unit}; target {wanted}: {verdict}");
        let told = format!("{name}: {figure:.2} {unit}, {wanted} wanted");
        if keeps { self.kept.push(told) } else { self.missed.push(told) }
    }

    pub(crate) fn skip(&mut self, what: &str) {
        eprintln!("SKIPPED: {what}");
        self.skipped.push(what.to_owned());
    }

    pub(crate) fn verdict(&self) {
        let (kept, missed) = (self.kept.len(), self.missed.len());
        println!(
            "\nverdict: {kept} targets kept, {missed} missed, {} parts skipped",
            self.skipped.len()
        );
        for told in &self.missed {
            println!("  MISSED {told}");
        }
        for told in &self.skipped {
            println!("  SKIPPED {told}");
        }
    }
}
