//! Modules: PTX text loaded into a device, its variables placed and its kernels lowered.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::Device;
use crate::ir::Kernel;
use crate::lower::{self, Placed, Refused};
use crate::memory::{AccessError, DeviceMemory, Kind, OutOfMemory};
use crate::ptx::ParseError;
use crate::ptx::ast::{self, FunctionKind, Linkage, Space};
use crate::run::profile::Profile;

/// Why a module cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    Parse(ParseError),
    Refused(Refused),
    /// The module is for a device that this one is not.
    Target {
        message: String,
    },
    Memory(OutOfMemory),
    Unresolved {
        symbol: String,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Parse(error) => error.fmt(f),
            LoadError::Refused(refused) => refused.fmt(f),
            LoadError::Target { message } => f.write_str(message),
            LoadError::Memory(error) => error.fmt(f),
            LoadError::Unresolved { symbol } => {
                write!(f, "the symbol `{symbol}` is not defined in this module")
            }
        }
    }
}

impl std::error::Error for LoadError {}

impl From<Refused> for LoadError {
    fn from(refused: Refused) -> Self {
        LoadError::Refused(refused)
    }
}

/// A loaded module.
pub struct Module {
    pub ast: Arc<ast::Module>,
    kernels: HashMap<Arc<str>, Arc<Kernel>>,
    /// Order of definition.
    names: Vec<Arc<str>>,
    globals: HashMap<Arc<str>, (u64, u64)>,
    allocations: Vec<u64>,
    /// Addresses of `.const` variables.
    pub(super) constants: Arc<Vec<u64>>,
}

impl Module {
    /// Loads PTX text, with or without a NUL at the end.
    pub fn load(text: &[u8], device: &mut Device) -> Result<Module, LoadError> {
        let parsed = crate::ptx::parse_bytes(text).map_err(LoadError::Parse)?;
        check_target(&parsed.target, device.profile)?;
        let ast = Arc::new(parsed);
        let mut module = Module {
            ast: ast.clone(),
            kernels: HashMap::new(),
            names: Vec::new(),
            globals: HashMap::new(),
            allocations: Vec::new(),
            constants: Arc::default(),
        };
        let result = module.fill(&ast, device);
        if result.is_err() {
            module.free(&mut device.memory);
        }
        result.map(|()| module)
    }

    fn fill(&mut self, ast: &Arc<ast::Module>, device: &mut Device) -> Result<(), LoadError> {
        let mut addresses = vec![0; ast.variables.len()];
        let mut constants = Vec::new();
        for (index, variable) in ast.variables.iter().enumerate() {
            if !matches!(variable.space, Space::Global | Space::Const) {
                continue;
            }
            if variable.linkage == Linkage::Extern {
                return Err(LoadError::Unresolved {
                    symbol: variable.name.to_string(),
                });
            }
            let label = format!("variable `{}`", variable.name);
            let address = device
                .memory
                .allocate(variable.size.max(1) as u64, Kind::Module, label)
                .map_err(LoadError::Memory)?;
            self.allocations.push(address);
            if variable.space == Space::Const {
                constants.push(address);
            }
            addresses[index] = address;
            self.globals
                .insert(variable.name.clone(), (address, variable.size as u64));
        }
        for (index, variable) in ast.variables.iter().enumerate() {
            if !matches!(variable.space, Space::Global | Space::Const) {
                continue;
            }
            // Variables without an initialiser are zero.
            let mut bytes = variable.init.clone();
            bytes.resize(variable.size, 0);
            for relocation in &variable.relocations {
                let value = symbol(ast, &addresses, &relocation.symbol)
                    .ok_or_else(|| LoadError::Unresolved {
                        symbol: relocation.symbol.to_string(),
                    })?
                    .wrapping_add_signed(relocation.addend);
                let end = relocation.at + relocation.size;
                bytes[relocation.at..end].copy_from_slice(&value.to_le_bytes()[..relocation.size]);
            }
            if !bytes.is_empty() {
                device
                    .memory
                    .write(addresses[index], &bytes)
                    .map_err(|error: AccessError| LoadError::Target {
                        message: error.to_string(),
                    })?;
            }
        }
        self.constants = Arc::new(constants);
        let placed = Placed {
            module: ast,
            addresses: &addresses,
        };
        for (index, function) in ast.functions.iter().enumerate() {
            if function.kind == FunctionKind::Kernel && function.body.is_some() {
                let kernel = lower::kernel(&placed, index as u32)?;
                self.names.push(function.name.clone());
                self.kernels.insert(function.name.clone(), Arc::new(kernel));
            }
        }
        Ok(())
    }

    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.get(name).cloned()
    }

    /// Names of the kernels, in the order of the text.
    pub fn kernels(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Address and size of a module-scope variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// Gives the module's memory back.
    pub fn unload(mut self, device: &mut Device) {
        self.free(&mut device.memory);
    }

    fn free(&mut self, memory: &mut DeviceMemory) {
        for address in self.allocations.drain(..) {
            memory.free(address).expect("the module's own allocation");
        }
    }
}

fn symbol(ast: &ast::Module, addresses: &[u64], name: &str) -> Option<u64> {
    if let Some(index) = ast.variables.iter().position(|v| &*v.name == name) {
        return Some(addresses[index]);
    }
    let index = ast
        .functions
        .iter()
        .position(|f| &*f.name == name && f.body.is_some())
        .or_else(|| ast.functions.iter().position(|f| &*f.name == name))?;
    Some(lower::FUNCTIONS + 16 * index as u64)
}

/// PTX for an older architecture runs on every newer one; PTX with an `a` suffix on its own alone.
fn check_target(target: &str, profile: &Profile) -> Result<(), LoadError> {
    let own = (10 * profile.major + profile.minor) as u32;
    let digits: String = target.chars().filter(char::is_ascii_digit).collect();
    let wanted: u32 = digits.parse().unwrap_or(0);
    let exact = target.ends_with('a');
    let family = target.ends_with('f');
    let fits = if exact {
        wanted == own
    } else if family {
        wanted / 10 == own / 10 && wanted <= own
    } else {
        wanted <= own
    };
    if fits {
        return Ok(());
    }
    Err(LoadError::Target {
        message: format!(
            "the PTX is for {target}, which the device {} cannot run: compile for compute_{own} or older, or choose \
             another device with SOFTCUDA_DEVICE",
            profile.key
        ),
    })
}
