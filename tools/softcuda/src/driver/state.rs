//! What the driver knows: devices, contexts, and everything that a handle stands for.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Instant;

use super::fault::Faults;
use super::handle::{Handle, Object, Table};
use super::result::{Answer, CUresult};
use super::timeline::Timeline;
use super::types::CUgraphEdgeData;
use super::work::{OpId, Pending, Work};
use crate::machine;
use crate::memory;
use crate::run::profile::{self, Profile};

/// What the environment asks for, read once.
#[derive(Default)]
pub struct Config {
    /// `SOFTCUDA_LOG=calls`
    pub log_calls: bool,
    /// `SOFTCUDA_ASYNC=lazy`: stream work waits until somebody waits for it.
    pub lazy: bool,
    /// `SOFTCUDA_CALLS`: where the calls' numbers go when the process ends.
    pub calls: Option<std::path::PathBuf>,
    /// `CUDA_LAUNCH_BLOCKING=1`: a launch reports its own failure.
    pub launch_blocking: bool,
    /// What is wrong with the environment; said by `cuInit`.
    pub error: Option<String>,
}

/// One device and what belongs to it whatever the context.
pub struct Device {
    pub machine: machine::Device,
    /// The primary context while it is retained.
    pub primary: Handle<Context>,
    pub primary_retained: u32,
    pub primary_flags: u32,
    pub default_pool: Handle<Pool>,
    /// The pool that `cuMemAllocAsync` takes from.
    pub pool: Handle<Pool>,
}

impl Device {
    pub fn profile(&self) -> &'static Profile {
        self.machine.profile
    }
}

pub struct Context {
    pub device: usize,
    pub primary: bool,
    pub flags: u32,
    pub id: u64,
    /// After a kernel failed: every later call answers with this.
    pub poisoned: Option<CUresult>,
    pub cache_config: u32,
    pub shared_config: u32,
    pub limits: HashMap<u32, usize>,
    /// The legacy default stream.
    pub legacy: Handle<Stream>,
    pub per_thread: HashMap<ThreadId, Handle<Stream>>,
}

impl Object for Context {
    const KIND: usize = 1;
    const INVALID: CUresult = CUresult::INVALID_CONTEXT;
}

pub struct Module {
    pub context: Handle<Context>,
    pub machine: Option<machine::Module>,
    pub functions: HashMap<String, Handle<Function>>,
    /// Registers per thread, of kernels that came with machine code.
    pub registers: HashMap<String, u32>,
    /// Capability of the PTX.
    pub ptx: u32,
}

impl Object for Module {
    const KIND: usize = 2;
}

pub struct Function {
    pub module: Handle<Module>,
    pub context: Handle<Context>,
    pub name: CString,
    pub kernel: Arc<crate::ir::Kernel>,
    pub registers: u32,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
    pub max_dynamic_shared: u32,
    pub carveout: i32,
    pub non_portable_cluster: bool,
    pub cluster_policy: i32,
    /// `CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_…`, where the program set it.
    pub required_cluster: [i32; 3],
}

impl Object for Function {
    const KIND: usize = 3;
}

/// A `CUlibrary`: code that every context loads when it first needs it.
pub struct Library {
    pub image: Arc<super::module::Image>,
    pub modules: HashMap<Handle<Context>, Handle<Module>>,
    pub kernels: HashMap<String, Handle<Kernel>>,
}

impl Object for Library {
    const KIND: usize = 4;
}

pub struct Kernel {
    pub library: Handle<Library>,
    pub name: CString,
}

impl Object for Kernel {
    const KIND: usize = 5;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    Legacy,
    PerThread,
    Created,
}

pub struct Stream {
    pub context: Handle<Context>,
    pub kind: StreamKind,
    /// Does not wait for the legacy default stream, nor that one for it.
    pub non_blocking: bool,
    pub priority: i32,
    pub id: u64,
    /// The work that was put in last.
    pub last: Option<OpId>,
    /// Other streams' work that the next work waits for.
    pub waits: Vec<OpId>,
    pub capture: Option<StreamCapture>,
}

impl Object for Stream {
    const KIND: usize = 6;
}

/// A stream's part of a capture.
#[derive(Clone)]
pub struct StreamCapture {
    pub capture: Handle<Capture>,
    /// The nodes that the next one depends on.
    pub after: Vec<Handle<Node>>,
}

