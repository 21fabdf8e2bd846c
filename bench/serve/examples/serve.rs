//! One server by itself: `serve ENGINE SERVICE WORKERS`, until standard input ends.

use std::process::ExitCode;

use towpath_bench_serve::Options;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, engine, service, workers] = &arguments[..] else {
        eprintln!("serve ENGINE SERVICE WORKERS");
        return ExitCode::from(2);
    };
    let (Ok(service), Ok(workers)) = (service.parse(), workers.parse()) else {
        eprintln!("what service, and how many workers?");
        return ExitCode::from(2);
    };
    towpath_bench_serve::main(Options { engine: engine.clone(), service, workers })
}
