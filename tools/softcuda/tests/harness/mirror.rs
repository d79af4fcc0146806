//! A second device behind the CUDA driver, which gets the same memory, modules and launches as softcuda's: the
//! buffers are compared after each launch. On when `SOFTCUDA_PARITY` names the file for the records.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_void};
use std::io::Write;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option, CUlimit, CUresult};
use serde_json::{Value, json};
use softcuda::ir::Kernel;
use softcuda::lower::FUNCTIONS;
use softcuda::machine::{Launch, Module};
use softcuda::memory::{DeviceMemory, Kind};
use softcuda::ptx::ast;

use super::rule::{Outcome, Rule};

/// The file for records, where runs are mirrored.
pub fn records() -> Option<String> {
    std::env::var("SOFTCUDA_PARITY")
        .ok()
        .filter(|path| !path.is_empty())
}

fn record(value: &Value) {
    let Some(path) = records() else { return };
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .unwrap_or_else(|e| panic!("SOFTCUDA_PARITY={path}: {e}"));
    file.write_all(format!("{value}\n").as_bytes()).expect("a record");
}

fn check(result: CUresult, what: &str) -> Result<(), String> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(format!("{what}: {result:?}"))
}

/// A mirrored allocation: softcuda's is the key.
struct Buffer {
    serial: u64,
    bytes: u64,
    /// The other device's address.
    address: u64,
    /// What softcuda's side held when the two were last seen to be the same.
    known: Option<Vec<u8>>,
    /// Offsets of words that hold the address of a function, which no two devices have in common.
    functions: Vec<usize>,
    own: bool,
    name: String,
}

struct Loaded {
    name: String,
    module: sys::CUmodule,
    /// Keeps the address, which is the key, from being used again.
    _ast: Arc<ast::Module>,
}

/// The other device.
#[derive(Default)]
pub struct Mirror {
    buffers: BTreeMap<u64, Buffer>,
    modules: HashMap<*const ast::Module, Loaded>,
    rules: Vec<(u64, u64, Rule)>,
}

/// Softcuda's memory before a launch.
pub type Before = Vec<(u64, Vec<u8>)>;

fn contents(memory: &DeviceMemory) -> Before {
    memory
        .live()
        .filter(|allocation| allocation.kind() != Kind::Internal)
        .map(|allocation| {
            let mut bytes = vec![0; allocation.bytes() as usize];
            memory.read(allocation.address(), &mut bytes).expect("all of it");
            (allocation.address(), bytes)
        })
        .collect()
}

impl Mirror {
    pub fn start() -> Option<Mirror> {
        records()?;
        let describe = || -> Result<Value, String> {
            let mut context = null_mut();
            let (mut device, mut driver, mut major, mut minor) = (0, 0, 0, 0);
            let mut name = [0; 256];
            // SAFETY: plain calls of the driver with places that outlive them.
            unsafe {
                check(sys::cuInit(0), "cuInit")?;
                check(sys::cuDeviceGet(&mut device, 0), "cuDeviceGet")?;
                check(sys::cuDriverGetVersion(&mut driver), "cuDriverGetVersion")?;
                check(
                    sys::cuDeviceGetName(name.as_mut_ptr(), 256, device),
                    "cuDeviceGetName",
                )?;
                use sys::CUdevice_attribute::*;
                for (to, attribute) in [
                    (&mut major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                    (&mut minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
                ] {
                    check(
                        sys::cuDeviceGetAttribute(to, attribute, device),
                        "cuDeviceGetAttribute",
                    )?;
                }
                check(
                    sys::cuDevicePrimaryCtxRetain(&mut context, device),
                    "cuDevicePrimaryCtxRetain",
                )?;
                check(sys::cuCtxSetCurrent(context), "cuCtxSetCurrent")?;
            }
            // SAFETY: the driver ends the name with a NUL.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy();
            Ok(json!({
                "kind": "device", "name": name, "driver": format!("{}.{}", driver / 1000, driver % 1000 / 10),
                "compute_capability": format!("{major}.{minor}"),
            }))
        };
        record(&describe().unwrap_or_else(|e| panic!("no device to compare with: {e}")));
        Some(Self::default())
    }

    /// Sets the stack of each thread, in bytes. The driver reserves it for every thread that can be resident on the device.
    pub fn set_stack(&self, bytes: usize) {
        // SAFETY: a plain call; the context is current since `start`.
        let set = unsafe { sys::cuCtxSetLimit(CUlimit::CU_LIMIT_STACK_SIZE, bytes) };
        check(set, "cuCtxSetLimit").unwrap_or_else(|e| panic!("a stack of {bytes} bytes: {e}"));
    }

    /// States how the bytes from `address` are compared. Later rules go before earlier ones.
    pub fn rule(&mut self, address: u64, bytes: u64, rule: Rule) {
        self.rules.push((address, address + bytes, rule));
    }

    /// Loads what softcuda has loaded.
    pub fn load(&mut self, name: &str, text: &[u8], module: &Module, memory: &DeviceMemory) {
        let mut text = text.to_vec();
        if text.last() != Some(&0) {
            text.push(0);
        }
        let mut log = vec![0u8; 8192];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut handle = null_mut();
        // SAFETY: the text ends with a NUL; options and values are as many as said.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut handle,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if let Err(error) = check(result, "cuModuleLoadDataEx") {
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim();
            record(&json!({
                "kind": "launch", "program": name, "outcome": {"verdict": "error", "first": format!("{error} {log}")},
            }));
            return;
        }
        for variable in &module.ast.variables {
            let Some((ours, size)) = module.global(&variable.name) else {
                continue;
            };
            let symbol = CString::new(&*variable.name).expect("no NUL in a name");
            let (mut address, mut bytes) = (0, 0);
            // SAFETY: the module is loaded, the places outlive the call.
            let found =
                unsafe { sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, handle, symbol.as_ptr()) };
            if found != CUresult::CUDA_SUCCESS || bytes as u64 != size {
                // Not visible outside of the module.
                continue;
            }
            let mut known = vec![0; size as usize];
            memory.read(ours, &mut known).expect("the variable");
            let functions = (0..known.len() / 8 * 8)
                .step_by(8)
                .filter(|&at| (FUNCTIONS..FUNCTIONS + (1 << 24)).contains(&word(&known, at)))
                .collect();
            self.buffers.insert(
                ours,
                Buffer {
                    serial: memory.find(ours).map_or(0, |a| a.serial()),
                    bytes: size,
                    address,
                    known: Some(known),
                    functions,
                    own: false,
                    name: format!("variable {}", variable.name),
                },
            );
        }
        let loaded = Loaded {
            name: name.to_owned(),
            module: handle,
            _ast: module.ast.clone(),
        };
        self.modules.insert(Arc::as_ptr(&module.ast), loaded);
    }

