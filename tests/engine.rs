//! The engine on small random models: every step against float64, and results that depend on their
//! own input alone.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use model_maker::{AdapterSpec, Dtype, Family, Layout, ModelSpec};
use ropeway::inspect::{Executor, Side, compare};
use ropeway::{Chunking, Device, Embed, Embedding, Encoding, Engine, Output, Pooling, Request, Vector};

mod common;

use common::requests::{Random, ids, mixed_options, mixed_requests};

/// A small model, written once per name.
fn model(name: &str, change: impl FnOnce(&mut ModelSpec)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("engine-{name}"));
    let mut spec = ModelSpec {
        vocab: 700,
        hidden: 128,
        layers: 3,
        heads: 2,
        ffn: 256,
        max_positions: 600,
        force: true,
        ..ModelSpec::new(Family::Jina)
    };
    change(&mut spec);
    model_maker::write(&spec, &folder).unwrap();
    folder
}

fn jina() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| model("jina", |_| {}))
}

fn bert() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        model("bert", |spec| {
            (spec.family, spec.max_positions) = (Family::Bert, 300)
        })
    })
}

fn open(path: &Path) -> Engine {
    Engine::builder().device(Device::Cpu).open(path).unwrap()
}

#[track_caller]
fn agrees_with_float64(engine: &Engine, requests: &[Request<'_>]) {
    let side = |executor| Side {
        engine,
        executor,
        requests,
    };
    for difference in compare(&side(Executor::Device), &side(Executor::Naive)).unwrap() {
        // 3e-6 of the largest number: 50 times float32's rounding, for sums of up to 1,000 terms.
        assert!(difference.max_abs <= 3e-6 * difference.scale, "{difference}");
    }
}

#[test]
fn every_step_agrees_with_float64_on_a_mixed_batch() {
    let options = mixed_options();
    agrees_with_float64(
        &open(jina()),
        &mixed_requests(&options, &[1, 7, 63, 64, 65, 129, 2, 300, 33]),
    );
}

#[test]
fn every_family_type_and_odd_shape_agrees_with_float64() {
    let plain = [Embed::default()];
    let requests = mixed_requests(&plain, &[1, 5, 31, 100]);
    agrees_with_float64(&open(bert()), &requests);
    let xlmr = model("xlmr", |s| {
        (s.family, s.dtype, s.shards) = (Family::XlmRoberta, Dtype::F16, 3)
    });
    agrees_with_float64(&open(&xlmr), &requests);
    let odd = model("odd", |s| {
        (s.hidden, s.heads, s.ffn, s.layers, s.rank, s.dtype) = (90, 3, 77, 2, 3, Dtype::F32);
    });
    let options = mixed_options();
    let fits = |o: &&Embed| o.get_dimensions().is_none();
    let options: Vec<Embed> = options.iter().filter(fits).cloned().collect();
    agrees_with_float64(&open(&odd), &mixed_requests(&options, &[1, 9, 40, 3, 17]));
}

/// Models of random shapes, batches of random lengths and options: each against float64, and each
/// result alone against the same in its batch. `tools/test --all` tries many more.
#[test]
fn random_shapes_agree_with_float64_and_with_themselves() {
    let all = std::env::var_os("ROPEWAY_TEST_ALL").is_some();
    for seed in 0..if all { 300 } else { 6 } {
        let mut random = Random(seed);
        let family = [Family::Jina, Family::Bert, Family::XlmRoberta][random.below(3)];
        let path = model("random", |spec| {
            spec.family = family;
            spec.heads = 1 + random.below(5);
            spec.hidden = spec.heads * 2 * (1 + random.below(40));
            spec.ffn = 1 + random.below(300);
            spec.layers = 1 + random.below(3);
            spec.rank = 1 + random.below(16);
            spec.dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][random.below(3)];
            let layout = [Layout::Hub, Layout::Native][random.below(2)];
            spec.layout = if family == Family::Jina {
                layout
            } else {
                Layout::Hub
            };
            spec.seed = seed;
        });
        let engine = Engine::builder()
            .device(Device::Cpu)
            .threads(1 + random.below(4))
            .open(&path)
            .unwrap();
        let tasks: Vec<String> = engine
            .config()
            .task_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let options: Vec<Embed> = (0..5)
            .map(|_| {
                let options = match tasks.len() {
                    0 => Embed::default(),
                    n => {
                        let (a, b) = (random.below(n), random.below(n));
                        match random.below(3) {
                            0 => Embed::default(),
                            1 => Embed::task(&tasks[a]),
                            _ if a == b => Embed::mixture([(&tasks[a], 0.4)]),
                            _ => Embed::mixture([(&tasks[a], 1.5), (&tasks[b], -0.5)]),
                        }
                    }
                };
                options
                    .pooling([None, Some(Pooling::Cls), Some(Pooling::None)][random.below(3)])
                    .normalize(random.below(2) == 0)
                    .dimensions(1 + random.below(engine.config().hidden_size))
                    .any_dimensions(true)
            })
            .collect();
        let lengths: Vec<usize> = (0..1 + random.below(7)).map(|_| 1 + random.below(200)).collect();
        let requests = mixed_requests(&options, &lengths);
        let side = |executor| Side {
            engine: &engine,
            executor,
            requests: &requests,
        };
        for difference in compare(&side(Executor::Device), &side(Executor::Naive)).unwrap() {
            // Narrow rows can be nearly constant, and LayerNorm then divides by next to nothing: up to
            // ten times the error that wide ones have.
            assert!(
                difference.max_abs <= 3e-5 * difference.scale,
                "seed {seed}: {difference}"
            );
        }
        let together = engine.embed_batch(&requests);
        for (request, together) in requests.iter().zip(together) {
            let alone = engine
                .embed_batch(std::slice::from_ref(request))
                .remove(0)
                .unwrap();
            assert_eq!(alone, together.unwrap(), "seed {seed}");
        }
    }
}

