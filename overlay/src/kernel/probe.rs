use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use libc::{EAFNOSUPPORT, EOPNOTSUPP};
use weft_netns::Netns;

use super::messages::{self, VethEnds};
use crate::plan::names;
use crate::spec::{Mac, Vtep};
use crate::{Feature, Features};
use weft_netns::rtnl::{Request, Rtnl, RtnlError};

const MTU: u32 = 1450;

/// Tries what networks need in namespaces that are thrown away.
pub(crate) fn probe() -> Features {
    let mut list = Vec::new();
    let mut note = |name, option, missing| {
        list.push(Feature {
            name,
            option,
            missing,
        });
    };
    let places = place().and_then(|first| Ok((first, place()?)));
    let (mut here, there) = match places {
        Ok(((netns, rtnl), (other, _))) => {
            note("netns", "CONFIG_NET_NS", None);
            ((netns, rtnl), other)
        }
        Err(why) => {
            note("netns", "CONFIG_NET_NS", Some(why));
            for (name, option) in [
                ("bridge", "CONFIG_BRIDGE"),
                ("vxlan", "CONFIG_VXLAN"),
                ("veth", "CONFIG_VETH"),
            ] {
                let why = "cannot be tried without namespaces".to_owned();
                note(name, option, Some(why));
            }
            return Features { list };
        }
    };
    let bridge = messages::create_bridge(names::BRIDGE, MTU);
    let vtep = Vtep {
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 4789,
    };
    let target = here.0.as_fd().as_raw_fd();
    let vxlan = messages::create_vxlan(names::VXLAN, MTU, 1, vtep, target);
    let veth = VethEnds {
        port: "wfprobe",
        bridge: 0,
        mtu: MTU,
        ifname: "eth0",
        mac: Mac([2, 0x42, 0, 0, 0, 1]),
        container: there.as_fd().as_raw_fd(),
    };
    let veth = messages::create_veth(&veth, None);
    let mut attempt = |request: &Request, option| {
        let result = here.1.change(request);
        result.err().map(|error| explain(&error, option))
    };
    for (name, option, request) in [
        ("bridge", "CONFIG_BRIDGE", bridge),
        ("vxlan", "CONFIG_VXLAN", vxlan),
        ("veth", "CONFIG_VETH", veth),
    ] {
        let missing = attempt(&request, option);
        note(name, option, missing);
    }
    Features { list }
}

fn place() -> Result<(Netns, Rtnl), String> {
    let netns = Netns::anonymous().map_err(|e| e.to_string())?;
    let rtnl = Rtnl::open(&netns)?;
    Ok((netns, rtnl))
}

fn explain(error: &RtnlError, option: &str) -> String {
    match error.errno() {
        Some(EOPNOTSUPP | EAFNOSUPPORT) => {
            format!("this kernel has no {option}; load the module or use one that has it")
        }
        _ => format!("{error}; it takes CAP_NET_ADMIN"),
    }
}
