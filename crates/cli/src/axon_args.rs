//! Options of the v1.9.0 axon door, with the original's names where it has them.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use nicompute_market::{AccountId, Rao};
use nicompute_miner::{AccessList, AccessListError};

use crate::exit::{Exit, Failure};

/// The stake that the original asks for.
const MIN_STAKE_COINS: u64 = 10_000;
const RAO_PER_COIN: u64 = 1_000_000_000;
/// Bytes of a list that is read; ten thousand lines with reasons are less.
const LIST_BYTES_MAX: u64 = 4 * 1024 * 1024;
const HINT: &str =
    "give SS58 addresses that begin with 5, separated by commas; a list has one a line";

/// Whether the door is open, and to whom.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The v1.9.0 axon door")]
pub(crate) struct AxonArgs {
    /// Serve /Allocate, /Challenge, /Specs and /Synapse to peers that still run the Python code. Their requests do not sign
    /// their body: see docs/axon-v190.md.
    #[arg(long = "axon.v190")]
    v190: bool,
    /// The stake that callers of the door need, in coins.
    #[arg(long = "axon.min_stake", default_value_t = MIN_STAKE_COINS, value_name = "COINS")]
    min_stake: u64,
    /// Callers of the door need no stake.
    #[arg(long = "miner.whitelist.not.enough.stake")]
    any_stake: bool,
    /// Hotkeys that are kept out, of the node API too and whether the door is open or not.
    #[arg(long = "blacklist.hotkeys", value_delimiter = ',', value_name = "SS58,…")]
    blocked_hotkeys: Vec<String>,
    /// Owners whose hotkeys are kept out.
    #[arg(long = "blacklist.coldkeys", value_delimiter = ',', value_name = "SS58,…")]
    blocked_coldkeys: Vec<String>,
    /// A file of hotkeys and coldkeys that are kept out: one a line, a reason behind it if there is one.
    #[arg(long = "blacklist.file", value_name = "FILE")]
    blocked_file: Option<PathBuf>,
    /// Hotkeys that the door lets in without registration and stake, and the node API without a permit.
    #[arg(long = "whitelist.hotkeys", value_delimiter = ',', value_name = "SS58,…")]
    trusted_hotkeys: Vec<String>,
    /// Owners whose hotkeys the door lets in without stake, and the node API without a permit.
    #[arg(long = "whitelist.coldkeys", value_delimiter = ',', value_name = "SS58,…")]
    trusted_coldkeys: Vec<String>,
}

impl AxonArgs {
    /// Whom the door lets in; `None` where it stays shut.
    pub(crate) fn door(&self) -> anyhow::Result<Option<AccessList>> {
        let list = self.read()?;
        if !self.v190 && (self.any_stake || self.min_stake != MIN_STAKE_COINS) {
            let what = "the stake of callers is asked for by the v1.9.0 door alone, and it is shut";
            let hint = "add --axon.v190 to open it, or leave the flags out";
            return Err(Failure::new(Exit::Usage, what).hint(hint).into());
        }
        Ok(self.v190.then_some(list))
    }

    /// Whom every door keeps out or trusts; `None` where nobody is named.
    pub(crate) fn lists(&self) -> anyhow::Result<Option<AccessList>> {
        let list = self.read()?;
        Ok(self.is_anybody_named().then_some(list))
    }

    fn read(&self) -> anyhow::Result<AccessList> {
        let coins = if self.any_stake { 0 } else { self.min_stake };
        let mut list = AccessList::new(Rao(coins.saturating_mul(RAO_PER_COIN)));
        for text in self.trusted_hotkeys.iter().chain(&self.trusted_coldkeys) {
            list.trust(account(text, "--whitelist")?);
        }
        let blocked = [
            (&self.blocked_hotkeys, "Blacklisted hotkey"),
            (&self.blocked_coldkeys, "Blacklisted coldkey"),
        ];
        for (accounts, reason) in blocked {
            for text in accounts {
                list.block(account(text, "--blacklist")?, reason).map_err(refused)?;
            }
        }
        if let Some(file) = &self.blocked_file {
            let unusable = || format!("--blacklist.file: {} cannot be used", file.display());
            let text = read_list(file)
                .map_err(|error| Failure::new(Exit::Config, unusable()).because(error))?;
            list.block_lines(&text, "Suspected exploiter").map_err(|error| {
                Failure::new(Exit::Config, unusable()).because(error).hint(HINT)
            })?;
        }
        Ok(list)
    }

