//! The command line.

use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;
use towpath::BackendKind;

const HELP: &str = "\
An echo server and its clients in one process, every byte checked.

Usage: quickstart [OPTIONS]

  --backend NAME    io_uring, epoll or poll [the best that there is]
  --workers N       threads that run tasks [as many as there are CPUs]
  --connections N   connections, each with a client and a server task [1000]
  --seconds S       how long the clients send, in seconds [3]
  --json            print the results as one JSON object
  --help            print this

Exits with 1 after an error or a byte that came back wrong.";

pub struct Options {
    pub backend: Option<BackendKind>,
    pub workers: Option<usize>,
    pub connections: usize,
    pub duration: Duration,
    pub json: bool,
}

impl Options {
    /// What the command line says; nothing if all it wanted was help.
    pub fn parse() -> Result<Option<Options>, lexopt::Error> {
        let mut options = Options {
            backend: None,
            workers: None,
            connections: 1000,
            duration: Duration::from_secs(3),
            json: false,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("backend") => options.backend = Some(parser.value()?.parse()?),
                Long("workers") => options.workers = Some(parser.value()?.parse_with(|n| count(n, 64))?),
                Long("connections") => {
                    options.connections = parser.value()?.parse_with(|n| count(n, 1_000_000))?
                }
                Long("seconds") => options.duration = parser.value()?.parse_with(seconds)?,
                Long("json") => options.json = true,
                Long("help") | Short('h') => {
                    println!("{HELP}");
                    return Ok(None);
                }
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(Some(options))
    }
}

fn count(text: &str, most: usize) -> Result<usize, String> {
    match usize::from_str(text) {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        Ok(_) => Err(format!("it must be between 1 and {most}")),
        Err(error) => Err(error.to_string()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match f64::from_str(text) {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("it must be between 0 and 86400".into()),
        Err(error) => Err(error.to_string()),
    }
}
