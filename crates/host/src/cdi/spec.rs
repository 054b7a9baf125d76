//! The shape of a spec file. What it asks for is judged in `edits`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{SpecProblem, yaml};

/// Devices of one spec.
const DEVICES_MAX: usize = 1_024;

/// A spec as it was read.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) file: PathBuf,
    /// The folder's place in the list: the highest wins.
    pub(super) rank: usize,
    pub(super) kind: String,
    /// What every container with one of the devices gets.
    pub(super) common: RawEdits,
    pub(super) devices: BTreeMap<String, RawEdits>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Option<Vec<RawDevice>>,
    #[serde(default)]
    container_edits: Option<RawEdits>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDevice {
    name: String,
    #[serde(default)]
    container_edits: Option<RawEdits>,
}

/// What a spec wants to do to a container, as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawEdits {
    #[serde(default)]
    pub(super) env: Option<Vec<String>>,
    #[serde(default)]
    pub(super) device_nodes: Option<Vec<RawNode>>,
    #[serde(default)]
    pub(super) mounts: Option<Vec<RawMount>>,
    #[serde(default)]
    pub(super) hooks: Option<Vec<RawHook>>,
    /// Edits of later versions: a container without them has less, never more.
    #[serde(flatten)]
    pub(super) others: BTreeMap<String, Value>,
}

/// A device node. Its numbers and mode are the host's own, whatever the spec says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawNode {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: Option<String>,
    #[serde(default)]
    pub(super) permissions: Option<String>,
}

/// A bind mount. Its options are ours.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawMount {
    pub(super) host_path: String,
    pub(super) container_path: String,
}

/// A program that the engine would start.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawHook {
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Option<Vec<String>>,
}

/// Reads one file's text: JSON where the name says so, else YAML.
pub(super) fn parse(file: &Path, text: &str, rank: usize) -> Result<Spec, SpecProblem> {
    let is_json = file.extension().is_some_and(|end| end == "json");
    let value = if is_json {
        // serde_json has its own limit of depth.
        serde_json::from_str(text).map_err(shape)?
    } else {
        yaml::parse(text)?
    };
    let raw: RawSpec = serde_json::from_value(value).map_err(shape)?;
    if !(raw.cdi_version.starts_with("0.") || raw.cdi_version.starts_with("1.")) {
        return Err(SpecProblem::Version(raw.cdi_version.chars().take(20).collect()));
    }
    let named = raw.devices.unwrap_or_default();
    if named.len() > DEVICES_MAX {
        return Err(SpecProblem::Shape(format!("more than {DEVICES_MAX} devices")));
    }
    let mut devices = BTreeMap::new();
    for device in named {
        if devices.contains_key(&device.name) {
            return Err(SpecProblem::Shape(format!("the device {:?} twice", device.name)));
        }
        devices.insert(device.name, device.container_edits.unwrap_or_default());
    }
    let common = raw.container_edits.unwrap_or_default();
    Ok(Spec { file: file.to_owned(), rank, kind: raw.kind, common, devices })
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn shape(error: serde_json::Error) -> SpecProblem {
    SpecProblem::Shape(error.to_string())
}
