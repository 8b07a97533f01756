use std::time::Duration;

/// What one agent spends on its peers at most. Beyond it, work is refused and counted.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame body of a member, bytes: a snapshot travels in several.
    pub max_frame: usize,
    /// Largest frame body of a stranger, bytes: a join request is under 4 KiB.
    pub max_stranger_frame: usize,
    /// Streams that a member may have open on one connection, calls included.
    pub max_streams: u32,
    /// The same for a stranger.
    pub max_stranger_streams: u32,
    /// Connections that members have opened to us, together.
    pub max_connections: usize,
    /// Connections that one member has opened to us; one more closes the oldest.
    pub max_connections_per_node: usize,
    /// Connections for peering that members have opened to us, together.
    pub max_peerings: usize,
    /// Connections for peering that one member has opened to us: the one that counts, and what
    /// comes and goes around it.
    pub max_peerings_per_node: usize,
    /// Connections of strangers, together.
    pub max_stranger_connections: usize,
    /// Handshakes under way that others began.
    pub max_handshakes: usize,
    /// Handshakes under way from which on an address must prove itself first (QUIC Retry,
    /// RFC 9000 section 8.1.2).
    pub retry_above: usize,
    /// Calls of members in work, together.
    pub max_calls: usize,
    /// Calls of strangers in work, together.
    pub max_stranger_calls: usize,
    /// Long-lived streams of members, together.
    pub max_open_streams: usize,
    /// Bytes of request bodies held for calls in work.
    pub max_request_bytes: usize,
    /// Addresses that we keep connections to.
    pub max_peers: usize,
    /// A peer that is silent for so long is gone.
    pub idle_timeout: Duration,
    /// How often the side that dialled says that it is there. Several times shorter than
    /// `idle_timeout`.
    pub keep_alive: Duration,
    /// A handshake takes no longer, in either direction.
    pub handshake_timeout: Duration,
    /// Of two nodes that want a session, the one with the higher id leaves the dialling to the other
    /// for so long.
    pub peering_patience: Duration,
    /// A request must have arrived whole after so long.
    pub request_timeout: Duration,
    /// A handler takes no longer over a call.
    pub handler_timeout: Duration,
    /// A stranger's connection lasts no longer.
    pub stranger_lifetime: Duration,
    /// Wanted size of the socket's buffers, bytes; the kernel may grant less.
    pub socket_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame: 16 << 20,
            max_stranger_frame: 64 << 10,
            max_streams: 256,
            max_stranger_streams: 4,
            max_connections: 1024,
            max_connections_per_node: 8,
            max_peerings: 4096,
            max_peerings_per_node: 4,
            max_stranger_connections: 64,
            max_handshakes: 128,
            retry_above: 32,
            max_calls: 1024,
            max_stranger_calls: 16,
            max_open_streams: 2048,
            max_request_bytes: 256 << 20,
            max_peers: 1024,
            idle_timeout: Duration::from_millis(1500),
            keep_alive: Duration::from_millis(200),
            handshake_timeout: Duration::from_secs(2),
            peering_patience: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            handler_timeout: Duration::from_secs(60),
            stranger_lifetime: Duration::from_secs(70),
            socket_buffer: 4 << 20,
        }
    }
}
