#![no_main]

#[path = "../../softcuda/tests/parser/fuzz_body.rs"]
mod fuzz_body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_body::ptx(input));
