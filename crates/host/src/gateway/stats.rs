//! What the gateway has seen since it began, for the node's metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start, and what is open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GatewayStats {
    /// SSH connections that came.
    pub connections: u64,
    /// Logins that were let in.
    pub logins: u64,
    /// Clients that knew their key or password and found no room.
    pub logins_without_room: u64,
    /// Passwords that were wrong or came too often.
    pub passwords_refused: u64,
    /// Connections to published ports.
    pub published_connections: u64,
    /// Connections to published ports that were not served: no room, nothing listening, or no answer from inside.
    pub published_refused: u64,
    /// Connections now whose client is not known yet.
    pub half_open: usize,
    /// Clients inside now.
    pub inside: usize,
    /// Channels open into all leases now.
    pub channels: usize,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    logins: AtomicU64,
    logins_without_room: AtomicU64,
    passwords_refused: AtomicU64,
    published: AtomicU64,
    published_refused: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn connection(&self) {
        add(&self.connections);
    }

    pub(super) fn login(&self) {
        add(&self.logins);
    }

    pub(super) fn login_without_room(&self) {
        add(&self.logins_without_room);
    }

    pub(super) fn password_refused(&self) {
        add(&self.passwords_refused);
    }

    pub(super) fn published(&self) {
        add(&self.published);
    }

    pub(super) fn published_refused(&self) {
        add(&self.published_refused);
    }

    /// The counts; what is open now is not known here.
    pub(super) fn read(&self) -> GatewayStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GatewayStats {
            connections: read(&self.connections),
            logins: read(&self.logins),
            logins_without_room: read(&self.logins_without_room),
            passwords_refused: read(&self.passwords_refused),
            published_connections: read(&self.published),
            published_refused: read(&self.published_refused),
            ..GatewayStats::default()
        }
    }
}
