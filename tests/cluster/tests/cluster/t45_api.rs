//! The local API, and what the commands print of it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::weft::weft_exe;
use weft_cluster_tests::{PATIENCE, eventually};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "api::the_openapi_document_describes_every_answer",
        the_openapi_document,
    ),
    (
        "api::nonsense_on_the_socket_is_refused_and_changes_nothing",
        nonsense_on_the_socket,
    ),
    (
        "api::lists_are_arrays_and_objects_have_their_fields",
        lists_and_objects,
    ),
    ("api::quiet_prints_ids_only", quiet_prints_ids),
    ("api::tables_fit_a_hundred_columns", tables_fit),
    (
        "api::events_come_in_order_from_every_node",
        events_come_in_order,
    ),
    (
        "api::every_verb_explains_itself_and_completes",
        every_verb_explains_itself,
    ),
];

/// What every version has, by object (the field names are the contract).
const NODE: &str = "id name role leader status availability addr data_path_addr labels revision";
const NETWORK: &str = "id name driver vni subnets mtu encrypted internal labels";
const ENDPOINT: &str = "id name network node ipv4 ipv6 mac ifname service state";
const SERVICE: &str = "id name networks ports endpoints";
const STATUS: &str = "node role leader pid version revision applied managers peers";
/// The routes of this version.
const ROUTES: &[&str] = &[
    "GET /v1/status",
    "POST /v1/init",
    "POST /v1/join",
    "POST /v1/leave",
    "GET /v1/tokens/{role}",
    "POST /v1/tokens/{role}/rotate",
    "GET /v1/nodes",
    "GET /v1/nodes/{node}",
    "GET /v1/networks",
    "POST /v1/networks",
    "GET /v1/networks/{network}",
    "DELETE /v1/networks/{network}",
    "GET /v1/endpoints",
    "POST /v1/endpoints",
    "GET /v1/endpoints/{endpoint}",
    "PATCH /v1/endpoints/{endpoint}",
    "PATCH /v1/networks/{network}",
    "DELETE /v1/endpoints/{endpoint}",
    "GET /v1/services",
    "POST /v1/services",
    "GET /v1/services/{service}",
    "PATCH /v1/services/{service}",
    "DELETE /v1/services/{service}",
    "POST /v1/wait",
    "GET /v1/events",
    "GET /v1/applied",
];

/// Two hosts, a network with a service, and a container on the first.
fn small() -> Result<Cluster> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web --label tier=front")?;
    cluster.weft(1, "service create front --network web --publish 8080:80")?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    Ok(cluster)
}