#[test]
fn a_result_depends_on_its_own_input_alone() {
    let engine = open(jina());
    let options = mixed_options();
    let lengths = [1, 64, 7, 200, 63, 16, 65, 2, 130, 31, 5, 599];
    let requests = mixed_requests(&options, &lengths);
    let together: Vec<Embedding> = engine
        .embed_batch(&requests)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for (request, together) in requests.iter().zip(&together) {
        let alone = engine
            .embed_batch(std::slice::from_ref(request))
            .remove(0)
            .unwrap();
        assert_eq!(&alone, together, "alone and in a batch");
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.reverse();
    let reversed: Vec<Request<'_>> = order.iter().map(|&i| requests[i].clone()).collect();
    for (i, result) in order.iter().zip(engine.embed_batch(&reversed)) {
        assert_eq!(result.unwrap(), together[*i], "in another order");
    }
    for (threads, batch_tokens, lanes) in [(1, 64, 1), (2, 300, 2), (3, 10_000, 1), (5, 1, 3)] {
        let builder = Engine::builder()
            .threads(threads)
            .batch_tokens(batch_tokens)
            .concurrency(lanes);
        let other = builder.device(Device::Cpu).open(jina()).unwrap();
        for (result, together) in other.embed_batch(&requests).into_iter().zip(&together) {
            assert_eq!(
                &result.unwrap(),
                together,
                "{threads} threads, {batch_tokens} tokens, {lanes} lanes"
            );
        }
    }
}

#[test]
fn both_jina_layouts_give_the_same_bits() {
    let native = open(&model("native", |spec| spec.layout = Layout::Native));
    let hub = open(jina());
    assert_eq!(native.config().task_names(), hub.config().task_names());
    for name in hub.config().task_names() {
        let options = Embed::task(name);
        let texts = ["A short text.", "Ein etwas längerer Text, mit Prompt."];
        assert_eq!(
            native.embed(&texts, &options).unwrap(),
            hub.embed(&texts, &options).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_mixture_of_one_is_that_task_and_of_none_the_base_weights() {
    let engine = open(jina());
    let text = ["the same text"];
    let embed = |options: &Embed| engine.embed(&text, options).unwrap();
    let task = embed(&Embed::task("separation"));
    assert_eq!(embed(&Embed::mixture([("separation", 1.0)])), task);
    assert_eq!(
        embed(&Embed::mixture([("classification", 0.0), ("separation", 1.0)])),
        task
    );
    assert_eq!(
        embed(&Embed::mixture([("classification", 0.0)])),
        embed(&Embed::default())
    );
    // The prefix of a task is just text.
    let prefix = &engine.config().tasks[0].prefix;
    let query = Embed::mixture([("retrieval.query", 1.0)]).prompt(prefix.as_str());
    assert_eq!(embed(&query), embed(&Embed::task("retrieval.query")));
    assert_ne!(
        embed(&Embed::task("retrieval.query").prompt("")),
        embed(&Embed::task("retrieval.query"))
    );
}

#[test]
fn adapters_come_and_go_while_others_embed() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-user-adapter");
    let spec = AdapterSpec {
        targets: ["q_proj", "v_proj", "fc1", "word_embeddings"]
            .map(str::to_owned)
            .to_vec(),
        rank: 8,
        alpha: 16.0,
        force: true,
        ..AdapterSpec::new(jina())
    };
    model_maker::write_adapter(&spec, &folder).unwrap();
    let engine = open(jina());
    let input = ids(50, 1);
    let embed = |options: &Embed| {
        engine
            .embed_batch(&[Request::ids(input.as_slice(), options)])
            .remove(0)
    };
    let before = embed(&Embed::task("classification")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(embed(&Embed::task("classification")).unwrap(), before);
                }
            });
        }
        let mut first = None;
        for _ in 0..10 {
            engine.add_adapter("mine", &folder).unwrap();
            assert!(engine.adapters().contains(&"mine".to_owned()));
            let mine = embed(&Embed::task("mine")).unwrap();
            assert_ne!(mine, embed(&Embed::default()).unwrap());
            assert_eq!(first.get_or_insert_with(|| mine.clone()), &mine);
            embed(&Embed::mixture([("mine", 0.5), ("separation", 0.5)])).unwrap();
            engine.remove_adapter("mine").unwrap();
            assert!(embed(&Embed::task("mine")).is_err());
        }
        stop.store(true, Ordering::Relaxed);
    });
    engine.add_adapter("mine", &folder).unwrap();
    let options = [
        Embed::task("mine"),
        Embed::mixture([("mine", 0.3), ("text-matching", 1.0)]),
        Embed::default(),
    ];
    agrees_with_float64(&engine, &mixed_requests(&options, &[40, 9, 77]));
}