    /// To be called before softcuda runs a launch.
    pub fn before(&self, memory: &DeviceMemory) -> Before {
        contents(memory)
    }

    /// To be called after softcuda ran a launch: runs it on the other device and compares.
    pub fn after(
        &mut self,
        memory: &DeviceMemory,
        before: Before,
        module: &Module,
        kernel: &Kernel,
        launch: &Launch,
    ) {
        let Some(loaded) = self.modules.get(&Arc::as_ptr(&module.ast)) else {
            return;
        };
        // A source has several kernels; other modules are named for their only one.
        let program = if !loaded.name.ends_with(".cu") {
            loaded.name.clone()
        } else {
            format!("{}: {}", loaded.name, kernel.name)
        };
        let handle = loaded.module;
        // Should the process end in between, it is known where.
        record(&json!({"kind": "begin", "program": program}));
        let outcome = match self.run(memory, before, handle, kernel, launch) {
            Ok(outcome) => outcome.json(),
            Err(message) => json!({"verdict": "error", "first": message}),
        };
        record(&json!({"kind": "launch", "program": program, "outcome": outcome}));
    }

    fn run(
        &mut self,
        memory: &DeviceMemory,
        before: Before,
        module: sys::CUmodule,
        kernel: &Kernel,
        launch: &Launch,
    ) -> Result<Outcome, String> {
        self.allocate(memory)?;
        for (address, bytes) in &before {
            let Some(buffer) = self.buffers.get(address) else {
                continue;
            };
            if buffer.known.as_ref() != Some(bytes) {
                let data = self.translated(bytes);
                // SAFETY: the buffer has as many bytes.
                let copied =
                    unsafe { sys::cuMemcpyHtoD_v2(buffer.address, data.as_ptr().cast(), data.len()) };
                check(copied, "cuMemcpyHtoD")?;
            }
        }
        let mut params = self.translated(&launch.params);
        let name = CString::new(&*kernel.name).expect("no NUL in a name");
        let mut function = null_mut();
        // SAFETY: every parameter lies inside of `params`, which outlives the launch.
        unsafe {
            check(
                sys::cuModuleGetFunction(&mut function, module, name.as_ptr()),
                "cuModuleGetFunction",
            )?;
            if launch.shared > 0 {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                check(
                    sys::cuFuncSetAttribute(function, attribute, launch.shared as i32),
                    "cuFuncSetAttribute",
                )?;
            }
            let base = params.as_mut_ptr();
            let mut pointers: Vec<*mut c_void> = kernel
                .params
                .iter()
                .map(|param| base.add(param.offset as usize).cast())
                .collect();
            let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
            let (shared, list) = (launch.shared, pointers.as_mut_ptr());
            let launched = if launch.cooperative {
                sys::cuLaunchCooperativeKernel(function, gx, gy, gz, bx, by, bz, shared, null_mut(), list)
            } else {
                sys::cuLaunchKernel(
                    function,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared,
                    null_mut(),
                    list,
                    null_mut(),
                )
            };
            check(launched, "cuLaunchKernel")?;
            check(sys::cuCtxSynchronize(), "the kernel")?;
        }
        self.compare(memory)
    }

