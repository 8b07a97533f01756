//! The command line as clap sees it. Help texts come from the doc comments, so they are written
//! for users.

mod cluster;
mod container;
mod health;
mod lab;
mod network;
mod service;
pub(crate) mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use cluster::{
    AgentArgs, DataplaneArgs, InitArgs, JoinArgs, LeaveArgs, NodeCommand, TokenArgs,
};
pub use container::{
    AttachArgs, DetachArgs, EndpointCommand, EndpointUpdateArgs, ExecArgs, RunArgs,
};
pub use health::{HealthTimingArgs, ProbeOrNone};
pub use lab::{LabCommand, LabDemoArgs, LabExecArgs, LabName, LabStatusArgs, LabUpArgs};
pub use network::{NetworkCommand, NetworkCreateArgs, NetworkUpdateArgs};
pub use service::{Publish, ServiceCommand, ServiceCreateArgs, ServiceUpdateArgs, Unpublish};

/// Networks, addresses and tunnels for containers on many hosts, without an external store.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Try it on this machine, without root and without a container runtime:
  weft lab demo

On real hosts, with 'weft agent' running on each:
  host1# weft init                            prints the command for the others
  host2# weft join --token WFTKN-1-... host1
  host2# weft network create web
  host2# weft run --network web --name api -- ./server
  host1# weft attach web --pid 4242           a container that runs already

The agent's socket may be named by WEFT_SOCKET instead of --socket.
Exit status: 0 done, 1 refused or failed, 2 usage, 3 agent not reachable, 4 no leader or timed out."
)]
pub struct Cli {
    /// Socket of the agent [default: /run/weft/weft.sock]
    #[arg(
        long,
        value_name = "PATH",
        global = true,
        env = "WEFT_SOCKET",
        hide_env = true,
        display_order = 900
    )]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `weft` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent of this host
    Agent(AgentArgs),
    /// Start a cluster with this host as its first manager
    Init(InitArgs),
    /// Enter a cluster
    Join(JoinArgs),
    /// Leave the cluster
    Leave(LeaveArgs),
    /// Show or rotate the token that admits hosts
    Token(TokenArgs),
    /// Hosts of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Networks of the cluster
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Attach a network namespace of this host to a network
    Attach(AttachArgs),
    /// Remove an endpoint
    Detach(DetachArgs),
    /// Endpoints of the cluster
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Names, addresses and published ports for endpoints that serve the same
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Run a command in a fresh network namespace, attached
    Run(RunArgs),
    /// Run a program of this host inside an endpoint's namespace
    Exec(ExecArgs),
    /// Show what the agent knows of itself and its cluster
    Status(ReadArgs),
    /// Wait until every node has programmed something
    Wait(WaitArgs),
    /// Follow the changes in the cluster
    Events(EventsArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Clusters of several hosts on this machine, to try things on
    #[command(subcommand)]
    Lab(LabCommand),
    /// Run this host's data-plane process, which the agent starts where it is needed
    #[command(hide = true)]
    Dataplane(DataplaneArgs),
    /// Helper processes that weft starts for itself.
    #[command(hide = true, subcommand)]
    Internal(InternalCommand),
}

/// How a read is printed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ReadArgs {
    /// How to print
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "table|json",
        hide_possible_values = true
    )]
    pub format: Format,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// See [`ReadArgs::format`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; at most 100 columns
    #[default]
    Table,
    /// For programs: every field, untruncated
    Json,
}

/// How one object is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct InspectArgs {
    /// How to print
    #[arg(
        long,
        value_enum,
        default_value = "json",
        value_name = "table|json",
        hide_possible_values = true
    )]
    pub format: Format,
    /// Print the ID only
    #[arg(short, long)]
    pub quiet: bool,
}

/// `weft wait`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft wait --endpoint api.web --timeout 5s
  weft wait --service web
  weft wait --revision 4711")]
pub struct WaitArgs {
    #[command(flatten)]
    what: WaitTarget,
    /// Give up after this long (exit status 4)
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = value::wait)]
    pub timeout: std::time::Duration,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WaitTarget {
    /// Until every ready node reflects it; 'weft status' shows revisions
    #[arg(long, value_name = "R")]
    revision: Option<u64>,
    /// Until every ready node reflects it (ID, NAME or NAME.NETWORK)
    #[arg(long, value_name = "ENDPOINT", value_parser = value::wanted)]
    endpoint: Option<String>,
    /// Until every ready node reflects it and its endpoints (NAME or ID)
    #[arg(long, value_name = "SERVICE", value_parser = value::wanted)]
    service: Option<String>,
}

impl WaitArgs {
    /// `--revision`.
    pub fn revision(&self) -> Option<u64> {
        self.what.revision
    }

    /// `--endpoint`.
    pub fn endpoint(&self) -> Option<&str> {
        self.what.endpoint.as_deref()
    }

    /// `--service`.
    pub fn service(&self) -> Option<&str> {
        self.what.service.as_deref()
    }
}

/// `weft events`.
#[derive(Clone, Copy, Debug, Args)]
pub struct EventsArgs {
    /// How to print
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "table|json",
        hide_possible_values = true
    )]
    pub format: Format,
}

/// Helper processes; their command lines are no one else's business.
#[derive(Debug, Subcommand)]
pub enum InternalCommand {
    /// See [`crate::container::internal`].
    Container {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// See [`crate::lab::internal`].
    Lab {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}
