//! A host of the mesh: what the agent and the kernel have there beside the tables under test.

use std::net::IpAddr;
use std::process::Command;

use weft_lb::Balancer;
use weft_lb::ingress::{Ingress, IngressReport, IngressSpec, mark};
use weft_netns::nft::NftSocket;

use super::ns::{Ns, join};
use super::talk::Server;

pub(super) const TABLE: &str = "weft-ingress";
pub(super) const MESH: &str = "wf-ingress";
pub(super) const GATEWAY: &str = "weft-gw";
/// Of the gateway, on every host.
pub(super) const GATEWAY4: &str = "192.0.2.1";
pub(super) const GATEWAY6: &str = "fd77:6566:7400::1";
/// Where containers listen.
pub(super) const TARGET: u16 = 80;
/// What fits into the mesh with its encapsulation.
pub(super) const MTU: &str = "1450";

/// A host with its number among the nodes.
pub(super) struct Host {
    pub(super) ns: Ns,
    pub(super) number: u16,
    pub(super) containers: Vec<Container>,
    pub(super) balancer: Balancer,
    pub(super) ingress: Ingress,
    pub(super) spec: IngressSpec,
}

/// A container with a leg on its host's gateway.
pub(super) struct Container {
    pub(super) ns: Ns,
    pub(super) leg4: IpAddr,
    pub(super) leg6: IpAddr,
    pub(super) server: Option<Server>,
}

