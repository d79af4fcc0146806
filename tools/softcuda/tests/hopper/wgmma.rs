//! Every shape of `wgmma` against plain products: each N, A in shared memory and in registers, both majors, each swizzle.
//!
//! How elements lie in shared memory is written down here a second time, from the canonical layouts of the PTX ISA, and not
//! taken from softcuda. Numbers are small and whole, so sums are exact in every type, and equal bit for bit.

use std::fmt::Write;

use softcuda::machine::Module;

use super::all;
use super::harness::{Args, Ended, Gpu, Random, Shape};

/// Products of 32 bytes in k that one kernel adds up.
const STEPS: usize = 2;
/// Bytes of k in all.
const WIDTH: usize = 32 * STEPS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bf16,
    F16,
    E4m3,
    E5m2,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Bf16 => "bf16",
            Type::F16 => "f16",
            Type::E4m3 => "e4m3",
            Type::E5m2 => "e5m2",
        }
    }
    fn bytes(self) -> usize {
        if matches!(self, Type::Bf16 | Type::F16) {
            2
        } else {
            1
        }
    }
    /// A whole number from -4 to 4; e5m2 holds them all, with two bits of fraction.
    fn encode(self, value: i32) -> Vec<u8> {
        let bits = (value as f32).to_bits();
        let (sign, exponent) = (bits >> 31, (bits >> 23 & 255) as i32 - 127);
        let fraction = |width: u32| bits >> (23 - width) & ((1 << width) - 1);
        let pack = |bias: i32, width: u32, total: u32| match value {
            0 => 0,
            _ => sign << (total - 1) | ((exponent + bias) as u32) << width | fraction(width),
        };
        match self {
            Type::Bf16 => ((bits >> 16) as u16).to_le_bytes().to_vec(),
            Type::F16 => (pack(15, 10, 16) as u16).to_le_bytes().to_vec(),
            Type::E4m3 => vec![pack(7, 3, 8) as u8],
            Type::E5m2 => vec![pack(15, 2, 8) as u8],
        }
    }
}

/// How an operand lies in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Bytes of the swizzle's span: 16 for none.
    span: usize,
    /// Rows of 16 bytes run along m or n, not along k.
    along_mn: bool,
}

/// An operand's descriptor, its bytes, and what is added to the descriptor for the next 32 bytes of k.
struct Operand {
    descriptor: u64,
    step: u64,
    image: Vec<u8>,
}