    /// Gives every allocation its counterpart, and takes away those whose own is gone.
    fn allocate(&mut self, memory: &DeviceMemory) -> Result<(), String> {
        let gone: Vec<u64> = self
            .buffers
            .iter()
            .filter(|(address, buffer)| memory.find(**address).is_none_or(|a| a.serial() != buffer.serial))
            .map(|(&address, _)| address)
            .collect();
        for address in gone {
            let buffer = self.buffers.remove(&address).expect("just found");
            if buffer.own {
                // SAFETY: allocated below, and nothing runs.
                check(unsafe { sys::cuMemFree_v2(buffer.address) }, "cuMemFree")?;
            }
        }
        for allocation in memory.live() {
            if allocation.kind() != Kind::Device || self.buffers.contains_key(&allocation.address()) {
                continue;
            }
            let mut address = 0;
            // SAFETY: a plain call.
            let made = unsafe { sys::cuMemAlloc_v2(&mut address, allocation.bytes().max(1) as usize) };
            check(made, "cuMemAlloc")?;
            self.buffers.insert(
                allocation.address(),
                Buffer {
                    serial: allocation.serial(),
                    bytes: allocation.bytes(),
                    address,
                    known: None,
                    functions: Vec::new(),
                    own: true,
                    name: format!(
                        "buffer of {} bytes (allocation {})",
                        allocation.bytes(),
                        allocation.serial()
                    ),
                },
            );
        }
        Ok(())
    }

    /// Bytes with each word that points into one of softcuda's buffers pointing into its counterpart.
    fn translated(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for at in (0..bytes.len() / 8 * 8).step_by(8) {
            let pointer = word(&bytes, at);
            if let Some((&address, buffer)) = self.buffers.range(..=pointer).next_back() {
                // One past the end is a pointer too.
                if pointer - address <= buffer.bytes {
                    let there = buffer.address + (pointer - address);
                    bytes[at..at + 8].copy_from_slice(&there.to_le_bytes());
                }
            }
        }
        bytes
    }

    fn compare(&mut self, memory: &DeviceMemory) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let mut flip = std::env::var_os("SOFTCUDA_PARITY_FLIP").is_some();
        for (address, bytes) in contents(memory) {
            let Some(buffer) = self.buffers.get(&address) else {
                continue;
            };
            let mut ours = self.translated(&bytes);
            let mut theirs = vec![0u8; ours.len()];
            // SAFETY: as many bytes on both sides.
            let copied =
                unsafe { sys::cuMemcpyDtoH_v2(theirs.as_mut_ptr().cast(), buffer.address, theirs.len()) };
            check(copied, "cuMemcpyDtoH")?;
            for &at in &buffer.functions {
                ours[at..at + 8].fill(0);
                theirs[at..at + 8].fill(0);
            }
            if flip && !theirs.is_empty() {
                // For the tests of the comparison itself: the top bit of the first word.
                let at = theirs.len().min(4) - 1;
                theirs[at] ^= 0x80;
                flip = false;
            }
            let wrong = outcome.wrong;
            for (from, to, rule) in pieces(&self.rules, address, ours.len() as u64) {
                let (a, b) = (
                    &ours[from as usize..to as usize],
                    &theirs[from as usize..to as usize],
                );
                outcome.compare(rule, &buffer.name, from, a, b);
            }
            // Numbers that are only near are made the same before the next launch, and so are wrong ones.
            let same = outcome.wrong == wrong && ours == theirs;
            self.buffers.get_mut(&address).expect("just seen").known = same.then_some(bytes);
        }
        Ok(outcome)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for buffer in self.buffers.values().filter(|buffer| buffer.own) {
            // SAFETY: nothing runs any more. A broken context has said so before.
            let _ = unsafe { sys::cuMemFree_v2(buffer.address) };
        }
        for loaded in self.modules.values() {
            // SAFETY: nothing runs any more, and the module is this mirror's own.
            let _ = unsafe { sys::cuModuleUnload(loaded.module) };
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// An allocation cut where its rules change: offsets and the rule between them.
fn pieces(rules: &[(u64, u64, Rule)], address: u64, length: u64) -> Vec<(u64, u64, Rule)> {
    let end = address + length;
    let mut cuts = vec![address, end];
    for &(from, to, _) in rules {
        cuts.extend([from, to].into_iter().filter(|cut| (address..end).contains(cut)));
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|cut| {
            let rule = rules
                .iter()
                .rev()
                .find(|(from, to, _)| (*from..*to).contains(&cut[0]));
            (
                cut[0] - address,
                cut[1] - address,
                rule.map_or(Rule::Exact, |r| r.2),
            )
        })
        .collect()
}
