//! Agreement with reference implementations, on the fixtures that `tools/golden/make` wrote. Where
//! the expected values and the tolerances come from is told in `tools/golden/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use ropeway::inspect::{Executor, Side, trace};
use ropeway::{AdapterSelection, Chunking, Device, Embed, Engine, Request};
use serde_json::Value;

mod common;
#[path = "golden/folders.rs"]
mod folders;

use common::fixture::{Fixture, folder, numbers, pairs, request, values};

/// What the project promises for normalised embeddings. The fixtures' own tolerances are tighter.
const PROMISED: f64 = 5e-6;

fn open(name: &str) -> Engine {
    Engine::builder()
        .device(Device::Cpu)
        .open(folder().join(name))
        .unwrap()
}

/// The largest difference; a NaN anywhere is infinitely far off.
fn max_abs(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let gap = |(&a, &b): (&f32, &f32)| {
        if (a - b).is_nan() {
            f64::INFINITY
        } else {
            f64::from(a - b).abs()
        }
    };
    got.iter().zip(want).map(gap).fold(0.0, f64::max)
}

/// Runs all cases of a fixture in one batch and checks them, each against its own tolerance.
fn check(name: &str, fixture: &Fixture, engine: &Engine) {
    let requests: Vec<Request<'_>> = fixture.cases().iter().map(|case| request(case, false)).collect();
    let results = engine.embed_batch(&requests);
    let (mut worst, mut worst_normalised) = (0f64, 0f64);
    for (case, result) in fixture.cases().iter().zip(results) {
        let result = result.unwrap_or_else(|e| panic!("{}: {e}", case["name"]));
        let error = max_abs(&values(&result.output), &fixture.tensor(&case["expected"]));
        let tolerance = case["tolerance"].as_f64().unwrap();
        assert!(
            error <= tolerance,
            "{name} {}: off by {error:.1e}, tolerance {tolerance:.1e}",
            case["name"]
        );
        worst = worst.max(error / tolerance);
        if case["normalize"] == true {
            worst_normalised = worst_normalised.max(error);
        }
    }
    assert!(worst_normalised <= PROMISED);
    println!(
        "{name}: normalised embeddings off by {worst_normalised:.1e} at most, {worst:.2} of the tolerance"
    );
    check_layers(name, fixture, engine);
}

