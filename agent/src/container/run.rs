//! `weft run`, the process that the user started.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::directory;
use super::error::RunError;
use super::shim::Report;
use super::signals::Signals;
use crate::api::client::Client;
use crate::api::types::{AttachRequest, Endpoint, Kind, Port, PublishRequest};
use crate::cli::args::{Format, RunArgs};
use crate::exit::CliError;

/// Where the agent is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) socket: &'a Path,
    pub(super) run_dir: &'a Path,
}

/// Runs the command; answers with what to exit with.
pub(super) fn run(place: Place<'_>, args: &RunArgs) -> Result<u8, RunError> {
    let shim = shim_command(place, args)?;
    if args.detach {
        let endpoints = start_detached(shim)?;
        print(&endpoints, args.format)?;
        if args.format == Format::Table && !args.publish.is_empty() {
            print_ports(place, &endpoints)?;
        }
        Ok(0)
    } else {
        attend(shim, place)
    }
}

/// The requests still lack the namespace, which does not exist yet.
fn requests(place: Place<'_>, args: &RunArgs) -> Result<Vec<AttachRequest>, RunError> {
    let serving = serving(place, args)?;
    let text = |arg: &std::ffi::OsString| arg.to_string_lossy().into_owned();
    let kind = Kind::Run {
        command: args.command.iter().map(text).collect(),
        detached: args.detach,
    };
    let labels: BTreeMap<String, String> = args.label.iter().cloned().collect();
    let publish = publish(args);
    let joined = args.service.as_ref().filter(|_| publish.is_none());
    let for_network = |(index, network): (usize, &String)| AttachRequest {
        name: args.name.clone(),
        ip: args.ip.filter(|_| index == 0),
        ip6: args.ip6.filter(|_| index == 0),
        mac: args.mac.filter(|_| index == 0),
        aliases: args.alias.clone(),
        service: joined.cloned().filter(|_| serving.contains(&index)),
        publish: publish.clone().filter(|_| index == 0),
        weight: args.weight.filter(|_| serving.contains(&index)),
        labels: labels.clone(),
        kind: kind.clone(),
        ..AttachRequest::new(network)
    };
    Ok(args.network.iter().enumerate().map(for_network).collect())
}

/// The service that the endpoint on the first network makes, and the others join.
fn publish(args: &RunArgs) -> Option<PublishRequest> {
    let (_, others) = args.network.split_first()?;
    let ports = args.publish.iter().flat_map(|spec| spec.0.clone());
    (!args.publish.is_empty()).then(|| PublishRequest {
        name: args.service.clone(),
        networks: others.to_vec(),
        ports: ports.collect(),
    })
}

/// On which of the networks the service is joined, by index: on all that one is made for. With one
/// the agent judges; of several, it is those that the service is on.
fn serving(place: Place<'_>, args: &RunArgs) -> Result<BTreeSet<usize>, RunError> {
    if !args.publish.is_empty() {
        return Ok((0..args.network.len()).collect());
    }
    let Some(wanted) = &args.service else {
        return Ok(BTreeSet::new());
    };
    if args.network.len() == 1 {
        return Ok(BTreeSet::from([0]));
    }
    super::runtime()?.block_on(async {
        let client = Client::new(place.socket);
        let service = client.service(wanted).await?;
        let mut serving = BTreeSet::new();
        for (index, network) in args.network.iter().enumerate() {
            let id = client.network(network).await?.id;
            if service.networks.iter().any(|on| on.id == id) {
                serving.insert(index);
            }
        }
        if serving.is_empty() {
            let on: Vec<&str> = service.networks.iter().map(|on| on.name.as_str()).collect();
            return Err(RunError::Agent(CliError::failed(format!(
                "service `{}` is on none of these networks; name one that it is on: {}",
                service.name,
                on.join(", ")
            ))));
        }
        Ok(serving)
    })
}

fn shim_command(place: Place<'_>, args: &RunArgs) -> Result<Command, RunError> {
    let mut shim = Command::new("/proc/self/exe");
    shim.arg0("weft").args(["internal", "container", "shim"]);
    shim.arg("--socket").arg(place.socket);
    shim.arg("--run-dir").arg(place.run_dir);
    if !args.detach {
        shim.arg(format!("--starter={}", std::process::id()));
    }
    for request in requests(place, args)? {
        let text = serde_json::to_string(&request)
            .map_err(|error| RunError::system("this cannot be asked", error))?;
        shim.arg(format!("--attach={text}"));
    }
    shim.arg("--").args(&args.command);
    Ok(shim)
}

