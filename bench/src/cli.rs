//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

pub const USAGE: &str = "\
Towpath beside its peers.

    towpath-bench SCENARIO… [options]    measure these scenarios; `all` is every one of them
    towpath-bench --list                 what can be measured here

    --engines A,B,…   rows, or the common start of several (`tokio` is tokio-1 and tokio-n); default: all
    --rounds N        how often each is measured (9; with --quick 3)
    --quick           short windows and small amounts: to see that it works, not to compare
    --json FILE       an array with an object for each scenario and engine
    --markdown FILE   the tables that are printed
    --svg DIR         a chart for each scenario
";

#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    List,
    Run(Run),
    /// Hidden: be a server.
    Serve {
        engine: String,
        service: String,
        workers: usize,
    },
    /// Hidden: measure one scenario in this process.
    Local {
        engine: String,
        scenario: String,
        workers: usize,
        quick: bool,
    },
    /// Hidden: wait for a line on standard input, then become `command` of this program.
    Exec {
        cpu: Option<usize>,
        command: Vec<OsString>,
    },
}

/// What is to be measured, and where to report it.
#[derive(Debug, Default, PartialEq)]
pub struct Run {
    pub scenarios: Vec<String>,
    pub engines: Vec<String>,
    pub rounds: Option<usize>,
    pub quick: bool,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

/// Reads the arguments, the program's name not among them.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    match args.first().and_then(|first| first.to_str()) {
        Some("serve") => serve(&args[1..]),
        Some("local") => local(&args[1..]),
        Some("exec") => exec(&args[1..]),
        _ => run(args),
    }
}

fn run(args: Vec<OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut run = Run::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(name) => run.scenarios.push(name.string()?),
            Long("engines") => {
                let names = parser.value()?.string()?;
                run.engines.extend(names.split(',').filter(|name| !name.is_empty()).map(String::from));
            }
            Long("rounds") => match parser.value()?.parse()? {
                0 => return Err("--rounds wants at least 1".into()),
                rounds => run.rounds = Some(rounds),
            },
            Long("quick") => run.quick = true,
            Long("json") => run.json = Some(parser.value()?.into()),
            Long("markdown") => run.markdown = Some(parser.value()?.into()),
            Long("svg") => run.svg = Some(parser.value()?.into()),
            Long("list") => return Ok(Command::List),
            Short('h') | Long("help") => return Ok(Command::Help),
            _ => return Err(arg.unexpected()),
        }
    }
    if run.scenarios.is_empty() {
        return Err("which scenarios? `all`, or names from --list".into());
    }
    Ok(Command::Run(run))
}

/// The two words and the options that `serve` and `local` have in common.
fn child(args: &[OsString]) -> Result<(String, String, usize, bool), lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut words, mut workers, mut quick) = (Vec::new(), 1, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) => words.push(word.string()?),
            Long("workers") => workers = parser.value()?.parse()?,
            Long("quick") => quick = true,
            _ => return Err(arg.unexpected()),
        }
    }
    match <[String; 2]>::try_from(words) {
        Ok([engine, what]) => Ok((engine, what, workers, quick)),
        Err(_) => Err("wants an engine, and a service or scenario".into()),
    }
}

fn serve(args: &[OsString]) -> Result<Command, lexopt::Error> {
    let (engine, service, workers, _) = child(args)?;
    Ok(Command::Serve { engine, service, workers })
}

fn local(args: &[OsString]) -> Result<Command, lexopt::Error> {
    let (engine, scenario, workers, quick) = child(args)?;
    Ok(Command::Local { engine, scenario, workers, quick })
}

fn exec(args: &[OsString]) -> Result<Command, lexopt::Error> {
    let (cpu, command) = match args {
        [flag, cpu, rest @ ..] if flag == "--cpu" => (Some(cpu.parse()?), rest),
        rest => (None, rest),
    };
    Ok(Command::Exec { cpu, command: command.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn options_and_scenarios_mix() {
        let wanted = Run {
            scenarios: vec!["echo-lat".into(), "udp".into()],
            engines: vec!["tokio".into(), "may-1".into()],
            rounds: Some(2),
            quick: true,
            json: Some("a.json".into()),
            ..Run::default()
        };
        let line = "echo-lat --engines=tokio,may-1 --rounds 2 udp --quick --json a.json";
        assert_eq!(parsed(line), Ok(Command::Run(wanted)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parsed("").is_err());
        assert!(parsed("all --rounds 0").is_err());
        assert!(parsed("all --wrong").is_err());
        assert!(parsed("serve tokio").is_err());
    }

    #[test]
    fn hidden_commands() {
        let exec = Command::Exec { cpu: Some(0), command: vec!["serve".into(), "--workers".into()] };
        assert_eq!(parsed("exec --cpu 0 serve --workers"), Ok(exec));
        let local =
            Command::Local { engine: "may".into(), scenario: "spawn".into(), workers: 2, quick: true };
        assert_eq!(parsed("local may spawn --workers 2 --quick"), Ok(local));
        let serve = Command::Serve { engine: "may".into(), service: "echo".into(), workers: 4 };
        assert_eq!(parsed("serve may echo --workers 4"), Ok(serve));
    }
}
