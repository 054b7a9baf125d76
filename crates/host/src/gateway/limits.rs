//! How much the gateway takes on. Each number is reached by a test.

use std::time::Duration;

/// Connections at once, known or not.
const CONNECTIONS_MAX: usize = 512;
/// Connections at once into one lease.
const CONNECTIONS_PER_LEASE_MAX: usize = 128;
/// Channels at once on one connection.
const CHANNELS_PER_CONNECTION_MAX: usize = 64;
/// Channels at once into one lease; the agent has its own limit above it.
const CHANNELS_PER_LEASE_MAX: usize = 256;
/// Authentication attempts on one connection. A client with a full agent tries each of its keys.
const AUTH_ATTEMPTS_MAX: usize = 10;
/// From the first byte to a known client.
const LOGIN_LIMIT: Duration = Duration::from_secs(20);
/// For an agent to be there, and again for it to answer: a paused container, or a gateway that has just begun.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// For an agent's greeting.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Data on its way into one channel. SSH windows are refilled on arrival, so this is what a stalled program costs before
/// its connection waits for it.
const UPLOAD_PER_CHANNEL_MAX: usize = 8 << 20;
/// Data on its way into one lease.
const UPLOAD_PER_LEASE_MAX: usize = 64 << 20;

/// The limits of one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once, known or not.
    pub connections: usize,
    /// Connections at once into one lease.
    pub connections_per_lease: usize,
    /// Channels at once on one connection.
    pub channels_per_connection: usize,
    /// Channels at once into one lease.
    pub channels_per_lease: usize,
    /// Authentication attempts on one connection.
    pub auth_attempts: usize,
    /// From the first byte to a known client.
    pub login: Duration,
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
            channels_per_connection: CHANNELS_PER_CONNECTION_MAX,
            channels_per_lease: CHANNELS_PER_LEASE_MAX,
            auth_attempts: AUTH_ATTEMPTS_MAX,
            login: LOGIN_LIMIT,
            agent: AGENT_LIMIT,
            hello: HELLO_LIMIT,
            upload_per_channel: UPLOAD_PER_CHANNEL_MAX,
            upload_per_lease: UPLOAD_PER_LEASE_MAX,
        }
    }
}