/// The f32 rows of a request.
fn rows(engine: &Engine, request: Request<'_>) -> Vec<Vec<f32>> {
    let f32s = |vector: &Vector| vector.as_f32().unwrap().to_vec();
    match engine.embed_batch(&[request]).remove(0).unwrap().output {
        Output::Vector(vector) => vec![f32s(&vector)],
        Output::Tokens(vectors) => vectors.iter().map(f32s).collect(),
        Output::Chunks(chunks) => chunks.iter().map(|chunk| f32s(&chunk.vector)).collect(),
        other => panic!("{other:?}"),
    }
}

fn normalised_mean(rows: &[Vec<f32>], dimensions: usize) -> Vec<f64> {
    let mut mean = vec![0.0; dimensions];
    for row in rows {
        mean.iter_mut()
            .zip(row)
            .for_each(|(sum, &x)| *sum += f64::from(x) / rows.len() as f64);
    }
    let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    mean.iter().map(|x| x / norm).collect()
}

#[track_caller]
fn close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (&a, &b) in got.iter().zip(want) {
        // Written so that NaN fails.
        assert!((f64::from(a) - b).abs() < 1e-6, "{a} is not {b}");
    }
}

#[test]
fn pooling_and_matryoshka_follow_from_the_token_vectors() {
    let engine = open(jina());
    let input = ids(90, 3);
    let ask = |options: &Embed| rows(&engine, Request::ids(input.as_slice(), options));
    let tokens = ask(&Embed::default().pooling(Pooling::None).normalize(false));
    assert_eq!(tokens.len(), 90);
    for dimensions in [32, 64, 128] {
        // Cut first, normalise then.
        close(
            &ask(&Embed::default().dimensions(dimensions))[0],
            &normalised_mean(&tokens, dimensions),
        );
    }
    assert_eq!(
        ask(&Embed::default().pooling(Pooling::Cls).normalize(false))[0],
        tokens[0]
    );
    let unit = ask(&Embed::default().pooling(Pooling::None));
    close(&unit[17], &normalised_mean(&tokens[17..18], 128));
}

#[test]
fn late_chunks_are_means_over_one_forward_pass() {
    let engine = open(jina());
    let input = ids(90, 4);
    let ask = |options: &Embed| rows(&engine, Request::ids(input.as_slice(), options));
    let weights = Embed::task("retrieval.passage");
    let tokens = ask(&weights.clone().pooling(Pooling::None).normalize(false));
    let spans = vec![(0, 10), (5, 90), (89, 90)];
    let chunks = ask(&weights
        .clone()
        .chunks(Chunking::Spans(spans.clone()))
        .dimensions(64));
    for (chunk, &(start, end)) in chunks.iter().zip(&spans) {
        close(chunk, &normalised_mean(&tokens[start..end], 64));
    }
    // Without a task late chunking takes retrieval.passage.
    let chunked = |weights: Embed| ask(&weights.chunks(Chunking::Tokens(40)));
    assert_eq!(chunked(Embed::default()), chunked(weights));
    assert_ne!(chunked(Embed::default()), chunked(Embed::base()));
}

