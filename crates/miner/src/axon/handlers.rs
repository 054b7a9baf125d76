//! What the door answers. It changes nothing on the machine: leases are given by the node API alone.

use nicompute_wire::axon::{Allocate, Challenge, Specs, Verified};
use serde_json::{Map, Value, json};

use super::Door;
use crate::store::StoreError;

/// The words of a refusal that every peer can show.
const NO_LEASES_HERE: &str =
    "this node gives leases through its node API alone (POST /v1/leases, signed with btauth/1)";
const NO_CHANGES_HERE: &str =
    "this node changes leases through its node API alone (/v1/leases, signed with btauth/1)";
const NONE_OF_THIS_KEY: &str = "no lease of this node was made through the v1.9.0 door";
const OCCUPIED: &str = "the machine is leased, or has no image to start";
const NO_SELF_REPORT: &str = "a node's own report of its hardware is no evidence and is not given here; \
     GET /v1/node shows the machine as a claim, a proof lease shows what it can do";

impl Door {
    /// `/Allocate`: says whether the machine could be had now; all that changes something is refused in words.
    pub(super) async fn allocate(
        &self,
        caller: &Verified,
        asked: Allocate,
    ) -> Result<Allocate, StoreError> {
        let outcome = match (asked.checking, asked.docker_change) {
            (true, _) if asked.timeline > 0 => self.could_be_had(&asked).await?,
            (true, _) => Err(NONE_OF_THIS_KEY.to_owned()),
            (false, true) => Err(NO_CHANGES_HERE.to_owned()),
            (false, false) => Err(NO_LEASES_HERE.to_owned()),
        };
        tracing::debug!(caller = %caller.account, checking = asked.checking, free = outcome.is_ok(), "asked to allocate");
        let mut output = Map::new();
        output.insert("status".to_owned(), Value::Bool(outcome.is_ok()));
        if let Err(message) = outcome {
            output.insert("message".to_owned(), Value::String(message));
        }
        output.insert("port".to_owned(), json!(self.ssh_port));
        let mut answered = Allocate { output, ..asked };
        answered.docker_requirement.insert("ssh_port".to_owned(), json!(self.ssh_port));
        Ok(answered)
    }

    async fn could_be_had(&self, asked: &Allocate) -> Result<Result<(), String>, StoreError> {
        let requirement = match asked.requirement() {
            Ok(requirement) => requirement,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if let Some(field) = requirement.missing(self.offers.machine()) {
            return Ok(Err(format!("the machine has less than device_requirement.{field}")));
        }
        let free = self.offers.current(&self.store).await?.available;
        Ok(if free { Ok(()) } else { Err(OCCUPIED.to_owned()) })
    }
}

/// `/Challenge`: 1.9.0 does no proof of work any more and gives back what it was given. So does this door.
pub(super) const fn challenge(asked: Challenge) -> Challenge {
    asked
}

/// `/Specs`: 1.9.0 defines it and serves it not. Here it is served, and says why it says nothing.
pub(super) fn specs(asked: Specs) -> Specs {
    let output = json!({ "status": false, "message": NO_SELF_REPORT });
    Specs { specs_output: output.to_string(), ..asked }
}
