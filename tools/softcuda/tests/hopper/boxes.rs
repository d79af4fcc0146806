//! Boxes of tensor copies at every kind of edge, both ways, element by element.

use std::fmt::Write;

use super::all;
use super::harness::{Args, Gpu, Random, Shape};
use softcuda::memory::{Fill, Swizzle, TensorMap};

/// A kernel that fetches a box, writes its bytes as they lie in shared memory, and puts it back by another map.
fn source(rank: usize) -> String {
    let coordinates = |first: usize| {
        let list: Vec<String> = (first..first + rank).map(|i| format!("%r{i}")).collect();
        list.join(", ")
    };
    let mut text = String::from(
        ".version 8.4\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry move(.param .align 64 .b8 from[128], .param .align 64 .b8 to[128], .param .u64 out, .param .u32 bytes,\n\
         .param .u32 x, .param .u32 y, .param .u32 z)\n{\n\
         .reg .pred %p<3>;\n.reg .b32 %r<24>;\n.reg .b64 %d<8>;\n.shared .align 8 .b64 barrier;\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, smem;\nmov.u32 %r2, barrier;\nld.param.u32 %r3, [bytes];\n\
         ld.param.u32 %r10, [x];\nld.param.u32 %r11, [y];\nld.param.u32 %r12, [z];\n\
         mov.b64 %d0, from;\ncvta.param.u64 %d0, %d0;\nmov.b64 %d1, to;\ncvta.param.u64 %d1, %d1;\n\
         setp.ne.u32 %p0, %r0, 0;\n@%p0 bra WAIT;\n\
         mbarrier.init.shared::cta.b64 [%r2], 1;\nfence.mbarrier_init.release.cluster;\n\
         mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], %r3;\n",
    );
    let _ = write!(
        text,
        "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%d0, {{{}}}], [%r2];\n\
         WAIT:\nbar.sync 0;\nTRY:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n@!%p1 bra TRY;\n\
         ld.param.u64 %d2, [out];\nshl.b32 %r4, %r0, 2;\nLOOP:\nsetp.ge.u32 %p2, %r4, %r3;\n@%p2 bra DONE;\n\
         cvt.u64.u32 %d3, %r4;\nadd.u64 %d3, %d3, %d2;\nadd.u32 %r5, %r1, %r4;\nld.shared.u32 %r6, [%r5];\n\
         st.global.u32 [%d3], %r6;\nadd.u32 %r4, %r4, 128;\nbra LOOP;\nDONE:\n@%p0 ret;\n\
         cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group [%d1, {{{}}}], [%r1];\n\
         cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nret;\n}}\n",
        coordinates(10),
        coordinates(10)
    );
    text
}

struct Case {
    rank: usize,
    element: usize,
    tile: [usize; 3],
    swizzle: Swizzle,
    fill: Fill,
}

/// Elements in each dimension; none is a multiple of a box.
const SIZE: [usize; 3] = [37, 5, 3];

