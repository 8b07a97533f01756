//! Agents that are killed at any moment, and hosts that lose everything but their disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_agent::api::types::{AttachRequest, ErrorCode, NetworkCreateRequest};
use weft_agent::exit::CliError;
use weft_agent::lab::PingSpec;
use weft_cluster_tests::api::Api;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::random::{Random, SEED_VARIABLE};
use weft_cluster_tests::{PATIENCE, conform, eventually, kernel};

use self::model::{Model, Outcome, Step};
use crate::Case;

mod model;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "crash::an_agent_killed_at_any_moment_leaves_nothing_half_done",
        killed_at_any_moment,
    ),
    (
        "crash::endpoints_of_an_earlier_boot_are_removed",
        endpoints_of_an_earlier_boot,
    ),
    (
        "crash::a_namespace_that_outlives_its_boot_id_is_another_one",
        another_boot_id,
    ),
];

const HOSTS: usize = 3;
/// How often an agent is killed.
const KILLS: usize = 100;
/// Kills between two comparisons with the kernels.
const KILLS_PER_LOOK: usize = 10;
/// Namespaces on each host that endpoints are attached to.
const NAMESPACES: u64 = 4;
/// The agent is killed within so many microseconds after the request.
const KILL_WITHIN_US: u64 = 40_000;
/// `weft run` takes this much longer until it asks the agent, in microseconds.
const RUN_STARTS_WITHIN_US: u64 = 30_000;
/// The network of the containers that ping; it always exists.
const STEADY: &str = "steady";
/// Those containers.
const STEADY_ENDPOINTS: [&str; 2] = ["a", "b"];

/// Asks for one thing after another until an answer is lost; how each ended.
fn carry_out(cluster: &Cluster, host: usize, steps: &[Step]) -> Result<Vec<Outcome>> {
    let api = Api::of(cluster, host)?;
    let mut outcomes = Vec::new();
    for step in steps {
        let outcome = one(cluster, &api, host, step)?;
        let lost = matches!(outcome, Outcome::Unknown(_));
        outcomes.push(outcome);
        if lost {
            break;
        }
    }
    Ok(outcomes)
}

fn one(cluster: &Cluster, api: &Api, host: usize, step: &Step) -> Result<Outcome> {
    let answer = match step {
        Step::Create(name) => {
            let request = NetworkCreateRequest {
                name: name.clone(),
                ..Default::default()
            };
            api.ask(async |client| client.network_create(&request).await)
                .map(drop)
        }
        Step::Attach {
            name,
            network,
            namespace,
        } => {
            let request = AttachRequest {
                name: Some(name.clone()),
                netns: Some(PathBuf::from(format!("/run/netns/ns{namespace}"))),
                ..AttachRequest::new(network)
            };
            api.ask(async |client| client.attach(&request).await)
                .map(drop)
        }
        Step::Run { name, network } => {
            let command = format!("run --network {network} --name {name} --detach -- sleep inf");
            let ran = cluster.try_weft(host, &command)?;
            return Ok(match ran.status {
                0 => Outcome::Done,
                _ => Outcome::Unknown(ran.stderr),
            });
        }
        Step::Detach { name, network } => {
            let endpoint = format!("{name}.{network}");
            api.ask(async |client| client.detach(&endpoint, true).await)
                .map(drop)
        }
        Step::Remove(name) => api
            .ask(async |client| client.network_remove(name).await)
            .map(drop),
    };
    Ok(match answer {
        Ok(()) => Outcome::Done,
        Err(CliError::Api(error)) => match error.code {
            ErrorCode::TimedOut | ErrorCode::NoLeader | ErrorCode::Failed => {
                Outcome::Unknown(error.message)
            }
            _ => Outcome::Refused(error.message),
        },
        Err(error) => Outcome::Unknown(error.to_string()),
    })
}

/// Waits until an agent can have something decided, and knows what was.
fn able(api: &Api) -> Result<()> {
    eventually("the agent has a leader", || {
        let status = api.status()?;
        ensure!(status.leader.is_some(), "none");
        ensure!(
            status.managers.reachable >= status.managers.needed,
            "{:?}",
            status.managers
        );
        Ok(())
    })
}

/// Until every kernel is as wanted, and what was certain is so; how long that took.
fn settled(cluster: &Cluster, model: &mut Model) -> Result<Duration> {
    let started = Instant::now();
    able(&Api::of(cluster, 1)?)?;
    eventually("every kernel is as wanted", || {
        cluster.settle(1)?;
        (1..=HOSTS).try_for_each(|host| conform::check(cluster, host))
    })?;
    let took = started.elapsed();
    for host in 1..=HOSTS {
        let api = Api::of(cluster, host)?;
        // The first host resolves what was not certain; the others must agree.
        model
            .resolve(&api)
            .with_context(|| format!("as h{host} sees it"))?;
    }
    Ok(took)
}

