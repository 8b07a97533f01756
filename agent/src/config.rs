//! What the agent is configured with, and where that comes from: command-line flag, then
//! environment, then the file, then the default.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::duration;

/// Read when no other file is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/weft/weft.toml";
/// Default of [`Config::data_dir`].
pub const DEFAULT_DATA_DIR: &str = "/var/lib/weft";
/// Default of [`Config::run_dir`].
pub const DEFAULT_RUN_DIR: &str = "/run/weft";
/// Name of the local API's socket in the run directory.
pub const SOCKET_NAME: &str = "weft.sock";
/// A look at everything costs some milliseconds for each network: next to nothing at this pace.
const DEFAULT_RESYNC: Duration = Duration::from_secs(10);
/// More often the agent would do nothing else.
const MIN_RESYNC: Duration = Duration::from_millis(100);
/// A key is accepted for some seconds after it was given up: more often, too many would be.
const MIN_REKEY: Duration = Duration::from_secs(1);
/// Forward secrecy is no older than that.
const MAX_REKEY: Duration = Duration::from_hours(24);
/// A configuration is some lines; more is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything that may be configured. Nothing else is read from the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Identity, keys and the replicated store; survives reboots.
    pub data_dir: PathBuf,
    /// Sandboxes, the socket and what belongs to this boot.
    pub run_dir: PathBuf,
    /// Unix socket of the local API.
    pub socket: PathBuf,
    /// Wanted node name; the host's name without it.
    pub node_name: Option<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// A level for weft, such as `info`, or `tracing` filter directives, such as
    /// `info,weft_raft=debug`, for everything.
    pub log_level: String,
    /// How long the kernel is trusted to be as it was left before it is looked at again.
    pub resync: Duration,
    /// Where the metrics page is served; nowhere without it.
    pub metrics: Option<SocketAddr>,
    /// Control-plane times.
    pub timing: Timing,
    /// Encrypted networks.
    pub encryption: Encryption,
}

/// How this node carries encrypted networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// Which data path carries them.
    pub path: EncryptionPath,
    /// Age at which a key is replaced.
    pub rekey: Duration,
}

/// Which data path carries encrypted networks. On the wire there is no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EncryptionPath {
    /// The kernel's, where it has ESP, else that in user space.
    #[default]
    Auto,
    /// The kernel's (XFRM), or none.
    Kernel,
    /// That of the data-plane process, in the form that the kernel has what it takes for.
    Userspace,
    /// The same, by the kernel's VXLAN devices (Linux 6.17 and later).
    UserspaceVxlan,
    /// The same, with VXLAN made in user space.
    UserspacePort,
}

/// Control-plane times, the same on every node of a cluster. The defaults suit a LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of the leader.
    pub heartbeat: Duration,
    /// Shortest silence of the leader after which another manager stands for election.
    pub election_min: Duration,
    /// Longest such silence.
    pub election_max: Duration,
    /// Silence of a node after which it is marked down.
    pub detection: Duration,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What the command line and the environment say; `None` leaves it to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The file to read instead of [`DEFAULT_FILE`]; it must exist.
    pub file: Option<PathBuf>,
    /// See [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// See [`Config::run_dir`].
    pub run_dir: Option<PathBuf>,
    /// See [`Config::socket`].
    pub socket: Option<PathBuf>,
    /// See [`Config::node_name`].
    pub node_name: Option<String>,
    /// See [`Config::log_format`].
    pub log_format: Option<LogFormat>,
    /// See [`Config::log_level`].
    pub log_level: Option<String>,
    /// See [`Config::metrics`].
    pub metrics: Option<SocketAddr>,
    /// See [`Encryption::path`].
    pub encryption: Option<EncryptionPath>,
    /// See [`Encryption::rekey`].
    pub rekey: Option<Duration>,
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too large to be one.
    #[error("{} is no configuration file: more than 1 MiB", file.display())]
    TooLarge {
        /// Which.
        file: PathBuf,
    },
    /// The file is not what it should be.
    #[error("{}{place}: {reason}", file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// `:LINE`, if known.
        place: String,
        /// Why, in one line.
        reason: String,
    },
    /// The values do not go together.
    #[error("{0}")]
    Invalid(String),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            detection: Duration::from_secs(1),
        }
    }
}

impl Default for Encryption {
    fn default() -> Self {
        Self {
            path: EncryptionPath::Auto,
            rekey: Duration::from_hours(1),
        }
    }
}

impl Config {
    /// Reads the file, if there is one, and lets `overrides` have the last word.
    pub fn load(overrides: Overrides) -> Result<Self, ConfigError> {
        let file = File::read(overrides.file.as_deref())?;
        let config = Self::combine(overrides, file)?;
        config.check()?;
        Ok(config)
    }

    /// Where the sandboxes' namespaces are.
    pub fn netns_dir(&self) -> PathBuf {
        self.run_dir.join("netns")
    }

