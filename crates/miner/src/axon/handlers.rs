//! The synapses that change nothing.

use nicompute_wire::axon::{Challenge, Specs};
use serde_json::json;

const NO_SELF_REPORT: &str = "a node's own report of its hardware is no evidence and is not given here; \
     GET /v1/node shows the machine as a claim, a proof lease shows what it can do";

/// `/Challenge`: 1.9.0 does no proof of work any more and gives back what it was given. So does this door.
pub(super) const fn challenge(asked: Challenge) -> Challenge {
    asked
}

/// `/Specs`: 1.9.0 defines it and serves it not. Here it is served, and says why it says nothing.
pub(super) fn specs(asked: Specs) -> Specs {
    let output = json!({ "status": false, "message": NO_SELF_REPORT });
    Specs { specs_output: output.to_string(), ..asked }
}