fn killed_at_any_moment() -> Result<()> {
    let seed = Random::seed()?;
    println!("    {SEED_VARIABLE}={seed}");
    let mut random = Random::new(seed);
    let mut said = Vec::new();
    let done = kill_and_compare(&mut random, &mut said);
    done.with_context(|| format!("{SEED_VARIABLE}={seed}; the last steps: {}", last(&said)))
}

fn last(said: &[String]) -> String {
    let from = said.len().saturating_sub(2 * KILLS_PER_LOOK);
    format!("\n  {}", said[from..].join("\n  "))
}

fn kill_and_compare(random: &mut Random, said: &mut Vec<String>) -> Result<()> {
    let started = Instant::now();
    let cluster = Cluster::up(HOSTS)?;
    let ping = steady_ping(&cluster)?;
    let mut model = Model::default();
    let (mut slowest, mut longest, mut lost) = (Duration::ZERO, Duration::ZERO, 0);
    for kill in 1..=KILLS {
        let host = usize::try_from(1 + random.below(HOSTS as u64))?;
        able(&Api::of(&cluster, host)?)?;
        let steps = model.choose(host, random);
        let mut delay = random.below(KILL_WITHIN_US);
        if matches!(steps.first(), Some(Step::Run { .. })) {
            delay += random.below(RUN_STARTS_WITHIN_US);
        }
        let delay = Duration::from_micros(delay);
        let (outcomes, down) = interrupted(&cluster, host, &steps, delay)?;
        slowest = slowest.max(down);
        lost += usize::from(matches!(outcomes.last(), Some(Outcome::Unknown(_))));
        for (step, outcome) in steps.iter().zip(&outcomes) {
            said.push(format!(
                "h{host} killed after {delay:?}: {step:?}: {outcome}"
            ));
            model.learn(host, step, outcome);
        }
        if kill % 2 == 0 {
            undisturbed(&cluster, &mut model, random, said)?;
        }
        if kill % KILLS_PER_LOOK == 0 {
            longest = longest.max(settled(&cluster, &mut model)?);
        }
    }
    let report = ping.finish()?;
    println!(
        "    {KILLS} kills, {lost} answers lost, slowest restart {slowest:?}, slowest to settle \
         {longest:?}, {} pings, longest gap {} us, {:?} in all",
        report.sent,
        report.longest_gap_us,
        started.elapsed()
    );
    ensure!(report.lost == 0 && report.sent > 1000, "{report:?}");
    Ok(())
}

/// A ping between two containers that are there all the time, and namespaces to be attached.
fn steady_ping(cluster: &Cluster) -> Result<weft_agent::lab::Pinger> {
    cluster.weft(1, &format!("network create {STEADY}"))?;
    let [first, second] = STEADY_ENDPOINTS;
    cluster.container(1, STEADY, first)?;
    let second = cluster.container(2, STEADY, second)?;
    for host in 1..=HOSTS {
        for number in 0..NAMESPACES {
            cluster.sh(host, &["ip", "netns", "add", &format!("ns{number}")])?;
        }
    }
    cluster.settle(1)?;
    let spec = PingSpec::once(second.parse::<std::net::IpAddr>()?).endless(10_000);
    let ping = cluster
        .host(1)?
        .start_ping(Some(&format!("{first}.{STEADY}")), &spec)?;
    kernel::flowing(cluster, 1, STEADY)?;
    Ok(ping)
}

/// Kills the agent while it carries something out, and starts it again. How the steps ended, and
/// how long it took from the kill until the agent answered again.
fn interrupted(
    cluster: &Cluster,
    number: usize,
    steps: &[Step],
    delay: Duration,
) -> Result<(Vec<Outcome>, Duration)> {
    let host = cluster.host(number)?;
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| carry_out(cluster, number, steps));
        std::thread::sleep(delay);
        host.kill_agent()?;
        let killed = Instant::now();
        host.start_agent()?;
        host.wait_ready(PATIENCE)?;
        let down = killed.elapsed();
        let asked = asking
            .join()
            .map_err(|_| anyhow::anyhow!("the client panicked"))?;
        Ok((asked?, down))
    })
}

/// Something on any host that nobody interrupts.
fn undisturbed(
    cluster: &Cluster,
    model: &mut Model,
    random: &mut Random,
    said: &mut Vec<String>,
) -> Result<()> {
    let host = usize::try_from(1 + random.below(HOSTS as u64))?;
    able(&Api::of(cluster, host)?)?;
    let steps = model.choose(host, random);
    let outcomes = carry_out(cluster, host, &steps)?;
    for (step, outcome) in steps.iter().zip(&outcomes) {
        said.push(format!("h{host} undisturbed: {step:?}: {outcome}"));
        model.learn(host, step, outcome);
    }
    Ok(())
}

