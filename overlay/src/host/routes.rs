use ipnet::{IpNet, Ipv6Net};

/// Most prefixes that a node tells the cluster about. They travel in its node record, and every
/// subnet allocation compares against them; a router with a full table has a million.
pub const ROUTES_MAX: usize = 1024;

/// The smallest set of prefixes that covers `routes`, and how many more than [`ROUTES_MAX`] it had.
///
/// Prefixes that stand for a default route are no reason to refuse a subnet and are left out before
/// merging, or two halves would swallow everything.
pub(super) fn summarise(routes: impl IntoIterator<Item = IpNet>) -> (Vec<IpNet>, usize) {
    let kept: Vec<IpNet> = routes
        .into_iter()
        .map(|r| r.trunc())
        .filter(is_specific)
        .collect();
    let mut merged = IpNet::aggregate(&kept);
    let omitted = merged.len().saturating_sub(ROUTES_MAX);
    if omitted > 0 {
        // The shortest prefixes say most.
        merged.sort_by_key(|route| (route.prefix_len(), *route));
        merged.truncate(ROUTES_MAX);
    }
    merged.sort();
    (merged, omitted)
}

/// Whether a route says more than "everything else": not a default route, not one of the halves by
/// which VPN clients override it, not the whole of IPv6's global unicast space (RFC 4291 section
/// 2.4), and not a link-local or multicast prefix, which no network may use anyway.
fn is_specific(route: &IpNet) -> bool {
    let global_unicast = Ipv6Net::new_assert([0x2000, 0, 0, 0, 0, 0, 0, 0].into(), 3);
    match route {
        IpNet::V4(net) => {
            net.prefix_len() > 1 && !net.addr().is_multicast() && !net.addr().is_link_local()
        }
        IpNet::V6(net) => {
            net.prefix_len() > 1
                && *net != global_unicast
                && !net.addr().is_multicast()
                && !net.addr().is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn neighbouring_and_contained_prefixes_merge() {
        let (routes, omitted) = summarise(nets(&[
            "192.0.2.0/25",
            "192.0.2.128/25",
            "10.1.0.0/16",
            "10.1.7.0/24",
            "2001:db8::/33",
            "2001:db8:8000::/33",
        ]));
        assert_eq!(
            routes,
            nets(&["10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32"])
        );
        assert_eq!(omitted, 0);
    }

    #[test]
    fn default_routes_in_any_disguise_are_left_out() {
        let disguises = [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "::/0",
            "::/1",
            "8000::/1",
            "2000::/3",
            "fe80::/64",
            "169.254.0.0/16",
            "ff00::/8",
            "224.0.0.0/4",
        ];
        assert_eq!(summarise(nets(&disguises)), (vec![], 0));
    }

    #[test]
    fn beyond_the_limit_the_longest_prefixes_go_first() {
        // Every second /24 of 20.0.0.0/8 and up: nothing merges.
        let many = (0..2000u32).map(|i| {
            let base = (20 << 24) + (i << 9);
            IpNet::new(std::net::Ipv4Addr::from(base).into(), 24).unwrap()
        });
        let wide = nets(&["172.16.0.0/12"]);
        let (routes, omitted) = summarise(many.chain(wide.clone()));
        assert_eq!(routes.len(), ROUTES_MAX);
        assert_eq!(omitted, 2001 - ROUTES_MAX);
        assert!(routes.contains(&wide[0]));
    }

    proptest! {
        #[test]
        fn a_summary_covers_what_was_given_and_nothing_else(
            given in prop::collection::vec((0u32..1 << 12, 20u8..=32), 0..40),
            probe in 0u32..1 << 12,
        ) {
            // A small space, so that prefixes meet.
            let at = |low: u32| std::net::Ipv4Addr::from((10 << 24) + low);
            let given: Vec<IpNet> = given
                .iter()
                .map(|&(low, len)| IpNet::new(at(low).into(), len).unwrap().trunc())
                .collect();
            let (summary, _) = summarise(given.clone());
            let probe = std::net::IpAddr::from(at(probe));
            let covered = |set: &[IpNet]| set.iter().any(|net| net.contains(&probe));
            prop_assert_eq!(covered(&given), covered(&summary));
        }
    }
}
