use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address of an endpoint that did not ask for one: `02:42:` and its IPv4 address, as
    /// Docker's users know it. An address that is used again keeps its MAC, so neighbours' caches
    /// stay right.
    pub const fn from_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The address of an endpoint without IPv4 that did not ask for one: `02:46:` and the last 32 bits of
    /// its IPv6 address. Those may be the same of two addresses, so the number of those that are
    /// taken, `attempt`, is added.
    pub const fn from_ipv6(ip: Ipv6Addr, attempt: u32) -> Self {
        let [.., a, b, c, d] = ip.octets();
        let number = u32::from_be_bytes([a, b, c, d]).wrapping_add(attempt);
        let [a, b, c, d] = number.to_be_bytes();
        Self([0x02, 0x46, a, b, c, d])
    }

    /// Whether it can name one interface: not multicast (first bit) and not all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is not a MAC address; write it like 02:42:0a:00:01:02");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() {
            Err(refused())
        } else {
            Ok(Self(bytes))
        }
    }
}
