//! The PTX parser: snippets with their syntax trees, errors with their messages, whole files, mutations of these.

mod accept;
mod files;
mod fuzz_body;
mod mutations;
mod reject;

use softcuda::ptx::ast::{Body, Function, Instruction, Module, Operand};
use softcuda::ptx::{ParseError, parse};

/// What stands before the snippets: the snippet begins in line 3, column 1.
const HEADER: &str = ".version 9.0\n.target sm_80\n";

/// A module of a few declarations.
fn module(declarations: &str) -> Module {
    let text = format!("{HEADER}{declarations}");
    parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn module_error(declarations: &str) -> ParseError {
    let text = format!("{HEADER}{declarations}");
    match parse(&text) {
        Ok(_) => panic!("accepted: {declarations}"),
        Err(error) => error,
    }
}

/// What the statements of [`kernel`] may use.
const KERNEL: &str = "\
.global .align 4 .b8 array[64]; .shared .b32 tile[8]; .func (.param .b32 r) f(.param .b32 a);
.entry k(.param .u64 out, .param .u32 n) {
.reg .pred %p<5>; .reg .b32 %r<20>; .reg .b64 %rd<10>; .reg .f32 %f<10>; .local .b32 stack[4];
";

/// A kernel's text with some statements, of which the first begins in line 6.
fn kernel_text(statements: &str) -> String {
    format!("{KERNEL}{statements}\n}}")
}

/// The kernel of [`kernel_text`].
fn kernel(statements: &str) -> Function {
    module(&kernel_text(statements)).functions.remove(1)
}

/// Its body.
fn body(statements: &str) -> Body {
    kernel(statements).body.unwrap()
}

fn kernel_error(statements: &str) -> ParseError {
    module_error(&kernel_text(statements))
}

/// The only instruction of a kernel, and the names of its registers.
fn instruction(text: &str) -> (Instruction, Vec<String>) {
    let mut body = body(text);
    assert_eq!(body.instructions.len(), 1, "{text}");
    let names = body
        .registers
        .iter()
        .map(|register| register.name.to_string())
        .collect();
    (body.instructions.remove(0), names)
}

/// The operands of the only instruction of a kernel.
fn operands(text: &str) -> Vec<Operand> {
    instruction(text).0.operands
}
