//! The kernels of one model: loaded once, for its precision and head size, and launched from here.

use std::collections::HashMap;
use std::marker::PhantomData;

use bytemuck::Pod;

use super::driver::{Context, DriverError, Function, Module, Pinned, Serialization, Stream};
use super::failure::in_step;
use super::launch::{Launch, Params};
use super::maps;
use crate::error::{Error, Result};
use crate::kernels::kernels;
use crate::kernels::params::*;
use crate::model::ModelConfig;
use crate::precision::Half;
use crate::tile::{AttentionTile, GemmTile, SPLIT16, Sm90Tile};

/// The head sizes that attention has kernels for.
const HEAD_DIMS: [usize; 3] = [32, 64, 128];

/// A model's kernels.
#[derive(Debug)]
pub struct KernelSet {
    precision: Half,
    embed: Kernel<EmbedParams>,
    layernorm: Kernel<LayerNormParams>,
    norm_gemm: Kernel<NormGemmParams>,
    down_gemm: Kernel<DownGemmParams>,
    /// By tile.
    gemm: [Kernel<GemmParams>; GemmTile::ALL.len()],
    gemm_split16: Kernel<GemmParams>,
    /// Those for compute capability 9.0, if they are to run.
    sm90: Option<Sm90>,
    lora_down: Kernel<LoraDownParams>,
    /// By tile.
    attention: [Kernel<AttentionParams>; AttentionTile::ALL.len()],
    pool: Kernel<PoolParams>,
}

/// The kernels for compute capability 9.0.
#[derive(Debug)]
struct Sm90 {
    /// By tile.
    gemm: [Kernel<GemmSm90Params>; Sm90Tile::ALL.len()],
    /// By tile, if there is one for the model's heads.
    attention: [Option<Kernel<AttentionSm90Params>>; AttentionTile::ALL.len()],
    /// One [`Stall`], which a thread writes that gives up waiting at a barrier.
    stall: Pinned,
}

/// Checks that the kernels can run a model.
///
/// # Errors
/// A message with what the model has and what the kernels take.
pub fn check(config: &ModelConfig) -> Result<(), String> {
    let head = config.head_dim;
    if !HEAD_DIMS.contains(&head) {
        return Err(format!(
            "the GPU kernels are for heads of 32, 64 or 128 elements, and the model has {head}"
        ));
    }
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let step = ROW_VECTOR as usize;
    if !hidden.is_multiple_of(step) || !intermediate.is_multiple_of(step) || hidden > ROW_MAX_HIDDEN as usize
    {
        return Err(format!(
            "the GPU kernels are for sizes that are multiples of {step} and a hidden size of at most {ROW_MAX_HIDDEN}, and \
             the model has {hidden} and {intermediate}"
        ));
    }
    Ok(())
}

