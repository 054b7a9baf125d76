//! What a provider and a doubter can try by hand: `prove --local`, `verify`, `cheat`, `catalogue`.

use std::fs;
use std::process::Stdio;

use nicompute_keys::wallet::WalletPath;
use nicompute_keys::{Existing, Keypair, Scheme};
use serde_json::Value;

use crate::world::{binary, wait_for};

/// A provider must see what a validator would see, and anybody must be able to check it; a changed byte must not pass.
#[test]
fn a_local_proof_is_verified_and_any_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("transcript");
    let mut command = binary();
    command.args(["prove", "--local", "--small", "--device", "cpu", "--json", "--transcript"]);
    let output = command.arg(&file).env("TMPDIR", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["plot_bytes"], 64 << 20);
    assert_eq!(report["devices"][0]["kind"], "cpu");
    assert_eq!(report["transcript"]["ephemeral_signer"], true);
    for finding in report["findings"].as_array().unwrap() {
        assert!(finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{finding}");
    }
    // Nothing is left behind but the transcript.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let verify = || binary().arg("verify").arg(&file).output().unwrap();
    assert!(verify().status.success());
    let good = fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(good.len() / 24) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(&file, &changed).unwrap();
        let refused = verify();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "byte {at}: {said}");
        assert!(said.contains("does not hold: ") && said.contains("hint: "), "byte {at}: {said}");
    }
}

/// A proof that is stopped must leave no prover that eats the machine, and no file.
#[test]
fn a_stopped_proof_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = binary();
    command.args(["prove", "--local", "--device", "cpu"]).env("TMPDIR", dir.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_there = || fs::read_dir(dir.path()).unwrap().next().map(|_| ());
    wait_for("the prover's folder", is_there);
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Whoever doubts the proof must be able to run each fraud; an unknown name must be said to be unknown.
#[test]
fn cheaters_can_be_run_by_hand() {
    let list = binary().args(["cheat", "--list", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let cheaters = list["cheaters"].as_array().unwrap();
    assert!(cheaters.len() >= 20, "{}", cheaters.len());
    let name = cheaters[0]["name"].as_str().unwrap();
    let caught = binary().args(["cheat", name, "--runs", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&caught.stdout);
    assert!(caught.status.success() && said.contains("refused: ") && said.contains("2 of 2"));
    let unknown = binary().args(["cheat", "nobody"]).output().unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(5));
    assert!(said.contains("nobody") && said.contains("hint: "), "{said}");
}

/// A catalogue decides who is paid: it is used with the signature of the named key, or where somebody says that it has none.
#[test]
fn catalogues_are_believed_for_their_signature() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("catalogue.toml");
    let text = "version = 7\ndevices_max = 8\n[[class]]\nname = 'A'\ndevice = 'gpu'\nbase_score_micro = 1\nbytes_min = 1\n";
    fs::write(&file, text).unwrap();
    let keeper = Keypair::from_seed([5; 32], Scheme::Sr25519);
    let wallet = WalletPath::new(&dir.path().join("wallets"), "keeper").unwrap();
    wallet.write_hotkey("default", &keeper, None, Existing::Refuse).unwrap();
    let show = |signer: &[&str]| {
        let mut command = binary();
        command.args(["catalogue", "show", "--json", "--catalogue"]).arg(&file).args(signer);
        command.output().unwrap()
    };
    let signer = keeper.account().to_string();
    let named = ["--catalogue.signer", &signer];
    assert_eq!(show(&named).status.code(), Some(78), "there is no signature yet");
    let mut sign = binary();
    sign.args(["catalogue", "sign"]).arg(&file).arg("--wallet.path");
    sign.arg(dir.path().join("wallets")).args(["--wallet.name", "keeper"]);
    let signed = sign.output().unwrap();
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    let shown = show(&named);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["version"], shown["signer"].as_str()), (&7.into(), Some(&*signer)));
    assert_eq!(show(&[]).status.code(), Some(2), "neither a signer nor a word that there is none");
    fs::write(&file, text.replace("= 1\n", "= 2\n")).unwrap();
    let changed = show(&named);
    let said = String::from_utf8_lossy(&changed.stderr);
    assert_eq!(changed.status.code(), Some(78));
    assert!(said.contains("does not belong") && said.contains("hint: "), "{said}");
    assert!(show(&["--catalogue.unsigned"]).status.success());
}
