use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::layout::HOST_END;
use super::spec::{PREFIX4_MAX, PREFIX4_MIN};
use crate::host::HostFacts;

/// Networks that a gateway may have, the best first. Each node has one of its own, and it is seen by
/// that node's containers only, so all nodes may have the same.
///
/// Private ranges (RFC 1918) from where they are least in use: people and clouds number from the low
/// end. A /20, for 4093 containers. Docker takes 172.17.0.0/16 to 172.31.0.0/16 and then
/// 192.168.0.0/20 upward, clouds 172.31.0.0/16 (AWS) and 10.0.0.0/8, of which weft's own networks take
/// the low end too. The last is the range for benchmarks (RFC 2544), which no network should use.
/// 100.64.0.0/10 (RFC 6598) is not among them: VPNs drop what does not come by themselves from there.
const CANDIDATES: [Ipv4Net; 8] = [
    block(192, 168, 240),
    block(192, 168, 208),
    block(172, 16, 240),
    block(10, 255, 240),
    block(172, 30, 240),
    block(172, 23, 240),
    block(10, 191, 240),
    block(198, 19, 240),
];

const fn block(a: u8, b: u8, c: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), 20)
}

/// Chooses the gateway's IPv4 network: the one that it has (`observed`) unless that clashes with
/// `taken`, such as the cluster's networks; else the first of a short list that clashes neither with
/// `taken` nor with the host's own routes. None when all do.
///
/// A foreign route that comes to overlap with the observed one does not change it: every connection
/// through the gateway would break.
pub fn choose_subnet(
    host_routes: &[IpNet],
    taken: &[IpNet],
    observed: Option<Ipv4Net>,
) -> Option<Ipv4Net> {
    let kept = observed.filter(|net| !clashes(*net, taken));
    kept.or_else(|| {
        let free = |net: &Ipv4Net| !clashes(*net, taken) && !clashes(*net, host_routes);
        CANDIDATES.into_iter().find(free)
    })
}

fn clashes(net: Ipv4Net, others: &[IpNet]) -> bool {
    others.iter().any(|other| match other {
        IpNet::V4(other) => net.contains(&other.network()) || other.contains(&net.network()),
        IpNet::V6(_) => false,
    })
}

/// The IPv4 network that this host's gateway has.
pub fn observed_subnet(facts: &HostFacts) -> Option<Ipv4Net> {
    let own = facts
        .addresses
        .iter()
        .filter(|address| address.ifname == HOST_END);
    own.filter_map(|address| match address.address {
        IpNet::V4(net) => Some(net.trunc()),
        IpNet::V6(_) => None,
    })
    .find(|net| (PREFIX4_MIN..=PREFIX4_MAX).contains(&net.prefix_len()))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::host::HostAddress;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn choose(routes: &[&str], taken: &[&str], observed: Option<&str>) -> Option<String> {
        let observed = observed.map(|text| text.parse().unwrap());
        choose_subnet(&nets(routes), &nets(taken), observed).map(|net| net.to_string())
    }

    #[test]
    fn the_first_that_is_free_is_chosen() {
        let first = Some("192.168.240.0/20".to_owned());
        assert_eq!(choose(&[], &[], None), first);
        assert_eq!(
            choose(&["172.17.0.0/16", "fd00::/8"], &["10.0.0.0/8"], None),
            first
        );
        let second = Some("192.168.208.0/20".to_owned());
        assert_eq!(choose(&["192.168.255.0/24"], &[], None), second);
        let third = Some("172.16.240.0/20".to_owned());
        assert_eq!(choose(&["192.168.0.0/16"], &[], None), third);
        let private = ["10.0.0.0/8", "172.16.0.0/12"];
        let last = Some("198.19.240.0/20".to_owned());
        assert_eq!(choose(&private, &["192.168.0.0/16"], None), last);
        assert_eq!(choose(&[], &["0.0.0.0/0"], None), None);
    }

    #[test]
    fn what_there_is_is_kept_unless_the_cluster_has_it() {
        let kept = Some("172.30.240.0/20");
        assert_eq!(choose(&["172.30.0.0/16"], &[], kept).as_deref(), kept);
        let other = Some("10.9.0.0/24");
        assert_eq!(choose(&[], &["10.0.1.0/24"], other).as_deref(), other);
        let first = Some("192.168.240.0/20");
        assert_eq!(choose(&[], &["172.30.241.0/24"], kept).as_deref(), first);
    }

    #[test]
    fn the_observed_one_is_the_bridges() {
        let address = |ifname: &str, address: &str| HostAddress {
            ifname: ifname.to_owned(),
            ifindex: 7,
            address: address.parse().unwrap(),
            global: true,
            stable: true,
        };
        let mut facts = HostFacts {
            addresses: vec![
                address("eth0", "10.1.2.3/24"),
                address(HOST_END, "fd77::1/64"),
            ],
            ..HostFacts::default()
        };
        assert_eq!(observed_subnet(&facts), None);
        facts.addresses.push(address(HOST_END, "192.168.240.1/20"));
        assert_eq!(observed_subnet(&facts), "192.168.240.0/20".parse().ok());
    }

    proptest! {
        #[test]
        fn what_is_chosen_anew_clashes_with_nothing(
            routes in prop::collection::vec((any::<u32>(), 4u8..=32), 0..12),
            taken in prop::collection::vec((any::<u32>(), 4u8..=32), 0..12),
        ) {
            let net = |(bits, len): &(u32, u8)| {
                IpNet::new(IpAddr::V4(Ipv4Addr::from(*bits)), *len).unwrap().trunc()
            };
            let routes: Vec<IpNet> = routes.iter().map(net).collect();
            let taken: Vec<IpNet> = taken.iter().map(net).collect();
            if let Some(chosen) = choose_subnet(&routes, &taken, None) {
                for other in routes.iter().chain(&taken) {
                    let chosen = IpNet::V4(chosen);
                    prop_assert!(!chosen.contains(other) && !other.contains(&chosen));
                }
            }
        }
    }
}
