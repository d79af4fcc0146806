//! The same texts without HTTP: what a server is measured by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use ropeway::service::Service;
use ropeway::{Embed, Engine, Request};

/// The engine in this process, alone and behind a service.
pub struct Inside {
    engine: Arc<Engine>,
    service: Service,
}

impl Inside {
    /// Starts the service, which warms up.
    ///
    /// # Errors
    /// Those of the start.
    pub fn new(engine: Engine) -> Result<Inside> {
        let engine = Arc::new(engine);
        let service = Service::start(engine.clone())?;
        Ok(Inside { engine, service })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// The engine's.
    pub fn vector(&self, text: &str) -> Result<Vec<f32>> {
        let mut embedded = self.engine.embed(&[text], &Embed::default())?;
        Ok(embedded.swap_remove(0).into_f32()?)
    }

    /// The latencies of one caller of the service that sends one text after the other, in ms.
    ///
    /// # Errors
    /// A call that failed.
    pub fn calls(&self, texts: &[String], time: Duration) -> Result<Vec<f64>> {
        let end = Instant::now() + time;
        let mut latencies = Vec::new();
        for text in texts.iter().cycle() {
            let sent = Instant::now();
            if sent >= end {
                break;
            }
            let request = Request::text(text.clone(), Embed::default());
            self.service.submit(request)?.wait()?.into_f32()?;
            latencies.push(1e3 * sent.elapsed().as_secs_f64());
        }
        Ok(latencies)
    }

    /// Texts per second of one call of `embed_batch` with all of them, again and again.
    ///
    /// # Errors
    /// A call that failed.
    pub fn throughput(&self, texts: &[String], time: Duration) -> Result<f64> {
        let options = Embed::default();
        let requests: Vec<Request<'_>> = texts
            .iter()
            .map(|text| Request::text(text.as_str(), &options))
            .collect();
        let start = Instant::now();
        let mut done = 0;
        while done == 0 || start.elapsed() < time {
            for embedded in self.engine.embed_batch(&requests) {
                embedded?;
                done += 1;
            }
        }
        Ok(done as f64 / start.elapsed().as_secs_f64())
    }
}
