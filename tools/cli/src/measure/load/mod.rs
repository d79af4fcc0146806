//! Load on a server, as many clients make it: `ropeway bench serve`.
//!
//! | | |
//! |---|---|
//! | `client` | one connection to a server |
//! | `traffic` | closed loops and open ones, and what became of their requests |
//! | `server` | a server that the bench starts |
//! | `texts` | what is sent |
//! | `inside` | the same texts without HTTP |
//! | `run` | what is measured, in its order |
//! | `report` | rows, and bars beside what was measured |
//!
//! The load generator has one thread, and shares the cores with the servers: so it is with the peers, too.

mod client;
mod inside;
mod report;
mod run;
mod server;
mod texts;
mod traffic;

pub use run::{Load, Serve, load};
