use serde::{Deserialize, Serialize};

/// What a backend of a service has taken and answered since it was attached, and what it has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendNumbers {
    /// Flows that it has now.
    pub connections: u64,
    /// Connections that others have begun to it.
    pub connections_total: u64,
    /// Packets from those who began them.
    pub packets_in: u64,
    /// IP packets' bytes from them.
    pub bytes_in: u64,
    /// Packets to them.
    pub packets_out: u64,
    /// IP packets' bytes to them.
    pub bytes_out: u64,
}
