//! What a renter asks for beyond the offer's share, from words of the command line to the market's own.
//!
//! Each word is read here once; what it means to the machine is the provider's to check.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use nicompute_market::RuntimeClass;
use nicompute_wire::node::{ConditionsView, OptionsView, PORTS_MAX, TmpfsView, VolumeView};

use crate::exit::{Exit, Failure};
use crate::image_args::bytes;
use crate::market_args::public_half;

/// Wishes beyond the share.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What the lease has beyond its share")]
pub(crate) struct WishArgs {
    /// What runs it: standard, gvisor, kata or sysbox; `nicompute offers` says which ones an offer has.
    #[arg(long, value_name = "CLASS", default_value = "standard")]
    class: RuntimeClass,
    /// `egress` for a way to the public internet; without it the lease reaches the outside through SSH alone.
    #[arg(long, value_name = "NETWORK", default_value = "none", value_parser = ["none", "egress"])]
    network: String,
    /// A TCP port of yours inside that others reach at the provider's address. Give it once for each, up to 16.
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// A variable for every process; a NAME alone takes the value that it has here, which keeps it out of the command
    /// line. Give it once for each.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// A directory that outlives restarts and is wiped at the lease's end, with its size where it is to be held to one,
    /// such as data:/data:20GiB. Give it once for each.
    #[arg(long = "volume", value_name = "NAME:TARGET[:SIZE]", value_parser = volume)]
    volumes: Vec<VolumeView>,
    /// A memory file system, such as /scratch:2GiB. Give it once for each.
    #[arg(long = "tmpfs", value_name = "TARGET:SIZE", value_parser = tmpfs)]
    tmpfs: Vec<TmpfsView>,
    /// Size of /dev/shm; half of the memory without it.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    shm_size: Option<u64>,
    /// Leave the image's own files as they are.
    #[arg(long)]
    read_only_root: bool,
    /// Let `ssh -A` lend your keys to programs inside: whoever controls the machine can use them meanwhile.
    #[arg(long)]
    forward_agent: bool,
    /// The secret key of a terminal beside your own, whose public half lies beside it as FILE.pub; it is replaced apart
    /// from yours.
    #[arg(long, value_name = "FILE")]
    terminal_key: Option<PathBuf>,
}

impl WishArgs {
    /// The wishes as the market takes them.
    pub(crate) fn options(&self) -> anyhow::Result<OptionsView> {
        if self.ports.len() > PORTS_MAX {
            let what = format!("--port was given {} times", self.ports.len());
            return Err(Failure::new(Exit::Usage, what)
                .hint("a lease has at most 16 ports")
                .into());
        }
        Ok(OptionsView {
            class: (self.class != RuntimeClass::default()).then(|| self.class.to_string()),
            shm_bytes: self.shm_size,
            read_only_root: self.read_only_root,
            volumes: self.volumes.clone(),
            tmpfs: self.tmpfs.clone(),
            environment: environment(&self.environment, here)?,
            ports: self.ports.clone(),
            network: (self.network != "none").then(|| self.network.clone()),
            agent_forwarding: self.forward_agent,
        })
    }

    /// Whether an offer with these conditions can have all of it. What only its machine knows, such as whether a size is
    /// held, its provider says.
    pub(crate) fn fit(&self, conditions: &ConditionsView) -> bool {
        let class = self.class.as_str();
        let has_class = conditions.classes.iter().any(|known| known == class)
            || (conditions.classes.is_empty() && self.class == RuntimeClass::default());
        let has_network =
            self.network == "none" || conditions.network.as_deref() == Some(&*self.network);
        has_class
            && has_network
            && self.ports.len() <= usize::from(conditions.ports_max)
            && (self.volumes.is_empty() || conditions.volumes)
    }

    /// The key of the second slot.
    pub(crate) fn terminal_key(&self) -> anyhow::Result<Option<String>> {
        self.terminal_key.as_deref().map(public_half).transpose()
    }
}

/// A variable of this process.
fn here(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// Names and values. No value is ever part of an error: it may be secret.
fn environment(
    words: &[String],
    here: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let found = here(word).and_then(|value| value.into_string().ok());
                let missing = || {
                    Failure::new(Exit::Usage, format!("--env {word}: no such variable is set here"))
                        .hint("set it before the command, or write --env NAME=VALUE")
                };
                (&**word, found.ok_or_else(missing)?)
            }
        };
        if name.is_empty() {
            return Err(Failure::new(Exit::Usage, "--env has no name before its =")
                .hint("write --env NAME=VALUE")
                .into());
        }
        if all.insert(name.to_owned(), value).is_some() {
            return Err(Failure::new(Exit::Usage, format!("--env names {name} twice"))
                .hint("leave one of them out")
                .into());
        }
    }
    Ok(all)
}

/// `NAME:TARGET` or `NAME:TARGET:SIZE`.
fn volume(text: &str) -> Result<VolumeView, WordError> {
    let (name, rest) = text.split_once(':').ok_or(WordError::Volume)?;
    let (target, size) = match rest.split_once(':') {
        Some((target, size)) => (target, Some(bytes(size).map_err(|_| WordError::Volume)?)),
        None => (rest, None),
    };
    if name.is_empty() || !target.starts_with('/') {
        return Err(WordError::Volume);
    }
    Ok(VolumeView { name: name.to_owned(), target: target.to_owned(), bytes: size })
}