impl Layout {
    /// `numbers[row][k]`, rows being those of A or the columns of B.
    fn place(self, numbers: &[Vec<i32>], ty: Type) -> Operand {
        let (rows, span) = (numbers.len(), self.span);
        // Leading and stride byte offsets, and the bytes from the first product's operand to the second's.
        let (leading, stride, step) = match (self.along_mn, span) {
            // Cores of eight rows of 16 bytes, with a gap behind each.
            (false, 16) => (rows / 8 * 144, 144, 2 * (rows / 8 * 144)),
            (true, 16) => (144, 144 * WIDTH / 16, 2 * 144),
            // Rows as long as the span; what is left of k lies behind all of them.
            (false, _) => (16, 8 * span, if span == 32 { span * rows } else { 32 }),
            // As many rows as k has elements, each of span bytes of m or n; eight rows to a group.
            (true, _) => (span * WIDTH / 2, 8 * span, 2 * 8 * span),
        };
        let place = |row: usize, byte: usize| {
            let (k, group, i) = (byte / 2, row / 8, row % 8);
            match (self.along_mn, span) {
                (false, 16) => group * stride + byte / 16 * leading + 16 * i + byte % 16,
                (true, 16) => group * stride + k / 8 * leading + k % 8 * 16 + 2 * i + byte % 2,
                (false, _) => byte / span * (span * rows) + row * span + byte % span,
                (true, _) => {
                    let per_atom = span / 2;
                    row / per_atom * leading + k / 8 * stride + k % 8 * span + 2 * (row % per_atom) + byte % 2
                }
            }
        };
        let mut image = Vec::new();
        for (row, numbers) in numbers.iter().enumerate() {
            let bytes = numbers.iter().flat_map(|&n| ty.encode(n));
            for (byte, value) in bytes.enumerate() {
                let at = place(row, byte);
                // 16-byte pieces are exchanged by the number of their row of 128 bytes.
                let at = at ^ ((at / 128) % (span / 16) * 16);
                if image.len() <= at {
                    image.resize(at / 1024 * 1024 + 1024, 0);
                }
                image[at] = value;
            }
        }
        let mode = match span {
            16 => 0,
            32 => 3,
            64 => 2,
            _ => 1u64,
        };
        Operand {
            descriptor: (leading as u64 / 16) << 16 | (stride as u64 / 16) << 32 | mode << 62,
            step: step as u64 / 16,
            image,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    n: usize,
    types: [Type; 2],
    /// `None`: in registers.
    a: Option<Layout>,
    b: Layout,
}

/// A kernel that copies both images to shared memory, multiplies twice and writes each thread's results one after the other.
fn source(case: &Case) -> String {
    let registers = case.n / 2;
    let k = 32 / case.types[0].bytes();
    let d: Vec<String> = (0..registers).map(|i| format!("%f{i}")).collect();
    let mut text = format!(
        ".version 8.4\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry product(.param .u64 a, .param .u64 b, .param .u64 out, .param .u32 a_bytes, .param .u32 b_bytes,\n\
         .param .u64 a_descriptor, .param .u64 b_descriptor, .param .u64 a_step, .param .u64 b_step)\n{{\n\
         .reg .pred %p<3>;\n.reg .b32 %r<32>;\n.reg .f32 %f<{registers}>;\n.reg .b64 %d<32>;\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, smem;\nld.param.u32 %r2, [a_bytes];\nld.param.u32 %r3, [b_bytes];\n"
    );
    // A's image at the beginning, B's behind it.
    for (name, bytes, base) in [("a", "%r2", "%r1"), ("b", "%r3", "%r4")] {
        let _ = write!(
            text,
            "add.u32 %r4, %r1, %r2;\nld.param.u64 %d0, [{name}];\nshl.b32 %r5, %r0, 2;\n\
             LOOP_{name}:\nsetp.ge.u32 %p0, %r5, {bytes};\n@%p0 bra DONE_{name};\n\
             cvt.u64.u32 %d1, %r5;\nadd.u64 %d1, %d1, %d0;\nld.global.u32 %r6, [%d1];\nadd.u32 %r7, {base}, %r5;\n\
             st.shared.u32 [%r7], %r6;\nadd.u32 %r5, %r5, 512;\nbra LOOP_{name};\nDONE_{name}:\n"
        );
    }
    text += "fence.proxy.async;\nbar.sync 0;\nshr.u32 %r8, %r1, 4;\nshr.u32 %r9, %r4, 4;\ncvt.u64.u32 %d2, %r8;\n\
             cvt.u64.u32 %d3, %r9;\nld.param.u64 %d4, [a_descriptor];\nld.param.u64 %d5, [b_descriptor];\n\
             add.u64 %d2, %d2, %d4;\nadd.u64 %d3, %d3, %d5;\nld.param.u64 %d6, [a_step];\nld.param.u64 %d7, [b_step];\n";
    if case.a.is_none() {
        // Rows of WIDTH bytes in global memory: word t of row g, of row g + 8, and 16 bytes further of both.
        let _ = write!(
            text,
            "shr.u32 %r10, %r0, 5;\nand.b32 %r11, %r0, 31;\nshr.u32 %r12, %r11, 2;\nand.b32 %r13, %r11, 3;\n\
             mad.lo.u32 %r14, %r10, 16, %r12;\nmul.lo.u32 %r14, %r14, {WIDTH};\nmad.lo.u32 %r14, %r13, 4, %r14;\n\
             cvt.u64.u32 %d8, %r14;\nld.param.u64 %d9, [a];\nadd.u64 %d8, %d8, %d9;\n"
        );
        for step in 0..STEPS {
            for i in 0..4 {
                let at = 32 * step + i / 2 * 16 + i % 2 * 8 * WIDTH;
                let _ = writeln!(text, "ld.global.u32 %r{}, [%d8+{at}];", 16 + 4 * step + i);
            }
        }
    }
    text += "wgmma.fence.sync.aligned;\n";
    for step in 0..STEPS {
        let a = match case.a {
            Some(_) => "%d2".to_owned(),
            None => {
                let list: Vec<String> = (0..4).map(|i| format!("%r{}", 16 + 4 * step + i)).collect();
                format!("{{{}}}", list.join(", "))
            }
        };
        let mut majors = String::new();
        if case.types[0].bytes() == 2 {
            if let Some(a) = case.a {
                let _ = write!(majors, ", {}", u8::from(a.along_mn));
            }
            let _ = write!(majors, ", {}", u8::from(case.b.along_mn));
        }
        let _ = writeln!(
            text,
            "setp.ne.b32 %p1, {step}, 0;\nwgmma.mma_async.sync.aligned.m64n{}k{k}.f32.{}.{} {{{}}}, {a}, %d3, %p1, 1, 1{majors};\n\
             add.u64 %d2, %d2, %d6;\nadd.u64 %d3, %d3, %d7;",
            case.n,
            case.types[0].name(),
            case.types[1].name(),
            d.join(", ")
        );
    }
    let _ = write!(
        text,
        "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\nld.param.u64 %d10, [out];\n\
         mul.wide.u32 %d11, %r0, {};\nadd.u64 %d10, %d10, %d11;\n",
        4 * registers
    );
    for (i, register) in d.iter().enumerate() {
        let _ = writeln!(text, "st.global.f32 [%d10+{}], {register};", 4 * i);
    }
    text + "ret;\n}\n"
}

struct Bench {
    gpu: Gpu,
    module: Module,
    case: Case,
    a: Operand,
    b: Operand,
    /// Row by row.
    want: Vec<f32>,
}

impl Bench {
    fn new(case: Case, seed: u64) -> Self {
        let mut random = Random(seed);
        let k = WIDTH / case.types[0].bytes();
        let mut matrix = |rows: usize| -> Vec<Vec<i32>> {
            (0..rows)
                .map(|_| (0..k).map(|_| random.below(9) as i32 - 4).collect())
                .collect()
        };
        let (a, b) = (matrix(64), matrix(case.n));
        let want = (0..64 * case.n)
            .map(|i| {
                a[i / case.n]
                    .iter()
                    .zip(&b[i % case.n])
                    .map(|(a, b)| a * b)
                    .sum::<i32>() as f32
            })
            .collect();
        let mut gpu = Gpu::new();
        let module = gpu.load_text("wgmma", source(&case).as_bytes());
        let rows = || {
            a.iter()
                .flatten()
                .flat_map(|&n| case.types[0].encode(n))
                .collect()
        };
        let a = match case.a {
            Some(layout) => layout.place(&a, case.types[0]),
            None => Operand {
                descriptor: 0,
                step: 0,
                image: rows(),
            },
        };
        let b = case.b.place(&b, case.types[1]);
        Self {
            gpu,
            module,
            case,
            a,
            b,
            want,
        }
    }

    /// The product, row by row, with these descriptors; `Err` has the findings' words.
    fn run(&mut self, descriptors: [u64; 2]) -> Result<Vec<f32>, String> {
        let n = self.case.n;
        let (a, b) = (self.gpu.upload(&self.a.image), self.gpu.upload(&self.b.image));
        let out = self.gpu.alloc(4 * 64 * n);
        let a_shared = if self.case.a.is_some() {
            self.a.image.len()
        } else {
            0
        };
        let args = Args::new()
            .with(a)
            .with(b)
            .with(out)
            .with(a_shared as u32)
            .with(self.b.image.len() as u32)
            .with(descriptors[0])
            .with(descriptors[1])
            .with(self.a.step)
            .with(self.b.step);
        let shape = Shape {
            shared: (a_shared + self.b.image.len()) as u32,
            ..Shape::new(1, 128)
        };
        match self.gpu.try_launch(&self.module, "product", shape, &args) {
            Ended::Well => {}
            Ended::Refused(_, message) => panic!("refused: {message}"),
            Ended::Found(findings) => return Err(findings[0].to_string()),
        }
        let raw: Vec<f32> = self.gpu.download(out, 64 * n);
        let mut product = vec![0.0; 64 * n];
        for (at, value) in raw.into_iter().enumerate() {
            let (thread, i) = (at / (n / 2), at % (n / 2));
            let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
            product[row * n + i / 4 * 8 + thread % 4 * 2 + i % 2] = value;
        }
        for address in [a, b, out] {
            self.gpu.device.memory.free(address).expect("just allocated");
        }
        Ok(product)
    }
}

fn layouts(ty: Type) -> impl Iterator<Item = Layout> {
    let majors: &[bool] = if ty.bytes() == 2 { &[false, true] } else { &[false] };
    majors
        .iter()
        .flat_map(|&along_mn| [16, 32, 64, 128].map(|span| Layout { span, along_mn }))
}

fn cases() -> Vec<Case> {
    let pairs = [
        [Type::Bf16, Type::Bf16],
        [Type::F16, Type::F16],
        [Type::E4m3, Type::E4m3],
        [Type::E5m2, Type::E4m3],
        [Type::E4m3, Type::E5m2],
        [Type::E5m2, Type::E5m2],
    ];
    let mut list = Vec::new();
    for types in pairs {
        for n in (8..=256usize).step_by(8) {
            for a in layouts(types[0]).map(Some).chain([None]) {
                for b in layouts(types[1]) {
                    // Along n a row of the swizzle is full.
                    if !b.along_mn || b.span == 16 || n.is_multiple_of(b.span / 2) {
                        list.push(Case { n, types, a, b });
                    }
                }
            }
        }
    }
    list
}

#[test]
fn every_shape_is_the_plain_product() {
    let cases = cases();
    // A step without a common divisor with the table's periods, so that a sample has some of everything.
    let step = if all() { 1 } else { 131 };
    for (seed, case) in (1..).zip(cases.iter().step_by(step)) {
        let mut bench = Bench::new(*case, seed);
        let got = bench
            .run([bench.a.descriptor, bench.b.descriptor])
            .unwrap_or_else(|found| panic!("{case:?} is clean, but {found}"));
        assert!(got == bench.want, "{case:?}");
    }
}

/// Each field of a descriptor counts: one more or one less gives other numbers or a finding, where the layout uses it.
#[test]
fn a_descriptor_that_is_wrong_by_one_shows() {
    let plain = Layout {
        span: 128,
        along_mn: false,
    };
    // First bit and width.
    let fields = [
        ("start", 0, 14),
        ("leading", 16, 14),
        ("stride", 32, 14),
        ("base", 49, 3),
        ("swizzle", 62, 2),
    ];
    let mut ignored = Vec::new();
    for layout in layouts(Type::Bf16) {
        for operand in 0..2 {
            let mut case = Case {
                n: 128,
                types: [Type::Bf16; 2],
                a: Some(plain),
                b: plain,
            };
            *[case.a.as_mut().expect("in shared memory"), &mut case.b][operand] = layout;
            let mut bench = Bench::new(case, 7);
            for (name, first, width) in fields {
                for change in [1, -1i64] {
                    let mut descriptors = [bench.a.descriptor, bench.b.descriptor];
                    let mask = ((1u64 << width) - 1) << first;
                    let old = descriptors[operand];
                    let new = ((old & mask) >> first).wrapping_add_signed(change) << first & mask;
                    // The start is relative: a carry would go to the next field.
                    if name == "start" && change < 0 {
                        continue;
                    }
                    descriptors[operand] = old & !mask | new;
                    if bench.run(descriptors).is_ok_and(|got| got == bench.want) {
                        ignored.push((layout, operand, name, change));
                    }
                }
            }
        }
    }
    // Along k a swizzled row has all of a product's k, so the leading offset is not used (PTX ISA: assumed to be 1). Along m
    // it is not either where 64 rows are one span.
    let unused = |(layout, operand, name, _): &(Layout, usize, &str, i64)| {
        *name == "leading" && layout.span > 16 && (!layout.along_mn || *operand == 0 && layout.span == 128)
    };
    assert!(ignored.iter().all(unused), "{ignored:?}");
}

/// The sum of an fp8 product keeps fewer bits than f32: beside 2^13 a product of 2^-2 is lost, one of 2^0 is not (MMA-Sim,
/// "Hopper": 13 bits of fraction behind the largest of the summands).
#[test]
fn the_accumulator_of_fp8_loses_bits() {
    let case = Case {
        n: 8,
        types: [Type::E4m3; 2],
        a: None,
        b: Layout {
            span: 16,
            along_mn: false,
        },
    };
    let run = |small: u8| {
        let mut bench = Bench::new(case, 1);
        bench.a.image.fill(0);
        bench.b.image.fill(0);
        // 64 · 128 in the first step, 1 · small in the same.
        bench.a.image[..2].copy_from_slice(&[0x68, 0x38]);
        bench.b.image[..2].copy_from_slice(&[0x70, small]);
        let descriptors = [0, bench.b.descriptor];
        bench.run(descriptors).expect("clean")[0]
    };
    assert_eq!(run(0x38), 8193.0);
    assert_eq!(run(0x28), 8192.0);
}
