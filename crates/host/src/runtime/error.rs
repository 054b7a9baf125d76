//! What can go wrong with a container, by who can do something about it.

use std::io;
use std::path::PathBuf;

use nicompute_daemon::Kind;
use nicompute_market::LeaseId;

/// Why a runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The spec asks for something that no runtime gives.
    #[error("lease {lease}: {field} {rule}")]
    InvalidSpec {
        /// The lease.
        lease: LeaseId,
        /// The field of the spec.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The image is not on this machine.
    #[error("image {image:?} is not on this machine")]
    ImageMissing {
        /// The image asked for.
        image: String,
    },
    /// The image may not be used or fetched, or is not made as it must be.
    #[error("image {image:?} {why}")]
    ImageRefused {
        /// The image asked for.
        image: String,
        /// What stands against it.
        why: &'static str,
    },
    /// No registry gives it.
    #[error("image {image:?} is in no registry that answers without credentials")]
    ImageUnknown {
        /// The image asked for.
        image: String,
    },
    /// It is larger than the node lets images be.
    #[error("image {image:?} has at least {bytes} bytes, at most {bytes_max} may be fetched")]
    ImageTooLarge {
        /// The image asked for.
        image: String,
        /// What is known of its size.
        bytes: u64,
        /// The room for it.
        bytes_max: u64,
    },
    /// The registry or the engine gave up on a fetch.
    #[error("image {image:?} cannot be fetched: {reason}")]
    Pull {
        /// The image asked for.
        image: String,
        /// The engine's words, made harmless and short.
        reason: String,
    },
    /// A disk of this machine is full, or would be.
    #[error("{act}: the disk is full")]
    NoSpace {
        /// What needed it.
        act: &'static str,
    },
    /// The kernel does not let go of a container's process.
    #[error("container {name} cannot be ended, its process {init_pid} does not die")]
    Unkillable {
        /// The container's name.
        name: String,
        /// Its first process.
        init_pid: u32,
    },
    /// Something that this runtime or this machine does not offer.
    #[error("{what}")]
    Unsupported {
        /// What is not possible, as a phrase.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The container belongs to a later generation of the lease.
    #[error("lease {lease}: generation {asked} is older than its container's {current}")]
    Superseded {
        /// The lease.
        lease: LeaseId,
        /// The generation that asked.
        asked: u64,
        /// The generation of the container.
        current: u64,
    },
    /// The name is taken by a container that is not this node's.
    #[error("container {name} exists and belongs to another node")]
    Foreign {
        /// The container's name.
        name: String,
    },
    /// There is nothing to pause or resume.
    #[error("lease {lease} has no running container")]
    NotRunning {
        /// The lease.
        lease: LeaseId,
    },
    /// A step of the embedded runtime failed.
    #[error("sandbox: {step} failed")]
    Step {
        /// What it was doing.
        step: String,
        /// What to do about it, where that is known.
        remedy: Option<&'static str>,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The sandbox's helper ended without an answer, or with one that makes no sense.
    #[error("sandbox: the helper process gave no answer ({detail})")]
    Helper {
        /// What it said instead.
        detail: String,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// The act, as a verb.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The engine refused or did not answer.
    #[error("docker: {act} failed")]
    Engine {
        /// What was asked of it.
        act: &'static str,
        /// The cause.
        #[source]
        source: bollard::errors::Error,
    },
    /// It took longer than anything healthy takes.
    #[error("{act} took longer than {limit_s} s")]
    Timeout {
        /// What was waited for.
        act: &'static str,
        /// The limit.
        limit_s: u64,
    },
    /// A failure that a test asked for.
    #[error("the fake runtime was told to fail")]
    Injected,
}

impl RuntimeError {
    /// Who can do something about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::InvalidSpec { .. }
            | Self::ImageMissing { .. }
            | Self::ImageRefused { .. }
            | Self::ImageUnknown { .. }
            | Self::ImageTooLarge { .. }
            | Self::Unsupported { .. }
            | Self::Superseded { .. }
            | Self::Foreign { .. }
            | Self::NotRunning { .. } => Kind::Caller,
            Self::Step { .. }
            | Self::Helper { .. }
            | Self::Io { .. }
            | Self::Engine { .. }
            | Self::Timeout { .. }
            | Self::Pull { .. }
            | Self::NoSpace { .. }
            | Self::Unkillable { .. }
            | Self::Injected => Kind::Elsewhere,
        }
    }

    /// What an operator can do about it, where that is known.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unsupported { remedy, .. } => Some(remedy),
            Self::Step { remedy, .. } => *remedy,
            Self::ImageMissing { .. } | Self::ImageRefused { .. } => {
                Some("ask for one of the images that the offer lists or allows")
            }
            Self::ImageUnknown { .. } => {
                Some("check the name; an image behind a login is put on the engine by its operator")
            }
            Self::ImageTooLarge { .. } => Some("ask for a smaller image, or raise --image.space"),
            Self::NoSpace { .. } => Some("free some room on the engine's disk"),
            Self::Unkillable { .. } => {
                Some("restart the engine, and the machine if the process is still there")
            }
            Self::Foreign { .. } => Some("remove the container by hand if nobody uses it"),
            Self::InvalidSpec { .. }
            | Self::Superseded { .. }
            | Self::NotRunning { .. }
            | Self::Helper { .. }
            | Self::Io { .. }
            | Self::Engine { .. }
            | Self::Timeout { .. }
            | Self::Pull { .. }
            | Self::Injected => None,
        }
    }
}
