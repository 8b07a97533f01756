//! What the verbs that ask the agent do: one function per verb, writing to `out`.

mod cluster;
mod endpoint;
mod network;
mod read;
mod service;
mod status;
mod watch;

use std::io::Write;

use super::args::{EndpointCommand, NetworkCommand, NodeCommand, Verb};
use crate::api::client::Client;
use crate::exit::CliError;

/// Runs a verb that is a conversation with the agent.
pub(super) async fn run(verb: Verb, client: &Client, out: &mut dyn Write) -> Result<(), CliError> {
    match verb {
        Verb::Init(args) => cluster::init(client, args, out).await,
        Verb::Join(args) => cluster::join(client, args, out).await,
        Verb::Leave(args) => cluster::leave(client, args, out).await,
        Verb::Token(args) => cluster::token(client, args, out).await,
        Verb::Node(NodeCommand::Ls(args)) => cluster::node_ls(client, args, out).await,
        Verb::Node(NodeCommand::Inspect { node, read }) => {
            read::one(&client.node(&node).await?, read, out)
        }
        Verb::Network(NetworkCommand::Create(args)) => network::create(client, args, out).await,
        Verb::Network(NetworkCommand::Ls(args)) => network::ls(client, args, out).await,
        Verb::Network(NetworkCommand::Inspect { network, read }) => {
            network::inspect(&client.network(&network).await?, read, out)
        }
        Verb::Network(NetworkCommand::Update(args)) => network::update(client, args, out).await,
        Verb::Network(NetworkCommand::Rm { networks }) => {
            network::remove(client, networks, out).await
        }
        Verb::Attach(args) => endpoint::attach(client, args, out).await,
        Verb::Detach(args) => endpoint::detach(client, args, out).await,
        Verb::Endpoint(EndpointCommand::Ls(args)) => endpoint::ls(client, args, out).await,
        Verb::Endpoint(EndpointCommand::Inspect { endpoint, read }) => {
            read::one(&client.endpoint(&endpoint).await?, read, out)
        }
        Verb::Endpoint(EndpointCommand::Update(args)) => endpoint::update(client, args, out).await,
        Verb::Service(command) => service::run(client, command, out).await,
        Verb::Status(args) => status::status(client, args, out).await,
        Verb::Wait(args) => watch::wait(client, args).await,
        Verb::Events(args) => watch::events(client, args, out).await,
        Verb::Agent(_)
        | Verb::Dataplane(_)
        | Verb::Run(_)
        | Verb::Exec(_)
        | Verb::Lab(_)
        | Verb::Completions { .. }
        | Verb::Internal(_) => Err(CliError::failed("this verb does not ask the agent")),
    }
}