impl KernelSet {
    /// Loads the kernels of a model that passes [`check`]. The names of the entries end in the precision, the head size
    /// and the tile, as far as there are several.
    /// With `sm90` those for compute capability 9.0 too.
    pub fn load(context: &Context, config: &ModelConfig, precision: Half, sm90: bool) -> Result<KernelSet> {
        let mut loader = Loader::new(context);
        let head_dim = config.head_dim as u32;
        let gemm = GemmTile::ALL.map(|tile| {
            let entry = format!("gemm_{precision}_{tile}");
            loader.kernel("gemm", &entry, tile.shape().shared_bytes)
        });
        let attention = AttentionTile::ALL.map(|tile| {
            let entry = format!("attention_{precision}_hd{head_dim}_{tile}");
            loader.kernel("attention", &entry, tile.shape(head_dim).shared_bytes)
        });
        let sm90 = match sm90 {
            true => Some(Sm90 {
                gemm: all(Sm90Tile::ALL.map(|tile| {
                    let entry = format!("gemm_{precision}_{tile}");
                    loader.kernel("sm90/gemm", &entry, tile.shape().shared_bytes)
                }))?,
                attention: all(AttentionTile::ALL.map(|tile| {
                    let kernel = tile.sm90(config.head_dim).map(|tile| {
                        let entry = format!("attention_{precision}_hd{head_dim}_{}", tile.name);
                        loader.kernel("sm90/attention", &entry, tile.shape.shared_bytes)
                    });
                    kernel.transpose()
                }))?,
                stall: context
                    .pinned(size_of::<Stall>())
                    .map_err(in_step("page-locked memory of the kernels"))?,
            }),
            false => None,
        };
        Ok(KernelSet {
            precision,
            sm90,
            embed: loader.kernel("embed", &format!("embed_{precision}"), ROW_SHARED_BYTES)?,
            layernorm: loader.kernel("layernorm", &format!("layernorm_{precision}"), ROW_SHARED_BYTES)?,
            norm_gemm: loader.kernel("norm_gemm", &format!("norm_gemm_{precision}"), NORM_GEMM_SHARED)?,
            down_gemm: loader.kernel("down_gemm", &format!("down_gemm_{precision}"), DOWN_GEMM_SHARED)?,
            gemm: all(gemm)?,
            gemm_split16: loader.kernel(
                "gemm",
                &format!("gemm_{precision}_split16"),
                SPLIT16.shared_bytes,
            )?,
            lora_down: loader.kernel(
                "lora_down",
                &format!("lora_down_{precision}"),
                LORA_DOWN_SHARED_BYTES,
            )?,
            attention: all(attention)?,
            pool: loader.kernel("pool", &format!("pool_{precision}"), POOL_SHARED_BYTES)?,
        })
    }

    /// Launches one kernel.
    ///
    /// # Panics
    /// If the launch asks for more shared memory than its kernel was loaded for, or for a kernel that was not.
    ///
    /// # Safety
    /// The addresses in the launch must be valid for what its kernel does with them, until it has ended.
    pub unsafe fn launch(&self, stream: &Stream, launch: &Launch) -> Result<(), DriverError> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(stream, launch, Serialization::Full) }
    }

    /// The same, for a launch that may begin before the one before it has ended: of one of these kernels, in the same
    /// capture. All of them wait for one another, and before that read nothing that one of them writes.
    ///
    /// # Safety
    /// As [`launch`](KernelSet::launch).
    pub unsafe fn launch_dependent(&self, stream: &Stream, launch: &Launch) -> Result<(), DriverError> {
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(stream, launch, Serialization::Programmatic) }
    }

    /// # Safety
    /// As [`launch`](KernelSet::launch).
    unsafe fn launch_with(
        &self,
        stream: &Stream,
        launch: &Launch,
        serialization: Serialization,
    ) -> Result<(), DriverError> {
        let (function, limit) = self.select(&launch.params);
        let (with_maps, attention_with_map);
        let params = match &launch.params {
            Params::Embed(p) => bytemuck::bytes_of(p),
            Params::LayerNorm(p) => bytemuck::bytes_of(p),
            Params::NormGemm(p) => bytemuck::bytes_of(p),
            Params::DownGemm(p) => bytemuck::bytes_of(p),
            Params::Gemm(_, p) | Params::GemmSplit16(p) => bytemuck::bytes_of(p),
            Params::GemmSm90(tile, rows, p) => {
                let stall = self.sm90().stall.address();
                with_maps = maps::gemm_params(stream.context(), self.precision, *tile, *rows, p, stall)?;
                bytemuck::bytes_of(&with_maps)
            }
            Params::LoraDown(p) => bytemuck::bytes_of(p),
            Params::Attention(_, p) => bytemuck::bytes_of(p),
            Params::AttentionSm90(tile, rows, p) => {
                let stall = self.sm90().stall.address();
                attention_with_map =
                    maps::attention_params(stream.context(), self.precision, *tile, *rows, p, stall)?;
                bytemuck::bytes_of(&attention_with_map)
            }
            Params::Pool(p) => bytemuck::bytes_of(p),
        };
        let &Launch {
            grid, block, shared, ..
        } = launch;
        assert!(
            shared <= limit,
            "{}: {shared} bytes of shared memory",
            function.entry()
        );
        // SAFETY: the caller's promise; each struct is passed to the kernel that takes it, whose size was checked.
        unsafe { stream.launch(function, grid, block, shared, params, serialization) }
    }

    /// The entry that a launch starts.
    #[cfg(feature = "inspect")]
    pub fn entry(&self, launch: &Launch) -> &str {
        self.select(&launch.params).0.entry()
    }

    /// The kernel of some parameters, and its limit of shared memory.
    fn select(&self, params: &Params) -> (&Function, u32) {
        match params {
            Params::Embed(_) => self.embed.both(),
            Params::LayerNorm(_) => self.layernorm.both(),
            Params::NormGemm(_) => self.norm_gemm.both(),
            Params::DownGemm(_) => self.down_gemm.both(),
            Params::Gemm(tile, _) => self.gemm[*tile as usize].both(),
            Params::GemmSplit16(_) => self.gemm_split16.both(),
            Params::GemmSm90(tile, ..) => self.sm90().gemm[*tile as usize].both(),
            Params::LoraDown(_) => self.lora_down.both(),
            Params::Attention(tile, _) => self.attention[*tile as usize].both(),
            Params::AttentionSm90(tile, ..) => {
                let attention = self.sm90().attention[*tile as usize].as_ref();
                attention
                    .expect("a plan has it only for heads that it serves")
                    .both()
            }
            Params::Pool(_) => self.pool.both(),
        }
    }

    fn sm90(&self) -> &Sm90 {
        let sm90 = self.sm90.as_ref();
        sm90.expect("a plan has the kernels of compute capability 9.0 only where they were loaded")
    }

    /// What a thread left that gave up waiting at a barrier, which ended its kernel and lost the device. For people.
    pub fn stall(&self) -> Option<String> {
        describe(bytemuck::pod_read_unaligned(&self.sm90.as_ref()?.stall))
    }
}

