use super::*;

fn port(published: u16, target: u16) -> Port {
    Port {
        published,
        target,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ip: None,
        source: SourceMode::Preserve,
        allow_from: Vec::new(),
    }
}

#[test]
fn the_short_form_is_read() {
    let udp = Port {
        protocol: Protocol::Udp,
        ..port(53, 5353)
    };
    for (text, ports) in [
        ("8080:80", vec![port(8080, 80)]),
        ("8080:80/tcp", vec![port(8080, 80)]),
        ("53:5353/udp", vec![udp]),
        ("80", vec![port(0, 80)]),
        ("80-81", vec![port(0, 80), port(0, 81)]),
        ("8080-8081:80-81", vec![port(8080, 80), port(8081, 81)]),
        ("8080-8080:80", vec![port(8080, 80)]),
        ("65535:1", vec![port(65535, 1)]),
    ] {
        assert_eq!(parse(text), Ok(ports), "{text}");
    }
    assert_eq!(parse("1-1024:1-1024").unwrap().len(), 1024);
}

#[test]
fn the_long_form_is_read_in_any_order() {
    assert_eq!(parse("target=80"), Ok(vec![port(0, 80)]));
    assert_eq!(parse("target=80,published=8080"), Ok(vec![port(8080, 80)]));
    assert_eq!(
        parse("published=8080-8081,target=80-81,protocol=udp,mode=host"),
        Ok(vec![
            Port {
                protocol: Protocol::Udp,
                mode: PublishMode::Host,
                ..port(8080, 80)
            },
            Port {
                protocol: Protocol::Udp,
                mode: PublishMode::Host,
                ..port(8081, 81)
            },
        ])
    );
    let text = "allow-from=10.0.0.0/8,published=443,allow-from=2001:db8::/32,target=8443,\
                ip=192.0.2.1,source=snat,protocol=tcp,mode=ingress";
    assert_eq!(
        parse(text),
        Ok(vec![Port {
            ip: Some("192.0.2.1".parse().unwrap()),
            source: SourceMode::Snat,
            allow_from: vec![
                "10.0.0.0/8".parse().unwrap(),
                "2001:db8::/32".parse().unwrap()
            ],
            ..port(443, 8443)
        }])
    );
    let read = parse("target=80,ip=2001:db8::1,source=proxy-v2").unwrap();
    assert_eq!(read[0].ip, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(read[0].source, SourceMode::ProxyV2);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    for (text, said) in [
        ("", "`` is not a port; use 1 to 65535"),
        ("http", "`http` is not a port; use 1 to 65535"),
        ("0", "`0` is not a port"),
        ("0:80", "`0` is not a port"),
        ("8080:0", "`0` is not a port"),
        ("65536:80", "`65536` is not a port"),
        ("8080:", "`` is not a port"),
        (":80", "`` is not a port"),
        ("+80", "`+80` is not a port"),
        (" 80", "` 80` is not a port"),
        ("-80", "`` is not a port"),
        ("80-", "`` is not a port"),
        ("1-2-3:1", "`2-3` is not a port"),
        (
            "8081-8080:80-81",
            "range 8081-8080 ends before it begins; write 8080-8081",
        ),
        (
            "8080-8082:80-81",
            "published ports: 3, target ports: 2; give as many of both",
        ),
        ("8080-8081:80", "published ports: 2, target ports: 1"),
        ("8080:80-81", "published ports: 1, target ports: 2"),
        (
            "1-1025:1-1025",
            "range 1-1025 has 1025 ports; a service has 1024 at most",
        ),
        (
            "8080:80/sctp",
            "protocol `sctp` is not known; use tcp or udp",
        ),
        ("8080:80/TCP", "protocol `TCP` is not known; use tcp or udp"),
        ("8080:80/", "protocol `` is not known"),
        ("8080/tcp:80", "protocol `tcp:80` is not known"),
        (
            "127.0.0.1:8080:80",
            "an address goes into the long form: ip=192.0.2.1,published=8080,target=80",
        ),
        ("[::1]:8080:80", "an address goes into the long form"),
        ("published=8080", "target= is missing"),
        ("target=80,published", "`published` is not KEY=VALUE"),
        ("target=80,", "`` is not KEY=VALUE"),
        (
            "target=80,target=81",
            "`target` is given twice; give it once",
        ),
        (
            "target=80,host=1",
            "there is no key `host`; there are published, target,",
        ),
        (
            "target=80,published=8080-8081",
            "published ports: 2, target ports: 1",
        ),
        ("target=80,published=0", "`0` is not a port"),
        ("target=80,protocol=sctp", "use tcp or udp"),
        (
            "target=80,mode=mesh",
            "mode `mesh` is not known; use ingress or host",
        ),
        (
            "target=80,source=dnat",
            "source `dnat` is not known; use preserve or snat or proxy-v2",
        ),
        (
            "target=80,source=proxy-v2,protocol=udp",
            "source=proxy-v2 is for TCP; use preserve or snat with udp",
        ),
        (
            "target=80,ip=eth0",
            "`eth0` is not an address; write ip=192.0.2.1",
        ),
        ("target=80,ip=0.0.0.0", "leave ip= out"),
        ("target=80,ip=::", "leave ip= out"),
        ("target=80,allow-from=all", "`all` is not a prefix"),
        (
            "target=80,allow-from=10.0.0.0/33",
            "`10.0.0.0/33` is not a prefix",
        ),
        (
            "target=80,allow-from=10.0.0.1",
            "write allow-from=10.0.0.1/32",
        ),
        (
            "target=80,allow-from=10.0.0.1/8",
            "did you mean 10.0.0.0/8?",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
        assert!(!error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_published_port_is_named_by_number_and_protocol() {
    let key = |published, protocol| PortKey {
        published,
        protocol,
    };
    assert_eq!(parse_key("8080"), Ok(vec![key(8080, Protocol::Tcp)]));
    assert_eq!(parse_key("53/udp"), Ok(vec![key(53, Protocol::Udp)]));
    assert_eq!(
        parse_key("80-81"),
        Ok(vec![key(80, Protocol::Tcp), key(81, Protocol::Tcp)])
    );
    for (text, said) in [
        (
            "8080:80",
            "name the published port only, such as 8080 or 53/udp",
        ),
        ("published=8080", "name the published port only"),
        ("0", "`0` is not a port"),
        ("8080/sctp", "use tcp or udp"),
    ] {
        let error = parse_key(text).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}
