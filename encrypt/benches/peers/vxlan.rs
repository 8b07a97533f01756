//! Containers behind a bridge on each host, and the kernel's VXLAN between the bridges.

use std::rc::Rc;

use weft_test_netns::Ns;

use crate::shell::run;
use crate::subject::Subject;
use crate::world::{HOSTS, World};

/// What others are measured by.
pub(crate) const PLAIN: &str = "vxlan";
/// Bytes that VXLAN adds over IPv4.
pub(crate) const OVERHEAD: u32 = 50;

/// VXLAN in clear.
pub(crate) fn plain(world: &World, name: &'static str) -> Result<Subject, String> {
    let network = Network {
        name: "vx",
        vni: 100,
        port: 4789,
        addresses: ["10.1.0.1", "10.1.0.2"],
        mtu: world.mtu - OVERHEAD,
    };
    let containers = network.make(world)?;
    Ok(Subject {
        name,
        ends: containers,
        server: network.addresses[1].parse().unwrap(),
        _keeps: Vec::new(),
    })
}

/// A network between the two hosts with a container on each.
pub(crate) struct Network {
    /// What its links begin with.
    pub(crate) name: &'static str,
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) addresses: [&'static str; 2],
    pub(crate) mtu: u32,
}

impl Network {
    /// Its containers.
    pub(crate) fn make(&self, world: &World) -> Result<[Rc<Ns>; 2], String> {
        let Self {
            name,
            vni,
            port,
            addresses,
            mtu,
        } = self;
        let containers = [Rc::new(Ns::new()), Rc::new(Ns::new())];
        for index in [0, 1] {
            let (host, container) = (&world.hosts[index], &containers[index]);
            let (local, remote) = (HOSTS[index], HOSTS[1 - index]);
            weft_test_netns::join(
                // The names are given below; they are the same at both ends.
                "moved",
                (host, &[]),
                (container, &[]),
            );
            for words in [
                format!("ip link add {name}-br mtu {mtu} up type bridge"),
                format!(
                    "ip link add {name}-tun mtu {mtu} up master {name}-br type vxlan id {vni} \
                     dstport {port} local {local} remote {remote} udpcsum"
                ),
                "ip link set moved down".to_owned(),
                format!("ip link set moved name {name}-port"),
                format!("ip link set {name}-port mtu {mtu} up master {name}-br"),
            ] {
                run(host, &words)?;
            }
            run(container, &format!("ip link set moved mtu {mtu}"))?;
            run(
                container,
                &format!("ip address add {}/24 dev moved", addresses[index]),
            )?;
        }
        Ok(containers)
    }
}