/// `None` if it is all zero.
fn describe(stall: Stall) -> Option<String> {
    let Stall {
        kernel,
        block,
        thread,
        barrier,
        parity,
        ..
    } = stall;
    let kernel = match kernel {
        0 => return None,
        STALL_GEMM => "gemm",
        STALL_ATTENTION => "attention",
        _ => "an unknown kernel",
    };
    let role = if thread < 128 { "copies" } else { "multiplies" };
    Some(format!(
        "{kernel} of the kernels sm90 (thread {thread} of block {block}, which {role}, has waited {} s at the barrier at \
         {barrier:#x} for the end of a phase of parity {parity}; open the engine with the kernels sm80, and please report \
         this)",
        STALL_LIMIT / 1_000_000_000
    ))
}

/// A kernel that takes one `P`, a struct of `cuda/params.h`.
#[derive(Debug)]
struct Kernel<P> {
    function: Function,
    /// Dynamic shared memory that it may be launched with.
    shared: u32,
    takes: PhantomData<fn(P)>,
}

impl<P: Pod> Kernel<P> {
    fn both(&self) -> (&Function, u32) {
        (&self.function, self.shared)
    }
}

/// All results, or the first error.
fn all<T, const N: usize>(results: [Result<T>; N]) -> Result<[T; N]> {
    let all: Vec<T> = results.into_iter().collect::<Result<_>>()?;
    Ok(all
        .try_into()
        .unwrap_or_else(|_| unreachable!("there are N results")))
}

/// Loads the embedded modules, each when the first of its kernels is asked for.
#[derive(Debug)]
struct Loader {
    context: Context,
    loaded: HashMap<&'static str, Module>,
}

impl Loader {
    fn new(context: &Context) -> Loader {
        Loader {
            context: context.clone(),
            loaded: HashMap::new(),
        }
    }

