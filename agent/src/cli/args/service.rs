use std::time::Duration;

use clap::{Args, Subcommand};

use super::health::{self, ProbeOrNone};
use super::{HealthTimingArgs, InspectArgs, ReadArgs, value};
use crate::api::types::{Affinity, EndpointMode, Port, PortKey, Probe, Scheduler};

/// `weft service`.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub enum ServiceCommand {
    /// Create a service; prints its ID
    Create(Box<ServiceCreateArgs>),
    /// List the services
    #[command(visible_alias = "list")]
    Ls(ReadArgs),
    /// Show one service as JSON
    Inspect {
        /// NAME, ID or beginning of an ID
        #[arg(value_parser = value::wanted)]
        service: String,
        /// How to print.
        #[command(flatten)]
        read: InspectArgs,
    },
    /// Change a service; prints its name
    Update(Box<ServiceUpdateArgs>),
    /// Remove services; their endpoints go on, in no service
    #[command(visible_alias = "remove")]
    Rm {
        /// NAME, ID or beginning of an ID
        #[arg(required = true, value_name = "SERVICE", value_parser = value::wanted)]
        services: Vec<String>,
    },
}

/// What a `--publish` stands for: a port for each of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish(pub Vec<Port>);

/// What a `--publish-rm` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublish(pub Vec<PortKey>);

/// `weft service create`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft service create web --network front --publish 8080:80
  weft service create dns --network front --publish 53:53/udp --scheduler source-hash
  weft service create api --network front --health http:8080/healthz --publish \\
      published=443,target=8443,ip=192.0.2.1,allow-from=198.51.100.0/24
  weft run --network front --service web -- ./server --port 80

SPEC is [PUBLISHED:]TARGET[/tcp|/udp], ports or ranges (8080-8081:80-81), or
  target=PORT[,published=PORT][,protocol=tcp|udp][,mode=ingress|host][,ip=ADDRESS]
  [,source=preserve|snat|proxy-v2][,allow-from=CIDR]..
Without a published port the cluster chooses one of 30000-32767. Without --health an endpoint is
ready at once; with it, it is asked every 1s, has 1s to answer, and is left out after 3 failures.")]
pub struct ServiceCreateArgs {
    /// 1 to 63 of a-z, 0-9 and -
    #[arg(value_parser = value::service_name)]
    pub name: String,
    /// Network of its endpoints and clients; may be repeated
    #[arg(long, value_name = "NETWORK", required = true, value_parser = value::wanted)]
    pub network: Vec<String>,
    /// Port of the hosts, such as 8080:80; may be repeated
    #[arg(short, long, value_name = "SPEC", value_parser = value::publish)]
    pub publish: Vec<Publish>,
    /// What the name stands for [default: vip]
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "vip|dnsrr",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub endpoint_mode: EndpointMode,
    /// rr, wrr, random, source-hash, maglev or least-conn
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "NAME",
        hide_possible_values = true
    )]
    pub scheduler: Scheduler,
    /// none, or client-ip[=TIMEOUT]: clients stay [default: none]
    #[arg(long, value_name = "AFFINITY", value_parser = value::affinity)]
    pub affinity: Option<Affinity>,
    /// Time for an endpoint that leaves to finish [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = value::drain_timeout)]
    pub drain_timeout: Option<Duration>,
    /// Forget a flow idle for so long [default: as the kernel does]
    #[arg(long, value_name = "DURATION", value_parser = value::idle_timeout)]
    pub idle_timeout: Option<Duration>,
    /// tcp:PORT, http:PORT/PATH or 'exec:COMMAND ARG..'
    #[arg(long, value_name = "PROBE", value_parser = health::probe)]
    pub health: Option<Probe>,
    /// When it is asked.
    #[command(flatten)]
    pub health_timing: HealthTimingArgs,
    /// Annotation; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label: Vec<(String, String)>,
}

/// `weft service update`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  weft service update web --publish-add 8081:80 --publish-rm 8080
  weft service update web --scheduler least-conn --affinity client-ip=10m
  weft service update web --health none")]
pub struct ServiceUpdateArgs {
    /// NAME, ID or beginning of an ID
    #[arg(value_parser = value::wanted)]
    pub service: String,
    /// Port to publish, as for 'weft service create'; may be repeated
    #[arg(long, value_name = "SPEC", value_parser = value::publish)]
    pub publish_add: Vec<Publish>,
    /// Published port, such as 8080 or 53/udp; may be repeated
    #[arg(long, value_name = "PUBLISHED", value_parser = value::unpublish)]
    pub publish_rm: Vec<Unpublish>,
    /// What the name stands for: an address, or all endpoints
    #[arg(
        long,
        value_enum,
        value_name = "vip|dnsrr",
        hide_possible_values = true
    )]
    pub endpoint_mode: Option<EndpointMode>,
    /// rr, wrr, random, source-hash, maglev or least-conn
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = true)]
    pub scheduler: Option<Scheduler>,
    /// none, or client-ip[=TIMEOUT]: clients stay
    #[arg(long, value_name = "AFFINITY", value_parser = value::affinity)]
    pub affinity: Option<Affinity>,
    /// Time for an endpoint that leaves to finish
    #[arg(long, value_name = "DURATION", value_parser = value::drain_timeout)]
    pub drain_timeout: Option<Duration>,
    /// Forget a flow idle for so long; 0s: as the kernel does
    #[arg(long, value_name = "DURATION", value_parser = value::idle_timeout_or_none)]
    pub idle_timeout: Option<Duration>,
    /// none, tcp:PORT, http:PORT/PATH or 'exec:COMMAND ARG..'
    #[arg(long, value_name = "PROBE", value_parser = health::probe_or_none)]
    pub health: Option<ProbeOrNone>,
    /// When it is asked.
    #[command(flatten)]
    pub health_timing: HealthTimingArgs,
    /// Network to be on too; may be repeated
    #[arg(long, value_name = "NETWORK", value_parser = value::wanted)]
    pub network_add: Vec<String>,
    /// Network to leave; may be repeated
    #[arg(long, value_name = "NETWORK", value_parser = value::wanted)]
    pub network_rm: Vec<String>,
    /// Annotation to set; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::label)]
    pub label_add: Vec<(String, String)>,
    /// Annotation to remove; may be repeated
    #[arg(long, value_name = "KEY", value_parser = value::wanted)]
    pub label_rm: Vec<String>,
}
