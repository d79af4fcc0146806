//! Replays a committed corpus of `tools/fuzz` and mutates it from a fixed seed, on stable Rust.
//!
//! `ROPEWAY_FUZZ_SECONDS=300` mutates for that long, from another seed each time.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::common::paths;

/// Mutations of each target in a normal run.
const MUTATIONS: usize = 2000;

/// The folder of a target's corpus.
pub fn corpus(target: &str) -> PathBuf {
    paths::root().join("tools/fuzz/corpus").join(target)
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into(),
                fs::read(path).unwrap(),
            )
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// Changes an input, perhaps with parts of another.
pub type Mutate = fn(&mut Random, &[u8], &[u8]) -> Vec<u8>;

/// Replays the corpus, then mutates it. An input that fails is kept for a look.
pub fn replay_and_mutate(target: &str, body: fn(&[u8]), mutate: Mutate) {
    let seeds = seeds(target);
    let check = |what: &str, input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{target}"));
            fs::write(&kept, input).unwrap();
            panic!("{target}: {what} fails; it is kept as {}", kept.display());
        }
    };
    for (name, seed) in &seeds {
        check(name, seed);
    }
    let seconds: Option<u64> = std::env::var("ROPEWAY_FUZZ_SECONDS")
        .ok()
        .map(|s| s.parse().unwrap());
    let mut random = Random(match seconds {
        None => 0x9E37_79B9_7F4A_7C15,
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
    });
    let start = Instant::now();
    let mut count = 0;
    while match seconds {
        None => count < MUTATIONS,
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
    } {
        let (name, seed) = &seeds[random.below(seeds.len())];
        let (_, other) = &seeds[random.below(seeds.len())];
        let input = mutate(&mut random, seed, other);
        check(&format!("mutation {count} of {name}"), &input);
        count += 1;
    }
    println!(
        "{target}: {} seeds, {count} mutations in {:?}",
        seeds.len(),
        start.elapsed()
    );
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let peak: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(
            peak < 512 << 10,
            "{target}: {peak} KiB at the peak, for files of a few KB"
        );
    }
}

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit.max(1)
    }
}

/// Numbers that are likely to be wrong, as JSON.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "5",
    "8",
    "16",
    "0.5",
    "1e3",
    "1e18",
    "1e300",
    "-0",
    "255",
    "4096",
    "65536",
    "1048576",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"x\"",
];

/// A few small changes anywhere.
pub fn mutate(random: &mut Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        let number = || bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i);
        match random.below(8) {
            _ if bytes.is_empty() => bytes.extend(other.iter().take(16)),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 if !other.is_empty() => {
                let from = random.below(other.len());
                let part = &other[from..(from + 1 + random.below(32)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            5 => bytes.truncate(at),
            // Most of what is read is JSON, and what matters in it are numbers.
            _ => {
                if let Some(first) = number() {
                    let digits = bytes[first..].iter().take_while(|b| b.is_ascii_digit()).count();
                    let new = NUMBERS[random.below(NUMBERS.len())].bytes();
                    bytes.splice(first..first + digits, new);
                }
            }
        }
    }
    bytes
}
