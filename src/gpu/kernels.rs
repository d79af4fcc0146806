//! The kernels that this build embeds; which of them a device runs; and, in a context, to be launched.

use std::collections::HashMap;
use std::marker::PhantomData;

use bytemuck::Pod;

use super::driver::{Context, DriverError, Function, Module, Stream};
use crate::error::{Error, Result};

/// The kernels that this build embeds: a table written by `build.rs`.
#[derive(Debug)]
pub struct Kernels {
    /// The compiler with its version, `nvcc 13.0.88`; or why there are no kernels.
    pub compiler: Result<&'static str, &'static str>,
    /// One per file, ordered by name; none without a compiler.
    pub modules: &'static [KernelModule],
}

/// The kernels of one file under `cuda/`.
#[derive(Debug)]
pub struct KernelModule {
    /// The file's path there, without extension: `embed`, `sm90/gemm`.
    pub name: &'static str,
    /// What the image holds: machine code (`sm_80`) and PTX (`compute_80`), which the driver of a
    /// later GPU compiles when it loads the image.
    pub architectures: &'static [&'static str],
    /// The fatbin, not compressed, aligned to 16 bytes.
    pub image: &'static [u8],
    /// What the compiler said: registers, barriers and shared memory of each kernel per architecture.
    pub log: &'static str,
}

/// The kernels that this build embeds.
pub fn kernels() -> &'static Kernels {
    static KERNELS: Kernels = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
    &KERNELS
}

impl Kernels {
    /// Whether a device of this compute capability runs these kernels: all but those made for other GPUs alone.
    ///
    /// # Errors
    /// Says what is embedded and what the device is.
    pub fn check(&self, capability: (u32, u32)) -> Result<(), String> {
        if let Err(reason) = self.compiler {
            return Err(format!("this build has no GPU kernels: {reason}"));
        }
        let missing = self
            .modules
            .iter()
            .find(|module| !module.specific() && module.fit(capability).is_none());
        match missing {
            None => Ok(()),
            Some(module) => Err(format!(
                "compute capability {}.{}, and the kernels of this build are for {}",
                capability.0,
                capability.1,
                module.architectures.join(", ")
            )),
        }
    }
}

impl KernelModule {
    /// What of the image a device of this compute capability runs, if anything: machine code for it, else PTX,
    /// which its driver compiles.
    pub fn fit(&self, capability: (u32, u32)) -> Option<&'static str> {
        let fitting = self.architectures.iter().filter_map(|&architecture| {
            let parsed = Architecture::parse(architecture)?;
            parsed.fits(capability).then_some((parsed, architecture))
        });
        let best = fitting.max_by_key(|(parsed, _)| (parsed.machine_code, parsed.capability))?;
        Some(best.1)
    }

    /// Whether it is for some GPUs alone, and not for those after them.
    fn specific(&self) -> bool {
        let mut parsed = self
            .architectures
            .iter()
            .filter_map(|name| Architecture::parse(name));
        parsed.all(|architecture| architecture.specific)
    }
}

/// What `sm_90a` says.
struct Architecture {
    /// `sm_`, not `compute_`.
    machine_code: bool,
    capability: (u32, u32),
    /// It ends in `a`: for this compute capability and no other.
    specific: bool,
}

impl Architecture {
    fn parse(name: &str) -> Option<Architecture> {
        let (kind, number) = name.split_once('_')?;
        let digits = number.trim_end_matches('a');
        let capability: u32 = digits.parse().ok()?;
        Some(Architecture {
            machine_code: kind == "sm",
            capability: (capability / 10, capability % 10),
            specific: digits != number,
        })
    }

    /// Machine code runs on the same major version from its minor version on, PTX on everything from its version
    /// on (CUDA programming guide, "Binary Compatibility", "PTX Compatibility").
    fn fits(&self, device: (u32, u32)) -> bool {
        match self {
            Architecture { specific: true, .. } => device == self.capability,
            Architecture {
                machine_code: true, ..
            } => device.0 == self.capability.0 && device.1 >= self.capability.1,
            Architecture { .. } => device >= self.capability,
        }
    }
}

/// The embedded modules in a context, each loaded when a kernel of it is first asked for.
#[derive(Debug)]
pub(crate) struct Loader {
    context: Context,
    loaded: HashMap<&'static str, Module>,
}

impl Loader {
    pub fn new(context: &Context) -> Loader {
        Loader {
            context: context.clone(),
            loaded: HashMap::new(),
        }
    }

    /// The entry of a module, which takes one `P`, for launches with up to `shared` bytes of shared memory.
    ///
    /// # Errors
    /// [`Error::Device`] if this build has no such module for the device, [`Error::Gpu`] if the driver refuses it,
    /// [`Error::Internal`] if the entry takes something else.
    pub fn kernel<P: Pod>(
        &mut self,
        module: &'static str,
        entry: &'static str,
        shared: u32,
    ) -> Result<Kernel<P>> {
        if !self.loaded.contains_key(module) {
            let loaded = self.load(module)?;
            self.loaded.insert(module, loaded);
        }
        let function = self.loaded[module].function(entry, size_of::<P>())?;
        let allowed = function.allow_shared(shared);
        allowed.map_err(|e| e.at(format!("module {module}, kernel {entry}")))?;
        Ok(Kernel {
            function,
            shared,
            of: PhantomData,
        })
    }

    fn load(&self, name: &'static str) -> Result<Module> {
        let embedded = kernels()
            .compiler
            .map_err(|reason| format!("this build has no GPU kernels: {reason}"));
        embedded.map_err(Error::Device)?;
        let module = kernels().modules.iter().find(|module| module.name == name);
        let module = module.ok_or_else(|| Error::Internal(format!("no module {name} is embedded")))?;
        let facts = self.context.facts();
        if module.fit(facts.capability).is_none() {
            return Err(Error::Device(format!(
                "cuda:{} ({}) has compute capability {}.{}, and the kernels of {name} are for {}",
                facts.index,
                facts.name,
                facts.capability.0,
                facts.capability.1,
                module.architectures.join(", ")
            )));
        }
        // SAFETY: `build.rs` embeds what nvcc made, whole and aligned.
        unsafe { self.context.load(name, module.image) }.map_err(|e| e.at(format!("module {name}")))
    }
}

/// A kernel that takes one `P`, a struct of `cuda/params.h`.
#[derive(Debug)]
pub(crate) struct Kernel<P> {
    function: Function,
    shared: u32,
    of: PhantomData<fn(P)>,
}

impl<P: Pod> Kernel<P> {
    /// Its name.
    pub fn entry(&self) -> &'static str {
        self.function.entry()
    }

    /// Launches it.
    ///
    /// # Panics
    /// If `shared` is more than it was loaded for.
    ///
    /// # Safety
    /// As [`Stream::launch`]; and `P` is the struct that the kernel means, of which its size is all that is
    /// checked.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), DriverError> {
        assert!(
            shared <= self.shared,
            "{}: {shared} bytes of shared memory",
            self.function.entry()
        );
        // SAFETY: the caller's; the parameters have the size that the kernel takes, as was checked.
        unsafe { stream.launch(&self.function, grid, block, shared, bytemuck::bytes_of(params)) }
    }
}

/// Bytes at an address that the driver can read words from.
#[allow(dead_code)] // The table is empty without nvcc.
#[repr(C, align(16))]
struct Aligned<T>(T);

#[cfg(test)]
mod tests;
