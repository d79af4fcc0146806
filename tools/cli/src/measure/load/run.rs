//! What is measured, in its order.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use hyper::body::Bytes;
use ropeway::Engine;
use tokio::runtime::Runtime;

use super::client::Target;
use super::inside::Inside;
use super::report::{Bar, HEAD, LoadReport, LoadRow, Wanted};
use super::server::Server;
use super::texts::Texts;
use super::traffic::{Tally, closed, open, quantile};
use crate::measure::Effort;

/// What is wanted of a server. The bars stand beside what was measured.
mod wanted {
    /// Requests per second over those of a peer.
    pub const OVER_PEERS: f64 = 4.0;
    /// Of the throughput of `embed_batch` on the same texts.
    pub const OF_EMBED_BATCH: f64 = 0.95;
    /// Added by HTTP at the median, in µs.
    pub const ADDED: f64 = 200.0;
    /// Of the capacity, while twice as much arrives.
    pub const GOODPUT: f64 = 0.9;
    /// The last refusal, in ms.
    pub const REFUSAL: f64 = 10.0;
    /// Memory at the end of the overload over that at its start: what allocators move by.
    pub const MEMORY: f64 = 1.05;
    /// The p99 of queries beside long documents over that alone.
    pub const BESIDE: f64 = 3.0;
    /// From the start of the process until it is ready, in s.
    pub const START: f64 = 1.0;
}

/// A vector of another server that is further away than this is another computation.
const LEAST_COSINE: f64 = 0.999;

/// Offered load of the overload, in capacities.
const OVERLOAD: f64 = 2.0;

/// Turns of one client over HTTP and one caller in process, within the time of a round.
const TURNS: u32 = 6;

/// Part of the capacity at which queries come beside documents.
const QUERIES_BESIDE: f64 = 0.2;

/// How much is measured.
struct Pace {
    /// Different texts of a kind.
    texts: usize,
    clients: &'static [usize],
    /// The number of clients that the bars are about.
    busy: usize,
    rounds: usize,
    warm_up: Duration,
    time: Duration,
    /// Offered load, in capacities.
    offered: &'static [f64],
    open_time: Duration,
    overload_time: Duration,
    documents_time: Duration,
    starts: usize,
}

const FULL: Pace = Pace {
    texts: 256,
    clients: &[1, 4, 16, 64, 256],
    busy: 64,
    rounds: 3,
    warm_up: Duration::from_millis(500),
    time: Duration::from_secs(3),
    offered: &[0.5, 0.8, 1.0, 1.5],
    open_time: Duration::from_secs(10),
    overload_time: Duration::from_secs(60),
    documents_time: Duration::from_secs(10),
    starts: 5,
};

const QUICK: Pace = Pace {
    texts: 32,
    clients: &[1, 8],
    busy: 8,
    rounds: 1,
    warm_up: Duration::from_millis(50),
    time: Duration::from_millis(250),
    offered: &[0.5],
    open_time: Duration::from_millis(300),
    overload_time: Duration::from_millis(900),
    documents_time: Duration::from_millis(300),
    starts: 1,
};

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Clients that wait for their answers, with a query each
    Clients,
    /// The same with texts of mixed lengths
    Mixed,
    /// Queries that come whether or not earlier ones were answered, up to 1.5 times what the server can do
    Arrivals,
    /// The same at twice what it can do, for a minute
    Overload,
    /// Queries beside long documents
    Documents,
    /// Cold starts
    Start,
}

/// What is put under load.
pub struct Serve<'a> {
    /// The same model in this process.
    pub engine: Engine,
    /// `ropeway serve` with the model on so many threads, to be started several times.
    pub command: &'a dyn Fn(usize) -> Command,
    /// A server that runs already, to be measured instead. What needs servers of other settings is left out.
    pub url: Option<String>,
    /// Names and URLs of servers that take turns with it.
    pub against: Vec<(String, String)>,
    /// The kinds of load; none is all.
    pub only: Vec<Load>,
    /// The numbers of clients; none is those of the effort.
    pub clients: Vec<usize>,
    /// How much is measured.
    pub effort: Effort,
}