    fn combine(overrides: Overrides, file: File) -> Result<Self, ConfigError> {
        let run_dir = overrides
            .run_dir
            .or(file.run_dir)
            .unwrap_or_else(|| PathBuf::from(DEFAULT_RUN_DIR));
        Ok(Self {
            data_dir: overrides
                .data_dir
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
            socket: overrides
                .socket
                .or(file.socket)
                .unwrap_or_else(|| run_dir.join(SOCKET_NAME)),
            run_dir,
            node_name: overrides.node_name.or(file.node_name),
            log_format: overrides.log_format.or(file.log_format).unwrap_or_default(),
            log_level: overrides
                .log_level
                .or(file.log_level)
                .unwrap_or_else(|| "info".to_owned()),
            resync: file.resync.map_or(DEFAULT_RESYNC, |d| d.0),
            metrics: overrides.metrics.or(file.metrics.map(|place| place.0)),
            timing: file.timing.unwrap_or_default().into_timing(),
            encryption: file
                .encryption
                .unwrap_or_default()
                .into_encryption(overrides.encryption, overrides.rekey),
        })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |reason: String| Err(ConfigError::Invalid(reason));
        for (key, path) in [
            ("data-dir", &self.data_dir),
            ("run-dir", &self.run_dir),
            ("socket", &self.socket),
        ] {
            if !path.is_absolute() {
                return invalid(format!("{key} `{}` is not absolute", path.display()));
            }
        }
        if self.data_dir == self.run_dir {
            return invalid(format!(
                "data-dir and run-dir are both {}; one outlives a reboot, the other must not",
                self.data_dir.display()
            ));
        }
        if let Some(name) = &self.node_name {
            crate::name::check_node(name).map_err(ConfigError::Invalid)?;
        }
        if self.resync < MIN_RESYNC {
            return invalid(format!(
                "resync is too short; {}ms at least",
                MIN_RESYNC.as_millis()
            ));
        }
        self.encryption.check().map_err(ConfigError::Invalid)?;
        self.timing.check().map_err(ConfigError::Invalid)
    }
}

impl Encryption {
    fn check(&self) -> Result<(), String> {
        match (MIN_REKEY..=MAX_REKEY).contains(&self.rekey) {
            true => Ok(()),
            false => Err(format!(
                "rekey `{}` is no age at which keys can be replaced; it must be between {}s and {}h",
                duration::text(self.rekey),
                MIN_REKEY.as_secs(),
                MAX_REKEY.as_secs() / 3600
            )),
        }
    }
}

impl Timing {
    fn check(&self) -> Result<(), String> {
        let millis = |duration: Duration| duration.as_millis();
        if self.heartbeat < Duration::from_millis(5) {
            return Err("timing.heartbeat is too short; 5ms at least".to_owned());
        }
        if self.election_min < self.heartbeat * 2 {
            return Err(format!(
                "timing.election-min must be twice timing.heartbeat ({}ms) at least",
                millis(self.heartbeat)
            ));
        }
        if self.election_max <= self.election_min {
            return Err(format!(
                "timing.election-max must be longer than timing.election-min ({}ms)",
                millis(self.election_min)
            ));
        }
        if self.detection < self.election_max {
            return Err(format!(
                "timing.detection must not be shorter than timing.election-max ({}ms)",
                millis(self.election_max)
            ));
        }
        Ok(())
    }
}

/// The socket that the command line asks, by the same precedence. A default file that cannot be
/// read (an ordinary user need not be able to) counts as absent.
pub fn client_socket(socket: Option<PathBuf>, run_dir: Option<PathBuf>) -> PathBuf {
    if let Some(socket) = socket {
        return socket;
    }
    let file = File::read(None).unwrap_or_default();
    if let (None, Some(socket)) = (&run_dir, file.socket) {
        return socket;
    }
    run_dir
        .or(file.run_dir)
        .unwrap_or_else(|| PathBuf::from(DEFAULT_RUN_DIR))
        .join(SOCKET_NAME)
}

/// The file as it is written. Keys are those of the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    node_name: Option<String>,
    log_format: Option<LogFormat>,
    log_level: Option<String>,
    resync: Option<Span>,
    metrics: Option<Place>,
    timing: Option<FileTiming>,
    encryption: Option<FileEncryption>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileEncryption {
    path: Option<EncryptionPath>,
    rekey: Option<Span>,
}

impl FileEncryption {
    fn into_encryption(self, path: Option<EncryptionPath>, rekey: Option<Duration>) -> Encryption {
        let default = Encryption::default();
        let of_file = self.rekey.map(|span| span.0);
        Encryption {
            path: path.or(self.path).unwrap_or(default.path),
            rekey: rekey.or(of_file).unwrap_or(default.rekey),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileTiming {
    heartbeat: Option<Span>,
    election_min: Option<Span>,
    election_max: Option<Span>,
    detection: Option<Span>,
}

/// A duration such as `500ms`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        duration::parse(&text).map(Self)
    }
}

/// An address with a port.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Place(SocketAddr);

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        metrics_addr(&text).map(Self)
    }
}

/// Where metrics are to be served, as it is typed.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    let addr = text
        .parse::<SocketAddr>()
        .ok()
        .filter(|addr| addr.port() > 0);
    addr.ok_or_else(|| {
        format!(
            "`{}` is no ADDR:PORT, such as 127.0.0.1:9100 or [::1]:9100",
            text.escape_debug()
        )
    })
}

impl FileTiming {
    fn into_timing(self) -> Timing {
        let default = Timing::default();
        let or = |span: Option<Span>, default| span.map_or(default, |span| span.0);
        Timing {
            heartbeat: or(self.heartbeat, default.heartbeat),
            election_min: or(self.election_min, default.election_min),
            election_max: or(self.election_max, default.election_max),
            detection: or(self.detection, default.detection),
        }
    }
}

impl File {
    fn read(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let failed = |source| ConfigError::Read {
            file: path.to_owned(),
            source,
        };
        match std::fs::metadata(path) {
            Ok(data) if data.len() > MAX_FILE_BYTES => Err(ConfigError::TooLarge {
                file: path.to_owned(),
            }),
            Ok(_) => Self::parse(path, &std::fs::read_to_string(path).map_err(failed)?),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text.get(..span.start).unwrap_or(text).matches('\n').count() + 1);
            ConfigError::Malformed {
                file: path.to_owned(),
                place: line.map_or_else(String::new, |line| format!(":{line}")),
                reason: error.message().replace('\n', " "),
            }
        })
    }
}

#[cfg(test)]
mod tests;
