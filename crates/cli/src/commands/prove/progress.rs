//! What a person sees while the machine works: the stage, and how much of the plot is there.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nicompute_proof::{ProverFrame, VerifierFrame};

/// How often the display moves while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// A display on standard error; nothing where that is no terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A display for people.
    pub(super) fn shown() -> Self {
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{spinner} {msg:<28} {wide_bar} {pos}/{len} panels");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        bar.set_message("the prover starts");
        Self { bar }
    }

    /// None at all.
    pub(super) fn hidden() -> Self {
        Self { bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()) }
    }

    pub(super) fn on_verifier(&self, frame: &VerifierFrame) {
        match frame {
            VerifierFrame::Prepare { params, plans, .. } => {
                let rows: u64 = plans.iter().map(|plan| plan.rows).sum();
                self.bar.set_length(rows.checked_div(params.panel_rows.into()).unwrap_or(0));
                self.say("memory is allocated");
            }
            VerifierFrame::Start { .. } => self.say("the plot is computed"),
            VerifierFrame::Walk { .. } => self.say("walks over the plot"),
            VerifierFrame::Open { .. } => self.say("the sample is opened"),
            VerifierFrame::Bye => self.say("the proof holds"),
            VerifierFrame::Error { .. } => self.say("the proof is refused"),
            _ => {}
        }
    }

    pub(super) fn on_prover(&self, frame: &ProverFrame) {
        match frame {
            ProverFrame::Progress { .. } => self.bar.inc(1),
            ProverFrame::Openings(_) => self.say("the sample is computed again"),
            _ => {}
        }
    }

    fn say(&self, text: &'static str) {
        self.bar.set_message(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
