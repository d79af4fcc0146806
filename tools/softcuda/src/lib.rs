//! A CUDA driver library that runs compiled kernels on the CPU, and checks them harder than a GPU does.
//!
//! Its layers, bottom to top. A layer imports from itself and from the rows before its own, never from a later one;
//! `tests/layers.rs` reads this table and checks every path in the sources.
//!
//! | layer | what it does |
//! |---|---|
//! | [`ptx`] | parses PTX text to a syntax tree |
//! | [`ir`] | defines the program: kernels, instructions, register slots, address windows |
//! | [`lower`] | lowers the syntax tree to the program: instructions by family, control flow, slots |
//! | [`memory`] | holds device memory and what is known of it: allocations, initialised bytes, clocks, races |
//! | [`run`] | executes a launch: warps in lock step, blocks over host threads, findings, meters |
//! | [`counters`] | turns meters into counters, and counters into a report: traffic, occupancy, roofline |
//! | [`machine`] | joins them to a device: modules, launches |
//! | [`driver`] | exports the C API of cuda.h: contexts, streams, graphs, fat binaries, injected faults |

pub mod counters;
pub mod driver;
pub mod ir;
pub mod lower;
pub mod machine;
pub mod memory;
pub mod ptx;
pub mod run;
