//! The threads around the scheduler, over an executor that waits, panics and is lost when it is told to.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

use super::*;
use crate::output::{Embedding, Output, Vector};
use crate::request::{Embed, Input, Request};
use crate::service::ticket::Served;

/// First ids that make something fail.
const PANICS_IN_PASS: u32 = 1001;
const PANICS_IN_TOKENIZER: u32 = 1002;
const LOSES_DEVICE: u32 = 1003;
const IS_REFUSED: u32 = 1004;
/// What a warm-up computes.
const WARM_UP: u32 = 1005;

/// Longer than anything here takes, where it works.
const LONG: Duration = Duration::from_secs(60);

/// A door that passes wait at.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
    /// Passes that came to it.
    came: AtomicUsize,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            closed = self.changed.wait(closed).unwrap();
        }
    }
}

/// The embedding of ids is their numbers.
struct Fake {
    gate: Arc<Gate>,
    /// First ids of all sequences that were computed.
    computed: Arc<Mutex<Vec<u32>>>,
    /// The threads that tokenised, by the first ids of what they did.
    tokenized: Arc<Mutex<HashMap<u32, String>>>,
    lost: Mutex<bool>,
    /// Engines that are held.
    held: Arc<AtomicUsize>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Executor for Fake {
    type Ready = Vec<u32>;
    type Rows = Vec<f32>;

    fn contexts(&self) -> usize {
        1
    }

    fn pass_tokens(&self) -> usize {
        64
    }

    fn full_speed_tokens(&self) -> usize {
        64
    }

    fn max_tokens(&self) -> usize {
        100
    }

    fn sequence_cost(&self) -> (u64, u64) {
        (1, 0)
    }

    fn prepare(&self, request: &Request<'static>) -> Result<Vec<u32>> {
        let Input::Ids(ids) = &request.input else {
            panic!("these tests send ids")
        };
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.tokenized.lock().unwrap().insert(ids[0], thread);
        match ids[0] {
            PANICS_IN_TOKENIZER => panic!("in the tokenizer"),
            IS_REFUSED => Err(crate::error::RequestError::NoIds.into()),
            _ => Ok(ids.to_vec()),
        }
    }

    fn warm_up(&self) -> Result<()> {
        self.computed.lock().unwrap().push(WARM_UP);
        Ok(())
    }

    fn lengths(ready: &Vec<u32>) -> Vec<usize> {
        vec![ready.len()]
    }

    fn group(_: &Vec<u32>) -> usize {
        0
    }

    fn run(&self, sequences: &[(&Vec<u32>, usize)]) -> Result<Vec<Vec<f32>>, Failed> {
        self.gate.pass();
        let has = |id| sequences.iter().any(|(ids, _)| ids[0] == id);
        if has(PANICS_IN_PASS) {
            panic!("in the pass");
        }
        let mut lost = self.lost.lock().unwrap();
        *lost |= has(LOSES_DEVICE);
        if *lost {
            return Err(Failed {
                kind: FailureKind::Lost,
                error: Box::new(|| Error::DeviceLost("of a test".into())),
            });
        }
        let mut computed = self.computed.lock().unwrap();
        computed.extend(sequences.iter().map(|(ids, _)| ids[0]));
        let row = |(ids, _): &(&Vec<u32>, usize)| ids.iter().map(|&id| id as f32).collect();
        Ok(sequences.iter().map(row).collect())
    }

    fn finish(&self, _: Vec<u32>, rows: Vec<Vec<f32>>) -> Result<Embedding> {
        Ok(Embedding::new(Output::Vector(Vector::F32(rows.concat()))))
    }
}

fn limits() -> Limits {
    Limits {
        contexts: 1,
        queue_requests: 1000,
        queue_tokens: 2000,
        pass_tokens: 64,
        pass_time: LONG,
        pass_cost: 0,
        max_wait: Duration::ZERO,
    }
}

struct Setting {
    runtime: Runtime<Fake>,
    gate: Arc<Gate>,
    computed: Arc<Mutex<Vec<u32>>>,
    tokenized: Arc<Mutex<HashMap<u32, String>>>,
}

fn start_with(limits: Limits, reopen: bool) -> Setting {
    let (gate, computed) = (Arc::<Gate>::default(), Arc::<Mutex<Vec<u32>>>::default());
    let tokenized = Arc::<Mutex<HashMap<u32, String>>>::default();
    let held = Arc::<AtomicUsize>::default();
    let open = {
        let (gate, computed, tokenized) = (gate.clone(), computed.clone(), tokenized.clone());
        move || {
            // As on a GPU: a lost device stays lost for as long as its engine is held.
            if held.fetch_add(1, Ordering::SeqCst) > 0 {
                held.fetch_sub(1, Ordering::SeqCst);
                return Err(Error::DeviceLost("it is still held".into()));
            }
            Ok(Fake {
                gate: gate.clone(),
                computed: computed.clone(),
                tokenized: tokenized.clone(),
                lost: Mutex::default(),
                held: held.clone(),
            })
        }
    };
    let fake = open().unwrap();
    let reopen: Option<Reopen<Fake>> = reopen.then(|| warmed(Box::new(open)));
    Setting {
        runtime: Runtime::start(fake.into(), limits, Speed::default(), 2, reopen).unwrap(),
        gate,
        computed,
        tokenized,
    }
}

fn start() -> Setting {
    start_with(limits(), false)
}

fn of_ids(ids: &[u32]) -> Submission {
    Request::ids(ids.to_vec(), Embed::base()).into()
}

impl Setting {
    fn submit(&self, id: u32) -> Ticket {
        self.runtime.submit(of_ids(&[id])).unwrap()
    }