/// Ends every process that lives in the network namespace of one of these processes. Some end with
/// another before it is their turn.
const END_CONTAINERS: &str = r#"
own=$(readlink /proc/self/ns/net)
for path in "$@"; do
    wanted=$(readlink "$path") || continue
    [ "$wanted" != "$own" ] || continue
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/ns/net")" != "$wanted" ] || kill -9 "${process#/proc/}" || :
    done
done
"#;

/// What a reboot does to `/run`.
const EMPTY_RUN: &str = r#"
umount /run/weft/netns/* /run/weft/gateway 2>&1
for name in $(ip netns list | cut -d' ' -f1); do ip netns delete "$name"; done
rm -rf /run/weft
"#;

fn endpoints_of_an_earlier_boot() -> Result<()> {
    let cluster = Cluster::up(HOSTS)?;
    cluster.weft(1, "network create web")?;
    for host in 1..=HOSTS {
        cluster.container(host, "web", &format!("c{host}"))?;
        cluster.sh(host, &["ip", "netns", "add", "blue"])?;
        cluster.weft(
            host,
            &format!("attach web --netns /run/netns/blue --name b{host}"),
        )?;
    }
    cluster.settle(1)?;
    let endpoints = Api::of(&cluster, 1)?.endpoints()?;
    ensure!(endpoints.len() == 2 * HOSTS, "{endpoints:?}");
    for host in 1..=HOSTS {
        cluster.host(host)?.kill_agent()?;
    }
    for host in 1..=HOSTS {
        let name = format!("h{host}");
        let here = endpoints
            .iter()
            .filter(|e| e.node == name && e.netns.starts_with("/proc"));
        let mut argv = vec!["sh", "-c", END_CONTAINERS, "sh"];
        argv.extend(here.map(|endpoint| endpoint.netns.as_str()));
        cluster.sh(host, &argv)?;
        cluster.sh(host, &["sh", "-c", EMPTY_RUN])?;
    }
    for host in 1..=HOSTS {
        cluster.host(host)?.start_agent()?;
    }
    for host in 1..=HOSTS {
        cluster.host(host)?.wait_ready(PATIENCE)?;
    }
    eventually("the endpoints of the earlier boot are gone", || {
        (1..=HOSTS).try_for_each(|host| {
            let endpoints = Api::of(&cluster, host)?.endpoints()?;
            ensure!(endpoints.is_empty(), "h{host}: {endpoints:?}");
            conform::check(&cluster, host)
        })
    })?;
    let networks = Api::of(&cluster, 2)?.networks()?;
    ensure!(
        networks.iter().any(|network| network.name == "web"),
        "{networks:?}"
    );
    works_again(&cluster)
}

/// New containers come up and reach one another.
fn works_again(cluster: &Cluster) -> Result<()> {
    cluster.container(1, "web", "c1")?;
    let third = cluster.container(3, "web", "c3")?;
    cluster.settle(1)?;
    let spec = PingSpec::once(third.parse::<std::net::IpAddr>()?);
    let report = cluster.host(1)?.ping(Some("c1.web"), &spec)?;
    ensure!(report.lost == 0, "{report:?}");
    (1..=HOSTS).try_for_each(|host| conform::check(cluster, host))
}

/// After a boot another namespace may have the path, the device and the inode of one before.
fn another_boot_id() -> Result<()> {
    let cluster = Cluster::up(HOSTS)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.sh(2, &["ip", "netns", "add", "blue"])?;
    cluster.weft(2, "attach web --netns /run/netns/blue --name b")?;
    cluster.settle(1)?;
    cluster.host(2)?.kill_agent()?;
    let other = "echo 00000000-0000-4000-8000-000000000000 > /run/boot_id && \
                 mount --bind /run/boot_id /proc/sys/kernel/random/boot_id";
    cluster.sh(2, &["sh", "-c", other])?;
    cluster.host(2)?.start_agent()?;
    cluster.host(2)?.wait_ready(PATIENCE)?;
    eventually("the endpoint is gone and its interface too", || {
        let endpoints = Api::of(&cluster, 1)?.endpoints()?;
        ensure!(
            endpoints.iter().all(|endpoint| endpoint.name == "a"),
            "{endpoints:?}"
        );
        (1..=HOSTS).try_for_each(|host| conform::check(&cluster, host))
    })?;
    // The namespace itself may be attached again, as what it is now.
    cluster.weft(2, "attach web --netns /run/netns/blue --name b")?;
    cluster.settle(1)?;
    (1..=HOSTS).try_for_each(|host| conform::check(&cluster, host))
}
