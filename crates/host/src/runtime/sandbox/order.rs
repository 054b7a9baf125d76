//! What the helper is told of a lease: everything that can be refused is refused here, before anything is ended or made.

use std::fs;
use std::io;

use super::gpus::Given;
use super::images::Shown;
use super::protocol::{
    Access, End, Extras, Image, MESSAGE_BYTES_MAX, Order, Profile, Resolver, RootProfile,
    TmpfsOrder, VolumeOrder,
};
use super::state::{self, KeptImage};
use super::{Sandbox, absolute, cgroup_error, helper_error, io_error, maker};
use crate::runtime::{ContainerSpec, Network, RootAccess, RuntimeError, Tmpfs, Volume};

/// Formatted disks that are copied, in the state directory.
const TEMPLATES: &str = "disk-templates";

impl Sandbox {
    /// The image that the lease was made from first, for as long as its files are there; the offered one of that name
    /// otherwise. The operator may have given the name to another image since, or to none.
    pub(super) fn shown(&self, spec: &ContainerSpec) -> Result<Shown, RuntimeError> {
        let found = self.images.find(&spec.image);
        let kept = state::kept_image(&spec.dir)
            .map_err(io_error("read what image the lease has in", &spec.dir))?;
        let Some(kept) = kept.filter(|kept| kept.files.is_dir()) else { return found.cloned() };
        let known = || found.map(|image| image.environment.clone()).unwrap_or_default();
        let environment = kept.environment.unwrap_or_else(known);
        Ok(Shown { name: spec.image.clone(), files: Image::Directory(kept.files), environment })
    }

    /// The helper's order as it is sent. Makes the directories and notes what it needs, and ends nothing.
    pub(super) async fn order(
        &self,
        spec: &ContainerSpec,
        end: End,
    ) -> Result<Vec<u8>, RuntimeError> {
        let run_dir = spec.dir.join("run");
        fs::create_dir_all(&run_dir).map_err(io_error("make", &run_dir))?;
        if let Some(root) = &self.root {
            root.cgroups.prepare(&self.config.node_id).map_err(cgroup_error)?;
        }
        if !spec.gpus.is_empty() {
            self.gpus.ask_again().await;
        }
        let order = serde_json::to_vec(&self.parts(spec, end)?).map_err(helper_error)?;
        if !u64::try_from(order.len()).is_ok_and(|len| len < MESSAGE_BYTES_MAX) {
            return Err(RuntimeError::Helper { detail: "the order is too long".to_owned() });
        }
        Ok(order)
    }

    fn parts(&self, spec: &ContainerSpec, end: End) -> Result<Order, RuntimeError> {
        let shown = self.shown(spec)?;
        let gpus = self.gpus.order(&spec.gpus, maker(self.root.as_ref()))?;
        let extras = extras(spec, &shown.environment, &gpus);
        let image = match shown.files {
            Image::Host => Image::Host,
            Image::Directory(dir) => {
                let files = absolute(&dir)?;
                let image =
                    KeptImage { files: files.clone(), environment: Some(shown.environment) };
                let kept = state::keep_image(&spec.dir, &image);
                kept.map_err(io_error("remember the image in", &spec.dir))?;
                Image::Directory(files)
            }
        };
        let profile = match &self.root {
            None => Profile::User,
            Some(root) => Profile::Root(RootProfile {
                disk_bytes: spec.own_disk_bytes(),
                mkfs: root.mkfs.clone(),
                templates: absolute(&self.config.state_dir)?.join(TEMPLATES),
                cgroups: root.cgroups.plan(&self.config.node_id, spec),
            }),
        };
        let ours = [self.config.state_dir.clone()];
        let mut masked = Vec::new();
        for path in spec.masked_host_paths.iter().chain(&ours) {
            // A link to a wallet folder must hide the folder, and a folder that is not there needs no hiding.
            match fs::canonicalize(path) {
                Ok(path) => masked.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io_error("find", path)(source)),
            }
        }
        Ok(Order {
            node_id: self.config.node_id.clone(),
            lease: spec.lease,
            generation: spec.generation,
            dir: absolute(&spec.dir)?,
            agent: absolute(&spec.agent)?,
            image,
            masked,
            memory_bytes: spec.memory_bytes,
            extras,
            gpus: gpus.order,
            profile,
            end,
        })
    }
}

/// What the helper is told of the lease's wishes.
fn extras(spec: &ContainerSpec, image: &[(String, String)], gpus: &Given) -> Extras {
    let options = &spec.options;
    let volume = |volume: &Volume| VolumeOrder {
        name: volume.name.clone(),
        target: volume.target.clone(),
        bytes: volume.bytes,
    };
    let tmpfs = |tmpfs: &Tmpfs| TmpfsOrder { target: tmpfs.target.clone(), bytes: tmpfs.bytes };
    let mut environment: Vec<_> = image.iter().chain(&options.environment).cloned().collect();
    gpus.add_to(&mut environment);
    Extras {
        shm_bytes: options.shm_bytes.unwrap_or(spec.memory_bytes / 2),
        root: match options.root {
            RootAccess::Writable => Access::Writable,
            RootAccess::ReadOnly => Access::ReadOnly,
        },
        volumes: options.volumes.iter().map(volume).collect(),
        tmpfs: options.tmpfs.iter().map(tmpfs).collect(),
        environment,
        resolver: match options.network {
            Network::None => Resolver::Image,
            Network::Egress => Resolver::Lease,
        },
    }
}
