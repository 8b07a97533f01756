use std::io::Write;
use std::time::Duration;

use super::read;
use crate::api::client::Client;
use crate::api::types::{
    HealthCheck, HealthUpdate, Service, ServiceCreateRequest, ServiceUpdateRequest, Totals,
};
use crate::cli::args::{
    Format, HealthTimingArgs, InspectArgs, ProbeOrNone, ServiceCommand, ServiceCreateArgs,
    ServiceUpdateArgs,
};
use crate::cli::table::Table;
use crate::exit::CliError;

pub(super) async fn run(
    client: &Client,
    command: ServiceCommand,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    match command {
        ServiceCommand::Create(args) => create(client, *args, out).await,
        ServiceCommand::Ls(args) => read::many(&client.services().await?, args, out),
        ServiceCommand::Inspect { service, read } => {
            inspect(&client.service(&service).await?, read, out)
        }
        ServiceCommand::Update(args) => update(client, *args, out).await,
        ServiceCommand::Rm { services } => remove(client, services, out).await,
    }
}

async fn create(
    client: &Client,
    args: ServiceCreateArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let answer = client.service_create(&create_request(args)?).await?;
    writeln!(out, "{}", answer.service.id)?;
    answer
        .warnings
        .iter()
        .for_each(|warning| crate::cli::warn(&warning.to_string()));
    Ok(())
}

fn create_request(args: ServiceCreateArgs) -> Result<ServiceCreateRequest, CliError> {
    let timing = args.health_timing;
    Ok(ServiceCreateRequest {
        name: args.name,
        networks: args.network,
        ports: args.publish.into_iter().flat_map(|spec| spec.0).collect(),
        mode: args.endpoint_mode,
        scheduler: args.scheduler,
        affinity: args.affinity.unwrap_or_default(),
        drain_timeout_ms: args.drain_timeout.map(millis),
        idle_timeout_s: args.idle_timeout.map(seconds),
        health: health_check(HealthUpdate {
            probe: args.health,
            ..health_update(timing)
        })?,
        labels: args.label.into_iter().collect(),
    })
}

async fn update(
    client: &Client,
    args: ServiceUpdateArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let name = args.service.clone();
    let request = update_request(args)?;
    if request == ServiceUpdateRequest::default() {
        return Err(CliError::usage(
            "nothing to change; say what, see 'weft service update --help'",
        ));
    }
    let answer = client.service_update(&name, &request).await?;
    writeln!(out, "{}", answer.service.name)?;
    answer
        .warnings
        .iter()
        .for_each(|warning| crate::cli::warn(&warning.to_string()));
    Ok(())
}

fn update_request(args: ServiceUpdateArgs) -> Result<ServiceUpdateRequest, CliError> {
    let timing = health_update(args.health_timing);
    let (health, health_rm) = match args.health {
        Some(ProbeOrNone::None) if timing == HealthUpdate::default() => (None, true),
        Some(ProbeOrNone::None) => {
            return Err(CliError::usage(
                "--health none leaves nothing to time; leave out the other --health flags",
            ));
        }
        Some(ProbeOrNone::Probe(probe)) => (
            Some(HealthUpdate {
                probe: Some(probe),
                ..timing
            }),
            false,
        ),
        None => (
            Some(timing).filter(|t| *t != HealthUpdate::default()),
            false,
        ),
    };
    Ok(ServiceUpdateRequest {
        networks_add: args.network_add,
        networks_rm: args.network_rm,
        ports_add: args.publish_add.into_iter().flat_map(|p| p.0).collect(),
        ports_rm: args.publish_rm.into_iter().flat_map(|p| p.0).collect(),
        mode: args.endpoint_mode,
        scheduler: args.scheduler,
        affinity: args.affinity,
        drain_timeout_ms: args.drain_timeout.map(millis),
        idle_timeout_s: args.idle_timeout.map(seconds),
        health,
        health_rm,
        labels_add: args.label_add.into_iter().collect(),
        labels_rm: args.label_rm,
    })
}

