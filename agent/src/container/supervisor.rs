use std::io;
use std::pin::Pin;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use tokio::time::{Sleep, sleep};

use super::children::{self, Command};
use super::endpoints::Endpoints;
use super::output::Output;
use super::signals::{Arrival, SignalStream};
use super::supervision::{Effect, Event, Supervision};

/// Performs what [`Supervision`] decides.
#[derive(Debug)]
pub(super) struct Supervisor {
    starter: Option<Pid>,
    command: Command,
    output: Option<Output>,
    supervision: Supervision,
    grace: Option<Pin<Box<Sleep>>>,
}

impl Supervisor {
    pub(super) fn new(starter: Option<Pid>, command: Command, output: Option<Output>) -> Self {
        Self {
            starter,
            command,
            output,
            supervision: Supervision::new(starter.is_some()),
            grace: None,
        }
    }

    /// Until the command has ended, and with it whatever it left running; answers with the exit
    /// status.
    pub(super) async fn run(mut self, signals: &SignalStream, endpoints: &Endpoints) -> u8 {
        let status = {
            let mut detached = Box::pin(endpoints.until_detached());
            let mut watching = true;
            loop {
                let events = tokio::select! {
                    arrival = signals.next() => self.interpret(arrival),
                    () = &mut detached, if watching => {
                        watching = false;
                        vec![Event::EndpointsGone]
                    }
                    () = grace(&mut self.grace) => {
                        self.grace = None;
                        vec![Event::GraceOver]
                    }
                    () = pump(&mut self.output) => Vec::new(),
                };
                if let Some(status) = self.handle(events) {
                    break status;
                }
            }
        };
        children::end_all().await;
        if let Some(output) = self.output {
            output.end(&format!("the command ended with exit status {status}"));
        }
        status
    }

    fn handle(&mut self, events: Vec<Event>) -> Option<u8> {
        for event in events {
            for effect in self.supervision.handle(event) {
                match effect {
                    Effect::Signal(signal) => self.command.signal(signal),
                    Effect::StartGrace(time) => self.grace = Some(Box::pin(sleep(time))),
                    Effect::StopStarter => self.signal_starter(Signal::SIGSTOP),
                    Effect::ContinueStarter => self.signal_starter(Signal::SIGCONT),
                    Effect::End(status) => return Some(status),
                }
            }
        }
        None
    }

    fn interpret(&mut self, arrival: io::Result<Arrival>) -> Vec<Event> {
        let Ok(arrival) = arrival else {
            // Without signals nothing can be supervised.
            return vec![Event::StarterGone];
        };
        if arrival.signal == Signal::SIGCHLD {
            return self.command.changes();
        }
        match self.starter {
            Some(starter) if getppid() != starter => vec![Event::StarterGone],
            // The terminal told the command itself; what others send is for `weft run`.
            Some(starter) if arrival.by_kernel || arrival.sender != starter => Vec::new(),
            _ => vec![Event::Signal(arrival.signal)],
        }
    }

    fn signal_starter(&self, signal: Signal) {
        if let Some(starter) = self.starter.filter(|starter| getppid() == *starter) {
            let _ = kill(starter, signal);
        }
    }
}

async fn grace(grace: &mut Option<Pin<Box<Sleep>>>) {
    match grace {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

async fn pump(output: &mut Option<Output>) {
    match output {
        Some(output) => output.pump().await,
        None => std::future::pending().await,
    }
}
