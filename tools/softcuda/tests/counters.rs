//! Counters of kernels whose answers are known.

use std::path::PathBuf;

use softcuda::counters::{Counters, Limit, Memory, Requests, Waves, occupancy, report};
use softcuda::machine::{Device, Launch, Module, Settings, launch};
use softcuda::memory::Kind;
use softcuda::run::profile::{SM_80, SM_89, SM_90};

const PATTERNS: &str = include_str!("counters/patterns.ptx");
const TRANSPOSE: &str = include_str!("counters/transpose.ptx");

struct Bench {
    device: Device,
    module: Module,
    cooperative: bool,
}

impl Bench {
    fn new(text: &str, settings: Settings) -> Self {
        let mut device = Device::new(&SM_80, settings);
        let module = Module::load(text.as_bytes(), &mut device).unwrap_or_else(|e| panic!("{e}"));
        Self {
            device,
            module,
            cooperative: false,
        }
    }

    /// With memory traffic counted, by one host thread.
    fn counting(text: &str) -> Self {
        Self::new(
            text,
            Settings {
                threads: 1,
                counters: true,
                ..Settings::default()
            },
        )
    }

    /// Memory of `bytes` bytes, all of them zero.
    fn zeros(&mut self, label: &str, bytes: u64) -> u64 {
        let memory = &mut self.device.memory;
        let address = memory.allocate(bytes, Kind::Device, label).unwrap();
        memory.write(address, &vec![0; bytes as usize]).unwrap();
        // A request's sectors follow from its offsets alone.
        assert_eq!(address % 128, 0);
        address
    }

    fn run(&mut self, kernel: &str, grid: u32, block: [u32; 3], params: &[Param]) -> Counters {
        let kernel = self.module.kernel(kernel).expect("the kernel is there");
        let mut bytes = Vec::new();
        for param in params {
            match param {
                Param::Address(value) => bytes.extend(value.to_le_bytes()),
                Param::Word(value) => bytes.extend(value.to_le_bytes()),
            }
        }
        let config = Launch {
            grid: [grid, 1, 1],
            block,
            shared: 0,
            params: bytes,
            cooperative: self.cooperative,
            cluster: None,
            programmatic: false,
            stream: 0,
        };
        let done = launch(&mut self.device, &self.module, &kernel, &config);
        done.unwrap_or_else(|e| panic!("{e}")).counters
    }
}

enum Param {
    Address(u64),
    Word(u32),
}
use Param::{Address, Word};

fn memory(counters: &Counters) -> &Memory {
    counters.memory.as_ref().expect("memory traffic was counted")
}

fn requests(requests: u64, sectors: u64, ideal_sectors: u64, useful_bytes: u64) -> Requests {
    Requests {
        requests,
        sectors,
        ideal_sectors,
        useful_bytes,
    }
}

fn waves(requests: u64, wavefronts: u64, ideal: u64) -> Waves {
    Waves {
        requests,
        wavefronts,
        ideal,
    }
}

#[test]
fn sectors_per_request() {
    for (stride, offset, want) in [
        // A warp's 128 bytes in four sectors.
        (4, 0, requests(1, 4, 4, 128)),
        // The same, 4 bytes into a sector: a fifth.
        (4, 4, requests(1, 5, 4, 128)),
        // Every second word: twice the sectors.
        (8, 0, requests(1, 8, 4, 128)),
        // A sector for each lane.
        (32, 0, requests(1, 32, 4, 128)),
        (128, 64, requests(1, 32, 4, 128)),
        // One word for all.
        (0, 96, requests(1, 1, 1, 4)),
    ] {
        let mut bench = Bench::counting(PATTERNS);
        let (out, input) = (bench.zeros("out", 128), bench.zeros("in", 4096));
        let counters = bench.run(
            "gather",
            1,
            [32, 1, 1],
            &[Address(out), Address(input), Word(stride), Word(offset)],
        );
        let memory = memory(&counters);
        assert_eq!(memory.global.loads, want, "stride {stride}, offset {offset}");
        assert_eq!(memory.global.stores, requests(1, 4, 4, 128));
        // One request reads each of its sectors once.
        assert_eq!(memory.dram.read_bytes, 32 * want.sectors);
        assert_eq!(memory.dram.written_bytes, 128);
    }
}

