//! Snippets that parse, with what they parse to.

use std::sync::Arc;

use softcuda::ptx::ast::*;

use super::{body, instruction, kernel, module, operands};

fn reg(id: u32) -> Operand {
    Operand::Reg(RegId(id))
}

fn special(name: &str) -> Operand {
    Operand::Special(name.into())
}

fn address(base: Base, offset: i64) -> Operand {
    Operand::Address(Address {
        base,
        offset,
        more: vec![],
    })
}

/// The registers are numbered as they are mentioned.
#[test]
fn operands_of_every_form() {
    let cases: &[(&str, &[Operand])] = &[
        ("mov.b32 %r1, %r2;", &[reg(0), reg(1)]),
        ("mov.b32 %r1, 12;", &[reg(0), Operand::Int(12)]),
        ("mov.b32 %r1, -8;", &[reg(0), Operand::Int(-8)]),
        ("mov.b32 %r1, +8;", &[reg(0), Operand::Int(8)]),
        ("mov.b32 %r1, 0x7fU;", &[reg(0), Operand::Int(127)]),
        ("mov.b32 %r1, 0XfF;", &[reg(0), Operand::Int(255)]),
        ("mov.b32 %r1, 017;", &[reg(0), Operand::Int(15)]),
        ("mov.b32 %r1, 0b101;", &[reg(0), Operand::Int(5)]),
        ("mov.b32 %r1, 0;", &[reg(0), Operand::Int(0)]),
        ("mov.b64 %rd1, 0xFFFFFFFFFFFFFFFF;", &[reg(0), Operand::Int(-1)]),
        ("mov.b64 %rd1, 18446744073709551615;", &[reg(0), Operand::Int(-1)]),
        (
            "mov.b64 %rd1, -9223372036854775808;",
            &[reg(0), Operand::Int(i64::MIN)],
        ),
        ("mov.f32 %f1, 0f3F800000;", &[reg(0), Operand::F32(0x3f80_0000)]),
        ("mov.f32 %f1, 0F7fc00001;", &[reg(0), Operand::F32(0x7fc0_0001)]),
        (
            "mov.f32 %f1, 0d3FF0000000000000;",
            &[reg(0), Operand::F64(1f64.to_bits())],
        ),
        (
            "mov.f32 %f1, 0D7ff4000000000001;",
            &[reg(0), Operand::F64(0x7ff4_0000_0000_0001)],
        ),
        ("mov.f32 %f1, 1.5;", &[reg(0), Operand::F64(1.5f64.to_bits())]),
        (
            "mov.f32 %f1, -1.5e-3;",
            &[reg(0), Operand::F64((-1.5e-3f64).to_bits())],
        ),
        ("mov.f32 %f1, 1E+5;", &[reg(0), Operand::F64(1e5f64.to_bits())]),
        ("mov.f32 %f1, .25;", &[reg(0), Operand::F64(0.25f64.to_bits())]),
        ("mov.f32 %f1, 2.;", &[reg(0), Operand::F64(2f64.to_bits())]),
        ("mov.u32 %r1, %tid.x;", &[reg(0), special("tid.x")]),
        (
            "mov.u32 %r1, %cluster_nctaid.w;",
            &[reg(0), special("cluster_nctaid.w")],
        ),
        ("mov.u32 %r1, %ntid .y;", &[reg(0), special("ntid.y")]),
        ("mov.u32 %r1, %lanemask_ge;", &[reg(0), special("lanemask_ge")]),
        ("mov.u64 %rd1, %clock64;", &[reg(0), special("clock64")]),
        (
            "mov.u64 %rd1, %globaltimer_lo;",
            &[reg(0), special("globaltimer_lo")],
        ),
        ("mov.u32 %r1, %envreg0;", &[reg(0), special("envreg0")]),
        ("mov.u32 %r1, %pm7_64;", &[reg(0), special("pm7_64")]),
        ("mov.u32 %r1, WARP_SZ;", &[reg(0), special("WARP_SZ")]),
        ("mov.u32 %r1, WARP_SZ - 1;", &[reg(0), Operand::Int(31)]),
        ("mov.u64 %rd1, array;", &[reg(0), Operand::Global(0, 0)]),
        ("mov.u64 %rd1, array+8;", &[reg(0), Operand::Global(0, 8)]),
        ("mov.u32 %r1, tile+4*2+1;", &[reg(0), Operand::Global(1, 9)]),
        (
            "mov.u64 %rd1, stack+4;",
            &[reg(0), Operand::Variable(VarId(2), 4)],
        ),
        ("mov.b64 %rd1, out;", &[reg(0), Operand::Variable(VarId(0), 0)]),
        ("mov.b64 %rd1, f;", &[reg(0), Operand::Function(0)]),
        ("mov.b64 %rd1, k;", &[reg(0), Operand::Function(1)]),
        ("ld.b32 %r1, [%rd1];", &[reg(0), address(Base::Reg(RegId(1)), 0)]),
        (
            "ld.b32 %r1, [%rd1+16];",
            &[reg(0), address(Base::Reg(RegId(1)), 16)],
        ),
        (
            "ld.b32 %r1, [ %rd1 + -8 ];",
            &[reg(0), address(Base::Reg(RegId(1)), -8)],
        ),
        (
            "ld.b32 %r1, [%rd1+(4+4)*2+1];",
            &[reg(0), address(Base::Reg(RegId(1)), 17)],
        ),
        ("ld.b32 %r1, [array];", &[reg(0), address(Base::Global(0), 0)]),
        ("ld.b32 %r1, [array+4];", &[reg(0), address(Base::Global(0), 4)]),
        ("ld.b32 %r1, [tile+-4];", &[reg(0), address(Base::Global(1), -4)]),
        (
            "ld.b32 %r1, [n+0];",
            &[reg(0), address(Base::Variable(VarId(1)), 0)],
        ),
        ("ld.b32 %r1, [16];", &[reg(0), address(Base::Absolute, 16)]),
        ("ld.b32 %r1, [0x10+16];", &[reg(0), address(Base::Absolute, 32)]),
        (
            "mov.b64 {%r1, _}, %rd1;",
            &[Operand::Vector(vec![reg(0), Operand::Sink]), reg(1)],
        ),
        (
            "x {{%r1, 2}, {%r2}};",
            &[Operand::Vector(vec![
                Operand::Vector(vec![reg(0), Operand::Int(2)]),
                Operand::Vector(vec![reg(1)]),
            ])],
        ),
        (
            "setp.lt.b32 %p1|%p2, %r1, 5, !%p3;",
            &[
                Operand::Pair(Box::new(reg(0)), Box::new(reg(1))),
                reg(2),
                Operand::Int(5),
                Operand::NotReg(RegId(3)),
            ],
        ),
        (
            "setp.lt.b32 _|%p2, %r1;",
            &[Operand::Pair(Box::new(Operand::Sink), Box::new(reg(0))), reg(1)],
        ),
        (
            "mbarrier.arrive.b64 _, [tile];",
            &[Operand::Sink, address(Base::Global(1), 0)],
        ),
        ("ret;", &[]),
        (
            "call (%r1), f, (%r2, 5);",
            &[
                Operand::List(vec![reg(0)]),
                Operand::Function(0),
                Operand::List(vec![reg(1), Operand::Int(5)]),
            ],
        ),
        ("call f, ();", &[Operand::Function(0), Operand::List(vec![])]),
        ("call f;", &[Operand::Function(0)]),
        (
            "tex [%rd1, {%r1, %r2}];",
            &[Operand::Address(Address {
                base: Base::Reg(RegId(0)),
                offset: 0,
                more: vec![Operand::Vector(vec![reg(1), reg(2)])],
            })],
        ),
        (
            "tex [%rd1+8, %rd2, {1}];",
            &[Operand::Address(Address {
                base: Base::Reg(RegId(0)),
                offset: 8,
                more: vec![reg(1), Operand::Vector(vec![Operand::Int(1)])],
            })],
        ),
        ("L: bra L;", &[Operand::Label(LabelId(0))]),
        ("bra L; L:", &[Operand::Label(LabelId(0))]),
    ];
    for (text, expected) in cases {
        assert_eq!(operands(text), *expected, "{text}");
    }
}

