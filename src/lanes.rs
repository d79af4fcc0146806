//! The execution slots of an engine.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The lanes of an engine; a call takes one that is free, or waits for one.
pub struct Lanes<L> {
    free: Mutex<Vec<L>>,
    freed: Condvar,
    pub count: usize,
}

/// A lane in use; it goes back when this is dropped.
pub struct Taken<'a, L> {
    lanes: &'a Lanes<L>,
    lane: Option<L>,
}

impl<L> Lanes<L> {
    pub fn new(lanes: Vec<L>) -> Lanes<L> {
        Lanes {
            count: lanes.len(),
            free: Mutex::new(lanes),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<L>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Taken<'_, L> {
        let mut free = self.lock();
        loop {
            if let Some(lane) = free.pop() {
                return Taken {
                    lanes: self,
                    lane: Some(lane),
                };
            }
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<L> std::ops::Deref for Taken<'_, L> {
    type Target = L;

    fn deref(&self) -> &L {
        self.lane.as_ref().expect("held until dropped")
    }
}

impl<L> std::ops::DerefMut for Taken<'_, L> {
    fn deref_mut(&mut self) -> &mut L {
        self.lane.as_mut().expect("held until dropped")
    }
}

impl<L> Drop for Taken<'_, L> {
    fn drop(&mut self) {
        self.lanes.lock().extend(self.lane.take());
        self.lanes.freed.notify_one();
    }
}
