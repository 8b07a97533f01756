//! The port by which an encrypted network's bridge reaches the data path, where the kernel's VXLAN
//! devices do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::forwarding::{DropCounters, Mac};

/// What the port of one encrypted network has to be: a device in its sandbox that is a port of its
/// bridge. Whoever has the sandbox makes it one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// The sandbox: path of a network namespace. It need not be there yet.
    pub netns: PathBuf,
    /// Whether broadcasts and multicasts are copied to [`flood`](Self::flood).
    pub multicast: bool,
    /// Endpoints on other nodes, by MAC address.
    #[serde(with = "macs")]
    pub remotes: BTreeMap<Mac, RemoteSpec>,
    /// Tunnel ends of the other nodes of the network.
    pub flood: BTreeSet<IpAddr>,
}

/// An endpoint on another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSpec {
    /// Addresses that ARP and neighbour discovery are answered for.
    pub addresses: Vec<IpAddr>,
    /// Tunnel end of its node.
    pub vtep: IpAddr,
}

/// What the port of one encrypted network is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Why it is not open, if so. It is tried again with every specification that has it.
    pub error: Option<String>,
    /// How often this process has made its device. Another one is no port of the bridge yet.
    #[serde(default)]
    pub opened: u64,
    /// Frames that came from or were for the bridge and went no further.
    #[serde(default)]
    pub dropped: DropCounters,
}

/// Maps by MAC address, whose keys are text: six pairs of hexadecimal digits with colons between.
mod macs {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Mac;

    pub(super) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<Mac, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text =
            |[a, b, c, d, e, f]: &Mac| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        serializer.collect_map(map.iter().map(|(mac, value)| (text(mac), value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Mac, V>, D::Error> {
        let map = BTreeMap::<String, V>::deserialize(deserializer)?;
        let entries = map.into_iter().map(|(text, value)| {
            let mac = parse(&text).ok_or_else(|| {
                D::Error::custom(format!(
                    "{text:?} is no mac address: six bytes as in 02:00:00:00:00:01 are accepted"
                ))
            });
            mac.map(|mac| (mac, value))
        });
        entries.collect()
    }

    fn parse(text: &str) -> Option<Mac> {
        let mut mac = Mac::default();
        let mut pairs = text.split(':');
        for byte in &mut mac {
            let pair = pairs.next()?;
            let is_pair = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| is_pair)?;
        }
        pairs.next().is_none().then_some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_text_and_read_back() {
        let remote = RemoteSpec {
            addresses: vec!["10.0.0.7".parse().unwrap()],
            vtep: "192.0.2.2".parse().unwrap(),
        };
        let port = PortSpec {
            remotes: [([2, 0, 0, 0, 0xab, 7], remote)].into(),
            ..PortSpec::default()
        };
        let json = serde_json::to_string(&port).unwrap();
        assert!(json.contains("\"02:00:00:00:ab:07\""), "{json}");
        assert_eq!(serde_json::from_str::<PortSpec>(&json).unwrap(), port);
        for wrong in [
            "",
            "02",
            "02:00:00:00:ab:07:",
            "02:00:00:00:ab:+7",
            "2:0:0:0:ab:7",
            "0200:00:00:ab:07",
        ] {
            let other = json.replace("02:00:00:00:ab:07", wrong);
            let refused = serde_json::from_str::<PortSpec>(&other).unwrap_err();
            assert!(
                refused.to_string().contains("is no mac address"),
                "{refused}"
            );
        }
    }
}
