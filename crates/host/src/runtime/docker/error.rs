//! Why an engine cannot be used, with what an operator can do about it.

use std::path::PathBuf;

use bollard::errors::Error as EngineError;
use nicompute_market::RuntimeClass;

use super::super::RuntimeError;
use super::classes::ClassRefusal;
use super::image::ImageError;

/// Why the engine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No socket was found.
    #[error("no engine listens at any of {}", tried.join(", "))]
    NoSocket {
        /// Where we looked.
        tried: Vec<String>,
    },
    /// The socket belongs to others.
    #[error("this user may not use {}", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The engine did not answer, or not as an engine does.
    #[error("the engine at {} does not answer as it should", path.display())]
    Engine {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: EngineError,
    },
    /// The engine said nothing at all.
    #[error("the engine at {} does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The engine's interface lacks what a lease needs.
    #[error("the engine at {} speaks version {api} of its interface, 1.41 is needed", path.display())]
    TooOld {
        /// The socket.
        path: PathBuf,
        /// The newest version that both sides speak.
        api: String,
    },
    /// Containers may ask the kernel for anything.
    #[error("the engine does not filter its containers' system calls")]
    NoFilter,
    /// A name in the configuration is none.
    #[error("{name:?} is not an image's name")]
    ImageName {
        /// The name.
        name: String,
    },
    /// The image for trials could not be made.
    #[error("the image for trials cannot be made")]
    TrialImage(#[source] ImageError),
    /// A trial could not be made or cleared away.
    #[error("the engine cannot be tried")]
    Trial(#[source] RuntimeError),
    /// A class that the configuration names does not work here.
    #[error("the class {class} cannot be offered: {}", refusal.what)]
    Class {
        /// The class.
        class: RuntimeClass,
        /// Why.
        refusal: ClassRefusal,
    },
}

impl DockerError {
    /// What an operator can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoSocket { .. } => {
                "install and start Docker (apt-get install docker.io), or use --runtime sandbox"
            }
            Self::NotAllowed { .. } => {
                "add this user to the group docker and log in again, or use --runtime sandbox"
            }
            Self::Engine { .. } | Self::Silent { .. } | Self::TrialImage(_) | Self::Trial(_) => {
                "check the engine with `docker info`, or use --runtime sandbox"
            }
            Self::TooOld { .. } => "install Docker 20.10 or later, or use --runtime sandbox",
            Self::NoFilter => {
                "start the engine without --seccomp-profile=unconfined, on a kernel with seccomp"
            }
            Self::ImageName { .. } => "write [REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST]",
            Self::Class { refusal, .. } => refusal.remedy,
        }
    }
}
