#![no_main]

#[path = "../../cli/tests/fuzz_bodies/jsonl.rs"]
mod jsonl;

libfuzzer_sys::fuzz_target!(|input: &[u8]| jsonl::body(input));
