//! How long softcuda takes, with all checks on: a GEMM, and the matrix products and attentions of a small encoder.
//!
//! `cargo bench -p softcuda` prints the best and the median of five runs. The machine's noise is in them; what
//! matters is that a test suite of such launches stays within minutes.

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::Instant;

use harness::engine::Run;
use harness::{Args, Ended, Gpu, Shape, compile};
use softcuda::machine::{self, Launch, Module, Settings};

/// Numbers in -1…1 as bf16, from a counter.
fn numbers(count: usize) -> Vec<u16> {
    (0..count as u32)
        .map(|i| half::bf16::from_f32((i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0 - 1.0).to_bits())
        .collect()
}

struct Bench {
    gpu: Gpu,
    gemm: Module,
    attention: Module,
    instructions: u64,
}

impl Bench {
    fn launch(&mut self, attention: bool, shape: Shape, args: Args) {
        let (module, name) = if attention {
            (&self.attention, "flash_attention")
        } else {
            (&self.gemm, "gemm_bf16")
        };
        let kernel = module.kernel(name).expect("the kernel");
        let launch = Launch {
            grid: shape.grid,
            block: shape.block,
            shared: shape.shared,
            params: args.0,
            cooperative: false,
            cluster: None,
            programmatic: false,
            stream: 0,
        };
        let done = machine::launch(&mut self.gpu.device, module, &kernel, &launch);
        match done {
            Ok(done) => self.instructions += done.counters.instructions.warps,
            Err(error) => panic!("{error}"),
        }
    }

    /// [m, k] · [n, k]ᵀ
    fn gemm(&mut self, a: u64, b: u64, c: u64, [m, n, k]: [u32; 3]) {
        let mut shape = Shape::new(n / 128, 256);
        shape.grid[1] = m.div_ceil(128);
        shape.shared = 49152;
        let args = Args::new()
            .with(a)
            .with(b)
            .with(c)
            .with(m)
            .with(n)
            .with(k)
            .with(0u32);
        self.launch(false, shape, args);
    }
}

fn main() {
    let (Some(gemm), Some(attention), Some(hopper)) = (
        compile("gemm_bf16.cu"),
        compile("flash_attention.cu"),
        compile("engine_gemm.cu"),
    ) else {
        return;
    };
    let mut gpu = Gpu::with(|settings| *settings = Settings::default());
    let mut load = |ptx: &[u8]| Module::load(ptx, &mut gpu.device).expect("a module that loads");
    let (gemm, attention) = (load(&gemm), load(&attention));
    let threads = gpu.device.settings.threads;
    let mut bench = Bench {
        gpu,
        gemm,
        attention,
        instructions: 0,
    };

    let (m, n, k) = (512, 3072, 1024);
    let a = bench.gpu.upload(&numbers(m * k));
    let b = bench.gpu.upload(&numbers(n * k));
    let c = bench.gpu.alloc(m * n * 4);
    measure(&mut bench, threads, "GEMM 512 x 3072 x 1024, bf16", |bench| {
        bench.gemm(a, b, c, [512, 3072, 1024]);
    });

    // The same by the engine's kernels with tensor copies and wgmma.
    let module = Module::load(&hopper, &mut bench.gpu.device).expect("a module that loads");
    for tile in ["pingpong", "wide", "square", "half", "quarter"] {
        let run = Run::gemm(&mut bench.gpu, tile, [m, n, k, 0], 132);
        let name = format!("the same by TMA and wgmma, tile {tile}");
        measure(&mut bench, threads, &name, |bench| {
            let (ended, _) = run.launch(&mut bench.gpu, &module);
            assert!(matches!(ended, Ended::Well), "{ended:?}");
            bench.instructions += bench.gpu.counters.instructions.warps;
        });
    }

    // Two layers of hidden size 256 with four heads over 8 sequences of 64 tokens.
    let (tokens, hidden, sequences) = (512u32, 256u32, 8usize);
    let x = bench.gpu.upload(&numbers((tokens * 1024) as usize));
    let w = bench.gpu.upload(&numbers((1024 * 1024) as usize));
    let y = bench.gpu.alloc((tokens * 1024 * 4) as usize);
    let out = bench.gpu.alloc((tokens * hidden * 2) as usize);
    let starts: Vec<i32> = (0..=sequences as i32).map(|i| 64 * i).collect();
    let starts = bench.gpu.upload(&starts);
    measure(
        &mut bench,
        threads,
        "matrix products and attention of a 2-layer encoder, hidden 256, 8 x 64 tokens",
        |bench| {
            for _ in 0..2 {
                bench.gemm(x, w, y, [tokens, 3 * hidden, hidden]);
                let mut shape = Shape::new(1, 128);
                shape.grid = [1, hidden / 64, sequences as u32];
                let args = Args::new()
                    .with(x)
                    .with(x)
                    .with(x)
                    .with(out)
                    .with(starts)
                    .with(4i32);
                bench.launch(true, shape, args);
                bench.gemm(x, w, y, [tokens, hidden, hidden]);
                bench.gemm(x, w, y, [tokens, 4 * hidden, hidden]);
                bench.gemm(x, w, y, [tokens, hidden, 4 * hidden]);
            }
        },
    );
}

fn measure(bench: &mut Bench, threads: usize, name: &str, mut run: impl FnMut(&mut Bench)) {
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            bench.instructions = 0;
            let begin = Instant::now();
            run(bench);
            begin.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!(
        "{name}: best {:.2} s, median {:.2} s, {:.2} million warp instructions, {threads} threads",
        seconds[0],
        seconds[2],
        bench.instructions as f64 / 1e6
    );
}
