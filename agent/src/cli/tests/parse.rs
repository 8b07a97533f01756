use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, Parser};

use crate::api::types::{Affinity, Availability, EndpointMode, Role, Scheduler};
use crate::cli::args::*;
use crate::cli::usage;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("weft").chain(line.split(' ')))
}

fn verb(line: &str) -> Verb {
    parse(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .verb
}

/// What is written to standard error for a command line that makes no sense.
fn refusal(line: &str) -> String {
    let error = match parse(line) {
        Err(error) => error,
        Ok(cli) => panic!("{line} was understood: {cli:?}"),
    };
    let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    usage::line(&error, &arguments)
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_of_the_contract_is_understood() {
    for line in [
        "agent --config /c --data-dir /d --run-dir /r --socket /s --log-format json",
        "agent --log-level info,weft_raft=debug --node-name h1",
        "init",
        "init --advertise-addr eth0 --listen-addr 0.0.0.0:2377 --data-path-addr 192.0.2.1",
        "init --data-path-port 7777 --default-addr-pool 20.20.0.0/16 --cert-expiry 2h",
        "init --default-addr-pool-mask-length 26 --availability drain",
        "join --token WFTKN-1-abc-def h1",
        "join --token WFTKN-1-abc-def 192.0.2.1:2377 [2001:db8::1]:2377 --availability active",
        "leave",
        "leave --force",
        "token worker",
        "token manager --rotate -q",
        "node ls",
        "node ls --format json",
        "node ls -q",
        "node inspect self",
        "network create web",
        "network create web --driver overlay --subnet 10.1.0.0/24 --gateway 10.1.0.1 --mtu 1400",
        "network create web --internal --multicast --allow-overlap --vni 5000 --label a=b",
        "network create web --driver bridge --internal",
        "network create web --route 172.16.0.0/12=10.0.1.9 --route 0.0.0.0/0=10.0.1.8",
        "network update web --route-add 172.16.0.0/12=10.0.1.9 --route-rm 172.17.0.0/16",
        "network create web --encrypted",
        "network create ingress --ingress --encrypted",
        "network update web --encrypted false --label-add a=b --label-rm c",
        "network ls -q",
        "network inspect web",
        "network rm web db",
        "attach web --pid 7",
        "attach web --netns /run/netns/blue --name api --ip 10.0.1.5 --mac 02:42:0a:00:01:05",
        "attach web --pid 7 --ifname eth1 --alias a --alias b --label k=v --format json",
        "detach api.web --force",
        "endpoint ls --format table",
        "endpoint inspect api.web",
        "endpoint update api.web --weight 0",
        "attach web --pid 7 --service front --weight 65535",
        "run --network web --service front --weight 2 -- sleep 9",
        "network create dual --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64",
        "network create lan --subnet 10.9.0.0/24 --ip-range 10.9.0.0/28 --aux-address nas=10.9.0.5",
        "network update lan --subnet-add fd00:9::/64 --mtu auto --multicast true",
        "attach web --pid 7 --ip6 fd00::1",
        "run --network web --ip6 fd00::1 -- sleep 9",
        "service create front --network web",
        "service create front --network web --network db --publish 8080:80 --publish 53:53/udp",
        "service create front --network web -p 8080-8081:80-81 --endpoint-mode dnsrr",
        "service create front --network web --publish target=80,mode=host,allow-from=10.0.0.0/8",
        "service create front --network web --scheduler least-conn --affinity client-ip=10m",
        "service create front --network web --drain-timeout 0s --idle-timeout 1h --label a=b",
        "service create front --network web --health http:80/healthz --health-interval 500ms",
        "service create front --network web --health tcp:80 --health-timeout 2s --health-retries 9",
        "service ls",
        "service list --format json",
        "service ls -q",
        "service inspect front",
        "service inspect front --format table",
        "service update front --publish-add 8081:80 --publish-rm 8080 --publish-rm 53/udp",
        "service update front --scheduler maglev --affinity none --drain-timeout 1m",
        "service update front --health none --idle-timeout 0s",
        "service update front --endpoint-mode dnsrr",
        "service update front --network-add db --network-rm web --label-add a=b --label-rm c",
        "service rm front back",
        "wait --service front",
        "run --network web -- sleep 9",
        "run --network web --network db --name api --detach -- sh -c true --network x",
        "run --network web --publish 8080:80 -p 53:53/udp -- ./server",
        "exec api -- ping -c 1 10.0.1.2",
        "status --format json",
        "wait --revision 7 --timeout 500ms",
        "wait --endpoint api.web",
        "events --format json",
        "completions bash",
        "lab up --hosts 5 --name two",
        "lab demo",
        "lab exec h1 -- weft node ls",
        "lab exec --name two outside -- ping -c 1 h1",
        "lab status --format json",
        "lab down --name two",
    ] {
        verb(line);
    }
}

#[test]
fn values_arrive_as_they_were_meant() {
    let Verb::Init(init) = verb("init --cert-expiry 2h --availability drain --data-path-port 7777")
    else {
        panic!("not init");
    };
    assert_eq!(init.cert_expiry, Some(Duration::from_secs(7200)));
    assert_eq!(init.address.availability, Some(Availability::Drain));
    assert_eq!(init.data_path_port, Some(7777));

    let Verb::Token(token) = verb("token manager --rotate") else {
        panic!("not token");
    };
    assert_eq!(
        (token.role, token.rotate, token.quiet),
        (Role::Manager, true, false)
    );

    let Verb::Attach(attach) = verb("attach web --pid 7 --label a=b=c") else {
        panic!("not attach");
    };
    assert_eq!(attach.pid(), Some(7));
    assert_eq!(attach.label, [("a".to_owned(), "b=c".to_owned())]);

    let Verb::Run(run) = verb("run --network web -d -- sh --detach --network x") else {
        panic!("not run");
    };
    assert!(run.detach);
    assert_eq!(run.network, ["web"]);
    assert_eq!(run.command, ["sh", "--detach", "--network", "x"]);

    let line = "service create front --network web -p 80-81 -p 53:53/udp --affinity client-ip";
    let Verb::Service(ServiceCommand::Create(create)) = verb(line) else {
        panic!("not service create");
    };
    let ports: Vec<_> = create
        .publish
        .iter()
        .flat_map(|spec| &spec.0)
        .map(|port| (port.published, port.target))
        .collect();
    assert_eq!(ports, [(0, 80), (0, 81), (53, 53)]);
    assert_eq!(
        create.affinity,
        Some(Affinity::ClientIp { timeout_s: 10_800 })
    );
    assert_eq!(
        (create.endpoint_mode, create.scheduler),
        (EndpointMode::Vip, Scheduler::Rr)
    );

    let Verb::Wait(wait) = verb("wait --endpoint api.web --timeout 2m") else {
        panic!("not wait");
    };
    assert_eq!(wait.endpoint(), Some("api.web"));
    assert_eq!(wait.timeout, Duration::from_secs(120));
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_in_one_line_that_says_where_help_is() {
    for (line, said) in [
        ("frob", "unrecognized subcommand 'frob'"),
        ("status --frob", "unexpected argument '--frob'"),
        ("status --format xml", "possible values: table, json"),
        ("network create", "<NAME>"),
        ("network create Web", "use 1 to 63 of a-z, 0-9 and -"),
        ("network create web db", "unexpected argument 'db'"),
        (
            "network create web --subnet 10.0.0.1/24",
            "did you mean 10.0.0.0/24?",
        ),
        (
            "network create web --subnet 10.0.0.0/33",
            "write it like 10.0.1.0/24",
        ),
        ("network create web --gateway 10.0.0.1", "--subnet"),
        (
            "network create web --vni 0",
            "not a number from 1 to 16777215",
        ),
        (
            "network create web --vni 16777216",
            "not a number from 1 to 16777215",
        ),
        (
            "network create web --mtu 100",
            "not a number from 576 to 65485",
        ),
        ("network create web --label a", "write it KEY=VALUE"),
        ("network create web --route 10.0.0.0/8", "write CIDR=VIA"),
        (
            "network update web --route-rm 10.0.0.0",
            "such as 172.16.0.0/12",
        ),
        (
            "network create web --driver frob",
            "no such driver; there is overlay or bridge",
        ),
        (
            "init --data-path-port 1023",
            "not a number from 1024 to 49151",
        ),
        (
            "init --data-path-port 49152",
            "not a number from 1024 to 49151",
        ),
        (
            "init --default-addr-pool-mask-length 30",
            "not a number from 1 to 29",
        ),
        ("init --cert-expiry 59m", "1h at least"),
        (
            "init --advertise-addr a:b:c",
            "neither IP[:PORT] nor INTERFACE[:PORT]",
        ),
        ("init --data-path-addr 192.0.2.1:1", "no port here"),
        ("join h1", "--token <TOKEN>"),
        ("join --token WFTKN-1-a-b", "<HOST[:PORT]>"),
        ("join --token WFTKN-1-a-b h1:0", "not HOST[:PORT]"),
        ("token king", "possible values: manager, worker"),
        ("attach web", "--pid <PID>|--netns <PATH>"),
        ("attach web --pid 0", "give a number above 0"),
        ("attach web --pid 7 --netns /x", "cannot be used with"),
        (
            "attach web --pid 7 --mac 1:2",
            "write it like 02:42:0a:00:01:02",
        ),
        (
            "attach web --pid 7 --mac 01:00:00:00:00:00",
            "the first byte must be even",
        ),
        ("attach web --pid 7 --ip 10.0.1", "write it like 10.0.1.5"),
        ("attach web --pid 7 --ifname lo", "such as eth1"),
        ("attach web --pid 7 --name a.b", "endpoint name"),
        ("run --network web", "<COMMAND>..."),
        (
            "run --network web sleep",
            "the command to run goes after '--'",
        ),
        ("exec api ls", "the command to run goes after '--'"),
        (
            "wait",
            "--revision <R>|--endpoint <ENDPOINT>|--service <SERVICE>",
        ),
        ("wait --service a --endpoint a", "cannot be used with"),
        ("service create front", "--network <NETWORK>"),
        (
            "service create Front --network web",
            "is not a service name",
        ),
        (
            "service create front --network web --publish 8080:80/sctp",
            "protocol `sctp` is not known; use tcp or udp",
        ),
        (
            "service create front --network web --publish 8080-8082:80-81",
            "published ports: 3, target ports: 2; give as many of both",
        ),
        (
            "service create front --network web --scheduler best",
            "possible values: rr, wrr, random, source-hash, maglev, least-conn",
        ),
        (
            "service create front --network web --endpoint-mode dns",
            "possible values: vip, dnsrr",
        ),
        (
            "service create front --network web --affinity cookie",
            "write none, client-ip or client-ip=10m",
        ),
        (
            "service create front --network web --affinity client-ip=8d",
            "out of range; 1s to 7d are accepted",
        ),
        (
            "service create front --network web --affinity client-ip=1500ms",
            "not a whole number of seconds",
        ),
        (
            "service create front --network web --drain-timeout 2h",
            "out of range; 0ms to 1h are accepted",
        ),
        (
            "service create front --network web --idle-timeout 0s",
            "out of range; 1s to 24d are accepted",
        ),
        (
            "service create front --network web --health ping",
            "write tcp:PORT, http:PORT/PATH or",
        ),
        (
            "service create front --network web --health tcp:80 --health-interval 1ms",
            "out of range; 100ms to 1h are accepted",
        ),
        (
            "service create front --network web --health tcp:80 --health-retries 0",
            "not a number from 1 to 1000",
        ),
        (
            "service update front --publish-rm 8080:80",
            "name the published port only, such as 8080 or 53/udp",
        ),
        ("endpoint update api", "--weight <N>"),
        (
            "endpoint update api --weight 65536",
            "not a number from 0 to 65535",
        ),
        ("attach web --pid 7 --weight 2", "--service <SERVICE>"),
        ("wait --revision 1 --endpoint a", "cannot be used with"),
        (
            "wait --revision 1 --timeout 5",
            "write it like 500ms, 5s, 2m",
        ),
        ("wait --revision 1 --timeout 2h", "1h at most"),
        ("agent --log-level a=b=c", "write error, warn, info"),
        ("lab up --hosts 0", "1..=50"),
        ("lab up --name A", "lab name"),
    ] {
        let refusal = refusal(line);
        assert!(refusal.contains(said), "{line}: {refusal}");
        assert!(!refusal.contains('\n'), "{line}: {refusal}");
        assert!(refusal.ends_with(" --help'"), "{line}: {refusal}");
    }
    assert!(refusal("network create").ends_with("see 'weft network create --help'"));
}

#[test]
fn a_malformed_token_is_not_repeated() {
    let refusal = refusal("join --token WFTKN-1-abc-secret! h1");
    assert!(!refusal.contains("secret!"), "{refusal}");
    assert!(
        refusal.contains("it looks like WFTKN-1-<digest>-<secret>"),
        "{refusal}"
    );
}

#[test]
fn what_later_versions_bring_is_named_as_such() {
    for (line, what) in [
        ("doctor", "'weft doctor'"),
        ("node promote h1", "'weft node promote'"),
        ("network prune", "'weft network prune'"),
        ("network create web --opt a=b", "'--opt'"),
        ("init --autolock", "'--autolock'"),
    ] {
        let refusal = refusal(line);
        let said = format!("this version of weft does not have {what} yet; ");
        assert!(refusal.starts_with(&said), "{line}: {refusal}");
    }
    let refusal = refusal("network create web --driver macvlan");
    assert!(
        refusal.contains("does not have that driver yet; it has overlay or bridge"),
        "{refusal}"
    );
}

#[test]
fn what_later_versions_bring_is_not_offered() {
    for line in [
        "--help",
        "init --help",
        "network create --help",
        "attach --help",
        "run --help",
        "service create --help",
        "service update --help",
    ] {
        let help = parse(line).unwrap_err().to_string();
        for later in [
            "--autolock",
            "--force-new-cluster",
            "macvlan",
            "--opt",
            "doctor",
        ] {
            assert!(!help.contains(later), "{line} offers {later}");
        }
    }
}

#[test]
fn help_fits_a_hundred_columns() {
    fn collect(command: &mut clap::Command, long: &mut Vec<String>) {
        let help = command.render_long_help().to_string() + &command.render_help().to_string();
        let lines = help.lines().filter(|line| line.chars().count() > 100);
        long.extend(lines.map(|line| format!("{}: {line}", command.get_name())));
        command
            .get_subcommands_mut()
            .for_each(|command| collect(command, long));
    }
    let mut root = Cli::command();
    root.build();
    let mut long = Vec::new();
    collect(&mut root, &mut long);
    assert_eq!(long, [""; 0]);
}
