//! Options about images and about what runs them.

use std::sync::Arc;

use clap::Args;
use nicompute_daemon::{ErrorChain, OnError, Tasks};
use nicompute_host::runtime::{
    ImageName, ImagePattern, ImagePolicy, PullProgress, Runtime, RuntimeConfig, RuntimeKind,
};
use nicompute_market::RuntimeClass;
use tokio::sync::watch;

use crate::exit::{Exit, Failure};

/// Largest amount that is taken for a size; more than any machine has.
const BYTES_MAX: u64 = 1 << 50;

/// What may be leased, what may be fetched for it, and behind which wall it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Images and runtimes")]
pub(crate) struct ImageArgs {
    /// An image of this machine's Docker engine that tenants may start; fetched at the start where it is missing. Give it
    /// once for each image.
    #[arg(long = "image", value_name = "NAME")]
    images: Vec<ImageName>,
    /// Images that are fetched when a tenant asks for them: a repository, or everything below a folder of a registry, such
    /// as ghcr.io/you/*. Give it once for each.
    #[arg(long = "image.allow", value_name = "PATTERN")]
    allow: Vec<ImagePattern>,
    /// Room for fetched images; the ones that nobody has used longest are removed first.
    #[arg(long = "image.space", default_value = "200GiB", value_name = "SIZE", value_parser = bytes)]
    space: u64,
    /// Room that stays free on the engine's disk while images are fetched.
    #[arg(long = "image.keep_free", default_value = "20GiB", value_name = "SIZE", value_parser = bytes)]
    keep_free: u64,
    /// A runtime class that leases may have: standard, gvisor, kata or sysbox. Without one, every class that works here;
    /// one that is named and does not work stops the node.
    #[arg(long = "runtime.class", value_name = "CLASS")]
    classes: Vec<RuntimeClass>,
}

impl ImageArgs {
    /// Puts the options into what a runtime is told.
    pub(crate) fn apply(&self, config: &mut RuntimeConfig) {
        config.images = self.names();
        config.image_policy = ImagePolicy {
            allow: self.allow.clone(),
            bytes_max: self.space,
            free_bytes_min: self.keep_free,
            ..ImagePolicy::default()
        };
        config.classes.clone_from(&self.classes);
    }

    /// What the runtime fetches of what tenants ask for.
    pub(crate) fn fetched_by(&self, runtime: &dyn Runtime) -> Vec<ImagePattern> {
        match runtime.kind() {
            RuntimeKind::Docker => self.allow.clone(),
            RuntimeKind::SandboxRoot | RuntimeKind::SandboxUser | RuntimeKind::Fake => Vec::new(),
        }
    }

    /// Refuses a node on which nothing could ever be leased.
    pub(crate) fn check(&self, runtime: &dyn Runtime) -> anyhow::Result<()> {
        if runtime.kind() != RuntimeKind::Docker
            || !self.images.is_empty()
            || !self.allow.is_empty()
        {
            return Ok(());
        }
        let hint = "name one that the engine has or fetches: --image ubuntu:24.04; or allow what tenants ask for: \
                    --image.allow docker.io/pytorch/pytorch";
        let what = "no image can be leased from this node's Docker engine";
        Err(Failure::new(Exit::Config, what).hint(hint).into())
    }

    /// Fetches the named images that are missing, while the node already serves the others.
    pub(crate) fn fetch_missing(&self, runtime: &Arc<dyn Runtime>, tasks: &Tasks) {
        if runtime.kind() != RuntimeKind::Docker || self.images.is_empty() {
            return;
        }
        let (names, runtime) = (self.names(), Arc::clone(runtime));
        tasks.spawn("images", OnError::Log, async move {
            let present = runtime.images().await?;
            for image in names.iter().filter(|name| !present.contains(name)) {
                tracing::info!(%image, "fetching an image");
                let progress = watch::Sender::new(PullProgress::default());
                match runtime.pull(image, &progress).await {
                    Ok(()) => tracing::info!(%image, "image is there"),
                    Err(error) => {
                        let remedy = error.remedy();
                        let error = ErrorChain(&error);
                        tracing::warn!(%image, %error, remedy, "an image cannot be leased");
                    }
                }
            }
            Ok(())
        });
    }

    fn names(&self) -> Vec<String> {
        self.images.iter().map(ToString::to_string).collect()
    }
}

/// A number with KiB, MiB, GiB or TiB, or of bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, SizeError> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let found = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    let (digits, bits) = found.unwrap_or((text, 0));
    let number: u64 = digits.trim_end().parse().map_err(|_| SizeError)?;
    let bytes = number.checked_mul(1 << bits).ok_or(SizeError)?;
    if bytes <= BYTES_MAX { Ok(bytes) } else { Err(SizeError) }
}

/// What is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a size such as 50GiB, at most 1024TiB")]
pub(crate) struct SizeError;

#[cfg(test)]
mod tests {
    use super::*;

    /// A mistyped size would be taken for none at all, or for all of the disk.
    #[test]
    fn sizes_are_read_or_refused() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("50GiB"), Ok(50 << 30));
        assert_eq!(bytes("1 TiB"), Ok(1 << 40));
        assert_eq!(bytes("1024TiB"), Ok(BYTES_MAX));
        for text in ["", "GiB", "-1", "1GB", "1.5GiB", "1025TiB", "99999999999TiB", "1GiBGiB", "x"]
        {
            assert_eq!(bytes(text), Err(SizeError), "{text:?}");
        }
    }
}
