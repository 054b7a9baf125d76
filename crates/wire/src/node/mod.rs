//! What a provider's node and a validator say to each other under `/v1`: JSON, signed with `btauth/1` both ways.
//!
//! These shapes are a public contract. A field is only ever added, with a default, so that an older peer still reads a
//! newer one. Numbers carry their unit in their name. Every list has a limit that the reader checks.

mod conditions;
mod options;

use nicompute_market::{
    Gpu, Hotkey, Lease, LeaseId, LeaseState, Machine, MicroUsd, Offer, OfferId, Purpose,
    RuntimeKind, Share, UnixMillis,
};
use serde::{Deserialize, Serialize};

pub use conditions::{ConditionsView, FETCHES_MAX, WINDOWS_MAX, WindowView};
pub use options::{OptionsView, PORTS_MAX, TmpfsView, VolumeView};

/// Bytes of one request or answer of the node API.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Offers in one answer.
pub const OFFERS_MAX: usize = 128;
/// GPUs of one offer.
pub const GPUS_MAX: usize = 64;
/// Images of one offer.
pub const IMAGES_MAX: usize = 64;
/// Characters of one text field.
pub const TEXT_CHARS_MAX: usize = 4096;

/// `GET /v1/node`: who this is and how its SSH gateway is known. Hardware here is a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The provider's hotkey.
    pub hotkey: Hotkey,
    /// The program's version.
    pub version: String,
    /// The runtime that tenants get.
    pub runtime: String,
    /// Whether tenants are held to what they leased.
    pub limits_enforced: bool,
    /// The whole machine.
    pub machine: MachineView,
    /// The SSH gateway.
    pub ssh: SshDoorView,
}

/// Where the SSH gateway listens and the host key that the hotkey vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshDoorView {
    /// TCP port, on the address of the node itself.
    pub port: u16,
    /// `ssh-ed25519 AAAA…`, one line without a comment.
    pub host_key: String,
    /// The hotkey's signature over the host-key statement, hexadecimal.
    pub host_key_signature: String,
}

/// A machine as its owner describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineView {
    /// The processor's model name.
    pub cpu_model: String,
    /// Logical processors.
    pub cores: u32,
    /// Main memory.
    pub memory_bytes: u64,
    /// Disk space for tenants.
    pub disk_bytes: u64,
    /// GPUs in bus order.
    pub gpus: Vec<GpuView>,
}

/// A GPU as NVML names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuView {
    /// NVML's UUID.
    pub uuid: String,
    /// The product name.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
}

/// `GET /v1/offers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffersView {
    /// What can be leased, at most [`OFFERS_MAX`].
    pub offers: Vec<OfferView>,
}

/// One offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferView {
    /// Its name with this provider.
    pub id: OfferId,
    /// What the tenant gets.
    pub machine: MachineView,
    /// The asking price of the whole offer.
    pub price_micro_usd_per_hour: u64,
    /// Images that start without a download.
    pub images: Vec<String>,
    /// `docker`, `sandbox` or `sandbox-user`.
    pub runtime: String,
    /// `enforced`, `enforced but disk` or `not enforced`.
    pub limits: String,
    /// Whether nobody holds it now.
    pub available: bool,
    /// What a lease of it may ask for.
    #[serde(default)]
    pub conditions: ConditionsView,
}

/// `POST /v1/leases`. The same id asked for again with the same words is the same lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Drawn by the caller.
    pub id: LeaseId,
    /// What is leased.
    pub offer: OfferId,
    /// `proof` or `rental`.
    pub purpose: String,
    /// OpenSSH public keys that may enter.
    pub ssh_keys: Vec<String>,
    /// The image; the offer's first one when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How long.
    pub duration_seconds: u64,
    /// The key of the second slot: a terminal that the renter's market puts beside the renter's own keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal_key: Option<String>,
    /// What is asked for beyond the offer's share.
    #[serde(default, skip_serializing_if = "OptionsView::is_empty")]
    pub options: OptionsView,
}

