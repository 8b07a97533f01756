//! The local API of an agent, asked from outside its host and without a process per request.

use anyhow::Result;
use tokio::runtime::{Builder, Runtime};
use weft_agent::api::client::Client;
use weft_agent::api::types::{Endpoint, Network, Node, Status};
use weft_agent::exit::CliError;

use crate::cluster::Cluster;

/// One agent's socket.
pub struct Api {
    runtime: Runtime,
    client: Client,
}

impl Api {
    /// That of the host h`number`. It need not answer yet.
    pub fn of(cluster: &Cluster, number: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = Client::new(cluster.host(number)?.agent_socket());
        Ok(Self { runtime, client })
    }

    /// Asks one thing and waits for the answer.
    pub fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Client) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        self.runtime.block_on(question(&self.client))
    }

    /// `weft status`.
    pub fn status(&self) -> Result<Status, CliError> {
        self.ask(async |client| client.status().await)
    }

    /// `weft node ls`.
    pub fn nodes(&self) -> Result<Vec<Node>, CliError> {
        self.ask(async |client| client.nodes().await)
    }

    /// `weft network ls`.
    pub fn networks(&self) -> Result<Vec<Network>, CliError> {
        self.ask(async |client| client.networks().await)
    }

    /// `weft endpoint ls`.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, CliError> {
        self.ask(async |client| client.endpoints().await)
    }
}
