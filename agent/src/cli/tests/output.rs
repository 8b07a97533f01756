use clap::Parser;

use crate::api::fake::{Served, a_network, a_node, a_service, an_endpoint};
use crate::api::types::*;
use crate::cli::args::Cli;
use crate::cli::verbs;
use crate::exit::CliError;
use crate::publish;

async fn output(served: &Served, line: &str) -> Result<String, CliError> {
    let cli = Cli::try_parse_from(std::iter::once("weft").chain(line.split(' '))).unwrap();
    let mut out = Vec::new();
    verbs::run(cli.verb, &served.client, &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn reads_print_a_table_unless_told_otherwise() {
    let served = Served::start();
    for (line, table) in [
        (
            "node ls",
            "NODE ID             NAME  STATUS  ROLE     LEADER  AVAIL   ADDR            VERSION\n\
             aaaaaaaaaaaaaaaa *  h1    ready   manager  leader  active  192.0.2.1:2377  0.1.0\n",
        ),
        (
            "network ls",
            "NETWORK ID        NAME  DRIVER   VNI   SUBNETS      MTU   USED  OPTIONS\n\
             bbbbbbbbbbbbbbbb  web   overlay  4097  10.0.1.0/24  1450  1\n",
        ),
        (
            "endpoint ls",
            "ENDPOINT ID       NAME  NETWORK  SERVICE  NODE  ADDRESS   IFNAME  STATE\n\
             cccccccccccccccc  api   web      front    h1    10.0.1.2  eth0    ready\n",
        ),
        (
            "service ls",
            "SERVICE ID        NAME   MODE  SCHEDULER   READY  NETWORKS      PORTS\n\
             ffffffffffffffff  front  vip   least-conn  1/1    web:10.0.1.3  8080->80/tcp\n",
        ),
        (
            "service inspect front --format table",
            "SERVICE ID        NAME   MODE  SCHEDULER   READY  NETWORKS      PORTS\n\
             ffffffffffffffff  front  vip   least-conn  1/1    web:10.0.1.3  8080->80/tcp\n\n\
             ENDPOINT ID       NAME  NETWORK  NODE  ADDRESS   WEIGHT  STATE\n\
             cccccccccccccccc  api   web      h1    10.0.1.2  1       ready\n\n\
             ENDPOINT ID       NAME  NODE  FLOWS  TAKEN  IN               OUT\n\
             cccccccccccccccc  api   h1    7      1200   10000 (1.0 MiB)  11000 (5.0 TiB)\n\
             all                           7      1200   10000 (1.0 MiB)  11000 (5.0 TiB)\n\n\
             Warning: h1: port 8080 is in use\n",
        ),
    ] {
        assert_eq!(output(&served, line).await.unwrap(), table);
    }
}

#[tokio::test]
async fn ls_prints_an_array_and_inspect_one_object() {
    let served = Served::start();
    let text = output(&served, "node ls --format json").await.unwrap();
    assert_eq!(
        serde_json::from_str::<Vec<Node>>(&text).unwrap(),
        [a_node()]
    );
    let text = output(&served, "network ls --format json").await.unwrap();
    assert_eq!(
        serde_json::from_str::<Vec<Network>>(&text).unwrap(),
        [a_network()]
    );
    let text = output(&served, "endpoint ls --format json").await.unwrap();
    assert_eq!(
        serde_json::from_str::<Vec<Endpoint>>(&text).unwrap(),
        [an_endpoint()]
    );
    let text = output(&served, "service ls --format json").await.unwrap();
    assert_eq!(
        serde_json::from_str::<Vec<Service>>(&text).unwrap(),
        [a_service()]
    );
    let text = output(&served, "service inspect front").await.unwrap();
    assert_eq!(serde_json::from_str::<Service>(&text).unwrap(), a_service());
    let text = output(&served, "network inspect web").await.unwrap();
    assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), a_network());
}

