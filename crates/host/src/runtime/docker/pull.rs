//! Images from registries: asked for before they are fetched, watched while they are, removed when others need the room.
//!
//! One image is fetched at a time, so that the room is counted once. The registry is asked first which digest a name has,
//! and that digest is fetched; what arrives under another is refused by the engine. An image that was on the engine before
//! is never removed, nor is anything that the engine would call unused: only names that the cache's file holds.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{CreateImageInfo, DistributionInspect, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::super::{ImageName, PullProgress, RuntimeError};
use super::cache::{Cache, Fetched};
use super::engine::{ACT, ASK, says_full, status, words};
use super::{Docker, Maker};

/// Longest time for a registry to say what a name stands for.
const REGISTRY: Duration = Duration::from_secs(90);
/// A manifest lists layers; the largest in use have some hundred kilobytes.
const MANIFEST_BYTES_MAX: i64 = 4 << 20;
/// Layers whose progress is followed; an image has at most 127.
const LAYERS_MAX: usize = 1_024;
/// How often the room on the disk is looked at during a fetch.
const LOOK: Duration = Duration::from_millis(500);
/// Longest text of an engine or a registry that is passed on.
const REASON_CHARS_MAX: usize = 300;

/// How far each layer is.
#[derive(Debug, Default)]
struct Tally {
    layers: HashMap<String, Layer>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Layer {
    arrived: u64,
    total: u64,
    unpacked: u64,
    is_done: bool,
}

impl Docker {
    /// Brings an image onto the engine. Giving up is dropping the future: the engine stops when nobody listens.
    pub(super) async fn fetch(
        &self,
        image: &str,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        let name = self.parse(image)?;
        if !self.may_use(&name) {
            return Err(refused(image, "may not be fetched on this node"));
        }
        let _turn = self.fetching.lock().await;
        self.settle().await?;
        if self.look_at(&name).await?.is_some() {
            return self.touch(&name);
        }
        let pinned = self.ask_registry(&name).await?;
        if let Some(pinned) = pinned.as_ref().filter(|pinned| **pinned != name)
            && self.look_at(pinned).await?.is_some()
        {
            // The operator's own, or another name's: it gets one more name and is nobody else's for that. One that the
            // node fetched goes only with its last name, so the new name is written down, before it is there.
            let second = self.cache().another_name(pinned, self.engine.clock.unix_ms());
            if let Some(second) = second {
                self.cache().set(name.clone(), second)?;
            }
            return self.tag(pinned, &name).await;
        }
        self.make_room(None).await?;
        let begun = Fetched {
            pinned: pinned.clone(),
            bytes: 0,
            used_ms: self.engine.clock.unix_ms(),
            is_whole: false,
        };
        self.cache().set(name.clone(), begun)?;
        let fetched = match self.stream(&name, pinned.as_ref().unwrap_or(&name), progress).await {
            Ok(()) => self.finish(&name, pinned.as_ref()).await,
            Err(error) => Err(error),
        };
        if fetched.is_err() {
            self.discard(&name).await?;
        }
        fetched
    }

    /// Decides about fetches that a node began which was killed since: what is there is the node's, what is not is
    /// forgotten.
    pub(super) async fn settle(&self) -> Result<(), RuntimeError> {
        let begun: Vec<(ImageName, Fetched)> = {
            let cache = self.cache();
            let begun = cache.iter().filter(|(_, fetched)| !fetched.is_whole);
            begun.map(|(name, fetched)| (name.clone(), fetched.clone())).collect()
        };
        for (name, fetched) in begun {
            let mut found = self.look_at(&name).await?;
            if let (None, Some(pinned)) = (&found, &fetched.pinned) {
                found = self.look_at(pinned).await?;
            }
            match found {
                Some(found) => {
                    let bytes = size(&found);
                    self.cache().set(name, Fetched { bytes, is_whole: true, ..fetched })?;
                }
                None => self.cache().remove(&name)?,
            }
        }
        Ok(())
    }

