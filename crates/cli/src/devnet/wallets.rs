//! The keys of a local market: a wallet for each party, in Bittensor's own layout, so that `btcli` can use them too.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Existing, Keypair, Scheme};
use nicompute_market::{Coldkey, Hotkey};

/// The only hotkey of each wallet.
pub(crate) const HOTKEY: &str = "default";

/// One party.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    /// The wallet's and the daemon's name: `validator-1`, `miner-2`.
    pub(crate) name: String,
    /// The key that the daemon signs with.
    pub(crate) hotkey: Hotkey,
    /// The key that owns it.
    pub(crate) coldkey: Coldkey,
}

/// The folder with all wallets of a market.
pub(crate) fn root(dir: &Path) -> PathBuf {
    dir.join("wallets")
}

/// The party of that name: loaded when the folder has it from an earlier run, made otherwise. Coins of a local chain are worth
/// nothing, so these keys are not encrypted.
pub(crate) fn party(dir: &Path, name: String) -> anyhow::Result<Party> {
    let wallet = WalletPath::new(&root(dir), &name)?;
    if !wallet.coldkeypub_file().exists() {
        let coldkey = Keypair::generate(Scheme::Sr25519);
        wallet.write_coldkey(&coldkey, None, Existing::Refuse)?;
    }
    if !wallet.hotkey_file(HOTKEY)?.exists() {
        wallet.write_hotkey(HOTKEY, &Keypair::generate(Scheme::Sr25519), None, Existing::Refuse)?;
    }
    let hotkey =
        wallet.load_hotkey(HOTKEY).with_context(|| format!("load the hotkey of {name}"))?;
    let coldkey =
        wallet.load_coldkeypub().with_context(|| format!("load the coldkey of {name}"))?;
    Ok(Party { name, hotkey: hotkey.hotkey(), coldkey })
}

/// The secret coldkey of a party, to sign its registration.
pub(crate) fn coldkey(dir: &Path, party: &Party) -> anyhow::Result<Keypair> {
    let wallet = WalletPath::new(&root(dir), &party.name)?;
    wallet.load_coldkey(|| None).with_context(|| format!("load the coldkey of {}", party.name))
}
