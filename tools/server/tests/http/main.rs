//! The server over loopback, with small random models.

mod cohere;
mod harness;
mod hostile;
mod openai;
mod openapi;
mod operation;
mod tei;