    fn is_anybody_named(&self) -> bool {
        let lists = [
            &self.blocked_hotkeys,
            &self.blocked_coldkeys,
            &self.trusted_hotkeys,
            &self.trusted_coldkeys,
        ];
        self.blocked_file.is_some() || lists.iter().any(|list| !list.is_empty())
    }
}

/// Why a list is not read.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    #[error("it is no file")]
    NoFile,
    #[error("it has more than 4 MiB")]
    TooLong,
    #[error("it is no text")]
    NoText(#[from] std::string::FromUtf8Error),
}

/// Reads no more than a list may have, whatever the file says about its size. A pipe would be waited for.
fn read_list(file: &Path) -> Result<String, ListError> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(ListError::NoFile);
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(LIST_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LIST_BYTES_MAX) {
        return Err(ListError::TooLong);
    }
    Ok(String::from_utf8(bytes)?)
}

fn account(text: &str, flag: &str) -> anyhow::Result<AccountId> {
    let text = text.trim();
    Ok(text.parse().map_err(|error| {
        let what = format!("{flag}: {text} is no address");
        Failure::new(Exit::Config, what).because(error).hint(HINT)
    })?)
}

fn refused(error: AccessListError) -> Failure {
    Failure::new(Exit::Config, "the list of who is kept out cannot be used")
        .because(error)
        .hint(HINT)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nicompute_keys::{Keypair, Scheme};
    use nicompute_miner::{BLOCKED_MAX, MIN_STAKE};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        axon: AxonArgs,
    }

    fn account(uri: &str) -> AccountId {
        Keypair::from_uri(uri, Scheme::Sr25519).unwrap().account()
    }

    fn door(flags: &[&str]) -> anyhow::Result<Option<AccessList>> {
        Line::try_parse_from([&["nicompute"], flags].concat()).unwrap().axon.door()
    }

    fn lists(flags: &[&str]) -> Option<AccessList> {
        let line = Line::try_parse_from([&["nicompute"], flags].concat()).unwrap();
        line.axon.lists().unwrap()
    }

    fn open(flags: &[&str]) -> AccessList {
        door(&[&["--axon.v190"], flags].concat()).unwrap().unwrap()
    }

    fn fails(flags: &[&str]) -> String {
        let error = door(flags).unwrap_err();
        let failure = error.downcast_ref::<Failure>().expect("a failure of the configuration");
        assert!(format!("{failure:?}").contains("Config"), "{failure:?}");
        format!("{error:#}")
    }

    fn list(text: &[u8]) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, text).unwrap();
        (folder, path.to_str().unwrap().to_owned())
    }

    /// A door that nobody opened must be shut, and its stake not be taken as if it kept anybody out; lists must count all the
    /// same, and a list must be that of its flag.
    #[test]
    fn every_flag_means_what_it_says() {
        let (one, two) = (account("//One").to_string(), account("//Two").to_string());
        assert_eq!(door(&[]).unwrap(), None);
        assert_eq!(lists(&[]), None);
        for flag in ["--whitelist.hotkeys", "--blacklist.coldkeys"] {
            assert_eq!(door(&[flag, &one]).unwrap(), None, "the door stays shut");
            let shut = lists(&[flag, &one]);
            assert!(shut.is_some() && shut != Some(AccessList::new(MIN_STAKE)), "{flag}");
            assert_eq!(shut, lists(&["--axon.v190", flag, &one]));
        }
        for ignored in [&["--axon.min_stake", "0"][..], &["--miner.whitelist.not.enough.stake"]] {
            let error = door(ignored).unwrap_err();
            let failure = error.downcast_ref::<Failure>().expect("a failure of the command line");
            assert!(format!("{failure:?}").contains("Usage"), "{ignored:?}: {failure:?}");
        }
        assert_eq!(open(&[]), AccessList::new(MIN_STAKE), "10,000 coins, as 1.9.0");
        assert_eq!(open(&["--axon.min_stake", "3"]), AccessList::new(Rao(3_000_000_000)));
        assert_eq!(open(&["--axon.min_stake", "99999999999"]), AccessList::new(Rao(u64::MAX)));
        let any = AccessList::new(Rao(0));
        assert_eq!(open(&["--miner.whitelist.not.enough.stake"]), any);
        assert_eq!(open(&["--axon.min_stake", "3", "--miner.whitelist.not.enough.stake"]), any);
        let both = format!("{one},{two}");
        let mut trusted = AccessList::new(MIN_STAKE);
        trusted.trust(account("//One"));
        trusted.trust(account("//Two"));
        assert_eq!(open(&["--whitelist.hotkeys", &both]), trusted);
        assert_eq!(open(&["--whitelist.coldkeys", &format!(" {one} , {two}")]), trusted);
        for (flag, reason) in [
            ("--blacklist.hotkeys", "Blacklisted hotkey"),
            ("--blacklist.coldkeys", "Blacklisted coldkey"),
        ] {
            let mut blocked = AccessList::new(MIN_STAKE);
            blocked.block(account("//One"), reason).unwrap();
            blocked.block(account("//Two"), reason).unwrap();
            assert_eq!(open(&[flag, &both]), blocked, "{flag}");
        }
        let (_folder, path) = list(format!("{one} resold # 2025\n{two}\n").as_bytes());
        let mut blocked = AccessList::new(MIN_STAKE);
        blocked.block(account("//One"), "resold").unwrap();
        blocked.block(account("//Two"), "Suspected exploiter").unwrap();
        assert_eq!(open(&["--blacklist.file", &path]), blocked);
    }

    /// A mistake in a list that is passed over lets somebody in; an exit code other than 78 has a daemon started again.
    #[test]
    fn mistakes_are_found_also_where_the_door_is_shut() {
        for flag in ["--whitelist.hotkeys", "--whitelist.coldkeys"] {
            assert!(fails(&[flag, "5nobody"]).contains("--whitelist: 5nobody is no address"));
        }
        for flag in ["--blacklist.hotkeys", "--blacklist.coldkeys"] {
            assert!(fails(&[flag, "5nobody"]).contains("--blacklist: 5nobody is no address"));
        }
        let (folder, path) = list(b"\n5nobody\n");
        let said = fails(&["--blacklist.file", &path]);
        assert!(said.contains(&path) && said.contains("line 2"), "{said}");
        let none = folder.path().join("none");
        assert!(fails(&["--blacklist.file", none.to_str().unwrap()]).contains("cannot be read"));
        let directory = folder.path().to_str().unwrap();
        assert!(fails(&["--blacklist.file", directory]).contains("it is no file"));
        assert!(fails(&["--blacklist.file", "/dev/zero"]).contains("it is no file"));
        let (_folder, path) = list(&[0xff]);
        assert!(fails(&["--blacklist.file", &path]).contains("it is no text"));
        assert!(Line::try_parse_from(["nicompute", "--axon.min_stake", "-1"]).is_err());
    }

    /// A list is bounded by what is read of it and by how many it names.
    #[test]
    fn a_list_is_bounded() {
        let most = usize::try_from(LIST_BYTES_MAX).unwrap();
        let (_folder, path) = list(&vec![b'\n'; most]);
        assert_eq!(open(&["--blacklist.file", &path]), AccessList::new(MIN_STAKE));
        let (_folder, path) = list(&vec![b'\n'; most + 1]);
        assert!(fails(&["--blacklist.file", &path]).contains("more than 4 MiB"));
        let number = |index: usize| {
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&index.to_le_bytes());
            format!("{}\n", AccountId::from_bytes(bytes))
        };
        let text: String = (0..=BLOCKED_MAX).map(number).collect();
        let (_folder, path) = list(text.as_bytes());
        assert!(fails(&["--blacklist.file", &path]).contains("more than 10000 accounts"));
    }
}
