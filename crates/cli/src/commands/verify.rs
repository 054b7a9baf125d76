//! `nicompute verify`: checks a proof's transcript again, on this machine and offline.

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use nicompute_proof::{
    DeviceKind, Leg, Measured, Rate, Report, SIGNATURE_LEN, SIGNERS_WORD, SignedTranscript,
    TRANSCRIPT_BODY_LEN_MAX, Verdict, verify_transcript,
};
use serde_json::json;
use uuid::Uuid;

use crate::exit::{Exit, Failure};

/// The longest file that is read: a body of the largest size with its header and its signature.
const FILE_LEN_MAX: usize = TRANSCRIPT_BODY_LEN_MAX + SIGNATURE_LEN + 1024;

/// Options of `nicompute verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The transcript file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
    /// Check the products of the sampled rows a second time, by another method (Freivalds' check over a prime field), so
    /// that a fault of this machine's vector instructions is told apart from a wrong proof.
    #[arg(long)]
    audit: bool,
}

/// Prints what the transcript proves and what is only its signer's word.
///
/// A transcript that does not hold ends with code 1; one that holds and says that the proof was wrong, with code 3.
pub(crate) fn run(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let bytes = read(&args.file)?;
    let report = verify_transcript(&bytes).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} does not hold", args.file.display()))
            .because(error)
            .hint("it was changed or cut after it was signed, or its signer is wrong: it is no evidence")
    })?;
    let audited = if args.audit { Some(audit(&bytes)?) } else { None };
    let text = if args.json { document(&report, audited) } else { lines(&report, audited) };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write the report")?;
    match report.verdict {
        Verdict::Proven => Ok(()),
        Verdict::Mismatch { device, place } => {
            let what = format!(
                "the transcript holds, and its verdict is: device {device}, {place} is wrong"
            );
            Err(Failure::new(Exit::Refused, what).into())
        }
    }
}

/// The number of products that were checked a second time.
fn audit(bytes: &[u8]) -> anyhow::Result<u64> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let signed = SignedTranscript::decode(bytes).context("decode the transcript again")?;
    signed.transcript().exchange.audit(&seed).map_err(|error| {
        Failure::new(Exit::Failed, "the audit found a wrong product of this machine's own")
            .because(error)
            .hint("check this machine's processor and memory; on another machine the transcript may hold or not")
            .into()
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = |what: String| Failure::new(Exit::Failed, what);
    let open = File::open(path).map_err(|error| {
        failed(format!("cannot read {}", path.display()))
            .because(error)
            .hint("give the path of a transcript that a validator stored")
    })?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    open.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(format!("cannot read {}", path.display())).because(error))?;
    if bytes.len() > FILE_LEN_MAX {
        return Err(failed(format!("{} is longer than any transcript", path.display())).into());
    }
    Ok(bytes)
}

/// The plot's bytes. What a processor or a disk answered for may have lain in other memory of the machine.
fn plot(report: &Report) -> (&'static str, String) {
    let bytes = report.measured.plot_bytes;
    if report.claims.iter().all(|claim| claim.kind == DeviceKind::Cuda) {
        return ("held at once", format!("{bytes} bytes"));
    }
    ("answered for", format!("{bytes} bytes, wherever in the machine they lay"))
}

fn lines(report: &Report, audited: Option<u64>) -> String {
    let measured = &report.measured;
    let verdict = match report.verdict {
        Verdict::Proven => {
            "proven: every sampled row and walk was computed again and is right".to_owned()
        }
        Verdict::Mismatch { device, place } => {
            format!("refused: device {device}, {place} is wrong")
        }
    };
    let devices: Vec<&str> = report.claims.iter().map(|claim| claim.name.as_str()).collect();
    let mut text = [
        ("transcript", hex::encode(report.digest)),
        ("signed by", format!("{} (validator)", report.signer)),
        (
            "about",
            format!("{} (provider), lease {}", report.provider, Uuid::from_bytes(report.lease)),
        ),
        ("block", format!("{} 0x{}", report.block_number, hex::encode(report.block_hash))),
        ("verdict", verdict),
        (
            "computed again",
            format!(
                "{} rows and {} walks of {} reads",
                report.sampled_rows, report.sampled_walks, report.params.reads
            ),
        ),
        plot(report),
        (
            "computed",
            format!(
                "{} operations; by the signer's clock in {} ns: {} per second",
                measured.operations, measured.fill_ns, measured.operations_per_second
            ),
        ),
        (
            "read",
            format!(
                "{} bytes; by the signer's clock in {} ns: {} per second",
                measured.walk_bytes, measured.walk_ns, measured.walk_bytes_per_second
            ),
        ),
    ]
    .map(|(name, value)| format!("{name:<15}{value}\n"))
    .concat();
    text.extend(audited.map(|products| {
        let bound = "modulo 2^61 - 1; a wrong one passes with probability 2^-60 at most";
        format!("{:<15}{products} products of rows and matrix, {bound}\n", "audited")
    }));
    text.extend(legs(report).into_iter().filter_map(|leg| {
        let value = match (leg.rate, leg.declined) {
            (Some(rate), _) => format!(
                "{} bytes; by the signer's clock in {} ns: {} per second",
                rate.bytes, rate.ns, rate.bytes_per_second
            ),
            (None, Some(why)) => format!("declined: {why}"),
            (None, None) => return None,
        };
        Some(format!("{:<15}{value}\n", leg.name))
    }));
    text.push_str("only the signer's word:\n");
    text.extend(SIGNERS_WORD.map(|word| format!("  - {word}\n")));
    text + &format!("    (claimed: {}; set up at {})\n", devices.join(", "), report.set_up_at)
}