#[test]
fn constant_expressions() {
    let cases: &[(&str, i64)] = &[
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("7 / 2 % 2", 1),
        ("7%4", 3),
        ("(7 %4)", 3),
        ("-7 / 2", -3),
        ("-7 % 4", -3),
        ("-(3)", -3),
        ("- -3", 3),
        ("~5", -6),
        ("!5", 0),
        ("!0 + 1", 2),
        ("1 << 40 | 5", (1 << 40) | 5),
        ("-16 >> 2", -4),
        ("0x8000000000000000 >> 63", 1),
        ("(.s64) 0x8000000000000000 >> 63", -1),
        ("(.u64) -1 > 0", 1),
        ("-1 < 0", 1),
        ("-1 < 0U", 0),
        ("6 & 3 ^ 1 | 8", 11),
        ("1 == 1 && 2 != 2 || 3 >= 3", 1),
        ("1 < 2 == 2 <= 1", 0),
        ("1 ? 2 : 3", 2),
        ("0 ? 2 : 0 ? 3 : 4", 4),
        ("1.5 < 2.0", 1),
        ("0.0 ? 1 : 2", 2),
        ("18446744073709551615U / 2", i64::MAX),
        ("(.s64) -9223372036854775808 / -1", i64::MIN),
        // Beyond the signed range a literal is unsigned.
        ("-9223372036854775808 / -1", 0),
        ("WARP_SZ * 2", 64),
    ];
    for (text, expected) in cases {
        let parsed = operands(&format!("mov.b64 %rd1, {text};"));
        assert_eq!(parsed[1], Operand::Int(*expected), "{text}");
    }
    let sum = operands("mov.f32 %f1, (1.5 + 2 * 0f3F000000) / 5;");
    assert_eq!(sum[1], Operand::F64(0.5f64.to_bits()));
    assert_eq!(operands("mov.f32 %f1, -0f00000000;")[1], Operand::F32(1 << 31));
}

