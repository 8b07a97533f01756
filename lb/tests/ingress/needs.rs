//! What a host needs beside the table: that it fails without, and works with.

use std::net::{IpAddr, SocketAddr};

use weft_lb::spec::Protocol;

use super::host::{GATEWAY, Host, MESH, ip};
use super::lab::{Lab, PORT};
use super::ns::Ns;
use super::talk::{ask, is_silent};

crate::cases!(
    the_mesh_needs_a_loose_reverse_path_filter,
    the_gateway_needs_one_where_the_filter_looks_at_marks,
    localhost_needs_a_switch_or_a_rule_for_each_device,
    both_devices_need_a_link_local_address,
);

fn switch(host: &Host, device: &str, name: &str, value: &str) {
    let name = format!("ipv4/conf/{device}/{name}");
    host.ns.0.set_sysctl(&name, value).unwrap();
}

fn at(to: IpAddr) -> SocketAddr {
    SocketAddr::new(to, PORT)
}

fn assert_silent(ns: &Ns, to: IpAddr) {
    assert!(is_silent(ns, Protocol::Tcp, at(to)), "{to}");
}

fn assert_answers(ns: &Ns, to: IpAddr) {
    if let Err(error) = ask(ns, Protocol::Tcp, at(to)) {
        panic!("{to}: {error}");
    }
}

fn the_mesh_needs_a_loose_reverse_path_filter() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let entry = lab.a.underlay(true);
    switch(&lab.b, MESH, "rp_filter", "1");
    assert_silent(&lab.outside, entry);
    // The larger one of this and that of all devices counts.
    switch(&lab.b, MESH, "rp_filter", "0");
    assert_silent(&lab.outside, entry);
    switch(&lab.b, MESH, "rp_filter", "2");
    assert_answers(&lab.outside, entry);
}

fn the_gateway_needs_one_where_the_filter_looks_at_marks() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let entry = lab.a.underlay(true);
    switch(&lab.b, GATEWAY, "rp_filter", "1");
    assert_answers(&lab.outside, entry);
    switch(&lab.b, "all", "src_valid_mark", "1");
    assert_silent(&lab.outside, entry);
    switch(&lab.b, GATEWAY, "rp_filter", "2");
    assert_answers(&lab.outside, entry);
}

fn localhost_needs_a_switch_or_a_rule_for_each_device() {
    for (on_a, on_b, device) in [(0, 1, MESH), (1, 0, GATEWAY)] {
        let mut lab = Lab::new();
        lab.publish(on_a, on_b);
        let a = &lab.a;
        switch(a, device, "route_localnet", "0");
        assert_silent(&a.ns, [127, 0, 0, 1].into());
        switch(a, device, "route_localnet", "1");
        assert_answers(&a.ns, [127, 0, 0, 1].into());
        let localhost = "::1".parse().unwrap();
        ip(&a.ns, &format!("-6 rule delete pref 101 iif {device}"));
        assert_silent(&a.ns, localhost);
        a.lead_localhost(device);
        assert_answers(&a.ns, localhost);
    }
}

fn both_devices_need_a_link_local_address() {
    for (on_a, on_b, device) in [(0, 1, MESH), (1, 0, GATEWAY)] {
        let mut lab = Lab::new();
        lab.publish(on_a, on_b);
        let entry = lab.a.underlay(false);
        ip(
            &lab.a.ns,
            &format!("-6 address flush dev {device} scope link"),
        );
        assert!(ask(&lab.outside, Protocol::Tcp, at(entry)).is_err());
        ip(
            &lab.a.ns,
            &format!("address add fe80::1/64 nodad dev {device}"),
        );
        assert_answers(&lab.outside, entry);
    }
}
