//! A team of threads for one forward pass: fork-join with little overhead.
//!
//! `run(tasks, f)` calls f(0), f(1), ..., f(tasks - 1), each once, on the
//! calling thread and the team's workers together, and returns when all are
//! done. A forward pass of a small model has some fifty such regions within
//! 1.5 ms, so workers spin between regions for a short while and only then
//! park; an idle team uses no processor time.
//!
//! Workers *join* a region while its gate is open. The caller takes tasks
//! itself, closes the gate when none is left to take, and waits only for the
//! workers which joined: a worker that is still asleep, or has been
//! descheduled, is never waited for. Gate, epoch and number of joined workers
//! share one atomic word, so that joining and closing cannot cross.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker looks for the next region before it parks.
const SPIN: Duration = Duration::from_micros(100);
/// How long the caller spins for joined workers before it yields its core to
/// them: on a machine with more threads than cores one may not be running.
const PATIENCE: u32 = 2000;

/// The gate word: joined workers in the low half, then whether the region is
/// open, then the number of the region.
const OPEN: u64 = 1 << 31;
const EPOCH: u64 = 1 << 32;
const JOINED: u64 = OPEN - 1;

type Job = *const (dyn Fn(usize) + Sync);

/// Keeps what spinning threads write away from what others read.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    gate: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    /// Set by the caller while the gate is shut and nobody is joined, read by
    /// joined workers only.
    job: UnsafeCell<Option<(Job, usize)>>,
    /// First panic of the region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// How often workers have been woken; guards all changes of `parked`.
    wakes: Mutex<u64>,
    parked: AtomicUsize,
    wake: Condvar,
    shutdown: AtomicBool,
}

// SAFETY: `job` is the one field that is not `Sync` by itself. The caller
// writes it only between regions (gate shut, nobody joined); joined workers
// only read it, after acquiring the gate word that the caller released. What
// it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: `job` is the one field that is not `Send` by itself: a raw pointer
// to what is `Sync`, used only while `run` keeps its target.
unsafe impl Send for Shared {}

/// A fixed set of threads; the thread that calls [`Team::run`] is one of them.
pub struct Team {
    shared: Option<Arc<Shared>>,
    workers: Vec<JoinHandle<()>>,
}

