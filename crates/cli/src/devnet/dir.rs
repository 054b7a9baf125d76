//! The one folder of a local market.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::daemons::create_private;
use crate::exit::{Exit, Failure};

/// Marks a folder as ours; held locked while the market runs.
const MARKER: &str = "nicompute-devnet.lock";
/// The longest path that still leaves room for the sockets below it: a Unix socket's address has 107 bytes, and
/// `/miner-NN/leases/<36 characters>/run/gateway.sock` needs 68.
const PATH_LEN_MAX: usize = 107 - 68;

/// A folder that belongs to this process for as long as this value lives.
#[derive(Debug)]
pub(crate) struct MarketDir {
    path: PathBuf,
    is_fresh_default: bool,
    #[expect(dead_code, reason = "holds the lock")]
    lock: File,
}

impl MarketDir {
    /// Takes the given folder, which must be empty, new, or a market's; or makes a fresh one.
    pub(crate) fn take(wanted: Option<&Path>) -> anyhow::Result<Self> {
        let (path, is_fresh_default) = match wanted {
            Some(path) => (std::path::absolute(path)?, false),
            None => (fresh_default()?, true),
        };
        if path.as_os_str().len() > PATH_LEN_MAX {
            let what = format!("--dir {} is longer than {PATH_LEN_MAX} bytes", path.display());
            let why = "sockets below it need the room; choose a shorter one, such as /tmp/market";
            return Err(Failure::new(Exit::Config, what).hint(why).into());
        }
        let is_foreign = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some())
            && !path.join(MARKER).exists();
        if is_foreign {
            let what = format!("--dir {} has files that are not a local market's", path.display());
            return Err(Failure::new(Exit::Config, what)
                .hint("choose an empty or new folder")
                .into());
        }
        create_private(&path)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(path.join(MARKER))
            .with_context(|| format!("open the lock in {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, is_fresh_default, lock }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("--dir {} is in use by another local market", path.display());
                Err(Failure::new(Exit::Config, what)
                    .hint("stop that one, or choose another folder")
                    .into())
            }
            Err(TryLockError::Error(error)) => Err(error).context("lock the folder"),
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes a folder that nobody asked for by name; one that was named stays, so that it can be used again.
    pub(crate) fn leave(self) -> anyhow::Result<()> {
        if self.is_fresh_default {
            fs::remove_dir_all(&self.path)
                .with_context(|| format!("remove {}", self.path.display()))?;
        }
        Ok(())
    }
}

fn fresh_default() -> anyhow::Result<PathBuf> {
    let number = getrandom::u32().map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(std::env::temp_dir().join(format!("nicompute-{number:08x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two markets in one folder would write into each other's chain; a foreign folder would lose its files.
    #[test]
    fn one_market_a_folder() {
        let base = tempfile::Builder::new().prefix("n").tempdir_in("/tmp").unwrap();
        let dir = base.path().join("a");
        let first = MarketDir::take(Some(&dir)).unwrap();
        let refused = MarketDir::take(Some(&dir)).unwrap_err();
        assert!(refused.to_string().contains("in use"), "{refused}");
        first.leave().unwrap();
        MarketDir::take(Some(&dir)).unwrap();

        let foreign = base.path().join("b");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), "x").unwrap();
        let refused = MarketDir::take(Some(&foreign)).unwrap_err();
        assert!(refused.to_string().contains("not a local market's"), "{refused}");

        let long = base.path().join("x".repeat(80));
        assert!(MarketDir::take(Some(&long)).is_err() && !long.exists());
    }
}
