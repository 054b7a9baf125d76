//! A client of others as a process that answers line by line.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::scene::Scene;

/// How long one operation of a judge may take: some wait for several blocks, and start Python anew.
const ANSWER_LIMIT: Duration = Duration::from_secs(150);

/// Lines of a judge's words that are repeated when something failed.
const COMPLAINTS_SHOWN: usize = 25;

/// The running client.
#[derive(Debug)]
pub(super) struct Judge {
    /// What it says about itself.
    pub(super) version: String,
    /// The version key that it puts on weights whatever it is told.
    pub(super) version_key: Option<u64>,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    home: tempfile::TempDir,
}

/// What a client did with a question.
#[derive(Debug)]
pub(super) enum Answer {
    /// It sent something or read something.
    Did(Value),
    /// It cannot do that.
    NotOffered(String),
    /// It could, and did not.
    Failed(String),
}

impl Judge {
    /// Starts `conformance.py` with a home folder of its own, since the SDKs keep caches there.
    pub(super) async fn start(python: &Path, client: &str, scene: &Scene) -> Self {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/judges/conformance.py");
        let home = tempfile::tempdir().unwrap();
        let errors = std::fs::File::create(home.path().join("stderr.txt")).unwrap();
        let mut child = Command::new(python)
            .arg(script)
            .arg(client)
            .arg(&scene.url)
            .arg(scene.wallets())
            .arg(super::scene::WALLET)
            .env("HOME", home.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("BT_NO_PARSE_CLI_ARGS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (version, version_key) = (String::new(), None);
        let mut judge = Self { version, version_key, child, stdin, lines, home };
        let hello = judge.answer("start").await;
        judge.version_key = hello["version_key"].as_u64();
        judge.version = hello["version"].as_str().unwrap_or("no version").to_owned();
        judge
    }

    /// Asks it to send or to read something.
    pub(super) async fn ask(&mut self, act: &str, name: &str, with: &Value) -> Answer {
        let question = format!("{}\n", json!({ "act": act, "name": name, "with": with }));
        self.stdin.write_all(question.as_bytes()).await.unwrap();
        let answer = self.answer(name).await;
        if let Some(why) = answer["not_offered"].as_str() {
            return Answer::NotOffered(why.to_owned());
        }
        if let Some(why) = answer["failed"].as_str() {
            return Answer::Failed(format!("{why}\n{}", self.complaints()));
        }
        Answer::Did(answer)
    }

    /// Closes its input and waits for its end.
    pub(super) async fn end(self) {
        let Self { mut child, stdin, lines, home, .. } = self;
        drop((stdin, lines));
        // Some versions keep threads of their own that do not end; they are killed with the handle.
        drop(tokio::time::timeout(Duration::from_secs(10), child.wait()).await);
        drop(home);
    }

    async fn answer(&mut self, about: &str) -> Value {
        let line = tokio::time::timeout(ANSWER_LIMIT, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{about}: no answer\n{}", self.complaints()));
        let line = line.unwrap().unwrap_or_else(|| panic!("{about}: ended\n{}", self.complaints()));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{about}: {error}: {line}"))
    }

    /// The end of what it said besides its answers.
    fn complaints(&self) -> String {
        let text = std::fs::read_to_string(self.home.path().join("stderr.txt")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(COMPLAINTS_SHOWN)..].join("\n")
    }
}
