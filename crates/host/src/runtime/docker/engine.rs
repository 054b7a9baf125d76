//! The way to the engine: one socket, one version of its interface, and a limit for every question. An engine that hangs
//! holds up nothing but the act that asked it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error as EngineError;
use bollard::models::SystemInfo;
use nicompute_daemon::SharedClock;

use super::super::RuntimeError;
use super::{DockerError, EngineFacts};

/// Where engines listen, in the order in which they are tried.
const SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock"];
/// Where an ordinary user's own engines listen, below the user's runtime directory.
const USER_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];
/// Longest time for an engine to say who it is.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// The library's own limit, which lies above all of ours.
const LIBRARY_LIMIT_S: u64 = 24 * 3600;
/// The oldest interface that knows device requests and private control groups.
const API_MIN: (usize, usize) = (1, 41);

/// Longest time for an answer that needs no work.
pub(super) const ASK: Duration = Duration::from_secs(30);
/// Longest time for making, starting, freezing or thawing a container; a quarter of a second on an idle machine.
pub(super) const ACT: Duration = Duration::from_secs(90);

/// An engine that answers.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    pub(super) client: bollard::Docker,
    pub(super) clock: SharedClock,
    /// The machine's processor cores.
    pub(super) cores: u32,
}

impl Engine {
    /// Finds the engine and asks it who it is.
    pub(super) async fn connect(
        wanted: Option<&Path>,
        clock: &SharedClock,
    ) -> Result<(Self, EngineFacts), DockerError> {
        let path = find_socket(wanted)?;
        let failed = |source| DockerError::Engine { path: path.clone(), source };
        let client = bollard::Docker::connect_with_unix(
            &path.to_string_lossy(),
            LIBRARY_LIMIT_S,
            API_DEFAULT_VERSION,
        )
        .map_err(failed)?;
        let hello = async {
            let client = client.negotiate_version().await?;
            let info: SystemInfo = client.info().await?;
            let version = client.version().await?;
            Ok::<_, EngineError>((client, info, version))
        };
        let (client, info, version) = tokio::select! {
            answered = hello => answered.map_err(failed)?,
            () = clock.sleep(HELLO_LIMIT) => return Err(DockerError::Silent { path }),
        };
        let spoken = client.client_version();
        if (spoken.major_version, spoken.minor_version) < API_MIN {
            let api = format!("{}.{}", spoken.major_version, spoken.minor_version);
            return Err(DockerError::TooOld { path, api });
        }
        let facts = EngineFacts::of(&info, &version);
        let cores = facts.cores;
        Ok((Self { client, clock: SharedClock::clone(clock), cores }, facts))
    }

    /// Waits for an answer, but not for ever. What the engine does after that is found by the next look at it.
    pub(super) async fn within<T>(
        &self,
        act: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, EngineError>> + Send,
    ) -> Result<T, RuntimeError> {
        tokio::select! {
            answered = call => answered.map_err(|source| RuntimeError::Engine { act, source }),
            () = self.clock.sleep(limit) => {
                Err(RuntimeError::Timeout { act, limit_s: limit.as_secs() })
            }
        }
    }
}

/// The engine's refusal as a number, where it refused.
pub(super) const fn status(error: &RuntimeError) -> Option<u16> {
    match error {
        RuntimeError::Engine {
            source: EngineError::DockerResponseServerError { status_code, .. },
            ..
        } => Some(*status_code),
        _ => None,
    }
}

/// The engine's refusal in its own words.
pub(super) fn words(error: &RuntimeError) -> Option<&str> {
    match error {
        RuntimeError::Engine { source, .. } => match source {
            EngineError::DockerResponseServerError { message, .. } => Some(message),
            EngineError::DockerStreamError { error } => Some(error),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the engine's own words contain a phrase, for refusals that have no number of their own.
pub(super) fn says(error: &RuntimeError, phrase: &str) -> bool {
    words(error).is_some_and(|words| words.contains(phrase))
}

/// Whether a disk of the engine is full.
pub(super) fn says_full(error: &RuntimeError) -> bool {
    says(error, "no space left on device") || says(error, "disk quota exceeded")
}

fn places() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let mut places: Vec<PathBuf> = SOCKETS.iter().map(PathBuf::from).collect();
    if !user.is_root() {
        let own = Path::new("/run/user").join(user.as_raw().to_string());
        places.extend(USER_SOCKETS.iter().map(|name| own.join(name)));
    }
    places
}

fn find_socket(wanted: Option<&Path>) -> Result<PathBuf, DockerError> {
    let places = wanted.map_or_else(places, |path| vec![path.into()]);
    let mut refusal = None;
    for path in places.iter().filter(|path| path.exists()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Ok(path.clone()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                refusal = refusal.or_else(|| Some(DockerError::NotAllowed { path: path.clone() }));
            }
            Err(_) => {
                refusal = refusal.or_else(|| Some(DockerError::Silent { path: path.clone() }));
            }
        }
    }
    let tried = || places.iter().map(|path| path.display().to_string()).collect();
    Err(refusal.unwrap_or_else(|| DockerError::NoSocket { tried: tried() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status_code: u16, message: &str) -> RuntimeError {
        let message = message.to_owned();
        let source = EngineError::DockerResponseServerError { status_code, message };
        RuntimeError::Engine { act: "trying", source }
    }

    /// The refusals that an operator can do something about must not look like any other.
    #[test]
    fn known_refusals_are_recognised() {
        let quota = "--storage-opt is supported only for overlay over xfs with 'pquota'";
        assert!(says(&refusal(500, quota), "storage-opt"));
        assert!(says_full(&refusal(500, "write /x: no space left on device")));
        assert!(!says_full(&refusal(500, quota)));
        let gpu = "could not select device driver \"\" with capabilities: [[gpu]]";
        assert_eq!(status(&refusal(404, gpu)), Some(404));
        let stream = EngineError::DockerStreamError { error: "no space left on device".to_owned() };
        assert!(says_full(&RuntimeError::Engine { act: "fetching", source: stream }));
        assert_eq!(status(&RuntimeError::Timeout { act: "x", limit_s: 1 }), None);
    }

    /// A missing engine must be told apart from one that may not be used.
    #[test]
    fn a_missing_socket_is_named() {
        let error = find_socket(Some(Path::new("/nowhere/docker.sock"))).expect_err("no socket");
        assert_eq!(error.to_string(), "no engine listens at any of /nowhere/docker.sock");
        assert!(error.remedy().contains("docker.io"));
        let dir = tempfile::tempdir().expect("dir");
        let left = dir.path().join("docker.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).expect("bind"));
        let error = find_socket(Some(&left)).expect_err("nobody listens");
        assert!(matches!(error, DockerError::Silent { .. }), "{error}");
    }
}
