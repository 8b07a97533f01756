use serde_json::{Value, json};

use super::*;
use crate::api::fake::{a_network, a_node, a_service, a_status, an_endpoint, some_events};
use crate::publish;

fn is<T>(value: &T, golden: Value)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let written = serde_json::to_value(value).unwrap();
    assert_eq!(written, golden);
    assert_eq!(&serde_json::from_value::<T>(written).unwrap(), value);
}

#[test]
fn a_node_is_written_with_the_documented_names() {
    is(
        &a_node(),
        json!({
            "id": "aaaaaaaaaaaaaaaa", "name": "h1", "self": true, "role": "manager",
            "leader": true, "status": "ready", "availability": "active",
            "addr": "192.0.2.1:2377", "data_path_addr": "192.0.2.1", "underlay_mtu": 1500,
            "narrow_paths": {"9f2c": 1400},
            "version": "0.1.0", "labels": {"rack": "1"}, "revision": 7,
            "addresses": ["192.0.2.1"], "warnings": ["a firewall"],
        }),
    );
}

#[test]
fn a_network_is_written_with_the_documented_names() {
    is(
        &a_network(),
        json!({
            "id": "bbbbbbbbbbbbbbbb", "name": "web", "driver": "overlay", "vni": 4097,
            "subnets": [
                {"cidr": "10.0.1.0/24", "gateway": "10.0.1.1", "ip_range": null, "used": 1, "free": 252}
            ],
            "routes": [{"destination": "172.16.0.0/12", "via": "10.0.1.9"}],
            "aux_addresses": {}, "mtu": 1450, "encrypted": false, "internal": false, "multicast": false,
            "ingress": false, "allow_overlap": false, "labels": {}, "error": null,
            "warnings": ["MTU 1450 does not fit"], "revision": 8,
        }),
    );
}

#[test]
fn an_endpoint_is_written_with_the_documented_names() {
    is(
        &an_endpoint(),
        json!({
            "id": "cccccccccccccccc", "name": "api", "network": "web",
            "network_id": "bbbbbbbbbbbbbbbb", "node": "h1", "node_id": "aaaaaaaaaaaaaaaa",
            "ipv4": "10.0.1.2", "ipv6": null, "mac": "02:42:0a:00:01:02", "ifname": "eth0",
            "service": "front", "weight": 1, "backend": "ready", "backend_error": null, "state": "ready", "error": null, "notice": null,
            "aliases": ["backend"],
            "labels": {}, "netns": "/proc/7/ns/net", "revision": 9,
            "kind": {"type": "run", "command": ["sleep", "9"], "detached": true},
        }),
    );
}

#[test]
fn a_service_is_written_with_the_documented_names() {
    let totals = json!({
        "connections": 1200, "packets_in": 10_000, "bytes_in": 1_048_576,
        "packets_out": 11_000, "bytes_out": 5_497_558_138_880_u64,
    });
    is(
        &a_service(),
        json!({
            "id": "ffffffffffffffff", "name": "front",
            "networks": [{"name": "web", "id": "bbbbbbbbbbbbbbbb", "vip": "10.0.1.3"}],
            "ports": [{
                "published": 8080, "target": 80, "protocol": "tcp", "mode": "ingress",
                "ip": null, "source": "preserve", "allow_from": ["192.0.2.0/24"],
            }],
            "mode": "vip", "scheduler": "least-conn",
            "affinity": {"type": "client-ip", "timeout_s": 600},
            "drain_timeout_ms": 10_000, "idle_timeout_s": null,
            "health": {
                "probe": {"type": "http", "port": 80, "path": "/healthz"},
                "interval_ms": 1000, "timeout_ms": 1000, "retries": 3,
            },
            "endpoints": [{
                "id": "cccccccccccccccc", "name": "api", "network": "web", "node": "h1",
                "ipv4": "10.0.1.2", "ipv6": null, "weight": 1, "state": "ready", "connections": 7,
                "totals": totals, "numbers_error": null,
            }],
            "connections": 7, "totals": totals,
            "labels": {}, "ends_with_endpoints": false, "revision": 10,
            "warnings": [{"node": "h1", "message": "port 8080 is in use"}],
        }),
    );
    for (value, text) in [
        (json!(Scheduler::SourceHash), "source-hash"),
        (json!(EndpointMode::Dnsrr), "dnsrr"),
        (json!(SourceMode::ProxyV2), "proxy-v2"),
        (json!(PublishMode::Host), "host"),
        (json!(Protocol::Udp), "udp"),
        (json!(BackendState::Draining), "draining"),
    ] {
        assert_eq!(value, text);
    }
    assert_eq!(json!(Affinity::None), json!({"type": "none"}));
    assert_eq!(SourceMode::ProxyV2.to_string(), "proxy-v2");
    assert_eq!(EndpointMode::Dnsrr.to_string(), "dnsrr");
}

