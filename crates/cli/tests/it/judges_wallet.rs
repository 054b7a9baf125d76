//! Wallets exchanged both ways with bittensor-wallet 4 and with SDK 11.

use std::fs;
use std::path::Path;

use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Password, Scheme, verify};
use nicompute_market::AccountId;
use serde_json::{Value, json};

use crate::judges::{PYTHON_10, PYTHON_11, ask, python};
use crate::wallet::{line_of, nicompute};

const MESSAGE: &[u8] = b"nicompute wallet exchange";
const PASSWORD: &str = "Wander-Lamp-8-Orchard";

fn field<'a>(found: &'a Value, name: &str) -> &'a str {
    found[name].as_str().unwrap()
}

fn holds(scheme: Scheme, found: &Value, key: &str, signature: &str) -> bool {
    let account: AccountId = field(found, key).parse().unwrap();
    let Some(signature) = found[signature].as_str() else { return found["name"] == "from-seed" };
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature, &mut bytes).unwrap();
    verify(scheme, &account, MESSAGE, &bytes)
}

/// Wallets that Python made: every key must be read here, and sign what Python's keys sign.
fn theirs_are_read(judge: &Path) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let made = ask(judge, "wallet_exchange.py", &["make", path], &Value::Null);
    let listed = nicompute(&["wallet", "list", "--json", "--wallet.path", path], "");
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    for found in made.as_array().unwrap() {
        let name = field(found, "name");
        let wallet = WalletPath::new(root.path(), name).unwrap();
        let password = found["coldkey_password"].as_str();
        let coldkey =
            wallet.load_coldkey(|| password.map(|text| Password::new(text.to_owned()))).unwrap();
        let hotkey = wallet.load_hotkey("default").unwrap();
        assert_eq!(coldkey.account().to_string(), field(found, "coldkey"), "{name}");
        assert_eq!(hotkey.account().to_string(), field(found, "hotkey"), "{name}");
        assert_eq!(wallet.load_coldkeypub().unwrap(), coldkey.coldkey());
        assert!(holds(coldkey.scheme(), found, "coldkey", "coldkey_signature"), "{name}");
        assert!(holds(hotkey.scheme(), found, "hotkey", "hotkey_signature"), "{name}");
        let shown = listed["wallets"].as_array().unwrap();
        let shown = shown.iter().find(|shown| shown["name"] == name).unwrap();
        assert_eq!(shown["coldkey"], found["coldkey"]);
        assert_eq!(shown["hotkeys"][0]["hotkey"], found["hotkey"]);
        let secret = if password.is_some() { "encrypted" } else { "clear" };
        assert_eq!(shown["secret"], secret);
    }
}

/// Wallets that the command line made: Python must read them, with the same addresses, and refuse a wrong password.
fn ours_are_read(judge: &Path) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let password_file = root.path().join("password.txt");
    fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    let password_file = password_file.to_str().unwrap();
    let cases: [(&str, Option<&str>, &[&str]); 3] = [
        ("plain", None, &["--no-password"]),
        ("sealed", Some(PASSWORD), &["--password-file", password_file, "--n-words", "24"]),
        ("edwards", None, &["--no-password", "--crypto-type", "ed25519"]),
    ];
    let (mut asked, mut expected) = (Vec::new(), Vec::new());
    for (name, password, options) in cases {
        let place = ["--wallet.path", path, "--wallet.name", name];
        let cold = nicompute(&[&["wallet", "new-coldkey"], &place[..], options].concat(), "");
        let hot = nicompute(&[&["wallet", "new-hotkey"], &place[..]].concat(), "");
        asked.push(json!({ "name": name, "coldkey_password": password }));
        expected.push([line_of(&cold, "coldkey"), line_of(&hot, "hotkey")]);
    }
    let read = ask(judge, "wallet_exchange.py", &["check", path], &json!(asked));
    for (found, [coldkey, hotkey]) in read.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(
            (field(found, "coldkey"), field(found, "hotkey")),
            (coldkey.as_str(), hotkey.as_str())
        );
        let scheme = if found["name"] == "edwards" { Scheme::Ed25519 } else { Scheme::Sr25519 };
        assert!(holds(scheme, found, "coldkey", "coldkey_signature"), "{found}");
        assert_eq!(found["coldkey_encrypted"], !found["coldkey_password"].is_null());
    }
    assert_eq!(read.as_array().unwrap().len(), expected.len());
}

/// A user of bittensor-wallet 4 must be able to move here and back.
#[test]
fn wallets_are_exchanged_with_bittensor_wallet_4() {
    let Some(judge) = python(PYTHON_10) else { return };
    theirs_are_read(&judge);
    ours_are_read(&judge);
}

/// A user of SDK 11 must be able to move here and back.
#[test]
fn wallets_are_exchanged_with_sdk_11() {
    let Some(judge) = python(PYTHON_11) else { return };
    theirs_are_read(&judge);
    ours_are_read(&judge);
}

/// A password that is typed must not stand on the screen, and must be the one that opens the key.
#[test]
fn a_typed_password_is_hidden_and_right() {
    let Some(judge) = python(PYTHON_11) else { return };
    let root = tempfile::tempdir().unwrap();
    let arguments = ["prompt", env!("CARGO_BIN_EXE_nicompute"), root.path().to_str().unwrap()];
    let typed = ask(&judge, "wallet_exchange.py", &arguments, &Value::Null);
    let wallet = WalletPath::new(root.path(), "typed").unwrap();
    assert_eq!(wallet.load_coldkeypub().unwrap().to_string(), field(&typed[0], "coldkey"));
}
