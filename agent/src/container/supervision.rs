use std::time::Duration;

use nix::sys::signal::Signal;

/// How long a command may take to end after `SIGTERM` before it gets `SIGKILL`; what Docker's users
/// know from `docker stop`.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// What a supervisor of one command does about what happens to it.
///
/// ```text
///             Signal: passed on
///            +--+
///            v  |   EndpointsGone, StarterGone: TERM, grace       GraceOver: KILL
///   Running -+--+-------------------------------------> Stopping ---------------> Stopping
///      |                                                   |
///      +----------------------- Exited: End ---------------+----> Ended (nothing happens any more)
/// ```
#[derive(Debug)]
pub(super) struct Supervision {
    attended: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    Ended,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The command ended by itself.
    Exited(i32),
    /// A signal, given by its number, ended the command; it may be a real-time one.
    Killed(i32),
    /// A signal stopped the command, as Ctrl-Z does.
    Stopped,
    /// The command goes on after it was stopped.
    Continued,
    /// A signal that the supervisor got and the command did not.
    Signal(Signal),
    /// `weft run` is gone, so nobody attends to the command any more.
    StarterGone,
    /// The last endpoint of the container was detached.
    EndpointsGone,
    /// [`STOP_GRACE`] is over.
    GraceOver,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send the command a signal.
    Signal(Signal),
    /// Say [`Event::GraceOver`] after this time.
    StartGrace(Duration),
    /// Stop `weft run`, so that the shell sees its job stopped.
    StopStarter,
    /// Let `weft run` go on.
    ContinueStarter,
    /// Clean up and exit with this status.
    End(u8),
}

impl Supervision {
    /// Of a command that was just started; `attended` by a `weft run` that waits for it.
    pub(super) fn new(attended: bool) -> Self {
        Self {
            attended,
            phase: Phase::Running,
        }
    }

    /// Takes in what happened; answers with what to do, in order.
    pub(super) fn handle(&mut self, event: Event) -> Vec<Effect> {
        if self.phase == Phase::Ended {
            return Vec::new();
        }
        match event {
            Event::Exited(status) => self.end(status as u8),
            Event::Killed(number) => self.end(signal_status(number)),
            Event::Stopped if self.attended => vec![Effect::StopStarter],
            Event::Continued if self.attended => vec![Effect::ContinueStarter],
            Event::Stopped | Event::Continued => Vec::new(),
            Event::Signal(signal) => vec![Effect::Signal(signal)],
            Event::StarterGone => {
                self.attended = false;
                self.stop()
            }
            Event::EndpointsGone => self.stop(),
            Event::GraceOver => vec![Effect::Signal(Signal::SIGKILL)],
        }
    }

    fn end(&mut self, status: u8) -> Vec<Effect> {
        self.phase = Phase::Ended;
        vec![Effect::End(status)]
    }

    fn stop(&mut self) -> Vec<Effect> {
        if self.phase == Phase::Stopping {
            return Vec::new();
        }
        self.phase = Phase::Stopping;
        // A command that is stopped would not see the first signal without the second.
        vec![
            Effect::Signal(Signal::SIGTERM),
            Effect::Signal(Signal::SIGCONT),
            Effect::StartGrace(STOP_GRACE),
        ]
    }
}

/// The exit status that stands for a signal, as a shell's does.
pub(super) fn signal_status(number: i32) -> u8 {
    u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop_effects() -> Vec<Effect> {
        vec![
            Effect::Signal(Signal::SIGTERM),
            Effect::Signal(Signal::SIGCONT),
            Effect::StartGrace(STOP_GRACE),
        ]
    }

    #[test]
    fn the_exit_status_is_passed_through() {
        for status in [0, 1, 42, 255] {
            let effects = Supervision::new(true).handle(Event::Exited(status));
            assert_eq!(effects, [Effect::End(status as u8)]);
        }
    }

    #[test]
    fn an_end_by_signal_becomes_128_and_its_number() {
        let effects = Supervision::new(false).handle(Event::Killed(9));
        assert_eq!(effects, [Effect::End(137)]);
    }

    #[test]
    fn signals_are_passed_on_as_they_are() {
        let mut supervision = Supervision::new(true);
        for signal in [Signal::SIGINT, Signal::SIGWINCH, Signal::SIGTSTP] {
            let effects = supervision.handle(Event::Signal(signal));
            assert_eq!(effects, [Effect::Signal(signal)]);
        }
    }

    #[test]
    fn the_shell_sees_a_stopped_command_only_while_somebody_attends() {
        let mut attended = Supervision::new(true);
        assert_eq!(attended.handle(Event::Stopped), [Effect::StopStarter]);
        assert_eq!(attended.handle(Event::Continued), [Effect::ContinueStarter]);
        attended.handle(Event::StarterGone);
        assert_eq!(attended.handle(Event::Stopped), []);
        assert_eq!(Supervision::new(false).handle(Event::Stopped), []);
    }

    #[test]
    fn a_command_without_endpoints_or_starter_is_asked_to_end_once_and_then_made_to() {
        for event in [Event::EndpointsGone, Event::StarterGone] {
            let mut supervision = Supervision::new(true);
            assert_eq!(supervision.handle(event), stop_effects());
            assert_eq!(supervision.handle(Event::EndpointsGone), []);
            let effects = supervision.handle(Event::GraceOver);
            assert_eq!(effects, [Effect::Signal(Signal::SIGKILL)]);
            let effects = supervision.handle(Event::Killed(9));
            assert_eq!(effects, [Effect::End(137)]);
        }
    }

    #[test]
    fn nothing_happens_after_the_end() {
        let mut supervision = Supervision::new(true);
        supervision.handle(Event::Exited(0));
        for event in [
            Event::Signal(Signal::SIGTERM),
            Event::GraceOver,
            Event::EndpointsGone,
        ] {
            assert_eq!(supervision.handle(event), []);
        }
    }
}
