//! What is counted in a namespace, and what was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::ops::AddAssign;

use crate::spec::Protocol;

/// Most addresses, and most ports, that a namespace counts for: a service may have 1,024 ports.
pub const BACKENDS_MAX: usize = 4096;
/// `IFNAMSIZ` without the zero byte at the end.
const IFNAME_MAX: usize = 15;

/// Whose connections are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsSpec {
    /// Addresses of backends: what comes to them by any device but the leg.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Name of the device by which published ports come. It need not be there.
    pub leg: String,
    /// Ports of backends that are published: what comes to them by the leg.
    pub ports: BTreeSet<(Protocol, NonZeroU16)>,
}

/// What was counted of one backend's address or port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that others began.
    pub connections: u64,
    /// Packets from those who began them.
    pub packets_in: u64,
    /// IP packets' bytes from them.
    pub bytes_in: u64,
    /// Packets to them.
    pub packets_out: u64,
    /// IP packets' bytes to them.
    pub bytes_out: u64,
}

/// What was counted in a namespace, since the address or port came into its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By address, by any device but the leg.
    pub addresses: BTreeMap<Ipv4Addr, Counts>,
    /// By port, by the leg.
    pub ports: BTreeMap<(Protocol, NonZeroU16), Counts>,
}

/// No table can count that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatsSpecError {
    /// Not a name that a device can have.
    #[error("no device is called `{0}`: a name has 1 to {IFNAME_MAX} bytes, none of them zero")]
    Leg(String),
    /// More than a table has room for.
    #[error(
        "{0} addresses or ports of one container are too many to count; at most {BACKENDS_MAX}"
    )]
    TooMany(usize),
}

impl StatsSpec {
    pub(super) fn check(&self) -> Result<(), StatsSpecError> {
        let leg = &self.leg;
        if leg.is_empty() || leg.len() > IFNAME_MAX || leg.contains('\0') {
            return Err(StatsSpecError::Leg(leg.escape_debug().to_string()));
        }
        let most = self.addresses.len().max(self.ports.len());
        match most > BACKENDS_MAX {
            true => Err(StatsSpecError::TooMany(most)),
            false => Ok(()),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
    }
}
