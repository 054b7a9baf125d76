//! The synapses of NI Compute 1.9.0: their fields, with the defaults that a peer fills in where one is absent.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value, json};

use crate::axon::requirement::{Requirement, RequirementError};
use crate::axon::terminal::TerminalInfo;

/// What a synapse of one name carries beside the fields that all have.
pub trait Body: Serialize + DeserializeOwned + Default + fmt::Debug + Send + 'static {
    /// The name, which is the path too.
    const NAME: &'static str;
}

/// A message of the axon: the fields of every synapse, and those of its own.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Synapse<B> {
    /// The name; readers take it from the path.
    #[serde(default)]
    pub name: Option<String>,
    /// How long the caller waits, in seconds.
    #[serde(default)]
    pub timeout: Option<Number>,
    /// What Python says about its own memory; nothing depends on it.
    #[serde(default)]
    pub total_size: Option<u64>,
    /// The same.
    #[serde(default)]
    pub header_size: Option<u64>,
    /// The caller.
    #[serde(default)]
    pub dendrite: Option<TerminalInfo>,
    /// The one who is called.
    #[serde(default)]
    pub axon: Option<TerminalInfo>,
    /// Empty in bodies: the hash is in the headers.
    #[serde(default)]
    pub computed_body_hash: Option<String>,
    /// The fields of its own.
    #[serde(flatten)]
    pub body: B,
}

/// A synapse as it is read at the other end. What it says about both ends is passed over, whatever its shape: only the
/// headers are signed, and who reads it goes by them.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Received<B> {
    /// How long the caller waits, in seconds.
    #[serde(default)]
    pub timeout: Option<Number>,
    /// What Python says about its own memory; nothing depends on it.
    #[serde(default)]
    pub total_size: Option<u64>,
    /// The same.
    #[serde(default)]
    pub header_size: Option<u64>,
    /// Empty in bodies: the hash is in the headers.
    #[serde(default)]
    pub computed_body_hash: Option<String>,
    /// The fields of its own.
    #[serde(flatten)]
    pub body: B,
}

/// `/Synapse`: a question whether somebody is there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ping {}

/// `/Allocate`: everything about renting, told apart by `checking`, `docker_change` and `timeline`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocate {
    /// For how many days; nothing or less gives back.
    pub timeline: i64,
    /// What the machine must have at least; see [`Allocate::requirement`].
    pub device_requirement: Map<String, Value>,
    /// Only asks, and changes nothing.
    pub checking: bool,
    /// Where the answer stands.
    pub output: Map<String, Value>,
    /// The caller's RSA key in PEM, for which the answer is encrypted, and which later is the only proof of ownership.
    pub public_key: String,
    /// What the container should be; see [`DockerRequirement`].
    pub docker_requirement: Map<String, Value>,
    /// Changes an allocation that exists.
    pub docker_change: bool,
    /// Which change; see [`DockerAction`].
    pub docker_action: Map<String, Value>,
}

/// The fields of `docker_requirement`. A caller's dictionary replaces the defaults as a whole, so each may be absent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DockerRequirement {
    /// The image.
    pub base_image: Option<String>,
    /// The key that may enter.
    pub ssh_key: Option<String>,
    /// The port; the node overwrites it with its own.
    pub ssh_port: Option<u16>,
    /// A mount point.
    pub volume_path: Option<String>,
    /// A line for the image's build.
    pub dockerfile: Option<String>,
}

/// The fields of `docker_action`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DockerAction {
    /// `exchange_key`, `restart`, `pause`, `unpause` or `resume`.
    pub action: Option<String>,
    /// The new key.
    pub ssh_key: Option<String>,
    /// `user` or `terminal`.
    pub key_type: Option<String>,
}

/// `/Challenge`: what is left of a proof of work that 1.9.0 does not do any more.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Challenge {
    /// The hash whose preimage was looked for.
    pub challenge_hash: String,
    /// Its salt.
    pub challenge_salt: String,
    /// The hash function, by hashcat's number.
    pub challenge_mode: String,
    /// The alphabet.
    pub challenge_chars: String,
    /// The mask.
    pub challenge_mask: String,
    /// The length of the preimage.
    pub challenge_difficulty: i64,
    /// Where the answer would stand.
    pub output: Map<String, Value>,
}