#[test]
fn half_a_warp_asks_for_half_as_much() {
    let mut bench = Bench::counting(PATTERNS);
    let (out, input) = (bench.zeros("out", 192), bench.zeros("in", 192));
    let params = [Address(out), Address(input), Word(4), Word(0)];
    let counters = bench.run("gather", 1, [48, 1, 1], &params);
    assert_eq!(memory(&counters).global.loads, requests(2, 6, 6, 192));
    assert_eq!(counters.warps, 2);
    // 13 instructions, two warps, 48 lanes.
    assert_eq!(counters.instructions.warps, 26);
    assert_eq!(counters.instructions.lanes, 13 * 48);
    assert_eq!(counters.class("load global").warps, 2);
    assert_eq!(counters.class("load const").warps, 8);
}

#[test]
fn dram_counts_what_blocks_share_once() {
    let mut bench = Bench::counting(PATTERNS);
    let (out, input) = (bench.zeros("out", 1024), bench.zeros("in", 4096));
    let counters = bench.run("overlap", 4, [32, 1, 1], &[Address(out), Address(input)]);
    let memory = memory(&counters);
    // Four blocks ask for 128 bytes each; block b's begin at 64 b, so that all lie in the first 320.
    assert_eq!(memory.global.loads, requests(4, 16, 16, 512));
    assert_eq!(memory.dram.read_bytes, 320);
    assert_eq!(memory.dram.written_bytes, 512);
    let touched: Vec<_> = memory
        .dram
        .allocations
        .iter()
        .map(|t| {
            (
                t.label.as_str(),
                t.kind.as_str(),
                t.bytes,
                t.read_bytes,
                t.written_bytes,
            )
        })
        .collect();
    assert_eq!(
        touched,
        [("out", "device", 1024, 0, 512), ("in", "device", 4096, 320, 0)]
    );
}

#[test]
fn what_the_kernel_wrote_is_not_read_from_dram() {
    let mut bench = Bench::counting(PATTERNS);
    let at = bench.zeros("at", 1024);
    let counters = bench.run("written_first", 1, [32, 1, 1], &[Address(at)]);
    let memory = memory(&counters);
    assert_eq!(memory.global.loads, requests(2, 8, 8, 256));
    // All lanes add to one word.
    assert_eq!(memory.global.atomics, requests(1, 1, 1, 4));
    // The 128 bytes that nobody wrote, and the sector that the atomics read before they write it.
    assert_eq!(memory.dram.read_bytes, 128 + 32);
    assert_eq!(memory.dram.written_bytes, 128 + 32);
}

#[test]
fn bank_conflicts_by_layout() {
    for (kernel, wavefronts) in [
        // A column of rows of 32 words: one bank.
        ("transpose_plain", 32 * 32),
        ("transpose_padded", 32),
        ("transpose_swizzled", 32),
    ] {
        let mut bench = Bench::counting(TRANSPOSE);
        let (out, input) = (bench.zeros("out", 4096), bench.zeros("in", 4096));
        let counters = bench.run(kernel, 1, [32, 32, 1], &[Address(out), Address(input)]);
        let memory = memory(&counters);
        assert_eq!(memory.shared.loads, waves(32, wavefronts, 32), "{kernel}");
        assert_eq!(memory.shared.stores, waves(32, 32, 32), "{kernel}");
        assert_eq!(memory.global.loads, requests(32, 128, 128, 4096));
        assert_eq!(counters.barriers.arrivals, 32);
        let lines: Vec<_> = memory
            .lines
            .iter()
            .filter(|line| line.shared.conflicts() > 0)
            .map(|line| (line.at.line, line.kernel_at.line, line.function.as_deref()))
            .collect();
        if kernel == "transpose_plain" {
            // `element` is inlined into the kernel.
            assert_eq!(lines, [(6, 15, Some("_Z7elementPKfi"))]);
        } else {
            assert_eq!(lines, []);
        }
        assert!(memory.lines.iter().all(|line| line.at.file == "transpose.cu"));
    }
}