/// `POST /v1/leases/{id}/extend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendRequest {
    /// Seconds from now until the new end; an earlier end than the present one changes nothing.
    pub duration_seconds: u64,
}

/// `POST /v1/leases/{id}/keys`: replaces the keys of one slot; the other one stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysRequest {
    /// OpenSSH public keys of this slot that may enter from now on; `terminal` takes one or none.
    pub ssh_keys: Vec<String>,
    /// `user` or `terminal`; `user` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
}

/// A lease as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The lease.
    pub id: LeaseId,
    /// What is leased.
    pub offer: OfferId,
    /// `proof` or `rental`.
    pub purpose: String,
    /// The validator that holds it.
    pub holder: Hotkey,
    /// `requested`, `reserved`, `preparing`, `running`, `paused`, `ending`, `ended` or `failed`.
    pub state: String,
    /// Why it is ending, has ended or has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Counts the changes.
    pub generation: u64,
    /// When it was asked for, on the provider's clock.
    pub requested_at_unix_ms: u64,
    /// When it ends by itself, on the provider's clock.
    pub expires_at_unix_ms: u64,
    /// The image that runs.
    pub image: String,
    /// What is known about how it came to stand where it stands: how far an image is, why it failed, the evidence of a GPU
    /// that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether a restart was asked for and is not done yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart_pending: bool,
    /// What of the machine it was sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<ShareView>,
    /// The price that was agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_micro_usd_per_hour: Option<u64>,
    /// What runs its processes, where that is not `standard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How to enter, while it is running or paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshAccessView>,
    /// Where the ports that it asked for are reached, while it is running or paused; at most [`PORTS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPortView>,
}

/// A port of a lease and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPortView {
    /// The port inside.
    pub container_port: u16,
    /// The address of the provider's machine.
    pub host: String,
    /// The TCP port there. It stays the same for as long as the lease lasts.
    pub port: u16,
    /// Why nobody gets through now; absent where the provider's node listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A part of a machine, as it was sold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareView {
    /// Processor time, in thousandths of a core.
    pub cores_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
    /// UUIDs of the GPUs.
    pub gpus: Vec<String>,
}

/// How to enter a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAccessView {
    /// Address of the gateway.
    pub host: String,
    /// TCP port of the gateway.
    pub port: u16,
    /// The user name that selects the lease.
    pub user: String,
    /// `ssh-ed25519 AAAA…`.
    pub host_key: String,
}

/// A received view that breaks its own rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field} {problem}")]
pub struct ViewError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

const fn wrong(field: &'static str, problem: &'static str) -> ViewError {
    ViewError { field, problem }
}

// === conversions ===

impl From<&Machine> for MachineView {
    fn from(machine: &Machine) -> Self {
        let gpu = |gpu: &Gpu| GpuView {
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            memory_bytes: gpu.memory_bytes,
        };
        Self {
            cpu_model: machine.cpu_model.clone(),
            cores: machine.cores,
            memory_bytes: machine.memory_bytes,
            disk_bytes: machine.disk_bytes,
            gpus: machine.gpus.iter().map(gpu).collect(),
        }
    }
}

impl TryFrom<MachineView> for Machine {
    type Error = ViewError;