#[test]
fn instructions() {
    let (ld, names) =
        instruction("@!%p3 ld.global.nc.L1::no_allocate.L2::128B.v4.f32 {%f1, %f2, %f3, %f4}, [%rd2];");
    assert_eq!(names, ["%p3", "%f1", "%f2", "%f3", "%f4", "%rd2"]);
    assert_eq!(
        ld.guard,
        Some(Guard {
            reg: RegId(0),
            negated: true
        })
    );
    assert_eq!(&*ld.opcode, "ld");
    let modifiers: Vec<&str> = ld.modifiers.iter().map(|modifier| &**modifier).collect();
    assert_eq!(
        modifiers,
        ["global", "nc", "L1::no_allocate", "L2::128B", "v4", "f32"]
    );
    assert_eq!((ld.line, ld.loc), (6, None));

    let (copy, _) = instruction(
        "cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {0}], [%r2];",
    );
    assert!(copy.has("1d") && copy.has("shared::cta") && copy.has("mbarrier::complete_tx::bytes"));
    let (load, _) = instruction("tcgen05.ld.sync.aligned.16x256b.x1.b32 {%r1}, [%r2];");
    assert!(load.has("16x256b"));
    let (guarded, _) = instruction("@%p1 ret;");
    assert_eq!(
        guarded.guard,
        Some(Guard {
            reg: RegId(0),
            negated: false
        })
    );
    let (spread, _) = instruction("add\n.s32 /* a */ %r1,\n%r2, // b\n1\n;");
    assert_eq!(
        (spread.name(), spread.operands.len(), spread.line),
        ("add.s32".to_string(), 3, 6)
    );
}

