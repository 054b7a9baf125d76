//! Flags of the original program that mean nothing here: each is refused with what to do instead, since a flag that is taken
//! and ignored lets an operator believe that something is on.

use std::ffi::{OsStr, OsString};

use crate::exit::{Exit, Failure};

/// Names without their dashes, or their beginnings where a star ends them, and the remedy.
const REFUSED: [(&str, &str); 14] = [
    ("auto_update", "nothing updates itself here: install a new version and restart"),
    ("auto-update", "nothing updates itself here: install a new version and restart"),
    ("no_version_checking", "leave it out: no version is looked up anywhere"),
    ("logging.record_log", "leave it out and keep standard error: nicompute … 2>> FILE"),
    ("logging.logging_dir", "leave it out and keep standard error: nicompute … 2>> FILE"),
    ("axon.max_workers", "leave it out: requests are bounded by the node's own limits"),
    ("blacklist.exploiters", "leave it out, or name them: --blacklist.hotkeys SS58,…"),
    ("validator.*", "leave it out: a validator's rounds have no batches and no whitelists"),
    ("miner.hashcat.*", "leave it out: no hashes are cracked any more"),
    ("miner.whitelist.not.updated", "leave it out: the caller's version counts for nothing"),
    ("miner.whitelist.updated.threshold", "leave it out: the caller's version counts for nothing"),
    ("config", "leave it out: every setting is a flag"),
    ("strict", "leave it out: an unknown flag is always an error"),
    ("priority.*", "leave it out: requests are served in the order of their arrival"),
];

/// Refuses the first flag of the original that a daemon would otherwise not know.
pub(crate) fn check(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let mut arguments = arguments.into_iter().skip(1);
    let daemon = arguments.next();
    let is_daemon = daemon.as_deref().is_some_and(|word| word == "miner" || word == "validator");
    if !is_daemon {
        return Ok(());
    }
    for argument in arguments {
        if let Some((name, remedy)) = refused(&argument) {
            let what = format!("--{name} is a flag of the original and does nothing here");
            return Err(Failure::new(Exit::Usage, what).hint(remedy).into());
        }
    }
    Ok(())
}

fn refused(argument: &OsStr) -> Option<(&str, &'static str)> {
    let name = argument.to_str()?.strip_prefix("--")?.split('=').next()?;
    let found = REFUSED.iter().find(|(known, _)| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *known,
    });
    found.map(|(_, remedy)| (name, *remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &[&str]) -> Result<(), String> {
        let words = std::iter::once("nicompute").chain(words.iter().copied()).map(OsString::from);
        check(words).map_err(|error| error.to_string())
    }

    /// An operator who moves here with the old start script must be told which flag has no meaning any more.
    #[test]
    fn flags_without_meaning_are_named() {
        for (known, _) in REFUSED {
            let flag = format!("--{}", known.replace('*', "x"));
            assert!(checked(&["miner", &flag]).unwrap_err().contains(&flag), "{flag}");
            assert!(checked(&["validator", &format!("{flag}=1")]).is_err(), "{flag}");
            assert!(checked(&["offers", &flag]).is_ok(), "{flag}");
        }
        for known in ["--netuid", "--logging.debug", "--axon.port", "--blacklist.hotkeys", "config"]
        {
            assert!(checked(&["miner", known]).is_ok(), "{known}");
        }
    }
}
