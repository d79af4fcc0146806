//! Tensor copies and wgmma against plain products.

#[path = "../harness/mod.rs"]
mod harness;

mod boxes;
mod clusters;
mod engine;
mod mutants;
mod pipelines;
mod wgmma;

use harness::{Args, Ended, Gpu, Random, Shape};
use softcuda::memory::{Fill, Swizzle, TensorMap};

/// Whether the long tests are asked for.
fn all() -> bool {
    std::env::var_os("ROPEWAY_TEST_ALL").is_some_and(|v| v == "1")
}

#[test]
fn a_tile_of_wgmma_is_the_plain_product() {
    let mut gpu = Gpu::new();
    let Some(module) = gpu.load("hopper_gemm.cu") else {
        return;
    };
    let mut random = Random(3);
    // Small whole numbers, which bf16 and the sums hold exactly.
    let mut numbers = || -> Vec<f32> { (0..4096).map(|_| random.below(17) as f32 - 8.0).collect() };
    let (left, right) = (numbers(), numbers());
    let mut map = |values: &[f32]| {
        let bits: Vec<u16> = values.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
        let map = TensorMap {
            address: gpu.upload(&bits),
            rank: 2,
            element: 2,
            dimensions: [64, 64, 1],
            strides: [128, 0],
            tile: [64, 64, 1],
            swizzle: Swizzle::B128,
            fill: Fill::Zero,
        };
        map.encode()
    };
    let (a, b) = (map(&left), map(&right));
    // Rows before and behind the matrix are zero.
    for row in [0i32, -5, 40] {
        let out = gpu.alloc(4 * 4096);
        let args = Args::new()
            .with_bytes(&a, 128)
            .with_bytes(&b, 128)
            .with(row)
            .with(out);
        gpu.launch(&module, "tile_product", Shape::new(1, 128), &args);
        let want: Vec<f32> = (0..4096)
            .map(|i| {
                let (r, c) = (i as i32 / 64 + row, i % 64);
                let product = |k: usize| match r {
                    0..64 => left[64 * r as usize + k] * right[64 * c + k],
                    _ => 0.0,
                };
                (0..64).map(product).sum()
            })
            .collect();
        assert!(gpu.download::<f32>(out, 4096) == want, "row {row}");
    }
}

/// Dependent launches wait for the launch before them, in one thread at least: else the launch after them begins too early.
#[test]
fn a_launch_in_which_nobody_waits_is_reported() {
    let source = ".version 8.4\n.target sm_90\n.address_size 64\n.visible .entry step(.param .u32 waiting)\n{\n\
                  .reg .pred %p;\n.reg .b32 %r<3>;\nmov.u32 %r0, %ctaid.x;\nld.param.u32 %r1, [waiting];\n\
                  setp.ge.u32 %p, %r0, %r1;\n@%p ret;\ngriddepcontrol.wait;\nret;\n}\n";
    let mut gpu = Gpu::new();
    let module = gpu.load_text("step", source.as_bytes());
    let mut launch = |waiting: u32, programmatic: bool| {
        let shape = Shape {
            programmatic,
            ..Shape::new(3, 32)
        };
        gpu.try_launch(&module, "step", shape, &Args::new().with(waiting))
    };
    assert!(matches!(launch(0, false), Ended::Well), "nothing to wait for");
    assert!(matches!(launch(1, true), Ended::Well), "one block waits");
    match launch(0, true) {
        Ended::Found(findings) => assert!(
            findings[0].message.contains("griddepcontrol.wait"),
            "{}",
            findings[0]
        ),
        other => panic!("nobody waits: {other:?}"),
    }
}

