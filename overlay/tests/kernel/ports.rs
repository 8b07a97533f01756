//! A network whose tunnels get another port, or none: what a change of its encryption comes to.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_netns::Netns;
use weft_overlay::{Spec, Tunnel};

use crate::lab::*;
use crate::wire::LONG;

pub(crate) const CASES: &[(&str, fn())] = &[
    (
        "after_a_change_of_port_nothing_is_sent_by_the_old_one_nor_taken",
        nothing_by_the_old_port,
    ),
    ("a_changed_port_keeps_every_entry", entries_stay),
    ("over_ipv6_the_other_port_needs_no_checksum", over_ipv6),
    (
        "without_a_tunnel_nothing_leaves_and_local_traffic_goes_on",
        without_a_tunnel,
    ),
    ("a_tap_is_the_way_out_as_soon_as_it_is_there", a_tap),
];

/// The port after VXLAN's, which encrypted networks have.
const INNER_PORT: u16 = 4790;
/// Long enough to hear an answer that should not come.
const SHORT: Duration = Duration::from_millis(150);
/// VNI of the network of a [`Pair`].
const VNI: u32 = 4097;

/// Ports by which host 1 has sent frames of the network, since this was last asked.
fn sent_by(capture: &Capture) -> Vec<u16> {
    let from_host_1 = |frame: &&Frame| frame.0.get(26..30) == Some(&[198, 18, 0, 1]);
    capture
        .take()
        .iter()
        .filter(from_host_1)
        .filter_map(Frame::tunnelled)
        .filter(|(_, vni, _)| *vni == VNI)
        .map(|(port, _, _)| port)
        .collect()
}

/// A pair, and a network beside it that keeps the sockets of the ordinary port open.
fn beside_another() -> (Pair, [Spec; 2]) {
    let pair = Pair::new();
    let others = [pair.lab.namespace("d1"), pair.lab.namespace("d2")];
    let mut specs = [sandbox_spec(1), sandbox_spec(2)];
    attach(&mut specs, 1, &others[0], 4);
    attach(&mut specs, 2, &others[1], 5);
    specs.iter_mut().for_each(|spec| spec.vni = VNI + 1);
    let specs = specs.map(|spec| [(OTHER.to_owned(), spec)].into());
    (pair, specs)
}

async fn settle(pair: &Pair, beside: &[Spec; 2], host: usize) {
    let mut spec = pair.spec(host);
    spec.extend(beside[host].clone());
    pair.hosts[host].settle(&spec).await;
}