#[test]
fn wide_shared_accesses() {
    // Strides, then wavefronts of: 4, 8 and 16 bytes per lane; tiles (four, then one); 16-byte copies; atomics.
    for (stride, four, eight, sixteen, tiles, copies, atomics) in [
        // Full rows: a wavefront for every 128 bytes.
        (16, 4, 4, 4, 4 + 1, 4, 4),
        // Groups of 16 bytes, two rows apart: half of the banks.
        (32, 8, 8, 8, 8 + 2, 8, 8),
        // All in the first banks.
        (128, 32, 32, 32, 32 + 8, 32, 32),
        // Rows padded by 16 bytes.
        (144, 4, 4, 4, 4 + 1, 4, 4),
    ] {
        let mut bench = Bench::counting(PATTERNS);
        let input = bench.zeros("in", 512);
        let counters = bench.run("shared_reads", 1, [32, 1, 1], &[Address(input), Word(stride)]);
        let memory = memory(&counters);
        let mut loads: Vec<_> = memory.sites.iter().filter(|s| s.class == "load shared").collect();
        loads.sort_by_key(|site| site.ptx_line);
        let loads: Vec<_> = loads.iter().map(|site| site.shared).collect();
        assert_eq!(
            loads,
            [waves(1, four, 1), waves(1, eight, 2), waves(1, sixteen, 4)],
            "stride {stride}"
        );
        assert_eq!(memory.shared.matrix, waves(2, tiles, 5), "stride {stride}");
        assert_eq!(memory.shared.copies, waves(1, copies, 4), "stride {stride}");
        // The second one is 32 lanes at one word.
        assert_eq!(
            memory.shared.atomics,
            waves(2, atomics + 32, 2),
            "stride {stride}"
        );
        assert_eq!(memory.shared.stores, waves(64, 64, 64));
        assert_eq!(memory.global.copies, requests(1, 16, 16, 512));
    }
}

#[test]
fn divergence() {
    let mut bench = Bench::counting(PATTERNS);
    let counters = bench.run("divergent", 2, [96, 1, 1], &[]);
    let integer = counters.class("integer");
    // Six warps: three additions by 8 lanes; one that the first warp of each block leaves out.
    assert_eq!(integer.warps, 6 * 4);
    assert_eq!(integer.lanes, 6 * 3 * 8 + 2 * 2 * 32);
    assert_eq!(integer.skipped, 2);
    let compare = counters.class("compare");
    assert_eq!((compare.warps, compare.lanes), (12, 12 * 32));
}

#[test]
fn matrix_work() {
    let mut bench = Bench::counting(PATTERNS);
    let counters = bench.run("products", 3, [64, 1, 1], &[Word(5)]);
    let found: Vec<_> = counters
        .matrix
        .iter()
        .map(|m| (m.ty.as_str(), m.instructions, m.flops))
        .collect();
    let (bf16, tf32) = (3 * 2 * 5 * 3, 3);
    assert_eq!(
        found,
        [
            ("bf16", bf16, bf16 * 2 * 16 * 8 * 16),
            ("tf32", tf32, tf32 * 2 * 16 * 8 * 8)
        ]
    );
    let blocks = counters.matrix_blocks.unwrap();
    // Six instructions in the loop, three of them products.
    assert_eq!((blocks.hottest_warps, blocks.hottest_matrix), (2 * bf16, bf16));
    assert_eq!((blocks.warps, blocks.matrix), (2 * bf16 + tf32, bf16 + tf32));
}

#[test]
fn local_memory() {
    let mut bench = Bench::counting(PATTERNS);
    let out = bench.zeros("out", 4 * 40);
    let counters = bench.run("local_words", 1, [40, 1, 1], &[Address(out)]);
    assert_eq!(counters.local.written_bytes, 40 * 16);
    assert_eq!(counters.local.read_bytes, 40 * 8);
    let lines: u64 = memory(&counters).lines.iter().map(|line| line.local_bytes).sum();
    assert_eq!(lines, 40 * 24);
}

