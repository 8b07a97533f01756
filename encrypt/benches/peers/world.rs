//! Two hosts and the wire between them.

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use weft_test_netns::{Ns, join};

use crate::shell::run;

/// What the wire carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Segmentation super-packets, as veth does by default.
    Super,
    /// Packets of the MTU, as between network cards without offload.
    Packets,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Super => "super",
            Self::Packets => "packets",
        })
    }
}

impl FromStr for Wire {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "super" => Ok(Self::Super),
            "packets" => Ok(Self::Packets),
            _ => Err(()),
        }
    }
}

/// Addresses of the hosts on the wire.
pub(crate) const HOSTS: [&str; 2] = ["198.18.0.1", "198.18.0.2"];

pub(crate) struct World {
    pub(crate) hosts: [Rc<Ns>; 2],
    pub(crate) mtu: u32,
}

impl World {
    pub(crate) fn new(wire: Wire, mtu: u32) -> Self {
        let hosts = [Rc::new(Ns::new()), Rc::new(Ns::new())];
        join(
            "eth0",
            (&hosts[0], &["198.18.0.1/24"]),
            (&hosts[1], &["198.18.0.2/24"]),
        );
        for host in &hosts {
            run(host, &format!("ip link set eth0 mtu {mtu}")).unwrap();
            if wire == Wire::Packets {
                let off = "ethtool -K eth0 tso off gso off tx-udp-segmentation off gro on";
                run(host, off).expect("ethtool makes the wire one of packets");
            }
        }
        Self { hosts, mtu }
    }
}
