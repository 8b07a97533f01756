//! Prometheus' text exposition format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeSet;
use std::fmt::Write;

/// What a scraper is told of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest page, bytes: 40,000 backends fit. Samples beyond it are left out, and counted.
pub const MAX_BYTES: usize = 64 << 20;

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What only grows, until it starts again at zero.
    Counter,
    /// What goes up and down.
    Gauge,
}

/// A page that is being written, family after family.
#[derive(Debug)]
pub struct Page {
    text: String,
    limit: usize,
    families: BTreeSet<String>,
    omitted: u64,
}

/// A family of a page, sample after sample.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut Page,
    name: String,
    written: BTreeSet<String>,
}

impl Default for Page {
    fn default() -> Self {
        Self::limited(MAX_BYTES)
    }
}

impl Page {
    fn limited(limit: usize) -> Self {
        Self {
            text: String::new(),
            limit,
            families: BTreeSet::new(),
            omitted: 0,
        }
    }

    /// Begins a family. Names are of `[a-zA-Z_:][a-zA-Z0-9_:]*`; each is begun once.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert!(is_name(name), "{name}");
        let new = self.families.insert(name.to_owned());
        debug_assert!(new, "{name} twice");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.text
            .push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family {
            page: self,
            name: name.to_owned(),
            written: BTreeSet::new(),
        }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: u64) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// The text; with how many samples did not fit.
    pub fn finish(mut self) -> String {
        let omitted = self.omitted;
        // There is always room for this one.
        self.limit = usize::MAX;
        self.single(
            "weft_metrics_omitted_samples",
            Kind::Gauge,
            "Samples that this page had no room for.",
            omitted,
        );
        self.text
    }
}

impl Family<'_> {
    /// A sample. Labels are names of `[a-zA-Z_][a-zA-Z0-9_]*` with any text; one that was written
    /// already is left out, for a page with it would be refused as a whole.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        debug_assert!(labels.iter().all(|(name, _)| is_name(name)), "{labels:?}");
        let labels = labels_text(labels);
        let room = self.page.limit.saturating_sub(self.page.text.len());
        // The longest number has 20 digits.
        if self.name.len() + labels.len() + 22 > room {
            self.page.omitted += 1;
            return;
        }
        if self.written.insert(labels.clone()) {
            let line = format!("{}{labels} {value}\n", self.name);
            self.page.text.push_str(&line);
        }
    }
}

fn labels_text(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let before = if text.is_empty() { '{' } else { ',' };
        // Writing to a string cannot fail.
        let _ = write!(text, "{before}{name}=\"{}\"", escaped(value));
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

fn escaped(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    escaped.replace('\n', "\\n")
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    let first = letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_each_family_with_its_help_and_type_once() {
        let mut page = Page::default();
        let mut family = page.family(
            "weft_packets_total",
            Kind::Counter,
            "Packets, in \\ and\nout.",
        );
        family.sample(&[("direction", "in"), ("service", "web")], 7);
        family.sample(&[("direction", "out"), ("service", "web")], u64::MAX);
        family.sample(&[("direction", "in"), ("service", "web")], 8);
        page.single("weft_term", Kind::Gauge, "Term.", 3);
        assert_eq!(
            page.finish(),
            "# HELP weft_packets_total Packets, in \\\\ and\\nout.\n\
             # TYPE weft_packets_total counter\n\
             weft_packets_total{direction=\"in\",service=\"web\"} 7\n\
             weft_packets_total{direction=\"out\",service=\"web\"} 18446744073709551615\n\
             # HELP weft_term Term.\n\
             # TYPE weft_term gauge\n\
             weft_term 3\n\
             # HELP weft_metrics_omitted_samples Samples that this page had no room for.\n\
             # TYPE weft_metrics_omitted_samples gauge\n\
             weft_metrics_omitted_samples 0\n"
        );
    }

    #[test]
    fn labels_may_have_any_text() {
        let mut page = Page::default();
        let mut family = page.family("weft_x", Kind::Gauge, "X.");
        family.sample(&[("name", "a\"b\\c\nd,e}")], 1);
        let text = page.finish();
        assert!(
            text.contains("weft_x{name=\"a\\\"b\\\\c\\nd,e}\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_counted() {
        let mut page = Page::limited(200);
        let mut family = page.family("weft_x", Kind::Gauge, "X.");
        for number in 0..100 {
            family.sample(&[("number", &number.to_string())], number);
        }
        let text = page.finish();
        let written = text
            .lines()
            .filter(|line| line.starts_with("weft_x{"))
            .count();
        assert!((1..20).contains(&written), "{text}");
        let omitted = format!("weft_metrics_omitted_samples {}\n", 100 - written);
        assert!(text.ends_with(&omitted), "{text}");
    }
}
