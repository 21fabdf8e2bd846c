//! The measured window: what is read at its two ends, and what is counted between.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::process::Process;

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The headline: messages or gigabytes a second, bytes a connection, nanoseconds an operation.
    pub value: f64,
    /// The process's CPU time, in microseconds a message.
    pub cpu_us: Option<f64>,
    pub syscalls: Option<f64>,
    pub rss: Option<u64>,
    pub latency: Option<Latency>,
    /// Something that the reader should know.
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50_us: f64,
    pub p99_us: f64,
}

/// One end of the window.
pub struct Mark {
    at: Instant,
    cpu: Duration,
    syscalls: Option<u64>,
}

impl Mark {
    pub fn now(server: &Process) -> io::Result<Mark> {
        Ok(Mark { syscalls: server.syscalls()?, cpu: server.cpu()?, at: Instant::now() })
    }

    /// What one of `units` cost from here to `end`; the value is units a second.
    pub fn until(&self, end: &Mark, units: f64) -> Sample {
        let syscalls = self.syscalls.zip(end.syscalls).map(|(before, after)| (after - before) as f64 / units);
        let cpu = (end.cpu - self.cpu).as_secs_f64() * 1e6 / units;
        let value = units / (end.at - self.at).as_secs_f64();
        Sample { value, cpu_us: Some(cpu), syscalls, ..Sample::default() }
    }
}

/// Warms up, and then measures for a fixed time.
pub struct Meter<'a> {
    server: &'a Process,
    /// The end of the warm-up; then of the window.
    until: Instant,
    window: Duration,
    start: Option<Mark>,
    sample: Option<Sample>,
    latencies: Histogram<u64>,
}

impl Meter<'_> {
    pub fn new<'a>(target: &super::Target<'a>) -> Meter<'a> {
        Meter {
            server: target.server,
            until: Instant::now() + target.extent.warm_up,
            window: target.extent.window,
            start: None,
            sample: None,
            // Three digits up to a minute; more counts as a minute.
            latencies: Histogram::new_with_max(60_000_000_000, 3).expect("the bounds are sound"),
        }
    }

    /// One message is through.
    pub fn record(&mut self, latency: Duration) {
        if self.start.is_some() && self.sample.is_none() {
            self.latencies.saturating_record(latency.as_nanos() as u64);
        }
    }

    /// To be called after each wait. True once the window is over.
    pub fn tick(&mut self, now: Instant) -> io::Result<bool> {
        if self.sample.is_some() || now < self.until {
            return Ok(self.sample.is_some());
        }
        match &self.start {
            None => {
                self.start = Some(Mark::now(self.server)?);
                self.until = Instant::now() + self.window;
            }
            Some(start) => {
                let end = Mark::now(self.server)?;
                let messages = self.latencies.len();
                if messages == 0 {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no message came through"));
                }
                let mut sample = start.until(&end, messages as f64);
                sample.rss = Some(self.server.memory()?);
                let micros = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
                sample.latency = Some(Latency { p50_us: micros(0.5), p99_us: micros(0.99) });
                self.sample = Some(sample);
            }
        }
        Ok(self.sample.is_some())
    }

    /// The result, once [`Meter::tick`] has been true.
    pub fn sample(self) -> Sample {
        self.sample.unwrap_or_default()
    }
}