/// A launch that lets the next one begin before it has waited itself may still wait for those before it then: what they write
/// the next one must not touch either.
#[test]
fn what_an_earlier_launch_of_a_chain_writes_is_not_touched_before_the_wait() {
    let source = ".version 8.4\n.target sm_90\n.address_size 64\n\
                  .visible .entry writes(.param .u64 at)\n{\n.reg .b64 %d;\nld.param.u64 %d, [at];\n\
                  griddepcontrol.launch_dependents;\ngriddepcontrol.wait;\nst.global.u32 [%d], 7;\nret;\n}\n\
                  .visible .entry early()\n{\ngriddepcontrol.launch_dependents;\ngriddepcontrol.wait;\nret;\n}\n\
                  .visible .entry late()\n{\ngriddepcontrol.wait;\ngriddepcontrol.launch_dependents;\nret;\n}\n\
                  .visible .entry ends()\n{\ngriddepcontrol.wait;\nret;\n}\n\
                  .visible .entry reads(.param .u64 at)\n{\n.reg .b64 %d;\n.reg .b32 %r;\nld.param.u64 %d, [at];\n\
                  ld.global.u32 %r, [%d];\ngriddepcontrol.wait;\nret;\n}\n";
    let chain = |between: &[(&str, bool)]| {
        let mut gpu = Gpu::new();
        let module = gpu.load_text("chain", source.as_bytes());
        let at = Args::new().with(gpu.zeros(4));
        let none = Args::new();
        let shape = |programmatic| Shape {
            programmatic,
            ..Shape::new(1, 1)
        };
        gpu.launch(&module, "writes", shape(false), &at);
        for &(name, programmatic) in between {
            gpu.launch(&module, name, shape(programmatic), &none);
        }
        match gpu.try_launch(&module, "reads", shape(true), &at) {
            Ended::Well => None,
            Ended::Found(findings) => Some(findings[0].message.clone()),
            other => panic!("{other:?}"),
        }
    };
    for (between, wanted) in [
        (&[][..], "but the launch before writes them"),
        (&[("early", true)], "but a launch before, 2 back,"),
        (
            &[("early", true), ("early", true)],
            "but a launch before, 3 back,",
        ),
    ] {
        let found = chain(between);
        assert!(
            found.as_ref().is_some_and(|found| found.contains(wanted)),
            "{between:?}: {found:?}"
        );
    }
    for between in [
        &[("late", true)][..],
        &[("ends", true)],
        &[("early", false)],
        &[("early", true), ("late", true), ("early", true)],
    ] {
        assert_eq!(chain(between), None, "{between:?}");
    }
}

/// Neither is it written there, whether that launch wrote it or read it alone.
#[test]
fn what_the_launch_before_touches_is_not_written_before_the_wait() {
    let kernel = |name: &str, before: &str, after: &str| {
        format!(
            ".visible .entry {name}(.param .u64 at)\n{{\n.reg .b64 %d;\n.reg .b32 %r<4>;\nld.param.u64 %d, [at];\n\
             {before}griddepcontrol.wait;\n{after}ret;\n}}\n"
        )
    };
    let accesses = [
        ("reads", "ld.global.u32 %r0, [%d];\n"),
        ("writes", "st.global.u32 [%d], 7;\n"),
        ("writes_more", "st.global.v4.u32 [%d], {%r0, %r1, %r2, %r3};\n"),
        ("adds", "red.relaxed.gpu.global.add.u32 [%d], 1;\n"),
    ];
    let mut source = ".version 8.4\n.target sm_90\n.address_size 64\n".to_owned();
    for (name, access) in accesses {
        source += &kernel(name, "", access);
        source += &kernel(&format!("{name}_early"), access, "");
    }
    for (first, _) in accesses {
        for (then, _) in accesses {
            let mut gpu = Gpu::new();
            let module = gpu.load_text("chain", source.as_bytes());
            let at = Args::new().with(gpu.zeros(16));
            let shape = |programmatic| Shape {
                programmatic,
                ..Shape::new(1, 1)
            };
            gpu.launch(&module, first, shape(false), &at);
            let ended = gpu.try_launch(&module, &format!("{then}_early"), shape(true), &at);
            let found = match ended {
                Ended::Well => None,
                Ended::Found(findings) => Some(findings[0].message.clone()),
                other => panic!("{other:?}"),
            };
            let wanted = match (first, then) {
                ("reads", "reads") => None,
                ("reads", _) => Some("but the launch before reads them"),
                _ => Some("but the launch before writes them"),
            };
            let right = match (&found, wanted) {
                (Some(found), Some(wanted)) => found.contains(wanted),
                (found, wanted) => found.is_none() && wanted.is_none(),
            };
            assert!(right, "{first}, then {then}: {found:?}");
        }
    }
}

