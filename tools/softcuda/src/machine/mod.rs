//! A device: its memory, modules and launches. What the driver API is a thin skin over.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::counters::Counters;
use crate::ir::Kernel;
use crate::lower::{self, Placed, Refused};
use crate::memory::{AccessError, DeviceMemory, Kind, OutOfMemory};
use crate::ptx::ParseError;
use crate::ptx::ast::{self, FunctionKind, Linkage, Space};
use crate::run::check::{Check, Finding};
use crate::run::grid::{Findings, Run};
use crate::run::profile::Profile;
use crate::run::warp::Aligned;

/// How kernels are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host threads that run blocks.
    pub threads: usize,
    /// Shuffles blocks and warps; `None`: everything in order. One thread and no seed is deterministic.
    pub seed: Option<u64>,
    /// Warp instructions without a change in memory until a block counts as deadlocked.
    pub spin_limit: u64,
    /// Whether memory traffic is counted.
    pub counters: bool,
    /// Where each launch's counters are appended as a line of JSON.
    pub counters_file: Option<PathBuf>,
    /// Checks that are not reported (of those after which a kernel can go on).
    pub without: Vec<Check>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seed: None,
            spin_limit: 20_000_000,
            counters: false,
            counters_file: None,
            without: Vec::new(),
        }
    }
}

impl Settings {
    /// From the environment: `SOFTCUDA_THREADS`, `SOFTCUDA_SEED`, `SOFTCUDA_SPIN_LIMIT`, `SOFTCUDA_CHECKS`,
    /// `SOFTCUDA_COUNTERS`. The error says what is understood.
    pub fn from_env() -> Result<Self, String> {
        let mut settings = Self::default();
        let number = |name: &str| -> Result<Option<u64>, String> {
            match std::env::var(name) {
                Err(_) => Ok(None),
                Ok(text) => match text.trim().parse() {
                    Ok(value) => Ok(Some(value)),
                    Err(_) => Err(format!("{name}={text}: a whole number is expected")),
                },
            }
        };
        if let Some(threads) = number("SOFTCUDA_THREADS")? {
            if threads == 0 {
                return Err("SOFTCUDA_THREADS=0: at least one thread is needed".to_owned());
            }
            settings.threads = threads as usize;
        }
        settings.seed = number("SOFTCUDA_SEED")?;
        if let Some(limit) = number("SOFTCUDA_SPIN_LIMIT")? {
            settings.spin_limit = limit;
        }
        let file = std::env::var_os("SOFTCUDA_COUNTERS").filter(|path| !path.is_empty());
        settings.counters_file = file.map(PathBuf::from);
        if let Some(path) = &settings.counters_file {
            // A place that cannot be written to is told of now, not after the first kernel.
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|error| format!("SOFTCUDA_COUNTERS={}: {error}", path.display()))?;
            settings.counters = true;
        }
        if let Ok(list) = std::env::var("SOFTCUDA_CHECKS") {
            for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
                let check = name.strip_prefix('-').and_then(|name| {
                    Check::ALL
                        .iter()
                        .copied()
                        .find(|c| c.continues() && c.name() == name)
                });
                match check {
                    Some(check) => settings.without.push(check),
                    None => {
                        let names: Vec<String> = Check::ALL
                            .iter()
                            .filter(|c| c.continues())
                            .map(|c| format!("-{}", c.name()))
                            .collect();
                        return Err(format!(
                            "SOFTCUDA_CHECKS={list}: `{name}` is not one of {}",
                            names.join(", ")
                        ));
                    }
                }
            }
        }
        Ok(settings)
    }
}

/// One device.
pub struct Device {
    pub profile: &'static Profile,
    pub memory: DeviceMemory,
    pub settings: Settings,
    /// Launches so far.
    pub launches: u64,
    /// What `printf` wrote and nobody has taken yet.
    pub output: Vec<u8>,
    /// Where grids of cooperative launches keep their barrier.
    workspace: Option<u64>,
    /// Memory's number of the last launch by stream, for programmatic dependent launch.
    last_launch: HashMap<u64, u64>,
}

