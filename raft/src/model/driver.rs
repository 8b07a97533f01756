use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How endpoints of one network reach one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// VXLAN between the nodes (RFC 7348).
    Overlay,
    /// A bridge on each node: endpoints of one node reach one another, and nobody else's.
    Bridge,
}

impl Driver {
    /// The names of all drivers, for messages.
    pub const NAMES: &str = "overlay or bridge";

    /// Whether its nodes send one another frames in tunnels, which have a VNI and can be encrypted.
    pub fn has_tunnels(&self) -> bool {
        matches!(self, Self::Overlay)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Overlay => "overlay",
            Self::Bridge => "bridge",
        })
    }
}

impl FromStr for Driver {
    type Err = String;

    /// # Errors
    /// One line that names the drivers that there are.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "overlay" => Ok(Self::Overlay),
            "bridge" => Ok(Self::Bridge),
            _ => Err(format!("no such driver; there is {}", Self::NAMES)),
        }
    }
}
