use std::io::Write;

use super::read;
use crate::api::client::Client;
use crate::api::types::{InitRequest, JoinRequest, LeaveRequest, Role, Token};
use crate::cli::args::{InitArgs, JoinArgs, LeaveArgs, ReadArgs, TokenArgs};
use crate::exit::CliError;

pub(super) async fn init(
    client: &Client,
    args: InitArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let request = InitRequest {
        advertise_addr: args.address.advertise_addr,
        listen_addr: args.address.listen_addr,
        data_path_addr: args.address.data_path_addr,
        data_path_port: args.data_path_port,
        default_addr_pools: args.default_addr_pool,
        default_addr_pool_mask_length: args.default_addr_pool_mask_length,
        cert_expiry_s: args.cert_expiry.map(|expiry| expiry.as_secs()),
        availability: args.address.availability,
    };
    let joined = client.init(&request).await?;
    writeln!(
        out,
        "Cluster {} started; this host is its first manager: {} ({}).\n",
        joined.cluster, joined.name, joined.node
    )?;
    instructions(&client.token(Role::Worker, false).await?, out)?;
    writeln!(
        out,
        "\nTo add a manager, type 'weft token manager' here and follow what it prints."
    )?;
    Ok(())
}

pub(super) async fn join(
    client: &Client,
    args: JoinArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let request = JoinRequest {
        token: args.token,
        remotes: args.remotes,
        advertise_addr: args.address.advertise_addr,
        listen_addr: args.address.listen_addr,
        data_path_addr: args.address.data_path_addr,
        availability: args.address.availability,
    };
    let joined = client.join(&request).await?;
    writeln!(
        out,
        "This host is now a {} of cluster {}: {} ({}).",
        joined.role, joined.cluster, joined.name, joined.node
    )?;
    Ok(())
}

pub(super) async fn leave(
    client: &Client,
    args: LeaveArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    client.leave(&LeaveRequest { force: args.force }).await?;
    writeln!(out, "This host has left the cluster.")?;
    Ok(())
}

pub(super) async fn token(
    client: &Client,
    args: TokenArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let token = client.token(args.role, args.rotate).await?;
    if args.quiet {
        writeln!(out, "{}", token.token)?;
        return Ok(());
    }
    if args.rotate {
        writeln!(
            out,
            "The former {} token admits nobody any more.\n",
            args.role
        )?;
    }
    instructions(&token, out)
}

pub(super) async fn node_ls(
    client: &Client,
    args: ReadArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    read::many(&client.nodes().await?, args, out)
}

/// The command that a new host types, ready to paste: on one line, whatever its length.
fn instructions(token: &Token, out: &mut dyn Write) -> Result<(), CliError> {
    let manager = token
        .managers
        .first()
        .map_or_else(|| "HOST:2377".to_owned(), ToString::to_string);
    writeln!(
        out,
        "To add a {}, type on it:\n\n    weft join --token {} {manager}",
        token.role, token.token
    )?;
    Ok(())
}