/// Puts a server under load. `say` is given each line of the table as soon as it is there.
///
/// # Errors
/// A server that cannot be had, that gives other vectors than the engine, or that answers nothing.
pub fn load(serve: Serve<'_>, say: &mut dyn FnMut(&str)) -> Result<LoadReport> {
    let pace = match serve.effort {
        Effort::Full => &FULL,
        Effort::Quick => &QUICK,
    };
    // One thread: the cores belong to the servers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let texts = Texts::new(pace.texts, serve.engine.config().max_tokens);
    let inside = Inside::new(serve.engine)?;
    let engine = inside.engine();
    let report = LoadReport {
        ropeway: env!("CARGO_PKG_VERSION"),
        bench: "serve",
        model: engine.path().display().to_string(),
        precision: engine.precision().to_string(),
        device: engine.device_name(),
        cores: std::thread::available_parallelism()?.get(),
        peers: serve.against.iter().map(|(name, _)| name.clone()).collect(),
        rows: Vec::new(),
        bars: Vec::new(),
    };
    say(&format!(
        "{} in {} on {}; {} cores for servers and load\n\n{HEAD}",
        report.model, report.precision, report.device, report.cores
    ));
    let mut bench = Bench {
        pace,
        clients: match serve.clients.is_empty() {
            true => pace.clients.to_vec(),
            false => serve.clients,
        },
        runtime,
        texts,
        inside,
        command: serve.command,
        report,
        say,
    };
    let url = serve.url.as_deref();
    let wants = |load| serve.only.is_empty() || serve.only.contains(&load);
    let capacity = {
        let (_server, ours) = bench.server(url, &[])?;
        let mut targets = vec![ours];
        for (name, url) in &serve.against {
            targets.push(bench.runtime.block_on(Target::at(name, url))?);
        }
        targets.iter().try_for_each(|target| bench.check(target))?;
        let measured = match wants(Load::Clients) {
            true => bench.queries(&targets)?,
            false => None,
        };
        if wants(Load::Mixed) {
            bench.throughput(&targets)?;
        }
        let needed = [Load::Arrivals, Load::Overload, Load::Documents].map(wants);
        match measured {
            None if needed.contains(&true) => bench.capacity(&targets[0], pace.time)?,
            measured => measured.unwrap_or_default(),
        }
    };
    if wants(Load::Arrivals) || wants(Load::Overload) {
        // Its queue holds half a second of queries.
        let queue = ((0.5 * capacity).ceil() as usize).clamp(16, 1024).to_string();
        let (server, target) = bench.server(url, &["--queue-inputs", &queue])?;
        if wants(Load::Arrivals) {
            bench.arrivals(&target, capacity)?;
        }
        if wants(Load::Overload) {
            bench.overload(server.as_ref(), &target)?;
        }
    }
    // These need servers of other settings.
    if url.is_none() && wants(Load::Documents) {
        bench.beside_documents(capacity)?;
    }
    if url.is_none() && wants(Load::Start) {
        bench.cold_starts()?;
    }
    for row in &bench.report.rows {
        if let Some(late) = row.clock_late_ms {
            (bench.say)(&format!(
                "\n{}: a thread of the bench that only slept woke up as much as {late:.1} ms late",
                row.case
            ));
        }
        if let Some(failure) = &row.failure {
            (bench.say)(&format!(
                "\n{}, {}: {} failed, the first with: {failure}",
                row.server, row.case, row.failed
            ));
        }
    }
    let bars = bench.report.bars();
    (bench.say)(&bars);
    Ok(bench.report)
}

struct Bench<'a> {
    pace: &'static Pace,
    clients: Vec<usize>,
    runtime: Runtime,
    texts: Texts,
    inside: Inside,
    command: &'a dyn Fn(usize) -> Command,
    report: LoadReport,
    say: &'a mut dyn FnMut(&str),
}

