use crate::load::Moved;

/// Runs of one path.
#[derive(Default)]
pub(crate) struct Row {
    gbit_s: Vec<f64>,
    cpu_s_per_gbit: Vec<f64>,
}

impl Row {
    pub(crate) fn add(&mut self, moved: &Moved) {
        self.gbit_s.push(moved.gbit / moved.seconds);
        self.cpu_s_per_gbit.push(moved.cpu_seconds / moved.gbit);
    }

    pub(crate) fn gbit_s(&self) -> f64 {
        median(self.gbit_s.iter().copied())
    }

    /// Median, spread, cost, and ratio to that of plain VXLAN.
    pub(crate) fn show(&self, plain: Option<f64>) -> String {
        let least = self.gbit_s.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.gbit_s.iter().copied().fold(0.0, f64::max);
        let ratio = plain.map_or_else(|| "-".to_owned(), |p| format!("{:.2}", self.gbit_s() / p));
        format!(
            "{:.2} [{least:.2}..{most:.2}] | {:.3} | {ratio}",
            self.gbit_s(),
            median(self.cpu_s_per_gbit.iter().copied())
        )
    }
}

/// NaN of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
