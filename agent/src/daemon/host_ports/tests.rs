use super::*;
use crate::publish;

/// Lines as the kernel of a little-endian host writes them.
const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0100007F:1F91 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1
";
const UDP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue
  10: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00
  11: B80D0120000000000000000001000000:0043 00000000000000000000000000000000:0000 07 00000000:00
  12: 0000000000000000FFFF0000010200C0:0044 00000000000000000000000000000000:0000 07 00000000:00
";

fn host() -> HostPorts {
    let mut host = HostPorts {
        ephemeral: ephemeral("32768\t60999\n"),
        reserved: reserved("8080,40000-40002\n"),
        ..HostPorts::default()
    };
    host.add(Protocol::Tcp, TCP.as_bytes()).unwrap();
    host.add(Protocol::Udp, UDP6.as_bytes()).unwrap();
    host
}

fn warnings(spec: &str) -> Vec<String> {
    host().warnings(&publish::parse(spec).unwrap())
}

#[test]
#[cfg(target_endian = "little")]
fn the_kernels_tables_are_read() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let expected = [
        (Protocol::Tcp, 22, address("0.0.0.0")),
        (Protocol::Tcp, 8080, address("127.0.0.1")),
        (Protocol::Udp, 0x35, address("::")),
        (Protocol::Udp, 0x43, address("2001:db8::1")),
        (Protocol::Udp, 0x44, address("192.0.2.1")),
    ];
    assert_eq!(host().listening, BTreeSet::from(expected));
    assert_eq!(host().ephemeral, Some(32768..=60999));
    assert_eq!(host().reserved, BTreeSet::from([8080, 40000, 40001, 40002]));
}

#[test]
fn what_is_no_such_table_is_passed_over() {
    assert_eq!(ephemeral(""), None);
    assert_eq!(ephemeral("1 x"), None);
    assert_eq!(reserved("\n"), BTreeSet::new());
    assert_eq!(reserved("1-x,7"), BTreeSet::from([7]));
    for line in [
        "",
        "0:",
        "0: 00:1 x 0A",
        "0: +0000000:1 x 0A",
        "0: 0100007F 0 0A",
        "0: zz:1F90 0 0A",
    ] {
        assert_eq!(listener(Protocol::Tcp, line), None, "{line}");
    }
}

#[test]
fn a_program_that_listens_on_a_published_port_is_told_of() {
    for spec in [
        "8080:80",
        "22:22",
        "published=22,target=22,ip=192.0.2.1",
        "published=8080,target=80,ip=127.0.0.1",
        "53:53/udp",
    ] {
        let warnings = warnings(spec);
        assert_eq!(warnings.len(), 1, "{spec}: {warnings:?}");
        assert!(warnings[0].contains("listens on port"), "{warnings:?}");
    }
    for spec in [
        "8081:80",
        "22:22/udp",
        "53:53/tcp",
        "published=8080,target=80,ip=192.0.2.1",
        // The listener may be the data-plane process's.
        "published=8080,target=80,source=proxy-v2",
        "published=8080,target=80,source=proxy-v2,mode=host,ip=127.0.0.1",
    ] {
        assert_eq!(warnings(spec), [""; 0], "{spec}");
    }
}

#[test]
fn a_port_that_the_kernel_hands_out_is_told_of_unless_it_is_reserved() {
    for (spec, said) in [
        ("32768:80", "port 32768/tcp is within"),
        ("60999-61000:1-2", "port 60999/tcp is within"),
        ("39999-40003:1-5", "ports 39999/tcp, 40003/tcp is within"),
        ("50000-50009:1-10/udp", "ports 50000-50009/udp is within"),
    ] {
        let warnings = warnings(spec);
        assert_eq!(warnings.len(), 1, "{spec}: {warnings:?}");
        assert!(warnings[0].contains(said), "{warnings:?}");
        assert!(warnings[0].contains(", 32768-60999;"), "{warnings:?}");
    }
    for spec in ["32767:80", "61000:80", "40000-40002:1-3"] {
        assert_eq!(warnings(spec), [""; 0], "{spec}");
    }
}

#[test]
fn a_warning_names_a_few_ports() {
    let ports: Vec<Port> = (0..20)
        .flat_map(|n| publish::parse(&format!("{}:80", 40_010 + 2 * n)).unwrap())
        .collect();
    let warnings = host().warnings(&ports);
    assert!(
        warnings[0].contains("40024/tcp, and others"),
        "{warnings:?}"
    );
}

#[test]
fn this_host_is_read() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let published = publish::parse(&format!("{port}:80")).unwrap();
    let warnings = HostPorts::read().warnings(&published);
    assert!(
        warnings[0].contains(&format!("listens on port {port}/tcp")),
        "{warnings:?}"
    );
}
