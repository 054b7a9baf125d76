//! A lease's way to the internet, where it was sold one: laid when its container runs, and removed after it.

use std::time::Duration;

use nicompute_daemon::{CancellationToken, ErrorChain};
use nicompute_host::net::NetError;
use nicompute_host::runtime::Network as Wanted;
use nicompute_market::{Lease, LeaseId};

use super::{DriveError, LOOK_EVERY, Reconciler};
use crate::fuse::KillPoint;
use crate::leases::host_options;

/// What tenants with a network resolve names by; runtimes mount it.
const RESOLV_CONF: &str = "resolv.conf";
/// Between two mends: whoever changes rules changes many.
const MEND_PAUSE: Duration = Duration::from_millis(200);

impl Reconciler {
    /// What the runtime finds in the lease's directory when it makes the container.
    pub(super) async fn before_container(&self, lease: &Lease) -> Result<(), DriveError> {
        if !is_wired(lease) {
            return Ok(());
        }
        let network = self.network.as_ref().ok_or(DriveError::NoNetwork)?;
        let path = self.places.lease_dir(lease.terms.id).join(RESOLV_CONF);
        tokio::fs::write(&path, network.resolv_conf())
            .await
            .map_err(|source| DriveError::Directory { path, source })
    }

    /// Wires a container that was just started.
    pub(super) async fn wire(&self, lease: &Lease, init_pid: u32) -> Result<(), DriveError> {
        if !is_wired(lease) {
            return Ok(());
        }
        let (id, network) = (lease.terms.id, self.network.as_ref());
        let wire = network.ok_or(DriveError::NoNetwork)?.attach(id, init_pid).await?;
        if self.memory.set_wired(id, init_pid) {
            tracing::info!(lease = %id, address = %wire.address, "wired");
        }
        self.store.fuse().reached(KillPoint::Wired).await;
        Ok(())
    }

    /// Wires a container that runs, unless this process has done it already.
    pub(super) async fn keep_wired(&self, lease: &Lease, init_pid: u32) -> Result<(), DriveError> {
        if self.memory.is_wired(lease.terms.id, init_pid) {
            return Ok(());
        }
        self.wire(lease, init_pid).await
    }

    /// Puts rules back as soon as somebody removed some, until the node stops. The looks from time to time find what is not
    /// heard here.
    pub(super) async fn keep_rules(&self, stop: &CancellationToken) {
        let Some(network) = &self.network else { return };
        loop {
            let heard = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                heard = network.disturbed() => heard,
            };
            if let Err(error) = heard {
                tracing::warn!(error = %ErrorChain(&error), "changes of the packet filter are not heard of");
                self.clock.sleep(LOOK_EVERY).await;
                continue;
            }
            // Twice: while the rules are put back and for a moment nobody listens.
            for pause in [MEND_PAUSE, Duration::ZERO] {
                if let Err(error) = self.mend_network().await {
                    tracing::error!(error = %ErrorChain(&error), "the tenants' rules cannot be put back");
                }
                self.clock.sleep(pause).await;
            }
        }
    }

    pub(super) async fn unwire(&self, id: LeaseId) -> Result<(), DriveError> {
        if let Some(network) = &self.network {
            network.detach(id).await?;
            self.store.fuse().reached(KillPoint::Unwired).await;
        }
        Ok(())
    }

    /// The leases that have a wire on this machine.
    pub(super) async fn wired(&self) -> Result<Vec<LeaseId>, NetError> {
        match &self.network {
            Some(network) => network.leases().await,
            None => Ok(Vec::new()),
        }
    }

    /// Puts the network's rules right, whoever changed them.
    pub(super) async fn mend_network(&self) -> Result<(), NetError> {
        match &self.network {
            Some(network) => network.mend().await,
            None => Ok(()),
        }
    }
}

/// Whether it was sold one.
pub(super) fn is_wired(lease: &Lease) -> bool {
    host_options(&lease.terms.options).network == Wanted::Egress
}