    /// Waits until so many requests are tokenised, or refused by the tokenizer.
    fn until_tokenized(&self, count: u64) {
        let start = Instant::now();
        while self.runtime.snapshot().tokenize_seconds.count() < count {
            assert!(start.elapsed() < LONG);
            std::thread::yield_now();
        }
    }

    /// A pass that is held, and what comes in meanwhile, tokenised.
    fn behind_a_held_pass(&self, ids: &[u32]) -> (Ticket, Vec<Ticket>) {
        self.gate.set(true);
        let came = self.gate.came.load(Ordering::SeqCst);
        let before = self.runtime.snapshot().tokenize_seconds.count();
        let held = self.submit(1);
        let start = Instant::now();
        while self.gate.came.load(Ordering::SeqCst) == came {
            assert!(start.elapsed() < LONG);
            std::thread::yield_now();
        }
        let tickets = ids.iter().map(|&id| self.submit(id)).collect();
        self.until_tokenized(before + 1 + ids.len() as u64);
        (held, tickets)
    }
}

fn numbers(served: Served) -> Vec<f32> {
    served.unwrap().into_f32().unwrap()
}

#[test]
fn everyone_gets_their_own_and_passes_are_shared() {
    let setting = start();
    let (held, tickets) = setting.behind_a_held_pass(&(10..74).collect::<Vec<_>>());
    setting.gate.set(false);
    assert_eq!(numbers(held.wait()), [1.0]);
    for (ticket, id) in tickets.into_iter().zip(10u32..) {
        assert_eq!(numbers(ticket.wait()), [id as f32]);
    }
    let counts = setting.runtime.snapshot();
    assert_eq!((counts.submitted, counts.completed, counts.passes), (65, 65, 2));
    assert_eq!(counts.pass_requests.sum, 65.0);
    assert_eq!(
        (
            counts.queued_requests,
            counts.queued_tokens,
            counts.running_passes
        ),
        (0, 0, 0)
    );
}

#[test]
fn an_idle_thread_of_passes_tokenises_what_is_short() {
    let setting = start_with(
        Limits {
            pass_tokens: 512,
            ..limits()
        },
        false,
    );
    // Of more tokens than the model takes, which are few.
    let long = |id: u32| setting.runtime.submit(of_ids(&[id; 200])).unwrap();
    let by = |id: u32| setting.tokenized.lock().unwrap()[&id].clone();
    let until_idle = || {
        let start = Instant::now();
        while setting.runtime.shared.lock().idle_passes == 0 {
            assert!(start.elapsed() < LONG);
            std::thread::yield_now();
        }
    };
    // A thread that tokenises and has just begun, or is done with something else, may be there first.
    let start = Instant::now();
    loop {
        until_idle();
        setting.submit(10).wait().unwrap();
        if by(10) == "ropeway-pass-0" {
            break;
        }
        assert!(start.elapsed() < LONG, "{}", by(10));
    }
    until_idle();
    long(11).wait().unwrap();
    let (held, tickets) = setting.behind_a_held_pass(&[12, 13]);
    setting.gate.set(false);
    held.wait().unwrap();
    tickets
        .into_iter()
        .for_each(|ticket| drop(ticket.wait().unwrap()));
    for id in [11, 12, 13] {
        assert!(by(id).starts_with("ropeway-tokens-"), "{}", by(id));
    }
}

#[test]
fn threads_that_submit_and_wait_all_get_their_results() {
    for contexts in [1, 2] {
        let limits = Limits {
            contexts,
            pass_tokens: 512,
            queue_tokens: 100_000,
            ..limits()
        };
        let setting = start_with(limits, false);
        std::thread::scope(|scope| {
            for thread in 0..8u32 {
                let runtime = &setting.runtime;
                scope.spawn(move || {
                    for index in 0..100 {
                        // Long ones and short ones, which other threads tokenise.
                        let length = if index % 3 == 0 { 200 } else { 2 };
                        let ids = [&[100 * thread + index], &vec![index; length - 1][..]].concat();
                        let submission = match index % 4 {
                            0 => of_ids(&ids).deadline(Instant::now() + LONG),
                            _ => of_ids(&ids),
                        };
                        let ticket = runtime.submit(submission).unwrap();
                        match index % 10 {
                            0 => drop(ticket),
                            _ => assert_eq!(
                                numbers(ticket.wait()),
                                ids.iter().map(|&id| id as f32).collect::<Vec<_>>()
                            ),
                        }
                    }
                });
            }
        });
        assert!(setting.runtime.drain(LONG));
        let counts = setting.runtime.snapshot();
        assert_eq!(counts.submitted, counts.completed + counts.cancelled);
        assert!(counts.completed >= 720);
    }
}

#[test]
fn a_dropped_ticket_is_never_computed() {
    let setting = start();
    let (held, mut tickets) = setting.behind_a_held_pass(&[10, 11, 12]);
    drop(tickets.remove(1));
    setting.gate.set(false);
    let _ = (held.wait(), tickets.into_iter().map(Ticket::wait).for_each(drop));
    assert_eq!(*setting.computed.lock().unwrap(), [1, 10, 12]);
    assert_eq!(setting.runtime.snapshot().cancelled, 1);
}

#[test]
fn bad_requests_and_panics_do_not_hurt_their_neighbours() {
    let setting = start();
    let ids = [10, PANICS_IN_PASS, 11, PANICS_IN_TOKENIZER, IS_REFUSED, 12];
    let (held, tickets) = setting.behind_a_held_pass(&ids);
    setting.gate.set(false);
    assert!(held.wait().is_ok());
    for (ticket, id) in tickets.into_iter().zip(ids) {
        let served = ticket.wait();
        match id {
            PANICS_IN_PASS | PANICS_IN_TOKENIZER => {
                let error = served.unwrap_err();
                assert!(
                    matches!(&error, ServiceError::Engine(Error::Internal(what)) if what.starts_with("in the ")),
                    "{error}"
                );
            }
            IS_REFUSED => assert!(matches!(
                served.unwrap_err(),
                ServiceError::Engine(Error::Request(_))
            )),
            id => assert_eq!(numbers(served), [id as f32]),
        }
    }
    let counts = setting.runtime.snapshot();
    assert_eq!((counts.failed, counts.completed), (3, 4));
    assert_eq!(numbers(setting.submit(5).wait()), [5.0]);
}

#[test]
fn a_lost_device_fails_what_it_held_and_the_rest_goes_on_anew() {
    let setting = start_with(limits(), true);
    // A pass holds 64 tokens: the last request is not in the pass that loses the device.
    let (held, mut tickets) = setting.behind_a_held_pass(&[LOSES_DEVICE]);
    let full = setting.runtime.submit(of_ids(&[7; 63])).unwrap();
    let behind = setting.submit(8);
    setting.until_tokenized(4);
    setting.gate.set(false);
    assert!(held.wait().is_ok());
    for ticket in [tickets.remove(0), full] {
        let error = ticket.wait().unwrap_err();
        assert!(
            matches!(error, ServiceError::Engine(Error::DeviceLost(_))),
            "{error}"
        );
    }
    assert_eq!(numbers(behind.wait()), [8.0]);
    // The new engine was warm before a request got to it.
    assert_eq!(setting.computed.lock().unwrap()[..], [1, WARM_UP, 8]);
    assert_eq!(setting.runtime.health(), Health::Ready);
    assert_eq!(setting.runtime.snapshot().reopened, 1);
}

#[test]
fn without_another_device_everyone_is_told() {
    let setting = start();
    let (held, mut tickets) = setting.behind_a_held_pass(&[LOSES_DEVICE]);
    let full = setting.runtime.submit(of_ids(&[7; 63])).unwrap();
    let behind = setting.submit(8);
    setting.until_tokenized(4);
    setting.gate.set(false);
    assert!(held.wait().is_ok());
    for ticket in [tickets.remove(0), full, behind] {
        let error = ticket.wait().unwrap_err();
        assert!(
            matches!(error, ServiceError::Engine(Error::DeviceLost(_))),
            "{error}"
        );
    }
    assert!(matches!(setting.runtime.health(), Health::Lost { .. }));
    let refused = setting.runtime.submit(of_ids(&[1])).unwrap_err();
    assert!(
        matches!(refused, ServiceError::Engine(Error::DeviceLost(_))),
        "{refused}"
    );
}

#[test]
fn a_full_queue_and_deadlines_are_typed_errors() {
    let mut limits = limits();
    limits.queue_requests = 2;
    let setting = start_with(limits, false);
    let (held, tickets) = setting.behind_a_held_pass(&[10]);
    let past = Instant::now();
    let late = setting.runtime.submit(of_ids(&[5]).deadline(past)).unwrap_err();
    assert!(matches!(late, ServiceError::Unreachable { .. }), "{late}");
    // The pass is held: the deadline passes while this waits, and is told without a pass.
    let soon = Instant::now() + Duration::from_millis(30);
    let expires = setting.runtime.submit(of_ids(&[11]).deadline(soon)).unwrap();
    let full = setting.runtime.submit(of_ids(&[12])).unwrap_err();
    assert!(
        matches!(full, ServiceError::Overloaded { retry_after } if !retry_after.is_zero()),
        "{full}"
    );
    let expired = expires.wait().unwrap_err();
    assert!(matches!(expired, ServiceError::Expired), "{expired}");
    setting.gate.set(false);
    assert!(held.wait().is_ok());
    tickets
        .into_iter()
        .for_each(|ticket| assert!(ticket.wait().is_ok()));
    let counts = setting.runtime.snapshot();
    assert_eq!(
        (
            counts.expired,
            counts.refused_overloaded,
            counts.refused_unreachable
        ),
        (1, 1, 1)
    );
    assert!(!setting.computed.lock().unwrap().contains(&11));
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_ticket_is_a_future_and_can_be_waited_for_in_turns() {
    let setting = start();
    let (held, mut tickets) = setting.behind_a_held_pass(&[10]);
    let held = held.wait_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(!held.is_done() && held.timing().is_none());
    let mut future = pin!(tickets.remove(0));
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    assert!(future.as_mut().poll(&mut context).is_pending());
    setting.gate.set(false);
    let served = loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(served) => break served,
            Poll::Pending => std::thread::park_timeout(LONG),
        }
    };
    assert_eq!(numbers(served), [10.0]);
    let timing = future.timing().unwrap();
    assert!(timing.total >= timing.compute + timing.tokenize);
    // Once more is a mistake of the caller, and told as one.
    let again = future.as_mut().poll(&mut context);
    assert!(matches!(
        again,
        Poll::Ready(Err(ServiceError::Engine(Error::Internal(_))))
    ));
    assert_eq!(numbers(held.wait_timeout(LONG).unwrap()), [1.0]);
}

#[test]
fn a_service_drains_or_stops() {
    let setting = start();
    let (held, mut tickets) = setting.behind_a_held_pass(&[10, 11]);
    assert!(!setting.runtime.drain(Duration::from_millis(1)));
    assert!(matches!(
        setting.runtime.submit(of_ids(&[1])),
        Err(ServiceError::Stopped)
    ));
    let stopped = tickets.pop().unwrap();
    let Setting { runtime, gate, .. } = setting;
    let stopper = std::thread::spawn(move || drop(runtime));
    assert!(matches!(stopped.wait(), Err(ServiceError::Stopped)));
    gate.set(false);
    stopper.join().unwrap();
    // What ran when it stopped was given up with the rest, or was done.
    assert!(matches!(held.wait(), Ok(_) | Err(ServiceError::Stopped)));
}
