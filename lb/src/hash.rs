//! The hash of everything that has to be the same on every node, and in the next process.

use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::spec::Backend;

/// Offset basis and prime of FNV-1a with 64 bits.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

pub(crate) fn of_bytes(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let sum = bytes.into_iter().fold(FNV_BASIS, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
    });
    // FNV leaves the low bits of similar keys alike; the finalizer of MurmurHash3 mixes them.
    let sum = (sum ^ sum >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let sum = (sum ^ sum >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    sum ^ sum >> 33
}

pub(crate) fn of_backend(seed: u64, backend: &Backend) -> u64 {
    let octets = match backend.address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let port = backend.port.map_or(0, NonZeroU16::get).to_be_bytes();
    of_bytes(seed.to_be_bytes().into_iter().chain(octets).chain(port))
}
