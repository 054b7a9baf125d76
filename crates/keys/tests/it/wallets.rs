//! Wallet folders on a real disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nicompute_keys::wallet::{Secrecy, WalletPath, list};
use nicompute_keys::{
    Existing, KeyfileError, Keypair, Password, Public, Refused, Scheme, WriteError,
};

fn wallet(root: &Path) -> WalletPath {
    WalletPath::new(root, "default").unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A daemon must come up with a hotkey and the public coldkey on a machine that never had the coldkey.
#[test]
fn a_daemon_needs_no_coldkey() {
    let root = tempfile::tempdir().unwrap();
    let wallet = wallet(root.path());
    let (cold, hot) = (Keypair::generate(Scheme::Sr25519), Keypair::generate(Scheme::Sr25519));
    let public = Public { account: cold.account(), scheme: cold.scheme() };
    wallet.write_coldkeypub(&public, Existing::Refuse).unwrap();
    wallet.write_hotkey("default", &hot, None, Existing::Refuse).unwrap();
    assert_eq!(wallet.load_coldkeypub().unwrap(), cold.coldkey());
    assert_eq!(wallet.load_hotkey("default").unwrap().hotkey(), hot.hotkey());
    let missing = wallet.load_coldkey(|| panic!("no password is needed for nothing")).unwrap_err();
    assert!(matches!(missing, KeyfileError::Missing { .. }) && missing.hint().is_some());
}

/// Key files that other users can read are stolen keys.
#[test]
fn files_and_folders_are_private() {
    let root = tempfile::tempdir().unwrap();
    let wallet = WalletPath::new(&root.path().join("deep/wallets"), "w").unwrap();
    let pair = Keypair::generate(Scheme::Sr25519);
    wallet.write_coldkey(&pair, None, Existing::Refuse).unwrap();
    wallet.write_hotkey("h", &pair, None, Existing::Refuse).unwrap();
    let hotkey = wallet.hotkey_file("h").unwrap();
    for file in [wallet.coldkey_file(), wallet.coldkeypub_file(), hotkey.clone()] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    for dir in [wallet.dir(), hotkey.parent().unwrap(), &root.path().join("deep")] {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
    }
}

/// Making a wallet twice must not destroy the first one, nor half of it.
#[test]
fn nothing_is_overwritten_unasked() {
    let root = tempfile::tempdir().unwrap();
    let wallet = wallet(root.path());
    let (one, two) = (Keypair::generate(Scheme::Sr25519), Keypair::generate(Scheme::Sr25519));
    wallet.write_coldkey(&one, None, Existing::Refuse).unwrap();
    let again = wallet.write_coldkey(&two, None, Existing::Refuse).unwrap_err();
    assert!(matches!(&again, WriteError::Exists { path } if *path == wallet.coldkey_file()));
    assert!(again.hint().is_some());
    // Only the public half is there: the secret of another key must not be put beside it.
    fs::remove_file(wallet.coldkey_file()).unwrap();
    let beside = wallet.write_coldkey(&two, None, Existing::Refuse).unwrap_err();
    assert!(matches!(&beside, WriteError::Exists { path } if *path == wallet.coldkeypub_file()));
    assert!(!wallet.coldkey_file().exists());
    // The secret of that very key may come back.
    wallet.write_coldkey(&one, None, Existing::Refuse).unwrap();
    wallet.write_coldkey(&two, None, Existing::Replace).unwrap();
    assert_eq!(wallet.load_coldkeypub().unwrap(), two.coldkey());
    assert_eq!(wallet.load_coldkey(|| None).unwrap().coldkey(), two.coldkey());
}

/// Of two programs that make the same hotkey at once one must win, and both files must be its.
#[test]
fn pairs_of_files_belong_together_after_a_race() {
    let root = tempfile::tempdir().unwrap();
    let wallet = wallet(root.path());
    let wins: Vec<Keypair> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let pair = Keypair::generate(Scheme::Sr25519);
                    wallet.write_hotkey("h", &pair, None, Existing::Refuse).ok().map(|()| pair)
                })
            })
            .collect();
        writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
    });
    let [winner] = wins.as_slice() else { panic!("{} writers won", wins.len()) };
    assert_eq!(wallet.load_hotkey("h").unwrap().account(), winner.account());
    let stated = fs::read_to_string(wallet.hotkeypub_file("h").unwrap()).unwrap();
    assert!(stated.contains(&winner.account().to_string()));
    let dir = wallet.dir().join("hotkeys");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 2, "a temporary file was left");
}

