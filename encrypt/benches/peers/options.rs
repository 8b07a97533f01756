use std::str::FromStr;
use std::time::Duration;

use crate::world::Wire;

pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) flows: Vec<usize>,
    pub(crate) mtus: Vec<u32>,
    pub(crate) wires: Vec<Wire>,
    only: Vec<String>,
}

impl Options {
    /// From the command line, to which Cargo adds `--bench`.
    pub(crate) fn from_arguments() -> Self {
        let mut options = Self {
            rounds: 5,
            length: Duration::from_secs(2),
            flows: vec![1, 4],
            mtus: vec![1500, 9000],
            wires: vec![Wire::Super, Wire::Packets],
            only: Vec::new(),
        };
        for argument in std::env::args().skip(1).filter(|a| !a.starts_with("--")) {
            let (name, value) = argument.split_once('=').expect("NAME=VALUE");
            match name {
                "rounds" => options.rounds = value.parse().expect("a number"),
                "seconds" => options.length = Duration::from_secs(value.parse().expect("a number")),
                "flows" => options.flows = list(value),
                "mtu" => options.mtus = list(value),
                "wire" => options.wires = list(value),
                "only" => options.only = list(value),
                _ => panic!("{name}: rounds, seconds, flows, mtu, wire and only are known"),
            }
        }
        options
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn list<T: FromStr>(text: &str) -> Vec<T> {
    let parse = |word: &str| {
        word.parse()
            .ok()
            .unwrap_or_else(|| panic!("{word}: not known"))
    };
    text.split(',').map(parse).collect()
}
