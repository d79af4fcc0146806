//! Snippets that do not parse, with what is said of them.

use softcuda::ptx::parse;

use super::{kernel_error, module_error};

/// In the statements of a kernel: line and column in the snippet, and the message.
const STATEMENTS: &[(&str, (u32, u32), &str)] = &[
    // Instructions and operands.
    (
        "mov.b32 %r1, %r2",
        (2, 1),
        "expected `;` or `,` after an operand, found `}`",
    ),
    (
        "mov.b32 %r1 %r2;",
        (1, 13),
        "expected `;` or `,` after an operand, found `%r2`",
    ),
    ("mov.b32 %r1, ;", (1, 14), "expected an operand, found `;`"),
    ("mov.b32 , %r1;", (1, 9), "expected an operand, found `,`"),
    (
        "mov.b32 %r1, \"x\";",
        (1, 14),
        "expected an operand, found a string",
    ),
    (
        "mov.b32 %r1, %r20;",
        (1, 14),
        "`%r20` is not declared: `%r<20>` ends before it",
    ),
    (
        "mov.b32 %r1, %q;",
        (1, 14),
        "`%q` is no register declared here, nor a special register",
    ),
    ("mov.b32 %r1, %r;", (1, 14), "`%r` is no register declared here"),
    ("mov.b32 %r01, 1;", (1, 9), "`%r01` is"),
    (
        "mov.b32 %r1, x;",
        (1, 14),
        "no register, variable, function or label `x` is declared here",
    ),
    (
        "{ .reg .b32 x; } mov.b32 %r1, x;",
        (1, 31),
        "no register, variable, function or label `x` is declared here",
    ),
    (
        "mov.b32 %r1, %r2.b0;",
        (1, 17),
        "selectors of bytes and halves (video instructions) are not supported: `%r2.b0`",
    ),
    (
        "mov.b32 %r1.h1, 1;",
        (1, 12),
        "selectors of bytes and halves (video instructions) are not supported",
    ),
    (
        "mov.b32 %r1, %r2.x;",
        (1, 17),
        "elements of vector registers are not supported: `%r2.x`",
    ),
    (
        "mov.b32 %r1, [%rd1.y];",
        (1, 19),
        "elements of vector registers are not supported",
    ),
    (
        "mov.b32 %r1, %tid.b0;",
        (1, 18),
        "expected `,` or `;` after `%tid`, found `.b0`",
    ),
    (
        "mov.b32 %r1, %laneid.x;",
        (1, 21),
        "expected `,` or `;` after `%laneid`, found `.x`",
    ),
    ("mov.b32 %r1, %envreg32;", (1, 14), "`%envreg32` is no register"),
    ("mov.b64 {}, %rd1;", (1, 10), "a vector without elements"),
    (
        "mov.b64 {%r1, %r2;",
        (1, 18),
        "expected `}` or `,` after an operand, found `;`",
    ),
    (
        "mov.b64 {%r1 %r2}, 1;",
        (1, 14),
        "expected `}` or `,` after an operand, found `%r2`",
    ),
    (
        "call f, (%r1;",
        (1, 13),
        "expected `)` or `,` after an operand, found `;`",
    ),
    ("mov (%r1), 1;", (1, 6), "expected a constant, found `%r1`"),
    (
        "mov.b32 %r1, !5;\nmov.b32 %r1, !f;",
        (2, 15),
        "no register, variable, function or label `f`",
    ),
    ("mov.b32 %r1, !stack;", (1, 15), "`stack` is no register"),
    ("setp %p1|, 1;", (1, 10), "expected an operand, found `,`"),
    (
        "setp.lt _, %p1||%p2;",
        (1, 15),
        "expected `;` or `,` after an operand, found `||`",
    ),
    // Addresses.
    (
        "ld.b32 %r1, [%rd1-8];",
        (1, 18),
        "expected `]` (a negative offset is written `+-8`), found `-`",
    ),
    (
        "ld.b32 %r1, [%rd1+%rd2];",
        (1, 19),
        "expected a constant, found `%rd2`",
    ),
    (
        "ld.b32 %r1, [%rd1;",
        (1, 18),
        "expected `]` after the address, found `;`",
    ),
    ("ld.b32 %r1, [];", (1, 14), "expected a constant, found `]`"),
    (
        "ld.b32 %r1, [f];",
        (1, 14),
        "`f` is no address: expected a register or variable",
    ),
    ("ld.b32 %r1, [%tid];", (1, 14), "`%tid` is no address"),
    ("L: ld.b32 %r1, [L];", (1, 17), "`L` is no address"),
    (
        "ld.b32 %r1, [nowhere+4];",
        (1, 14),
        "no register, variable, function or label `nowhere` is declared here",
    ),
    (
        "ld.b32 %r1, [1.5];",
        (1, 14),
        "expected an integer, found a floating-point number",
    ),
    (
        "mov.b64 %rd1, array-4;",
        (1, 20),
        "expected `;` or `,` after an operand, found `-`",
    ),
    (
        "ld.shared.b32 %r1, tile[2];",
        (1, 24),
        "indices of arrays (`x[2]`) are not supported: expected an offset in bytes (`x+8`)",
    ),
    // Constants.
    ("mov.b32 %r1, 1 / 0;", (1, 16), "division by zero"),
    ("mov.b32 %r1, 1 % (2 - 2);", (1, 16), "division by zero"),
    ("mov.b32 %r1, 1 << 64;", (1, 16), "a shift by more than 63 bits"),
    ("mov.b32 %r1, 1 >> -1;", (1, 16), "a shift by more than 63 bits"),
    ("mov.b32 %r1, 1.5 << 1;", (1, 18), "this operator takes integers"),
    ("mov.b32 %r1, ~1.5;", (1, 14), "`~` takes an integer"),
    ("mov.b32 %r1, (.u64) 1.5;", (1, 14), "only integers can be cast"),
    (
        "mov.b32 %r1, (1 + 2;",
        (1, 20),
        "expected `)` after the expression, found `;`",
    ),
    (
        "mov.b32 %r1, 1 ? 2;",
        (1, 19),
        "expected `:` in the conditional expression, found `;`",
    ),
    ("mov.b32 %r1, 0x;", (1, 14), "`0x` is not a number that PTX knows"),
    ("mov.b32 %r1, 0xG;", (1, 14), "`0xG` is not a number"),
    ("mov.b32 %r1, 089;", (1, 14), "`089` is not a number"),
    ("mov.b32 %r1, 5u;", (1, 14), "`5u` is not a number"),
    (
        "mov.b32 %r1, 18446744073709551616;",
        (1, 14),
        "`18446744073709551616` is not a number",
    ),
    ("mov.f32 %f1, 0f3F8;", (1, 14), "`0f3F8` is not a number"),
    ("mov.f32 %f1, 0d3FF00000000000001;", (1, 14), "is not a number"),
    ("mov.f32 %f1, 1.5f;", (1, 14), "`1.5f` is not a number"),
    // Guards, labels, scopes.
    ("@%r1 ret;", (1, 2), "a guard must be a register of type `.pred`"),
    (
        "@%p9 ret;",
        (1, 2),
        "`%p9` is not declared: `%p<5>` ends before it",
    ),
    ("@1 ret;", (1, 2), "expected a predicate after `@`, found `1`"),
    (
        "@%p1 { ret; }",
        (1, 6),
        "expected an instruction after its guard, found `{`",
    ),
    (
        "@%p1 L: ret;",
        (1, 6),
        "expected an instruction or a label with `:`, found `L`",
    ),
    (
        "RET;",
        (1, 1),
        "expected an instruction or a label with `:`, found `RET`",
    ),
    (
        ";",
        (1, 1),
        "expected an instruction, a directive, a label or `}`, found `;`",
    ),
    (
        "ret;;",
        (1, 5),
        "expected an instruction, a directive, a label or `}`, found `;`",
    ),
    (
        "bra L;",
        (1, 5),
        "no register, variable, function or label `L` is declared here",
    ),
    (
        "{ L: } bra L;",
        (1, 12),
        "no register, variable, function or label `L` is declared here",
    ),
    ("L: ret;\nL: ret;", (2, 1), "`L` is declared twice in this scope"),
    (
        "{ ret;",
        (2, 2),
        "expected `}` at the end of the function, found the end of the text",
    ),
    // Declarations.
    (
        ".reg .b32 x, _;",
        (1, 14),
        "expected a register's name, found `_`",
    ),
    (
        ".local .b32 _;",
        (1, 13),
        "expected the variable's name, found `_`",
    ),
    (".param .b32 x[];", (1, 14), "an array without a length"),
    (
        ".reg .b32 %r<5>;",
        (1, 11),
        "`%r` is declared twice in this scope",
    ),
    (".reg .b32 %r5;", (1, 11), "`%r5` is declared twice in this scope"),
    (
        ".reg .b32 stack;",
        (1, 11),
        "`stack` is declared twice in this scope",
    ),
    (".reg .b32 n;", (1, 11), "`n` is declared twice in this scope"),
    (".reg %x;", (1, 6), "expected the registers' type, found `%x`"),
    (
        ".reg .b33 %x;",
        (1, 6),
        "expected the registers' type and names, found `.b33`",
    ),
    (".reg .v4 .f32 %x;", (1, 6), "vector registers are not supported"),
    (
        ".reg .b32 %x<-1>;",
        (1, 14),
        "expected the count of registers, found `-`",
    ),
    (
        ".reg .b32 %x<4294967296>;",
        (1, 14),
        "4294967296 is too large for the count of registers",
    ),
    (
        ".reg .b32 %x<5;",
        (1, 15),
        "expected `>` after the count of registers, found `;`",
    ),
    (
        ".reg .b32 %x %y;",
        (1, 14),
        "expected `;` or `,` after a register, found `%y`",
    ),
    (
        ".local .b32 x = 5;",
        (1, 15),
        "only `.global` and `.const` variables can have initial values",
    ),
    (".shared .b32 x[];", (1, 15), "an array without a length"),
    (
        ".local .pred x;",
        (1, 8),
        "expected the variable's type, found `.pred`",
    ),
    (".extern .shared .b32 x[];", (1, 1), "unknown directive `.extern`"),
    (".frobnicate 5;", (1, 1), "unknown directive `.frobnicate`"),
    (
        ".branchtargets L;",
        (1, 1),
        "expected a label before this directive, found `.branchtargets`",
    ),
    ("t: .branchtargets 5;", (1, 19), "expected a label, found `5`"),
    ("t: .branchtargets %r1;", (1, 19), "`%r1` is"),
    ("t: .calltargets g;", (1, 17), "no function `g` is declared"),
    (
        "t: .callprototype (.param .b32 _) (.param .b32 _);",
        (1, 35),
        "expected `_` in place of the function's name",
    ),
    (
        ".pragma 5;",
        (1, 9),
        "expected a string after `.pragma`, found `5`",
    ),
    (
        ".pragma \"x\"",
        (2, 1),
        "expected `;` after the pragma, found `}`",
    ),
    (".loc 1 2;", (1, 9), "expected a column's number, found `;`"),
    (
        ".loc 1 2 3, is_stmt 1",
        (1, 13),
        "expected `function_name` or `inlined_at`, found `is_stmt`",
    ),
    (
        ".loc 1 2 3, function_name 5",
        (1, 27),
        "expected a label of `.debug_str` after `function_name`, found `5`",
    ),
    (
        ".loc 1 99999999999 3",
        (1, 8),
        "99999999999 is too large for a line's number",
    ),
    // Characters.
    ("mov.b32 %r1, #5;", (1, 14), "the character '#' cannot stand here"),
    ("mov.b32 %r1, é;", (1, 14), "the character 'é' cannot stand here"),
    (
        "mov . b32 %r1, 5;",
        (1, 5),
        "expected a directive or modifier after `.`",
    ),
    ("/* no end", (1, 1), "this comment has no end: expected `*/`"),
    (".pragma \"no end;", (1, 9), "this string has no end"),
];

