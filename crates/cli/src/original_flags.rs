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
    ("blacklist.exploiters", "leave it out, or name them: --axon.v190 --blacklist.hotkeys SS58,…"),
    ("validator.*", "leave it out: a validator's rounds have no batches and no whitelists"),
    ("miner.hashcat.*", "leave it out: no hashes are cracked any more"),
    ("miner.whitelist.not.updated", "leave it out: the caller's version counts for nothing"),
    ("miner.whitelist.updated.threshold", "leave it out: the caller's version counts for nothing"),
    ("config", "leave it out: every setting is a flag"),
    ("strict", "leave it out: an unknown flag is always an error"),
    ("priority.*", "leave it out: requests are served in the order of their arrival"),
];

/// The same for a validator alone: the original read one set of flags for both of its programs.
const REFUSED_OF_VALIDATORS: [(&str, &str); 5] = [
    (
        "blacklist.*",
        "leave it out: a validator serves no axon, and its API asks for keys (--api-key-file)",
    ),
    (
        "whitelist.*",
        "leave it out: a validator serves no axon, and its API asks for keys (--api-key-file)",
    ),
    ("axon.*", "leave it out: a validator serves no axon; its API has --api.listen"),
    ("ssh.port", "leave it out: only providers are entered by SSH"),
    ("miner.*", "leave it out: it is a provider's flag"),
];

/// Refuses the first flag of the original that a daemon would otherwise not know.
pub(crate) fn check(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let mut arguments = arguments.into_iter().skip(1);
    let daemon = arguments.next();
    let own: &[(&str, &'static str)] = match daemon.as_deref().and_then(OsStr::to_str) {
        Some("miner") => &[],
        Some("validator") => &REFUSED_OF_VALIDATORS,
        _ => return Ok(()),
    };
    for argument in arguments {
        if let Some((name, remedy)) = refused(&argument, own) {
            let what = format!("--{name} is a flag of the original and does nothing here");
            return Err(Failure::new(Exit::Usage, what).hint(remedy).into());
        }
    }
    Ok(())
}

fn refused<'a>(
    argument: &'a OsStr,
    own: &[(&str, &'static str)],
) -> Option<(&'a str, &'static str)> {
    let name = argument.to_str()?.strip_prefix("--")?.split('=').next()?;
    let found = own.iter().chain(&REFUSED).find(|(known, _)| match known.strip_suffix('*') {
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
        for (known, _) in REFUSED_OF_VALIDATORS {
            let flag = format!("--{}", known.replace('*', "hotkeys"));
            assert!(checked(&["validator", &flag]).unwrap_err().contains(&flag), "{flag}");
            assert!(checked(&["miner", &flag]).is_ok(), "{flag}");
        }
        assert!(checked(&["validator", "--api.listen", "--netuid"]).is_ok());
    }
}
