//! Where the agent's log goes: standard error, as text or JSON lines.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Config, LogFormat};

/// Sets up logging for the process. Once only.
pub fn init(config: &Config) -> Result<(), anyhow::Error> {
    let filter: EnvFilter = directives(&config.log_level)
        .parse()
        .with_context(|| format!("log-level `{}` is not understood", config.log_level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(config.log_format == LogFormat::Text && io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("logging is set up already: {error}"))
}

/// A bare level is meant for weft; the libraries below it speak up only when something is wrong.
fn directives(log_level: &str) -> String {
    match log_level.parse::<LevelFilter>() {
        Ok(level) if level > LevelFilter::WARN => format!("warn,weft={level}"),
        _ => log_level.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_for_weft_and_directives_are_taken_as_they_are() {
        for (level, filter) in [
            ("info", "warn,weft=info"),
            ("trace", "warn,weft=trace"),
            ("warn", "warn"),
            ("error", "error"),
            ("off", "off"),
            ("info,quinn=debug", "info,quinn=debug"),
        ] {
            assert_eq!(directives(level), filter);
            assert!(directives(level).parse::<EnvFilter>().is_ok());
        }
    }
}
