//! `nicompute wallet …` as a user runs it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Keypair, Scheme};
use serde_json::Value;

const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
const ADDRESS: &str = "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV";

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program without a terminal and expects it to succeed.
pub(crate) fn nicompute(arguments: &[&str], input: &str) -> Outcome {
    let outcome = attempt(arguments, input);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
    outcome
}

/// The value of a line `name  value` of the output.
pub(crate) fn line_of(outcome: &Outcome, name: &str) -> String {
    let found = outcome.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name}  ")));
    found.unwrap_or_else(|| panic!("no line {name} in {outcome:?}")).to_owned()
}

/// Runs the program in a session of its own, so that it finds no terminal even where the tests have one.
pub(crate) fn attempt(arguments: &[&str], input: &str) -> Outcome {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut child = Command::new("setsid")
        .arg("--wait")
        .arg(env!("CARGO_BIN_EXE_nicompute"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that refuses early does not read its input.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn in_root<'a>(root: &'a Path, arguments: &[&'a str]) -> Vec<&'a str> {
    let path = ["--wallet.path", root.to_str().unwrap()];
    [&["wallet"], arguments, &path[..]].concat()
}

/// A new wallet must be restorable from the words that were shown, and its files closed to others.
#[test]
fn a_new_key_is_restored_from_its_words() {
    let root = tempfile::tempdir().unwrap();
    let run = |arguments: &[&'static str], input: &str| {
        nicompute(&in_root(root.path(), arguments), input)
    };
    let made = run(&["new-coldkey", "--no-password", "--n-words", "24"], "");
    let words = line_of(&made, "mnemonic");
    assert_eq!(words.split(' ').count(), 24);
    let again = run(&["regen-coldkey", "--no-password", "--wallet.name", "again"], &words);
    assert_eq!(line_of(&again, "coldkey"), line_of(&made, "coldkey"));
    let hot = run(&["new-hotkey", "--wallet.hotkey", "h1"], "");
    let file = root.path().join("words");
    fs::write(&file, line_of(&hot, "mnemonic")).unwrap();
    let arguments =
        ["regen-hotkey", "--wallet.hotkey", "h2", "--mnemonic-file", file.to_str().unwrap()];
    let restored = nicompute(&in_root(root.path(), &arguments), "");
    assert_eq!(line_of(&restored, "hotkey"), line_of(&hot, "hotkey"));
    for file in ["coldkey", "coldkeypub.txt", "hotkeys/h1", "hotkeys/h1pub.txt"] {
        let facts = fs::metadata(root.path().join("default").join(file)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert!(!restored.stdout.contains("mnemonic"), "a restored key shows no words");
}

/// A wrong mnemonic must be named by its position, must not be repeated, and must change nothing.
#[test]
fn a_wrong_mnemonic_is_named_and_not_shown() {
    let root = tempfile::tempdir().unwrap();
    let cases = [
        (
            PHRASE.replace("obey", "obeyed"),
            "word 3 of the mnemonic is not in the English BIP-39 list",
        ),
        (PHRASE.replace("obey", "drive"), "the checksum of the mnemonic does not match"),
        ("bottom drive".to_owned(), "a mnemonic of 2 words, expected 12"),
    ];
    for (phrase, said) in cases {
        let arguments = in_root(root.path(), &["regen-coldkey", "--no-password"]);
        let outcome = attempt(&arguments, &phrase);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{outcome:?}");
        assert!(outcome.stderr.contains("\nhint: "), "{outcome:?}");
        assert!(!outcome.stderr.contains("obey") && !outcome.stderr.contains("lake"));
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

/// A seed or mnemonic on the command line works as with btcli, with a warning; a wrong one is not repeated.
#[test]
fn secrets_in_arguments_are_warned_about() {
    let root = tempfile::tempdir().unwrap();
    let seed = "0xfac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e";
    let arguments = in_root(root.path(), &["regen-coldkey", "--no-password", "--seed", seed]);
    let outcome = nicompute(&arguments, "");
    assert_eq!(line_of(&outcome, "coldkey"), ADDRESS);
    assert!(outcome.stderr.starts_with("warning: --seed"), "{outcome:?}");
    let arguments = in_root(root.path(), &["regen-hotkey", "--mnemonic", PHRASE]);
    let outcome = nicompute(&arguments, "");
    assert_eq!(line_of(&outcome, "hotkey"), ADDRESS);
    assert!(outcome.stderr.starts_with("warning: --mnemonic"), "{outcome:?}");
    let wrong =
        in_root(root.path(), &["regen-hotkey", "--wallet.hotkey", "x", "--seed", "fac7959dbf"]);
    let outcome = attempt(&wrong, "");
    assert_eq!(outcome.code, Some(2));
    assert!(!outcome.stderr.contains("fac7"), "{outcome:?}");
}

/// Making a key twice must not destroy the first one; `--overwrite` replaces it.
#[test]
fn nothing_is_overwritten_unasked() {
    let root = tempfile::tempdir().unwrap();
    let arguments = in_root(root.path(), &["new-hotkey"]);
    let first = line_of(&nicompute(&arguments, ""), "hotkey");
    let refused = attempt(&arguments, "");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is already there") && refused.stderr.contains("\nhint: "));
    let wallet = WalletPath::new(root.path(), "default").unwrap();
    assert_eq!(wallet.load_hotkey("default").unwrap().hotkey().to_string(), first);
    let second = nicompute(&in_root(root.path(), &["new-hotkey", "--overwrite"]), "");
    let now = wallet.load_hotkey("default").unwrap().hotkey().to_string();
    assert_eq!(now, line_of(&second, "hotkey"));
    assert_ne!(now, first);
}

/// Without a terminal a coldkey must not end up unencrypted because nobody could be asked.
#[test]
fn a_password_is_demanded() {
    let root = tempfile::tempdir().unwrap();
    let outcome = attempt(&in_root(root.path(), &["new-coldkey"]), "");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("hint: give --password-file"), "{outcome:?}");
    let short = root.path().join("short");
    fs::write(&short, "1234567\n").unwrap();
    let arguments = ["new-coldkey", "--password-file", short.to_str().unwrap()];
    let outcome = attempt(&in_root(root.path(), &arguments), "");
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(!outcome.stderr.contains("1234567"));
    assert!(!root.path().join("default").exists());
}

/// A wrong address or name must be refused with what is wrong about it.
#[test]
fn bad_names_and_addresses_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let bad: [&[&str]; 4] = [
        &["new-hotkey", "--wallet.name", "../x"],
        &["new-hotkey", "--wallet.hotkey", "a/b"],
        &["regen-coldkeypub", "--ss58", "5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzX"],
        &["new-coldkey", "--no-password", "--n-words", "13"],
    ];
    for arguments in bad {
        let outcome = attempt(&in_root(root.path(), arguments), "");
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

/// The list must be readable by programs, and an absent folder must be said.
#[test]
fn the_list_is_json() {
    let root = tempfile::tempdir().unwrap();
    let none = root.path().join("none");
    let outcome = attempt(&in_root(&none, &["list"]), "");
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    assert!(outcome.stderr.contains("\nhint: "));
    nicompute(&in_root(root.path(), &["regen-coldkeypub", "--ss58", ADDRESS]), "");
    nicompute(&in_root(root.path(), &["regen-hotkey"]), PHRASE);
    let listed = nicompute(&in_root(root.path(), &["list", "--json"]), "");
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let wallet = &listed["wallets"][0];
    assert_eq!(
        (&wallet["name"], &wallet["coldkey"]),
        (&Value::from("default"), &Value::from(ADDRESS))
    );
    assert_eq!((&wallet["secret"], &wallet["problem"]), (&Value::from("absent"), &Value::Null));
    assert_eq!(wallet["hotkeys"][0]["hotkey"], ADDRESS);
    let text = nicompute(&in_root(root.path(), &["list"]), "").stdout;
    assert!(text.contains(ADDRESS) && !text.contains("bottom"), "{text}");
    let hotkey = Keypair::from_mnemonic(PHRASE, Scheme::Sr25519).unwrap();
    assert_eq!(hotkey.account().to_string(), ADDRESS);
}
