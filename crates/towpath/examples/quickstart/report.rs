//! The results, for people and for programs.

use std::fmt;
use std::time::Duration;

use crate::BUFFER;
use crate::run::Totals;

pub struct Report {
    pub backend: &'static str,
    pub workers: usize,
    pub connections: usize,
    pub elapsed: Duration,
    /// Made by the workers' loops while the messages were under way.
    pub syscalls: u64,
    /// Bytes of the process that came into RAM, by connection: both ends, after the traffic. Without the kernel's share.
    pub rss_per_connection: Option<u64>,
    pub totals: Totals,
}

impl Report {
    pub fn is_success(&self) -> bool {
        self.totals.errors == 0 && self.totals.mismatches == 0
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    fn syscalls_per_message(&self) -> f64 {
        self.syscalls as f64 / self.totals.messages.max(1) as f64
    }

    /// A latency in microseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        self.totals.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// One JSON object. Numbers and a name of letters: nothing in it needs escaping.
    pub fn json(&self) -> String {
        let totals = &self.totals;
        let fields = [
            ("backend", format!("\"{}\"", self.backend)),
            ("workers", self.workers.to_string()),
            ("connections", self.connections.to_string()),
            ("messages", totals.messages.to_string()),
            ("bytes", totals.bytes.to_string()),
            ("errors", totals.errors.to_string()),
            ("mismatches", totals.mismatches.to_string()),
            ("msgs_per_s", format!("{:.1}", self.per_second(totals.messages))),
            ("p50_us", format!("{:.1}", self.quantile(0.5))),
            ("p99_us", format!("{:.1}", self.quantile(0.99))),
            ("p999_us", format!("{:.1}", self.quantile(0.999))),
            (
                "rss_per_connection_bytes",
                self.rss_per_connection.map_or("null".into(), |bytes| bytes.to_string()),
            ),
            ("syscalls_per_message", format!("{:.4}", self.syscalls_per_message())),
        ];
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let memory = self.rss_per_connection.map_or("unknown".into(), |bytes| {
            format!(
                "{:.1} KiB a connection: two tasks, {} KiB of it buffers",
                bytes as f64 / 1024.0,
                2 * BUFFER / 1024
            )
        });
        let quantile = |quantile| format!("{:.2} ms", self.quantile(quantile) / 1000.0);
        writeln!(f, "backend     {}", self.backend)?;
        writeln!(f, "workers     {}", self.workers)?;
        writeln!(f, "messages    {}, {:.0} a second", totals.messages, self.per_second(totals.messages))?;
        writeln!(f, "throughput  {:.1} MB/s each way", self.per_second(totals.bytes) / 1e6)?;
        writeln!(f, "latency     p50 {}, p99 {}, p99.9 {}", quantile(0.5), quantile(0.99), quantile(0.999))?;
        writeln!(f, "memory      {memory}")?;
        writeln!(f, "syscalls    {:.2} a message, both ends", self.syscalls_per_message())?;
        writeln!(
            f,
            "{} connections, {} errors, {} mismatches",
            self.connections, totals.errors, totals.mismatches
        )
    }
}