#[tokio::test]
async fn quiet_reads_print_ids() {
    let served = Served::start();
    for (line, id) in [
        ("node ls -q", "aaaaaaaaaaaaaaaa\n"),
        ("node inspect self -q", "aaaaaaaaaaaaaaaa\n"),
        ("network ls -q --format json", "bbbbbbbbbbbbbbbb\n"),
        ("endpoint ls -q", "cccccccccccccccc\n"),
        ("service ls -q", "ffffffffffffffff\n"),
        (
            "service inspect front -q --format table",
            "ffffffffffffffff\n",
        ),
        ("status -q", "aaaaaaaaaaaaaaaa\n"),
    ] {
        assert_eq!(output(&served, line).await.unwrap(), id, "{line}");
    }
}

#[tokio::test]
async fn what_was_made_or_removed_is_printed() {
    let served = Served::start();
    for (line, printed) in [
        ("network create web", "bbbbbbbbbbbbbbbb\n"),
        ("network update web --encrypted true", "web\n"),
        ("network rm web web", "web\nweb\n"),
        ("attach web --pid 7", "cccccccccccccccc api 10.0.1.2\n"),
        ("attach web --pid 7 -q", "cccccccccccccccc\n"),
        ("detach api.web", "cccccccccccccccc\n"),
        ("endpoint update api --weight 2", "cccccccccccccccc\n"),
        ("service create front --network web", "ffffffffffffffff\n"),
        ("service update front --scheduler rr", "front\n"),
        ("service rm front back", "front\nfront\n"),
        ("wait --service front", ""),
        ("wait --revision 7", ""),
        ("token worker -q", "WFTKN-1-abc-def\n"),
    ] {
        assert_eq!(output(&served, line).await.unwrap(), printed, "{line}");
    }
    let text = output(&served, "attach web --pid 7 --format json")
        .await
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Endpoint>(&text).unwrap(),
        an_endpoint()
    );
}

#[tokio::test]
async fn init_prints_the_command_for_the_next_host_ready_to_paste() {
    let served = Served::start();
    let text = output(&served, "init").await.unwrap();
    let command = text
        .lines()
        .find(|line| line.contains("weft join"))
        .unwrap();
    assert_eq!(
        command.trim(),
        "weft join --token WFTKN-1-abc-def 192.0.2.1:2377"
    );
    let words = command.split_whitespace();
    assert!(Cli::try_parse_from(words).is_ok());
    assert!(text.contains("weft token manager"), "{text}");
}

