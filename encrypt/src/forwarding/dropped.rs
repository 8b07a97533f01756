//! Why a frame went nowhere.

use serde::{Deserialize, Serialize};

/// Why a frame from or for the bridge goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Dropped {
    /// Not even an Ethernet header.
    #[error("frame is shorter than an ethernet header")]
    Short,
    /// No endpoint has this MAC address: the bridge does not know it either, and floods.
    #[error("no endpoint on another node has the destination mac address")]
    UnknownDestination,
    /// Asked was for an address that no endpoint on another node has.
    #[error("address asked for is of no endpoint on another node")]
    UnknownNeighbour,
    /// Broadcast or multicast, in a network that has none.
    #[error("network copies no broadcasts and multicasts: --multicast does")]
    NotFlooded,
    /// The tunnel end is of no peer that shares the network.
    #[error("tunnel end of the endpoint is of no peer that shares the network")]
    NoPeer,
    /// The underlay was congested, and the frame's sender knows no marks
    /// ([`Congested`](super::ecn::Congested)).
    #[error("congested underlay marked a packet whose sender does not know marks")]
    Congested,
    /// The bridge did not take it.
    #[error("the kernel did not take the frame for the bridge")]
    Undelivered,
}

/// How many frames went nowhere, by [`Dropped`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is documented at the variant of Dropped that has its name"
)]
pub struct DropCounters {
    pub short: u64,
    pub unknown_destination: u64,
    pub unknown_neighbour: u64,
    pub not_flooded: u64,
    pub no_peer: u64,
    pub congested: u64,
    pub undelivered: u64,
}

impl DropCounters {
    /// Counts so many frames.
    pub fn count(&mut self, cause: Dropped, frames: u64) {
        let counter = match cause {
            Dropped::Short => &mut self.short,
            Dropped::UnknownDestination => &mut self.unknown_destination,
            Dropped::UnknownNeighbour => &mut self.unknown_neighbour,
            Dropped::NotFlooded => &mut self.not_flooded,
            Dropped::NoPeer => &mut self.no_peer,
            Dropped::Congested => &mut self.congested,
            Dropped::Undelivered => &mut self.undelivered,
        };
        *counter = counter.wrapping_add(frames);
    }
}
