use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ReadArgs, value};
use crate::lab::AgentArg;

/// `weft lab`.
#[derive(Debug, Subcommand)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  weft lab demo
  weft lab up --hosts 3
  weft lab exec h1 -- weft node ls
  weft lab down"
)]
pub enum LabCommand {
    /// Start hosts h1, h2, .. in namespaces, with an agent each, as one cluster
    Up(LabUpArgs),
    /// Show what weft does, step by step and checked; leaves nothing behind
    Demo(LabDemoArgs),
    /// Run a command on a host of the lab ('outside' is a machine without an agent)
    Exec(LabExecArgs),
    /// Show the labs and their hosts
    Status(LabStatusArgs),
    /// Stop a lab and remove everything that belongs to it
    Down(LabName),
}

/// Which lab.
#[derive(Clone, Debug, Args)]
pub struct LabName {
    /// Which lab, if several run side by side
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = value::lab_name)]
    pub name: String,
}

/// `weft lab up`.
#[derive(Clone, Debug, Args)]
pub struct LabUpArgs {
    /// Which lab.
    #[command(flatten)]
    pub lab: LabName,
    /// How many hosts, 1-50
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=50))]
    pub hosts: u8,
    /// How many are managers, 1-7; the others are workers
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=7))]
    pub managers: u8,
    /// Leave the agents without a cluster
    #[arg(long)]
    pub no_cluster: bool,
    /// Start the hosts only
    #[arg(long)]
    pub no_agents: bool,
    /// Keep the agents' state in DIR/h1, DIR/h2, .. instead of in memory
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Further option of `weft agent`; of one host with HOST=
    #[arg(
        long = "agent-arg",
        value_name = "[HOST=]OPTION",
        allow_hyphen_values = true
    )]
    pub agent_args: Vec<AgentArg>,
}

/// `weft lab demo`.
#[derive(Clone, Debug, Args)]
pub struct LabDemoArgs {
    /// How many hosts, 3-50
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(3..=50))]
    pub hosts: u8,
    /// With an encrypted network
    #[arg(long)]
    pub encrypted: bool,
    /// Further option of `weft agent`, as h1=--encryption=kernel
    #[arg(
        long = "agent-arg",
        value_name = "[HOST=]OPTION",
        allow_hyphen_values = true
    )]
    pub agent_args: Vec<AgentArg>,
}

/// `weft lab exec`.
#[derive(Clone, Debug, Args)]
pub struct LabExecArgs {
    /// Which lab.
    #[command(flatten)]
    pub lab: LabName,
    /// h1, h2, .. or outside
    pub host: String,
    /// Command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `weft lab status`.
#[derive(Clone, Debug, Args)]
pub struct LabStatusArgs {
    /// Which lab; all of them without it
    #[arg(long, value_name = "NAME", value_parser = value::lab_name)]
    pub name: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub read: ReadArgs,
}
