//! The daemons of a local market: children of this process that end when it does.
//!
//! Each child reads its standard input, which is a pipe from here: when this process is gone, however it went, the pipe
//! ends and the child stops in good order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::{ChildStdin, Command};

use crate::daemons::{READY_FILE, create_private};
use crate::exit::{Exit, Failure};

/// How long a daemon may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// How long a daemon may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(25);
/// How often the ready file is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when a daemon fails.
const TAIL_LINES: usize = 12;

/// One daemon.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: tokio::process::Child,
    stdin: Option<ChildStdin>,
    folder: PathBuf,
    log: PathBuf,
}

impl Child {
    /// Starts `nicompute <args>` with a state folder `<dir>/<name>` and a log `<dir>/logs/<name>.log`.
    pub(crate) fn start(dir: &Path, name: &str, args: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("find this program's own file")?;
        let folder = dir.join(name);
        create_private(&folder)?;
        let logs = dir.join("logs");
        create_private(&logs)?;
        let log = logs.join(format!("{name}.log"));
        let sink = fs::File::options().create(true).append(true).open(&log)?;
        // A ready file of an earlier run would be taken for this one's.
        match fs::remove_file(folder.join(READY_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new(program);
        command.args(args).arg("--state-dir").arg(&folder).arg("--exit-with-stdin");
        // A Ctrl-C in the terminal is for the parent alone; it ends its children one after the other.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(sink.try_clone()?).stderr(sink);
        let mut process = command.spawn().with_context(|| format!("start {name}"))?;
        let stdin = process.stdin.take();
        Ok(Self { name: name.to_owned(), process, stdin, folder, log })
    }

    /// The daemon's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the daemon says where it can be reached.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Value> {
        let file = self.folder.join(READY_FILE);
        let wait = async {
            loop {
                if let Ok(text) = tokio::fs::read_to_string(&file).await {
                    return serde_json::from_str(&text).context("read the ready file");
                }
                if let Some(status) = self.process.try_wait()? {
                    let what = format!("{} ended with {status} before it was ready", self.name);
                    return Err(Failure::new(Exit::Failed, what).hint(self.log_tail()).into());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(READY_MAX, wait).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let what = format!("{} was not ready within {} s", self.name, READY_MAX.as_secs());
                Err(Failure::new(Exit::Deadline, what).hint(self.log_tail()).into())
            }
        }
    }

    /// Ends the daemon by ending its standard input; kills it when it does not stop in time.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        if tokio::time::timeout(STOP_MAX, self.process.wait()).await.is_err() {
            self.process.kill().await.with_context(|| format!("kill {}", self.name))?;
            let what = format!(
                "{} did not stop within {} s and was killed",
                self.name,
                STOP_MAX.as_secs()
            );
            return Err(Failure::new(Exit::Failed, what).hint(self.log_tail()).into());
        }
        Ok(())
    }

    /// Whether the daemon still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The end of the daemon's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        format!("the end of {}:\n  {}", self.log.display(), tail.join("\n  "))
    }
}