/// `TARGET:SIZE`.
fn tmpfs(text: &str) -> Result<TmpfsView, WordError> {
    let (target, size) = text.split_once(':').ok_or(WordError::Tmpfs)?;
    if !target.starts_with('/') {
        return Err(WordError::Tmpfs);
    }
    let bytes = bytes(size).map_err(|_| WordError::Tmpfs)?;
    Ok(TmpfsView { target: target.to_owned(), bytes })
}

/// A word that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum WordError {
    #[error("expected a name, a path inside and perhaps a size, such as data:/data:20GiB")]
    Volume,
    #[error("expected a path inside and a size, such as /scratch:2GiB")]
    Tmpfs,
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;
    use crate::commands::rent::RentArgs;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        wishes: WishArgs,
    }

    fn options(words: &[&str]) -> anyhow::Result<OptionsView> {
        let words = std::iter::once("rent").chain(words.iter().copied());
        Line::try_parse_from(words)?.wishes.options()
    }

    /// A wish that is lost on its way is a tenant without the wall, the data or the port that it paid for.
    #[test]
    fn every_wish_is_passed_on() {
        assert!(options(&[]).unwrap().is_empty(), "what is not said is not asked");
        let words = "--class gvisor --network egress --port 8080 --port 22 --env A=b=c --env B= \
                     --volume data:/data:20GiB --volume w:/w --tmpfs /scratch:2MiB --shm-size 1GiB \
                     --read-only-root --forward-agent";
        let got = options(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
        let volume = |name: &str, target: &str, bytes| VolumeView {
            name: name.to_owned(),
            target: target.to_owned(),
            bytes,
        };
        let wanted = OptionsView {
            class: Some("gvisor".to_owned()),
            shm_bytes: Some(1 << 30),
            read_only_root: true,
            volumes: vec![volume("data", "/data", Some(20 << 30)), volume("w", "/w", None)],
            tmpfs: vec![TmpfsView { target: "/scratch".to_owned(), bytes: 2 << 20 }],
            environment: [("A", "b=c"), ("B", "")].map(|(a, b)| (a.into(), b.into())).into(),
            ports: vec![8080, 22],
            network: Some("egress".to_owned()),
            agent_forwarding: true,
        };
        assert_eq!(got, wanted);
    }

    /// A mistyped wish would be taken for another one, or for none.
    #[test]
    fn wrong_words_are_refused() {
        for words in [
            ["--class", "runc"],
            ["--network", "host"],
            ["--port", "0"],
            ["--port", "65536"],
            ["--port", "80:8080"],
            ["--env", "=x"],
            ["--volume", "data"],
            ["--volume", "data:relative"],
            ["--volume", ":/data"],
            ["--volume", "data:/data:lots"],
            ["--volume", "data:/data:1GiB:ro"],
            ["--tmpfs", "/scratch"],
            ["--tmpfs", "scratch:1GiB"],
            ["--shm-size", "-1"],
        ] {
            assert!(options(&words).is_err(), "{words:?}");
        }
        let many: Vec<String> = (1..=17).map(|port| format!("--port={port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(options(&many[..16]).is_ok() && options(&many).is_err());
    }

    /// The cheapest offer would be asked for what it does not have, and its refusal would be all that a renter gets.
    #[test]
    fn offers_fit_wishes() {
        let plain = ConditionsView::default();
        let full = ConditionsView {
            classes: vec!["standard".to_owned(), "gvisor".to_owned()],
            volumes: true,
            ports_max: 2,
            network: Some("egress".to_owned()),
            ..ConditionsView::default()
        };
        let strict = ConditionsView { classes: vec!["kata".to_owned()], ..full.clone() };
        let fit = |words: &[&str], conditions: &ConditionsView| {
            let words = std::iter::once("rent").chain(words.iter().copied());
            Line::try_parse_from(words).unwrap().wishes.fit(conditions)
        };
        assert!(fit(&[], &plain) && fit(&[], &full) && !fit(&[], &strict));
        for words in [
            &["--class", "gvisor"][..],
            &["--network", "egress"],
            &["--port", "1", "--port", "2"],
            &["--volume", "a:/a"],
        ] {
            assert!(fit(words, &full) && !fit(words, &plain), "{words:?}");
        }
        assert!(!fit(&["--port", "1", "--port", "2", "--port", "3"], &full));
        assert!(fit(&["--class", "kata"], &strict) && !fit(&["--class", "kata"], &full));
    }

    /// A secret on the command line can be read by everybody on the machine, and one in an error is in a log.
    #[test]
    fn values_can_stay_off_the_command_line() {
        let here = |name: &str| (name == "TOKEN").then(|| OsString::from("secret"));
        let all = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            environment(&words, here)
        };
        assert_eq!(all(&["TOKEN"]).unwrap()["TOKEN"], "secret");
        for words in [&["OTHER"][..], &["A=secret", "A=secret"], &["=secret"]] {
            let error = format!("{:?}", all(words).unwrap_err());
            assert!(!error.contains("secret"), "{error}");
        }
    }

    /// The wishes are part of `nicompute rent`, not only of their own test.
    #[test]
    fn rent_takes_wishes() {
        #[derive(Debug, Parser)]
        struct Rent {
            #[command(flatten)]
            args: RentArgs,
        }
        let parsed = Rent::try_parse_from(["rent", "--port", "80", "--env", "A=b"]).unwrap();
        assert_eq!(parsed.args.wishes.options().unwrap().ports, [80]);
    }
}
