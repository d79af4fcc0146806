//! Single instructions, each in a kernel of its own over a table of operands, so that a GPU can be held against
//! softcuda form by form; and a rehearsal of that comparison without a GPU. See tools/gpu/README.md.

mod forms;
mod rehearsal;
mod zero_products;

use std::fmt::Write;

use forms::Group;

use crate::harness::rule::Float;
use crate::harness::{Args, Gpu, Random, Rule, Shape, compile, folder};

/// Threads, each with its own operands.
const THREADS: usize = 2048;
const BLOCK: u32 = 256;

/// What an operand's letter says of it.
struct Kind {
    bits: u32,
    /// Values worth trying; random ones follow.
    edges: &'static [u64],
    /// Of random bits, a value.
    draw: fn(u64) -> u64,
}

const INTEGERS: &[u64] = &[
    0,
    1,
    2,
    3,
    31,
    32,
    255,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];
const HALF: &[u64] = &[
    0, 0x8000, 0x3c00, 0xbc00, 1, 0x8001, 0x3ff, 0x400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0x3800,
    0x3e00, 0x4248,
];
const BRAIN: &[u64] = &[
    0, 0x8000, 0x3f80, 0xbf80, 1, 0x8001, 0x7f, 0x80, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0x3f00, 0x3fc0,
    0x4049,
];
const SINGLE: &[u64] = &[
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    1,
    0x8000_0001,
    0x7f_ffff,
    0x80_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x3f00_0000,
    0x3fc0_0000,
    0x4f00_0000,
];
const DOUBLE: &[u64] = &[
    0,
    1 << 63,
    0x3ff0 << 48,
    0xbff0 << 48,
    1,
    1 << 63 | 1,
    (1 << 52) - 1,
    1 << 52,
    0x7fef_ffff_ffff_ffff,
    0xffef_ffff_ffff_ffff,
    0x7ff0 << 48,
    0xfff0 << 48,
    0x7ff8 << 48,
    0x3fe0 << 48,
    0x3ff8 << 48,
    0x41e0 << 48,
];

fn kind(letter: char) -> Kind {
    // Half of the floats have an exponent near that of 1: sums of others would hardly ever round.
    let (bits, edges, draw): (u32, _, fn(u64) -> u64) = match letter {
        'h' => (16, INTEGERS, |x| x),
        'r' => (32, INTEGERS, |x| x >> (x & 31)),
        'l' => (64, INTEGERS, |x| x >> (x & 63)),
        's' => (32, &[0, 1, 31, 32, 33, 63, 64, 65, 255, 256], |x| x % 40),
        'H' => (
            16,
            HALF,
            |x| if x & 1 << 40 != 0 { x } else { x & 0x8fff | 0x3000 },
        ),
        'B' => (
            16,
            BRAIN,
            |x| if x & 1 << 40 != 0 { x } else { x & 0x83ff | 0x3c00 },
        ),
        'x' => (32, HALF, |x| {
            if x & 1 << 40 != 0 {
                x
            } else {
                x & 0x8fff_8fff | 0x3000_3000
            }
        }),
        'y' => (32, BRAIN, |x| {
            if x & 1 << 40 != 0 {
                x
            } else {
                x & 0x83ff_83ff | 0x3c00_3c00
            }
        }),
        'F' => (32, SINGLE, |x| {
            if x & 1 << 40 != 0 {
                x
            } else {
                x & 0x83ff_ffff | 0x3c00_0000
            }
        }),
        // tf32: the low bits are not looked at.
        'T' => (32, SINGLE, |x| {
            if x & 1 << 40 != 0 {
                x & 0xffff_e000
            } else {
                x & 0x83ff_e000 | 0x3c00_0000
            }
        }),
        // From -2π to 2π: where the error of sin and cos has its tightest bound.
        't' => (
            32,
            &[0, 0x8000_0000, 0x3f80_0000, 0x4049_0fdb, 0x3fc9_0fdb],
            |x| {
                let turn = x as u32 as f32 / 2f32.powi(31) - 1.0;
                u64::from((turn * std::f32::consts::TAU).to_bits())
            },
        ),
        'D' => (64, DOUBLE, |x| {
            if x & 1 << 40 != 0 {
                x
            } else {
                x & 0x803f_ffff_ffff_ffff | 0x3fc0_0000_0000_0000
            }
        }),
        _ => panic!("no operands `{letter}`"),
    };
    Kind { bits, edges, draw }
}

/// One instruction: `name result:operands more`.
struct Form<'a> {
    name: &'a str,
    result: char,
    operands: Vec<char>,
    /// Further operands as written.
    more: &'a str,
}

impl<'a> Form<'a> {
    fn parse(line: &'a str) -> Self {
        let mut words = line.splitn(3, ' ');
        let (name, signature) = (words.next().unwrap(), words.next().expect("a signature"));
        let (result, operands) = signature.split_once(':').expect("a colon");
        Self {
            name,
            result: result.chars().next().expect("a result"),
            operands: operands.chars().collect(),
            more: words.next().unwrap_or(""),
        }
    }