/// Datagrams from a namespace, one after the other, whatever becomes of them.
struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Flood {
    fn start(netns: &Path, to: IpAddr) -> Self {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let socket = Netns::open(netns).unwrap().udp(any).unwrap();
        let (sent, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (sent.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Refused where there is no way: that is part of what is tried.
                let _ = socket.send_to(b"x", (to, 9));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { sent, stop, thread }
    }

    /// Until so many more were sent.
    fn go_on(&self, more: u64) {
        let sent = || self.sent.load(Ordering::Relaxed);
        let enough = sent() + more;
        let deadline = Instant::now() + LONG;
        while sent() < enough {
            assert!(Instant::now() < deadline, "nothing is sent");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn nothing_by_the_old_port() {
    run(async {
        let (mut pair, beside) = beside_another();
        for host in 0..2 {
            settle(&pair, &beside, host).await;
        }
        assert!(pings(&pair.containers[0], address(3)));
        let capture = Capture::start(&pair.hosts[0].netns);
        assert_eq!(ping(&pair.containers[0], address(3), 5, LONG), 5);
        assert!(sent_by(&capture).iter().all(|port| *port == VXLAN_PORT));
        let busy = Flood::start(&pair.containers[0], address(3).into());
        busy.go_on(10);
        pair.specs[0].vtep.port = INNER_PORT;
        settle(&pair, &beside, 0).await;
        // What was sent until here was sent before the specification was in the kernel.
        let before = sent_by(&capture);
        assert!(before.contains(&VXLAN_PORT), "{before:?}");
        busy.go_on(50);
        // The other host has the old port still: neither takes what the other sends.
        let heard = Capture::start(&pair.containers[0]);
        assert_eq!(ping(&pair.containers[1], address(2), 3, SHORT), 0);
        assert!(!says(&heard, 3), "a frame came in by the old port");
        pair.specs[1].vtep.port = INNER_PORT;
        settle(&pair, &beside, 1).await;
        assert!(pings(&pair.containers[0], address(3)));
        busy.stop();
        let after = sent_by(&capture);
        assert!(after.len() >= 50, "{}", after.len());
        assert!(after.iter().all(|port| *port == INNER_PORT), "{after:?}");
        // And back again.
        for host in 0..2 {
            pair.specs[host].vtep.port = VXLAN_PORT;
            settle(&pair, &beside, host).await;
        }
        sent_by(&capture);
        assert!(pings(&pair.containers[0], address(3)));
        assert!(sent_by(&capture).iter().all(|port| *port == VXLAN_PORT));
    });
}

/// Whether endpoint `n` is the source of a frame that was captured.
fn says(capture: &Capture, n: u8) -> bool {
    let frames = capture.take();
    frames.iter().any(|f| f.0.get(6..12) == Some(&mac(n).0[..]))
}

fn entries_stay() {
    run(async {
        let mut pair = Pair::new();
        for n in 10..60 {
            let (mac, remote) = remote(n, 2);
            pair.specs[0].remotes.insert(mac, remote);
        }
        pair.specs[0].multicast = true;
        pair.specs[0].flood = [vtep(2)].into();
        pair.settle().await;
        let sandbox = pair.hosts[0].sandbox();
        let tables = || {
            let fdb = sh(&sandbox, "bridge fdb show dev vxlan0");
            let neighbours = sh(&sandbox, "ip neigh show dev vxlan0");
            let mut lines: Vec<String> = { fdb.lines().chain(neighbours.lines()) }
                // The device's own address is another one.
                .filter(|line| !line.contains("vlan") && !line.contains("master br0 permanent"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        let before = tables();
        assert!(before.len() > 150, "{}", before.len());
        let inside = link(&pair.containers[0], "eth0")["ifindex"].clone();
        pair.specs.iter_mut().for_each(|s| s.vtep.port = INNER_PORT);
        pair.settle().await;
        assert_eq!(tables(), before);
        let device = link(&sandbox, "vxlan0");
        assert_eq!(device["linkinfo"]["info_data"]["port"], INNER_PORT);
        assert_eq!(link(&pair.containers[0], "eth0")["ifindex"], inside);
        assert!(pings(&pair.containers[0], address(3)));
    });
}

fn over_ipv6() {
    run(async {
        let mut pair = Pair::new();
        for (host, spec) in pair.specs.iter_mut().enumerate() {
            spec.mtu = 1388;
            spec.vtep.port = INNER_PORT;
            spec.vtep.local = format!("fd00::{}", host + 1).parse().unwrap();
            for remote in spec.remotes.values_mut() {
                remote.vtep = format!("fd00::{}", 2 - host).parse().unwrap();
            }
        }
        let capture = Capture::start(&pair.hosts[0].netns);
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let frames = capture.take();
        let tunnelled = { frames.iter() }.filter(|frame| frame.tunnelled().is_some());
        let mut count = 0;
        for frame in tunnelled {
            count += 1;
            assert_eq!(frame.0[60..62], [0, 0], "outer UDP checksum");
        }
        assert!(count >= 2, "{count}");
    });
}

fn without_a_tunnel() {
    run(async {
        let mut pair = Pair::new();
        let neighbour = pair.lab.namespace("c3");
        attach(&mut pair.specs, 1, &neighbour, 4);
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)) && pings(&neighbour, address(2)));
        let local = RunningPing::start(&neighbour, address(2));
        pair.specs[0].tunnel = Tunnel::Closed;
        pair.settle().await;
        assert!(!link_names(&pair.hosts[0].sandbox()).contains("vxlan0"));
        let capture = Capture::start(&pair.hosts[0].netns);
        let heard = Capture::start(&pair.containers[0]);
        assert_eq!(ping(&pair.containers[0], address(3), 3, SHORT), 0);
        assert_eq!(ping(&pair.containers[1], address(2), 3, SHORT), 0);
        assert_eq!(sent_by(&capture), [0; 0]);
        assert!(!says(&heard, 3), "a frame came in");
        pair.specs[0].tunnel = Tunnel::Vxlan;
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let (sent, lost) = local.stop();
        assert!(lost == 0, "{lost} of {sent} lost between neighbours");
    });
}

/// What a sandbox's links and entries are like where a program carries the frames. The program is not
/// here: that frames come out of the device takes one that has it open.
fn a_tap() {
    run(async {
        let mut pair = Pair::new();
        pair.settle().await;
        pair.specs[0].tunnel = Tunnel::Port;
        pair.specs[0].mtu = 1408;
        pair.settle().await;
        let sandbox = pair.hosts[0].sandbox();
        assert!(!link_names(&sandbox).contains("vxlan0"));
        let behind_tap = || {
            sh(
                &sandbox,
                "bridge fdb show dev esp0 | grep -c static || true",
            )
        };
        for round in 0..2 {
            sh(&sandbox, "ip tuntap add dev esp0 mode tap");
            let ops = pair.hosts[0].settle(&pair.spec(0)).await;
            assert!(ops > 0, "round {round}");
            let tap = link(&sandbox, "esp0");
            assert_eq!((&tap["master"], &tap["mtu"]), (&"br0".into(), &1408.into()));
            let flags = tap["flags"].as_array().unwrap();
            assert!(flags.contains(&"UP".into()), "{flags:?}");
            assert_eq!(tap["linkinfo"]["info_slave_data"]["learning"], false);
            assert_eq!(tap["inet6_addr_gen_mode"], "none");
            assert_eq!(behind_tap().trim(), "1");
            // As where the program ends, and another one opens the device anew.
            sh(&sandbox, "ip link del esp0");
            assert_eq!(pair.hosts[0].settle(&pair.spec(0)).await, 0);
        }
        sh(&sandbox, "ip tuntap add dev esp0 mode tap");
        pair.settle().await;
        // Not weft's to remove while the network is there, but no way out any more.
        pair.specs[0].tunnel = Tunnel::Vxlan;
        pair.settle().await;
        assert!(link(&sandbox, "esp0")["master"].is_null());
        assert!(pings(&pair.containers[0], address(3)));
        pair.hosts[0].settle(&Spec::new()).await;
    });
}
