//! The wallet: whose files they are, who can read them, and whether more lies here than a node needs.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nicompute_daemon::ErrorChain;
use nicompute_keys::wallet::WalletPath;

use super::finding::Finding;
use crate::args::KeyArgs;

const CHECK: &str = "wallet";

/// Never shows more of a key than its address.
pub(super) fn findings(root: &Path, args: &KeyArgs) -> Vec<Finding> {
    let wallet = match WalletPath::new(root, &args.name) {
        Ok(wallet) => wallet,
        Err(error) => return vec![Finding::error(CHECK, ErrorChain(&error).to_string())],
    };
    let mut findings = vec![match wallet.load_hotkey(&args.hotkey) {
        Ok(pair) => Finding::ok(CHECK, format!("the hotkey {} can sign", pair.hotkey())),
        Err(error) => {
            let what = format!("the hotkey cannot be used: {}", ErrorChain(&error));
            Finding::error(CHECK, what)
                .remedy(error.hint().unwrap_or("nicompute wallet new-hotkey"))
        }
    }];
    if let Ok(file) = wallet.hotkey_file(&args.hotkey) {
        findings.extend(access(&file));
    }
    findings.extend(access(wallet.dir()));
    if wallet.coldkey_file().exists() {
        let what = "the coldkey's secret lies on this machine; a node never needs it";
        findings.push(Finding::warning(CHECK, what).remedy(
            "keep coldkey elsewhere; coldkeypub.txt and the hotkey are enough for a provider",
        ));
    }
    findings
}

/// Who else can read or replace a file or folder.
fn access(path: &Path) -> Option<Finding> {
    let link = fs::symlink_metadata(path).ok()?;
    if link.is_symlink() {
        let what = format!("{} is a symbolic link", path.display());
        return Some(Finding::warning(CHECK, what).remedy("put the file itself there"));
    }
    judge(path, &link, rustix::process::geteuid().as_raw())
}

fn judge(path: &Path, meta: &Metadata, me: u32) -> Option<Finding> {
    let shown = path.display();
    if meta.uid() != me {
        let what = format!("{shown} belongs to another user");
        return Some(Finding::error(CHECK, what).remedy(format!("chown {me} {shown}")));
    }
    // Names in a folder are no secret; what may be written into it is.
    let (forbidden, mode) = if meta.is_dir() { (0o022, "700") } else { (0o077, "600") };
    if meta.mode() & forbidden != 0 {
        let what = format!("{shown} is open to other users");
        return Some(Finding::error(CHECK, what).remedy(format!("chmod {mode} {shown}")));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::commands::doctor::finding::Level;

    /// A hotkey that another user can read is another user's hotkey.
    #[test]
    fn files_of_others_and_for_others_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "secret").unwrap();
        let level = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            access(&file).map(|finding| finding.level)
        };
        assert_eq!(level(0o600), None);
        assert_eq!(level(0o640), Some(Level::Error));
        assert_eq!(level(0o602), Some(Level::Error));
        let meta = fs::symlink_metadata(&file).unwrap();
        assert_eq!(judge(&file, &meta, meta.uid() + 1).unwrap().level, Level::Error);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(access(&link).unwrap().level, Level::Warning);
        assert!(access(&dir.path().join("none")).is_none());
    }
}
