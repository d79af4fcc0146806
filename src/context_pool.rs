//! The execution contexts of an engine.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A fixed number of execution contexts. A call takes one that is free, or waits for one; those that wait are served in the
/// order in which they came, so that a call of many batches does not keep out the others.
pub struct ContextPool<C> {
    queue: Mutex<Queue<C>>,
    freed: Condvar,
    /// Held by [`ContextPool::for_each`].
    visiting: Mutex<()>,
    /// All contexts, in use or not.
    pub count: usize,
}

struct Queue<C> {
    free: Vec<C>,
    /// Calls of [`ContextPool::take`] so far.
    came: u64,
    /// Those of them that have got a context.
    served: u64,
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
            queue: Mutex::new(Queue {
                free: contexts,
                came: 0,
                served: 0,
            }),
            freed: Condvar::new(),
            visiting: Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<C>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free context; waits until there is one.
    pub fn take(&self) -> PooledContext<'_, C> {
        let mut queue = self.lock();
        let number = queue.came;
        queue.came += 1;
        loop {
            if queue.served == number
                && let Some(context) = queue.free.pop()
            {
                queue.served += 1;
                // The next may be here already, with a context that is free for it.
                self.freed.notify_all();
                return self.pooled(context);
            }
            queue = self.freed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a context if one is free that nobody waits for.
    pub fn try_take(&self) -> Option<PooledContext<'_, C>> {
        let mut queue = self.lock();
        let nobody_waits = queue.came == queue.served;
        let context = nobody_waits.then(|| queue.free.pop()).flatten()?;
        Some(self.pooled(context))
    }

    /// Runs `work` on every context, once it is free; each is held until the last one was had.
    ///
    /// # Errors
    /// The first of `work`.
    pub fn for_each<E>(&self, mut work: impl FnMut(&mut C) -> Result<(), E>) -> Result<(), E> {
        // Two at once might wait for each other's contexts.
        let _one_at_a_time = self.visiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let mut context = self.take();
            work(&mut context)?;
            held.push(context);
        }
        Ok(())
    }

    fn pooled(&self, context: C) -> PooledContext<'_, C> {
        PooledContext {
            pool: self,
            context: Some(context),
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
        self.pool.lock().free.extend(self.context.take());
        self.pool.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_served_before_who_comes_later() {
        let pool = ContextPool::new(vec![0]);
        assert_eq!(pool.count, 1);
        let held = pool.try_take().unwrap();
        assert!(pool.try_take().is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(pool.take()));
            while pool.lock().came == 0 {
                std::thread::yield_now();
            }
            // Even if it is free again before the other thread has woken up.
            drop(held);
            let taken = pool.try_take();
            assert!(taken.is_none() || pool.lock().served == 1);
            drop(taken);
            waiting.join().unwrap();
        });
        assert!(pool.try_take().is_some());
    }

    #[test]
    fn each_context_is_had_once_by_each_of_two_threads() {
        let pool = ContextPool::new(vec![0; 3]);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    pool.for_each(|context| -> Result<(), ()> {
                        *context += 1;
                        Ok(())
                    })
                });
            }
        });
        assert_eq!(pool.lock().free, [2; 3]);
        assert_eq!(pool.for_each(|_| Err("broken")), Err("broken"));
        assert_eq!(pool.lock().free.len(), 3);
    }
}