#[test]
fn scopes_have_names_of_their_own() {
    let body = body(
        "mov.b32 %r10, %r1;
        { .reg .b32 %r<3>; .reg .f32 x; .local .b32 y;
          mov.b32 %r2, %r1;
          mov.b32 %r10, x;
          { .reg .b64 %r2; mov.b64 %r2, y; }
          mov.b32 %r2, x;
        }
        { .reg .b64 x; mov.b64 x, stack; }
        mov.b32 %r2, %r1;",
    );
    let register = |operand: &Operand| match operand {
        Operand::Reg(id) => (id.0, body.registers[id.0 as usize].ty),
        _ => (u32::MAX, Type::Pred),
    };
    let registers: Vec<_> = body
        .instructions
        .iter()
        .map(|instruction| {
            (
                register(&instruction.operands[0]),
                register(&instruction.operands[1]),
            )
        })
        .collect();
    let other = (u32::MAX, Type::Pred);
    assert_eq!(
        registers,
        [
            ((0, Type::B32), (1, Type::B32)),
            ((3, Type::B32), (4, Type::B32)),
            // The inner range ends before it, the outer one does not.
            ((0, Type::B32), (2, Type::F32)),
            ((5, Type::B64), other),
            ((3, Type::B32), (2, Type::F32)),
            ((6, Type::B64), other),
            ((7, Type::B32), (1, Type::B32)),
        ]
    );
    let function = kernel("{ .shared .b32 a[2]; } { .param .align 8 .b8 a[16]; } { .local .v4 .f32 a; }");
    let variables: Vec<_> = function
        .variables
        .iter()
        .skip(3)
        .map(|v| (&*v.name, v.space, v.size, v.align))
        .collect();
    assert_eq!(
        variables,
        [
            ("a", Space::Shared, 8, 4),
            ("a", Space::Param, 16, 8),
            ("a", Space::Local, 16, 16)
        ]
    );
}

/// `%r12` may be of `%r<20>` and of `%r1<5>`; what is declared by its own name comes before the specials.
#[test]
fn names_of_registers() {
    let body = body(
        ".reg .b32 %tid, array, a_$, _b, $c; .reg .b64 %x1<5>; .reg .b32 %x<2>; .reg .b16 WARP_SZ; .reg .b32 %z<0>;
        mov.b32 %tid, array; mov.b32 a_$, _b; mov.b32 $c, %x14; mov.b32 %x1, WARP_SZ; mov.b32 %r0, %r19;",
    );
    let types: Vec<_> = body
        .registers
        .iter()
        .map(|register| (&*register.name, register.ty))
        .collect();
    assert_eq!(
        types,
        [
            ("%tid", Type::B32),
            ("array", Type::B32),
            ("a_$", Type::B32),
            ("_b", Type::B32),
            ("$c", Type::B32),
            ("WARP_SZ", Type::B16),
            ("%x14", Type::B64),
            ("%x1", Type::B32),
            ("%r0", Type::B32),
            ("%r19", Type::B32),
        ]
    );
    assert!(
        body.instructions
            .iter()
            .all(|i| i.operands.iter().all(|o| matches!(o, Operand::Reg(_))))
    );
}

#[test]
fn labels() {
    let body = body(
        "bra OUT;
        L: { bra L; L: bra L; bra OUT; }
        { bra L; }
        { L: }
        @%p1 bra OUT;
        OUT: M:
        ",
    );
    let labels: Vec<_> = body
        .labels
        .iter()
        .map(|label| (&*label.name, label.target))
        .collect();
    assert_eq!(labels, [("L", 1), ("L", 2), ("L", 5), ("OUT", 6), ("M", 6)]);
    let targets: Vec<_> = body
        .instructions
        .iter()
        .map(|instruction| match instruction.operands[0] {
            Operand::Label(label) => label.0,
            _ => u32::MAX,
        })
        .collect();
    assert_eq!(targets, [3, 1, 1, 3, 0, 3]);
    // A label may have the name of something outside the function.
    let branch = super::body("bra f; bra array; f: array: ret;");
    assert_eq!(branch.instructions[0].operands, [Operand::Label(LabelId(0))]);
    assert_eq!(branch.instructions[1].operands, [Operand::Label(LabelId(1))]);
}