#[tokio::test]
async fn a_gateway_outside_the_subnets_is_a_usage_error_and_is_not_asked() {
    let served = Served::start();
    let line = "network create web --subnet 10.1.0.0/24 --gateway 10.2.0.1";
    let error = output(&served, line).await.unwrap_err();
    assert_eq!(error.status(), 2, "{error}");
    assert_eq!(served.fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_service_flag_without_what_it_is_about_is_a_usage_error_and_is_not_asked() {
    let served = Served::start();
    for (line, said) in [
        ("service update front", "nothing to change"),
        (
            "service create front --network web --health-retries 2",
            "give --health too",
        ),
        (
            "service update front --health none --health-retries 2",
            "leave out the other --health flags",
        ),
    ] {
        let error = output(&served, line).await.unwrap_err();
        assert_eq!(error.status(), 2, "{line}: {error}");
        assert!(error.to_string().contains(said), "{line}: {error}");
    }
    assert_eq!(served.fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_service_is_asked_for_as_it_was_typed() {
    let served = Served::start();
    let line = "service create front --network web --network db --publish 8080:80 \
                --health http:80/healthz --health-retries 5 --drain-timeout 1500ms --label a=b";
    output(&served, line).await.unwrap();
    let line = "service update front --publish-add 81 --publish-rm 8080 --health-interval 2s \
                --affinity client-ip=1m --label-rm a --endpoint-mode dnsrr";
    output(&served, line).await.unwrap();
    output(
        &served,
        "service update front --health none --idle-timeout 0s",
    )
    .await
    .unwrap();
    let port = |spec| publish::parse(spec).unwrap();
    let created = ServiceCreateRequest {
        name: "front".into(),
        networks: vec!["web".into(), "db".into()],
        ports: port("8080:80"),
        drain_timeout_ms: Some(1500),
        health: Some(HealthCheck {
            retries: 5,
            ..a_service().health.unwrap()
        }),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..ServiceCreateRequest::default()
    };
    let updated = ServiceUpdateRequest {
        ports_add: port("81"),
        ports_rm: publish::parse_key("8080").unwrap(),
        affinity: Some(Affinity::ClientIp { timeout_s: 60 }),
        health: Some(HealthUpdate {
            interval_ms: Some(2000),
            ..HealthUpdate::default()
        }),
        labels_rm: vec!["a".into()],
        mode: Some(EndpointMode::Dnsrr),
        ..ServiceUpdateRequest::default()
    };
    let no_health = ServiceUpdateRequest {
        idle_timeout_s: Some(0),
        health_rm: true,
        ..ServiceUpdateRequest::default()
    };
    assert_eq!(
        served.fake.asked(),
        [
            format!("{created:?}"),
            format!("front {updated:?}"),
            format!("front {no_health:?}"),
        ]
    );
}

#[tokio::test]
async fn status_says_what_is_wrong_and_what_to_do() {
    let served = Served::start();
    let text = output(&served, "status").await.unwrap();
    for said in [
        "h1 (aaaaaaaaaaaaaaaa)",
        "Leader       h2",
        "2 of 3 reachable, 2 needed",
        "42, in the kernel 41",
        "valid for 81 days",
        "0.1.0, process 4711",
        "1.234 ms",
        "network web: no vxlan",
        "in the way of services:\n",
        "a firewall",
        "vxlan: load the module: modprobe vxlan",
        "protected",
        "3/4",
        "control.malformed: 3",
    ] {
        assert!(text.contains(said), "{said} is not in:\n{text}");
    }
}

#[tokio::test]
async fn events_are_a_line_each() {
    let served = Served::start();
    let mut out = Vec::new();
    for (line, lines) in [
        (
            "events",
            vec![
                "9 endpoint api.web created: ready at 10.0.1.2 on h1, ready for service front",
                "10 network web removed",
                "11 service front created: vip least-conn, 1 of 1 endpoints ready",
            ],
        ),
        ("events --format json", vec![]),
    ] {
        out.clear();
        let cli = Cli::try_parse_from(std::iter::once("weft").chain(line.split(' '))).unwrap();
        let ended = verbs::run(cli.verb, &served.client, &mut out).await;
        assert_eq!(ended.unwrap_err().status(), 1);
        let text = String::from_utf8(out.clone()).unwrap();
        if lines.is_empty() {
            assert!(
                text.lines()
                    .all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok())
            );
        } else {
            assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        }
    }
}

#[tokio::test]
async fn a_refusal_by_the_agent_is_its_one_line() {
    let served = Served::start();
    served.fake.refuse(ErrorCode::NoLeader);
    let error = output(&served, "network rm web").await.unwrap_err();
    assert_eq!(error.to_string(), "refused: NoLeader");
    assert_eq!(error.status(), 4);
    let error = CliError::from(ApiError::not_member());
    assert_eq!(error.status(), 1);
}

#[tokio::test]
async fn a_reader_that_went_away_is_no_error_to_speak_of() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let served = Served::start();
    for line in ["node ls", "events", "status", "init"] {
        let cli = Cli::try_parse_from(std::iter::once("weft").chain(line.split(' '))).unwrap();
        let error = verbs::run(cli.verb, &served.client, &mut Gone)
            .await
            .unwrap_err();
        assert!(matches!(error, CliError::BrokenPipe), "{line}: {error}");
    }
}
