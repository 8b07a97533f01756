use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::Ipv4Net;

use super::{InspectArgs, ReadArgs, value};
use crate::api::types::{Availability, Role};
use crate::config::{EncryptionPath, LogFormat};

/// `weft agent`.
#[derive(Debug, Args)]
#[command(after_help = "\
Flags win over the environment (WEFT_CONFIG, WEFT_DATA_DIR, WEFT_RUN_DIR, WEFT_SOCKET,
WEFT_NODE_NAME, WEFT_LOG_FORMAT, WEFT_LOG_LEVEL, WEFT_METRICS, WEFT_ENCRYPTION, WEFT_REKEY), the
environment over the configuration file.
Several agents run on one machine, each in its own network namespace with its own directories.")]
pub struct AgentArgs {
    /// Configuration file [default: /etc/weft/weft.toml if there]
    #[arg(long, value_name = "FILE", env = "WEFT_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
    /// Identity, keys and store [default: /var/lib/weft]
    #[arg(long, value_name = "DIR", env = "WEFT_DATA_DIR", hide_env = true)]
    pub data_dir: Option<PathBuf>,
    /// Sandboxes and socket [default: /run/weft]
    #[arg(long, value_name = "DIR", env = "WEFT_RUN_DIR", hide_env = true)]
    pub run_dir: Option<PathBuf>,
    /// Wanted name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "WEFT_NODE_NAME", hide_env = true,
          value_parser = value::node_name)]
    pub node_name: Option<String>,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
    /// Serve Prometheus metrics there [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "WEFT_METRICS", hide_env = true,
          value_parser = crate::config::metrics_addr)]
    pub metrics: Option<SocketAddr>,
    /// ESP by: auto, kernel, userspace[-vxlan|-port]
    /// [default: auto]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "PATH",
        env = "WEFT_ENCRYPTION",
        hide_env = true
    )]
    pub encryption: Option<EncryptionPath>,
    /// Age at which their keys are replaced [default: 1h]
    #[arg(long, value_name = "D", env = "WEFT_REKEY", hide_env = true,
          value_parser = crate::duration::parse)]
    pub rekey: Option<Duration>,
}

/// `weft dataplane`.
#[derive(Debug, Args)]
#[command(after_help = "\
It goes on while the agent is away, takes over from one that runs, and ends by itself when there is
nothing left for it to do.")]
pub struct DataplaneArgs {
    /// The agent's run directory [default: /run/weft]
    #[arg(long, value_name = "DIR", env = "WEFT_RUN_DIR", hide_env = true)]
    pub run_dir: Option<PathBuf>,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The log of a process that goes on.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// How to write the log [default: text]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "text|json",
        env = "WEFT_LOG_FORMAT",
        hide_env = true
    )]
    pub log_format: Option<LogFormat>,
    /// info, debug, .. or directives: info,weft_raft=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "WEFT_LOG_LEVEL", hide_env = true,
          value_parser = value::log_level)]
    pub log_level: Option<String>,
}

/// Addresses of a node that enters or starts a cluster.
#[derive(Debug, Args)]
pub struct AddressArgs {
    /// Address that the other hosts dial [default: the only one that qualifies]
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = value::addr_or_iface_port)]
    pub advertise_addr: Option<String>,
    /// Address to listen on [default: 0.0.0.0:2377]
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = value::addr_or_iface_port)]
    pub listen_addr: Option<String>,
    /// Address of the tunnel end [default: as advertised]
    #[arg(long, value_name = "IP|IFACE", value_parser = value::addr_or_iface)]
    pub data_path_addr: Option<String>,
    /// Whether the node's endpoints take part in balancing
    #[arg(
        long,
        value_enum,
        value_name = "active|drain",
        hide_possible_values = true
    )]
    pub availability: Option<Availability>,
}

/// `weft init`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft init
  weft init --advertise-addr eth1 --default-addr-pool 10.64.0.0/12")]
pub struct InitArgs {
    /// Addresses of this node.
    #[command(flatten)]
    pub address: AddressArgs,
    /// UDP port of VXLAN on every host, 1024-49151 [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = value::data_path_port)]
    pub data_path_port: Option<u16>,
    /// Range that subnets are assigned from; may be repeated [default: 10.0.0.0/8]
    #[arg(long, value_name = "CIDR", value_parser = value::pool)]
    pub default_addr_pool: Vec<Ipv4Net>,
    /// Prefix length of assigned subnets, at most 29 [default: 24]
    #[arg(long, value_name = "N", value_parser = value::pool_mask_length)]
    pub default_addr_pool_mask_length: Option<u8>,
    /// Life of node certificates, at least 1h [default: 90d]
    #[arg(long, value_name = "DURATION", value_parser = value::cert_expiry)]
    pub cert_expiry: Option<Duration>,
}

/// `weft join`.
#[derive(Debug, Args)]
#[command(after_help = "\
'weft token worker' and 'weft token manager' on a manager print the command to type here.")]
pub struct JoinArgs {
    /// What admits this host; decides whether it is a worker or a manager
    #[arg(long, value_name = "TOKEN", value_parser = value::token)]
    pub token: String,
    /// Manager to ask, port 2377 unless given; several are tried in turn
    #[arg(required = true, value_name = "HOST[:PORT]", value_parser = value::remote)]
    pub remotes: Vec<String>,
    /// Addresses of this node.
    #[command(flatten)]
    pub address: AddressArgs,
}

/// `weft leave`.
#[derive(Debug, Args)]
pub struct LeaveArgs {
    /// Also if this host is a manager, or no manager can be told
    #[arg(short, long)]
    pub force: bool,
}

/// `weft token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Which role the token grants
    #[arg(value_enum, value_name = "worker|manager", hide_possible_values = true)]
    pub role: Role,
    /// Replace it; the old one admits nobody any more, members stay
    #[arg(long)]
    pub rotate: bool,
    /// Print the token only
    #[arg(short, long)]
    pub quiet: bool,
}

/// `weft node`.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub enum NodeCommand {
    /// List the hosts
    #[command(visible_alias = "list")]
    Ls(ReadArgs),
    /// Show one host as JSON
    Inspect {
        /// ID, beginning of an ID, NAME, or 'self'
        #[arg(value_parser = value::wanted)]
        node: String,
        /// How to print.
        #[command(flatten)]
        read: InspectArgs,
    },
}
