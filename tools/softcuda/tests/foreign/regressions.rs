//! What foreign code has found wrong in softcuda, each as a few lines of PTX.

use softcuda::machine::Module;
use softcuda::run::check::Check;

use super::harness::{Args, Ended, Gpu, Shape};

/// A kernel `k` of one pointer, `%rd1`, with `%r1` its thread; shared variables and instructions as given.
fn kernel(gpu: &mut Gpu, shared: &str, body: &str) -> Module {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n\
         .reg .pred %p<4>;\n.reg .b32 %r<10>;\n.reg .b64 %rd<4>;\n{shared}\n\
         ld.param.u64 %rd1, [out];\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    );
    Module::load(text.as_bytes(), &mut gpu.device).unwrap_or_else(|e| panic!("{e}"))
}

/// Each thread's word at its place of the output.
const OUT: &str = "mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd1, %rd2;\nst.global.u32 [%rd2], %r2;";

fn run(body: &str, shared: &str, threads: u32) -> Vec<u32> {
    let mut gpu = Gpu::new();
    let module = kernel(&mut gpu, shared, &format!("{body}\n{OUT}"));
    let out = gpu.alloc(4 * threads as usize);
    gpu.launch(&module, "k", Shape::new(1, threads), &Args::new().with(out));
    gpu.download(out, threads as usize)
}

/// CUB writes the mode before `.sync`, and ptxas takes it; the kernel was refused.
#[test]
fn vote_with_its_mode_first() {
    let got = run(
        "and.b32 %r3, %r1, 3;\nsetp.eq.u32 %p1, %r3, 0;\nvote.ballot.sync.b32 %r2, %p1, -1;",
        "",
        32,
    );
    assert_eq!(got, [0x1111_1111; 32]);
}

/// nvcc loads three words as four; the fourth, which nobody had written, was found, though nobody looks at it.
#[test]
fn elements_of_a_vector_that_nobody_reads() {
    let shared = ".shared .align 16 .b8 s[16];";
    let load = |used: &str| {
        format!(
            "st.shared.u32 [s], %r1;\nst.shared.u32 [s+4], 5;\nbar.sync 0;\n\
             ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [s];\nadd.u32 %r2, %r5, {used};"
        )
    };
    assert_eq!(run(&load("%r4"), shared, 1), [5]);
    // Neither at the beginning nor at the end.
    let middle = "st.shared.u32 [s+4], 5;\nld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [s];\nmov.u32 %r2, %r5;";
    assert_eq!(run(middle, shared, 1), [5]);
    let mut gpu = Gpu::new();
    let module = kernel(&mut gpu, shared, &format!("{}\n{OUT}", load("%r6")));
    let out = gpu.alloc(4);
    match gpu.try_launch(&module, "k", Shape::new(1, 1), &Args::new().with(out)) {
        Ended::Found(findings) => assert_eq!(findings[0].check, Check::Uninitialised),
        other => panic!("the third word is used, and was not written: {other:?}"),
    }
}

/// Cooperative groups let all lanes write one word, the same in each: a race to softcuda, unless the word had been
/// there before.
#[test]
fn lanes_of_one_instruction_that_write_the_same() {
    let shared = ".shared .align 4 .b8 s[4];";
    let same = "st.shared.u32 [s], 7;\nbar.sync 0;\nld.shared.u32 %r2, [s];";
    assert_eq!(run(same, shared, 32), [7; 32]);
    let mut gpu = Gpu::new();
    let other = "st.shared.u32 [s], %r1;\nbar.sync 0;\nld.shared.u32 %r2, [s];";
    let module = kernel(&mut gpu, shared, &format!("{other}\n{OUT}"));
    let out = gpu.alloc(128);
    match gpu.try_launch(&module, "k", Shape::new(1, 32), &Args::new().with(out)) {
        Ended::Found(findings) => assert_eq!(findings[0].check, Check::Race),
        other => panic!("each lane writes its own number to one word: {other:?}"),
    }
}

/// Cooperative groups keep barriers in the system's shared memory, which there was none of; they clear their own
/// bits of what lies there, whatever that is.
#[test]
fn shared_memory_of_the_system() {
    let body = "mov.u32 %r3, %reserved_smem_offset_1;\nred.shared.and.b32 [%r3], 0;\nbar.sync 0;\n\
                st.shared.u32 [s], 3;\nbar.sync 0;\n\
                ld.shared.u32 %r4, [%r3];\nld.shared.u32 %r5, [s];\nadd.u32 %r2, %r4, %r5;";
    assert_eq!(run(body, ".shared .align 4 .b8 s[4];", 32), [3; 32]);
    let offsets = "mov.u32 %r3, %reserved_smem_offset_begin;\nmov.u32 %r4, %reserved_smem_offset_end;\n\
                   sub.u32 %r2, %r4, %r3;";
    assert_eq!(run(offsets, "", 1), [1024]);
}

/// Blocks that wait for those before them, as a look-back scan's do: out of order they came to a deadlock, for the
/// ones to wait for never began.
#[test]
fn shuffled_blocks_that_wait_for_those_before_them() {
    for seed in 1..6 {
        for threads in [1, 2] {
            let mut gpu = Gpu::with(|s| {
                s.seed = Some(seed);
                s.threads = threads;
            });
            let body = "mov.u32 %r2, %ctaid.x;\n\
                        again:\nld.acquire.gpu.u32 %r3, [%rd1];\nsetp.ne.u32 %p1, %r3, %r2;\n@%p1 bra again;\n\
                        add.u32 %r3, %r3, 1;\nst.release.gpu.u32 [%rd1], %r3;";
            let module = kernel(&mut gpu, "", body);
            let counter = gpu.zeros(4);
            gpu.launch(&module, "k", Shape::new(100, 1), &Args::new().with(counter));
            assert_eq!(gpu.download::<u32>(counter, 1), [100]);
        }
    }
}

/// CUB's look-back reads status and value as one vector; parts of two writes came together.
#[test]
fn vectors_in_one_piece() {
    for (ty, bits, registers) in [("u64", 64, ["%rd2", "%rd3"]), ("u32", 32, ["%r4", "%r5"])] {
        let [a, b] = registers;
        let mut gpu = Gpu::with(|s| s.threads = 4);
        // The first block writes pairs of equal numbers, the others look at them: any that differ are counted.
        let body = format!(
            "mov.u32 %r2, %ctaid.x;\nmov.u32 %r3, 1;\nsetp.ne.u32 %p1, %r2, 0;\nmov.b{bits} {b}, 0;\n\
             again:\ncvt.u{bits}.u32 {a}, %r3;\n\
             @!%p1 st.relaxed.gpu.v2.{ty} [%rd1], {{{a}, {a}}};\n\
             @%p1 ld.relaxed.gpu.v2.{ty} {{{a}, {b}}}, [%rd1];\n\
             setp.ne.{ty} %p2, {a}, {b};\nand.pred %p2, %p1, %p2;\n\
             @%p2 red.relaxed.gpu.add.u32 [%rd1+16], 1;\n\
             add.u32 %r3, %r3, 1;\nsetp.lt.u32 %p3, %r3, 30000;\n@%p3 bra again;"
        );
        let module = kernel(&mut gpu, "", &body);
        let out = gpu.zeros(32);
        gpu.launch(&module, "k", Shape::new(4, 1), &Args::new().with(out));
        assert_eq!(gpu.download::<u32>(out + 16, 1), [0], "torn pairs of .{ty}");
    }
}
