//! How much the gateway takes on. Each number is reached by a test.

use std::time::Duration;

/// Clients inside at once, in all leases together.
const CONNECTIONS_MAX: usize = 1024;
/// Clients inside one lease at once.
const CONNECTIONS_PER_LEASE_MAX: usize = 128;
/// Clients that one lease may have inside however full the gateway is.
const CONNECTIONS_RESERVED_PER_LEASE: usize = 8;
/// Connections of clients that are not known yet.
const HALF_OPEN_MAX: usize = 256;
/// The same from one address: a hundred logins at once are an Ansible run.
const HALF_OPEN_PER_ADDRESS_MAX: usize = 128;
/// Channels at once on one connection.
const CHANNELS_PER_CONNECTION_MAX: usize = 64;
/// Channels at once into one lease; the agent has its own limit above it.
const CHANNELS_PER_LEASE_MAX: usize = 256;
/// Ports and sockets that one connection may have listened on inside (`-R`).
const FORWARDS_PER_CONNECTION_MAX: usize = 16;
/// Published ports of one lease.
const PUBLISHED_PER_LEASE_MAX: usize = 32;
/// Connections at once to published ports, of all leases together. A lease that has fewer than its reserved number gets
/// more regardless.
const PUBLISHED_CONNECTIONS_MAX: usize = 4096;
/// Connections at once to the published ports of one lease.
const PUBLISHED_CONNECTIONS_PER_LEASE_MAX: usize = 256;
/// The same from one address, so that nobody can take them all.
const PUBLISHED_CONNECTIONS_PER_ADDRESS_MAX: usize = 128;
/// A connection to a published port in which no byte goes either way ends after this time.
const PUBLISHED_IDLE_LIMIT: Duration = Duration::from_hours(1);
/// Of the process's descriptors the gateway's clients take this part at most; agents, ports, files and the rest of the
/// node need the others.
const DESCRIPTORS_PART: usize = 2;
/// Of what the gateway's clients leave, connections to published ports take half at most.
const PUBLISHED_PART: usize = 4;
/// Authentication attempts on one connection. A client with a full agent tries each of its keys.
const AUTH_ATTEMPTS_MAX: usize = 10;
/// From the first byte to a known client.
const LOGIN_LIMIT: Duration = Duration::from_secs(20);
/// For an agent to be there, and again for it to answer: a paused container, or a gateway that has just begun.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// For an agent's greeting.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Clients that say nothing are asked after this time whether they are there; three questions without an answer end them.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Data on its way into one channel, before its connection waits for it. A channel is slowed down long before, but not
/// stopped while others of its connection go on.
const UPLOAD_PER_CHANNEL_MAX: usize = 32 << 20;
/// Data on its way into one lease.
const UPLOAD_PER_LEASE_MAX: usize = 64 << 20;

/// The limits of one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Clients inside at once, in all leases together. A lease that has fewer than `connections_reserved_per_lease`
    /// inside gets in regardless.
    pub connections: usize,
    /// Clients inside one lease at once.
    pub connections_per_lease: usize,
    /// Clients that one lease may have inside however full the gateway is.
    pub connections_reserved_per_lease: usize,
    /// Connections of clients that are not known yet; the oldest make room.
    pub half_open: usize,
    /// The same from one address (one network of version 6).
    pub half_open_per_address: usize,
    /// Channels at once on one connection.
    pub channels_per_connection: usize,
    /// Channels at once into one lease.
    pub channels_per_lease: usize,
    /// Ports and sockets that one connection may have listened on inside.
    pub forwards_per_connection: usize,
    /// Published ports of one lease.
    pub published_per_lease: usize,
    /// Connections at once to published ports, of all leases together. A lease that has fewer than
    /// `connections_reserved_per_lease` gets more regardless.
    pub published_connections: usize,
    /// Connections at once to the published ports of one lease.
    pub published_connections_per_lease: usize,
    /// The same from one address (one network of version 6).
    pub published_connections_per_address: usize,
    /// How long a connection to a published port may last in which no byte goes either way.
    pub published_idle: Duration,
    /// Authentication attempts on one connection.
    pub auth_attempts: usize,
    /// From the first byte to a known client.
    pub login: Duration,
    /// How long a session may last in which no byte goes either way; none means for as long as the lease.
    pub idle: Option<Duration>,
    /// How long any connection may last; none means for as long as the lease.
    pub total: Option<Duration>,
    /// When a silent client is asked whether it is there.
    pub keepalive: Duration,
    /// For an agent to be there, and again for it to answer.
    pub agent: Duration,
    /// For an agent's greeting.
    pub hello: Duration,
    /// Bytes on their way into one channel.
    pub upload_per_channel: usize,
    /// Bytes on their way into one lease.
    pub upload_per_lease: usize,
}

