//! Whole files: what nvcc and Triton write.

use softcuda::ptx::ast::*;
use softcuda::ptx::{parse, parse_bytes};

use super::fuzz_body::check;

/// Name and text of every fixture.
pub const FIXTURES: &[(&str, &str)] = &[
    ("inlined", include_str!("../ptx/inlined.ptx")),
    ("features", include_str!("../ptx/features.ptx")),
    ("debug", include_str!("../ptx/debug.ptx")),
    ("triton", include_str!("../ptx/triton.ptx")),
    ("handwritten", include_str!("../ptx/handwritten.ptx")),
];

fn fixture(name: &str) -> Module {
    let (_, text) = FIXTURES.iter().find(|(fixture, _)| *fixture == name).unwrap();
    let module = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    check(&module);
    module
}

fn function<'m>(module: &'m Module, name: &str) -> (&'m Function, &'m Body) {
    let function = module
        .functions
        .iter()
        .find(|function| &*function.name == name)
        .unwrap();
    (function, function.body.as_ref().unwrap())
}

fn variable<'m>(module: &'m Module, name: &str) -> &'m Variable {
    module
        .variables
        .iter()
        .find(|variable| &*variable.name == name)
        .unwrap()
}

/// Function, line and column of an instruction's location and of the calls that lead to it, innermost first.
fn chain(module: &Module, instruction: &Instruction) -> Vec<(String, u32, u32)> {
    std::iter::successors(instruction.loc, |loc| module.locations[loc.0 as usize].inlined_at)
        .map(|loc| &module.locations[loc.0 as usize])
        .map(|location| {
            (
                location.function.as_deref().unwrap_or("").into(),
                location.line,
                location.column,
            )
        })
        .collect()
}

#[test]
fn every_instruction_is_there() {
    for (name, text) in FIXTURES {
        let module = fixture(name);
        for function in module.functions.iter().filter(|function| function.body.is_some()) {
            for instruction in &function.body.as_ref().unwrap().instructions {
                // Blanks may stand within, but the opcode is where it is said to be.
                let line = text.lines().nth(instruction.line as usize - 1).unwrap();
                assert!(
                    line.contains(&*instruction.opcode),
                    "{name}:{}: {}",
                    instruction.line,
                    instruction.name()
                );
            }
        }
    }
    // One statement a line, and nothing else that ends in a semicolon but declarations: counted in the text.
    for name in ["inlined", "debug", "triton"] {
        let (_, text) = FIXTURES.iter().find(|(fixture, _)| *fixture == name).unwrap();
        let statements = text
            .lines()
            .map(|line| line.split("//").next().unwrap().trim())
            .filter(|line| {
                line.ends_with(';') && !line.starts_with(['.', ';', ')']) || line.starts_with("call")
            })
            .count();
        let parsed: usize = fixture(name)
            .functions
            .iter()
            .filter_map(|f| f.body.as_ref())
            .map(|b| b.instructions.len())
            .sum();
        assert_eq!(parsed, statements, "{name}");
    }
}

/// Every instruction of a `__forceinline__` function knows the calls that lead to it, up to the kernel's own line.
#[test]
fn inlined_positions_lead_to_the_kernel() {
    let module = fixture("inlined");
    assert_eq!(module.files, [(1, "/tmp/kernels/inlined.cu".into())]);
    let (_, body) = function(&module, "inlined");
    let chains: Vec<_> = body
        .instructions
        .iter()
        .filter(|instruction| matches!(&*instruction.opcode, "mul" | "fma") && instruction.has("f32"))
        .map(|instruction| chain(&module, instruction))
        .collect();
    let at = |function: &str, line| (function.to_string(), line, 5);
    let (square, cube, blend) = ("_Z6squaref", "_Z4cubef", "_Z5blendff");
    assert_eq!(
        chains,
        [
            // x·x of the first cube, of the second, the second's own product, and the sum.
            vec![at(square, 3), at(cube, 6), at(blend, 9), at("", 14)],
            vec![at(square, 3), at(cube, 6), at(blend, 10), at("", 14)],
            vec![at(cube, 6), at(blend, 10), at("", 14)],
            vec![at(blend, 10), at("", 14)],
        ]
    );
    for instruction in &body.instructions {
        let chain = chain(&module, instruction);
        let (function, line, _) = chain.last().unwrap();
        assert!(function.is_empty() && (12..=15).contains(line), "{chain:?}");
    }
}