/// A new service has no check that times alone could change.
fn health_check(wanted: HealthUpdate) -> Result<Option<HealthCheck>, CliError> {
    let any = wanted != HealthUpdate::default();
    match wanted.applied_to(None) {
        None if any => Err(CliError::usage(
            "no health check is wanted, so there is nothing to time; give --health too",
        )),
        check => Ok(check),
    }
}

fn health_update(timing: HealthTimingArgs) -> HealthUpdate {
    HealthUpdate {
        probe: None,
        interval_ms: timing.health_interval.map(millis),
        timeout_ms: timing.health_timeout.map(millis),
        retries: timing.health_retries,
    }
}

/// The command line took no longer one than fits.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// The table has the service's endpoints below it.
fn inspect(service: &Service, args: InspectArgs, out: &mut dyn Write) -> Result<(), CliError> {
    read::one(service, args, out)?;
    if args.quiet || args.format == Format::Json {
        return Ok(());
    }
    if !service.endpoints.is_empty() {
        writeln!(out)?;
        endpoints(service).write(out)?;
        writeln!(out)?;
        numbers(service).write(out)?;
    }
    if !service.warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in &service.warnings {
        writeln!(out, "Warning: {warning}")?;
    }
    Ok(())
}

fn endpoints(service: &Service) -> Table {
    let mut table = Table::new(&[
        "ENDPOINT ID",
        "NAME",
        "NETWORK",
        "NODE",
        "ADDRESS",
        "WEIGHT",
        "STATE",
    ]);
    for endpoint in &service.endpoints {
        table.row(vec![
            endpoint.id.clone(),
            endpoint.name.clone(),
            endpoint.network.clone(),
            endpoint.node.clone(),
            endpoint.address_text(),
            endpoint.weight.to_string(),
            endpoint.state.to_string(),
        ]);
    }
    table
}

/// What each endpoint has taken and answered, and all of them together. Where that is not known,
/// why.
fn numbers(service: &Service) -> Table {
    let mut table = Table::new(&[
        "ENDPOINT ID",
        "NAME",
        "NODE",
        "FLOWS",
        "TAKEN",
        "IN",
        "OUT",
        "",
    ]);
    let shown = |connections: Option<u64>, totals: Option<Totals>| {
        let number = |known: Option<String>| known.unwrap_or_else(|| "-".to_owned());
        [
            number(connections.map(|count| count.to_string())),
            number(totals.map(|totals| totals.connections.to_string())),
            number(totals.map(|totals| volume(totals.packets_in, totals.bytes_in))),
            number(totals.map(|totals| volume(totals.packets_out, totals.bytes_out))),
        ]
    };
    for endpoint in &service.endpoints {
        let (id, name) = (endpoint.id.clone(), endpoint.name.clone());
        let mut row = vec![id, name, endpoint.node.clone()];
        row.extend(shown(endpoint.connections, endpoint.totals));
        row.push(endpoint.numbers_error.clone().unwrap_or_default());
        table.row(row);
    }
    let mut row = vec!["all".to_owned(), String::new(), String::new()];
    row.extend(shown(service.connections, service.totals));
    table.row(row);
    table
}

/// `10000 (1.0 MiB)`: packets, and their bytes as people read them.
fn volume(packets: u64, bytes: u64) -> String {
    const UNITS: [(&str, u32); 6] = [
        ("EiB", 60),
        ("PiB", 50),
        ("TiB", 40),
        ("GiB", 30),
        ("MiB", 20),
        ("KiB", 10),
    ];
    // Tenths of a unit, rounded down.
    let tenths = |(unit, bits)| (unit, (u128::from(bytes) * 10) >> bits);
    let bytes = match { UNITS.into_iter().map(tenths) }.find(|(_, tenths)| *tenths >= 10) {
        Some((unit, tenths)) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        None => format!("{bytes} B"),
    };
    format!("{packets} ({bytes})")
}

/// Goes on after a refusal, as `network rm` does; the first one decides the exit status.
async fn remove(
    client: &Client,
    services: Vec<String>,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut first = Ok(());
    for service in services {
        match client.service_remove(&service).await {
            Ok(removed) => writeln!(out, "{}", removed.name)?,
            Err(error) if first.is_ok() => first = Err(error),
            Err(error) => crate::cli::complain(&error),
        }
    }
    first
}