/// An encrypted coldkey must open with its password only; nothing may ask for one where none is needed.
#[test]
fn an_encrypted_coldkey_needs_its_password() {
    let root = tempfile::tempdir().unwrap();
    let wallet = wallet(root.path());
    let pair = Keypair::generate(Scheme::Sr25519);
    let password = Password::new("Correct-Horse-9".to_owned());
    wallet.write_coldkey(&pair, Some(&password), Existing::Refuse).unwrap();
    let bytes = fs::read(wallet.coldkey_file()).unwrap();
    assert!(bytes.starts_with(b"$NACL"));
    let refused = |error| match error {
        KeyfileError::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let none = wallet.load_coldkey(|| None).unwrap_err();
    assert_eq!(refused(none), Refused::PasswordNeeded);
    let wrong = wallet.load_coldkey(|| Some(Password::new("wrong".to_owned()))).unwrap_err();
    assert_eq!(refused(wrong), Refused::WrongPassword);
    assert_eq!(wallet.load_coldkeypub().unwrap(), pair.coldkey());
    let opened = wallet.load_coldkey(|| Some(password)).unwrap();
    assert_eq!((opened.coldkey(), opened.mnemonic()), (pair.coldkey(), pair.mnemonic()));
}

/// A name from outside must never reach a file outside of the wallet folder.
#[test]
fn names_stay_inside() {
    let root = tempfile::tempdir().unwrap();
    for bad in
        ["", ".", "..", "a/b", "../x", "/etc", ".hidden", "a\0b", "a\nb", "\u{1b}[2J", "xpub.txt"]
    {
        assert!(WalletPath::new(root.path(), bad).is_err(), "{bad:?}");
        assert!(wallet(root.path()).hotkey_file(bad).is_err(), "{bad:?}");
    }
    assert!(WalletPath::new(root.path(), &"n".repeat(200)).is_ok());
    assert!(WalletPath::new(root.path(), &"n".repeat(201)).is_err());
    let long = wallet(root.path());
    let pair = Keypair::generate(Scheme::Sr25519);
    long.write_hotkey(&"n".repeat(200), &pair, None, Existing::Refuse).unwrap();
}

/// The list must show every wallet, say what is encrypted, and go on past a broken one.
#[test]
fn the_list_is_complete() {
    let root = tempfile::tempdir().unwrap();
    let pair = Keypair::generate(Scheme::Sr25519);
    let good = WalletPath::new(root.path(), "good").unwrap();
    good.write_coldkey(&pair, None, Existing::Refuse).unwrap();
    good.write_hotkey("a", &pair, None, Existing::Refuse).unwrap();
    fs::write(good.hotkey_file("b").unwrap(), "junk").unwrap();
    fs::write(good.dir().join("hotkeys/.x.tmp"), "").unwrap();
    // As wallet 3 leaves it: no public files.
    let old = WalletPath::new(root.path(), "old").unwrap();
    old.write_coldkey(&pair, None, Existing::Refuse).unwrap();
    fs::remove_file(old.coldkeypub_file()).unwrap();
    let sealed = WalletPath::new(root.path(), "sealed").unwrap();
    fs::create_dir(sealed.dir()).unwrap();
    fs::write(sealed.coldkey_file(), "$NACL").unwrap();
    fs::write(root.path().join("a-file"), "").unwrap();

    let found = list(root.path()).unwrap();
    let names: Vec<_> = found.iter().map(|wallet| wallet.name.as_str()).collect();
    assert_eq!(names, ["good", "old", "sealed"]);
    assert_eq!(*found[0].coldkey.as_ref().unwrap(), pair.coldkey());
    let hotkeys: Vec<_> =
        found[0].hotkeys.iter().map(|hot| (hot.name.as_str(), hot.hotkey.is_ok())).collect();
    assert_eq!(hotkeys, [("a", true), ("b", false)]);
    assert_eq!(*found[1].coldkey.as_ref().unwrap(), pair.coldkey());
    assert_eq!((found[1].secret, found[2].secret), (Secrecy::Clear, Secrecy::Encrypted));
    assert!(found[2].coldkey.is_err());
    assert!(list(&root.path().join("none")).is_err());
}
