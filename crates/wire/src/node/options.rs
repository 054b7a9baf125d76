//! What a lease may ask for beyond its share, as it is said and stored.

use std::collections::BTreeMap;

use nicompute_market::{LeaseNetwork, LeaseOptions, LeaseVolume, RuntimeClass};
use serde::{Deserialize, Serialize};

use super::{ViewError, wrong};

/// TCP ports that a lease may have reached through the node.
pub const PORTS_MAX: usize = 16;

/// What a lease asks for beyond its share of the machine. Everything may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionsView {
    /// `standard`, `gvisor`, `kata` or `sysbox`: one of the offer's classes; `standard` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Bytes of `/dev/shm`; half of the memory where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
    /// Whether the image's own files stay as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root: bool,
    /// Directories that outlive a restart and are wiped at the lease's end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeView>,
    /// Memory file systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsView>,
    /// Variables for every process. Shown to nobody afterwards.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// TCP ports of the container that are to be reached through the node, at most [`PORTS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// `none` or `egress`; `none` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whether clients may lend their SSH keys to programs inside (`ssh -A`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent_forwarding: bool,
}

/// A directory that outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeView {
    /// 1 to 32 letters, digits, `-` and `_`.
    pub name: String,
    /// Where it is seen in the container.
    pub target: String,
    /// Its size, where it is to be held to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A memory file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TmpfsView {
    /// Where it is seen in the container.
    pub target: String,
    /// Its size.
    pub bytes: u64,
}

impl OptionsView {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&LeaseOptions> for OptionsView {
    fn from(options: &LeaseOptions) -> Self {
        let volume = |volume: &LeaseVolume| VolumeView {
            name: volume.name.clone(),
            target: volume.target.clone(),
            bytes: volume.bytes,
        };
        let class = options.class;
        let network = options.network;
        Self {
            class: (class != RuntimeClass::default()).then(|| class.to_string()),
            shm_bytes: options.shm_bytes,
            read_only_root: options.read_only_root,
            volumes: options.volumes.iter().map(volume).collect(),
            tmpfs: options
                .tmpfs
                .iter()
                .map(|(target, bytes)| TmpfsView { target: target.clone(), bytes: *bytes })
                .collect(),
            environment: options.environment.iter().cloned().collect(),
            ports: options.ports.clone(),
            network: (network != LeaseNetwork::default()).then(|| network.as_str().to_owned()),
            agent_forwarding: options.agent_forwarding,
        }
    }
}

impl TryFrom<OptionsView> for LeaseOptions {
    type Error = ViewError;

    /// Reads the names and ports; every other rule is the runtime's.
    fn try_from(view: OptionsView) -> Result<Self, ViewError> {
        let class = view.class.as_deref().map(str::parse::<RuntimeClass>).transpose();
        let network = view.network.as_deref().map(str::parse::<LeaseNetwork>).transpose();
        if view.ports.len() > PORTS_MAX {
            return Err(wrong("options.ports", "lists more than 16 ports"));
        }
        let mut ports = view.ports;
        ports.sort_unstable();
        ports.dedup();
        if ports.first() == Some(&0) {
            return Err(wrong("options.ports", "lists port 0"));
        }
        let volume = |volume: VolumeView| LeaseVolume {
            name: volume.name,
            target: volume.target,
            bytes: volume.bytes,
        };
        Ok(Self {
            class: class
                .map_err(|_| {
                    wrong("options.class", "is none of standard, gvisor, kata and sysbox")
                })?
                .unwrap_or_default(),
            shm_bytes: view.shm_bytes,
            read_only_root: view.read_only_root,
            volumes: view.volumes.into_iter().map(volume).collect(),
            tmpfs: view.tmpfs.into_iter().map(|tmpfs| (tmpfs.target, tmpfs.bytes)).collect(),
            environment: view.environment.into_iter().collect(),
            ports,
            network: network
                .map_err(|_| wrong("options.network", "is neither none nor egress"))?
                .unwrap_or_default(),
            agent_forwarding: view.agent_forwarding,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wish that is lost between request and store is a tenant without the wall, the data or the port that it paid for.
    #[test]
    fn wishes_survive_their_text() {
        let options = LeaseOptions {
            class: RuntimeClass::Gvisor,
            shm_bytes: Some(1),
            read_only_root: true,
            volumes: vec![LeaseVolume {
                name: "data".to_owned(),
                target: "/data".to_owned(),
                bytes: Some(7),
            }],
            tmpfs: vec![("/scratch".to_owned(), 9)],
            environment: vec![("A".to_owned(), "$(x)\n\"".to_owned())],
            ports: vec![80, 8080],
            network: LeaseNetwork::Egress,
            agent_forwarding: true,
        };
        let text = serde_json::to_string(&OptionsView::from(&options)).unwrap();
        let view: OptionsView = serde_json::from_str(&text).unwrap();
        assert_eq!(LeaseOptions::try_from(view), Ok(options));
        let nothing = serde_json::to_string(&OptionsView::from(&LeaseOptions::default())).unwrap();
        assert_eq!(nothing, "{}");
    }

    /// A port list without end, or a class that is misread, would be taken from a stranger.
    #[test]
    fn wrong_wishes_are_named() {
        let field = |view: OptionsView| LeaseOptions::try_from(view).unwrap_err().field;
        let many = OptionsView { ports: vec![1; PORTS_MAX + 1], ..OptionsView::default() };
        assert_eq!(field(many), "options.ports");
        let zero = OptionsView { ports: vec![0], ..OptionsView::default() };
        assert_eq!(field(zero), "options.ports");
        let class = OptionsView { class: Some("runc".to_owned()), ..OptionsView::default() };
        assert_eq!(field(class), "options.class");
        let network = OptionsView { network: Some("host".to_owned()), ..OptionsView::default() };
        assert_eq!(field(network), "options.network");
        assert!(serde_json::from_str::<OptionsView>(r#"{"privileged":true}"#).is_err());
    }
}