#[test]
fn long_documents_go_through_overlapping_windows() {
    let engine = Engine::builder()
        .device(Device::Cpu)
        .batch_tokens(150)
        .open(jina())
        .unwrap();
    let input = ids(1000, 5);
    let (size, overlap) = (100, 30);
    let options = Embed::task("retrieval.passage");
    let unpooled = options.clone().pooling(Pooling::None).normalize(false);
    let mut tokens = Vec::new();
    let mut start = 0;
    while tokens.len() < input.len() {
        let window = &input[start..input.len().min(start + size)];
        let outputs = rows(&engine, Request::ids(window, &unpooled));
        tokens.extend(outputs.into_iter().skip(if start == 0 { 0 } else { overlap }));
        start += size - overlap;
    }
    let spans = vec![(0, 1000), (0, 99), (60, 140), (100, 101), (930, 1000)];
    let options = options
        .chunks(Chunking::Spans(spans.clone()))
        .window(size)
        .overlap(overlap);
    let chunks = rows(&engine, Request::ids(input.as_slice(), &options));
    for (chunk, &(start, end)) in chunks.iter().zip(&spans) {
        close(chunk, &normalised_mean(&tokens[start..end], 128));
    }
}

#[test]
fn long_input_is_cut_and_said_so() {
    let engine = open(bert());
    let text = "many words go in here ".repeat(200);
    let result = engine
        .embed(&[text.as_str()], &Embed::default())
        .unwrap()
        .remove(0);
    assert!(result.truncated);
    assert_eq!(result.tokens, engine.config().max_tokens);
    let error = engine
        .embed(&[text.as_str()], &Embed::default().truncate(false))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("takes {}", engine.config().max_tokens)),
        "{error}"
    );
    // All of it goes through where it is chunked.
    let options = Embed::default()
        .chunks(Chunking::Tokens(100))
        .window(128)
        .overlap(16);
    let chunked = engine.embed(&[text.as_str()], &options).unwrap().remove(0);
    assert!(!chunked.truncated && chunked.tokens > 800);
    assert_eq!(
        chunked.chunks().unwrap().last().unwrap().end,
        text.chars().count()
    );
}

#[test]
fn a_bad_request_does_not_hurt_the_others() {
    let engine = open(jina());
    let (good, bad) = (Embed::task("separation"), Embed::task("no-such-task"));
    let out_of_vocabulary = [5, 700];
    let requests = [
        Request::text("good", &good),
        Request::text("bad", &bad),
        Request::ids(out_of_vocabulary.as_slice(), &good),
        Request::text("also good", &good),
    ];
    let results = engine.embed_batch(&requests);
    let alone = engine.embed(&["good", "also good"], &good).unwrap();
    assert_eq!(results[0].as_ref().unwrap(), &alone[0]);
    assert_eq!(results[3].as_ref().unwrap(), &alone[1]);
    assert!(
        results[1]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("text-matching"),
        "lists the tasks"
    );
    assert!(
        results[2].as_ref().unwrap_err().to_string().contains("700"),
        "names the id"
    );
    assert_eq!(engine.embed_batch(&[]).len(), 0);
}

/// Two bytes of an input can ask for a vector, and a model can bring a prompt of any length.
#[test]
fn what_an_input_asks_for_is_bounded() {
    use ropeway::{Error, RequestError};
    let engine = open(bert());
    let each = Embed::base().chunks(Chunking::Tokens(1));
    // A vector of 128 dimensions takes 576 bytes with what is kept beside it.
    let many = vec![1; (256 << 20) / 576 + 1];
    let results = engine.embed_batch(&[
        Request::ids(&many, &each),
        Request::ids(vec![5, 6], Embed::base()),
    ]);
    assert!(
        matches!(
            results[0],
            Err(Error::Request(RequestError::LargeResult { vectors, bytes, limit }))
                if vectors == many.len() && limit == 256 << 20 && bytes > limit
        ),
        "{:?}",
        results[0]
    );
    assert!(results[1].is_ok());
    // The model takes 300 tokens.
    let with = |prompt: String| Embed::base().prompt(prompt);
    let results = engine.embed_batch(&[
        Request::ids(vec![5, 6], with("x".repeat(300 * 64 + 1))),
        Request::ids(vec![5, 6], with("x".repeat(300 * 64))),
    ]);
    assert!(
        matches!(
            results[0],
            Err(Error::Request(RequestError::LongPrompt {
                bytes: 19_201,
                tokens: 300,
                limit: 19_200
            }))
        ),
        "{:?}",
        results[0]
    );
    assert!(results[1].is_ok());
}