#[test]
fn a_status_is_written_with_the_documented_names() {
    is(
        &a_status(),
        json!({
            "node": "aaaaaaaaaaaaaaaa", "name": "h1", "cluster": "dddddddddddddddd",
            "role": "manager", "leader": "eeeeeeeeeeeeeeee", "pid": 4711, "version": "0.1.0",
            "revision": 42, "applied": 41,
            "managers": {"total": 3, "reachable": 2, "needed": 2},
            "peers": [{
                "node": "eeeeeeeeeeeeeeee", "name": "h2", "addr": "192.0.2.2:2377",
                "role": "manager", "reachable": true, "rtt_us": 1234, "applied": null,
            }],
            "features": [{
                "name": "vxlan", "present": false, "hint": "load the module: modprobe vxlan",
            }],
            "problems": [{"object": "network web", "message": "no vxlan"}],
            "warnings": ["a firewall"],
            "drops": {"control.malformed": 3},
            "certificate": {"not_after": 2, "expires_in_s": 7_000_000},
            "dataplane": {
                "pid": 4712,
                "version": "0.1.0",
                "connections": 5,
                "refused": 1,
                "unreachable": 2,
                "lost": 3,
            },
            "encryption": {
                "path": "userspace", "form": "port", "error": null,
                "peers": [{
                    "node": "eeeeeeeeeeeeeeee", "name": "h2", "vtep": "192.0.2.2",
                    "remote": "192.0.2.2:4500", "state": "protected", "reason": null,
                    "epoch_out": 3, "epoch_in": 4, "age_s": 600,
                    "packets_out": 10, "bytes_out": 1000, "packets_in": 20, "bytes_in": 2000,
                    "drops": {"replayed": 1}, "last_received_ms": 15,
                }],
                "strays": {"unknown_spi": 2}, "clear_dropped_in": 4, "clear_dropped_out": 0,
            },
            "dns": {
                "serving": 2, "failed": 1, "upstreams": ["192.0.2.53"], "error": null,
                "queries": {"answered": 7},
            },
        }),
    );
}

#[test]
fn an_event_is_written_with_the_documented_names() {
    is(
        &some_events()[1],
        json!({
            "revision": 10, "type": "network", "action": "removed", "id": "bbbbbbbbbbbbbbbb",
            "name": "web", "object": null,
        }),
    );
}

#[test]
fn error_codes_are_written_with_the_documented_names() {
    let names = serde_json::to_value(ErrorCode::ALL).unwrap();
    assert_eq!(
        names,
        json!([
            "invalid",
            "not_found",
            "conflict",
            "in_use",
            "exhausted",
            "not_member",
            "already_member",
            "no_leader",
            "timed_out",
            "unsupported",
            "failed",
        ])
    );
}

#[test]
fn a_request_leaves_open_what_it_does_not_say() {
    let request: AttachRequest =
        serde_json::from_value(json!({"network": "web", "netns": "/run/netns/blue"})).unwrap();
    assert_eq!(request.kind, Kind::Attached);
    assert_eq!(
        request.netns_path().unwrap().to_str(),
        Some("/run/netns/blue")
    );
    let request: ServiceCreateRequest = serde_json::from_value(json!({
        "name": "front", "networks": ["web"], "ports": [{"target": 80}],
        "health": {"probe": {"type": "exec", "command": ["true"]}},
    }))
    .unwrap();
    assert_eq!(request.ports, publish::parse("80").unwrap());
    assert_eq!(
        (request.mode, request.scheduler, request.affinity),
        (EndpointMode::Vip, Scheduler::Rr, Affinity::None)
    );
    let health = request.health.unwrap();
    assert_eq!(
        (health.interval_ms, health.timeout_ms, health.retries),
        (1000, 1000, 3)
    );
    let request: InitRequest = serde_json::from_value(json!({})).unwrap();
    assert_eq!(request, InitRequest::default());
}

#[test]
fn a_health_check_keeps_what_an_update_does_not_say() {
    let current = HealthCheck {
        probe: Probe::Tcp { port: 80 },
        interval_ms: 5000,
        timeout_ms: 400,
        retries: 7,
    };
    let slower = HealthUpdate {
        interval_ms: Some(9000),
        ..HealthUpdate::default()
    };
    assert_eq!(
        slower.clone().applied_to(Some(current.clone())),
        Some(HealthCheck {
            interval_ms: 9000,
            ..current.clone()
        })
    );
    assert_eq!(slower.applied_to(None), None);
    let other = HealthUpdate {
        probe: Some(Probe::Tcp { port: 81 }),
        ..HealthUpdate::default()
    };
    assert_eq!(
        other.clone().applied_to(Some(current.clone())),
        Some(HealthCheck {
            probe: Probe::Tcp { port: 81 },
            ..current
        })
    );
    let fresh = other.applied_to(None).unwrap();
    assert_eq!((fresh.interval_ms, fresh.retries), (1000, 3));
}

#[test]
fn an_attachment_names_exactly_one_namespace() {
    let with = |pid, netns: Option<&str>| AttachRequest {
        pid,
        netns: netns.map(Into::into),
        ..AttachRequest::new("web")
    };
    assert!(with(Some(7), None).netns_path().is_ok());
    for request in [
        with(None, None),
        with(Some(0), None),
        with(Some(7), Some("/run/netns/blue")),
        with(None, Some("netns/blue")),
    ] {
        assert_eq!(request.netns_path().unwrap_err().code, ErrorCode::Invalid);
    }
}

#[test]
fn printing_for_debugging_shows_no_secret() {
    let request = JoinRequest {
        token: "WFTKN-1-abc-secret".into(),
        ..JoinRequest::default()
    };
    let token = Token {
        role: Role::Worker,
        token: "WFTKN-1-abc-secret".into(),
        managers: Vec::new(),
    };
    assert!(!format!("{request:?} {token:?}").contains("secret"));
}