    /// A kernel that applies the instruction: operands in `from`, 8 bytes each; results in `to`, 8 bytes each.
    fn entry(&self, entry: &str) -> String {
        let mut text = format!(
            ".visible .entry {entry}(.param .u64 from, .param .u64 to)\n{{\n\
             .reg .b16 %h<8>; .reg .b32 %r<8>; .reg .b64 %l<8>; .reg .pred %p<2>;\n\
             .reg .b32 %i<5>; .reg .b64 %a<5>;\n\
             ld.param.u64 %a1, [from]; ld.param.u64 %a2, [to];\n\
             mov.u32 %i1, %tid.x; mov.u32 %i2, %ctaid.x; mov.u32 %i3, %ntid.x; mad.lo.u32 %i4, %i2, %i3, %i1;\n\
             mad.wide.u32 %a1, %i4, {}, %a1; mad.wide.u32 %a2, %i4, 8, %a2;\n",
            8 * self.operands.len()
        );
        let register = |bits: u32| match bits {
            16 => 'h',
            32 => 'r',
            _ => 'l',
        };
        let mut list = String::new();
        for (index, &letter) in self.operands.iter().enumerate() {
            let bits = kind(letter).bits;
            let name = format!("%{}{}", register(bits), index + 1);
            writeln!(text, "ld.global.b{bits} {name}, [%a1+{}];", 8 * index).unwrap();
            write!(list, ", {name}").unwrap();
        }
        list.push_str(self.more);
        if self.result == 'p' {
            writeln!(
                text,
                "{} %p1{list};\nselp.b32 %r0, 1, 0, %p1;\nst.global.b32 [%a2], %r0;",
                self.name
            )
            .unwrap();
        } else {
            let bits = kind(self.result).bits;
            let to = format!("%{}0", register(bits));
            writeln!(text, "{} {to}{list};\nst.global.b{bits} [%a2], {to};", self.name).unwrap();
        }
        text + "ret;\n}\n"
    }

    /// Operands of every thread, 8 bytes each: edges with edges first.
    fn table(&self) -> Vec<u64> {
        let mut random = Random(0x9e37_79b9);
        let mut table = Vec::new();
        for thread in 0..THREADS {
            let mut rest = thread;
            for &letter in &self.operands {
                let kind = kind(letter);
                let edge = kind.edges[rest % kind.edges.len()];
                rest /= kind.edges.len();
                let drawn = (kind.draw)(u64::from(random.next()) << 32 | u64::from(random.next()));
                let first = kind.edges.len().pow(self.operands.len().min(2) as u32);
                table.push(if thread < first { edge } else { drawn });
            }
        }
        table
    }
}