#[test]
fn counts_do_not_depend_on_threads_or_order() {
    let count = |threads, seed| {
        let settings = Settings {
            threads,
            seed,
            counters: true,
            ..Settings::default()
        };
        let mut bench = Bench::new(PATTERNS, settings);
        let (out, input) = (bench.zeros("out", 40 * 128), bench.zeros("in", 8192));
        let first = bench.run("overlap", 40, [32, 1, 1], &[Address(out), Address(input)]);
        let second = bench.run("products", 7, [64, 1, 1], &[Word(9)]);
        // Blocks that take turns count like blocks one after another.
        bench.cooperative = true;
        let turns = bench.run("overlap", 40, [32, 1, 1], &[Address(out), Address(input)]);
        assert_eq!(
            turns,
            Counters {
                launch: 3,
                ..first.clone()
            }
        );
        (first, second)
    };
    let one = count(1, None);
    assert!(memory(&one.0).dram.read_bytes > 0 && one.1.flops() > 0);
    for threads in [2, 3, 8] {
        assert_eq!(count(threads, None), one, "{threads} threads");
        assert_eq!(count(threads, Some(7)), one, "{threads} threads, shuffled");
    }
}

#[test]
fn without_the_setting_only_instructions_are_counted() {
    let run = |counters| {
        let settings = Settings {
            counters,
            ..Settings::default()
        };
        let mut bench = Bench::new(TRANSPOSE, settings);
        let (out, input) = (bench.zeros("out", 4096), bench.zeros("in", 4096));
        bench.run("transpose_plain", 1, [32, 32, 1], &[Address(out), Address(input)])
    };
    let (with, without) = (run(true), run(false));
    assert_eq!(without.memory, None);
    assert_eq!(without, Counters { memory: None, ..with });
}

/// A file of this test's own, removed in the end.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("softcuda-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn report(&self, arguments: &[&str]) -> Result<String, String> {
        let mut all = vec![self.0.to_str().expect("plain text").to_owned()];
        all.extend(arguments.iter().map(|&s| s.to_owned()));
        report(&all)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Two kernels' launches, written to a file as they end.
fn recorded(file: &File) -> Vec<Counters> {
    let settings = || Settings {
        threads: 1,
        counters: true,
        counters_file: Some(file.0.clone()),
        ..Settings::default()
    };
    let mut bench = Bench::new(TRANSPOSE, settings());
    let (out, input) = (bench.zeros("out", 4096), bench.zeros("in", 4096));
    let mut all = Vec::new();
    for kernel in ["transpose_plain", "transpose_padded", "transpose_plain"] {
        all.push(bench.run(kernel, 1, [32, 32, 1], &[Address(out), Address(input)]));
    }
    let mut bench = Bench::new(PATTERNS, settings());
    all.push(bench.run("products", 3, [64, 1, 1], &[Word(5)]));
    all
}

#[test]
fn json_round_trip() {
    let file = File::new("round-trip");
    let launches = recorded(&file);
    assert_eq!(Counters::read(&file.0).unwrap(), launches);
    assert_eq!(
        launches.iter().map(|c| c.launch).collect::<Vec<_>>(),
        [1, 2, 3, 1]
    );
    // The report's JSON has the same counters, and says what the estimate is.
    let text = file
        .report(&["--launch", "2", "--gpu", "h200", "--json"])
        .unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let counters: Counters = serde_json::from_value(value["counters"].clone()).unwrap();
    assert_eq!(counters, launches[1]);
    assert_eq!(value["roofline"]["what"], "model, not a measurement");
    assert_eq!(file.report(&["--json"]).unwrap().lines().count(), 4);
}

#[test]
fn the_report_as_it_reads() {
    let file = File::new("report");
    recorded(&file);
    let summary = file.report(&["--gpu", "a100"]).unwrap();
    let kernel = file
        .report(&["--kernel", "transpose_plain", "--gpu", "h200", "--ptxas", "24"])
        .unwrap();
    let products = file.report(&["--kernel", "products", "--gpu=rtx4090"]).unwrap();
    let got = format!("{summary}\n{kernel}\n{products}");
    if std::env::var_os("SOFTCUDA_WRITE_EXPECTED").is_some() {
        std::fs::write("tests/counters/report.txt", &got).unwrap();
    }
    assert_eq!(got, include_str!("counters/report.txt"));
}

