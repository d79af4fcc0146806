//! The server over loopback, with small random models.

mod adapters;
mod cohere;
mod harness;
mod hostile;
mod openai;
mod openapi;
mod operation;
mod page;
mod tei;