/// A kernel of one warp per block that multiplies fragments: 4 bytes per register in `from`, and in `to`.
fn product(name: &str, [a, b, c]: [usize; 3], entry: &str) -> String {
    let mut text = format!(
        ".visible .entry {entry}(.param .u64 from, .param .u64 to)\n{{\n.reg .b32 %r<16>; .reg .b32 %i<5>; .reg .b64 %a<5>;\n\
         ld.param.u64 %a1, [from]; ld.param.u64 %a2, [to];\n\
         mov.u32 %i1, %tid.x; mov.u32 %i2, %ctaid.x; mad.lo.u32 %i4, %i2, 32, %i1;\n\
         mad.wide.u32 %a1, %i4, {}, %a1; mad.wide.u32 %a2, %i4, {}, %a2;\n",
        4 * (a + b + c),
        4 * c
    );
    for index in 0..a + b + c {
        writeln!(text, "ld.global.b32 %r{index}, [%a1+{}];", 4 * index).unwrap();
    }
    let list = |from: usize, count: usize| {
        let names: Vec<String> = (from..from + count).map(|i| format!("%r{i}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let (left, right, sum) = (list(0, a), list(a, b), list(a + b, c));
    writeln!(text, "mma.sync.aligned.{name} {sum}, {left}, {right}, {sum};").unwrap();
    for index in 0..c {
        writeln!(text, "st.global.b32 [%a2+{}], %r{};", 4 * index, a + b + index).unwrap();
    }
    text + "ret;\n}\n"
}

/// Sums of products whose exact value needs rounding: how the tensor cores round is not documented, so the report's
/// distribution is what this is for.
#[test]
fn tensor_cores() {
    for &(name, k, letter, registers, half_sums) in forms::PRODUCTS {
        let mut gpu = Gpu::new();
        let title = format!("tensor cores: mma.{name}");
        let module = gpu.load_text(
            &title,
            format!("{HEAD}{}", product(name, registers, "form")).as_bytes(),
        );
        let mut random = Random(0x5eed);
        let warps = 64;
        // Bit 40 asks for any exponent: without it factors and sums stay below 2.
        let mut draw = |letter: char| {
            let bits = u64::from(random.next()) << 32 | u64::from(random.next());
            (kind(letter).draw)(bits & !(1 << 40)) as u32
        };
        let [a, b, c] = registers;
        let mut table = Vec::new();
        for _ in 0..32 * warps {
            table.extend((0..a + b).map(|_| draw(letter)));
            table.extend((0..c).map(|_| draw(if half_sums { 'x' } else { 'F' })));
        }
        let (from, to) = (gpu.upload(&table), gpu.zeros(4 * c * 32 * warps));
        // Each of the two rounds or cuts off once for every eight products, of a magnitude below 4k + 2.
        let magnitude = (4 * k + 2) as f64;
        let rule = if half_sums {
            Rule::absolute(Float::F16, magnitude * 2f64.powi(-10))
        } else {
            Rule::absolute(Float::F32, (k / 8 + 1) as f64 * magnitude * 2f64.powi(-22))
        };
        gpu.compare(to, 4 * c * 32 * warps, rule);
        gpu.launch(
            &module,
            "form",
            Shape::new(warps as u32, 32),
            &Args::new().with(from).with(to),
        );
        let sums = gpu.download::<f32>(to, c * 32 * warps);
        // Random sums: hardly any stays what it was, none is beyond its magnitude.
        assert!(
            half_sums || sums.iter().all(|sum| f64::from(sum.abs()) <= magnitude),
            "{name}"
        );
        assert!(sums.iter().any(|&sum| sum != 0.0), "{name}");
    }
}

const HEAD: &str = ".version 8.6\n.target sm_90\n.address_size 64\n";

fn run(group: &Group) {
    for line in group.forms.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let form = Form::parse(line);
        let mut gpu = Gpu::new();
        let title = format!("{}: {}{}", group.name, form.name, form.more);
        let module = gpu.load_text(&title, format!("{HEAD}{}", form.entry("form")).as_bytes());
        let table = form.table();
        let (from, to) = (gpu.upload(&table), gpu.zeros(8 * THREADS));
        gpu.compare(to, 8 * THREADS, group.rule);
        let shape = Shape::new(THREADS as u32 / BLOCK, BLOCK);
        gpu.launch(&module, "form", shape, &Args::new().with(from).with(to));
        if let Some((_, expected)) = forms::EXPECTED.iter().find(|(name, _)| *name == line) {
            let got = gpu.download::<u64>(to, THREADS);
            for (operands, got) in table.chunks(form.operands.len()).zip(got) {
                assert_eq!(got, expected(operands), "{line}: {operands:x?}");
            }
        }
    }
}

macro_rules! groups {
    ($($test:ident $group:ident)*) => {$(
        #[test]
        fn $test() {
            run(&forms::$group);
        }
    )*

    const GROUPS: &[&Group] = &[$(&forms::$group),*];
    };
}

groups! {
    integer INTEGER
    integer_comparisons COMPARE
    single SINGLE
    double DOUBLE
    half HALF
    bfloat BFLOAT
    conversions CONVERT
    one_ulp ONE_ULP
    two_ulp TWO_ULP
    square_roots ROOTS
    logarithm LOGARITHM
    sine SINE
    tanh TANH
    half_functions HALF_FUNCTIONS
    bfloat_functions BFLOAT_FUNCTIONS
}

#[test]
fn every_expectation_belongs_to_a_form() {
    for (name, _) in forms::EXPECTED {
        let found = GROUPS
            .iter()
            .any(|g| g.forms.lines().any(|line| line.trim() == *name));
        assert!(found, "{name}");
    }
}

/// NVIDIA's assembler takes every form: none would be refused by a driver. With a toolkit only.
#[test]
fn the_assembler_takes_every_form() {
    let Some(toolkit) = crate::support::toolkit() else {
        return;
    };
    let mut text = HEAD.to_owned();
    let mut count = 0;
    for group in GROUPS {
        for line in group.forms.lines().map(str::trim).filter(|line| !line.is_empty()) {
            count += 1;
            text += &Form::parse(line).entry(&format!("form{count}"));
        }
    }
    for &(name, _, _, registers, _) in forms::PRODUCTS {
        count += 1;
        text += &product(name, registers, &format!("form{count}"));
    }
    let folder = crate::support::folder("forms");
    std::fs::write(folder.join("forms.ptx"), text).unwrap();
    let output = std::process::Command::new(toolkit.join("bin/ptxas"))
        .args(["-arch=sm_90", "-O0", "-o", "/dev/null"])
        .arg(folder.join("forms.ptx"))
        .output()
        .expect("ptxas");
    assert!(
        output.status.success(),
        "{}",
        crate::support::stderr(&output)
            .chars()
            .take(4000)
            .collect::<String>()
    );
    std::fs::remove_dir_all(folder).unwrap();
    assert!(count > 250, "{count} forms");
}

/// Compiles what the whole kernels need; with `SOFTCUDA_PTX_PACK=folder` leaves it there.
#[test]
fn every_source_compiles() {
    for entry in std::fs::read_dir(folder()).unwrap_or_else(|e| panic!("the sources: {e}")) {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".cu") {
            continue;
        }
        let Some(text) = compile(&name) else { return };
        if let Some(to) = std::env::var_os("SOFTCUDA_PTX_PACK") {
            std::fs::write(std::path::Path::new(&to).join(name + ".ptx"), &*text).unwrap();
        }
    }
}