/// A leg as it is shown: measured, declined, or neither where it was not asked for.
struct LegLine<'a> {
    name: &'static str,
    rate: Option<Rate>,
    declined: Option<&'a str>,
}

fn legs(report: &Report) -> [LegLine<'_>; 4] {
    let Measured { link, copy, net_down, net_up, .. } = report.measured;
    let line = |name, rate, declined| LegLine { name, rate, declined };
    [
        line("link", link, why_declined(&report.legs.link)),
        line("copy", copy, why_declined(&report.legs.copy)),
        line("net down", net_down, None),
        line("net up", net_up, None),
    ]
}

const fn why_declined(leg: &Leg) -> Option<&str> {
    match leg {
        Leg::Declined { text, .. } => Some(text.as_str()),
        Leg::NotAsked | Leg::Answered { .. } => None,
    }
}

/// A leg in JSON: its figures, its reason, or null.
fn leg_value(leg: &LegLine<'_>) -> serde_json::Value {
    match (leg.rate, leg.declined) {
        (Some(rate), _) => json!({
            "bytes": rate.bytes,
            "ns": rate.ns,
            "bytes_per_second": rate.bytes_per_second,
        }),
        (None, Some(why)) => json!({ "declined": why }),
        (None, None) => serde_json::Value::Null,
    }
}

fn document(report: &Report, audited: Option<u64>) -> String {
    let (measured, times) = (&report.measured, &report.times);
    let [link, copy, net_down, net_up] = &legs(report);
    let verdict = match report.verdict {
        Verdict::Proven => json!({ "proven": true }),
        Verdict::Mismatch { device, place } => {
            json!({ "proven": false, "device": device, "place": place.to_string() })
        }
    };
    let mut document = json!({
        "transcript": hex::encode(report.digest),
        "signer": report.signer.to_string(),
        "provider": report.provider.to_string(),
        "lease": Uuid::from_bytes(report.lease).to_string(),
        "block": { "number": report.block_number, "hash": hex::encode(report.block_hash) },
        "verdict": verdict,
        "sampled": { "rows": report.sampled_rows, "walks": report.sampled_walks },
        "plot_bytes": measured.plot_bytes,
        "operations": measured.operations,
        "walk_bytes": measured.walk_bytes,
        "legs": {
            "link": leg_value(link),
            "copy": leg_value(copy),
            "net_down": leg_value(net_down),
            "net_up": leg_value(net_up),
        },
        "signers_word": {
            "set_up_at_unix_ms": report.set_up_at.get(),
            "rtt_min_ns": times.rtt_min_ns,
            "fill_ns": measured.fill_ns,
            "walk_ns": measured.walk_ns,
            "operations_per_second": measured.operations_per_second,
            "walk_bytes_per_second": measured.walk_bytes_per_second,
            "devices": report.claims.iter().map(|claim| &claim.name).collect::<Vec<_>>(),
            "what": SIGNERS_WORD,
        },
    });
    if let Some(products) = audited {
        document["audited_products"] = products.into();
    }
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSCRIPT: &str = include_str!("../../../proof/testdata/transcript-v2.hex");

    fn verify(bytes: &[u8], form: &str) -> (anyhow::Result<()>, String) {
        let (json, audit) = (form != "text", form == "json, audited");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut out = Vec::new();
        let ended = run(&VerifyArgs { file: file.path().to_owned(), json, audit }, &mut out);
        (ended, String::from_utf8(out).unwrap())
    }

    /// A good transcript must be shown with the proven and the merely said apart; a changed one must not be shown at all.
    #[test]
    fn a_transcript_is_shown_or_refused() {
        let mut bytes = hex::decode(TRANSCRIPT.trim()).unwrap();
        let (ended, text) = verify(&bytes, "text");
        assert!(ended.is_ok(), "{ended:?}");
        assert!(text.contains("proven: every sampled row"), "{text}");
        assert!(text.contains("only the signer's word"), "{text}");
        for leg in ["\nlink ", "\ncopy ", "\nnet down ", "\nnet up "] {
            assert!(text.contains(leg), "{leg}: {text}");
        }
        let (ended, text) = verify(&bytes, "json");
        assert!(ended.is_ok(), "{ended:?}");
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["verdict"]["proven"], true);
        assert_eq!(document["plot_bytes"], 2 * 192 * 128);
        let (ended, text) = verify(&bytes, "json, audited");
        assert!(ended.is_ok(), "{ended:?}");
        let audited: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(audited["audited_products"], 2 * 4 * 2);
        assert_eq!(document["legs"]["copy"]["bytes"], 2 * 100 * 128);
        for leg in ["link", "copy", "net_down", "net_up"] {
            assert!(document["legs"][leg]["bytes_per_second"].as_u64() > Some(0), "{leg}");
        }
        bytes[100] ^= 1;
        let (ended, text) = verify(&bytes, "text");
        assert!(ended.is_err() && text.is_empty());
    }
}
