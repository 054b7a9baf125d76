//! The frame around every daemon: runtime, logs, signals, the ready file, and an orderly end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nicompute_daemon::{CancellationToken, OnError, SharedClock, SystemClock, Tasks, init_logs};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::DaemonArgs;
use crate::exit::{Exit, Failure};

/// The file in a state folder that says where a daemon can be reached; there only while it is ready.
pub(crate) const READY_FILE: &str = "ready.json";
/// How long background work may take to end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// What a daemon starts with.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) folder: PathBuf,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
}

/// Runs a daemon: `start` brings it up and returns its addresses and what must be done at the end; then it works until a
/// signal, the end of standard input (if so asked), or the failure of a task that it cannot do without.
pub(crate) fn run<S, F, E, G>(name: &str, args: &DaemonArgs, start: S) -> anyhow::Result<()>
where
    S: FnOnce(Setting) -> F,
    F: Future<Output = anyhow::Result<(Value, E)>>,
    E: FnOnce() -> G,
    G: Future<Output = anyhow::Result<()>>,
{
    init_logs(args.filter(), args.log_format()).map_err(|error| {
        Failure::new(Exit::Config, "--log is not a filter")
            .because(error)
            .hint("for example --log info")
    })?;
    raise_descriptor_limit();
    let folder = args.folder(name)?;
    create_private(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let exit_with_stdin = args.exit_with_stdin;
    runtime.block_on(async move {
        let setting = Setting { folder, clock: SystemClock::shared(), tasks: Tasks::new() };
        let tasks = setting.tasks.clone();
        let ready_file = setting.folder.join(READY_FILE);
        let (addresses, end) = Box::pin(start(setting)).await?;
        let stop = CancellationToken::new();
        watch_for_signals(&stop, &tasks)?;
        if exit_with_stdin {
            watch_stdin(&stop)?;
        }
        write_atomically(&ready_file, &addresses.to_string())?;
        tracing::info!(%addresses, "ready");
        tokio::select! {
            () = stop.cancelled() => {}
            () = tasks.token().cancelled() => {}
        }
        remove_if_there(&ready_file)?;
        let ended = Box::pin(end()).await;
        let in_time = tasks.shutdown(SHUTDOWN_MAX).await;
        tracing::info!(in_time, "stopped");
        ended?;
        let failed = tasks.status().into_iter().find_map(|(task, status)| match status {
            nicompute_daemon::TaskStatus::Failed(why) => Some(format!("{task}: {why}")),
            nicompute_daemon::TaskStatus::Running | nicompute_daemon::TaskStatus::Done => None,
        });
        match failed {
            Some(why) if !in_time => Err(Failure::new(Exit::Failed, why).into()),
            _ => Ok(()),
        }
    })
}

/// Takes all the descriptors that the system allows this process. The usual number dates from the days of `select`, and
/// eight leases full of clients are more. Without them the daemon works within what it has.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let given = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: given.maximum, ..given }) {
        tracing::warn!(%error, ?given, "the limit of open files stays as it is");
    }
}

/// Cancels `stop` at a signal. The tasks still run then, so that the daemon can end its work in good order before they are
/// stopped.
fn watch_for_signals(stop: &CancellationToken, tasks: &Tasks) -> anyhow::Result<()> {
    let token = stop.clone();
    let over = tasks.token().clone();
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tasks.spawn("signals", OnError::Log, async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = over.cancelled() => {}
        }
        token.cancel();
        Ok(())
    });
    Ok(())
}

/// Cancels `stop` at the end of standard input.
fn watch_stdin(stop: &CancellationToken) -> anyhow::Result<()> {
    let token = stop.clone();
    // A blocking read cannot be cancelled, so it has a thread of its own that dies with the process.
    let watcher = std::thread::Builder::new().name("stdin".to_owned());
    watcher.spawn(move || {
        let mut sink = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut sink), Ok(count) if count > 0) {}
        token.cancel();
    })?;
    Ok(())
}

/// Makes a folder that only its owner can enter.
pub(crate) fn create_private(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Failure::new(Exit::Config, format!("cannot make the folder {}", folder.display()))
            .because(error)
            .hint("choose another one with --state-dir or --dir")
            .into()
    })
}

/// Writes a file so that a reader sees all of it or none.
pub(crate) fn write_atomically(path: &Path, text: &str) -> anyhow::Result<()> {
    write_bytes_atomically(path, text.as_bytes())
}

/// The same with any bytes.
pub(crate) fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    let mut file = fs::File::create(&next).with_context(|| format!("create {}", next.display()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path).with_context(|| format!("replace {}", path.display()))
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};

    /// A node with the usual 1024 descriptors locks everybody out as soon as eight leases are full of clients.
    #[test]
    fn a_daemon_takes_all_descriptors_that_it_may_have() {
        super::raise_descriptor_limit();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