#[test]
fn triton_positions_lead_to_the_kernel() {
    let module = fixture("triton");
    assert_eq!((module.version, &*module.target), ((9, 4), "sm_90a"));
    let (kernel, body) = function(&module, "scale");
    assert_eq!(kernel.limits.required_threads, Some([128, 1, 1]));
    assert!(
        body.instructions
            .iter()
            .all(|instruction| instruction.loc.is_some())
    );
    let mut deepest = 0;
    for instruction in &body.instructions {
        let chain = chain(&module, instruction);
        deepest = deepest.max(chain.len());
        let (function, line, _) = chain.last().unwrap();
        assert!(function.is_empty() && (18..=21).contains(line), "{chain:?}");
        assert!(chain.len() == 1 || chain[0].0 == "scale", "{chain:?}");
    }
    // `tl.sigmoid` in silu in gated in the kernel.
    assert_eq!(deepest, 4);
    assert!(
        kernel
            .params
            .iter()
            .all(|id| kernel.variables[id.0 as usize].align >= 4)
    );
}

#[test]
fn a_debug_build_parses() {
    let module = fixture("debug");
    let (_, body) = function(&module, "debug");
    assert!(
        body.labels
            .iter()
            .any(|label| label.name.starts_with("$L__func_begin"))
    );
    assert!(
        body.instructions
            .iter()
            .any(|instruction| &*instruction.opcode == "call")
    );
    let (_, device) = function(&module, "_Z7half_off");
    let lines: Vec<u32> = device
        .instructions
        .iter()
        .filter_map(|instruction| instruction.loc)
        .map(|loc| module.locations[loc.0 as usize].line)
        .collect();
    assert!(
        !lines.is_empty() && lines.iter().all(|line| *line == 2),
        "{lines:?}"
    );
}

