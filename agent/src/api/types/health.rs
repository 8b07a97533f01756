use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_raft::model;

/// How a service's endpoints are asked whether they can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Milliseconds between two probes; 1000 without it.
    #[serde(default = "default_interval")]
    pub interval_ms: u32,
    /// Milliseconds until a probe without an answer has failed; 1000 without it.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u32,
    /// Failures in a row after which an endpoint takes no new flows; 3 without it.
    #[serde(default = "default_retries")]
    pub retries: u16,
}

/// What is asked of an endpoint, from inside its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// A TCP connection is accepted.
    Tcp {
        /// Port.
        port: u16,
    },
    /// `GET` is answered with a status of 200 to 399.
    Http {
        /// Port.
        port: u16,
        /// Begins with `/`.
        path: String,
    },
    /// A command ends with exit status 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// Changes a health check. What is not given stays, or is the default where there was no check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthUpdate {
    /// Without it there must be a check already.
    pub probe: Option<Probe>,
    /// See [`HealthCheck::interval_ms`].
    pub interval_ms: Option<u32>,
    /// See [`HealthCheck::timeout_ms`].
    pub timeout_ms: Option<u32>,
    /// See [`HealthCheck::retries`].
    pub retries: Option<u16>,
}

impl HealthUpdate {
    /// The check that `current` becomes; `None` if neither names a probe.
    pub fn applied_to(self, current: Option<HealthCheck>) -> Option<HealthCheck> {
        let probe = self
            .probe
            .or_else(|| current.as_ref().map(|check| check.probe.clone()))?;
        let kept = current.as_ref();
        Some(HealthCheck {
            probe,
            interval_ms: self
                .interval_ms
                .or(kept.map(|check| check.interval_ms))
                .unwrap_or_else(default_interval),
            timeout_ms: self
                .timeout_ms
                .or(kept.map(|check| check.timeout_ms))
                .unwrap_or_else(default_timeout),
            retries: self
                .retries
                .or(kept.map(|check| check.retries))
                .unwrap_or_else(default_retries),
        })
    }
}

fn default_interval() -> u32 {
    1000
}

fn default_timeout() -> u32 {
    1000
}

fn default_retries() -> u16 {
    3
}

impl From<&model::HealthCheck> for HealthCheck {
    fn from(check: &model::HealthCheck) -> Self {
        Self {
            probe: check.probe.clone().into(),
            interval_ms: check.interval_ms,
            timeout_ms: check.timeout_ms,
            retries: check.retries,
        }
    }
}

impl From<HealthCheck> for model::HealthCheck {
    fn from(check: HealthCheck) -> Self {
        Self {
            probe: check.probe.into(),
            interval_ms: check.interval_ms,
            timeout_ms: check.timeout_ms,
            retries: check.retries,
        }
    }
}

impl From<model::Probe> for Probe {
    fn from(probe: model::Probe) -> Self {
        match probe {
            model::Probe::Tcp { port } => Self::Tcp { port },
            model::Probe::Http { port, path } => Self::Http { port, path },
            model::Probe::Exec { command } => Self::Exec { command },
        }
    }
}

impl From<Probe> for model::Probe {
    fn from(probe: Probe) -> Self {
        match probe {
            Probe::Tcp { port } => Self::Tcp { port },
            Probe::Http { port, path } => Self::Http { port, path },
            Probe::Exec { command } => Self::Exec { command },
        }
    }
}
