//! The hosts themselves as endpoints of a network: the way between the nodes of an ingress.

use std::path::Path;

use weft_netns::Netns;
use weft_overlay::{LocalEndpoint, Overlay, OverlayConfig, SandboxSpec, Scope, Spec};

use crate::lab::*;
use crate::wire::{LONG, assert_unicast, inner};

pub(crate) const CASES: &[(&str, fn())] = &[
    (
        "hosts_reach_each_other_as_endpoints_and_nothing_floods",
        reach_each_other,
    ),
    (
        "a_hosts_own_interface_is_no_left_over_and_goes_with_its_endpoint",
        comes_and_goes,
    ),
    ("an_agents_own_namespace_can_be_an_endpoint", own_namespace),
];

const MESH: &str = "wf-ingress";

/// Endpoint `n`, with this name, where a host is the container.
fn host_endpoint(host: &Path, n: u8) -> LocalEndpoint {
    LocalEndpoint {
        ifname: MESH.to_owned(),
        ..local(host, n)
    }
}

/// Two hosts that are endpoints 2 and 3 of one network.
pub(crate) fn mesh(lab: &Lab) -> ([Host; 2], [SandboxSpec; 2]) {
    let hosts = lab.two_hosts();
    let mut specs = [sandbox_spec(1), sandbox_spec(2)];
    for (at, n) in [(0, 2), (1, 3)] {
        let endpoint = host_endpoint(&hosts[at].netns, n);
        specs[at].locals.insert(endpoint_id(n), endpoint);
        let (mac, remote) = remote(n, at as u8 + 1);
        specs[1 - at].remotes.insert(mac, remote);
    }
    (hosts, specs)
}

fn spec_of(sandbox: &SandboxSpec) -> Spec {
    [(NETWORK.to_owned(), sandbox.clone())].into()
}

pub(crate) async fn settle(hosts: &[Host; 2], specs: &[SandboxSpec; 2]) {
    for (host, sandbox) in hosts.iter().zip(specs) {
        host.settle(&spec_of(sandbox)).await;
    }
}

fn reach_each_other() {
    run(async {
        let lab = Lab::new();
        let (hosts, specs) = mesh(&lab);
        let capture = Capture::start(&hosts[0].netns);
        settle(&hosts, &specs).await;
        for (at, other) in [(0, 3), (1, 2)] {
            assert!(pings(&hosts[at].netns, address(other)));
            assert!(pings(&hosts[at].netns, address6(other)));
            assert_eq!(ping(&hosts[at].netns, address(other), 20, LONG), 20);
            assert_eq!(ping(&hosts[at].netns, address6(other), 20, LONG), 20);
        }
        let frames = inner(&capture);
        assert!(frames.len() >= 160, "{}", frames.len());
        assert_unicast(&frames);
        // Neighbour solicitations are answered on the host, whoever asks how.
        let solicited = |f: &&(u32, Vec<u8>)| f.1[12..14] == [0x86, 0xdd] && f.1[54] == 135;
        assert_eq!(frames.iter().filter(solicited).count(), 0);
        let shown = link(&hosts[0].netns, MESH);
        assert_eq!(shown["address"], mac(2).to_string());
        assert_eq!(shown["mtu"], 1450);
        let addresses = sh(&hosts[0].netns, &format!("ip -o addr show dev {MESH}"));
        assert!(
            addresses.contains("10.0.1.2/24") && addresses.contains("fd11::2/64"),
            "{addresses}"
        );
    });
}

fn comes_and_goes() {
    run(async {
        let lab = Lab::new();
        let (hosts, mut specs) = mesh(&lab);
        settle(&hosts, &specs).await;
        assert!(pings(&hosts[0].netns, address(3)));
        let index = link(&hosts[0].netns, MESH)["ifindex"].clone();
        assert!(pings(&hosts[0].netns, address6(3)));
        let running = RunningPing::start(&hosts[0].netns, address6(3));
        // Beside a real left-over.
        let netns = &hosts[0].netns;
        sh(
            netns,
            "ip link add wfabcaaaaaaaaaa type veth peer name wfpeer",
        );
        sh(
            netns,
            "ip link set wfabcaaaaaaaaaa alias weft:abcaaaaaaaaaaaaa",
        );
        assert_eq!(hosts[0].apply(&spec_of(&specs[0])).await.ops, 1);
        for _ in 0..10 {
            let report = hosts[0].apply(&spec_of(&specs[0])).await;
            assert_eq!((report.ops, report.is_clean()), (0, true), "{report:?}");
        }
        let (sent, lost) = running.stop();
        assert!(sent > 5 && lost == 0, "{lost} of {sent} lost");
        assert_eq!(link(netns, MESH)["ifindex"], index);
        // The endpoint goes, the network stays; then all goes and comes again.
        let with = specs[0].clone();
        specs[0].locals.clear();
        hosts[0].settle(&spec_of(&specs[0])).await;
        let others = ["lo", "u0"].map(str::to_owned).into();
        assert_eq!(link_names(netns), others);
        hosts[0].settle(&spec_of(&with)).await;
        assert!(pings(netns, address(3)));
        hosts[0].settle(&Spec::new()).await;
        assert_eq!(link_names(netns), others);
        hosts[0].settle(&spec_of(&with)).await;
        assert!(pings(netns, address(3)) && pings(netns, address6(3)));
    });
}

fn own_namespace() {
    run(async {
        let lab = Lab::new();
        let here = Path::new("/proc/self/ns/net");
        let netns_dir = lab.path().join("own-sandboxes");
        let mut overlay = Overlay::open(OverlayConfig { netns_dir }).await.unwrap();
        let before = link_names(here);
        let mut sandbox = sandbox_spec(1);
        sandbox
            .locals
            .insert(endpoint_id(2), host_endpoint(here, 2));
        let spec = spec_of(&sandbox);
        for ops in [true, false] {
            let report = overlay.reconcile(&spec, Scope::All).await;
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(report.ops > 0, ops, "{report:?}");
        }
        let current = Netns::current().unwrap().identity();
        assert_eq!(Netns::open(here).unwrap().identity(), current);
        let after = link_names(here);
        let made: Vec<&String> = after.difference(&before).collect();
        assert_eq!(made, [MESH]);
        overlay.reconcile(&Spec::new(), Scope::All).await;
        assert_eq!(link_names(here), before);
    });
}