/// `/Specs`: a node's own report about its hardware.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Specs {
    /// What should be run to find out.
    pub specs_input: String,
    /// What came of it.
    pub specs_output: String,
}

/// A body that is none of this synapse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynapseError {
    /// No JSON.
    #[error("the body is no JSON")]
    Json(#[source] serde_json::Error),
    /// JSON with another shape.
    #[error("the body is no {name}")]
    Shape {
        /// The synapse.
        name: &'static str,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
}

// === impl Body ===

impl Body for Ping {
    const NAME: &'static str = "Synapse";
}

impl Body for Allocate {
    const NAME: &'static str = "Allocate";
}

impl Body for Challenge {
    const NAME: &'static str = "Challenge";
}

impl Body for Specs {
    const NAME: &'static str = "Specs";
}

// === impl Synapse ===

impl<B: Body> Synapse<B> {
    /// Reads a body. The name that it states is not looked at: the path has said it.
    ///
    /// # Errors
    /// Where it is no JSON, or none of this synapse. The two have different statuses.
    pub fn parse(bytes: &[u8]) -> Result<Self, SynapseError> {
        read(bytes, B::NAME)
    }

    /// The bytes of the body.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("synapses have text keys and plain values")
    }
}

// === impl Received ===

impl<B: Body> Received<B> {
    /// Reads a body. The name that it states is not looked at: the path has said it.
    ///
    /// # Errors
    /// Where it is no JSON, or none of this synapse. The two have different statuses.
    pub fn parse(bytes: &[u8]) -> Result<Self, SynapseError> {
        read(bytes, B::NAME)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8], name: &'static str) -> Result<T, SynapseError> {
    let error = match serde_json::from_slice(bytes) {
        Ok(synapse) => return Ok(synapse),
        Err(error) => error,
    };
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Ok(_) => Err(SynapseError::Shape { name, source: error }),
        Err(error) => Err(SynapseError::Json(error)),
    }
}

// === impl Allocate ===

impl Default for Allocate {
    fn default() -> Self {
        Self {
            timeline: 0,
            device_requirement: Map::new(),
            checking: true,
            output: Map::new(),
            public_key: String::new(),
            docker_requirement: map(json!({
                "base_image": "ubuntu",
                "ssh_key": "",
                "ssh_port": 4444,
                "volume_path": "/tmp",
                "dockerfile": "",
            })),
            docker_change: false,
            docker_action: map(json!({ "action": "", "ssh_key": "", "key_type": "" })),
        }
    }
}

impl Allocate {
    /// What the machine must have at least.
    ///
    /// # Errors
    /// When a field of it is not of its kind.
    pub fn requirement(&self) -> Result<Requirement, RequirementError> {
        Requirement::parse(&self.device_requirement)
    }

    /// What the container should be.
    ///
    /// # Errors
    /// When a field of it is not of its kind.
    pub fn docker(&self) -> Result<DockerRequirement, SynapseError> {
        view(&self.docker_requirement)
    }

    /// Which change is asked for.
    ///
    /// # Errors
    /// When a field of it is not of its kind.
    pub fn action(&self) -> Result<DockerAction, SynapseError> {
        view(&self.docker_action)
    }
}

fn view<T: DeserializeOwned>(fields: &Map<String, Value>) -> Result<T, SynapseError> {
    serde_json::from_value(Value::Object(fields.clone()))
        .map_err(|source| SynapseError::Shape { name: Allocate::NAME, source })
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

// === impl Challenge ===

impl Default for Challenge {
    fn default() -> Self {
        Self {
            challenge_hash: String::new(),
            challenge_salt: String::new(),
            challenge_mode: String::new(),
            challenge_chars: String::new(),
            challenge_mask: String::new(),
            challenge_difficulty: 7,
            output: Map::new(),
        }
    }
}