    fn try_from(view: MachineView) -> Result<Self, ViewError> {
        let text = |field, text: String| {
            let short = text.chars().count() <= TEXT_CHARS_MAX;
            let printable = !text.chars().any(char::is_control);
            if short && printable {
                Ok(text)
            } else {
                Err(wrong(field, "is too long or not printable"))
            }
        };
        if view.gpus.len() > GPUS_MAX {
            return Err(wrong("gpus", "lists more than 64 GPUs"));
        }
        let gpu = |gpu: GpuView| {
            Ok(Gpu {
                uuid: text("uuid", gpu.uuid)?,
                name: text("name", gpu.name)?,
                memory_bytes: gpu.memory_bytes,
            })
        };
        Ok(Self {
            cpu_model: text("cpu_model", view.cpu_model)?,
            cores: view.cores,
            memory_bytes: view.memory_bytes,
            disk_bytes: view.disk_bytes,
            gpus: view.gpus.into_iter().map(gpu).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Share> for ShareView {
    fn from(share: &Share) -> Self {
        Self {
            cores_milli: share.cores_milli,
            memory_bytes: share.memory_bytes,
            disk_bytes: share.disk_bytes,
            gpus: share.gpus.clone(),
        }
    }
}

impl From<&Offer> for OfferView {
    fn from(offer: &Offer) -> Self {
        Self {
            id: offer.id.clone(),
            machine: (&offer.machine).into(),
            price_micro_usd_per_hour: offer.price_per_hour.get(),
            images: offer.images.clone(),
            runtime: offer.runtime.to_string(),
            limits: offer.conditions.limits.as_str().to_owned(),
            available: offer.available,
            conditions: (&offer.conditions).into(),
        }
    }
}

impl TryFrom<OfferView> for Offer {
    type Error = ViewError;

    fn try_from(view: OfferView) -> Result<Self, ViewError> {
        if view.images.len() > IMAGES_MAX {
            return Err(wrong("images", "lists more than 64 images"));
        }
        if view.images.iter().any(|i| i.len() > TEXT_CHARS_MAX || i.chars().any(char::is_control)) {
            return Err(wrong("images", "has a name that is too long or not printable"));
        }
        let runtime: RuntimeKind = view
            .runtime
            .parse()
            .map_err(|_| wrong("runtime", "is none that this version knows"))?;
        Ok(Self {
            id: view.id,
            machine: view.machine.try_into()?,
            price_per_hour: MicroUsd(view.price_micro_usd_per_hour),
            images: view.images,
            conditions: view.conditions.read(&view.limits, runtime)?,
            runtime,
            available: view.available,
        })
    }
}

impl LeaseView {
    /// The view of a lease; `ssh` and `ports` are shown only where the holder can enter.
    #[must_use]
    pub fn new(lease: &Lease, ssh: SshAccessView, ports: Vec<PublishedPortView>) -> Self {
        let can_enter = matches!(lease.state, LeaseState::Running | LeaseState::Paused);
        Self {
            id: lease.terms.id,
            offer: lease.terms.offer.clone(),
            purpose: lease.terms.purpose.as_str().to_owned(),
            holder: lease.terms.holder,
            state: lease.state.name().to_owned(),
            reason: lease.state.reason().map(str::to_owned),
            generation: lease.generation,
            requested_at_unix_ms: lease.requested_at.get(),
            expires_at_unix_ms: lease.expires_at.get(),
            image: lease.terms.image.clone(),
            detail: lease.detail.clone(),
            restart_pending: lease.restart_asked,
            share: Some((&lease.terms.share).into()),
            price_micro_usd_per_hour: lease.terms.price_per_hour.map(MicroUsd::get),
            class: OptionsView::from(&lease.terms.options).class,
            ssh: can_enter.then_some(ssh),
            ports: if can_enter { ports } else { Vec::new() },
        }
    }

    /// The state as a market noun.
    ///
    /// # Errors
    /// When the pair of state and reason is none that this version knows.
    pub fn lease_state(&self) -> Result<LeaseState, ViewError> {
        LeaseState::from_names(&self.state, self.reason.as_deref())
            .ok_or_else(|| wrong("state", "is none that this version knows"))
    }

    /// The purpose as a market noun.
    ///
    /// # Errors
    /// When it is none that this version knows.
    pub fn lease_purpose(&self) -> Result<Purpose, ViewError> {
        self.purpose.parse().map_err(|_| wrong("purpose", "is neither proof nor rental"))
    }

    /// The end as a moment on the provider's clock.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        UnixMillis(self.expires_at_unix_ms)
    }
}