/// At module level.
const DECLARATIONS: &[(&str, (u32, u32), &str)] = &[
    ("mov.b32 %r1, 5;", (1, 1), "expected a directive, found `mov`"),
    (".version 9.0", (1, 1), "a second `.version`"),
    (
        ".address_size 32",
        (1, 15),
        "addresses of 32 bits are not supported: expected 64",
    ),
    (
        ".tex .u64 t;",
        (1, 1),
        "texture variables (`.tex`) are not supported",
    ),
    (
        ".global .texref t;",
        (1, 9),
        "texture, sampler and surface references are not supported",
    ),
    (
        ".local .b32 x;",
        (1, 1),
        "`.local` variables outside functions are not supported",
    ),
    (".reg .b32 x;", (1, 1), "registers belong into functions"),
    (
        ".param .b32 x;",
        (1, 1),
        "`.param` variables belong into functions",
    ),
    (".alias f, g;", (1, 1), "`.alias` is not supported"),
    (".frobnicate", (1, 1), "unknown directive `.frobnicate`"),
    (
        ".visible .extern .global .b32 x;",
        (1, 10),
        "after the linkage, found `.extern`",
    ),
    (".visible x;", (1, 10), "after the linkage, found `x`"),
    (".global x;", (1, 9), "expected the variable's type, found `x`"),
    (
        ".global .b32 .b32 x;",
        (1, 14),
        "expected a name after the type, found `.b32`",
    ),
    (
        ".global .b32;",
        (1, 13),
        "expected the variable's name, found `;`",
    ),
    (
        ".global .b32 x",
        (1, 15),
        "expected `;` after the declaration, found the end of the text",
    ),
    (
        ".global .align 3 .b32 x;",
        (1, 16),
        "an alignment of 3: expected a power of two",
    ),
    (
        ".global .b32 x[2*2];",
        (1, 17),
        "expected `]` after the array's length, found `*`",
    ),
    (".global .b32 x[];", (1, 15), "an array without a length"),
    (
        ".extern .global .b32 x[2][];",
        (1, 27),
        "only the first may be left out",
    ),
    (
        ".global .b8 x[1099511627777];",
        (1, 14),
        "this array is too large",
    ),
    (
        ".global .b32 x[4294967296][4294967296][4294967296];",
        (1, 15),
        "this array is too large",
    ),
    (
        ".global .b32 x[2] = {1, 2, 3};",
        (1, 28),
        "expected at most 2 initial values here",
    ),
    (
        ".global .b32 x[2] = 5;",
        (1, 21),
        "expected `{` before the values of an array or vector, found `5`",
    ),
    (
        ".global .b32 x[2][2] = {1, 2};",
        (1, 25),
        "expected `{` before the values",
    ),
    (
        ".global .b32 x[2] = {1;",
        (1, 23),
        "expected `}` or `,` after an initial value, found `;`",
    ),
    (".global .b32 x = {1};", (1, 18), "expected a constant, found `{`"),
    (
        ".global .u8 x = 256;",
        (1, 17),
        "this value does not fit the type `.u8`",
    ),
    (
        ".global .f32 x = 1;",
        (1, 18),
        "this value does not fit the type `.f32`",
    ),
    (
        ".global .u32 x = 1.5;",
        (1, 18),
        "this value does not fit the type `.u32`",
    ),
    (
        ".global .f16 x = 1.5;",
        (1, 18),
        "this value does not fit the type `.f16`",
    ),
    (
        ".global .u16 x = y;",
        (1, 18),
        "an address needs an integer type of 32 or 64 bits",
    ),
    (
        ".global .u64 x = y;",
        (1, 18),
        "no variable or function `y` is declared",
    ),
    (
        ".global .u64 x = generic(y)+4;",
        (1, 26),
        "no variable or function `y` is declared",
    ),
    (
        ".global .u64 x = generic(x+4);",
        (1, 27),
        "expected `)` after the symbol, found `+`",
    ),
    (
        ".global .u8 x[8] = {mask(x)};",
        (1, 21),
        "`mask(…)` as an initial value is not supported",
    ),
    (
        ".global .u8 x[8] = {0xFF(x), 0xFF00(x), 1};",
        (1, 41),
        "expected all eight bytes of an address",
    ),
    (
        ".global .u8 x[8] = {0xFF(x)};",
        (1, 28),
        "expected all eight bytes of an address",
    ),
    (
        ".global .u8 x[8] = {0xFF00(x)};",
        (1, 21),
        "expected the byte of mask 0xff of this address",
    ),
    (
        ".global .b8 x[99999999] = {1};",
        (1, 30),
        "initial values are not listed for more than 67108864 bytes",
    ),
    (
        ".extern .global .b32 x = 5;",
        (1, 24),
        "an `.extern` variable cannot have initial values",
    ),
    (
        ".shared .b32 x = 5;",
        (1, 16),
        "only `.global` and `.const` variables can have initial values",
    ),
    (".global .b32 x; .global .b32 x;", (1, 30), "`x` is defined twice"),
    (
        ".extern .global .b32 x; .visible .global .b64 x;",
        (1, 47),
        "`x` is declared differently before",
    ),
    (
        ".func x; .global .b32 x;",
        (1, 23),
        "`x` is declared as a function before",
    ),
    (
        ".global .b32 x; .func x;",
        (1, 23),
        "`x` is declared as a variable before",
    ),
    (
        ".func f { ret; }\n.func f { ret; }",
        (2, 7),
        "`f` is defined twice, first in line 3",
    ),
    (
        ".func f(.param .b32 a);\n.func f(.param .b64 a);",
        (2, 7),
        "`f` is declared with another signature in line 3",
    ),
    (
        ".func f;\n.func f(.param .b64 a) { ret; }",
        (2, 7),
        "`f` is declared with another signature in line 3",
    ),
    (
        ".func f;\n.entry f;",
        (2, 8),
        "`f` is declared with another signature in line 3",
    ),
    (
        ".func (.param .b32 r) f;\n.func f { ret; }",
        (2, 7),
        "`f` is declared with another signature in line 3",
    ),
    (
        ".func f(.reg .b32 a);",
        (1, 9),
        "parameters in registers are not supported: expected `.param`",
    ),
    (
        ".func f(.b32 a);",
        (1, 9),
        "expected `.param` or `)`, found `.b32`",
    ),
    (
        ".func f(.param .b32 a .param .b32 b);",
        (1, 23),
        "expected `)` or `,` after a parameter, found `.param`",
    ),
    (
        ".func f(.param .b32 a, .param .b32 a);",
        (1, 36),
        "a second parameter `a`",
    ),
    (
        ".func (.param .b32 a) f(.param .b32 a);",
        (1, 37),
        "a second parameter `a`",
    ),
    (
        ".entry (.param .b32 a) k { }",
        (1, 8),
        "expected the function's name, found `(`",
    ),
    (
        ".entry k(.param .texref t) { }",
        (1, 17),
        "texture, sampler and surface references are not supported",
    ),
    (
        ".entry k .frobnicate { }",
        (1, 10),
        "unknown directive `.frobnicate`",
    ),
    (
        ".entry k .blocksareclusters { }",
        (1, 10),
        "`.blocksareclusters` is not supported",
    ),
    (
        ".entry k .maxntid 0 { }",
        (1, 19),
        "a size of 0: expected at least 1",
    ),
    (
        ".entry k .maxntid 1, 2, 3, 4 { }",
        (1, 26),
        "expected `;` or `{` after the function's signature, found `,`",
    ),
    (".entry k .maxntid x { }", (1, 19), "expected a size, found `x`"),
    (
        ".entry k .maxnreg { }",
        (1, 19),
        "expected the directive's number, found `{`",
    ),
    (
        ".entry k",
        (1, 9),
        "expected `;` or `{` after the function's signature, found the end of the text",
    ),
    (
        ".entry k { ret; ",
        (1, 17),
        "expected `}` at the end of the function, found the end of the text",
    ),
    (
        ".func f(.param .b32 _);",
        (1, 21),
        "a parameter of a function needs a name",
    ),
    (".func _;", (1, 7), "expected the function's name, found `_`"),
    (
        ".global .u8 x[3] = {1, 2,};",
        (1, 26),
        "expected a constant, found `}`",
    ),
    (".file x", (1, 7), "expected the file's number, found `x`"),
    (
        ".file 1 x",
        (1, 9),
        "expected the file's path in quotes, found `x`",
    ),
    (
        ".section .debug_info { .b8 1",
        (1, 29),
        "expected `}` after the section's contents, found the end of the text",
    ),
    (
        ".section .debug_info .b8 1",
        (1, 22),
        "expected `{` before the section's contents, found `.b8`",
    ),
    (
        ".section .debug_str { 5 }",
        (1, 23),
        "expected a label, `.b8`, `.ascii` or `}` in `.debug_str`, found `5`",
    ),
    (
        ".section .debug_str { .b8 }",
        (1, 27),
        "expected a constant, found `}`",
    ),
    ("}", (1, 1), "expected a directive, found `}`"),
];