pub struct Capture {
    pub id: u64,
    pub graph: Handle<Graph>,
    pub origin: Handle<Stream>,
    pub mode: CaptureMode,
    pub thread: ThreadId,
    /// Nodes that were in the graph before (`cuStreamBeginCaptureToGraph`).
    pub before: HashSet<Handle<Node>>,
    pub to_existing: bool,
    pub invalidated: bool,
}

impl Object for Capture {
    const KIND: usize = 7;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureMode {
    Global,
    ThreadLocal,
    Relaxed,
}

pub struct Event {
    pub context: Handle<Context>,
    pub flags: u32,
    /// The record that counts: the last one.
    pub recorded: Option<OpId>,
    /// When that was done.
    pub time: Option<Instant>,
    /// Recorded last in a capturing stream.
    pub captured: Option<StreamCapture>,
}

impl Object for Event {
    const KIND: usize = 8;
}

#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Handle<Node>>,
    /// A child graph of a node belongs to it.
    pub owned: bool,
}

impl Object for Graph {
    const KIND: usize = 9;
}

pub struct Node {
    pub graph: Handle<Graph>,
    pub work: Work,
    pub after: Vec<(Handle<Node>, CUgraphEdgeData)>,
    /// In a clone: the node that this one was made from.
    pub cloned_from: Handle<Node>,
    /// What `cuGraphKernelNodeGetParams` lends out.
    pub lent: Option<Box<super::graph::Lent>>,
}

impl Object for Node {
    const KIND: usize = 10;
}

pub struct GraphExec {
    pub flags: u64,
    pub steps: Vec<Step>,
}

/// A node of an instantiated graph, in an order in which they can run.
#[derive(Clone)]
pub struct Step {
    pub node: Handle<Node>,
    pub work: Work,
    pub after: Vec<Handle<Node>>,
    pub enabled: bool,
}

impl Object for GraphExec {
    const KIND: usize = 11;
}

pub struct Pool {
    pub device: usize,
    pub default: bool,
    /// `CUmemPool_attribute` 1 to 3.
    pub reuse: [i32; 3],
    pub release_threshold: u64,
    pub max_size: u64,
    pub used: u64,
    pub used_high: u64,
}

impl Object for Pool {
    const KIND: usize = 12;
}

/// An allocation that the program asked for.
pub struct Owned {
    pub device: usize,
    pub context: Handle<Context>,
    pub bytes: u64,
    pub kind: memory::Kind,
    pub function: &'static str,
    /// The number of the call, as `SOFTCUDA_LOG=calls` prints it.
    pub call: u64,
    pub pool: Handle<Pool>,
    pub flags: u32,
    /// A graph's: not the program's to free.
    pub graph: bool,
    /// A `cuMemFreeAsync` is on its way.
    pub freed: bool,
}

/// The whole state, behind one lock.
#[derive(Default)]
pub struct Driver {
    pub started: bool,
    pub initialised: bool,
    pub config: Config,
    pub faults: Faults,
    pub timeline: Timeline,
    pub devices: Vec<Device>,
    pub contexts: Table<Context>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub libraries: Table<Library>,
    pub kernels: Table<Kernel>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub graphs: Table<Graph>,
    pub nodes: Table<Node>,
    pub execs: Table<GraphExec>,
    pub pools: Table<Pool>,
    pub captures: Table<Capture>,
    pub owned: BTreeMap<u64, Owned>,
    /// Work that was put into streams and is not done.
    pub pending: BTreeMap<OpId, Pending>,
    /// Host functions that run at this moment, with the lock released.
    pub running: HashSet<OpId>,
    pub next_op: OpId,
    pub next_id: u64,
    pub calls: BTreeMap<&'static str, u64>,
    pub total_calls: u64,
    /// Missing functions that were named on stderr already.
    pub named: HashSet<&'static str>,
    /// Leaks of contexts that are gone.
    pub leaked: u64,
}

thread_local! {
    /// The thread's stack of current contexts.
    static CURRENT: RefCell<Vec<Handle<Context>>> = const { RefCell::new(Vec::new()) };
    /// Set while a host function of the program runs on this thread.
    static IN_CALLBACK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// `cuThreadExchangeStreamCaptureMode`
    pub static INTERACTION: std::cell::Cell<CaptureMode> = const { std::cell::Cell::new(CaptureMode::Global) };
}

/// Top of this thread's stack of contexts.
pub fn current() -> Handle<Context> {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(Handle::NULL))
}

/// Replaces the top of the stack; null takes it off.
pub fn set_current(context: Handle<Context>) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if !context.is_null() {
            stack.push(context);
        }
    });
}

