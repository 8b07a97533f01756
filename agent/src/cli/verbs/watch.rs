use std::io::Write;

use futures_util::StreamExt;

use crate::api::client::Client;
use crate::api::types::{Event, EventAction, EventObject, EventType, WaitRequest};
use crate::cli::args::{EventsArgs, Format, WaitArgs};
use crate::exit::CliError;

pub(super) async fn wait(client: &Client, args: WaitArgs) -> Result<(), CliError> {
    let request = WaitRequest {
        revision: args.revision(),
        endpoint: args.endpoint().map(str::to_owned),
        service: args.service().map(str::to_owned),
        timeout_ms: Some(u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX)),
    };
    client.wait(&request).await.map(|_| ())
}

/// Until the agent or the reader goes away.
pub(super) async fn events(
    client: &Client,
    args: EventsArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut events = client.events().await?;
    while let Some(event) = events.next().await {
        let event = event?;
        match args.format {
            Format::Json => {
                let line = serde_json::to_string(&event)
                    .map_err(|error| CliError::failed(error.to_string()))?;
                writeln!(out, "{line}")?;
            }
            Format::Table => writeln!(out, "{}", sentence(&event))?,
        }
        out.flush()?;
    }
    Err(CliError::failed("the agent stopped"))
}

/// `4711 endpoint api.web changed: ready at 10.0.1.2 on h2`.
fn sentence(event: &Event) -> String {
    let kind = match event.object_type {
        EventType::Cluster => "cluster",
        EventType::Node => "node",
        EventType::Network => "network",
        EventType::Endpoint => "endpoint",
        EventType::Service => "service",
    };
    let action = match event.action {
        EventAction::Created => "created",
        EventAction::Changed => "changed",
        EventAction::Removed => "removed",
        EventAction::Warning => "warning",
        EventAction::Cleared => "warning cleared",
        EventAction::Repaired => "repaired",
        EventAction::Resync => "must be read again",
    };
    let (name, detail) = match &event.object {
        Some(EventObject::Node(node)) => (
            node.name.clone(),
            format!(": {} {} at {}", node.status, node.role, node.addr),
        ),
        Some(EventObject::Network(network)) => {
            let subnets: Vec<_> = network.subnets.iter().map(|s| s.cidr.to_string()).collect();
            let kind = match network.vni {
                Some(vni) => format!("VNI {vni}"),
                None => network.driver.clone(),
            };
            let detail = format!(": {kind}, {}", subnets.join(", "));
            (network.name.clone(), detail)
        }
        Some(EventObject::Endpoint(endpoint)) => {
            let member = match (&endpoint.service, endpoint.backend) {
                (Some(service), Some(state)) => {
                    let why = endpoint.backend_error.as_ref();
                    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
                    format!(", {state} for service {service}{why}")
                }
                _ => String::new(),
            };
            let notice = endpoint.notice.as_ref();
            let notice = notice.map_or_else(String::new, |notice| format!("; {notice}"));
            let detail = format!(
                ": {} at {} on {}{member}{notice}",
                endpoint.state,
                endpoint.address_text(),
                endpoint.node
            );
            (format!("{}.{}", endpoint.name, endpoint.network), detail)
        }
        Some(EventObject::Service(service)) => {
            let (ready, all) = (service.ready(), service.endpoints.len());
            let detail = format!(
                ": {} {}, {ready} of {all} endpoints ready",
                service.mode, service.scheduler
            );
            (service.name.clone(), detail)
        }
        Some(EventObject::Warning(warning)) => (
            event.name.clone().unwrap_or_else(|| event.id.clone()),
            format!(": {}", warning.message),
        ),
        None => (
            event.name.clone().unwrap_or_else(|| event.id.clone()),
            String::new(),
        ),
    };
    format!("{} {kind} {name} {action}{detail}", event.revision)
}