#[test]
fn features_of_nvcc() {
    let module = fixture("features");
    assert_eq!((module.version, &*module.target), ((9, 0), "sm_90a"));

    let matrix = variable(&module, "matrix");
    assert_eq!((matrix.size, matrix.align, matrix.init.len()), (24, 4, 24));
    assert_eq!(matrix.init[..5], [1, 0, 0, 0, 2]);
    assert_eq!(matrix.init[20..], [6, 0, 0, 0]);
    let inside = &variable(&module, "inside").relocations;
    assert_eq!(
        (inside.len(), inside[0].at, inside[0].size, inside[0].addend),
        (1, 0, 8, 16)
    );
    assert!(inside[0].generic && &*inside[0].symbol == "matrix");
    // A pointer in a packed structure, which is listed byte by byte.
    let packed = variable(&module, "packed");
    assert_eq!(
        (packed.size, &packed.init[..]),
        (9, &[1, 0, 0, 0, 0, 0, 0, 0, 0][..])
    );
    assert_eq!(
        (
            packed.relocations.len(),
            packed.relocations[0].at,
            packed.relocations[0].size
        ),
        (1, 1, 8)
    );
    let functions = variable(&module, "functions");
    let names: Vec<_> = functions
        .relocations
        .iter()
        .map(|r| (r.at, &*r.symbol, r.generic))
        .collect();
    assert_eq!(names, [(0, "_Z5twicei", false), (8, "_Z6thricei", false)]);
    let smem = variable(&module, "smem");
    assert_eq!(
        (smem.space, smem.size, smem.align, smem.linkage),
        (Space::Shared, 0, 16, Linkage::Extern)
    );
    assert_eq!(variable(&module, "table").space, Space::Const);

    let (calls, body) = function(&module, "calls");
    assert_eq!(calls.limits.max_threads, Some([128, 1, 1]));
    assert_eq!(calls.limits.min_blocks_per_sm, Some(2));
    let kinds: Vec<&str> = body
        .instructions
        .iter()
        .filter(|instruction| &*instruction.opcode == "call")
        .map(|call| match &call.operands[1] {
            Operand::Reg(_) => match &call.operands[3] {
                Operand::Named(name) => &**name,
                other => panic!("{other:?}"),
            },
            Operand::Function(index) => &*module.functions[*index as usize].name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["prototype_0", "_Z5shift5Threef", "vprintf"]);
    assert_eq!(body.prototypes.len(), 1);
    assert_eq!(
        (body.prototypes[0].returns.len(), body.prototypes[0].params.len()),
        (1, 1)
    );
    // Each block of inline assembly has a label `DONE` of its own.
    let done: Vec<_> = body
        .labels
        .iter()
        .filter(|label| &*label.name == "DONE")
        .map(|label| label.target)
        .collect();
    assert_eq!(done.len(), 2);
    assert_ne!(done[0], done[1]);

    let (hopper, body) = function(&module, "hopper");
    assert_eq!(hopper.limits.required_cluster, Some([2, 1, 1]));
    assert!(hopper.limits.explicit_cluster);
    let map = &hopper.variables[hopper.params[0].0 as usize];
    assert_eq!((map.size, map.align), (128, 64));
    let tensor = body
        .instructions
        .iter()
        .find(|instruction| instruction.has("tensor"))
        .unwrap();
    assert_eq!(
        tensor.name(),
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
    );
    let Operand::Address(Address {
        base: Base::Reg(_),
        offset: 0,
        more,
    }) = &tensor.operands[1]
    else {
        panic!("{:?}", tensor.operands);
    };
    assert!(matches!(&more[..], [Operand::Vector(coordinates)] if coordinates.len() == 2));
    let wgmma = body
        .instructions
        .iter()
        .find(|instruction| &*instruction.opcode == "wgmma")
        .unwrap();
    assert!(matches!(&wgmma.operands[0], Operand::Vector(elements) if elements.len() == 4));
    assert_eq!(wgmma.operands[4..], [1, 1, 0, 0].map(Operand::Int));
}

#[test]
fn handwritten() {
    let module = fixture("handwritten");
    assert_eq!(module.files, [(1, "first.cu".into()), (2, "second.cu".into())]);
    let (forms, body) = function(&module, "forms");
    assert_eq!(
        forms.limits,
        Limits {
            max_threads: Some([256, 2, 1]),
            required_threads: None,
            min_blocks_per_sm: Some(3),
            max_registers: Some(64),
            required_cluster: Some([2, 1, 1]),
            explicit_cluster: true,
            max_cluster_rank: Some(8),
        }
    );
    let (device, _) = function(&module, "device");
    assert!(device.noreturn);
    // The names at labels, and at an offset from the section's begin.
    let last = body.instructions.last().unwrap();
    assert_eq!(
        chain(&module, last),
        [
            ("inner".into(), 30, 7),
            ("out".into(), 20, 5),
            (String::new(), 10, 3)
        ]
    );
    let labels: Vec<_> = body
        .labels
        .iter()
        .map(|label| (&*label.name, label.target))
        .collect();
    let end = body.instructions.len();
    let targets = &body.branch_targets[0].1;
    assert_eq!(labels[targets[0].0 as usize], ("AGAIN", end - 2));
    assert_eq!(labels[targets[1].0 as usize], ("OUT", end - 1));
    assert_eq!(*labels.last().unwrap(), ("END", end));
    let rows = variable(&module, "rows");
    let values: Vec<i16> = rows
        .init
        .chunks(2)
        .map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]]))
        .collect();
    assert_eq!(values, [-1, 1, 2, 0, 0, 0, 0, 0, 0x7fff, -1, 0, 0]);
    // A static variable of a function is the module's.
    assert_eq!(variable(&module, "forms::counter#13").init, [3, 0, 0, 0]);
}

#[test]
fn bytes_with_a_trailing_nul() {
    let (_, text) = FIXTURES[0];
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    assert_eq!(parse_bytes(&bytes).unwrap().functions.len(), 1);
    bytes.push(0);
    assert!(parse_bytes(&bytes).unwrap_err().message.contains("'\\0'"));
    // Bytes of another encoding in a comment.
    let latin = [b"// caf\xe9\n".as_slice(), text.as_bytes()].concat();
    assert_eq!(
        parse_bytes(&latin).unwrap().functions[0].line,
        1 + parse(text).unwrap().functions[0].line
    );
    // Lines that end as on Windows.
    assert_eq!(parse(&text.replace('\n', "\r\n")).unwrap().locations.len(), 10);
}
