//! The execution contexts of an engine.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A fixed number of execution contexts. A call takes one that is free, or waits for one.
pub struct ContextPool<C> {
    free: Mutex<Vec<C>>,
    freed: Condvar,
    /// All contexts, in use or not.
    pub count: usize,
}

/// A context in use; it returns to the pool when this is dropped.
pub struct PooledContext<'a, C> {
    pool: &'a ContextPool<C>,
    context: Option<C>,
}

impl<C> ContextPool<C> {
    pub fn new(contexts: Vec<C>) -> ContextPool<C> {
        ContextPool {
            count: contexts.len(),
            free: Mutex::new(contexts),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<C>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free context; waits until there is one.
    pub fn take(&self) -> PooledContext<'_, C> {
        let mut free = self.lock();
        loop {
            if let Some(context) = free.pop() {
                return PooledContext {
                    pool: self,
                    context: Some(context),
                };
            }
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<C> std::ops::Deref for PooledContext<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.context.as_ref().expect("held until dropped")
    }
}

impl<C> std::ops::DerefMut for PooledContext<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.context.as_mut().expect("held until dropped")
    }
}

impl<C> Drop for PooledContext<'_, C> {
    fn drop(&mut self) {
        self.pool.lock().extend(self.context.take());
        self.pool.freed.notify_one();
    }
}