#[test]
fn indirect_branches_and_calls() {
    let body = body(
        "ts: .branchtargets A, B, A;
        brx.idx %r1, ts;
        A: brx.idx.uni %r1, later;
        later: .branchtargets B;
        B:
        { p: .callprototype (.param .b32 _) _ (.param .b64 _, .param .align 8 .b8 _[12]) .noreturn .abi_preserve 3;
          call (%r1), %rd1, (%rd2, %rd3), p; }
        { p: .callprototype _ (.param .b32 x);
          call %rd1, (%r2), p; }
        { p: .calltargets f, f; call (%r1), %rd1, (%r1), p; }
        q: .callprototype _;",
    );
    let targets: Vec<_> = body
        .branch_targets
        .iter()
        .map(|(name, labels)| (&**name, labels.len()))
        .collect();
    assert_eq!(targets, [("ts", 3), ("later", 1)]);
    assert_eq!(body.branch_targets[0].1, [LabelId(0), LabelId(1), LabelId(0)]);
    let named = |index: usize| match body.instructions[index].operands.last() {
        Some(Operand::Named(name)) => name.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!([named(0), named(1), named(2)], ["ts", "later", "p"]);
    let prototypes: Vec<_> = body
        .prototypes
        .iter()
        .map(|p| {
            (
                &p.name,
                p.returns.len(),
                p.params.iter().map(|v| v.size).collect::<Vec<_>>(),
                p.noreturn,
            )
        })
        .collect();
    let name = |name: &str| Arc::<str>::from(name);
    assert_eq!(
        prototypes,
        [
            (&name("p"), 1, vec![8, 12], true),
            (&name(&named(3)), 0, vec![4], false),
            (&name(&named(4)), 1, vec![4], false),
            (&name("q"), 0, vec![], false),
        ]
    );
}

#[test]
fn functions() {
    let module = module(
        ".func later(.param .b32 a);
        .extern .func (.param .b32 r) printf(.param .b64 f, .param .b64 a);
        .visible .func later(.param .b32 b) .noreturn { trap; }
        .weak .func .attribute(.unified(1, 2)) (.param .align 4 .b8 r[12]) w;
        .weak .entry e .reqntid 32, 4 .pragma \"x\"; .maxnctapersm 5 .abi_preserve 1 { }
        .extern .entry declared(.param .u32 x);
        .func caller { call later, (1); }",
    );
    let functions: Vec<_> = module
        .functions
        .iter()
        .map(|f| {
            (
                &*f.name,
                f.kind,
                f.linkage,
                f.returns.len(),
                f.params.len(),
                f.noreturn,
                f.body.is_some(),
                f.line,
            )
        })
        .collect();
    use FunctionKind::*;
    use Linkage::*;
    assert_eq!(
        functions,
        [
            ("later", Device, Visible, 0, 1, true, true, 5),
            ("printf", Device, Extern, 1, 2, false, false, 4),
            ("w", Device, Weak, 1, 0, false, false, 6),
            ("e", Kernel, Weak, 0, 0, false, true, 7),
            ("declared", Kernel, Extern, 0, 1, false, false, 8),
            ("caller", Device, Internal, 0, 0, false, true, 9),
        ]
    );
    assert_eq!(module.functions[3].limits.required_threads, Some([32, 4, 1]));
    let call = &module.functions[5].body.as_ref().unwrap().instructions[0];
    assert_eq!(call.operands[0], Operand::Function(0));
    let parameters = super::module(
        ".entry k(.param .align 8 .b8 a[64], .param .u64 .ptr .global .align 16 b, .param .v2 .f32 c, .param .u64 .ptr d,
        .param .b8 .align 4 e[3], .param .f64 f) { }",
    );
    let parameters: Vec<_> = parameters.functions[0]
        .variables
        .iter()
        .map(|v| (&*v.name, v.ty, v.size, v.align))
        .collect();
    assert_eq!(
        parameters,
        [
            ("a", Type::B8, 64, 8),
            ("b", Type::U64, 8, 8),
            ("c", Type::F32, 8, 8),
            ("d", Type::U64, 8, 8),
            ("e", Type::B8, 3, 4),
            ("f", Type::F64, 8, 8),
        ]
    );
}

