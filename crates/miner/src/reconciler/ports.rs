//! The ports of a lease that others reach. One that cannot be had costs nobody a lease: it is said, and tried again at
//! each look.

use nicompute_daemon::ErrorChain;
use nicompute_market::{Lease, LeaseState, PublishedPort};

use super::Reconciler;
use crate::store::StoreError;

/// How often a port that another program has is given up for another one in one look.
const MOVES_MAX: usize = 8;

impl Reconciler {
    /// Has the lease's ports reached. Asking again changes nothing.
    pub(super) async fn publish(&self, lease: &Lease) -> Result<(), StoreError> {
        for port in &lease.published {
            self.publish_one(lease, *port).await?;
        }
        Ok(())
    }

    async fn publish_one(&self, lease: &Lease, mut port: PublishedPort) -> Result<(), StoreError> {
        let (id, inside) = (lease.terms.id, port.container_port);
        for _ in 0..MOVES_MAX {
            let refused = match self.routes.publish(id, port) {
                Ok(()) => {
                    self.ports.set(id, inside, None);
                    return Ok(());
                }
                Err(refused) => refused,
            };
            if self.ports.set(id, inside, Some(refused.shown)) {
                let error = ErrorChain(&refused);
                tracing::warn!(lease = %id, inside, port = port.port, %error, "a port is not reached");
            }
            // Once the lease runs, its ports were told to people.
            if !refused.other_port_may_do || lease.state != LeaseState::Preparing {
                return Ok(());
            }
            match self.store.move_port(id, port, self.offers.capacity().ports).await? {
                Some(moved) => port = moved,
                None => return Ok(()),
            }
        }
        Ok(())
    }
}