pub fn push_current(context: Handle<Context>) {
    CURRENT.with_borrow_mut(|stack| stack.push(context));
}

pub fn pop_current() -> Option<Handle<Context>> {
    CURRENT.with_borrow_mut(Vec::pop)
}

pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs a function of the program.
pub fn callback<T>(run: impl FnOnce() -> T) -> T {
    let before = IN_CALLBACK.replace(true);
    let value = run();
    IN_CALLBACK.set(before);
    value
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Driver {
    /// Reads the environment. Errors in it are kept for `cuInit` to tell.
    pub fn start(&mut self) {
        self.started = true;
        self.next_op = 1;
        self.next_id = 1;
        let mut errors = Vec::new();
        match variable("SOFTCUDA_LOG").as_deref() {
            None => {}
            Some("calls") => self.config.log_calls = true,
            Some(other) => errors.push(format!("SOFTCUDA_LOG={other}: understood is `calls`")),
        }
        match variable("SOFTCUDA_ASYNC").as_deref() {
            None | Some("eager") => {}
            Some("lazy") => self.config.lazy = true,
            Some(other) => errors.push(format!(
                "SOFTCUDA_ASYNC={other}: understood are `eager` and `lazy`"
            )),
        }
        self.config.calls = variable("SOFTCUDA_CALLS").map(Into::into);
        self.config.launch_blocking = variable("CUDA_LAUNCH_BLOCKING").as_deref() == Some("1");
        if let Some(text) = variable("SOFTCUDA_FAULTS") {
            match Faults::parse(&text, |name| super::address_of(name).is_some()) {
                Ok(faults) => self.faults = faults,
                Err(error) => errors.push(error),
            }
        }
        let settings = machine::Settings::from_env().unwrap_or_else(|error| {
            errors.push(error);
            machine::Settings::default()
        });
        let list = variable("SOFTCUDA_DEVICE").unwrap_or_else(|| profile::SM_90.key.to_owned());
        match profile::select(&list) {
            Ok(profiles) => {
                for (ordinal, profile) in profiles.into_iter().enumerate() {
                    let mut machine = machine::Device::new(profile, settings.clone());
                    if let Some(bytes) = self.faults.memory {
                        machine.memory.set_limit(bytes.min(profile.memory));
                    }
                    let pool = self.pools.insert(Pool::new(ordinal, true, 0));
                    self.devices.push(Device {
                        machine,
                        primary: Handle::NULL,
                        primary_retained: 0,
                        primary_flags: 0,
                        default_pool: pool,
                        pool,
                    });
                }
            }
            Err(error) => errors.push(error),
        }
        if !errors.is_empty() {
            self.config.error = Some(errors.join("\n"));
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub fn device(&self, ordinal: i32) -> Answer<&Device> {
        usize::try_from(ordinal)
            .ok()
            .and_then(|ordinal| self.devices.get(ordinal))
            .ok_or(CUresult::INVALID_DEVICE)
    }

    pub fn device_mut(&mut self, ordinal: i32) -> Answer<&mut Device> {
        usize::try_from(ordinal)
            .ok()
            .and_then(|ordinal| self.devices.get_mut(ordinal))
            .ok_or(CUresult::INVALID_DEVICE)
    }

    /// The calling thread's context, which must be alive.
    pub fn current(&self) -> Answer<Handle<Context>> {
        let handle = current();
        if handle.is_null() {
            return Err(CUresult::INVALID_CONTEXT);
        }
        match self.contexts.contains(handle) {
            true => Ok(handle),
            false => Err(CUresult::CONTEXT_IS_DESTROYED),
        }
    }

    pub fn context(&self) -> Answer<&Context> {
        self.contexts.get(self.current()?)
    }

    /// The current context's device.
    pub fn current_device(&self) -> Answer<usize> {
        Ok(self.context()?.device)
    }

    pub fn profile(&self) -> Answer<&'static Profile> {
        Ok(self.devices[self.current_device()?].profile())
    }

    /// Makes a context on a device with its default stream.
    pub fn make_context(&mut self, device: usize, flags: u32, primary: bool) -> Answer<Handle<Context>> {
        let bytes = self.faults.context_memory;
        if !self.devices[device].machine.memory.reserve(bytes) {
            super::say(&format!(
                "no memory for a context of {bytes} bytes, as SOFTCUDA_FAULTS has it"
            ));
            return Err(CUresult::OUT_OF_MEMORY);
        }
        let id = self.next_id();
        let handle = self.contexts.insert(Context {
            device,
            primary,
            flags,
            id,
            poisoned: None,
            cache_config: 0,
            shared_config: 0,
            limits: HashMap::new(),
            legacy: Handle::NULL,
            per_thread: HashMap::new(),
        });
        let legacy = self.make_stream(handle, StreamKind::Legacy, false, 0);
        if let Ok(context) = self.contexts.get_mut(handle) {
            context.legacy = legacy;
        }
        Ok(handle)
    }

    pub fn make_stream(
        &mut self,
        context: Handle<Context>,
        kind: StreamKind,
        non_blocking: bool,
        priority: i32,
    ) -> Handle<Stream> {
        let id = self.next_id();
        self.streams.insert(Stream {
            context,
            kind,
            non_blocking,
            priority,
            id,
            last: None,
            waits: Vec::new(),
            capture: None,
        })
    }

    /// The error that a context's kernels left behind.
    pub fn poison(&mut self, context: Handle<Context>, error: CUresult) {
        if let Ok(context) = self.contexts.get_mut(context) {
            context.poisoned.get_or_insert(error);
        }
    }

    /// The device memory that holds this address, with the device's number.
    pub fn find(&self, address: u64) -> Option<(usize, &memory::Allocation)> {
        // The current device first: host memory is known to all of them.
        let first = self.current_device().unwrap_or(0);
        (first..self.devices.len())
            .chain(0..first)
            .find_map(|device| Some((device, self.devices[device].machine.memory.find(address)?)))
    }

    /// The allocation of the program that holds this address.
    pub fn owned_at(&self, address: u64) -> Option<(u64, &Owned)> {
        let (&base, owned) = self.owned.range(..=address).next_back()?;
        (address - base < owned.bytes || address == base).then_some((base, owned))
    }

    /// Forgets an allocation and frees its memory, also where it was made known to other devices.
    pub fn release(&mut self, address: u64) {
        let Some(owned) = self.owned.remove(&address) else {
            return;
        };
        if let Ok(pool) = self.pools.get_mut(owned.pool) {
            pool.used = pool.used.saturating_sub(owned.bytes);
        }
        for (ordinal, device) in self.devices.iter_mut().enumerate() {
            let memory = &mut device.machine.memory;
            let result = if ordinal == owned.device && owned.kind != memory::Kind::Registered {
                memory.free(address)
            } else if owned.kind.is_host() {
                memory.unregister_host(address as *mut u8)
            } else {
                continue;
            };
            if let Err(error) = result {
                super::say(&format!("{}: {error}", owned.function));
            }
        }
    }

    /// Ends a context: everything in it goes, and what the program did not free is reported.
    pub fn destroy_context(&mut self, handle: Handle<Context>, why: &str) {
        let leaked: Vec<u64> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.context == handle)
            .map(|(&address, _)| address)
            .collect();
        super::exit::report_leaks(self, &leaked, why);
        for address in leaked {
            self.release(address);
        }
        self.pending.retain(|_, pending| pending.context != handle);
        for module in self.modules.handles(|module| module.context == handle) {
            self.unload(module);
        }
        for stream in self.streams.handles(|stream| stream.context == handle) {
            let _ = self.streams.remove(stream);
        }
        for event in self.events.handles(|event| event.context == handle) {
            let _ = self.events.remove(event);
        }
        for library in self.libraries.handles(|_| true) {
            if let Ok(library) = self.libraries.get_mut(library) {
                library.modules.remove(&handle);
            }
        }
        if let Ok(context) = self.contexts.remove(handle) {
            let bytes = self.faults.context_memory;
            self.devices[context.device].machine.memory.unreserve(bytes);
        }
    }

    /// Takes a module away with its functions and variables.
    pub fn unload(&mut self, handle: Handle<Module>) {
        let Ok(mut module) = self.modules.remove(handle) else {
            return;
        };
        for function in self.functions.handles(|function| function.module == handle) {
            let _ = self.functions.remove(function);
        }
        if let (Some(machine), Ok(context)) = (module.machine.take(), self.contexts.get(module.context)) {
            machine.unload(&mut self.devices[context.device].machine);
        }
    }
}

impl Pool {
    pub fn new(device: usize, default: bool, max_size: u64) -> Self {
        Self {
            device,
            default,
            reuse: [1; 3],
            release_threshold: 0,
            max_size,
            used: 0,
            used_high: 0,
        }
    }
}
