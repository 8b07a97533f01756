use std::fmt;
use std::time::Duration;

/// Rows of a Markdown table.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    /// Adds a figure; `spread` says what its surroundings are.
    pub(crate) fn add(&mut self, name: &str, figure: String, unit: &str, spread: String) {
        eprintln!("  {name}: {figure} {unit} ({spread})");
        self.rows
            .push([name.to_owned(), figure, unit.to_owned(), spread]);
    }

    /// Adds the median and the 99th percentile of times.
    pub(crate) fn times(&mut self, name: &str, times: &[Duration]) {
        let (unit, scale) = ("ms", 1e3);
        let mut values: Vec<f64> = times
            .iter()
            .map(|time| time.as_secs_f64() * scale)
            .collect();
        values.sort_by(f64::total_cmp);
        let at = |share| percentile(&values, share);
        let figure = format!("{:.2} / {:.2}", at(50), at(99));
        let spread = format!("{:.2} to {:.2}, n = {}", at(0), at(100), values.len());
        self.add(&format!("{name}, p50 / p99"), figure, unit, spread);
    }

    /// Adds the median of repeated measurements.
    pub(crate) fn median(&mut self, name: &str, unit: &str, digits: usize, values: &[f64]) {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let at = |share| percentile(&values, share);
        let figure = format!("{:.digits$}", at(50));
        let spread = format!(
            "{:.digits$} to {:.digits$}, n = {}",
            at(0),
            at(100),
            values.len()
        );
        self.add(name, figure, unit, spread);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | figure | unit | spread |")?;
        writeln!(f, "|---|---|---|---|")?;
        self.rows
            .iter()
            .try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

/// Of sorted values; NaN of none.
pub(crate) fn percentile(sorted: &[f64], share: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((sorted.len() * share / 100).min(last))
        .copied()
        .unwrap_or(f64::NAN)
}

/// The machine's load averages, to know what else ran.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
