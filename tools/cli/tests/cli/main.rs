//! The built command line from end to end: what it reads, writes, says and how it ends.
#![cfg(unix)]

mod bench;
mod commands;
mod files;
#[cfg(target_os = "linux")]
mod growth;
mod harness;
mod hub;
mod inputs;
mod notices;
mod outputs;
mod serve;