impl Bench<'_> {
    fn row(&mut self, row: LoadRow) {
        (self.say)(&row.line());
        self.report.rows.push(row);
    }

    fn bar(&mut self, what: impl Into<String>, value: f64, unit: &'static str, wanted: Wanted) {
        self.report.bars.push(Bar::new(what, value, unit, wanted));
    }

    /// Starts a server on so many threads with further flags.
    fn start(&self, threads: usize, flags: &[&str]) -> Result<Server> {
        let mut command = (self.command)(threads);
        command.args(flags);
        Server::start(&self.runtime, command)
    }

    /// The server that runs at this URL, or one that is started.
    fn server(&self, url: Option<&str>, flags: &[&str]) -> Result<(Option<Server>, Target)> {
        match url {
            Some(url) => Ok((None, self.runtime.block_on(Target::at("ropeway", url))?)),
            None => {
                let server = self.start(self.inside.engine().threads(), flags)?;
                let target = server.target.clone();
                Ok((Some(server), target))
            }
        }
    }

    /// Nobody is fast and wrong.
    fn check(&self, target: &Target) -> Result<()> {
        for text in self
            .texts
            .queries
            .iter()
            .take(4)
            .chain(self.texts.mixed.iter().take(4))
        {
            let theirs = self.runtime.block_on(target.vector(text))?;
            let cosine = cosine(&theirs, &self.inside.vector(text)?);
            if cosine.is_nan() || cosine < LEAST_COSINE {
                let name = &target.name;
                bail!("{name}: its vector of `{text:.40}` has a cosine of {cosine:.5} to the engine's");
            }
        }
        Ok(())
    }

    /// The queries per second of the busy number of clients.
    fn capacity(&self, target: &Target, time: Duration) -> Result<f64> {
        Ok(self
            .closed(target, &self.texts.queries, 1, self.pace.busy, time)?
            .rate())
    }

    /// Clients that wait for their answers; all servers take turns. Gives the queries per second of the busy number of
    /// clients, if it is among those that are measured.
    fn queries(&mut self, targets: &[Target]) -> Result<Option<f64>> {
        let pace = self.pace;
        let mut capacity = None;
        for clients in self.clients.clone() {
            let mut inside = Vec::new();
            let mut tallies = vec![Tally::default(); targets.len()];
            for _ in 0..pace.rounds {
                for (number, (target, tally)) in targets.iter().zip(&mut tallies).enumerate() {
                    // In short turns of their own: what is wanted is a difference of some percent.
                    let turns = if clients == 1 && number == 0 { TURNS } else { 1 };
                    let time = pace.time / turns;
                    for _ in 0..turns {
                        if turns > 1 {
                            inside.extend(self.inside.calls(&self.texts.queries, time)?);
                        }
                        tally.add(self.closed(target, &self.texts.queries, 1, clients, time)?);
                    }
                }
            }
            let rates: Vec<f64> = tallies.iter().map(Tally::rate).collect();
            for (target, tally) in targets.iter().zip(&tallies) {
                let case = format!("{clients} client{}", if clients == 1 { "" } else { "s" });
                self.row(LoadRow::new(case, "queries", &target.name, tally));
            }
            if clients == 1 {
                let p50 = |samples: &[f64]| quantile(samples, 0.5).unwrap_or(f64::NAN);
                let added = 1e3 * (p50(&tallies[0].answered) - p50(&inside));
                let tally = Tally {
                    seconds: pace.time.as_secs_f64() * pace.rounds as f64,
                    answered: inside,
                    ..Tally::default()
                };
                self.row(LoadRow::new(
                    "1 caller".into(),
                    "queries",
                    "Service, in process",
                    &tally,
                ));
                self.bar(
                    "added by HTTP to a call in process, p50",
                    added,
                    "µs",
                    Wanted::AtMost(wanted::ADDED),
                );
            }
            if clients == pace.busy {
                capacity = Some(rates[0]);
                for (target, rate) in targets.iter().zip(&rates).skip(1) {
                    let what = format!("{clients} clients: requests/s over those of {}", target.name);
                    self.bar(what, rates[0] / rate, "×", Wanted::AtLeast(wanted::OVER_PEERS));
                }
            }
        }
        Ok(capacity)
    }

    /// Texts of mixed lengths, one and many to a request, beside one call of `embed_batch` with all of them.
    fn throughput(&mut self, targets: &[Target]) -> Result<()> {
        let pace = self.pace;
        for (per_request, clients) in [(1, pace.busy), (32, 4)] {
            let mut inside = 0.0;
            let mut tallies = vec![Tally::default(); targets.len()];
            for _ in 0..pace.rounds {
                inside += self.inside.throughput(&self.texts.mixed, pace.time)? / pace.rounds as f64;
                for (target, tally) in targets.iter().zip(&mut tallies) {
                    tally.add(self.closed(target, &self.texts.mixed, per_request, clients, pace.time)?);
                }
            }
            let texts = if per_request == 1 { "mixed" } else { "32 mixed" };
            for (target, tally) in targets.iter().zip(&tallies) {
                self.row(LoadRow::new(
                    format!("{clients} clients"),
                    texts,
                    &target.name,
                    tally,
                ));
            }
            self.row(LoadRow {
                case: "1 caller".into(),
                texts: "mixed",
                server: "embed_batch, in process".into(),
                answered_per_s: inside,
                ..LoadRow::default()
            });
            let share = tallies[0].rate() * per_request as f64 / inside;
            let what = format!("{clients} clients, {texts}: texts/s over those of embed_batch");
            self.bar(what, share, "×", Wanted::AtLeast(wanted::OF_EMBED_BATCH));
        }
        Ok(())
    }

    fn bodies(&self, target: &Target, texts: &[String], per_request: usize) -> Arc<[Bytes]> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts
            .chunks(per_request)
            .map(|texts| target.body(texts))
            .collect()
    }

    fn closed(
        &self,
        target: &Target,
        texts: &[String],
        per_request: usize,
        clients: usize,
        time: Duration,
    ) -> Result<Tally> {
        let bodies = self.bodies(target, texts, per_request);
        let warm_up = self.pace.warm_up;
        let tally = self
            .runtime
            .block_on(closed(target, &bodies, clients, None, warm_up, time));
        // So that no thread pool spins into the next one's time.
        std::thread::sleep(self.pace.warm_up);
        match tally.answered.is_empty() {
            false => Ok(tally),
            true => bail!(
                "{}: answered nothing: {}",
                target.name,
                tally.failure.unwrap_or_default()
            ),
        }
    }

    /// Queries that come whether or not earlier ones were answered.
    fn arrivals(&mut self, target: &Target, capacity: f64) -> Result<()> {
        let bodies = self.bodies(target, &self.texts.queries, 1);
        for (seed, &times) in self.pace.offered.iter().enumerate() {
            let rate = times * capacity;
            let arrivals = open(target, &bodies, rate, self.pace.open_time, seed as u64 + 1);
            let tally = self.runtime.block_on(arrivals);
            self.row(LoadRow {
                offered_per_s: Some(rate),
                ..LoadRow::new(format!("{times} × capacity"), "queries", &target.name, &tally)
            });
        }
        Ok(())
    }

    /// Twice as many queries as the server can answer. What it can is measured right before and right after, since on a shared
    /// machine it changes from minute to minute, and for longer than elsewhere: a processor's clock falls after some seconds
    /// of work on all cores.
    fn overload(&mut self, server: Option<&Server>, target: &Target) -> Result<()> {
        let bodies = self.bodies(target, &self.texts.queries, 1);
        let pace = self.pace;
        let time = pace.overload_time / 4;
        let before = self.capacity(target, time)?;
        let rate = OVERLOAD * before;
        let memory = server.map(Server::watch_memory);
        let arrivals = open(target, &bodies, rate, pace.overload_time, 99);
        let tally = self.runtime.block_on(arrivals);
        let rss_bytes = memory.and_then(|memory| memory.end());
        let around = [before, self.capacity(target, time)?];
        self.row(LoadRow {
            offered_per_s: Some(rate),
            rss_bytes,
            clock_late_ms: Some(tally.clock_late),
            ..LoadRow::new(
                format!("{OVERLOAD} × capacity, {:.0?}", pace.overload_time),
                "queries",
                &target.name,
                &tally,
            )
        });
        for (when, answered_per_s) in ["before", "after"].into_iter().zip(around) {
            self.row(LoadRow {
                case: format!("{} clients, right {when} it", pace.busy),
                texts: "queries",
                server: target.name.clone(),
                answered_per_s,
                ..LoadRow::default()
            });
        }
        let goodput = tally.rate() / (0.5 * (around[0] + around[1]));
        let what = format!("{OVERLOAD} × capacity: ");
        self.bar(
            format!("{what}goodput over capacity"),
            goodput,
            "×",
            Wanted::AtLeast(wanted::GOODPUT),
        );
        // In a short run on a quick machine none may be refused.
        if let Some(last) = quantile(&tally.refused, 1.0) {
            self.bar(
                format!("{what}the last refusal came after"),
                last,
                "ms",
                Wanted::AtMost(wanted::REFUSAL),
            );
        }
        let lost = (tally.failed + tally.unsent) as f64;
        self.bar(format!("{what}lost requests"), lost, "", Wanted::AtMost(0.0));
        if let Some((first, last)) = rss_bytes {
            let grown = last as f64 / first as f64;
            self.bar(
                format!("{what}memory over its first"),
                grown,
                "×",
                Wanted::AtMost(wanted::MEMORY),
            );
        }
        Ok(())
    }

    /// Queries alone on half of the threads, and beside a stream of documents with a context for them.
    fn beside_documents(&mut self, capacity: f64) -> Result<()> {
        let threads = self.inside.engine().threads();
        let on_gpu = self.inside.engine().on_gpu();
        if !on_gpu && threads < 2 {
            (self.say)("(one thread has no share for documents: left out)");
            return Ok(());
        }
        // On a GPU contexts share all of it, so that the share is the same.
        let (half, contexts) = if on_gpu {
            (threads, "2")
        } else {
            (threads / 2, "1")
        };
        let time = self.pace.documents_time;
        let rate = QUERIES_BESIDE * capacity;
        let mut tallies: [(Tally, Tally); 2] = Default::default();
        // In turns: on a shared machine the worst one of a hundred depends on the minute.
        for round in 0..self.pace.rounds {
            for ((threads, contexts, streams), (queries, documents)) in
                [(half, contexts, 0), (threads, "2", 2)]
                    .into_iter()
                    .zip(&mut tallies)
            {
                let server = self.start(threads, &["--contexts", contexts])?;
                let target = &server.target;
                let bodies = self.bodies(target, &self.texts.queries, 1);
                let long = self.bodies(target, &self.texts.documents, 1);
                // Another caller than the queries': callers share fairly.
                let other = cfg!(target_os = "linux").then_some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
                let (answered, stream) = self.runtime.block_on(async {
                    let stream = closed(target, &long, streams, other, Duration::ZERO, time);
                    let queries = open(target, &bodies, rate, time, 7 + round as u64);
                    tokio::join!(queries, stream)
                });
                queries.add(answered);
                documents.add(stream);
            }
        }
        let [(alone, _), (beside, documents)] = &tallies;
        for (case, tally) in [
            ("queries, half the cores", alone),
            ("queries beside documents", beside),
        ] {
            self.row(LoadRow {
                offered_per_s: Some(rate),
                ..LoadRow::new(case.into(), "queries", "ropeway", tally)
            });
        }
        let case = "documents beside queries".into();
        self.row(LoadRow::new(case, "documents", "ropeway", documents));
        let p99 = [alone, beside].map(|tally| tally.quantile(0.99).unwrap_or(f64::NAN));
        self.bar(
            "queries beside documents: p99 over that on half the cores",
            p99[1] / p99[0],
            "×",
            Wanted::AtMost(wanted::BESIDE),
        );
        Ok(())
    }

    fn cold_starts(&mut self) -> Result<()> {
        let mut seconds = Vec::new();
        for _ in 0..self.pace.starts {
            seconds.push(self.start(self.inside.engine().threads(), &[])?.start_seconds);
        }
        let median = quantile(&seconds, 0.5).unwrap_or(f64::NAN);
        self.bar(
            "from the start of the process until it is ready",
            median,
            "s",
            Wanted::AtMost(wanted::START),
        );
        Ok(())
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    match a.len() == b.len() {
        true => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        false => f64::NAN,
    }
}
