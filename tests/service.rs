//! The service over small random models: the bits of `embed_batch`, whatever was packed together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model_maker::Family;
use ropeway::service::{Service, ServiceError, Submission};
use ropeway::{Chunking, Device, Embed, Embedding, Engine, Error, Request};

mod common;

use common::requests::{Random, mixed_options};
use common::{Scratch, tiny};

fn engine(concurrency: usize) -> Engine {
    let folder = common::model(&tiny(Family::Jina));
    let builder = Engine::builder().device(Device::Cpu).threads(2);
    builder
        .concurrency(concurrency)
        .batch_tokens(64)
        .open(folder)
        .unwrap()
}

/// Requests of all kinds: short, at the model's limit, chunked in windows, of mixed options.
fn requests() -> Vec<Request<'static>> {
    let mut random = Random(5);
    let options = mixed_options();
    let mut ids = |count: usize| -> Vec<u32> { (0..count).map(|_| random.below(150) as u32).collect() };
    let lengths = [1, 3, 40, 7, 12, 25, 2, 33, 18, 5];
    let plain = lengths
        .into_iter()
        .cycle()
        .take(60)
        .zip(options.into_iter().cycle());
    let mut requests: Vec<Request<'static>> = plain
        .map(|(count, options)| Request::ids(ids(count), options))
        .collect();
    let windows = Embed::base().chunks(Chunking::Tokens(9)).window(30).overlap(5);
    for count in [20, 130, 300] {
        requests.push(Request::ids(ids(count), windows.clone()));
    }
    requests
}

#[test]
fn whatever_shares_a_pass_has_the_bits_of_a_call() {
    let engine = Arc::new(engine(2));
    let requests = requests();
    let alone: Vec<Embedding> = requests
        .iter()
        .map(|request| {
            engine
                .embed_batch(std::slice::from_ref(request))
                .remove(0)
                .unwrap()
        })
        .collect();
    let service = Service::builder()
        .pass_time(Duration::from_secs(1))
        .queue_tokens(1 << 20)
        .start(engine)
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (service, requests, alone) = (&service, &requests, &alone);
            scope.spawn(move || {
                let submit = |request: &Request<'static>| {
                    let submission = Submission::new(request.clone()).caller(format!("caller {thread}"));
                    service.submit(submission).unwrap()
                };
                let tickets: Vec<_> = requests.iter().map(submit).collect();
                for (ticket, alone) in tickets.into_iter().zip(alone) {
                    assert_eq!(ticket.wait().unwrap(), *alone);
                }
            });
        }
    });
    let counts = service.snapshot();
    assert_eq!(counts.completed, 4 * requests.len() as u64);
    assert!(counts.passes < counts.completed, "no pass was shared");
}

#[test]
fn a_bad_request_fails_alone_and_adapters_come_and_go() {
    let base = common::model(&tiny(Family::Jina));
    let adapter = Scratch::adapter(&base, &["q_proj"]);
    let service = Service::start(engine(1)).unwrap();
    let own = || Request::ids(vec![3, 4, 5], Embed::task("own"));
    let unknown = service.submit(own()).unwrap().wait().unwrap_err();
    assert!(
        matches!(unknown, ServiceError::Engine(Error::Request(_))),
        "{unknown}"
    );
    service.engine().add_adapter("own", adapter.path()).unwrap();
    let with = service.submit(own()).unwrap().wait().unwrap();
    assert_eq!(with, service.engine().embed_batch(&[own()]).remove(0).unwrap());
    service.engine().remove_adapter("own").unwrap();
    assert!(service.submit(own()).unwrap().wait().is_err());
    let good = service
        .submit(Request::ids(vec![3, 4, 5], Embed::base()))
        .unwrap();
    assert!(good.wait().is_ok());
}

#[test]
fn a_deadline_in_the_past_is_refused_at_the_door() {
    let service = Service::builder().warm_up(false).start(engine(1)).unwrap();
    let request = Submission::new(Request::ids(vec![1], Embed::base())).deadline(Instant::now());
    let refused = service.submit(request).unwrap_err();
    assert!(matches!(refused, ServiceError::Unreachable { .. }), "{refused}");
    assert!(matches!(
        Service::builder().queue_tokens(0).start(service.engine()),
        Err(Error::Setting {
            name: "queue_tokens",
            ..
        })
    ));
}
