//! Programs of others that judge ours: Python with Bittensor's packages. A test whose judge is missing says so loudly, and
//! fails where judges are demanded.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// bittensor 9.0.0 with the packages that the original pins.
pub(crate) const PYTHON_9: &str = "NICOMPUTE_TEST_PY9";
/// bittensor 10 with bittensor-wallet 4 and btcli 9.
pub(crate) const PYTHON_10: &str = "NICOMPUTE_TEST_PY10";
/// bittensor 11.
pub(crate) const PYTHON_11: &str = "NICOMPUTE_TEST_PY11";
const STRICT: &str = "NICOMPUTE_TEST_STRICT";
/// No judge works longer on a busy machine; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// The interpreter that a variable names; `None`, after saying so, where there is none.
pub(crate) fn python(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        let strict = std::env::var_os(STRICT).is_some_and(|value| value == "1");
        assert!(!strict, "{variable} names no Python interpreter, and {STRICT}=1 demands one");
        eprintln!("SKIPPED: {variable} names no Python interpreter");
    }
    found
}

/// Runs a judge of `tests/judges` with a home of its own and gives the JSON of its last line.
pub(crate) fn ask(python: &Path, script: &str, arguments: &[&str], input: &Value) -> Value {
    let home = tempfile::tempdir().unwrap();
    let judges = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/judges");
    #[expect(clippy::disallowed_methods, reason = "the judge is another program")]
    let mut child = Command::new(python)
        .arg(judges.join(script))
        .args(arguments)
        .env("HOME", home.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let said = whole(child.stdout.take().unwrap());
    let complained = whole(child.stderr.take().unwrap());
    let in_time = said.recv_timeout(PATIENCE);
    if in_time.is_err() {
        drop(child.kill());
    }
    let status = child.wait().unwrap();
    let complained = complained.recv_timeout(PATIENCE).unwrap_or_default();
    let Ok(said) = in_time else {
        panic!("{script} {arguments:?} came to no end\n{complained}");
    };
    assert!(status.success(), "{script} {arguments:?}\n{said}\n{complained}");
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}\n{said}\n{complained}"))
}

/// Everything that a program writes until it ends.
fn whole(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (give, said) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(from.read_to_end(&mut bytes));
        drop(give.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    said
}
