//! PTX text to syntax tree.
//!
//! [`parse`] takes what nvcc and Triton emit and what people write by hand, PTX ISA 9 and earlier. It checks what
//! can be checked without knowing the instructions: syntax, that every name is declared, that declarations agree
//! with each other. It never panics, and its time and memory are linear in the text: of `%r<1000>`, a function's
//! table has the registers that are mentioned, in the order of their mention.
//!
//! Refused with a message, as nothing here needs them: textures as variables, registers as parameters or with
//! elements (`.v4`, `%r.x`, `%r.b0`), indices of arrays (`x[2]`), `.alias`, `.blocksareclusters`.

pub mod ast;
mod error;
mod lexer;
mod parser;

pub use error::ParseError;

/// Parses one PTX module.
pub fn parse(text: &str) -> Result<ast::Module, ParseError> {
    parser::Parser::new(text)?.module()
}

/// Parses a module as a fatbin or `cuModuleLoadData` has it: a trailing NUL is dropped, and bytes that are not
/// UTF-8 (which can only be in comments and strings) are replaced.
pub fn parse_bytes(bytes: &[u8]) -> Result<ast::Module, ParseError> {
    parse(&String::from_utf8_lossy(
        bytes.strip_suffix(&[0]).unwrap_or(bytes),
    ))
}
