//! The figures for people: a table for each scenario.

use std::fmt::Write;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Entry, Figures, Table, short};

const COLUMNS: usize = 11;
/// A figure that does not apply.
const NOTHING: &str = "–";

pub fn render(tables: &[Table]) -> String {
    let mut text = format!(
        "`{}`\n\n{}, {}\n\nMedian (least–greatest) of the rounds. × is the ratio to that row: to\ntokio-1 or, for rows on all cores, tokio-n; and to the better floor.\n",
        command(),
        machine(),
        date(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
    );
    for table in tables {
        table_of(table, &mut text);
    }
    text
}

/// What a message is, in this scenario.
fn unit(table: &Table) -> &'static str {
    match table.unit {
        "GB/s" => "MiB",
        "bytes/conn" => "s",
        _ => "msg",
    }
}

fn table_of(table: &Table, text: &mut String) {
    let direction = if table.counts_up() { "more is better" } else { "less is better" };
    let per = unit(table);
    let heads: [String; COLUMNS] = [
        "engine".into(),
        table.unit.into(),
        "× tokio".into(),
        "× floor".into(),
        format!("CPU µs/{per}"),
        "× floor".into(),
        format!("syscalls/{per}"),
        "p50 µs".into(),
        "p99 µs".into(),
        "RSS MiB".into(),
        "failed runs".into(),
    ];
    let lines: Vec<[String; COLUMNS]> =
        table.entries.iter().map(|(entry, figures)| cells(table, entry, figures)).collect();
    // What does not apply to a scenario is no column of it.
    let shown: Vec<usize> =
        (0..COLUMNS).filter(|column| lines.iter().any(|line| line[*column] != NOTHING)).collect();
    let row = |cells: &[String; COLUMNS]| {
        let cells: Vec<&str> = shown.iter().map(|column| cells[*column].as_str()).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let _ = write!(text, "\n## {} ({}, {direction})\n\n{}", table.scenario, table.unit, row(&heads));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(shown.len() - 1));
    text.extend(lines.iter().map(row));
    let remarks: Vec<String> = table.entries.iter().flat_map(|(entry, _)| remarks(entry)).collect();
    if !remarks.is_empty() {
        let _ = writeln!(text, "\n{}", remarks.join("\n"));
    }
}

/// The cells of one line.
fn cells(table: &Table, entry: &Entry, line: &Figures) -> [String; COLUMNS] {
    let figures = || table.entries.iter().map(|(_, figures)| figures);
    // The floors are pinned. What is not has other wake-ups to pay for, and does not compare.
    let alike = !entry.row.many || table.unit == "ns/op";
    let floors = || figures().filter(|figures| alike && crate::plan::is_floor(&figures.engine));
    let floor = floors().filter_map(|floor| floor.median).reduce(|a, b| table.better(a, b));
    let floor_cpu = floors().filter_map(|floor| floor.cpu_us_per_msg).reduce(f64::min);
    let peer = if entry.row.many { "tokio-n" } else { "tokio-1" };
    let peer = figures().find(|figures| figures.engine == peer).and_then(|peer| peer.median);
    [
        line.engine.clone(),
        headline(line),
        ratio(line.median, peer),
        ratio(line.median, floor),
        cell(line.cpu_us_per_msg),
        ratio(line.cpu_us_per_msg, floor_cpu),
        cell(line.syscalls_per_msg),
        cell(line.p50_us),
        cell(line.p99_us),
        cell(line.rss_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))),
        if line.ok { NOTHING.into() } else { entry.failures.len().to_string() },
    ]
}

/// What went wrong, and what else there is to know, each once.
fn remarks(entry: &Entry) -> Vec<String> {
    let notes = entry.samples.iter().filter_map(|sample| sample.note.as_ref());
    let mut remarks: Vec<String> = Vec::new();
    for remark in entry.failures.iter().chain(notes) {
        let remark = format!("- {}: {remark}", entry.row.name);
        if !remarks.contains(&remark) {
            remarks.push(remark);
        }
    }
    remarks
}

fn headline(figures: &Figures) -> String {
    match (figures.median, figures.min, figures.max) {
        (Some(median), Some(min), Some(max)) => {
            format!("{} ({}–{})", short(median), short(min), short(max))
        }
        _ => NOTHING.into(),
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or(NOTHING.into(), short)
}

fn ratio(value: Option<f64>, reference: Option<f64>) -> String {
    match (value, reference) {
        (Some(value), Some(reference)) if reference > 0.0 => format!("{:.2}", value / reference),
        _ => NOTHING.into(),
    }
}

/// As it was typed, but for the path of the program.
fn command() -> String {
    let quote = |arg: String| if arg.contains(char::is_whitespace) { format!("'{arg}'") } else { arg };
    let args: Vec<String> = std::env::args().skip(1).map(quote).collect();
    format!("cargo run --release --manifest-path bench/Cargo.toml -- {}", args.join(" "))
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} CPUs, Linux {}", kernel.trim())
}

/// The day of a Unix time, after Howard Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_735_689_599), "2024-12-31");
        assert_eq!(date(1_735_689_600), "2025-01-01");
    }

    #[test]
    fn ratios_need_both() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), "1.50");
        assert_eq!(ratio(Some(3.0), None), NOTHING);
        assert_eq!(ratio(Some(3.0), Some(0.0)), NOTHING);
    }
}
