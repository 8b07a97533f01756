//! The hosts themselves as endpoints of a network: the way between the nodes of an ingress.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use weft_netns::Netns;
use weft_overlay::{LocalEndpoint, Mac, Overlay, OverlayConfig, SandboxSpec, Scope, Spec};

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
    (
        "what_a_host_forwards_crosses_the_mesh_uncut",
        forwards_super_packets,
    ),
];

const MESH: &str = "wf-ingress";

/// Endpoint `n`, with this name, where a host is the container.
fn host_endpoint(host: &Path, n: u8) -> LocalEndpoint {
    LocalEndpoint {
        ifname: MESH.to_owned(),
        routes: [].into(),
        forwards: true,
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

/// A packet of many segments that comes from beyond a host enters the mesh as one: cut there, each
/// segment would have its own trip through all that follows.
fn forwards_super_packets() {
    run(async {
        let lab = Lab::new();
        let (hosts, specs) = mesh(&lab);
        settle(&hosts, &specs).await;
        let client = lab.namespace("client");
        beyond(&hosts[0].netns, &client, &hosts[1].netns);
        for to in [IpAddr::V4(address(3)), address6(3)] {
            assert!(pings(&client, to), "{to}");
            let [came, went] = largest_frames(&client, &hosts, to, 46 * SEGMENT);
            assert!(came > 46 * SEGMENT, "{to}: frames of {came} bytes");
            assert_eq!(went, came, "{to}: cut");
            // An IP packet that is valid, but with the tunnel's headers would be none.
            let [came, went] = largest_frames(&client, &hosts, to, 65_470);
            assert!(came > 65_470, "{to}: frames of {came} bytes");
            assert!(went < 2 * SEGMENT, "{to}: a frame of {went} bytes");
        }
    });
}

/// Bytes of a segment.
const SEGMENT: usize = 1309;

/// Puts `client` beyond one host, which forwards for it; the other knows the way back.
fn beyond(entry: &Path, client: &Path, other: &Path) {
    let peer = client.display();
    sh(
        entry,
        &format!("ip link add c0 type veth peer name c0 netns {peer}"),
    );
    for (netns, n) in [(entry, 1), (client, 2)] {
        sh(
            netns,
            &format!(
                "ip addr add 192.0.2.{n}/24 dev c0
                 ip addr add 2001:db8::{n}/64 dev c0 nodad
                 ip link set c0 up"
            ),
        );
    }
    sh(
        client,
        "ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1",
    );
    sh(
        entry,
        "echo 1 > /proc/sys/net/ipv4/ip_forward
         echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
    let back = [address(2).into(), address6(2)];
    for (net, via) in ["192.0.2.0/24", "2001:db8::/64"].iter().zip(back) {
        sh(other, &format!("ip route add {net} via {via}"));
    }
}

/// Sends so many bytes from the client as one packet of segments. Returns the sizes of the largest
/// frames of it that come to the first host, and that go from there into the mesh.
fn largest_frames(client: &Path, hosts: &[Host; 2], to: IpAddr, bytes: usize) -> [usize; 2] {
    let to = SocketAddr::new(to, 9000);
    let server = Netns::open(&hosts[1].netns).unwrap().udp(to).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = Netns::open(client).unwrap();
    let sender = sender.udp(any.parse().unwrap()).unwrap();
    setsockopt(&sender, UdpGsoSegment, &(SEGMENT as i32)).unwrap();
    let capture = Capture::start(&hosts[0].netns);
    sender.send_to(&vec![7; bytes], to).unwrap();
    let (mut arrived, mut buffer) = (0, [0; 2 * SEGMENT]);
    while arrived < bytes {
        arrived += server.recv(&mut buffer).unwrap();
    }
    let frames = capture.take();
    let entry = link(&hosts[0].netns, "c0")["address"].to_string();
    let entry: Mac = entry.trim_matches('"').parse().unwrap();
    [entry, mac(3)].map(|mac| {
        let theirs = frames.iter().filter(|frame| frame.0[..6] == mac.0);
        theirs.map(|frame| frame.0.len()).max().unwrap_or_default()
    })
}
