//! Launches: everything that is checked before a kernel runs, and its parameters.

use std::ffi::{c_uint, c_void};
use std::io::Write;
use std::sync::Arc;

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::Function;
use super::types::{CUDA_KERNEL_NODE_PARAMS, CUfunction, CUlaunchAttribute, CUlaunchConfig, CUstream};
use super::work::{KernelWork, Work};
use super::{Call, exports, get, list};
use crate::ir::Kernel;
use crate::machine::{self, Invalid, LaunchError};
use crate::run::check::Check;

/// `CUlaunchAttributeID`s.
pub mod attribute {
    pub const COOPERATIVE: u32 = 2;
    pub const CLUSTER_DIMENSION: u32 = 4;
    pub const PROGRAMMATIC_STREAM_SERIALIZATION: u32 = 6;
    pub const PROGRAMMATIC_EVENT: u32 = 7;
    pub const PRIORITY: u32 = 8;
    pub const LAUNCH_COMPLETION_EVENT: u32 = 12;
}

/// What a launch's attributes ask for.
#[derive(Default)]
pub struct Attributes {
    pub cooperative: bool,
    pub cluster: Option<[u32; 3]>,
    pub programmatic: bool,
}

impl Attributes {
    /// # Safety
    /// `attributes` is null or has `number` elements.
    pub unsafe fn read(attributes: *const CUlaunchAttribute, number: c_uint) -> Answer<Self> {
        let mut found = Self::default();
        // SAFETY: the caller vouches for the list.
        for one in unsafe { list(attributes, number as usize) }? {
            let words = &one.value.words;
            match one.id {
                attribute::COOPERATIVE => found.cooperative = words[0] != 0,
                attribute::CLUSTER_DIMENSION => found.cluster = Some([words[0], words[1], words[2]]),
                attribute::PROGRAMMATIC_STREAM_SERIALIZATION => found.programmatic = words[0] != 0,
                // Recording an event in the middle of a kernel would need the kernel to run beside the host.
                attribute::PROGRAMMATIC_EVENT | attribute::LAUNCH_COMPLETION_EVENT | 13 => {
                    super::say(&format!("launch attribute {} is not supported", one.id));
                    return Err(CUresult::NOT_SUPPORTED);
                }
                // Access policy, synchronisation policy, scheduling, priority, memory domains, preferred cluster,
                // carve-out, NVLink: hints.
                0 | 1 | 3 | 5 | attribute::PRIORITY | 9 | 10 | 11 | 14 | 16 => {}
                _ => return Err(CUresult::INVALID_VALUE),
            }
        }
        Ok(found)
    }
}

/// A launch as the program asks for it.
pub struct Request {
    pub function: CUfunction,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: *mut *mut c_void,
    pub extra: *mut *mut c_void,
    pub attributes: Attributes,
}

/// Runs a kernel now. What fails is the kernel's, and stays with the context.
pub fn run(
    device: &mut machine::Device,
    module: &machine::Module,
    work: &KernelWork,
) -> Result<(), (CUresult, String)> {
    let result = machine::launch(device, module, &work.kernel, &work.launch);
    if !device.output.is_empty() {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&device.output).and_then(|()| out.flush());
        device.output.clear();
    }
    result
        .map(|done| done.hints.iter().for_each(|hint| eprint!("{hint}")))
        .map_err(|error| (result_of(&error), error.to_string()))
}

/// What a real device would answer.
fn result_of(error: &LaunchError) -> CUresult {
    match error {
        LaunchError::Invalid { kind, .. } => match kind {
            Invalid::Value | Invalid::Directive => CUresult::INVALID_VALUE,
            Invalid::Resources => CUresult::LAUNCH_OUT_OF_RESOURCES,
            Invalid::CooperativeTooLarge => CUresult::COOPERATIVE_LAUNCH_TOO_LARGE,
            Invalid::Cluster => CUresult::INVALID_CLUSTER_SIZE,
            Invalid::NotSupported => CUresult::NOT_SUPPORTED,
        },
        // The first finding that ended the kernel; else one that a device would not have seen.
        LaunchError::Failed { findings, .. } => {
            let fatal = findings.iter().find(|finding| !finding.check.continues());
            match fatal.map(|finding| finding.check) {
                Some(Check::OutOfBounds) => CUresult::ILLEGAL_ADDRESS,
                Some(Check::Misaligned) => CUresult::MISALIGNED_ADDRESS,
                Some(Check::Assert) => CUresult::ASSERT,
                Some(Check::Deadlock) => CUresult::LAUNCH_TIMEOUT,
                Some(Check::Illegal) => CUresult::ILLEGAL_INSTRUCTION,
                _ => CUresult::LAUNCH_FAILED,
            }
        }
    }
}