fn check(case: &Case, coordinates: &[[i32; 3]]) {
    let mut gpu = Gpu::new();
    let module = gpu.load_text("boxes", source(case.rank).as_bytes());
    let element = case.element;
    let size: [usize; 3] = std::array::from_fn(|axis| if axis < case.rank { SIZE[axis] } else { 1 });
    let row = (size[0] * element).next_multiple_of(16) + 32;
    let plane = row * (size[1] + 1);
    let total = plane * size[2];
    let mut random = Random(5);
    let source: Vec<u8> = (0..total).map(|_| random.next() as u8).collect();
    let mut map = TensorMap {
        address: gpu.upload(&source),
        rank: case.rank,
        element: element as u32,
        dimensions: size.map(|n| n as u64),
        strides: [[row, 0], [row, plane]][usize::from(case.rank == 3)].map(|n| n as u64),
        tile: case.tile.map(|n| n as u32),
        swizzle: case.swizzle,
        fill: case.fill,
    };
    if case.rank == 1 {
        map.strides = [0, 0];
    }
    map.check().expect("a good map");
    let bytes = case.tile.iter().product::<usize>() * element;
    let span = case.swizzle.span() as usize;
    for &at in coordinates {
        let to = gpu.zeros(total);
        let out = gpu.alloc(bytes);
        let back = TensorMap { address: to, ..map };
        let args = Args::new()
            .with_bytes(&map.encode(), 64)
            .with_bytes(&back.encode(), 64)
            .with(out)
            .with(bytes as u32)
            .with(at[0])
            .with(at[1])
            .with(at[2]);
        gpu.launch(
            &module,
            "move",
            Shape {
                shared: bytes as u32,
                ..Shape::new(1, 32)
            },
            &args,
        );
        let mut want_out = vec![0u8; bytes];
        let mut want_to = vec![0u8; total];
        let [nx, ny, nz] = case.tile;
        for (z, y, x) in (0..nz).flat_map(|z| (0..ny).flat_map(move |y| (0..nx).map(move |x| (z, y, x)))) {
            let place = [x, y, z]
                .into_iter()
                .zip(at)
                .map(|(i, c)| i as i64 + i64::from(c))
                .collect::<Vec<_>>();
            let inside = place.iter().zip(size).all(|(&p, n)| (0..n as i64).contains(&p));
            for byte in 0..element {
                let lies = ((z * ny + y) * nx + x) * element + byte;
                // 16-byte pieces are exchanged by the number of their row of 128 bytes.
                let lies = lies ^ (lies / 128 % (span / 16) * 16);
                want_out[lies] = match (inside, case.fill) {
                    (true, _) => {
                        let from = place[2] as usize * plane
                            + place[1] as usize * row
                            + place[0] as usize * element
                            + byte;
                        want_to[from] = source[from];
                        source[from]
                    }
                    (false, Fill::Zero) => 0,
                    (false, Fill::Nan) => [0xff, 0x7f][usize::from(byte == element - 1)],
                };
            }
        }
        let what = format!(
            "{}d, {element} bytes, {:?}, {:?}, at {at:?}",
            case.rank, case.tile, case.swizzle
        );
        assert!(
            gpu.download::<u8>(out, bytes) == want_out,
            "to shared memory: {what}"
        );
        assert!(gpu.download::<u8>(to, total) == want_to, "back: {what}");
        gpu.device.memory.free(to).expect("just allocated");
        gpu.device.memory.free(out).expect("just allocated");
    }
}

/// Before, across and behind both ends of each dimension, and far away.
fn corners(case: &Case) -> Vec<[i32; 3]> {
    let along = |axis: usize| -> Vec<i32> {
        if axis >= case.rank {
            return vec![0];
        }
        let (tile, size) = (case.tile[axis] as i32, SIZE[axis] as i32);
        vec![
            0,
            -1,
            1 - tile,
            -tile,
            size - tile,
            size - 1,
            size,
            i32::MIN,
            i32::MAX,
        ]
    };
    let mut list = Vec::new();
    for z in along(2) {
        for y in along(1) {
            list.extend(along(0).into_iter().map(|x| [x, y, z]));
        }
    }
    // A sample has some of each; the step has no common divisor with the number of places.
    let step = if all() { 1 } else { 7 };
    list.into_iter().step_by(step).collect()
}

#[test]
fn boxes_are_cut_at_every_edge() {
    for rank in 1..=3 {
        for element in [1, 2, 4, 8] {
            for swizzle in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
                let columns = match swizzle {
                    Swizzle::None => 48 / element,
                    _ => swizzle.span() as usize / element,
                };
                let tile = [columns, [1, 4, 4][rank - 1], [1, 1, 2][rank - 1]];
                let fill = if element > 1 && swizzle == Swizzle::B64 {
                    Fill::Nan
                } else {
                    Fill::Zero
                };
                let case = Case {
                    rank,
                    element,
                    tile,
                    swizzle,
                    fill,
                };
                // A rank and an element size each in full, the others by turns.
                let sampled = all()
                    || rank == 2 && element == 2
                    || (rank + element + swizzle.span() as usize / 16).is_multiple_of(4);
                if sampled {
                    check(&case, &corners(&case));
                }
            }
        }
    }
}