impl Host {
    /// With strict reverse path filters as distributions set them, before there is any device.
    pub(super) fn new(number: u16) -> Self {
        let ns = Ns::new();
        for (switch, value) in [
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // Link-local addresses, at once: a router asks for its neighbours with no other.
            ("ipv6/conf/default/addr_gen_mode", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            ns.0.set_sysctl(switch, value).unwrap();
        }
        let balancer = Balancer::open(&ns.0, "weft-lb").unwrap();
        let ingress = Ingress::open(&ns.0, TABLE).unwrap();
        let spec = IngressSpec {
            mesh_if: MESH.into(),
            gateway_if: GATEWAY.into(),
            mesh4: Some(format!("10.0.0.{number}").parse().unwrap()),
            mesh6: Some(format!("fd77:6566:7401::a00:{number}").parse().unwrap()),
            gateway4: Some(format!("{GATEWAY4}/24").parse().unwrap()),
            gateway6: Some(format!("{GATEWAY6}/64").parse().unwrap()),
            ..IngressSpec::default()
        };
        let host = Self {
            ns,
            number,
            containers: Vec::new(),
            balancer,
            ingress,
            spec,
        };
        host.make_gateway();
        host
    }

    fn make_gateway(&self) {
        ip(&self.ns, &format!("link add {GATEWAY} type bridge"));
        ip(&self.ns, &format!("link set {GATEWAY} mtu {MTU} up"));
        for address in [format!("{GATEWAY4}/24"), format!("{GATEWAY6}/64 nodad")] {
            ip(&self.ns, &format!("address add {address} dev {GATEWAY}"));
        }
        self.set_device(GATEWAY);
    }

    /// The mesh device is there: what the host needs for it.
    pub(super) fn join_mesh(&mut self, other: &Self) {
        ip(&self.ns, &format!("link set {MESH} mtu {MTU}"));
        self.set_device(MESH);
        self.spec.entries.insert(other.mac(), other.number);
        let addresses = [true, false].map(|v4| (other.underlay(v4), other.mesh(v4)));
        self.spec.peers.extend(addresses);
        let (number, mark) = (other.number, mark(other.number));
        let table = 1000 + number;
        for (family, via) in [("-4", other.mesh(true)), ("-6", other.mesh(false))] {
            let rule = format!("fwmark {mark:#x}/0x00fff000 lookup {table}");
            ip(&self.ns, &format!("{family} rule add pref 100 {rule}"));
            let route = format!("default via {via} dev {MESH} table {table}");
            ip(&self.ns, &format!("{family} route add {route}"));
        }
    }

    /// The switches of either device.
    fn set_device(&self, name: &str) {
        for (switch, value) in [("rp_filter", "2"), ("route_localnet", "1")] {
            let switch = format!("ipv4/conf/{name}/{switch}");
            self.ns.0.set_sysctl(&switch, value).unwrap();
        }
        let local = format!("local ::1/128 dev {name} table {}", localhost_table(name));
        ip(&self.ns, &format!("-6 route add {local}"));
        self.lead_localhost(name);
    }

    /// Answers to `::1` that come by that device are taken.
    pub(super) fn lead_localhost(&self, name: &str) {
        let table = localhost_table(name);
        let rule = format!("pref 101 iif {name} to ::1 lookup {table}");
        ip(&self.ns, &format!("-6 rule add {rule}"));
    }

    /// A container with a server, on the bridge as a port that suits the switches of
    /// `br_netfilter`.
    pub(super) fn add_container(&mut self, bridged_rules: bool) {
        let index = self.containers.len();
        // The same on both ends.
        let (device, leg) = [("wfgw2", 2), ("wfgw3", 3)][index];
        let ns = Ns::new();
        for switch in ["all", "default"] {
            let switch = format!("ipv4/conf/{switch}/rp_filter");
            ns.0.set_sysctl(&switch, "1").unwrap();
        }
        let (leg4, leg6) = (format!("192.0.2.{leg}"), format!("fd77:6566:7400::{leg}"));
        let addresses = [format!("{leg4}/24"), format!("{leg6}/64")];
        let addresses = addresses.each_ref().map(String::as_str);
        join(device, (&self.ns, &[]), (&ns, &addresses));
        ip(&ns, &format!("link set {device} mtu {MTU}"));
        let port = format!("link set {device} mtu {MTU} master {GATEWAY}");
        ip(&self.ns, &port);
        let kind = if bridged_rules {
            "hairpin on isolated off"
        } else {
            "hairpin off isolated on"
        };
        ip(
            &self.ns,
            &format!("link set {device} type bridge_slave {kind}"),
        );
        for (family, leg, via) in [("-4", &leg4, GATEWAY4), ("-6", &leg6, GATEWAY6)] {
            ip(
                &ns,
                &format!("{family} route add default via {via} table 100"),
            );
            ip(
                &ns,
                &format!("{family} rule add pref 100 from {leg} lookup 100"),
            );
            // For programs that ask for the way before they have a source.
            ip(&ns, &format!("{family} rule add pref 40000 lookup 100"));
        }
        let name = self.container_name(index);
        let server = Some(Server::new(&ns, &name, TARGET));
        self.containers.push(Container {
            ns,
            leg4: leg4.parse().unwrap(),
            leg6: leg6.parse().unwrap(),
            server,
        });
    }

    pub(super) fn container_name(&self, index: usize) -> String {
        format!("c{index}@{}", self.number)
    }

    /// Its address on the underlay.
    pub(super) fn underlay(&self, v4: bool) -> IpAddr {
        let number = self.number;
        let address = if v4 {
            format!("198.18.0.{number}")
        } else {
            format!("fd18::{number}")
        };
        address.parse().unwrap()
    }

    /// Its address on the ingress network.
    pub(super) fn mesh(&self, v4: bool) -> IpAddr {
        if v4 {
            self.spec.mesh4.unwrap().into()
        } else {
            self.spec.mesh6.unwrap().into()
        }
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        [0x02, 0x42, 10, 0, 0, self.number.to_be_bytes()[1]]
    }

    pub(super) fn reconcile(&mut self) -> IngressReport {
        self.ingress.reconcile(&self.spec).unwrap()
    }

    pub(super) fn report(&mut self) -> IngressReport {
        self.ingress.report().unwrap().expect("a table")
    }

    /// The table as others see it, while this host's agent is or is not there.
    pub(super) fn table_exists(&self) -> bool {
        let mut socket = NftSocket::open_in(&self.ns.0).unwrap();
        socket.table(TABLE).unwrap().is_some()
    }
}

fn localhost_table(device: &str) -> u32 {
    if device == MESH { 2001 } else { 2002 }
}

pub(super) fn ip(ns: &Ns, arguments: &str) -> String {
    run(ns, "ip", arguments)
}

/// An independent reader, or a stranger that sets things up.
pub(super) fn nft(ns: &Ns, arguments: &str) -> String {
    run(ns, "nft", arguments)
}

fn run(ns: &Ns, program: &str, arguments: &str) -> String {
    // Tools for networks live where an ordinary user's PATH does not reach.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).env("PATH", path);
    let output = ns.run(|| command.output());
    let output =
        output.expect("these cases use `ip` and `nft` (Debian packages iproute2 and nftables)");
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
