//! Two hosts on an underlay, with a machine outside, and what they publish.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use weft_lb::spec::{Address, Backend, Family, Ports, Protocol, Scheduler, Service, ServiceKey};

use super::host::{Host, MESH, TARGET, ip};
use super::ns::{Ns, join, switch};
use super::talk::{Answer, PROTOCOLS, ask};

/// The published port.
pub(super) const PORT: u16 = 8080;
const OUTSIDE4: &str = "198.18.0.100";
const OUTSIDE6: &str = "fd18::100";
const FAMILIES: [(bool, Family); 2] = [(true, Family::V4), (false, Family::V6)];

/// Hosts A and B, the machine outside, and the switch between them.
pub(super) struct Lab {
    pub(super) outside: Ns,
    pub(super) a: Host,
    pub(super) b: Host,
    _switch: Ns,
}

impl Lab {
    /// With one container on each host.
    pub(super) fn new() -> Self {
        Self::with(false)
    }

    /// With bridged packets that do or do not meet the rules for IP ones (`br_netfilter`).
    pub(super) fn with(bridged_rules: bool) -> Self {
        let (outside, middle) = (Ns::new(), Ns::new());
        let (mut a, mut b) = (Host::new(1), Host::new(2));
        let addresses = [format!("{OUTSIDE4}/24"), format!("{OUTSIDE6}/64")];
        let addresses = addresses.each_ref().map(String::as_str);
        join("outer", (&outside, &addresses), (&middle, &[]));
        let underlays = [("ul1", &a), ("ul2", &b)];
        for (device, host) in underlays {
            let addresses = addresses_of(host, Host::underlay);
            join(device, (&host.ns, &borrowed(&addresses)), (&middle, &[]));
        }
        switch(&middle, &["outer", "ul1", "ul2"]);
        let addresses = [&a, &b].map(|host| addresses_of(host, Host::mesh));
        let [of_a, of_b] = addresses.each_ref().map(borrowed);
        join(MESH, (&a.ns, &of_a), (&b.ns, &of_b));
        for host in [&a, &b] {
            let mac = host.mac().map(|byte| format!("{byte:02x}")).join(":");
            ip(&host.ns, &format!("link set {MESH} address {mac}"));
            let value = if bridged_rules { "1" } else { "0" };
            for switch in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                // Not there without the module, which is as good as 0.
                let switch = format!("bridge/{switch}");
                host.ns.0.set_sysctls(&[(switch.as_str(), value)]).unwrap();
            }
        }
        a.join_mesh(&b);
        b.join_mesh(&a);
        for host in [&mut a, &mut b] {
            host.add_container(bridged_rules);
            host.reconcile();
        }
        Self {
            outside,
            a,
            b,
            _switch: middle,
        }
    }

    /// Publishes [`PORT`] with backends in so many containers of A and of B.
    pub(super) fn publish(&mut self, on_a: usize, on_b: usize) {
        let weights = [on_a, on_b];
        let [of_a, of_b] = [self.a.mesh4_and_6(), self.b.mesh4_and_6()];
        self.a.publish(weights[0], (of_b, weights[1]));
        self.b.publish(weights[1], (of_a, weights[0]));
    }

    /// Asks a host's address from outside.
    pub(super) fn ask(&self, protocol: Protocol, to: IpAddr) -> Answer {
        let to = SocketAddr::new(to, PORT);
        let answer = ask(&self.outside, protocol, to);
        answer.unwrap_or_else(|error| panic!("{protocol} {to} from outside: {error}"))
    }
}

/// Every way to ask: over both protocols and both families (true for IPv4).
pub(super) fn ways() -> impl Iterator<Item = (Protocol, bool)> {
    PROTOCOLS
        .into_iter()
        .flat_map(|protocol| [(protocol, true), (protocol, false)])
}

/// The client outside.
pub(super) fn outsider(v4: bool) -> IpAddr {
    let address = if v4 { OUTSIDE4 } else { OUTSIDE6 };
    address.parse().unwrap()
}

fn addresses_of(host: &Host, address: fn(&Host, bool) -> IpAddr) -> [String; 2] {
    [
        format!("{}/24", address(host, true)),
        format!("{}/64", address(host, false)),
    ]
}

fn borrowed(addresses: &[String; 2]) -> [&str; 2] {
    addresses.each_ref().map(String::as_str)
}

impl Host {
    fn mesh4_and_6(&self) -> [IpAddr; 2] {
        [self.mesh(true), self.mesh(false)]
    }

    /// What the agent would make of the cluster's services: on all addresses the own backends and
    /// the other node, on the ingress address the own backends only.
    fn publish(&mut self, own: usize, (other, weight): ([IpAddr; 2], usize)) {
        let weight = u16::try_from(weight).unwrap();
        let mut spec = BTreeMap::new();
        for ((v4, family), other) in FAMILIES.into_iter().zip(other) {
            let legs = self.containers.iter().take(own);
            let legs = legs.map(|leg| if v4 { leg.leg4 } else { leg.leg6 });
            let legs: Vec<_> = legs.map(|leg| (backend(leg, TARGET), 1)).collect();
            let mut all = legs.clone();
            if weight > 0 {
                all.push((backend(other, PORT), weight));
            }
            let mesh = Address::Vip(self.mesh(v4));
            for protocol in PROTOCOLS {
                for (address, backends) in [(Address::Local(family), &all), (mesh, &legs)] {
                    let ports = Ports::One(protocol, NonZeroU16::new(PORT).unwrap());
                    let service = Service {
                        affinity: None,
                        idle: None,
                        scheduler: Scheduler::Random,
                        backends: backends.iter().copied().collect(),
                    };
                    spec.insert(ServiceKey { address, ports }, service);
                }
            }
        }
        self.balancer.reconcile(&spec).unwrap();
    }

    /// Every backend of the cluster is gone.
    pub(super) fn publish_nothing(&mut self) {
        self.publish(0, (self.mesh4_and_6(), 0));
    }
}

fn backend(address: IpAddr, port: u16) -> Backend {
    Backend {
        address,
        port: NonZeroU16::new(port),
    }
}
