use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_overlay::host::{self, HostFacts};
use weft_raft::state::limits;

/// How long an address must be gone until the cluster is told: one that comes and goes is not told
/// of each time.
const GONE: Duration = Duration::from_secs(5);

/// Addresses that others may reach the host by, for as long as it has them.
pub(super) fn usable(facts: &HostFacts) -> BTreeSet<IpAddr> {
    let addresses = facts.addresses.iter();
    let usable = addresses.filter(|a| a.global && a.stable && !host::is_own_link(&a.ifname));
    let ips = usable.map(|a| a.address.addr());
    ips.filter(|ip| !ip.is_loopback()).collect()
}

/// What the cluster is to be told of this host's addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Those that it was told of and the host has no longer, and since when.
    gone: BTreeMap<IpAddr, Instant>,
}

impl Addresses {
    /// What the host has, and what it had until just now; `told` is what the cluster knows.
    pub(super) fn told(
        &mut self,
        told: &[IpAddr],
        mut here: BTreeSet<IpAddr>,
        now: Instant,
    ) -> Vec<IpAddr> {
        let missing = told.iter().filter(|ip| !here.contains(ip));
        let missing: BTreeSet<IpAddr> = missing.copied().collect();
        self.gone.retain(|ip, _| missing.contains(ip));
        for ip in missing {
            let since = *self.gone.entry(ip).or_insert(now);
            if now.duration_since(since) < GONE {
                here.insert(ip);
            }
        }
        here.into_iter().take(limits::NODE_ADDRESSES).collect()
    }

    /// When the first of those that are gone is to be told of.
    pub(super) fn due(&self) -> Option<Instant> {
        self.gone.values().min().map(|since| *since + GONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips<T: FromIterator<IpAddr>>(hosts: &[u8]) -> T {
        let ip = |host: &u8| IpAddr::from([192, 0, 2, *host]);
        hosts.iter().map(ip).collect()
    }

    #[test]
    fn what_comes_is_told_at_once_and_what_goes_when_it_stays_away() {
        let start = Instant::now();
        let mut addresses = Addresses::default();
        let mut told: Vec<IpAddr> = Vec::new();
        for (seconds, here, wanted, due) in [
            (0, &[2, 1][..], &[1, 2][..], None),
            (1, &[1], &[1, 2], Some(6)),
            (5, &[1], &[1, 2], Some(6)),
            // It is back, so it has five seconds again.
            (6, &[1, 2], &[1, 2], None),
            (7, &[1], &[1, 2], Some(12)),
            (12, &[1, 3], &[1, 3], Some(12)),
            (13, &[1, 3], &[1, 3], None),
        ] {
            let now = start + Duration::from_secs(seconds);
            told = addresses.told(&told, ips(here), now);
            assert_eq!(told, ips::<Vec<_>>(wanted), "after {seconds} s");
            let due = due.map(|seconds| start + Duration::from_secs(seconds));
            assert_eq!(addresses.due(), due, "after {seconds} s");
        }
    }

    #[test]
    fn no_more_are_told_than_the_cluster_takes() {
        let many: Vec<u8> = (0..=200).collect();
        let told = Addresses::default().told(&[], ips(&many), Instant::now());
        assert_eq!(told, ips::<Vec<_>>(&many[..limits::NODE_ADDRESSES]));
    }

    #[test]
    fn only_what_others_may_use_is_told() {
        let address = |ifname: &str, ip: &str, global, stable| host::HostAddress {
            ifname: ifname.to_owned(),
            ifindex: 1,
            address: ip.parse().unwrap(),
            global,
            stable,
        };
        let facts = HostFacts {
            addresses: vec![
                address("eth0", "192.0.2.1/24", true, true),
                address("lo", "192.0.2.2/32", true, true),
                address("lo", "127.0.0.1/8", true, true),
                address("weft-gw", "192.0.2.3/24", true, true),
                address("wf-ingress", "192.0.2.4/24", true, true),
                address("eth0", "fe80::1/64", false, true),
                address("eth0", "2001:db8::1/64", true, false),
            ],
            ..HostFacts::default()
        };
        assert_eq!(usable(&facts), ips(&[1, 2]));
    }
}