/// Every layer's output, for the cases that have them.
fn check_layers(name: &str, fixture: &Fixture, engine: &Engine) {
    let tolerances = fixture.manifest["tolerance"]["hidden_states"].as_array().unwrap();
    let layers = engine.config().num_hidden_layers + 1;
    assert_eq!(tolerances.len(), layers);
    let mut checked = 0;
    for case in fixture
        .cases()
        .iter()
        .filter(|case| !case["hidden_states"].is_null())
    {
        let want = fixture.tensor(&case["hidden_states"]);
        let requests = [request(case, false)];
        let side = Side {
            engine,
            executor: Executor::Device,
            requests: &requests,
        };
        let per_layer = want.len() / layers;
        let mut layer = 0;
        trace(&side, &mut |buffer, data| {
            if !buffer.contains(".hidden ") {
                return;
            }
            let data: Vec<f32> = data.iter().map(|&x| x as f32).collect();
            let error = max_abs(&data, &want[layer * per_layer..(layer + 1) * per_layer]);
            let tolerance = tolerances[layer].as_f64().unwrap();
            assert!(
                error <= tolerance,
                "{name} {}, {buffer}: off by {error:.1e}",
                case["name"]
            );
            layer += 1;
        })
        .unwrap();
        assert_eq!(layer, layers);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn jina_in_the_hub_layout() {
    check("jina-hub", &Fixture::open("jina"), &open("jina-hub"));
}

#[test]
fn jina_in_the_transformers_layout() {
    check("jina-native", &Fixture::open("jina"), &open("jina-native"));
}

#[test]
fn bert_and_xlm_roberta_with_a_users_adapter() {
    for name in ["bert", "xlm-roberta"] {
        let engine = open(name);
        engine
            .add_adapter("user", folder().join(name).join("user"))
            .unwrap();
        check(name, &Fixture::open(name), &engine);
    }
}

#[test]
fn text_becomes_the_reference_tokenizers_ids_and_vectors() {
    let fixture = Fixture::open("jina");
    for engine in [open("jina-hub"), open("jina-native")] {
        let mut checked = 0;
        for case in fixture.cases().iter().filter(|case| case["text"].is_string()) {
            let requests = [request(case, true)];
            let result = engine.embed_batch(&requests).remove(0).unwrap();
            assert_eq!(result.tokens, numbers(&case["ids"]).len(), "{}", case["name"]);
            let error = max_abs(&values(&result.output), &fixture.tensor(&case["expected"]));
            assert!(
                error <= case["tolerance"].as_f64().unwrap(),
                "{}: off by {error:.1e}",
                case["name"]
            );
            checked += 1;
        }
        assert!(checked > 10);
    }
}

#[test]
fn sentences_are_the_fixtures_spans() {
    let fixture = Fixture::open("jina");
    let engine = open("jina-hub");
    let case = fixture
        .cases()
        .iter()
        .find(|case| case["name"] == "chunks/text")
        .unwrap();
    let options = Embed::default().chunks(Chunking::Sentences);
    let result = engine
        .embed(&[case["text"].as_str().unwrap()], &options)
        .unwrap()
        .remove(0);
    // The text is ASCII, so that bytes are code points; who gets the space between does not matter.
    let text = case["text"].as_str().unwrap();
    let sentences: Vec<&str> = result
        .chunks()
        .unwrap()
        .iter()
        .map(|c| text[c.start..c.end].trim())
        .collect();
    let want = pairs(&case["chunks"]["byte_ranges"]);
    assert_eq!(
        sentences,
        want.iter()
            .map(|&(start, end)| text[start..end].trim())
            .collect::<Vec<_>>()
    );
    let error = max_abs(&values(&result.output), &fixture.tensor(&case["expected"]));
    assert!(error <= PROMISED, "off by {error:.1e}");
}

/// The least error over the fixture's cases of 7 or more tokens, when something is wrong on purpose.
fn least_error(fixture: &Fixture, engine: &Engine, change: impl Fn(Embed) -> Embed) -> f64 {
    let mut least = f64::INFINITY;
    for case in fixture.cases() {
        let whole = case["pooling"] == "mean" && case["normalize"] == true && case["dimensions"].is_null();
        if !whole || numbers(&case["ids"]).len() < 7 {
            continue;
        }
        let Request { input, options, .. } = request(case, false);
        let before = options.into_owned();
        let request = Request::new(input, change(before.clone()));
        if before == *request.options && engine.config().positions == open("jina-hub").config().positions {
            continue;
        }
        let result = engine.embed_batch(&[request]).remove(0).unwrap();
        least = least.min(max_abs(
            &values(&result.output),
            &fixture.tensor(&case["expected"]),
        ));
    }
    assert!(least.is_finite(), "no case was tried");
    least
}

#[test]
fn mistakes_made_on_purpose_are_seen() {
    let fixture = Fixture::open("jina");
    let hub = open("jina-hub");
    let tasks: Vec<String> = hub.config().task_names().into_iter().map(str::to_owned).collect();
    let wrong_task = least_error(&fixture, &hub, |options| match options.get_adapters() {
        AdapterSelection::Task(task) => {
            let index = tasks.iter().position(|t| t == task).unwrap();
            let next = tasks[(index + 1) % tasks.len()].clone();
            options.adapters(AdapterSelection::Task(next))
        }
        _ => options,
    });
    let adapters_off = least_error(&fixture, &hub, |options| options.adapters(AdapterSelection::Base));
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder().join("jina-hub")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = copy.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("20000"));
    fs::write(&config, text.replace("20000", "10000")).unwrap();
    let rope = Engine::builder().device(Device::Cpu).open(copy.path()).unwrap();
    let rope_base = least_error(&fixture, &rope, |options| options);
    for (mistake, least) in [
        ("task", wrong_task),
        ("adapters", adapters_off),
        ("rope", rope_base),
    ] {
        println!("{mistake}: at least {least:.1e}");
        assert!(
            least > 100.0 * PROMISED,
            "a wrong {mistake} moves embeddings by {least:.1e} only"
        );
    }
}

/// MiniLM's folder: where tools/fetch-model puts it, or where ROPEWAY_MINILM says.
fn minilm() -> Option<Engine> {
    let required = std::env::var_os("ROPEWAY_MINILM").map(PathBuf::from);
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-MiniLM-L6-v2");
    let path = required.clone().unwrap_or(default);
    if required.is_none() && !path.exists() {
        eprintln!(
            "SKIPPED: there is no {}; tools/fetch-model minilm gets it",
            path.display()
        );
        return None;
    }
    Some(Engine::builder().device(Device::Cpu).open(path).unwrap())
}

#[test]
fn minilm_agrees_with_sentence_transformers() {
    let Some(engine) = minilm() else { return };
    let fixture = Fixture::open("minilm");
    let rows = fixture.tensor(&fixture.manifest["expected"]);
    let tolerance = fixture.manifest["tolerance"].as_f64().unwrap();
    let texts: Vec<&str> = fixture
        .cases()
        .iter()
        .map(|case| case["text"].as_str().unwrap())
        .collect();
    let results = engine.embed(&texts, &Embed::default()).unwrap();
    let mut worst = 0f64;
    for (case, result) in fixture.cases().iter().zip(&results) {
        assert_eq!(result.tokens, numbers(&case["ids"]).len(), "{}", case["name"]);
        assert_eq!(
            Some(result.truncated),
            case["truncated"].as_bool(),
            "{}",
            case["name"]
        );
        let row = case["row"].as_u64().unwrap() as usize;
        let error = max_abs(result.as_f32().unwrap(), &rows[row * 384..(row + 1) * 384]);
        assert!(
            error <= tolerance,
            "{}: off by {error:.1e}, tolerance {tolerance:.1e}",
            case["name"]
        );
        worst = worst.max(error);
    }
    println!("MiniLM: off by {worst:.1e} at most");

    let ranking = &fixture.manifest["ranking"];
    let vector = |name: &Value| {
        let index = fixture
            .cases()
            .iter()
            .position(|case| &case["name"] == name)
            .unwrap();
        results[index].as_f32().unwrap()
    };
    let query = vector(&ranking["query"]);
    let score = |name: &Value| query.iter().zip(vector(name)).map(|(a, b)| a * b).sum::<f32>();
    let mut order: Vec<&Value> = ranking["passages"].as_array().unwrap().iter().collect();
    order.sort_by(|a, b| score(b).total_cmp(&score(a)));
    assert_eq!(
        order,
        ranking["order"].as_array().unwrap().iter().collect::<Vec<_>>()
    );
}