#[test]
fn variables() {
    let cases: &[(&str, usize, usize, &[u8])] = &[
        (".global .u32 v;", 4, 4, &[]),
        (".global .align 8 .b8 v[12];", 12, 8, &[]),
        (".global .f64 v[2][3];", 48, 8, &[]),
        (".global .v4 .f32 v[2];", 32, 16, &[]),
        (".const .v2 .u16 v = {1, 2};", 4, 4, &[1, 0, 2, 0]),
        (".global .u8 v = 255;", 1, 1, &[255]),
        (".global .u8 v = -1;", 1, 1, &[255]),
        (".global .s8 v[2] = {-128, 0xff};", 2, 1, &[128, 255]),
        (".global .u16 v[3] = {1};", 6, 2, &[1, 0, 0, 0, 0, 0]),
        (".global .u16 v[] = {1, 2 + 3};", 4, 2, &[1, 0, 5, 0]),
        (
            ".global .u8 v[][2] = {{1}, {2, 3}, {4}};",
            6,
            1,
            &[1, 0, 2, 3, 4, 0],
        ),
        (".global .v2 .u8 v[2] = {{1}, {2, 3}};", 4, 2, &[1, 0, 2, 3]),
        (".global .u8 v[4] = {};", 4, 1, &[]),
        (".global .u8 v[3] = {1, 2};", 3, 1, &[1, 2, 0]),
        (".global .f32 v = 0f3F800000;", 4, 4, &[0, 0, 128, 63]),
        (".global .f32 v = 1.0;", 4, 4, &[0, 0, 128, 63]),
        (".global .f64 v = -2.0;", 8, 8, &[0, 0, 0, 0, 0, 0, 0, 192]),
        (
            ".global .f64 v = 0d3FF0000000000000;",
            8,
            8,
            &[0, 0, 0, 0, 0, 0, 240, 63],
        ),
        (".global .b32 v = 1.0;", 4, 4, &[0, 0, 128, 63]),
        (".global .u64 v = 0xFFFFFFFFFFFFFFFF;", 8, 8, &[255; 8]),
        (
            ".global .s64 v = -2;",
            8,
            8,
            &[254, 255, 255, 255, 255, 255, 255, 255],
        ),
        (".global .attribute(.managed) .align 4 .u32 v;", 4, 4, &[]),
        (".shared .b128 v[2];", 32, 16, &[]),
        (".extern .shared .align 16 .b8 v[];", 0, 16, &[]),
        (".extern .global .u32 v[][4];", 0, 4, &[]),
        (".visible .const .b16 v[1] = {0x1234};", 2, 2, &[0x34, 0x12]),
        (
            ".extern .global .u32 v; .visible .global .align 8 .u32 v = 1;",
            4,
            8,
            &[1, 0, 0, 0],
        ),
        (
            ".visible .global .u32 v = 1; .extern .global .u32 v;",
            4,
            4,
            &[1, 0, 0, 0],
        ),
        (
            ".extern .shared .b8 v[]; .extern .shared .align 16 .b8 v[];",
            0,
            16,
            &[],
        ),
        (".global .u8 v[0];", 0, 1, &[]),
    ];
    for (text, size, align, init) in cases {
        let module = module(text);
        assert_eq!(module.variables.len(), 1, "{text}");
        let variable = &module.variables[0];
        assert_eq!(
            (variable.size, variable.align, &variable.init[..]),
            (*size, *align, *init),
            "{text}"
        );
    }
    let several = module(".global .u32 a = 1, b[2], c;");
    assert_eq!(
        several.variables.iter().map(|v| v.size).collect::<Vec<_>>(),
        [4, 8, 4]
    );
}

