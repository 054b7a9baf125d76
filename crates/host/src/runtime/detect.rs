//! Chooses a runtime for this machine, or says what stands in the way of each.

use std::sync::Arc;

use nicompute_daemon::SharedClock;

use super::docker::{Docker, DockerError};
use super::sandbox::{Sandbox, SandboxError};
use super::{Rootfs, Runtime, RuntimeConfig};

/// Which runtime is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Whatever works. On the local market, where the machine's own root is the image, the sandbox first, since it needs no
    /// image; elsewhere the engine first, since it can do more.
    Auto,
    /// The engine or nothing.
    Docker,
    /// The embedded runtime or nothing.
    Sandbox,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The engine was asked for and cannot be used.
    #[error("docker cannot be used")]
    Docker(#[source] DockerError),
    /// The embedded runtime was asked for and cannot be used.
    #[error("the sandbox cannot be used")]
    Sandbox(#[source] SandboxError),
    /// Neither can be used. The sandbox's reason is the source.
    #[error("no runtime can be used; docker: {}", nicompute_daemon::ErrorChain(docker))]
    Neither {
        /// The engine's reason.
        docker: Box<DockerError>,
        /// The embedded runtime's reason.
        #[source]
        sandbox: Box<SandboxError>,
    },
}

impl DetectError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Docker(error) => error.remedy(),
            Self::Sandbox(error) => error.remedy(),
            Self::Neither { sandbox, .. } => sandbox.remedy(),
        }
    }
}

/// Finds the runtime that is wanted and works.
///
/// # Errors
/// Why none does, with a remedy.
pub async fn detect(
    choice: Choice,
    config: &RuntimeConfig,
    clock: &SharedClock,
) -> Result<Arc<dyn Runtime>, DetectError> {
    let sandbox = || Box::pin(Sandbox::detect(config.clone(), SharedClock::clone(clock)));
    let docker = || Box::pin(Docker::detect(config.clone(), SharedClock::clone(clock)));
    match choice {
        Choice::Sandbox => Ok(Arc::new(sandbox().await.map_err(DetectError::Sandbox)?)),
        Choice::Docker => Ok(Arc::new(docker().await.map_err(DetectError::Docker)?)),
        Choice::Auto if config.rootfs == Some(Rootfs::Host) => match sandbox().await {
            Ok(found) => Ok(Arc::new(found)),
            Err(sandbox) => match docker().await {
                Ok(found) => Ok(Arc::new(found)),
                Err(docker) => Err(neither(docker, sandbox)),
            },
        },
        Choice::Auto => match docker().await {
            Ok(found) => Ok(Arc::new(found)),
            Err(docker) => match sandbox().await {
                Ok(found) => Ok(Arc::new(found)),
                Err(sandbox) => Err(neither(docker, sandbox)),
            },
        },
    }
}

fn neither(docker: DockerError, sandbox: SandboxError) -> DetectError {
    DetectError::Neither { docker: Box::new(docker), sandbox: Box::new(sandbox) }
}