#[test]
fn encodings_hold_the_same_vector() {
    let engine = open(jina());
    let embed = |encoding| {
        let options = Embed::default().dimensions(64).encoding(encoding);
        match engine.embed(&["some text"], &options).unwrap().remove(0).output {
            Output::Vector(vector) => vector,
            other => panic!("{other:?}"),
        }
    };
    let exact = embed(Encoding::F32);
    for encoding in [Encoding::F16, Encoding::Int8, Encoding::Binary, Encoding::Base64] {
        assert_eq!(embed(encoding), Vector::encode(exact.as_f32().unwrap(), encoding));
    }
}

#[test]
fn a_difference_on_either_side_is_found() {
    let engine = open(jina());
    let (base, task) = ([Embed::default()], [Embed::task("separation")]);
    let (base, task) = (mixed_requests(&base, &[20]), mixed_requests(&task, &[20]));
    let side = |requests| Side {
        engine: &engine,
        executor: Executor::Device,
        requests,
    };
    for (left, right) in [(&base, &task), (&task, &base)] {
        let differences = compare(&side(left), &side(right)).unwrap();
        let first = differences.iter().find(|d| !d.within()).unwrap();
        assert_eq!(first.step, 0, "{first}");
    }
    // An adapter on q alone: the embeddings agree, and its down-projection is the first to differ.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-query-adapter");
    let spec = AdapterSpec {
        targets: vec!["q_proj".to_owned()],
        force: true,
        ..AdapterSpec::new(jina())
    };
    model_maker::write_adapter(&spec, &folder).unwrap();
    let other = open(jina());
    engine.add_adapter("mine", &folder).unwrap();
    let mine = [Embed::task("mine")];
    let mine = mixed_requests(&mine, &[20]);
    for (left, right) in [(&base, &mine), (&mine, &base)] {
        let differences = compare(&side(left), &side(right)).unwrap();
        let first = differences.iter().find(|d| !d.within()).unwrap();
        assert!(first.name.contains("LoraDown(Qkv)"), "{first}");
    }
    // Engines with different adapters loaded cannot be compared on inputs that use any.
    let left = Side {
        engine: &other,
        executor: Executor::Device,
        requests: &base,
    };
    assert!(
        compare(&left, &side(&mine))
            .unwrap_err()
            .to_string()
            .contains("different adapters")
    );
}

#[test]
fn numbers_that_are_not_finite_are_an_error_and_not_a_result() {
    let engine = open(jina());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-huge-adapter");
    let spec = AdapterSpec {
        alpha: 1e38,
        force: true,
        ..AdapterSpec::new(jina())
    };
    model_maker::write_adapter(&spec, &folder).unwrap();
    let config = folder.join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    engine.add_adapter("huge", &folder).unwrap();
    let (huge, good) = (Embed::mixture([("huge", 1000.0)]), Embed::default());
    let results = engine.embed_batch(&[Request::text("a", &huge), Request::text("a", &good)]);
    let error = results[0].as_ref().map(|e| format!("{e:?}")).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error} {text}");
    assert_eq!(
        results[1].as_ref().unwrap(),
        &engine.embed(&["a"], &good).unwrap()[0]
    );
}

#[test]
fn memory_is_known_in_advance() {
    let small = Engine::builder()
        .device(Device::Cpu)
        .batch_tokens(10)
        .open(jina())
        .unwrap()
        .memory();
    let large = Engine::builder()
        .device(Device::Cpu)
        .batch_tokens(6000)
        .open(jina())
        .unwrap()
        .memory();
    // One input may be longer than the budget, so the arena holds 600 tokens at least.
    assert!(small.arena >= 600 * (128 * 3 + 128) * 4);
    assert_eq!(large.arena / small.arena, 10);
    // Weights: three layers of 4·128² + 2·128·256 numbers in bf16, as the checkpoint has them, and biases.
    let numbers = 3 * (4 * 128 * 128 + 2 * 128 * 256);
    assert!((2 * numbers..3 * numbers).contains(&small.weights));
}
