//! The files of `deploy/` against the server that they are for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use model_maker::{Family, ModelSpec};
use ropeway::service::Service;
use ropeway::{Device, Engine};
use ropeway_server::{Address, Limits, Model, Server, Settings};
use serde_json::Value;

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What `/metrics` says after one request.
fn metrics() -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("deploy-model");
    let spec = ModelSpec {
        vocab: 600,
        hidden: 64,
        layers: 1,
        heads: 2,
        ffn: 128,
        max_positions: 64,
        force: true,
        ..ModelSpec::new(Family::Jina)
    };
    model_maker::write(&spec, &folder).unwrap();
    let engine = Engine::builder().device(Device::Cpu).threads(1);
    let settings = Settings {
        address: Address::Tcp("127.0.0.1:0".parse().unwrap()),
        models: vec![Model {
            name: "tiny".into(),
            service: Service::start(engine.open(folder).unwrap()).unwrap(),
        }],
        api_keys: Vec::new(),
        limits: Limits::default(),
        log: false,
    };
    let server = Server::bind(settings).unwrap();
    let (url, handle) = (server.address(), server.handle());
    let thread = std::thread::spawn(|| server.run().unwrap());
    let body = serde_json::json!({"inputs": "a"}).to_string();
    ureq::post(format!("{url}/embed"))
        .header("content-type", "application/json")
        .send(body)
        .unwrap();
    let mut answer = ureq::get(format!("{url}/metrics")).call().unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    handle.stop();
    thread.join().unwrap();
    text
}

/// All queries of the dashboard: those of its panels and of its variables.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut queries: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let of_metrics = variables.iter().filter(|variable| variable["type"] == "query");
    queries.extend(of_metrics.map(|variable| variable["query"]["query"].as_str().unwrap().to_owned()));
    queries
}

/// The words of a query that name metrics of ours.
fn named(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("ropeway_") || word.starts_with("te_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_query_of_the_dashboard_names_metrics_and_labels_that_there_are() {
    let metrics = metrics();
    // A line is `name{label="value"} number`.
    let series: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let labels_of = |name: &str| -> BTreeSet<&str> {
        let lines = metrics
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name));
        let labels = lines.flat_map(|line| line.split(['{', ',']).skip(1));
        labels
            .filter_map(|label| Some(label.split_once("=\"")?.0))
            .collect()
    };
    let queries = queries(&dashboard());
    assert!(queries.len() > 20, "{queries:#?}");
    for query in queries {
        let names = named(&query);
        assert!(!names.is_empty(), "{query} names no metric");
        for name in names {
            assert!(
                series.contains(name.as_str()),
                "{query}: /metrics has no {name}:\n{metrics}"
            );
            let labels = labels_of(&name);
            // What it groups by and picks from.
            for label in ["model", "path", "status", "le"] {
                let used = query.contains(&format!("{label}=~"))
                    || query.contains("by (")
                        && query.split("by (").skip(1).any(|list| {
                            list.split(')')
                                .next()
                                .unwrap()
                                .split(", ")
                                .any(|name| name == label)
                        });
                assert!(
                    !used || labels.contains(label),
                    "{query}: {name} has no label {label}, but {labels:?}"
                );
            }
        }
    }
}

/// What Grafana needs to load it: panels with numbers of their own that do not lie on one another, and sources that are
/// variables.
#[test]
fn the_dashboard_is_sound() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
        let mut refs = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{panel}");
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let query = target["expr"].as_str().unwrap();
            let count = |c: char| query.matches(c).count();
            assert_eq!((count('('), count('{')), (count(')'), count('}')), "{query}");
        }
    }
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36);
}
