use std::io::Write;

use super::read;
use crate::api::client::Client;
use crate::api::types::NetworkCreateRequest;
use crate::cli::args::{NetworkCreateArgs, ReadArgs};
use crate::exit::CliError;

pub(super) async fn create(
    client: &Client,
    args: NetworkCreateArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    for gateway in &args.gateway {
        if !args.subnet.iter().any(|subnet| subnet.contains(gateway)) {
            return Err(CliError::usage(format!(
                "--gateway {gateway} is in none of the subnets given; give one inside a --subnet"
            )));
        }
    }
    let request = NetworkCreateRequest {
        name: args.name,
        driver: Some(args.driver),
        subnets: args.subnet,
        gateways: args.gateway,
        internal: args.internal,
        mtu: args.mtu,
        vni: args.vni,
        multicast: args.multicast,
        allow_overlap: args.allow_overlap,
        labels: args.label.into_iter().collect(),
        ingress: args.ingress,
    };
    let network = client.network_create(&request).await?;
    writeln!(out, "{}", network.id)?;
    Ok(())
}

pub(super) async fn ls(
    client: &Client,
    args: ReadArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    read::many(&client.networks().await?, args, out)
}

/// Goes on after a refusal, as `rm` does; the first one decides the exit status.
pub(super) async fn remove(
    client: &Client,
    networks: Vec<String>,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut first = Ok(());
    for network in networks {
        match client.network_remove(&network).await {
            Ok(removed) => writeln!(out, "{}", removed.name)?,
            Err(error) if first.is_ok() => first = Err(error),
            Err(error) => crate::cli::complain(&error),
        }
    }
    first
}
