//! The outcome of a local proof, for people and for programs.

use std::path::PathBuf;

use nicompute_market::{DeviceKind, Hotkey, Score, Shortfall};
use nicompute_proof::{Measured, Rate};
use serde_json::{Value, json};

use super::findings::{Finding, Judged};

/// What a local proof came to.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) judged: Vec<Judged>,
    pub(super) score: Option<Score>,
    pub(super) findings: Vec<Finding>,
    pub(super) measured: Measured,
    pub(super) digest: [u8; 32],
    pub(super) signer: Hotkey,
    pub(super) is_ephemeral: bool,
    pub(super) file: Option<PathBuf>,
}

impl Report {
    pub(super) fn lines(&self) -> String {
        let device = |judged: &Judged| {
            let shown = &judged.shown;
            format!(
                "device {:<8}{}: {}\n  answered for  {} bytes\n  computed      {} operations per second\n  \
                 read          {} bytes per second\n",
                shown.device,
                shown.name,
                judged.class.as_deref().unwrap_or("no class"),
                shown.shown.bytes_per_device,
                shown.shown.ops_per_second,
                shown.shown.walk_bytes_per_second,
            )
        };
        let machine = |score: &Score| {
            format!(
                "the machine    {}; score {} millionths, {}.{:03} points\n",
                score.class.as_deref().unwrap_or("no class"),
                score.micro,
                score.points_micro / 1_000_000,
                score.points_micro % 1_000_000 / 1_000,
            )
        };
        let finding = |finding: &Finding| {
            format!("note: {}\n  remedy: {}\n", finding.what(), finding.remedy())
        };
        let whose = if self.is_ephemeral { "a key drawn for this proof" } else { "your hotkey" };
        let digest = hex::encode(self.digest);
        let signed = format!("transcript     {digest}\nsigned by      {} ({whose})\n", self.signer);
        let kept = self.file.as_ref().map_or_else(
            || "not kept; --transcript FILE keeps it\n".to_owned(),
            |file| format!("written to     {0}; check it: nicompute verify {0}\n", file.display()),
        );
        let legs = self.legs().map(|(name, rate)| {
            format!("{name:<14} {} bytes, {} per second\n", rate.bytes, rate.bytes_per_second)
        });
        let lines = self.judged.iter().map(device).chain(legs);
        let lines = lines.chain(self.score.as_ref().map(machine));
        let lines = lines.chain(self.findings.iter().map(finding)).chain([signed, kept]);
        lines.collect::<String>()
            + "The times are this machine's own word: only a validator's proof earns.\n"
    }

    /// What was measured besides the devices' own memory, all of them together.
    fn legs(&self) -> impl Iterator<Item = (&'static str, Rate)> {
        let legs = [("neighbours", self.measured.link), ("to the host", self.measured.copy)];
        legs.into_iter().filter_map(|(name, rate)| Some((name, rate?)))
    }

    pub(super) fn document(&self) -> Value {
        let missing = |shortfalls: &[Shortfall]| -> Vec<Value> {
            let one = |shortfall: &Shortfall| {
                json!({
                    "figure": shortfall.figure.as_str(),
                    "shown": shortfall.shown,
                    "minimum": shortfall.minimum,
                    "below_ppm": shortfall.below_ppm(),
                })
            };
            shortfalls.iter().map(one).collect()
        };
        let device = |judged: &Judged| {
            let shown = &judged.shown.shown;
            json!({
                "device": judged.shown.device,
                "name": judged.shown.name,
                "kind": match shown.kind { DeviceKind::Cpu => "cpu", DeviceKind::Gpu => "gpu" },
                "bytes": shown.bytes_per_device,
                "ops_per_second": shown.ops_per_second,
                "walk_bytes_per_second": shown.walk_bytes_per_second,
                "class": judged.class,
                "name_finding": judged.name.as_str(),
                "next_class": judged.next.as_ref().map(|(class, shortfalls)| {
                    json!({ "class": class, "missing": missing(shortfalls) })
                }),
            })
        };
        let finding = |finding: &Finding| json!({ "code": finding.code(), "what": finding.what(), "remedy": finding.remedy() });
        json!({
            "proven": true,
            "devices": self.judged.iter().map(device).collect::<Vec<_>>(),
            "machine": self.score.as_ref().map(|score| json!({
                "class": score.class,
                "score_micro": score.micro,
                "points_micro": score.points_micro,
            })),
            "fill_ns": self.measured.fill_ns,
            "walk_ns": self.measured.walk_ns,
            "plot_bytes": self.measured.plot_bytes,
            "link_bytes_per_second": self.measured.link.map(|rate| rate.bytes_per_second),
            "copy_bytes_per_second": self.measured.copy.map(|rate| rate.bytes_per_second),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "transcript": {
                "digest": hex::encode(self.digest),
                "file": self.file.as_ref().map(|file| file.display().to_string()),
                "signer": self.signer.to_string(),
                "ephemeral_signer": self.is_ephemeral,
            },
        })
    }
}
