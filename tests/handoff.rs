//! The hand-off of a result from one thread to another, in every order in which the two can meet: loom runs each model
//! once per order, and fails where a thread waits for ever.

// Its waiting with a timeout goes by the clock, which loom does not have.
#[allow(dead_code)]
#[path = "../src/service/slot.rs"]
mod slot;

/// What `slot` locks with: loom's in place of the standard library's.
mod sync {
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
    pub use std::sync::PoisonError;
}

use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::Arc;
use loom::thread;

type Slot = slot::Slot<&'static str, u32>;

/// A task's waker: what an executor sleeps on.
#[derive(Default)]
struct Alarm {
    rung: sync::Mutex<bool>,
    rings: sync::Condvar,
}

impl Wake for Alarm {
    fn wake(self: std::sync::Arc<Self>) {
        *self.rung.lock().unwrap() = true;
        self.rings.notify_all();
    }
}

impl Alarm {
    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.rings.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Polls as an executor does: again after each wake-up, never before.
fn block_on(slot: &Slot) -> Option<&'static str> {
    let alarm = std::sync::Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut polled = pin!(std::future::poll_fn(|context| slot.poll(context)));
    loop {
        match polled.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => alarm.sleep(),
        }
    }
}

#[test]
fn a_thread_that_waits_gets_the_result() {
    loom::model(|| {
        let slot = Arc::new(Slot::default());
        let filler = slot.clone();
        let thread = thread::spawn(move || filler.fill("result", 7));
        assert_eq!(slot.wait(), Some("result"));
        assert_eq!((slot.note(), slot.wait()), (Some(7), None));
        thread.join().unwrap();
    });
}

#[test]
fn a_task_that_was_pending_is_woken() {
    loom::model(|| {
        let slot = Arc::new(Slot::default());
        let filler = slot.clone();
        let thread = thread::spawn(move || filler.fill("result", 7));
        assert_eq!(block_on(&slot), Some("result"));
        assert_eq!((slot.note(), block_on(&slot)), (Some(7), None));
        thread.join().unwrap();
    });
}

/// A pass ends while the service stops: both have a result for the request.
#[test]
fn of_two_results_one_arrives_with_its_note() {
    loom::model(|| {
        let slot = Arc::new(Slot::default());
        let fill = |result, note| {
            let slot = slot.clone();
            thread::spawn(move || slot.fill(result, note))
        };
        let threads = [fill("embedding", 1), fill("stopped", 2)];
        let result = slot.wait().unwrap();
        let want = if result == "embedding" { 1 } else { 2 };
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((slot.note(), slot.wait()), (Some(want), None));
    });
}

/// A task that hands its future on: the waker that asked last counts.
#[test]
fn whoever_asked_last_is_woken() {
    loom::model(|| {
        let slot = Arc::new(Slot::default());
        let filler = slot.clone();
        let first = Waker::from(std::sync::Arc::new(Alarm::default()));
        let early = slot.poll(&mut Context::from_waker(&first));
        assert!(early.is_pending());
        let thread = thread::spawn(move || filler.fill("result", 7));
        assert_eq!(block_on(&slot), Some("result"));
        thread.join().unwrap();
    });
}
