//! Towpath beside its peers: servers under load, and what runtimes cost in their own process.

mod cli;
mod load;
mod plan;
mod process;
mod report;
mod run;
mod sys;
mod syscalls;

use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{error}\n\n{}", cli::USAGE);
            return ExitCode::from(2);
        }
    };
    let outcome = match command {
        Command::Help => {
            print!("{}", cli::USAGE);
            Ok(true)
        }
        Command::List => {
            list();
            Ok(true)
        }
        Command::Run(options) => run::run(&options),
        Command::Serve { engine, service, workers } => match service.parse() {
            Ok(service) => {
                return towpath_bench_serve::main(towpath_bench_serve::Options { engine, service, workers });
            }
            Err(error) => Err(error),
        },
        Command::Local { engine, scenario, workers, quick } => {
            let options = towpath_bench_local::Options { engine, scenario, workers, quick };
            return towpath_bench_local::main(options);
        }
        Command::Exec { cpu, command } => match process::exec(cpu, &command) {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    let scenarios = plan::scenarios();
    println!("Scenarios: {}", scenarios.iter().map(|it| it.name).collect::<Vec<_>>().join(" "));
    println!("Engines:");
    for row in plan::rows() {
        match row.available() {
            Ok(()) => println!("  {}", row.name),
            Err(why) => println!("  {:<20} {why}", row.name),
        }
    }
}
