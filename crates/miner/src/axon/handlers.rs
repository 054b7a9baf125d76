//! What the door answers. It changes nothing on the machine: leases are given by the node API alone.

use nicompute_wire::axon::{Allocate, Challenge, Specs};
use serde_json::{Map, Value, json};

use super::Door;

/// The words of a refusal that every peer can show.
const NO_LEASES_HERE: &str =
    "this node gives leases through its node API alone (POST /v1/leases, signed with btauth/1)";
const NO_CHANGES_HERE: &str =
    "this node changes leases through its node API alone (/v1/leases, signed with btauth/1)";
const NONE_OF_THIS_KEY: &str = "no lease of this node was made through the v1.9.0 door";
const NO_SELF_REPORT: &str = "a node's own report of its hardware is no evidence and is not given here; \
     GET /v1/node shows the machine as a claim, a proof lease shows what it can do";

impl Door {
    /// `/Allocate`: refused in words. A check is answered as the order would be that follows it: a yes would only lead its
    /// caller into an order that must fail.
    pub(super) fn allocate(&self, asked: Allocate) -> Allocate {
        let message = match (asked.checking, asked.docker_change) {
            (true, _) if asked.timeline <= 0 => NONE_OF_THIS_KEY.to_owned(),
            (false, true) => NO_CHANGES_HERE.to_owned(),
            (true, _) | (false, false) => self.no_lease(&asked),
        };
        tracing::debug!(checking = asked.checking, why = message, "asked to allocate");
        let output = Map::from_iter([
            ("status".to_owned(), Value::Bool(false)),
            ("message".to_owned(), Value::String(message)),
            ("port".to_owned(), json!(self.ssh_port)),
        ]);
        let mut answered = Allocate { output, ..asked };
        answered.docker_requirement.insert("ssh_port".to_owned(), json!(self.ssh_port));
        answered
    }

    /// Why no lease comes of it: what the machine lacks, or else that this door gives none.
    fn no_lease(&self, asked: &Allocate) -> String {
        match asked.requirement().map(|requirement| requirement.missing(self.offers.machine())) {
            Err(error) => error.to_string(),
            Ok(Some(field)) => format!("the machine has less than device_requirement.{field}"),
            Ok(None) => NO_LEASES_HERE.to_owned(),
        }
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