#[test]
fn errors_say_what_to_do() {
    let file = File::new("errors");
    recorded(&file);
    for (arguments, wanted) in [
        (
            &["--kernel", "transpose"][..],
            "which of transpose_plain, transpose_padded?",
        ),
        (
            &["--kernel", "gemm"],
            "has transpose_plain, transpose_padded, products",
        ),
        (&["--launch", "5"], "has 4 launches"),
        (&["--launch", "none"], "a number from 1"),
        (&["--gpu", "h2000"], "known are h200, h100"),
        (&["--kernel"], "wants a value"),
        (&["--launch", "1", "--kernel", "products"], "give one of them"),
        (&["--tpo", "3"], "see --help"),
        (&["other"], "one file at a time"),
        (&["--launch", "1", "--ptxas", "Cargo.toml"], "nvcc -Xptxas -v"),
    ] {
        let error = file.report(arguments).unwrap_err();
        assert!(error.contains(wanted), "{arguments:?}: {error}");
    }
    assert!(report(&[]).unwrap_err().contains("usage:"));
    assert!(
        report(&["--help".to_owned()])
            .unwrap()
            .contains("SOFTCUDA_COUNTERS")
    );
    std::fs::write(&file.0, "not JSON\n").unwrap();
    let error = file.report(&[]).unwrap_err();
    assert!(
        error.contains("line 1") && error.contains("SOFTCUDA_COUNTERS=FILE"),
        "{error}"
    );
    std::fs::write(&file.0, "").unwrap();
    assert!(file.report(&[]).unwrap_err().contains("no launches"));
    // Part of a name is enough where it says which.
    recorded(&file);
    assert!(
        file.report(&["--kernel", "padded"])
            .unwrap()
            .starts_with("kernel transpose_padded")
    );
}

#[test]
fn the_program_prints_or_says_why_not() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_softcuda-report");
        std::process::Command::new(program)
            .args(arguments)
            .output()
            .unwrap()
    };
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"Shows what softcuda counted"));
    let missing = run(&["/nonexistent/counters.jsonl"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(missing.stdout.is_empty());
    let error = String::from_utf8(missing.stderr).unwrap();
    assert!(
        error.starts_with("softcuda-report: /nonexistent/counters.jsonl: "),
        "{error}"
    );
}

#[test]
fn occupancy_as_cuda_occupancy_h_computes_it() {
    // Threads, registers, bytes of shared memory; blocks on sm_80, sm_89, sm_90 as NVIDIA's cuda_occupancy.h (13.0)
    // gives them with the largest carve-out.
    for (threads, registers, shared, want) in [
        (256, 32, 0, [8, 6, 8]),
        (256, 128, 0, [2, 2, 2]),
        (256, 40, 0, [6, 6, 6]),
        (32, 16, 0, [32, 24, 32]),
        (128, 255, 0, [2, 2, 2]),
        (1024, 64, 0, [1, 1, 1]),
        (1024, 65, 0, [0, 0, 0]),
        (96, 168, 20000, [4, 4, 4]),
        (128, 90, 49152, [3, 2, 4]),
        (192, 57, 33000, [4, 3, 5]),
        (64, 24, 1, [32, 24, 32]),
        (384, 168, 100000, [1, 1, 1]),
        (256, 32, 12345, [8, 6, 8]),
        (288, 72, 8000, [3, 3, 3]),
        (128, 96, 99 << 10, [1, 1, 2]),
        (672, 96, 0, [0, 0, 0]),
        (160, 200, 0, [1, 1, 1]),
    ] {
        for (profile, want) in [&SM_80, &SM_89, &SM_90].into_iter().zip(want) {
            let got = occupancy(profile, threads, Some(registers), shared);
            assert_eq!(got.blocks, want, "{} {threads} {registers} {shared}", profile.key);
        }
    }
    // And which limit binds: registers 4, threads 16, shared memory 4 on an L40S.
    let both = occupancy(&SM_89, 96, Some(168), 20000);
    assert_eq!(
        both.binding().collect::<Vec<_>>(),
        [Limit::Registers, Limit::SharedMemory]
    );
    assert_eq!((both.warps, both.most_warps), (12, 48));
    assert_eq!(occupancy(&SM_90, 128, None, 99 << 10).blocks, 2);
}