impl Call {
    /// The bytes of the parameter block.
    ///
    /// # Safety
    /// The pointers are as cuLaunchKernel documents.
    pub unsafe fn gather(
        &self,
        kernel: &Kernel,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> Answer<Vec<u8>> {
        let mut block = vec![0; kernel.param_bytes as usize];
        if !params.is_null() && !extra.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        if !params.is_null() {
            for (index, param) in kernel.params.iter().enumerate() {
                // SAFETY: kernelParams has a pointer for every parameter, to as many bytes as it has.
                unsafe {
                    let from = params.add(index).read().cast::<u8>();
                    if from.is_null() {
                        return self.refuse(
                            CUresult::INVALID_VALUE,
                            format!("the pointer to parameter {index} of {} is null", kernel.name),
                        );
                    }
                    let bytes = std::slice::from_raw_parts(from, param.size as usize);
                    let offset = param.offset as usize;
                    block[offset..offset + bytes.len()].copy_from_slice(bytes);
                }
            }
        } else if !extra.is_null() {
            let (mut buffer, mut size) = (std::ptr::null::<u8>(), None);
            let mut at = extra;
            // SAFETY: `extra` is a list of names and values that ends with CU_LAUNCH_PARAM_END.
            unsafe {
                loop {
                    match at.read() as usize {
                        0 => break,
                        1 => buffer = at.add(1).read().cast(),
                        2 => size = at.add(1).read().cast::<usize>().as_ref().copied(),
                        _ => return Err(CUresult::INVALID_VALUE),
                    }
                    at = at.add(2);
                }
            }
            let size = size.ok_or(CUresult::INVALID_VALUE)?;
            // The buffer may be longer than the block (padding at its end), not shorter.
            let needed = kernel
                .params
                .last()
                .map_or(0, |param| (param.offset + param.size) as usize);
            if size < needed {
                return self.refuse(
                    CUresult::INVALID_VALUE,
                    format!(
                        "{size} bytes of parameters for {}, which has {needed}",
                        kernel.name
                    ),
                );
            }
            // SAFETY: the program's buffer of `size` bytes.
            let bytes = unsafe { list(buffer, size.min(block.len())) }?;
            block[..bytes.len()].copy_from_slice(bytes);
        } else if !kernel.params.is_empty() {
            return self.refuse(
                CUresult::INVALID_VALUE,
                format!(
                    "no parameters for {}, which has {}",
                    kernel.name,
                    kernel.params.len()
                ),
            );
        }
        Ok(block)
    }

    /// Checks a launch and takes its parameters.
    ///
    /// # Safety
    /// As [`Call::gather`].
    pub unsafe fn prepare(&mut self, request: Request, stream: u64) -> Answer<KernelWork> {
        let handle = self.resolve(request.function)?;
        let function = self.functions.get(handle)?;
        let device = self.contexts.get(function.context)?.device;
        let profile = self.devices[device].profile();
        let kernel = function.kernel.clone();
        let name = &kernel.name;
        let Request {
            grid, block, shared, ..
        } = request;
        let invalid = |why: String| self.refuse(CUresult::INVALID_VALUE, format!("{name}: {why}"));

        let threads: u32 = block.iter().fold(1, |all, &n| all.saturating_mul(n));
        if threads <= profile.threads_per_block
            && threads > super::occupancy::most_threads(profile, &function.into())
        {
            return self.refuse(
                CUresult::LAUNCH_OUT_OF_RESOURCES,
                format!("{name}: {threads} threads of {} registers", function.registers),
            );
        }
        if shared > function.max_dynamic_shared {
            return invalid(format!(
                "{shared} bytes of dynamic shared memory; {} are allowed \
                 (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES; {} more are static, the device has {})",
                function.max_dynamic_shared, kernel.static_shared, profile.shared_per_block_optin
            ));
        }
        let cluster = self.cluster(function, &request.attributes, grid)?;
        // SAFETY: the caller vouches for the parameters.
        let params = unsafe { self.gather(&kernel, request.params, request.extra) }?;
        let launch = machine::Launch {
            grid,
            block,
            shared,
            params,
            cooperative: request.attributes.cooperative,
            cluster,
            programmatic: request.attributes.programmatic,
            stream,
        };
        if let Err(error) = machine::check(profile, &kernel, &launch) {
            return self.refuse(result_of(&error), error.to_string());
        }
        if request.attributes.cooperative {
            let resident = super::occupancy::blocks(profile, &function.into(), threads, shared);
            let most = u64::from(resident) * u64::from(profile.multiprocessors);
            let blocks = grid.iter().map(|&n| u64::from(n)).product::<u64>();
            if blocks > most {
                return self.refuse(
                    CUresult::COOPERATIVE_LAUNCH_TOO_LARGE,
                    format!("{name}: {blocks} blocks, of which {most} run at once"),
                );
            }
        }
        Ok(KernelWork {
            function: handle,
            module: function.module,
            kernel,
            launch,
        })
    }

    /// The cluster of a launch: declared by the kernel, set on it, or an attribute.
    fn cluster(&self, function: &Function, asked: &Attributes, grid: [u32; 3]) -> Answer<Option<[u32; 3]>> {
        let declared = function.required_cluster.iter().any(|&n| n > 0);
        let declared = declared.then(|| function.required_cluster.map(|n| n.max(1) as u32));
        let name = &function.kernel.name;
        let invalid = |why: String| self.refuse(CUresult::INVALID_CLUSTER_SIZE, format!("{name}: {why}"));
        let cluster = match (declared, asked.cluster) {
            (None, None) if function.kernel.limits.explicit_cluster => {
                return invalid("the kernel wants a cluster, and the launch gives none".into());
            }
            (None, None) => return Ok(None),
            (Some(declared), Some(asked)) if declared != asked => {
                return invalid(format!(
                    "a cluster of {asked:?}; the kernel requires {declared:?}"
                ));
            }
            (declared, asked) => declared.or(asked).unwrap_or([1; 3]),
        };
        let device = self.contexts.get(function.context)?.device;
        let profile = self.devices[device].profile();
        let size = cluster.iter().map(|&n| u64::from(n)).product::<u64>();
        let most = match function.non_portable_cluster {
            true => profile.largest_cluster,
            false => profile.portable_cluster,
        };
        if size == 0 || size > u64::from(most) {
            return invalid(format!("a cluster of {cluster:?}; {most} blocks are most"));
        }
        if (0..3).any(|axis| !grid[axis].is_multiple_of(cluster[axis])) {
            return invalid(format!(
                "a grid of {grid:?} is not made of clusters of {cluster:?}"
            ));
        }
        Ok(Some(cluster))
    }

    unsafe fn launch(&mut self, request: Request, stream: CUstream) -> Answer {
        let stream = self.stream(stream)?;
        let own = self.streams.get(stream)?;
        let (id, context) = (own.id, own.context);
        // SAFETY: the caller vouches for the parameters.
        let work = unsafe { self.prepare(request, id) }?;
        if self.functions.get(work.function)?.context != context {
            return self.refuse(
                CUresult::INVALID_HANDLE,
                "the function was loaded in another context than the stream's",
            );
        }
        let op = self.submit(stream, Work::Kernel(Arc::new(work)))?;
        if self.config.launch_blocking
            && let Some(op) = op
        {
            self.run_until(op);
            self.healthy(context)?;
        }
        Ok(())
    }

    /// A kernel node's parameters as a launch.
    pub fn node_request(&self, params: &CUDA_KERNEL_NODE_PARAMS, attributes: Attributes) -> Request {
        let kernel = Handle::from_bits(params.kern.bits());
        Request {
            function: if params.func.is_null() {
                kernel
            } else {
                params.func
            },
            grid: params.grid,
            block: params.block,
            shared: params.shared,
            params: params.kernel_params,
            extra: params.extra,
            attributes,
        }
    }
}

exports! {
    fn cuLaunchKernel [cuLaunchKernel_ptsz] (
        call, function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared: c_uint, stream: CUstream, params: *mut *mut c_void,
        extra: *mut *mut c_void
    ) {
        let request = Request {
            function,
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            params,
            extra,
            attributes: Attributes::default(),
        };
        call.launch(request, stream)
    }
    fn cuLaunchKernelEx [cuLaunchKernelEx_ptsz] (
        call, config: *const CUlaunchConfig, function: CUfunction, params: *mut *mut c_void,
        extra: *mut *mut c_void
    ) {
        let config = get(config)?;
        let request = Request {
            function,
            grid: config.grid,
            block: config.block,
            shared: config.shared,
            params,
            extra,
            attributes: Attributes::read(config.attrs, config.num_attrs)?,
        };
        call.launch(request, config.stream)
    }
    fn cuLaunchCooperativeKernel [cuLaunchCooperativeKernel_ptsz] (
        call, function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared: c_uint, stream: CUstream, params: *mut *mut c_void
    ) {
        let request = Request {
            function,
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared,
            params,
            extra: std::ptr::null_mut(),
            attributes: Attributes { cooperative: true, ..Attributes::default() },
        };
        call.launch(request, stream)
    }
}