impl Team {
    /// A team of `threads` in all, the caller's included; 0 counts as 1. If
    /// the system refuses threads, the team is smaller (see [`Team::threads`]).
    pub fn new(threads: usize) -> Team {
        if threads <= 1 {
            return Team {
                shared: None,
                workers: Vec::new(),
            };
        }
        let shared = Arc::new(Shared {
            gate: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            wakes: Mutex::new(0),
            parked: AtomicUsize::new(0),
            wake: Condvar::new(),
            shutdown: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("ropeway-cpu-{i}"))
                    .spawn(move || work(&shared))
                    .ok()
            })
            .collect();
        Team {
            shared: Some(shared),
            workers,
        }
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f` once for each of `0..tasks`, in any order and on any thread
    /// of the team, low numbers first; returns when all calls have returned.
    ///
    /// If a call panics, tasks not yet begun are dropped, and the panic goes
    /// on in the caller once no thread is inside `f` any more.
    pub fn run(&mut self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let shared = match &self.shared {
            Some(shared) if tasks > 1 => shared,
            _ => return (0..tasks).for_each(f),
        };
        // SAFETY: only the lifetime is erased. The pointer is read by joined
        // workers only, and this function does not return, or unwind, before
        // the gate is shut and every joined worker has left.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(f) };
        // SAFETY: the gate is shut and nobody is joined (`&mut self`, and the
        // wait below at the end of the region before), so no one reads it.
        unsafe { *shared.job.get() = Some((job, tasks)) };
        shared.next.0.store(0, Ordering::Relaxed);
        // The count of joined workers is zero, so this is the only writer.
        let epoch = shared.gate.0.load(Ordering::Relaxed) & !(EPOCH - 1);
        let gate = epoch.wrapping_add(EPOCH) | OPEN;
        // Sequentially consistent, like the load of `parked` after it: either
        // a worker about to park sees the open gate or this thread sees it
        // parked (`park` does the same the other way round).
        shared.gate.0.store(gate, Ordering::SeqCst);
        shared.wake_parked();

        shared.take_tasks(f, tasks);

        let mut gate = shared.gate.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while gate & JOINED != 0 {
            spins += 1;
            if spins < PATIENCE {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
            gate = shared.gate.0.load(Ordering::Acquire);
        }
        if let Some(payload) = lock(&shared.panic).take() {
            resume_unwind(payload);
        }
    }

    /// Calls `f` once for each of `0..rows`, of so many elements each, from the threads of the team: rows one after the
    /// other in parts of even size, as many as are worth handing out.
    pub fn run_rows(&mut self, rows: usize, columns: usize, f: &(dyn Fn(usize) + Sync)) {
        /// Elements that make a task worth handing to another thread.
        const TASK: usize = 16384;
        let parts = (rows * columns).div_ceil(TASK);
        let parts = parts
            .next_multiple_of(if parts > 1 { self.threads() } else { 1 })
            .min(rows);
        self.run(parts, &|part| {
            (part * rows / parts..(part + 1) * rows / parts).for_each(f);
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.shutdown.store(true, Ordering::SeqCst);
            shared.wake_parked();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so it has none.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Runs tasks until none is left to take; keeps the first panic.
    fn take_tasks(&self, f: &(dyn Fn(usize) + Sync), tasks: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next.0.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                f(task);
            }
        }));
        if let Err(payload) = result {
            self.next.0.store(tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    fn wake_parked(&self) {
        if self.parked.load(Ordering::SeqCst) != 0 {
            let mut wakes = lock(&self.wakes);
            *wakes += 1;
            // They count as awake from here on, so that the next region does
            // not wake them a second time.
            self.parked.store(0, Ordering::SeqCst);
            drop(wakes);
            self.wake.notify_all();
        }
    }

    /// Sleeps until woken; returns at once if there is something to do.
    fn park(&self, seen: u64) {
        let mut wakes = lock(&self.wakes);
        let before = *wakes;
        self.parked.fetch_add(1, Ordering::SeqCst);
        if self.beckons(self.gate.0.load(Ordering::SeqCst), seen) {
            // Still under the lock: nobody has reset the count meanwhile.
            self.parked.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        while *wakes == before {
            wakes = self.wake.wait(wakes).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether a worker that has `seen` this epoch has something to do.
    fn beckons(&self, gate: u64, seen: u64) -> bool {
        (gate & OPEN != 0 && gate / EPOCH != seen) || self.shutdown.load(Ordering::SeqCst)
    }

    /// Spins, then parks, until an open region was joined; gives its epoch,
    /// or none at shutdown.
    fn join(&self, seen: u64) -> Option<u64> {
        loop {
            let mut start = None;
            let mut spins = 0u32;
            loop {
                let gate = self.gate.0.load(Ordering::Relaxed);
                if self.beckons(gate, seen) {
                    if self.shutdown.load(Ordering::Relaxed) {
                        return None;
                    }
                    let joined = self.gate.0.compare_exchange_weak(
                        gate,
                        gate + 1,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    );
                    if joined.is_ok() {
                        return Some(gate / EPOCH);
                    }
                    continue;
                }
                spins += 1;
                // Reading the clock costs about as much as a few pauses.
                if spins.is_multiple_of(32) && start.get_or_insert_with(Instant::now).elapsed() > SPIN {
                    break;
                }
                std::hint::spin_loop();
            }
            self.park(seen);
        }
    }
}

/// A lock whatever happened: no guarded value is ever left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's life.
fn work(shared: &Shared) {
    let mut seen = 0;
    while let Some(epoch) = shared.join(seen) {
        seen = epoch;
        // SAFETY: this worker is joined: the caller wrote the job before it
        // opened the gate and writes it again only after all have left.
        if let Some((job, tasks)) = unsafe { *shared.job.get() } {
            // SAFETY: while a worker is joined `run` does not return, so what
            // the pointer was made from is still borrowed there.
            shared.take_tasks(unsafe { &*job }, tasks);
        }
        shared.gate.0.fetch_sub(1, Ordering::Release);
    }
}

/// A pointer that tasks share to write disjoint parts of one slice.
#[derive(Clone, Copy)]
pub(super) struct SendPtr<T = f32>(pub *mut T);

// SAFETY: a pointer by itself does nothing; each use states why it is sound.
unsafe impl<T> Send for SendPtr<T> {}
// SAFETY: a shared pointer by itself does nothing; each use states why it is sound.
unsafe impl<T> Sync for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// A method, so that closures capture the whole and not the bare pointer.
    #[inline(always)]
    pub(super) fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(team: &mut Team, tasks: usize) {
        let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        team.run(tasks, &|i| {
            hits[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [0, 1, 2, 3, 8] {
            let mut team = Team::new(threads);
            assert_eq!(team.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 7, 100, 10_000] {
                counts(&mut team, tasks);
            }
        }
    }

    #[test]
    fn many_short_regions() {
        let mut team = Team::new(3);
        for i in 0..20_000 {
            counts(&mut team, i % 5);
        }
    }

    #[test]
    fn workers_wake_from_parking() {
        let mut team = Team::new(4);
        for i in 0..30 {
            thread::sleep(SPIN * (i % 5));
            counts(&mut team, 50);
        }
        // Workers do take part: each of two tasks waits for the other.
        thread::sleep(SPIN * 5);
        let barrier = std::sync::Barrier::new(2);
        team.run(2, &|_| {
            barrier.wait();
        });
    }

    #[test]
    fn idle_workers_park() {
        let team = Team::new(3);
        let shared = team.shared.as_ref().unwrap();
        let start = Instant::now();
        while shared.parked.load(Ordering::SeqCst) < 2 {
            assert!(start.elapsed() < Duration::from_secs(30), "not parked");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn panics_reach_the_caller_and_the_team_lives_on() {
        for threads in [1, 2, 4] {
            let mut team = Team::new(threads);
            for round in 0..200 {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    team.run(16, &|i| {
                        if i == round % 16 {
                            // Without the hook's message on standard error.
                            resume_unwind(Box::new(i));
                        }
                    });
                }));
                let payload = result.unwrap_err();
                assert_eq!(*payload.downcast::<usize>().unwrap(), round % 16);
                counts(&mut team, 16);
            }
        }
    }

    #[test]
    fn teams_side_by_side() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut team = Team::new(3);
                    for i in 0..500 {
                        counts(&mut team, i % 20);
                    }
                });
            }
        });
    }

    #[test]
    fn dropped_at_any_moment() {
        for i in 0..100 {
            let mut team = Team::new(3);
            if i % 2 == 0 {
                counts(&mut team, 4);
            }
            if i % 10 == 0 {
                thread::sleep(SPIN * 2);
            }
        }
    }
}