#[test]
fn addresses_as_initial_values() {
    let module = module(
        ".global .u8 a[8]; .func f;
        .global .u64 v[6] = {a, a+4, a + 4*2 - 1, generic(a), generic(a)+0x10, later};
        .global .u32 w = a;
        .global .b64 x[2] = {7, f};
        .global .b8 y[17] = {0xFF(a+1), 0xFF00(a+1), 0xFF0000(a+1), 0xFF000000(a+1), 0xFF00000000(a+1),
            0xFF0000000000(a+1), 0xFF000000000000(a+1), 0xFF00000000000000(a+1), 5};
        .global .u8 later;",
    );
    let relocations: Vec<_> = module
        .variables
        .iter()
        .flat_map(|v| {
            v.relocations
                .iter()
                .map(|r| (&*v.name, r.at, r.size, &*r.symbol, r.addend, r.generic))
        })
        .collect();
    assert_eq!(
        relocations,
        [
            ("v", 0, 8, "a", 0, false),
            ("v", 8, 8, "a", 4, false),
            ("v", 16, 8, "a", 7, false),
            ("v", 24, 8, "a", 0, true),
            ("v", 32, 8, "a", 16, true),
            ("v", 40, 8, "later", 0, false),
            ("w", 0, 4, "a", 0, false),
            ("x", 8, 8, "f", 0, false),
            ("y", 0, 8, "a", 1, false),
        ]
    );
    assert_eq!(
        module.variables[3].init,
        [[7, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat()
    );
    assert_eq!(module.variables[4].init[8..], [5, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn locations() {
    let module = module(
        ".func f { .loc 1 1 1
            ret; }
        .func g {
            exit;
            .loc 1 5 1
            .loc 1 5 1
            exit;
            .loc 1 9 2, function_name $N0, inlined_at 1 5 1
            exit;
            .loc 2 7 3, function_name $N0+2, inlined_at 1 9 2
            exit;
            .loc 1 6 1
            .loc 1 9 2, inlined_at 1 6 1
            .loc 2 7 3, function_name $N0+2, inlined_at 1 9 2
            exit;
            .loc 1 5 1
            exit;
            .loc 1 9 2, function_name $N1, inlined_at 4 4 4
            exit; }
        .section .debug_str { $N0: .b8 97, 0, 98, 99 .b8 0 $N1: .ascii \"d\\145\\\"\" .b8 0 }",
    );
    let g = module.functions[1].body.as_ref().unwrap();
    let chains: Vec<String> = g
        .instructions
        .iter()
        .map(|instruction| {
            std::iter::successors(instruction.loc, |loc| module.locations[loc.0 as usize].inlined_at)
                .map(|loc| &module.locations[loc.0 as usize])
                .map(|l| {
                    format!(
                        "{}:{}:{}{}",
                        l.file,
                        l.line,
                        l.column,
                        l.function.as_deref().unwrap_or("-")
                    )
                })
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        chains,
        [
            // Another function's location is not in force.
            "",
            "1:5:1-",
            "1:9:2a 1:5:1-",
            "2:7:3bc 1:9:2a 1:5:1-",
            // The position 1:9:2 is inlined elsewhere since.
            "2:7:3bc 1:9:2- 1:6:1-",
            "1:5:1-",
            "1:9:2de\" 4:4:4-",
        ]
    );
    // Equal locations are one.
    assert_eq!(g.instructions[1].loc, g.instructions[5].loc);
}

#[test]
fn directives_that_say_nothing() {
    let module = module(
        ".address_size 64
        .pragma \"a\", \"b\";
        .file 1 \"dir/a.cu\"
        .file 2 \"/b \\\" .cu\", 5, 6
        .section .debug_loc { .b8 1 { } \"}\" }
        .section .debug_empty {}
        .entry k { .pragma \"nounroll\"; /* { */ // {
        ret; }",
    );
    assert_eq!(module.files, [(1, "dir/a.cu".into()), (2, "/b \\\" .cu".into())]);
    assert_eq!(module.functions[0].body.as_ref().unwrap().instructions.len(), 1);
}