    /// Remembers that an image is in use.
    pub(super) fn touch(&self, name: &ImageName) -> Result<(), RuntimeError> {
        let used_ms = self.engine.clock.unix_ms();
        let mut cache = self.cache();
        match cache.get(name).cloned() {
            Some(fetched) => cache.set(name.clone(), Fetched { used_ms, ..fetched }),
            None => Ok(()),
        }
    }

    /// The image, where the engine has it.
    pub(super) async fn look_at(
        &self,
        name: &ImageName,
    ) -> Result<Option<ImageInspect>, RuntimeError> {
        let text = name.to_string();
        let inspection = self.engine.client.inspect_image(&text);
        match self.engine.within("inspecting an image", ASK, inspection).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the registry says that a name stands for; `None` where the engine does not pass the question on.
    async fn ask_registry(&self, name: &ImageName) -> Result<Option<ImageName>, RuntimeError> {
        if self.facts.maker == Maker::Podman {
            return Ok(name.digest().is_some().then(|| name.clone()));
        }
        let text = name.to_string();
        let question = self.engine.client.inspect_registry_image(&text, None);
        let answer = self.engine.within("asking a registry", REGISTRY, question).await;
        let answer = answer.map_err(|error| pull_error(&text, error))?;
        judge(name, &answer, &self.facts.architecture).map(Some)
    }

    /// Follows the engine's fetch until it ends, stands still, or grows too large.
    async fn stream(
        &self,
        name: &ImageName,
        fetched: &ImageName,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(), RuntimeError> {
        let policy = &self.config.image_policy;
        let clock = &self.engine.clock;
        let text = name.to_string();
        let options = CreateImageOptionsBuilder::default().from_image(&fetched.to_string()).build();
        let mut stream = Box::pin(self.engine.client.create_image(Some(options), None, None));
        let mut tally = Tally::default();
        let start = clock.monotonic();
        let (mut moved, mut look) = (start, start);
        loop {
            let item = tokio::select! {
                item = stream.next() => Some(item),
                () = clock.sleep(LOOK) => None,
            };
            let now = clock.monotonic();
            match item {
                Some(None) => return Ok(()),
                Some(Some(item)) => {
                    let info = item.map_err(|source| {
                        pull_error(&text, RuntimeError::Engine { act: "fetching an image", source })
                    })?;
                    if tally.note(&info) {
                        moved = now;
                        progress.send_replace(tally.progress());
                    }
                    tally.check(&text, policy.bytes_max)?;
                }
                None => {}
            }
            if now.saturating_sub(moved) > policy.stall || now.saturating_sub(start) > policy.whole
            {
                let limit_s = policy.stall.min(policy.whole).as_secs();
                return Err(RuntimeError::Timeout { act: "fetching an image", limit_s });
            }
            if now.saturating_sub(look) > LOOK {
                look = now;
                self.make_room(None).await?;
            }
        }
    }

    /// Checks what has arrived and writes it down as the node's.
    async fn finish(
        &self,
        name: &ImageName,
        pinned: Option<&ImageName>,
    ) -> Result<(), RuntimeError> {
        let bytes_max = self.config.image_policy.bytes_max;
        let text = name.to_string();
        let lost = || RuntimeError::Pull {
            image: text.clone(),
            reason: "the engine does not have it after the fetch".to_owned(),
        };
        let found = self.look_at(pinned.unwrap_or(name)).await?.ok_or_else(lost)?;
        let bytes = size(&found);
        if bytes > bytes_max {
            return Err(RuntimeError::ImageTooLarge { image: text, bytes, bytes_max });
        }
        if let Some(pinned) = pinned.filter(|pinned| *pinned != name) {
            self.tag(pinned, name).await?;
        }
        let whole = Fetched {
            pinned: pinned.cloned(),
            bytes,
            used_ms: self.engine.clock.unix_ms(),
            is_whole: true,
        };
        self.cache().set(name.clone(), whole)?;
        self.make_room(Some(name)).await?;
        if self.cache().bytes() > bytes_max {
            // What is left cannot be removed: it is in use, or the operator's wish.
            return Err(RuntimeError::ImageTooLarge { image: text, bytes, bytes_max });
        }
        Ok(())
    }

    /// Removes fetched images until all of them keep to their limit and the disk has the room that it must have. The images
    /// that the operator named stay, and so do those that a container uses: the engine refuses to remove them.
    async fn make_room(&self, kept: Option<&ImageName>) -> Result<(), RuntimeError> {
        let policy = &self.config.image_policy;
        let too_many = || self.cache().bytes() > policy.bytes_max;
        let too_full = || self.free_bytes().is_some_and(|free| free < policy.free_bytes_min);
        if !too_many() && !too_full() {
            return Ok(());
        }
        let is_kept = |name: &ImageName| self.images_named.contains(name) || Some(name) == kept;
        let victims = self.cache().oldest_first(is_kept);
        for victim in victims {
            if !too_many() && !too_full() {
                return Ok(());
            }
            if self.remove_image(&victim).await? {
                tracing::info!(image = %victim, "removed an image to make room");
            }
        }
        if too_full() {
            return Err(RuntimeError::NoSpace { act: "fetching an image" });
        }
        Ok(())
    }

    /// Removes an image that the node has fetched; `false` where it is in use.
    async fn remove_image(&self, name: &ImageName) -> Result<bool, RuntimeError> {
        let pinned = self.cache().get(name).and_then(|fetched| fetched.pinned.clone());
        for reference in [Some(name), pinned.as_ref()].into_iter().flatten() {
            // Nothing is forced, and nothing but the name itself is looked at for removal.
            let options = RemoveImageOptionsBuilder::default().force(false).noprune(true).build();
            let text = reference.to_string();
            let removal = self.engine.client.remove_image(&text, Some(options), None);
            match self.engine.within("removing an image", ACT, removal).await {
                Err(error) if status(&error) == Some(409) => return Ok(false),
                Err(error) if status(&error) != Some(404) => return Err(error),
                _ => {}
            }
        }
        self.cache().remove_name(name)?;
        Ok(true)
    }

    /// Takes back what a failed fetch may have left.
    async fn discard(&self, name: &ImageName) -> Result<(), RuntimeError> {
        if !self.remove_image(name).await? {
            tracing::warn!(image = %name, "what is left of a failed fetch is in use");
        }
        Ok(())
    }

    async fn tag(&self, from: &ImageName, to: &ImageName) -> Result<(), RuntimeError> {
        let Some(tag) = to.tag() else { return Ok(()) };
        let options = TagImageOptionsBuilder::default().repo(&to.repository()).tag(tag).build();
        let source = from.to_string();
        let tagging = self.engine.client.tag_image(&source, Some(options));
        self.engine.within("naming an image", ASK, tagging).await
    }

    /// Free bytes of the engine's disk, where it is this machine's.
    fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.facts.root_dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tally ===

impl Tally {
    /// Takes a line of the engine's; whether it tells of anything that moved.
    fn note(&mut self, info: &CreateImageInfo) -> bool {
        let (Some(id), Some(said)) = (&info.id, &info.status) else { return false };
        if self.layers.len() >= LAYERS_MAX && !self.layers.contains_key(id) {
            return false;
        }
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let detail = info.progress_detail.as_ref();
        let current = number(detail.and_then(|detail| detail.current));
        let total = number(detail.and_then(|detail| detail.total));
        let layer = self.layers.entry(id.clone()).or_default();
        let before = *layer;
        match said.as_str() {
            "Downloading" => {
                layer.arrived = layer.arrived.max(current.unwrap_or(0));
                layer.total = layer.total.max(total.unwrap_or(0)).max(layer.arrived);
            }
            "Extracting" => layer.unpacked = layer.unpacked.max(current.unwrap_or(0)),
            "Download complete" => layer.arrived = layer.total,
            "Pull complete" | "Already exists" => layer.is_done = true,
            _ => {}
        }
        *layer != before
    }

    fn progress(&self) -> PullProgress {
        let sum = |of: fn(&Layer) -> u64| {
            self.layers.values().fold(0_u64, |sum, layer| sum.saturating_add(of(layer)))
        };
        PullProgress {
            bytes_done: sum(|layer| layer.arrived),
            bytes_total: sum(|layer| layer.total),
        }
    }

    fn check(&self, image: &str, bytes_max: u64) -> Result<(), RuntimeError> {
        let bytes = self.progress().bytes_total;
        if bytes <= bytes_max && self.layers.len() < LAYERS_MAX {
            return Ok(());
        }
        Err(RuntimeError::ImageTooLarge { image: image.to_owned(), bytes, bytes_max })
    }
}

/// The name at the digest that the registry gives it, unless no image for this machine can be behind it.
fn judge(
    name: &ImageName,
    answer: &DistributionInspect,
    architecture: &str,
) -> Result<ImageName, RuntimeError> {
    let text = name.to_string();
    if answer.descriptor.size.is_some_and(|size| !(0..=MANIFEST_BYTES_MAX).contains(&size)) {
        return Err(refused(&text, "has a manifest that is larger than any image's"));
    }
    let fits = |platform: &bollard::models::OciPlatform| {
        let is = |value: &Option<String>, wanted: &str| {
            value.as_deref().is_none_or(|value| value.is_empty() || value == wanted)
        };
        is(&platform.os, "linux") && is(&platform.architecture, architecture)
    };
    if !answer.platforms.is_empty() && !answer.platforms.iter().any(fits) {
        return Err(refused(&text, "is not made for this machine's processor"));
    }
    let digest = answer.descriptor.digest.as_deref().unwrap_or_default();
    let Ok(pinned) = name.at_digest(digest) else {
        return Err(refused(&text, "has no SHA-256 digest in its registry"));
    };
    match name.digest() {
        Some(asked) if asked != digest => Err(refused(&text, "has another digest in its registry")),
        _ => Ok(pinned),
    }
}

/// What a failed fetch means for the one who asked. Registries and engines have no codes for it that hold.
fn pull_error(image: &str, error: RuntimeError) -> RuntimeError {
    if says_full(&error) {
        return RuntimeError::NoSpace { act: "fetching an image" };
    }
    let Some(said) = words(&error) else { return error };
    let has = |phrases: &[&str]| phrases.iter().any(|phrase| said.contains(phrase));
    let missing = ["manifest unknown", "not found", "denied", "unauthorized", "no basic auth"];
    if has(&["no matching manifest", "does not match the specified platform"]) {
        return refused(image, "is not made for this machine's processor");
    }
    if matches!(status(&error), Some(401 | 403 | 404)) || has(&missing) {
        return RuntimeError::ImageUnknown { image: image.to_owned() };
    }
    RuntimeError::Pull { image: image.to_owned(), reason: harmless(said) }
}

pub(super) fn refused(image: &str, why: &'static str) -> RuntimeError {
    RuntimeError::ImageRefused { image: image.to_owned(), why }
}

fn size(image: &ImageInspect) -> u64 {
    image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

/// Words of a registry on their way to a terminal and a log.
fn harmless(words: &str) -> String {
    let plain = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use bollard::errors::Error as EngineError;
    use bollard::models::{OciDescriptor, OciPlatform, ProgressDetail};

    use super::*;

    fn line(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    /// A renter would wait without a sign of progress, or an image of any size fill the provider's disk.
    #[test]
    fn layers_are_added_up() {
        let mut tally = Tally::default();
        assert!(tally.note(&line("a", "Downloading", 10, 100)));
        assert!(tally.note(&line("b", "Downloading", 5, 50)));
        assert!(!tally.note(&line("a", "Downloading", 10, 100)), "nothing moved");
        assert!(!tally.note(&line("a", "Retrying in 5 seconds", 0, 0)), "that is no progress");
        let expected = PullProgress { bytes_done: 15, bytes_total: 150 };
        assert_eq!(tally.progress(), expected);
        tally.check("x", 150).expect("fits exactly");
        let error = tally.check("x", 149).expect_err("too large");
        assert!(matches!(error, RuntimeError::ImageTooLarge { bytes: 150, .. }), "{error}");
        assert!(tally.note(&line("a", "Download complete", 0, 0)));
        assert!(tally.note(&line("a", "Extracting", 1, 100)));
        assert!(tally.note(&line("a", "Pull complete", 0, 0)));
        assert_eq!(tally.progress().bytes_done, 105);
        assert!(!tally.note(&line("c", "Downloading", -5, i64::MIN)), "no such amounts");
        for layer in 0..LAYERS_MAX * 2 {
            tally.note(&line(&layer.to_string(), "Downloading", 1, 1));
        }
        assert_eq!(tally.layers.len(), LAYERS_MAX);
        tally.check("x", u64::MAX).expect_err("more layers than an image has");
    }

    /// Another image than the one that the name stands for would be fetched, or one that cannot run here.
    #[test]
    fn the_registrys_answer_is_judged() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let name: ImageName = "127.0.0.1:5000/box:1".parse().expect("name");
        let answer = |digest: &str, size: i64, platform: &[(&str, &str)]| DistributionInspect {
            descriptor: OciDescriptor {
                digest: Some(digest.to_owned()),
                size: Some(size),
                ..OciDescriptor::default()
            },
            platforms: platform
                .iter()
                .map(|(os, architecture)| OciPlatform {
                    os: Some((*os).to_owned()),
                    architecture: Some((*architecture).to_owned()),
                    ..OciPlatform::default()
                })
                .collect(),
        };
        let pinned = judge(&name, &answer(&digest, 500, &[("linux", "amd64")]), "amd64");
        let pinned = pinned.expect("pinned");
        assert_eq!(pinned.to_string(), format!("127.0.0.1:5000/box@{digest}"));
        judge(&name, &answer(&digest, 500, &[]), "amd64").expect("older registries name none");
        judge(&pinned, &answer(&digest, 500, &[]), "amd64").expect("the digest asked for");
        let other = format!("sha256:{}", "b".repeat(64));
        for (name, answer) in [
            (&pinned, answer(&other, 500, &[])),
            (&name, answer(&digest, MANIFEST_BYTES_MAX + 1, &[])),
            (&name, answer(&digest, -1, &[])),
            (&name, answer("sha512:x", 500, &[])),
            (&name, answer(&digest, 500, &[("linux", "s390x"), ("windows", "amd64")])),
        ] {
            let error = judge(name, &answer, "amd64").expect_err("refused");
            assert!(matches!(error, RuntimeError::ImageRefused { .. }), "{error}");
        }
    }

    /// A renter would be told to wait for an image that will never be there, or an operator not that the disk is full.
    #[test]
    fn failures_are_told_apart() {
        let said = |status_code: u16, message: &str| {
            let message = message.to_owned();
            let source = EngineError::DockerResponseServerError { status_code, message };
            pull_error("box:1", RuntimeError::Engine { act: "x", source })
        };
        assert!(matches!(said(404, "x"), RuntimeError::ImageUnknown { .. }));
        assert!(matches!(said(500, "manifest unknown: x"), RuntimeError::ImageUnknown { .. }));
        assert!(matches!(said(403, "denied"), RuntimeError::ImageUnknown { .. }));
        assert!(matches!(
            said(500, "write: no space left on device"),
            RuntimeError::NoSpace { .. }
        ));
        let error = said(404, "no matching manifest for linux/amd64");
        assert!(matches!(error, RuntimeError::ImageRefused { .. }), "{error}");
        let RuntimeError::Pull { reason, .. } =
            said(500, &format!("\u{1b}[2J\n{}", "x".repeat(900)))
        else {
            panic!("a failure of the registry")
        };
        assert!(reason.chars().count() == REASON_CHARS_MAX && !reason.contains(['\u{1b}', '\n']));
        let gone = pull_error("x", RuntimeError::Timeout { act: "x", limit_s: 1 });
        assert!(matches!(gone, RuntimeError::Timeout { .. }), "{gone}");
    }
}
