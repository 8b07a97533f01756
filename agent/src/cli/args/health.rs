//! `--health` and what belongs to it.

use std::time::Duration;

use clap::Args;
use weft_raft::state::limits;

use super::value;
use crate::api::types::Probe;

/// When an endpoint is asked, and how often in vain.
#[derive(Clone, Copy, Debug, Args)]
pub struct HealthTimingArgs {
    /// Time between two probes
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub health_interval: Option<Duration>,
    /// Time for a probe to succeed
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub health_timeout: Option<Duration>,
    /// Failures in a row until it is left out
    #[arg(long, value_name = "N", value_parser = retries)]
    pub health_retries: Option<u16>,
}

/// What `--health` may say of a service that has a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOrNone {
    /// No check any more.
    None,
    /// This one.
    Probe(Probe),
}

pub(super) fn probe_or_none(text: &str) -> Result<ProbeOrNone, String> {
    match text {
        "none" => Ok(ProbeOrNone::None),
        _ => probe(text).map(ProbeOrNone::Probe),
    }
}

pub(super) fn probe(text: &str) -> Result<Probe, String> {
    match text.split_once(':') {
        Some(("tcp", port)) => Ok(Probe::Tcp {
            port: value::port(port)?,
        }),
        Some(("http", rest)) => {
            let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            Ok(Probe::Http {
                port: value::port(port)?,
                path: if path.is_empty() { "/" } else { path }.to_owned(),
            })
        }
        Some(("exec", line)) => match words(line)? {
            command if command.is_empty() => {
                Err("there is no command; write 'exec:COMMAND ARG..'".to_owned())
            }
            command => Ok(Probe::Exec { command }),
        },
        _ => Err("not a probe; write tcp:PORT, http:PORT/PATH or 'exec:COMMAND ARG..'".to_owned()),
    }
}

/// Splits a line at spaces outside of quotes, which are taken away. Nothing else of a shell is done.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(format!("the quote {open} is not closed; close it")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    value::millis(text, &limits::HEALTH_INTERVALS_MS)
}

fn timeout(text: &str) -> Result<Duration, String> {
    value::millis(text, &limits::HEALTH_TIMEOUTS_MS)
}

fn retries(text: &str) -> Result<u16, String> {
    let range = limits::HEALTH_RETRIES;
    value::number(text, *range.start(), *range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_read() {
        let command = |words: &[&str]| Probe::Exec {
            command: words.iter().map(ToString::to_string).collect(),
        };
        let http = |port, path: &str| Probe::Http {
            port,
            path: path.to_owned(),
        };
        for (text, probe) in [
            ("tcp:80", Probe::Tcp { port: 80 }),
            ("http:8080/healthz", http(8080, "/healthz")),
            ("http:8080/a:b?c=d", http(8080, "/a:b?c=d")),
            ("http:8080", http(8080, "/")),
            ("exec:true", command(&["true"])),
            ("exec: a  b ", command(&["a", "b"])),
            (
                "exec:sh -c 'echo \"a b\" c' \"d'e\" f''g ''",
                command(&["sh", "-c", "echo \"a b\" c", "d'e", "fg", ""]),
            ),
        ] {
            assert_eq!(super::probe(text), Ok(probe.clone()), "{text}");
            assert_eq!(probe_or_none(text), Ok(ProbeOrNone::Probe(probe)), "{text}");
        }
        assert_eq!(probe_or_none("none"), Ok(ProbeOrNone::None));
    }

    #[test]
    fn anything_else_is_refused_with_the_forms() {
        for (text, said) in [
            ("", "write tcp:PORT, http:PORT/PATH or"),
            ("none", "write tcp:PORT"),
            ("80", "write tcp:PORT"),
            ("udp:80", "write tcp:PORT"),
            ("tcp:", "not a number from 1 to 65535"),
            ("tcp:0", "not a number from 1 to 65535"),
            ("http:/healthz", "not a number from 1 to 65535"),
            ("http:x/healthz", "not a number from 1 to 65535"),
            ("exec:", "there is no command"),
            ("exec:  ", "there is no command"),
            ("exec:sh -c 'x", "the quote ' is not closed"),
        ] {
            let error = probe(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
