use std::collections::BTreeMap;
use std::io::Write;

use super::read;
use crate::api::client::Client;
use crate::api::types::{Network, NetworkCreateRequest, NetworkUpdateRequest};
use crate::cli::args::{Format, InspectArgs, NetworkCreateArgs, NetworkUpdateArgs, ReadArgs};
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
    let mut aux_addresses = BTreeMap::new();
    for (name, address) in args.aux_address {
        if aux_addresses.insert(name.clone(), address).is_some() {
            return Err(CliError::usage(format!(
                "--aux-address {name} is given twice; give each a name of its own"
            )));
        }
    }
    let request = NetworkCreateRequest {
        name: args.name,
        driver: Some(args.driver),
        subnets: args.subnet,
        gateways: args.gateway,
        routes: args.route,
        ip_ranges: args.ip_range,
        aux_addresses,
        ipv6: args.ipv6,
        internal: args.internal,
        mtu: args.mtu,
        vni: args.vni,
        multicast: args.multicast,
        encrypted: args.encrypted,
        allow_overlap: args.allow_overlap,
        labels: args.label.into_iter().collect(),
        ingress: args.ingress,
    };
    let network = client.network_create(&request).await?;
    writeln!(out, "{}", network.id)?;
    warn(&network);
    Ok(())
}

pub(super) async fn update(
    client: &Client,
    args: NetworkUpdateArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let request = NetworkUpdateRequest {
        encrypted: args.encrypted,
        routes_add: args.route_add,
        routes_rm: args.route_rm,
        multicast: args.multicast,
        mtu: args.mtu,
        subnets_add: args.subnet_add,
        labels_add: args.label_add.into_iter().collect(),
        labels_rm: args.label_rm,
    };
    if request == NetworkUpdateRequest::default() {
        return Err(CliError::usage(
            "nothing to change; say what, see 'weft network update --help'",
        ));
    }
    let network = client.network_update(&args.network, &request).await?;
    writeln!(out, "{}", network.name)?;
    warn(&network);
    Ok(())
}

fn warn(network: &Network) {
    let warnings = network.warnings.iter();
    warnings.for_each(|warning| crate::cli::warn(warning));
}

/// The table has what is to be known of the network below it.
pub(super) fn inspect(
    network: &Network,
    args: InspectArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    read::one(network, args, out)?;
    if args.quiet || args.format == Format::Json {
        return Ok(());
    }
    if network.error.is_some() || !network.warnings.is_empty() {
        writeln!(out)?;
    }
    if let Some(error) = &network.error {
        writeln!(out, "Error: {error}")?;
    }
    for warning in &network.warnings {
        writeln!(out, "Warning: {warning}")?;
    }
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