fn start_detached(mut shim: Command) -> Result<Vec<Endpoint>, RunError> {
    let no_shim = |error| RunError::system("the supervising process cannot be started", error);
    let mut child = shim
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(no_shim)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(no_shim)?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Started(endpoints)) => Ok(endpoints),
        Ok(Report::Failed(failure)) => {
            // It cleans up before it ends.
            let _ = child.wait();
            Err(RunError::Reported(failure))
        }
        Err(_) => Err(ended_early(child.wait().map_err(no_shim)?)),
    }
}

fn print(endpoints: &[Endpoint], format: Format) -> Result<(), RunError> {
    let mut stdout = std::io::stdout().lock();
    match format {
        Format::Table => endpoints
            .iter()
            .try_for_each(|endpoint| writeln!(stdout, "{}", endpoint.id)),
        Format::Json => serde_json::to_writer_pretty(&mut stdout, endpoints)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(stdout)),
    }
    .and_then(|()| stdout.flush())
    .map_err(|error| RunError::Agent(CliError::from(error)))
}

/// One line for each port, with the number that the cluster chose where it was to. Nothing if the
/// command has ended already, and the service with it.
fn print_ports(place: Place<'_>, endpoints: &[Endpoint]) -> Result<(), RunError> {
    let Some(service) = endpoints.iter().find_map(|one| one.service.as_ref()) else {
        return Ok(());
    };
    let client = Client::new(place.socket);
    let Ok(service) = super::runtime()?.block_on(client.service(service)) else {
        return Ok(());
    };
    let mut stdout = std::io::stdout().lock();
    { service.ports.iter() }
        .try_for_each(|port| writeln!(stdout, "{}", shown(port)))
        .map_err(|error| RunError::Agent(CliError::from(error)))
}

/// A port as `--publish` reads it.
pub(super) fn shown(port: &Port) -> String {
    format!("{}:{}/{}", port.published, port.target, port.protocol)
}

/// Waits for the command and passes on what others send. What a terminal sends, as Ctrl-C does, it
/// sends to the command too, which is in the same process group: passed on it would come twice.
fn attend(mut shim: Command, place: Place<'_>) -> Result<u8, RunError> {
    let failed = |error| RunError::system("the command cannot be supervised", error);
    // Before the start, so that the shim begins with them blocked and none is lost.
    let signals = Signals::block().map_err(failed)?;
    let mut child = shim.spawn().map_err(failed)?;
    let shim_pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let status = loop {
        let arrival = signals.wait().map_err(failed)?;
        if let Some(status) = ended(&mut child, arrival.signal).map_err(failed)? {
            break status;
        }
        let from_elsewhere = !arrival.by_kernel && arrival.sender != shim_pid;
        if arrival.signal != Signal::SIGCHLD && from_elsewhere {
            let _ = kill(shim_pid, arrival.signal);
        }
    };
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        None => {
            clean_up_after(shim_pid, place);
            Err(ended_early(status))
        }
    }
}

/// What a shim that was killed could not do. What fails here is done by the agent, and by the next
/// `weft run`.
fn clean_up_after(shim: Pid, place: Place<'_>) {
    let _ = directory::sweep_run_dir(place.run_dir);
    let Ok(runtime) = super::runtime() else {
        return;
    };
    let _ = runtime.block_on(async {
        let client = Client::new(place.socket);
        let node = client.status().await?.node;
        let netns = super::netns_of(shim.as_raw());
        for endpoint in client.endpoints().await? {
            if node.as_ref() == Some(&endpoint.node_id) && Path::new(&endpoint.netns) == netns {
                client.detach(&endpoint.id, true).await?;
            }
        }
        Ok::<(), CliError>(())
    });
}

fn ended(child: &mut Child, signal: Signal) -> std::io::Result<Option<ExitStatus>> {
    if signal == Signal::SIGCHLD {
        child.try_wait()
    } else {
        Ok(None)
    }
}

fn ended_early(status: ExitStatus) -> RunError {
    let how = match status.signal() {
        Some(number) => format!("signal {number} ended the process that supervised it"),
        None => format!("the process that supervised it ended ({status})"),
    };
    RunError::system("the command was ended", std::io::Error::other(how))
}
