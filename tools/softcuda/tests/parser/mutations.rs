//! Mutations of the fixtures, from a fixed seed.
//!
//! `SOFTCUDA_MUTATIONS=2000000 cargo test --release -p softcuda --test parser mutations` for as many, from another
//! seed each time.

use std::time::{Instant, SystemTime};

use super::files::FIXTURES;
use super::fuzz_body;

/// Mutations in a normal run.
const MUTATIONS: usize = 4000;

/// Bytes of an input. A slice of a fixture has all that the whole has, in turn.
const LONGEST: usize = 3000;

/// xorshift64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What PTX is made of: runs of letters, of digits, of blanks, single marks.
fn tokens(text: &[u8]) -> Vec<&[u8]> {
    let class = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | b'%' | b'.' => 0,
        b'0'..=b'9' => 1,
        b' ' | b'\t' | b'\n' => 2,
        _ => 3,
    };
    text.chunk_by(|&a, &b| class(a) == class(b) && class(a) != 3)
        .collect()
}

/// What mutations put in beside parts of the fixtures.
const PIECES: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ";",
    ",",
    "|",
    "!",
    "@",
    "_",
    ":",
    "::",
    "-",
    "+",
    "~",
    "?",
    "<",
    ">",
    "%",
    "\"",
    "/*",
    "*/",
    "//",
    ".",
    "..",
    "0x",
    "0f",
    "0d",
    "1e999",
    "18446744073709551616",
    "4294967295",
    "-1",
    "<4294967295>",
    "[1099511627776]",
    ".align 3",
    ".reg .b32 %r<4000000000>;",
    ".loc 1 2 3, function_name x, inlined_at 1 2 3",
    "inlined_at 1 2 3",
    ".section .debug_str {",
    "generic(",
    "0xFF00(",
    "\u{e9}",
    "\0",
    "\u{2028}",
];

/// A part of a fixture behind its header, changed in a few places.
fn mutate(random: &mut Random) -> Vec<u8> {
    let (_, fixture) = FIXTURES[random.below(FIXTURES.len())];
    let mut parts = tokens(fixture.as_bytes());
    if fixture.len() > LONGEST {
        let header = parts
            .iter()
            .position(|part| *part == b".address_size")
            .map_or(0, |at| at + 3);
        let length = parts.len() * LONGEST / fixture.len();
        let start = header + random.below(parts.len() - header);
        let end = (start + length).min(parts.len());
        parts = [&parts[..header], &[b"\n".as_slice()], &parts[start..end]].concat();
    }
    for _ in 0..=random.below(6) {
        let at = random.below(parts.len());
        let other = random.below(parts.len());
        match random.below(7) {
            0 => drop(parts.remove(at)),
            1 => parts.insert(at, parts[other]),
            2 => parts[at] = parts[other],
            3 => parts.insert(at, PIECES[random.below(PIECES.len())].as_bytes()),
            4 => parts[at] = PIECES[random.below(PIECES.len())].as_bytes(),
            5 => parts.swap(at, other),
            _ => {
                // One thing many times, which finds what is not linear.
                let piece = parts[at];
                let times = 1 + random.below(300);
                parts.splice(at..at, std::iter::repeat_n(piece, times));
            }
        }
        if parts.is_empty() {
            break;
        }
    }
    let mut input = parts.concat();
    for _ in 0..random.below(4) {
        let at = random.below(input.len());
        if input.is_empty() {
            break;
        }
        match random.below(4) {
            0 => drop(input.remove(at)),
            1 => input[at] = random.next() as u8,
            2 => input[at] ^= 1 << random.below(8),
            _ => input.truncate(at),
        }
    }
    input
}

#[test]
fn mutations_parse_or_fail_with_an_error() {
    let asked: Option<usize> = std::env::var("SOFTCUDA_MUTATIONS")
        .ok()
        .map(|count| count.parse().unwrap());
    let mut random = Random(match asked {
        None => 0x9E37_79B9_7F4A_7C15,
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
    });
    let count = asked.unwrap_or(MUTATIONS);
    let start = Instant::now();
    let mut slowest = (0.0, Vec::new());
    for number in 0..count {
        let input = mutate(&mut random);
        let begin = Instant::now();
        let outcome = std::panic::catch_unwind(|| fuzz_body::ptx(&input));
        if outcome.is_err() {
            let kept = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash-ptx");
            std::fs::write(&kept, &input).unwrap();
            panic!("mutation {number} fails; it is kept as {}", kept.display());
        }
        let seconds = begin.elapsed().as_secs_f64();
        if seconds > slowest.0 {
            slowest = (seconds, input);
        }
    }
    println!(
        "{count} mutations in {:?}, the slowest {:.1} ms",
        start.elapsed(),
        1e3 * slowest.0
    );
}

/// Texts of one thing many times: time and memory stay in proportion.
#[test]
fn repetition_is_linear() {
    let header = ".version 9.0\n.target sm_80\n";
    let kernel = ".entry k() {\n.reg .b32 %r<4294967295>; .reg .pred %p<9>;\n";
    let times = 100_000;
    let cases = [
        format!("{header}{kernel}{}", "{".repeat(times)),
        format!("{header}{kernel}mov.b32 %r1, {}", "(".repeat(times)),
        format!("{header}{kernel}mov.b32 %r1, {}1;", "-".repeat(times)),
        format!("{header}{kernel}mov.b32 %r1, {}1;", "1 ? 2 : ".repeat(times)),
        format!("{header}{kernel}mov.b32 %r1, {}1;", "1 + ".repeat(times)),
        format!("{header}{kernel}mov.b32 {}", "{".repeat(times)),
        format!("{header}{kernel}mov.b32 [%r1, {}", "[%r1,".repeat(times)),
        format!("{header}{kernel}call {}", "(".repeat(times)),
        format!(
            "{header}.global .b32 x{} = {}",
            "[1]".repeat(times),
            "{".repeat(times)
        ),
        format!("{header}.global .b32 x[9] = {}", "{".repeat(times)),
        format!(
            "{header}{kernel}{} ret; }}",
            "{".repeat(150) + &"bra L;".repeat(times) + &"}".repeat(150) + "L:"
        ),
        format!(
            "{header}{kernel}{} ret; }}",
            "{ .reg .b32 %r<5>; mov.b32 %r4, %r7; }".repeat(times)
        ),
        format!(
            "{header}{kernel}{} ret; }}",
            ".loc 1 2 3, function_name L+1, inlined_at 1 2 3\n".repeat(times)
        ),
        format!("{header}{kernel}mov.b32 %r{}, 1;", "1".repeat(times)),
        format!("{header}{}", "/* */".repeat(times)),
        format!("{header}.section .debug_str {{ {} }}", "L: .b8 65".repeat(times)),
        format!("{header}{}", ".global .b8 x[1000000] = {1};\n".repeat(times)),
        format!(
            "{header}{kernel}{} ret; }}",
            "p: .branchtargets L;\n{\n".repeat(times)
        ),
    ];
    for case in cases {
        let start = Instant::now();
        fuzz_body::ptx(case.as_bytes());
        assert!(start.elapsed().as_secs() < 10, "{}", &case[..100]);
    }
}