/// Bulk copies too, which are larger than any access of a thread.
#[test]
fn a_bulk_copy_before_the_wait_is_checked() {
    let source = ".version 8.4\n.target sm_90\n.address_size 64\n\
                  .visible .entry writes(.param .u64 at)\n{\n.reg .b64 %d;\nld.param.u64 %d, [at];\n\
                  st.global.u32 [%d+508], 7;\nret;\n}\n\
                  .visible .entry copies(.param .u64 at)\n{\n.reg .pred %p;\n.reg .b64 %d;\n\
                  .shared .align 128 .b8 to[512];\n.shared .align 8 .b64 bar;\nld.param.u64 %d, [at];\n\
                  mbarrier.init.shared::cta.b64 [bar], 1;\nfence.mbarrier_init.release.cluster;\n\
                  mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 512;\n\
                  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [%d], 512, [bar];\n\
                  again:\nmbarrier.try_wait.parity.shared::cta.b64 %p, [bar], 0;\n@!%p bra again;\n\
                  griddepcontrol.wait;\nret;\n}\n";
    let mut gpu = Gpu::new();
    let module = gpu.load_text("copies", source.as_bytes());
    let (written, other) = (gpu.zeros(512), gpu.zeros(512));
    let mut after = |at: u64| {
        gpu.launch(&module, "writes", Shape::new(1, 1), &Args::new().with(written));
        let shape = Shape {
            programmatic: true,
            ..Shape::new(1, 1)
        };
        gpu.try_launch(&module, "copies", shape, &Args::new().with(at))
    };
    assert!(matches!(after(other), Ended::Well));
    match after(written) {
        Ended::Found(findings) => assert!(
            findings[0].message.contains("512 bytes")
                && findings[0].message.contains("launch before writes them"),
            "{}",
            findings[0]
        ),
        other => panic!("the copy is too early: {other:?}"),
    }
}

/// A block alone may use `mapa`, in some of a warp's lanes as well.
#[test]
fn a_block_alone_reaches_its_own_memory_by_mapa() {
    let source = ".version 8.4\n.target sm_90\n.address_size 64\n.visible .entry step(.param .u64 out)\n{\n\
                  .reg .pred %p;\n.reg .b32 %r<6>;\n.reg .b64 %d<2>;\n.shared .align 4 .b8 words[128];\n\
                  ld.param.u64 %d0, [out];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, words;\nmad.lo.u32 %r1, %r0, 4, %r1;\n\
                  mapa.shared::cluster.u32 %r2, %r1, 0;\nand.b32 %r3, %r0, 1;\nsetp.eq.u32 %p, %r3, 1;\n\
                  selp.b32 %r4, %r2, %r1, %p;\nst.shared::cluster.u32 [%r4], %r0;\nld.shared.u32 %r5, [%r1];\n\
                  mad.wide.u32 %d1, %r0, 4, %d0;\nst.global.u32 [%d1], %r5;\nret;\n}\n";
    let mut gpu = Gpu::new();
    let module = gpu.load_text("step", source.as_bytes());
    let out = gpu.zeros(128);
    gpu.launch(&module, "step", Shape::new(1, 32), &Args::new().with(out));
    assert_eq!(gpu.download::<u32>(out, 32), (0..32).collect::<Vec<u32>>());
}

/// A wait with a limit gives up after so many of the block's own instructions: where the host's time was the measure, a host
/// that paused made a kernel stall that was well.
#[test]
fn a_limited_wait_takes_no_host_time() {
    let source = ".version 8.4\n.target sm_90\n.address_size 64\n.visible .entry waits(.param .u64 out)\n{\n\
                  .reg .pred %p<2>;\n.reg .b32 %r;\n.reg .b64 %d<5>;\n.shared .align 8 .b64 barrier;\n\
                  ld.param.u64 %d0, [out];\nmbarrier.init.shared.b64 [barrier], 1;\nmov.u32 %r, 0;\n\
                  mov.u64 %d1, %globaltimer;\n\
                  again:\nmbarrier.test_wait.parity.shared.b64 %p0, [barrier], 0;\nadd.u32 %r, %r, 1;\n\
                  mov.u64 %d2, %globaltimer;\nsub.u64 %d3, %d2, %d1;\nsetp.lt.u64 %p1, %d3, 50000000;\n@%p1 bra again;\n\
                  st.global.u64 [%d0], %d1;\nst.global.u64 [%d0+8], %d2;\ncvt.u64.u32 %d4, %r;\n\
                  st.global.u64 [%d0+16], %d4;\nret;\n}\n";
    let mut gpu = Gpu::new();
    let module = gpu.load_text("waits", source.as_bytes());
    let mut last = 0;
    for _ in 0..2 {
        let out = gpu.zeros(24);
        gpu.launch(&module, "waits", Shape::new(1, 1), &Args::new().with(out));
        let [first, end, rounds] = gpu.download::<u64>(out, 3)[..] else {
            panic!("three words");
        };
        assert!(
            first >= last && end - first >= 50_000_000,
            "{first} to {end}, after {last}"
        );
        // Six instructions of 250 ns a round; a turn of a warp, which may be 10 000 of them, sees one time.
        let instructions = 6 * rounds;
        assert!((190_000..=210_010).contains(&instructions), "{instructions}");
        last = end;
    }
}
