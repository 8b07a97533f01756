use std::io::Write;
use std::path::absolute;

use super::read;
use crate::api::client::Client;
use crate::api::types::{AttachRequest, EndpointUpdateRequest, Kind};
use crate::cli::args::{AttachArgs, DetachArgs, EndpointUpdateArgs, Format, ReadArgs};
use crate::exit::CliError;

pub(super) async fn attach(
    client: &Client,
    args: AttachArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let request = AttachRequest {
        pid: args.pid(),
        netns: args.netns().map(absolute).transpose()?,
        network: args.network,
        name: args.name,
        ip: args.ip,
        ip6: args.ip6,
        mac: args.mac,
        ifname: args.ifname,
        aliases: args.alias,
        service: args.service,
        weight: args.weight,
        labels: args.label.into_iter().collect(),
        kind: Kind::Attached,
        publish: None,
    };
    let endpoint = client.attach(&request).await?;
    if args.read.quiet {
        writeln!(out, "{}", endpoint.id)?;
    } else if args.read.format == Format::Json {
        read::json(&endpoint, out)?;
    } else {
        let addresses = endpoint.address_text();
        writeln!(out, "{} {} {addresses}", endpoint.id, endpoint.name)?;
    }
    Ok(())
}

pub(super) async fn update(
    client: &Client,
    args: EndpointUpdateArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let request = EndpointUpdateRequest {
        weight: args.weight,
    };
    let endpoint = client.endpoint_update(&args.endpoint, &request).await?;
    writeln!(out, "{}", endpoint.id)?;
    Ok(())
}

pub(super) async fn detach(
    client: &Client,
    args: DetachArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let endpoint = client.detach(&args.endpoint, args.force).await?;
    writeln!(out, "{}", endpoint.id)?;
    Ok(())
}

pub(super) async fn ls(
    client: &Client,
    args: ReadArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    read::many(&client.endpoints().await?, args, out)
}