impl Limits {
    /// The limits of a provider's node.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            connections_per_lease: CONNECTIONS_PER_LEASE_MAX,
            connections_reserved_per_lease: CONNECTIONS_RESERVED_PER_LEASE,
            half_open: HALF_OPEN_MAX,
            half_open_per_address: HALF_OPEN_PER_ADDRESS_MAX,
            channels_per_connection: CHANNELS_PER_CONNECTION_MAX,
            channels_per_lease: CHANNELS_PER_LEASE_MAX,
            forwards_per_connection: FORWARDS_PER_CONNECTION_MAX,
            published_per_lease: PUBLISHED_PER_LEASE_MAX,
            published_connections: PUBLISHED_CONNECTIONS_MAX,
            published_connections_per_lease: PUBLISHED_CONNECTIONS_PER_LEASE_MAX,
            published_connections_per_address: PUBLISHED_CONNECTIONS_PER_ADDRESS_MAX,
            published_idle: PUBLISHED_IDLE_LIMIT,
            auth_attempts: AUTH_ATTEMPTS_MAX,
            login: LOGIN_LIMIT,
            idle: None,
            total: None,
            keepalive: KEEPALIVE_INTERVAL,
            agent: AGENT_LIMIT,
            hello: HELLO_LIMIT,
            upload_per_channel: UPLOAD_PER_CHANNEL_MAX,
            upload_per_lease: UPLOAD_PER_LEASE_MAX,
        }
    }

    /// The standard limits, or as much of them as the descriptors of this process allow.
    #[must_use]
    pub fn of_this_process() -> Self {
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors =
            allowed.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let limits = Self::standard().within(descriptors);
        if limits != Self::standard() {
            let (inside, half_open) = (limits.connections, limits.half_open);
            let published = limits.published_connections;
            tracing::warn!(
                descriptors,
                inside,
                half_open,
                published,
                "the gateway takes fewer connections for want of descriptors"
            );
        }
        limits
    }

    /// No more clients than fit beside everything else. Both kinds shrink alike.
    #[must_use]
    pub fn within(self, descriptors: usize) -> Self {
        let (room, wanted) = (descriptors / DESCRIPTORS_PART, self.connections + self.half_open);
        let published_connections =
            self.published_connections.min((descriptors / PUBLISHED_PART).max(1));
        if wanted <= room {
            return Self { published_connections, ..self };
        }
        let share = |limit: usize| (limit.saturating_mul(room) / wanted).max(1);
        Self {
            published_connections,
            connections: share(self.connections),
            half_open: share(self.half_open),
            half_open_per_address: share(self.half_open_per_address),
            connections_per_lease: share(self.connections_per_lease),
            connections_reserved_per_lease: share(self.connections_reserved_per_lease),
            published_connections_per_lease: share(self.published_connections_per_lease),
            published_connections_per_address: share(self.published_connections_per_address),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits over what the process may open are no limits: the node's own doors fail first.
    #[test]
    fn limits_fit_the_descriptors() {
        let standard = Limits::standard();
        assert_eq!(standard.within(1 << 20), standard);
        assert_eq!(Limits { published_connections: 4096, ..standard.within(2560) }, standard);
        assert_eq!(standard.within(2560).published_connections, 640);
        for descriptors in [64, 256, 1024, 2559] {
            let limits = standard.within(descriptors);
            assert!(limits.connections + limits.half_open <= descriptors / 2, "{limits:?}");
            assert!(limits.published_connections <= descriptors / 4, "{limits:?}");
            assert!(limits.connections >= 1 && limits.connections_reserved_per_lease >= 1);
        }
    }
}
