//! Where one thread puts a result down, and another thread or a task picks it up.
//!
//! Nothing here knows what it hands over, and its locks are those of `super::sync`, so that `tests/handoff.rs` compiles this
//! file with loom's and tries every order in which threads can meet.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Holds a result `T` until it is taken, and a note `N` on it, that stays.
#[derive(Debug)]
pub struct Slot<T, N> {
    state: Mutex<State<T, N>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T, N> {
    result: Option<T>,
    /// There once a result was put down, whether or not it was picked up.
    note: Option<N>,
    waker: Option<Waker>,
}

impl<T, N> Default for Slot<T, N> {
    fn default() -> Self {
        let state = State {
            result: None,
            note: None,
            waker: None,
        };
        Slot {
            state: Mutex::new(state),
            filled: Condvar::new(),
        }
    }
}

impl<T, N: Copy> Slot<T, N> {
    fn lock(&self) -> MutexGuard<'_, State<T, N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a result down; the first one stays.
    pub fn fill(&self, result: T, note: N) {
        let mut state = self.lock();
        if state.note.is_some() {
            return;
        }
        (state.result, state.note) = (Some(result), Some(note));
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The note, once a result was put down.
    pub fn note(&self) -> Option<N> {
        self.lock().note
    }

    /// Waits for the result; `None` if it was taken before.
    pub fn wait(&self) -> Option<T> {
        let mut state = self.lock();
        while state.note.is_none() {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.result.take()
    }

    /// Waits for so long, and says whether there is a result.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        let mut state = self.lock();
        while state.note.is_none() {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return false;
            }
            let waited = self.filled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The result, as [`wait`](Self::wait) gives it; until it is there, the task that asked last is woken for it.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        if state.note.is_some() {
            return Poll::Ready(state.result.take());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
