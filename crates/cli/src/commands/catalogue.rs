//! `nicompute catalogue`: shows the classes that are paid for, and signs an edition of one's own.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use nicompute_market::{CATALOGUE_BYTES_MAX, Catalogue, Class, DeviceKind};
use nicompute_validator::{CatalogueOrigin, CatalogueSignError, sign_catalogue};
use serde_json::json;

use crate::args::KeyArgs;
use crate::catalogue_args::{CatalogueArgs, read, signature_file};
use crate::daemons::write_atomically;
use crate::exit::{Exit, Failure};

/// What to do with a catalogue.
#[derive(Debug, Subcommand)]
pub(crate) enum CatalogueCommand {
    /// Show the classes, what each asks for, and what it pays.
    Show(ShowArgs),
    /// Sign a catalogue with a hotkey; writes FILE.sig.
    Sign(SignArgs),
}

/// Options of `nicompute catalogue show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    catalogue: CatalogueArgs,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

/// Options of `nicompute catalogue sign`.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The catalogue.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Does it.
pub(crate) fn run(command: &CatalogueCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        CatalogueCommand::Show(args) => show(args, out),
        CatalogueCommand::Sign(args) => sign(args, out),
    }
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let (catalogue, origin) = args.catalogue.load()?;
    let text = if args.json {
        format!("{:#}\n", document(&catalogue, origin.as_ref()))
    } else {
        lines(&catalogue, origin.as_ref())
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write the catalogue")
}

fn sign(args: &SignArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = read(&args.file, CATALOGUE_BYTES_MAX)?;
    let key = args.keys.load_hotkey()?;
    let signature = sign_catalogue(&text, &key).map_err(|error| {
        let hint = match &error {
            CatalogueSignError::Unusable(_) => "docs/catalogue.md shows the fields of a class",
            CatalogueSignError::Scheme(_) => "take an sr25519 hotkey",
        };
        let what = format!("{} was not signed", args.file.display());
        Failure::new(Exit::Config, what).because(error).hint(hint)
    })?;
    let file = signature_file(&args.file);
    write_atomically(&file, &signature)?;
    writeln!(out, "{} signed by {}", file.display(), key.account())?;
    Ok(())
}

fn sorted(catalogue: &Catalogue) -> Vec<&Class> {
    let mut classes: Vec<&Class> = catalogue.classes.iter().collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.base_score_micro));
    classes
}

fn lines(catalogue: &Catalogue, origin: Option<&CatalogueOrigin>) -> String {
    let signed = origin
        .map_or_else(|| "not signed".to_owned(), |origin| format!("signed by {}", origin.signer));
    let head = format!(
        "version {} ({signed}); {} devices of a machine count, {} points at the top\n\
         {:<26}{:<8}{:>10}{:>12}{:>14}{:>14}\n",
        catalogue.version,
        catalogue.devices_max,
        catalogue.points_top,
        "class",
        "device",
        "base",
        "GiB held",
        "Gop/s",
        "walk GB/s",
    );
    let line = |class: &Class| {
        let kind = match class.device {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
        };
        let base = class.base_score_micro;
        format!(
            "{:<26}{kind:<8}{:>10}{:>12}{:>14}{:>14}\n",
            class.name,
            format!("{}.{:02}", base / 1_000_000, base % 1_000_000 / 10_000),
            class.bytes_min >> 30,
            class.ops_per_second_min / 1_000_000_000,
            class.walk_bytes_per_second_min / 1_000_000_000,
        )
    };
    std::iter::once(head).chain(sorted(catalogue).into_iter().map(line)).collect()
}

fn document(catalogue: &Catalogue, origin: Option<&CatalogueOrigin>) -> serde_json::Value {
    let class = |class: &&Class| {
        json!({
            "name": class.name,
            "device": class.device,
            "reported_names": class.reported_names,
            "base_score_micro": class.base_score_micro,
            "bytes_min": class.bytes_min,
            "ops_per_second_min": class.ops_per_second_min,
            "walk_bytes_per_second_min": class.walk_bytes_per_second_min,
        })
    };
    json!({
        "version": catalogue.version,
        "signer": origin.map(|origin| origin.signer.to_string()),
        "digest": origin.map(|origin| hex::encode(origin.digest)),
        "devices_max": catalogue.devices_max,
        "points_top": catalogue.points_top,
        "classes": sorted(catalogue).iter().map(class).collect::<Vec<_>>(),
        "known_without_class": catalogue
            .known
            .iter()
            .map(|model| json!({ "name": model.name, "reported_names": model.reported_names }))
            .collect::<Vec<_>>(),
    })
}
