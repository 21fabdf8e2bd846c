//! From samples to figures: one entry for each scenario and row, and three ways to show them.

mod json;
mod markdown;
mod svg;

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::cli;
use crate::load::{Latency, Sample};
use crate::plan::Row;

/// All runs of one scenario on one row.
pub struct Entry {
    pub scenario: String,
    pub unit: &'static str,
    pub row: Row,
    pub samples: Vec<Sample>,
    /// System calls a message, of the run that counted them.
    pub syscalls: Option<f64>,
    pub failures: Vec<String>,
}

/// The figures of one entry, as the JSON has them.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub scenario: String,
    pub engine: String,
    pub unit: &'static str,
    pub median: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub cpu_us_per_msg: Option<f64>,
    pub syscalls_per_msg: Option<f64>,
    pub rss_bytes: Option<u64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// So many runs came to an end.
    pub rounds: usize,
    pub ok: bool,
}

impl Entry {
    pub fn new(scenario: &str, unit: &'static str, row: &Row) -> Entry {
        Entry {
            scenario: scenario.into(),
            unit,
            row: row.clone(),
            samples: Vec::new(),
            syscalls: None,
            failures: Vec::new(),
        }
    }

    pub fn figures(&self) -> Figures {
        let over = |figure: fn(&Sample) -> Option<f64>| {
            let mut figures: Vec<f64> = self.samples.iter().filter_map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let latency = |figure: fn(&Latency) -> f64| {
            let figures = self.samples.iter().filter_map(|sample| sample.latency.as_ref().map(figure));
            let mut figures: Vec<f64> = figures.collect();
            figures.sort_by(f64::total_cmp);
            median(&figures)
        };
        let values = over(|sample| Some(sample.value));
        Figures {
            scenario: self.scenario.clone(),
            engine: self.row.name.clone(),
            unit: self.unit,
            median: median(&values),
            min: values.first().copied(),
            max: values.last().copied(),
            cpu_us_per_msg: median(&over(|sample| sample.cpu_us)),
            syscalls_per_msg: self.syscalls,
            rss_bytes: median(&over(|sample| sample.rss.map(|bytes| bytes as f64))).map(|bytes| bytes as u64),
            p50_us: latency(|latency| latency.p50_us),
            p99_us: latency(|latency| latency.p99_us),
            rounds: self.samples.len(),
            ok: self.failures.is_empty(),
        }
    }
}

/// Of numbers in order.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The figures of one scenario, all rows.
pub struct Table<'a> {
    pub scenario: &'a str,
    pub unit: &'static str,
    pub entries: Vec<(&'a Entry, Figures)>,
}

fn tables(entries: &[Entry]) -> Vec<Table<'_>> {
    let mut tables: Vec<Table> = Vec::new();
    for entry in entries {
        let line = (entry, entry.figures());
        match tables.last_mut().filter(|table| table.scenario == entry.scenario) {
            Some(table) => table.entries.push(line),
            None => tables.push(Table { scenario: &entry.scenario, unit: entry.unit, entries: vec![line] }),
        }
    }
    tables
}

impl Table<'_> {
    /// Whether more is better.
    fn counts_up(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// The better of two headlines.
    fn better(&self, a: f64, b: f64) -> f64 {
        if self.counts_up() { a.max(b) } else { a.min(b) }
    }
}

/// Three digits that count, and a unit of thousands.
fn short(value: f64) -> String {
    let (value, suffix) = match value.abs() {
        large if large >= 1e9 => (value / 1e9, " G"),
        large if large >= 1e6 => (value / 1e6, " M"),
        large if large >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        large if large >= 10.0 => 1,
        large if large >= 1.0 || large == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}{suffix}")
}

/// Prints the tables, and writes the files that are asked for.
pub fn write(options: &cli::Run, entries: &[Entry]) -> Result<(), String> {
    let tables = tables(entries);
    let text = markdown::render(&tables);
    println!("{text}");
    if let Some(path) = &options.markdown {
        save(path, &text)?;
    }
    if let Some(path) = &options.json {
        save(path, &json::render(&tables)?)?;
    }
    if let Some(directory) = &options.svg {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        for table in &tables {
            let path = directory.join(format!("{}.svg", table.scenario));
            if let Some(chart) = svg::render(table) {
                save(&path, &chart?)?;
            }
        }
    }
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_failed_run_leaves_the_others_and_is_not_ok() {
        let row = Row { name: "x-1".into(), engine: "x", many: false };
        let mut entry = Entry::new("udp", "msg/s", &row);
        for value in [5.0, 1.0, 3.0] {
            entry.samples.push(Sample { value, ..Sample::default() });
        }
        entry.failures.push("no progress".into());
        let figures = entry.figures();
        assert_eq!((figures.min, figures.median, figures.max), (Some(1.0), Some(3.0), Some(5.0)));
        assert_eq!((figures.rounds, figures.ok, figures.p50_us), (3, false, None));
    }

    #[test]
    fn short_numbers() {
        let shown: Vec<String> = [0.0, 0.1234, 1.5, 42.0, 999.0, 9999.0, 12_345.0, 3.2e6].map(short).into();
        assert_eq!(shown, ["0.00", "0.123", "1.50", "42.0", "999", "9999", "12.3 k", "3.20 M"]);
    }
}
