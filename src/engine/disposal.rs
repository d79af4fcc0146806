//! Drops values on a thread of its own. To free device memory waits for the device, which a call that serves somebody must
//! not do.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

/// The thread; dropping this waits until all is dropped that was given to it.
pub struct Disposal {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Disposal {
    pub fn start() -> Disposal {
        let (jobs, received) = channel::<Job>();
        let work = move || received.into_iter().for_each(|job| job());
        // Without a thread, values are dropped where they are given up.
        let thread = thread::Builder::new()
            .name("ropeway-free".into())
            .spawn(work)
            .ok();
        Disposal {
            jobs: Some(jobs),
            thread,
        }
    }

    /// Gives up a value, or one of the owners of a shared one.
    pub fn dispose(&self, value: impl Send + 'static) {
        self.send(Box::new(move || drop(value)));
    }

    /// Waits until all is dropped that was given up before.
    pub fn wait(&self) {
        let (done, waiting) = channel();
        self.send(Box::new(move || {
            let _ = done.send(());
        }));
        // An error means that the job was dropped, and with it `done`.
        let _ = waiting.recv();
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Disposal {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Notes the thread that it is dropped on.
    struct Noted(Arc<Mutex<Vec<thread::ThreadId>>>);

    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }

    #[test]
    fn values_are_dropped_on_another_thread_before_the_end_of_waiting() {
        let dropped = Arc::default();
        let disposal = Disposal::start();
        disposal.dispose(Noted(Arc::clone(&dropped)));
        disposal.wait();
        let threads = dropped.lock().unwrap().clone();
        assert!(matches!(threads[..], [other] if other != thread::current().id()));
        disposal.dispose(Noted(Arc::clone(&dropped)));
        drop(disposal);
        assert_eq!(dropped.lock().unwrap().len(), 2);
    }
}
