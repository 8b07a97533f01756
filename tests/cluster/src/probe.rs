//! What a test does inside a host: the binary under its other name.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use weft_agent::lab::ServeSpec;

/// Entry point.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<()> {
    match args {
        ["capture", interface, port] => crate::capture::main(interface, port.parse()?),
        ["wiretap", interface, patterns @ ..] => crate::wiretap::main(interface, patterns),
        ["send-frames", interface] => crate::forge::main(interface),
        ["hear", port] => crate::forge::hear(port.parse()?),
        ["say", to, port, text] => crate::forge::say(to, port.parse()?, text),
        // As ping(8) is called, by its name.
        ["-c", count, address] => crate::ping::main(count.parse()?, address.parse()?),
        ["flip", path, offset] => crate::harm::flip(path, offset.parse()?),
        ["dead-socket", path] => crate::harm::dead_socket(path),
        ["foreign-server", path, greeting] => crate::harm::foreign_server(path, greeting),
        ["tell-signals", ready] => crate::signals::main(ready),
        ["junk", target] => crate::junk::main(target),
        ["rogue", target, identity, shape] => crate::rogue::main(target, identity, shape),
        ["tcp-serve", address] => crate::traffic::serve(address, 1),
        ["tcp-serve", address, streams] => crate::traffic::serve(address, streams.parse()?),
        ["tcp-send", address, seconds] => crate::traffic::send(address, seconds.parse()?, 1),
        ["tcp-send", address, seconds, streams] => {
            crate::traffic::send(address, seconds.parse()?, streams.parse()?)
        }
        ["answer", address] => crate::rate::serve(address),
        ["ask-briefly", address, seconds, at_a_time] => {
            crate::rate::ask(address, seconds.parse()?, at_a_time.parse()?)
        }
        ["echo-when-told", to] => crate::echo::when_told(to),
        ["round-trips", to, count] => crate::echo::round_trips(to, count.parse()?),
        ["serve", name, port] => {
            let (name, port) = ((*name).to_owned(), port.parse()?);
            weft_agent::lab::serve(&ServeSpec { name, port }).map(drop)
        }
        ["serve-proxied", name, port] => crate::backend::serve_proxied(name, port.parse()?),
        ["destination", to, port] => crate::backend::destination(to, port.parse()?),
        ["bulk", to, port, length] => crate::backend::bulk(to, port.parse()?, length.parse()?),
        ["flood", to, port] => crate::backend::flood(to, port.parse()?),
        ["ask", protocol, to, port, times] => {
            crate::backend::ask(protocol, to, port.parse()?, times.parse()?)
        }
        ["ask-until-told", to, port, interval_us] => {
            crate::backend::ask_until_told(to, port.parse()?, interval_us.parse()?)
        }
        ["ask-from", to, port, times, first, addresses, first_port] => {
            let to = SocketAddr::new(to.parse()?, port.parse()?);
            let (times, addresses) = (times.parse()?, addresses.parse()?);
            let (first, first_port) = (first.parse()?, first_port.parse()?);
            crate::backend::ask_from(to, times, first, addresses, first_port)
        }
        ["load", protocol, to, port, per_second, from] => {
            let to = SocketAddr::new(to.parse()?, port.parse()?);
            crate::backend::load(protocol, to, per_second.parse()?, from.parse()?)
        }
        ["hold", to, port] => crate::backend::hold(to, port.parse()?),
        ["hold-many", to, port, count] => {
            crate::backend::hold_many(to, port.parse()?, count.parse()?)
        }
        ["hold-udp", to, port] => crate::backend::hold_udp(to, port.parse()?),
        ["flows", port] => crate::flows::list(port.parse()?),
        ["flows-idle", port, seconds] => crate::flows::idle(port.parse()?, seconds.parse()?),
        ["watch-neighbours"] => crate::neighbours::main(),
        ["ghost", dir, address, manager, token, network, count] => {
            crate::ghost::main(dir, address, manager, token, [network, count])
        }
        _ => bail!("unknown: {args:?}"),
    }
}
