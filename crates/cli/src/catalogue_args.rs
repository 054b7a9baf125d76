//! Which catalogue: the one inside the program, or a file that somebody whom the operator names has signed.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use nicompute_market::{AccountId, CATALOGUE_BYTES_MAX, Catalogue};
use nicompute_validator::{CATALOGUE_SIGNATURE_BYTES_MAX, CatalogueOrigin, open_catalogue};

use crate::exit::{Exit, Failure};

/// Options of the commands that need a catalogue.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CatalogueArgs {
    /// A file with the classes that are paid for, its signature beside it in FILE.sig; the standard ones otherwise.
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Whose signature the file must have.
    #[arg(
        long = "catalogue.signer",
        value_name = "SS58",
        requires = "catalogue",
        conflicts_with = "unsigned"
    )]
    signer: Option<AccountId>,
    /// Use the file without any signature.
    #[arg(long = "catalogue.unsigned", requires = "catalogue", id = "unsigned")]
    unsigned: bool,
}

impl CatalogueArgs {
    /// Reads the catalogue, believes it for its signature or because the caller says so, and says who signed it.
    pub(crate) fn load(&self) -> anyhow::Result<(Catalogue, Option<CatalogueOrigin>)> {
        let Some(file) = &self.catalogue else { return Ok((Catalogue::standard(), None)) };
        let unusable = || format!("--catalogue {} cannot be used", file.display());
        let text = read(file, CATALOGUE_BYTES_MAX)?;
        if self.unsigned {
            let catalogue = Catalogue::parse(&text).map_err(|error| {
                let hint = "docs/catalogue.md shows the fields of a class";
                Failure::new(Exit::Config, unusable()).because(error).hint(hint)
            })?;
            return Ok((catalogue, None));
        }
        let Some(signer) = &self.signer else {
            let what = format!("--catalogue {} without a word about its signature", file.display());
            let hint = "name its signer: --catalogue.signer SS58; or say --catalogue.unsigned";
            return Err(Failure::new(Exit::Usage, what).hint(hint).into());
        };
        let signature = read(&signature_file(file), CATALOGUE_SIGNATURE_BYTES_MAX)?;
        let (catalogue, origin) = open_catalogue(&text, &signature, signer).map_err(|error| {
            let hint = "get catalogue and signature again from the signer; docs/catalogue.md";
            Failure::new(Exit::Config, unusable()).because(error).hint(hint)
        })?;
        Ok((catalogue, Some(origin)))
    }
}

/// Where the signature of a catalogue stands.
pub(crate) fn signature_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// Reads a text file of at most this many bytes.
pub(crate) fn read(file: &Path, bytes_max: usize) -> anyhow::Result<String> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Config, format!("cannot read {}", file.display()))
            .because(error)
            .hint("check the path; a signed catalogue has its signature beside it in FILE.sig")
    };
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    File::open(file).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    if text.len() > bytes_max {
        let what = format!("{} is longer than {bytes_max} bytes", file.display());
        return Err(Failure::new(Exit::Config, what).hint("it is not what was asked for").into());
    }
    Ok(text)
}
