//! What holds of any input to the parser.

use std::collections::HashSet;

use softcuda::ptx::ast::{Address, Base, Body, Function, FunctionKind, Module, Operand, Space, Variable};
use softcuda::ptx::parse_bytes;

/// Parses any bytes. There may be an error, of which there is a description; in what is parsed, every index points
/// to something.
pub fn ptx(input: &[u8]) {
    match parse_bytes(input) {
        Ok(module) => check(&module),
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1);
            assert!(
                !error.message.is_empty() && error.message.len() < 1000,
                "{}",
                error.message
            );
            assert!(error.to_string().len() < 3000);
        }
    }
}

/// Checks that a module is whole.
pub fn check(module: &Module) {
    assert!(
        module
            .target
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_%$".contains(c))
    );
    let mut names = HashSet::new();
    for variable in &module.variables {
        check_variable(variable);
        assert!(matches!(
            variable.space,
            Space::Global | Space::Const | Space::Shared
        ));
        assert!(names.insert(&variable.name), "{} twice", variable.name);
        for relocation in &variable.relocations {
            assert!(matches!(relocation.size, 4 | 8));
            assert!(relocation.at + relocation.size <= variable.init.len());
        }
    }
    for relocation in module.variables.iter().flat_map(|variable| &variable.relocations) {
        let function = module
            .functions
            .iter()
            .any(|function| function.name == relocation.symbol);
        assert!(
            function || names.contains(&relocation.symbol),
            "{}",
            relocation.symbol
        );
    }
    for (index, location) in module.locations.iter().enumerate() {
        // Call sites come first, so that following them comes to an end.
        assert!(location.inlined_at.is_none_or(|call| (call.0 as usize) < index));
    }
    for function in &module.functions {
        assert!(names.insert(&function.name), "{} twice", function.name);
        assert!(function.kind == FunctionKind::Device || function.returns.is_empty());
        for id in function.returns.iter().chain(&function.params) {
            assert_eq!(function.variables[id.0 as usize].space, Space::Param);
        }
        for variable in &function.variables {
            check_variable(variable);
            assert!(matches!(
                variable.space,
                Space::Local | Space::Param | Space::Shared
            ));
        }
        if let Some(body) = &function.body {
            check_body(module, function, body);
        }
    }
}

fn check_variable(variable: &Variable) {
    assert!(variable.align.is_power_of_two());
    assert!(
        variable.init.is_empty() || variable.init.len() == variable.size,
        "{variable:?}"
    );
}

fn check_body(module: &Module, function: &Function, body: &Body) {
    for label in &body.labels {
        assert!(label.target <= body.instructions.len());
    }
    for (_, targets) in &body.branch_targets {
        assert!(targets.iter().all(|label| (label.0 as usize) < body.labels.len()));
    }
    let mut named = HashSet::new();
    for name in body.branch_targets.iter().map(|(name, _)| name) {
        assert!(named.insert(name));
    }
    for prototype in &body.prototypes {
        assert!(named.insert(&prototype.name));
    }
    let mut line = function.line;
    for instruction in &body.instructions {
        assert!(instruction.line >= line);
        line = instruction.line;
        assert!(instruction.opcode.starts_with(|c: char| c.is_ascii_lowercase()));
        assert!(
            instruction
                .loc
                .is_none_or(|loc| (loc.0 as usize) < module.locations.len())
        );
        assert!(
            instruction
                .guard
                .is_none_or(|guard| (guard.reg.0 as usize) < body.registers.len())
        );
        for operand in &instruction.operands {
            check_operand(module, function, body, operand, &named);
        }
    }
}

fn check_operand(
    module: &Module,
    function: &Function,
    body: &Body,
    operand: &Operand,
    named: &HashSet<&std::sync::Arc<str>>,
) {
    let check_all = |operands: &[Operand]| {
        for operand in operands {
            check_operand(module, function, body, operand, named);
        }
    };
    match operand {
        Operand::Reg(id) | Operand::NotReg(id) => assert!((id.0 as usize) < body.registers.len()),
        Operand::Variable(id, _) => assert!((id.0 as usize) < function.variables.len()),
        Operand::Global(index, _) => assert!((*index as usize) < module.variables.len()),
        Operand::Function(index) => assert!((*index as usize) < module.functions.len()),
        Operand::Label(id) => assert!((id.0 as usize) < body.labels.len()),
        Operand::Named(name) => assert!(named.contains(name)),
        Operand::Special(name) => assert!(!name.is_empty() && !name.starts_with('%')),
        Operand::Vector(operands) | Operand::List(operands) => check_all(operands),
        Operand::Pair(first, second) => {
            check_operand(module, function, body, first, named);
            check_operand(module, function, body, second, named);
        }
        Operand::Address(Address { base, more, .. }) => {
            match base {
                Base::Reg(id) => assert!((id.0 as usize) < body.registers.len()),
                Base::Variable(id) => assert!((id.0 as usize) < function.variables.len()),
                Base::Global(index) => assert!((*index as usize) < module.variables.len()),
                Base::Absolute => {}
            }
            check_all(more);
        }
        Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Sink => {}
    }
}