impl Device {
    pub fn new(profile: &'static Profile, settings: Settings) -> Self {
        Self {
            profile,
            memory: DeviceMemory::new(profile.memory),
            settings,
            launches: 0,
            output: Vec::new(),
            workspace: None,
            last_launch: HashMap::new(),
        }
    }

    /// Something else happened in a stream: what comes next depends on it wholly.
    pub fn order_stream(&mut self, stream: u64) {
        self.last_launch.remove(&stream);
    }
}

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
    constants: Arc<Vec<u64>>,
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

/// Bytes of a cooperative launch's workspace: its size and the grid's barrier (cooperative_groups' own layout).
const WORKSPACE: u64 = 64;

/// A launch as asked for.
#[derive(Debug, Clone)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter block as laid out.
    pub params: Vec<u8>,
    pub cooperative: bool,
    pub cluster: Option<[u32; 3]>,
    /// Programmatic stream serialisation: the launch may begin before the one before it has ended.
    pub programmatic: bool,
    pub stream: u64,
}

/// A launch that did not end well.
#[derive(Debug)]
pub enum LaunchError {
    /// Refused before anything ran.
    Invalid { kind: Invalid, message: String },
    /// The kernel ran and was found wrong.
    Failed { findings: Vec<Finding>, dropped: usize },
}