#[test]
fn statements() {
    for (text, (line, column), message) in STATEMENTS {
        let error = kernel_error(text);
        assert!(error.message.contains(message), "{text}\n{error}");
        assert_eq!((error.line, error.column), (line + 5, *column), "{text}\n{error}");
    }
}

#[test]
fn declarations() {
    for (text, (line, column), message) in DECLARATIONS {
        let error = module_error(text);
        assert!(error.message.contains(message), "{text}\n{error}");
        assert_eq!((error.line, error.column), (line + 2, *column), "{text}\n{error}");
    }
}

#[test]
fn the_header() {
    let cases: &[(&str, (u32, u32), &str)] = &[
        (
            "",
            (1, 1),
            "expected `.version`, with which a PTX module begins, found the end of the text",
        ),
        ("\x7fELF", (1, 1), "the character '\\u{7f}' cannot stand here"),
        (
            "{\"json\": 1}",
            (1, 1),
            "expected `.version`, with which a PTX module begins, found `{`",
        ),
        (".target sm_80", (1, 1), "expected `.version`"),
        (
            ".version 9",
            (1, 10),
            "expected a version such as `9.0`, found `9`",
        ),
        (
            ".version x",
            (1, 10),
            "expected a version such as `9.0`, found `x`",
        ),
        (
            ".version 99999999999.0",
            (1, 10),
            "expected a version such as `9.0`",
        ),
        (
            ".version 9.0\n",
            (2, 1),
            "expected `.target`, found the end of the text",
        ),
        (
            ".version 9.0 .entry k { }",
            (1, 14),
            "expected `.target` before any declaration, found `.entry`",
        ),
        (
            ".version 9.0 .target 80",
            (1, 22),
            "expected an architecture such as `sm_80`, found `80`",
        ),
        (
            ".version 9.0 .target sm_80,",
            (1, 28),
            "expected another target option, found the end",
        ),
    ];
    for (text, at, message) in cases {
        let error = parse(text).unwrap_err();
        assert!(error.message.contains(message), "{text}\n{error}");
        assert_eq!((error.line, error.column), *at, "{text}\n{error}");
    }
}

