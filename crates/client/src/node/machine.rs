//! What a node can be asked about machines: its lease's GPUs, and the asker's own ports.

use std::time::Duration;

use nicompute_market::LeaseId;
use nicompute_wire::gpus::LeaseGpusView;
use nicompute_wire::probe::{ProbeRequest, ProbeView};
use reqwest::Method;

use super::{NodeClient, NodeError};

impl NodeClient {
    /// How the GPUs of a lease are, in the words of the provider's driver.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or does not know the lease.
    pub async fn lease_gpus(
        &self,
        id: LeaseId,
        budget: Duration,
    ) -> Result<LeaseGpusView, NodeError> {
        self.get(&format!("/v1/leases/{id}/gpus"), budget).await
    }

    /// Lets the node try our own ports, at the address that it sees us under.
    ///
    /// # Errors
    /// When the node cannot be asked, is not believed, or refuses.
    pub async fn probe(
        &self,
        request: &ProbeRequest,
        budget: Duration,
    ) -> Result<ProbeView, NodeError> {
        self.send(Method::POST, "/v1/probe", Some(request), budget).await
    }
}
