//! What can be measured: scenarios × rows.

use towpath_bench_local as local;
use towpath_bench_serve as serve;
use towpath_bench_serve::protocol::Service;

use crate::load::Load;

/// An engine with a number of workers: a line of the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub engine: &'static str,
    pub many: bool,
}

/// What a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A server, and a load on it.
    Server(Service, Load),
    /// A process that measures itself.
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    pub name: &'static str,
    pub kind: Kind,
}

impl Scenario {
    /// What the headline is in.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Local => "ns/op",
            Kind::Server(_, Load::Idle { .. }) => "bytes/conn",
            Kind::Server(_, Load::Send { .. } | Load::Receive { .. }) => "GB/s",
            Kind::Server(..) => "msg/s",
        }
    }
}

/// The order of the tables. Engines that are not listed come last.
const ORDER: [&str; 15] = [
    "floor",
    "floor-uring",
    "floor-epoll",
    "towpath-uring",
    "towpath-epoll",
    "towpath-stream-uring",
    "towpath-stream-epoll",
    "towpath-loop-uring",
    "towpath-loop-epoll",
    "threads",
    "tokio",
    "smol",
    "compio",
    "monoio",
    "may",
];

/// Measured only where `--engines` asks for them.
const ON_DEMAND: [&str; 1] = ["towpath-poll"];

const fn server(name: &'static str, service: Service, load: Load) -> Scenario {
    Scenario { name, kind: Kind::Server(service, load) }
}

const SERVER_SCENARIOS: [Scenario; 13] = [
    server("echo-lat", Service::Echo, Load::Echo { connections: 1, size: 4096, window: 1 }),
    server("echo-100", Service::Echo, Load::Echo { connections: 100, size: 64, window: 1 }),
    server("echo-many", Service::Echo, Load::Echo { connections: 1000, size: 64, window: 1 }),
    server("echo-pipe", Service::Echo, Load::Echo { connections: 64, size: 64, window: 16 }),
    server("send-1", Service::Sink, Load::Send { connections: 1 }),
    server("send-8", Service::Sink, Load::Send { connections: 8 }),
    server("recv-1", Service::Source, Load::Receive { connections: 1 }),
    server("recv-8", Service::Source, Load::Receive { connections: 8 }),
    server("http", Service::Http, Load::Http { connections: 64, window: 1 }),
    server("http-pipe", Service::Http, Load::Http { connections: 64, window: 16 }),
    server("churn", Service::Echo, Load::Churn { connections: 64, size: 64 }),
    server("udp", Service::Udp, Load::Udp { sockets: 8, size: 64, window: 8 }),
    server("idle", Service::Echo, Load::Idle { connections: 10_000, size: 64 }),
];

/// What is reported beside `idle`, from the same runs.
pub const IDLE_FRESH: &str = "idle-fresh";

/// Every scenario, those with a server first.
pub fn scenarios() -> Vec<Scenario> {
    let local = local::scenarios().iter().map(|name| Scenario { name, kind: Kind::Local });
    SERVER_SCENARIOS.into_iter().chain(local).collect()
}

/// Every row, whether it can be had here or not.
pub fn rows() -> Vec<Row> {
    let servers = serve::engines().iter().map(|engine| engine.name);
    let locals = local::engines().iter().map(|engine| engine.name);
    let mut rows: Vec<Row> = Vec::new();
    for engine in servers.chain(locals) {
        if rows.iter().any(|row| row.engine == engine) {
            continue;
        }
        let scales =
            serve::engines().iter().any(|it| it.name == engine && it.workers == serve::Workers::OneAndMany)
                || local::engines().iter().any(|it| it.name == engine && it.scales);
        if scales {
            rows.push(Row { name: format!("{engine}-1"), engine, many: false });
            rows.push(Row { name: format!("{engine}-n"), engine, many: true });
        } else {
            // As many threads as there are connections are not for one CPU.
            rows.push(Row { name: engine.into(), engine, many: engine == "threads" });
        }
    }
    rows.sort_by_key(|row| {
        (ORDER.iter().position(|engine| *engine == row.engine).unwrap_or(ORDER.len()), row.many)
    });
    rows
}

impl Row {
    /// Whether `--engines NAME` means this row among others: its own name or the beginning of it, up to a hyphen.
    fn is_called(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Why this row cannot be run here, if it cannot.
    pub fn available(&self) -> Result<(), String> {
        let serves = serve::engines().iter().any(|engine| engine.name == self.engine);
        let measures = local::engines().iter().any(|engine| engine.name == self.engine);
        if serves {
            serve::available(self.engine)?;
        }
        if measures {
            local::available(self.engine)?;
        }
        Ok(())
    }

    pub fn supports(&self, scenario: &Scenario) -> bool {
        match scenario.kind {
            Kind::Server(service, _) => serve::supports(self.engine, service),
            // Engines that serve with many workers may have but one here.
            Kind::Local => local::engines().iter().any(|engine| {
                engine.name == self.engine
                    && local::supports(engine.name, scenario.name)
                    && (engine.scales || !self.many || self.name == engine.name)
            }),
        }
    }
}

pub fn is_floor(row: &str) -> bool {
    row.starts_with("floor")
}

pub fn is_towpath(row: &str) -> bool {
    row.starts_with("towpath")
}

/// The scenarios of these names, in the order in which they are asked for.
pub fn choose_scenarios(names: &[String]) -> Result<Vec<Scenario>, String> {
    let all = scenarios();
    let mut chosen: Vec<Scenario> = Vec::new();
    for name in names {
        let named: Vec<Scenario> =
            all.iter().filter(|it| name == "all" || name == it.name).copied().collect();
        if named.is_empty() {
            return Err(format!("no scenario is called {name:?}; --list names them"));
        }
        chosen.extend(named);
    }
    let mut seen = Vec::new();
    chosen.retain(|scenario| !seen.contains(&scenario.name) && (seen.push(scenario.name), true).1);
    Ok(chosen)
}

/// The rows that `--engines` names; all but a few if it is not given.
pub fn choose_rows(names: &[String]) -> Result<Vec<Row>, String> {
    let mut all = rows();
    for name in names {
        if !all.iter().any(|row| row.is_called(name)) {
            return Err(format!("no engine is called {name:?}; --list names them"));
        }
    }
    all.retain(|row| match names {
        [] => !ON_DEMAND.contains(&row.engine),
        names => names.iter().any(|name| row.is_called(name)),
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(engines: &[&str]) -> Vec<String> {
        let engines: Vec<String> = engines.iter().map(|name| (*name).into()).collect();
        choose_rows(&engines).unwrap().into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn a_family_is_all_its_rows() {
        assert_eq!(names(&["tokio"]), ["tokio-1", "tokio-n"]);
        assert_eq!(names(&["tokio-n", "threads"]), ["threads", "tokio-n"]);
        assert_eq!(names(&["towpath-loop"]), ["towpath-loop-uring", "towpath-loop-epoll"]);
        assert!(names(&["floor"]).contains(&"floor".to_string()));
        assert!(choose_rows(&["tok".into()]).is_err());
    }

    #[test]
    fn every_scenario_has_a_row_and_a_name_of_its_own() {
        let all = scenarios();
        let rows = rows();
        for scenario in &all {
            assert!(rows.iter().any(|row| row.supports(scenario)), "{}", scenario.name);
            assert_eq!(all.iter().filter(|other| other.name == scenario.name).count(), 1);
        }
        assert_eq!(choose_scenarios(&["udp".into(), "all".into()]).unwrap().len(), all.len());
    }
}
