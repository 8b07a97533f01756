//! What the demo prints: at most 100 columns, colours on a terminal only.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use super::{interrupt::Interrupt, steps::Checked};

/// Columns, with the times at the right.
const WIDTH: usize = 100;
const TICK: &str = "\u{2713}";
const CROSS: &str = "\u{2717}";
const GREEN: &str = "32";
const RED: &str = "31";
const FAINT: &str = "2";

/// The demo's output.
pub(super) struct Page {
    start: Instant,
    colours: bool,
    interrupt: Interrupt,
}

impl Page {
    pub(super) fn new(interrupt: Interrupt) -> Self {
        Self {
            start: Instant::now(),
            colours: std::io::stdout().is_terminal(),
            interrupt,
        }
    }

    pub(super) fn title(&mut self, text: &str) {
        self.line(text);
        self.line("");
    }

    /// Does a step and prints what came of it, or why it failed.
    pub(super) fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Checked<T>) -> Option<T> {
        let start = Instant::now();
        let done = work();
        self.interrupt.wait_if_interrupted();
        let seconds = start.elapsed().as_secs_f64();
        let (mark, colour, text, value) = match done {
            Ok((value, text)) => (TICK, GREEN, text, Some(value)),
            Err(error) => (
                CROSS,
                RED,
                format!("failed\n{}", wrapped(&error.to_string())),
                None,
            ),
        };
        let mut text = text.lines();
        let first = headline(name, text.next().unwrap_or_default(), seconds);
        let mark = self.coloured(colour, mark);
        self.line(&format!("{mark} {first}"));
        for line in text {
            self.note(line);
        }
        value
    }

    /// A command as it would be typed on a host.
    pub(super) fn command(&mut self, host: &str, line: &str) {
        let text = cut(&format!("    {host}# {line}"), WIDTH);
        let text = self.coloured(FAINT, &text);
        self.line(&text);
    }

    /// A line that belongs to the step above.
    pub(super) fn note(&mut self, text: &str) {
        self.line(&cut(&format!("    {text}"), WIDTH));
    }

    pub(super) fn end(&mut self, passed: bool) {
        self.interrupt.wait_if_interrupted();
        let seconds = self.start.elapsed().as_secs_f64();
        let (colour, text) = match passed {
            true => (GREEN, "every check passed"),
            false => (RED, "a check failed"),
        };
        let text = self.coloured(colour, text);
        self.line("");
        self.line(&format!("{text}, in {seconds:.1} s"));
    }

    fn coloured(&self, colour: &str, text: &str) -> String {
        match self.colours {
            true => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }

    fn line(&mut self, text: &str) {
        // A reader that has gone is no reason to leave the lab half done.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}

/// `a, b and c`; the middle of a long list is left out.
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first, .., last] if names.len() > 8 => format!("{first} to {last}"),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The first line of a step, without its mark, which is two columns wide with its space.
fn headline(name: &str, text: &str, seconds: f64) -> String {
    let time = format!("{seconds:.2} s");
    let room = WIDTH - 2 - time.len() - 1;
    let left = cut(&format!("{name:<9}{text}"), room);
    let fill = " ".repeat(room.saturating_sub(left.chars().count()) + 1);
    format!("{left}{fill}{time}")
}

/// The text in lines that fit under a step, broken between words.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_inclusive([' ', '\n']) {
        let long = word.chars().count();
        if width > 0 && width + long > WIDTH - 4 {
            lines.push('\n');
            width = 0;
        }
        lines.push_str(word);
        width = if word.ends_with('\n') {
            0
        } else {
            width + long
        };
    }
    lines
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some(_) => text.chars().take(width - 2).chain("..".chars()).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headline_is_as_wide_as_the_page_and_ends_with_the_time() {
        for text in ["short", &"long ".repeat(40)] {
            let line = headline("network", text, 1.234);
            assert_eq!(line.chars().count() + 2, WIDTH, "{line}");
            assert!(line.ends_with(" 1.23 s"), "{line}");
        }
    }

    #[test]
    fn a_long_reason_is_broken_between_words_and_kept_whole() {
        let text = format!("{}\nend", "reason ".repeat(40));
        let lines = wrapped(&text);
        assert!(
            lines.lines().all(|line| line.chars().count() <= WIDTH - 4),
            "{lines}"
        );
        assert_eq!(lines.split_whitespace().count(), 41);
    }

    #[test]
    fn lists_read_as_a_sentence() {
        let names = |count: usize| (1..=count).map(|n| format!("h{n}")).collect::<Vec<_>>();
        assert_eq!(listed(&names(1)), "h1");
        assert_eq!(listed(&names(3)), "h1, h2 and h3");
        assert_eq!(listed(&names(50)), "h1 to h50");
    }
}