/// Writes bytes to the agent's socket as they are; the status and body of the answer.
fn raw(cluster: &Cluster, request: &[u8]) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(cluster.host(1)?.agent_socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // An agent may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no status line: {answer:?}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

fn ask(cluster: &Cluster, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(cluster, request.as_bytes())
}

/// The schema of a successful answer, with one reference followed, and whether it is a list.
fn answer_of(document: &Value, path: &str) -> Result<(Value, bool)> {
    let responses = &document["paths"][path]["get"]["responses"]["200"];
    let schema = responses["content"]["application/json"]["schema"].clone();
    let list = schema["type"] == "array";
    let named = if list { &schema["items"] } else { &schema };
    let name = named["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix("#/components/schemas/"))
        .with_context(|| format!("{path}: {schema}"))?;
    Ok((document["components"]["schemas"][name].clone(), list))
}

fn fields(object: &Value) -> BTreeSet<String> {
    let keys = object.as_object().into_iter().flatten();
    keys.map(|(key, _)| key.clone()).collect()
}

fn the_openapi_document() -> Result<()> {
    let cluster = small()?;
    let (status, body) = ask(&cluster, "GET", "/openapi.json", "")?;
    ensure!(status == 200, "{status}");
    let document: Value = serde_json::from_str(&body)?;
    ensure!(
        document["openapi"]
            .as_str()
            .is_some_and(|v| v.starts_with("3.")),
        "{}",
        document["openapi"]
    );
    let mut found = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().context("no paths")? {
        for (method, operation) in methods.as_object().context("no methods")? {
            found.insert(format!("{} {path}", method.to_uppercase()));
            ensure!(
                operation["responses"].is_object(),
                "{method} {path} has no answers"
            );
        }
    }
    let wanted: BTreeSet<String> = ROUTES.iter().map(|route| (*route).to_owned()).collect();
    ensure!(found == wanted, "{found:?}");
    // What is described is what is answered, field by field.
    for (path, asked) in [
        ("/v1/status", "/v1/status"),
        ("/v1/nodes", "/v1/nodes"),
        ("/v1/nodes/{node}", "/v1/nodes/h2"),
        ("/v1/networks", "/v1/networks"),
        ("/v1/networks/{network}", "/v1/networks/web"),
        ("/v1/endpoints", "/v1/endpoints"),
        ("/v1/endpoints/{endpoint}", "/v1/endpoints/a.web"),
        ("/v1/services", "/v1/services"),
        ("/v1/services/{service}", "/v1/services/front"),
        ("/v1/applied", "/v1/applied"),
    ] {
        let (schema, list) = answer_of(&document, path)?;
        let (status, body) = ask(&cluster, "GET", asked, "")?;
        ensure!(status == 200, "{asked}: {status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        ensure!(answer.is_array() == list, "{asked}: {answer}");
        let object = if list { &answer[0] } else { &answer };
        let described = fields(&schema["properties"]);
        ensure!(
            fields(object) == described,
            "{asked}: {:?} and not {described:?}",
            fields(object)
        );
    }
    Ok(())
}

fn nonsense_on_the_socket() -> Result<()> {
    let cluster = small()?;
    let before = cluster.json(1, "network ls")?;
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(8 << 20));
    let deep = "[".repeat(100_000);
    for (method, path, body, status) in [
        ("GET", "/v1/nope", "", 404),
        ("GET", "/", "", 404),
        ("PUT", "/v1/networks", "{}", 405),
        ("POST", "/v1/networks", "", 400),
        ("POST", "/v1/networks", "{", 400),
        ("POST", "/v1/networks", "[]", 400),
        ("POST", "/v1/networks", "{}", 400),
        ("POST", "/v1/networks", &deep, 400),
        ("POST", "/v1/networks", "{\"name\":7}", 400),
        ("POST", "/v1/networks", "{\"name\":\"n\",\"bogus\":1}", 400),
        ("POST", "/v1/networks", "{\"name\":\"N\"}", 400),
        ("POST", "/v1/networks", "{\"name\":\"\"}", 400),
        ("POST", "/v1/networks", "{\"name\":\"web\"}", 409),
        ("POST", "/v1/networks", "{\"name\":\"n\",\"vni\":0}", 400),
        ("POST", "/v1/networks", "{\"name\":\"n\",\"mtu\":1}", 400),
        (
            "POST",
            "/v1/networks",
            "{\"name\":\"n\",\"subnets\":[\"10.9.0.1/24\"]}",
            400,
        ),
        (
            "POST",
            "/v1/networks",
            "{\"name\":\"n\",\"driver\":\"wire\"}",
            501,
        ),
        ("POST", "/v1/networks", &large, 400),
        ("POST", "/v1/endpoints", "{\"network\":\"web\"}", 400),
        (
            "POST",
            "/v1/endpoints",
            "{\"network\":\"web\",\"netns\":\"relative\"}",
            400,
        ),
        (
            "POST",
            "/v1/endpoints",
            "{\"network\":\"web\",\"pid\":1,\"netns\":\"/x\"}",
            400,
        ),
        ("PATCH", "/v1/endpoints/a.web", "{\"weight\":-1}", 400),
        ("PATCH", "/v1/networks/web", "{\"encrypted\":1}", 400),
        ("PATCH", "/v1/networks/nope", "{\"encrypted\":true}", 404),
        ("POST", "/v1/services", "{}", 400),
        ("POST", "/v1/services", "{\"name\":\"s\"}", 400),
        (
            "POST",
            "/v1/services",
            "{\"name\":\"S\",\"networks\":[\"web\"]}",
            400,
        ),
        (
            "POST",
            "/v1/services",
            "{\"name\":\"front\",\"networks\":[\"web\"]}",
            409,
        ),
        (
            "POST",
            "/v1/services",
            "{\"name\":\"s\",\"networks\":[\"nope\"]}",
            404,
        ),
        (
            "POST",
            "/v1/services",
            "{\"name\":\"s\",\"networks\":[\"web\"],\"ports\":[{\"target\":0}]}",
            400,
        ),
        (
            "POST",
            "/v1/services",
            "{\"name\":\"s\",\"networks\":[\"web\"],\"drain_timeout_ms\":3600001}",
            400,
        ),
        (
            "POST",
            "/v1/services",
            "{\"name\":\"s\",\"networks\":[\"web\"],\"idle_timeout_s\":2073601}",
            400,
        ),
        (
            "PATCH",
            "/v1/services/front",
            "{\"health\":{\"retries\":2},\"health_rm\":true}",
            400,
        ),
        (
            "PATCH",
            "/v1/services/front",
            "{\"networks_add\":[\"web\"]}",
            409,
        ),
        ("DELETE", "/v1/services/nope", "", 404),
        ("DELETE", "/v1/networks/web", "", 409),
        ("DELETE", "/v1/networks/%00", "", 404),
        ("DELETE", "/v1/endpoints/%ff", "", 400),
        ("DELETE", "/v1/endpoints/a.web?force=maybe", "", 400),
        ("GET", "/v1/tokens/king", "", 404),
        ("POST", "/v1/wait", "{}", 400),
        ("POST", "/v1/init", "{}", 409),
    ] {
        let shown: String = body.chars().take(60).collect();
        let (found, answer) = ask(&cluster, method, path, body)?;
        ensure!(
            found == status,
            "{method} {path} {shown}: {found} instead of {status}: {answer}"
        );
        let error: Value = serde_json::from_str(&answer)
            .with_context(|| format!("{method} {path} {shown}: {answer:?}"))?;
        let message = error["message"].as_str().unwrap_or_default();
        ensure!(
            error["code"].is_string() && !message.is_empty() && !message.contains('\n'),
            "{method} {path} {shown}: {answer}"
        );
    }
    // What is no HTTP at all.
    for bytes in [&b"SSH-2.0-client\r\n\r\n"[..], &[0xff; 100_000]] {
        if let Ok((status, _)) = raw(&cluster, bytes) {
            ensure!((400..500).contains(&status), "{status}");
        }
    }
    ensure!(
        cluster.json(1, "network ls")? == before,
        "something changed"
    );
    Ok(())
}

fn has_fields(object: &Value, names: &str) -> Result<()> {
    let there = fields(object);
    for name in names.split(' ') {
        ensure!(there.contains(name), "no {name} in {object}");
    }
    Ok(())
}

fn lists_and_objects() -> Result<()> {
    let cluster = small()?;
    for (list, inspect, names) in [
        ("node ls", "node inspect h1", NODE),
        ("network ls", "network inspect web", NETWORK),
        ("endpoint ls", "endpoint inspect a.web", ENDPOINT),
        ("service ls", "service inspect front", SERVICE),
    ] {
        let listed = cluster.json(1, list)?;
        let listed = listed
            .as_array()
            .with_context(|| format!("{list} is no array"))?;
        let object = cluster.json(1, inspect)?;
        has_fields(&object, names)?;
        ensure!(
            listed.contains(&object),
            "{inspect} shows {object}, {list} does not"
        );
        // `inspect` is JSON without being asked.
        let plain: Value = serde_json::from_str(&cluster.weft(1, inspect)?)?;
        ensure!(plain == object, "{plain}");
        // An id and the beginning of one name the same.
        let id = object["id"].as_str().context("no id")?;
        let verb = inspect.split(' ').next().unwrap_or_default();
        for name in [id, &id[..8]] {
            ensure!(
                cluster.json(1, &format!("{verb} inspect {name}"))? == object,
                "{name}"
            );
        }
    }
    ensure!(
        cluster.json(2, "node inspect self")?["name"] == "h2",
        "self is another"
    );
    let status = cluster.json(1, "status")?;
    has_fields(&status, STATUS)?;
    has_fields(&status["managers"], "total reachable needed")?;
    let network = cluster.json(1, "network inspect web")?;
    has_fields(&network["subnets"][0], "cidr gateway used free")?;
    // The container's address and the service's.
    ensure!(
        network["subnets"][0]["used"] == 2 && network["labels"]["tier"] == "front",
        "{network}"
    );
    let endpoint = cluster.json(2, "endpoint inspect a.web")?;
    ensure!(
        endpoint["network"] == "web" && endpoint["node"] == "h1" && endpoint["ipv6"].is_null(),
        "{endpoint}"
    );
    Ok(())
}

fn quiet_prints_ids() -> Result<()> {
    let cluster = small()?;
    for (verb, inspect) in [
        ("node", "h1"),
        ("network", "web"),
        ("endpoint", "a.web"),
        ("service", "front"),
    ] {
        let ids: Vec<String> = cluster
            .json(1, &format!("{verb} ls"))?
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|object| object["id"].as_str().map(str::to_owned))
            .collect();
        let quiet = cluster.weft(1, &format!("{verb} ls -q"))?;
        ensure!(quiet.lines().eq(ids.iter()), "{verb}: {quiet}");
        let quiet = cluster.weft(1, &format!("{verb} inspect {inspect} -q"))?;
        ensure!(
            ids.contains(&quiet.trim().to_owned()),
            "{verb} inspect: {quiet}"
        );
    }
    let created = cluster.weft(1, "network create more")?;
    ensure!(
        created.trim() == cluster.json(1, "network inspect more")?["id"],
        "{created}"
    );
    Ok(())
}

fn tables_fit() -> Result<()> {
    let cluster = small()?;
    let long = "x".repeat(63);
    cluster.weft(
        1,
        &format!(
            "network create {long} --internal --multicast --subnet 192.168.100.0/24 \
             --subnet 192.168.200.0/24 --subnet 192.168.220.128/25 --label {long}={long}"
        ),
    )?;
    cluster.weft(
        1,
        &format!("service create {long} --network {long} -p 8081-8099:81-99"),
    )?;
    cluster.weft(
        1,
        &format!("run --network {long} --service {long} --name {long} --detach -- sleep infinity"),
    )?;
    let long = format!("service inspect {long} --format table");
    for host in 1..=2 {
        let lists = [
            "status",
            "node ls",
            "network ls",
            "endpoint ls",
            "service ls",
        ];
        for verb in lists.into_iter().chain([long.as_str()]) {
            let table = cluster.weft(host, verb)?;
            ensure!(table.lines().count() > 1, "{verb}: {table}");
            for line in table.lines() {
                ensure!(line.chars().count() <= 100, "{verb}: {line}");
                ensure!(!line.contains('\x1b'), "{verb} is coloured: {line:?}");
                ensure!(line.trim_end() == line, "{verb} ends in blanks: {line:?}");
            }
        }
    }
    Ok(())
}

fn events_come_in_order() -> Result<()> {
    let cluster = small()?;
    let mut command = cluster.host(2)?.command("weft");
    let mut following = command
        .args(["events", "--format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = following.stdout.take().context("no stdout")?;
    let (sender, lines) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let result = follow(&cluster, &lines);
    // Not SIGKILL, which would stop at the process that runs it on the host.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(following.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
    following.wait()?;
    let _ = reading.join();
    result
}

fn follow(cluster: &Cluster, lines: &mpsc::Receiver<String>) -> Result<()> {
    let next = || -> Result<Value> {
        let line = lines.recv_timeout(PATIENCE).context("no event")?;
        serde_json::from_str(&line).with_context(|| line.clone())
    };
    // It listens once it has told something.
    let mut probes = 0;
    eventually("events are followed", || {
        probes += 1;
        cluster.weft(1, &format!("network create probe{probes}"))?;
        cluster.weft(1, &format!("network rm probe{probes}"))?;
        lines.try_recv().context("nothing yet")?;
        Ok(())
    })?;
    cluster.weft(1, "network create seen")?;
    let ran = cluster.try_weft(1, "run --network seen --name q -- true")?;
    ensure!(ran.status == 0, "{ran:?}");
    cluster.weft(1, "service create s --network seen")?;
    cluster.weft(1, "service update s --scheduler wrr")?;
    cluster.weft(1, "service rm s")?;
    cluster.weft(1, "network rm seen")?;
    let (mut told, mut last) = (Vec::new(), 0);
    loop {
        let event = next()?;
        let revision = event["revision"].as_u64().context("no revision")?;
        ensure!(revision >= last, "{revision} after {last}");
        last = revision;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        if text("name").starts_with("probe") {
            continue;
        }
        ensure!(text("id").len() == 16, "{event}");
        if text("action") == "removed" {
            ensure!(event["object"].is_null(), "{event}");
        } else {
            ensure!(
                event["object"]["id"] == event["id"] && event["object"]["revision"] == revision,
                "{event}"
            );
        }
        told.push(format!(
            "{} {} {}",
            text("type"),
            text("name"),
            text("action")
        ));
        if told.last().is_some_and(|one| one == "network seen removed") {
            break;
        }
    }
    let expected = [
        "network seen created",
        "endpoint q created",
        "endpoint q removed",
        "service s created",
        "service s changed",
        "service s removed",
        "network seen removed",
    ];
    told.retain(|one| !one.starts_with("node "));
    ensure!(told == expected, "{told:?}");
    Ok(())
}

fn weft(args: &[&str]) -> Result<(i32, String, String)> {
    let output = Command::new(weft_exe()?).args(args).output()?;
    Ok((
        output.status.code().context("killed")?,
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

/// Asks a verb and everything below it for help; the verbs that there are.
fn explains(words: &mut Vec<String>, found: &mut Vec<String>) -> Result<()> {
    let mut argv: Vec<&str> = words.iter().map(String::as_str).collect();
    argv.push("--help");
    let (status, help, error) = weft(&argv)?;
    ensure!(
        status == 0 && error.is_empty(),
        "{argv:?}: {status} {error}"
    );
    ensure!(help.contains("Usage: weft"), "{argv:?}: {help}");
    for line in help.lines() {
        ensure!(line.chars().count() <= 100, "{argv:?}: {line}");
    }
    found.push(words.join(" "));
    let below = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs: Vec<String> = below
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    for verb in verbs {
        words.push(verb);
        explains(words, found)?;
        words.pop();
    }
    Ok(())
}

fn every_verb_explains_itself() -> Result<()> {
    let mut found = Vec::new();
    explains(&mut Vec::new(), &mut found)?;
    let wanted = "agent,init,join,leave,token,node ls,node inspect,network create,network ls,\
                  network inspect,network rm,attach,detach,endpoint ls,endpoint inspect,\
                  endpoint update,service create,service ls,service inspect,service update,\
                  service rm,run,exec,status,wait,events,completions,lab up,lab demo,lab exec,lab status,lab down";
    for verb in wanted.split(',') {
        ensure!(found.iter().any(|one| one == verb), "no {verb}: {found:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (status, script, error) = weft(&["completions", shell])?;
        ensure!(status == 0 && error.is_empty(), "{shell}: {error}");
        for word in ["weft", "network", "attach", "advertise-addr"] {
            ensure!(script.contains(word), "{shell} does not complete {word}");
        }
        // `--internal` is an option of networks; the helper processes are nobody's to start.
        let script = script.replace("--internal", "").replace("-l internal", "");
        ensure!(
            !script.contains("internal"),
            "{shell} offers what is hidden"
        );
    }
    let (status, version, _) = weft(&["--version"])?;
    ensure!(status == 0 && version.starts_with("weft "), "{version}");
    Ok(())
}