/// Why a launch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Grid, block or shared memory is zero where it must not be, or too large.
    Value,
    /// Too many resources: threads, shared memory.
    Resources,
    /// A cooperative grid that does not fit the device at once.
    CooperativeTooLarge,
    /// Not what the kernel's directives say.
    Directive,
    NotSupported,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::Invalid { message, .. } => f.write_str(message),
            LaunchError::Failed { findings, dropped } => {
                for finding in findings {
                    finding.fmt(f)?;
                }
                if *dropped > 0 {
                    writeln!(f, "softcuda: and {dropped} more places")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LaunchError {}

/// What a launch that ended well leaves.
pub struct Done {
    pub counters: Counters,
}

/// Runs a kernel to its end.
pub fn launch(
    device: &mut Device,
    module: &Module,
    kernel: &Arc<Kernel>,
    config: &Launch,
) -> Result<Done, LaunchError> {
    check(device.profile, kernel, config)?;
    let Device {
        profile,
        memory,
        settings,
        launches,
        output,
        workspace,
        last_launch,
    } = device;
    *launches += 1;
    let workspace = match (config.cooperative, *workspace) {
        (false, _) => 0,
        (true, Some(address)) => address,
        (true, None) => {
            let address = memory
                .allocate(WORKSPACE, Kind::Internal, "workspace of cooperative launches")
                .map_err(|error| LaunchError::Invalid {
                    kind: Invalid::Resources,
                    message: error.to_string(),
                })?;
            *workspace = Some(address);
            address
        }
    };
    if workspace != 0 {
        memory
            .write(workspace, &[0; WORKSPACE as usize])
            .expect("the workspace is there");
    }
    let number = memory.begin_launch();
    let previous = last_launch
        .insert(config.stream, number.number())
        .filter(|_| config.programmatic);
    let dynamic_end = kernel.dynamic_base + config.shared;
    let static_end = if config.shared == 0 {
        kernel.shared_end
    } else {
        dynamic_end
    };
    let run = Run {
        kernel,
        module: &module.ast,
        memory,
        profile,
        settings,
        launch: number,
        grid: config.grid,
        block: config.block,
        dynamic_shared: config.shared,
        shared_bytes: static_end,
        params: Aligned::from_bytes(&config.params),
        param_bytes: kernel.param_bytes,
        constants: Aligned::from_bytes(&kernel.constants),
        constant_memory: &module.constants,
        grid_id: *launches,
        workspace,
        previous,
        findings: Default::default(),
        stop: Default::default(),
        events: Default::default(),
        output: Default::default(),
        touched: Default::default(),
    };
    let meter = crate::run::grid::run(&run, config.cooperative);
    let counters = Counters::new(&run, &meter);
    output.extend(run.output.into_inner().unwrap_or_else(|e| e.into_inner()));
    let Findings { list, dropped, .. } = run.findings.into_inner().unwrap_or_else(|e| e.into_inner());
    if list.is_empty() {
        if let Some(path) = &settings.counters_file
            && let Err(error) = counters.append(path)
        {
            eprintln!("softcuda: SOFTCUDA_COUNTERS={}: {error}", path.display());
        }
        Ok(Done { counters })
    } else {
        Err(LaunchError::Failed {
            findings: list,
            dropped,
        })
    }
}

/// The limits of the device and what the kernel's directives ask for.
/// Whether a launch can be made; what [`launch`] looks at before anything runs.
pub fn check(profile: &Profile, kernel: &Kernel, config: &Launch) -> Result<(), LaunchError> {
    let name = &kernel.name;
    let refuse = |kind, message: String| {
        Err(LaunchError::Invalid {
            kind,
            message: format!("launch of `{name}`: {message}"),
        })
    };
    let threads = config.block.iter().map(|&n| u64::from(n)).product::<u64>();
    for (what, got, most) in [
        ("grid", config.grid, crate::run::profile::MAX_GRID),
        ("block", config.block, crate::run::profile::MAX_BLOCK),
    ] {
        for axis in 0..3 {
            if got[axis] == 0 || got[axis] > most[axis] {
                let letter = ["x", "y", "z"][axis];
                return refuse(
                    Invalid::Value,
                    format!(
                        "the {what}'s {letter} is {}; it is 1 to {}",
                        got[axis], most[axis]
                    ),
                );
            }
        }
    }
    if threads > u64::from(profile.threads_per_block) {
        return refuse(
            Invalid::Value,
            format!(
                "{threads} threads per block; the device has {}",
                profile.threads_per_block
            ),
        );
    }
    let limits = &kernel.limits;
    if let Some(required) = limits.required_threads
        && config.block != required
    {
        return refuse(
            Invalid::Directive,
            format!(
                "a block of {:?}, where .reqntid asks for {required:?}",
                config.block
            ),
        );
    }
    if let Some(most) = limits.max_threads
        && threads > most.iter().map(|&n| u64::from(n)).product::<u64>()
    {
        return refuse(
            Invalid::Resources,
            format!("{threads} threads per block, where .maxntid (__launch_bounds__) allows {most:?}"),
        );
    }
    let shared = u64::from(kernel.static_shared) + u64::from(config.shared);
    if shared > u64::from(profile.shared_per_block_optin) {
        return refuse(
            Invalid::Value,
            format!(
                "{shared} bytes of shared memory per block ({} of them dynamic); {} allows {}",
                config.shared, profile.key, profile.shared_per_block_optin
            ),
        );
    }
    if config.params.len() != kernel.param_bytes as usize {
        return refuse(
            Invalid::Value,
            format!(
                "{} bytes of parameters, where the kernel has {}",
                config.params.len(),
                kernel.param_bytes
            ),
        );
    }
    if let Some(cluster) = config.cluster.or(limits.required_cluster)
        && cluster != [1, 1, 1]
    {
        return refuse(
            Invalid::NotSupported,
            format!("clusters of {cluster:?} blocks are not supported yet"),
        );
    }
    if config.cooperative {
        let by_threads = profile.threads_per_multiprocessor / threads.next_multiple_of(32) as u32;
        let per_block = (shared as u32 + profile.shared_reserved).max(1);
        let by_shared = profile.shared_per_multiprocessor / per_block;
        let fits = u64::from(by_threads.min(by_shared).min(profile.blocks_per_multiprocessor))
            * u64::from(profile.multiprocessors);
        let blocks = config.grid.iter().map(|&n| u64::from(n)).product::<u64>();
        if blocks > fits {
            return refuse(
                Invalid::CooperativeTooLarge,
                format!("a cooperative grid of {blocks} blocks, of which the device holds {fits} at once"),
            );
        }
    }
    Ok(())
}