#[test]
fn errors_show_the_line() {
    let error = kernel_error("\tmov.b32 %r1, %r2.b0; // é");
    assert_eq!(
        error.to_string(),
        "PTX line 6:18: selectors of bytes and halves (video instructions) are not supported: `%r2.b0`\n\
         6 |  mov.b32 %r1, %r2.b0; // é\n  |                  ^"
    );
    // Columns count characters, and of a long line only a part is shown.
    let error = kernel_error(&format!("/* {} */ é;{}", "é".repeat(5000), "x".repeat(5000)));
    assert_eq!((error.line, error.column), (6, 5008));
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(text.chars().count() < 500, "{text}");
    let caret = lines[2].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[1].chars().skip(caret).take(2).collect::<String>(), "é;");
    // Long names are cut.
    let error = kernel_error(&format!("mov.b32 %r1, {};", "x".repeat(5000)));
    assert!(error.message.len() < 200, "{error}");
}

/// Every `.calltargets` has a copy of the parameters, which must not take memory beyond all proportion.
#[test]
fn call_targets_of_many_parameters() {
    let parameters: Vec<String> = (0..300).map(|index| format!(".param .b32 p{index}")).collect();
    let error = module_error(&format!(
        ".func f({}) {{ t: .calltargets f; ret; }}",
        parameters.join(", ")
    ));
    assert!(
        error
            .message
            .contains("more than 256 parameters in `.calltargets`"),
        "{error}"
    );
}