    /// The entry of a module, for launches with up to `shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    /// [`Error::Device`] if this build has no such module for the device, [`Error::Gpu`] if the driver refuses it,
    /// [`Error::Internal`] if the entry does not take one `P`.
    fn kernel<P: Pod>(&mut self, module: &'static str, entry: &str, shared: u32) -> Result<Kernel<P>> {
        if !self.loaded.contains_key(module) {
            let loaded = self.load(module)?;
            self.loaded.insert(module, loaded);
        }
        let name = format!("module {module}, kernel {entry}");
        let function = self.loaded[module].function(entry).map_err(in_step(&name))?;
        let size = size_of::<P>();
        // Before CUDA 12.4 the driver does not tell; the images are the same, and are checked where they are made.
        match function.params() {
            None => {}
            Some([found]) if *found == size => {}
            Some([found]) => {
                return Err(Error::Internal(format!(
                    "{name} takes {found} bytes of parameters, the host has {size}: is src/kernels/params.rs stale?"
                )));
            }
            Some(params) => {
                let problem = format!("{name} takes {} parameters, not one", params.len());
                return Err(Error::Internal(problem));
            }
        }
        function.allow_shared(shared).map_err(in_step(&name))?;
        Ok(Kernel {
            function,
            shared,
            takes: PhantomData,
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
        let image = module.image;
        #[cfg(test)]
        let without_wait = tests::without_wait(image);
        #[cfg(test)]
        let image = without_wait.as_deref().unwrap_or(image);
        // SAFETY: `build.rs` embeds what nvcc made, whole and aligned; a test changes no more than an instruction of PTX.
        let module = unsafe { self.context.load(name, image) };
        Ok(module.map_err(in_step(format!("module {name}")))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;
    pub(super) use crate::gpu::testing::without_wait;

    #[test]
    fn a_kernel_that_is_not_as_thought_is_refused() {
        let Some(context) = testing::context() else { return };
        let mut loader = Loader::new(&context);
        let stale = loader
            .kernel::<Mixtures>("layernorm", "layernorm_bf16", 0)
            .unwrap_err()
            .to_string();
        let (size, wrong) = (size_of::<LayerNormParams>(), size_of::<Mixtures>());
        let wanted = format!(
            "module layernorm, kernel layernorm_bf16 takes {size} bytes of parameters, the host has {wrong}: is \
             src/kernels/params.rs stale?"
        );
        assert!(stale.contains(&wanted), "{stale}");
        let entry = loader
            .kernel::<LayerNormParams>("layernorm", "layernorm_f64", 0)
            .unwrap_err()
            .to_string();
        let wanted =
            "module layernorm, kernel layernorm_f64: cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND";
        assert!(entry.starts_with(wanted), "{entry}");
        let module = loader
            .kernel::<LayerNormParams>("layernorms", "layernorm_bf16", 0)
            .unwrap_err()
            .to_string();
        assert!(module.contains("no module layernorms"), "{module}");
        let shared = loader
            .kernel::<LayerNormParams>("layernorm", "layernorm_bf16", 1 << 24)
            .unwrap_err()
            .to_string();
        let wanted = "cuFuncSetAttribute of layernorm_bf16 to 16777216 bytes of shared memory failed: ";
        assert!(shared.contains(wanted), "{shared}");
    }

    #[test]
    fn a_stall_says_who_waited_for_what() {
        let none: Stall = bytemuck::Zeroable::zeroed();
        assert_eq!(describe(none), None);
        let text = describe(Stall {
            kernel: STALL_GEMM,
            block: 7,
            thread: 130,
            barrier: 0x38420,
            parity: 1,
            reserved: 0,
        });
        let wanted = "gemm of the kernels sm90 (thread 130 of block 7, which multiplies, has waited 2 s at the barrier at \
                      0x38420 for the end of a phase of parity 1; open the engine";
        assert!(text.is_some_and(|text| text.starts_with(wanted)));
    }
}
