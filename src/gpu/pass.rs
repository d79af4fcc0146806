//! One batch on the GPU: its bucket, the captured graph, and the run.

use std::sync::{Arc, Mutex};

use super::Gpu;
use super::adapters::DeviceAdapters;
use super::context::{CapturedPass, ContextSizes, ExecContext, PassKey, PassSlot, Staging, lock};
use super::driver::{DriverError, Stream};
use super::failure::{Failure, in_step};
use super::inputs::{InputLayout, PoolBatch, attention_tiles};
use super::launch::{ACTIVATION_BYTES, Launch, LaunchContext, launches};
use crate::batch::{Batch, BatchShape, Pool, PoolKind};
use crate::model::adapter::AdapterTable;
use crate::output::Vector;
use crate::plan::{Fusion, Plan};
use crate::precision::Numerics;
use crate::request::Encoding;
use crate::tile::AttentionTile;

/// Blocks per multiprocessor of the persistent kernels.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 4;

/// Called with the stream before the upload, after the upload, after the graph and after the download of a pass; four
/// times more for every further pool batch.
pub type OnStage<'a> = &'a mut dyn FnMut(&Stream) -> Result<(), DriverError>;

/// A pass that was submitted: [`Gpu::finish`] waits for it.
#[derive(Debug)]
pub struct InFlight {
    /// The output vectors that are there already.
    vectors: Vec<Option<Vector>>,
    /// Those that the staging buffers receive.
    pool: PoolBatch,
    /// What the pass reads.
    _adapters: Arc<DeviceAdapters>,
}

impl Gpu {
    /// Submits a batch: one copy to the device, one graph, one copy back. It returns before they are done, unless the batch
    /// has more output vectors than tokens.
    pub fn start(
        &self,
        slot: &mut PassSlot,
        batch: &Batch,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<InFlight, Failure> {
        let (mut context, staging) = slot.parts();
        self.rebind_adapters(&mut context, adapters)?;
        self.submit(
            &mut context,
            staging,
            batch,
            self.key(batch, self.fusion(batch)),
            &mut |_| Ok(()),
        )
    }

    /// Waits for a pass and returns its output vectors, `None` for one whose elements are not all finite.
    pub fn finish(&self, slot: &mut PassSlot, pass: InFlight) -> Result<Vec<Option<Vector>>, Failure> {
        let waited = slot.staging.wait().map_err(in_step("a batch"));
        if waited.is_err() {
            let (context, _) = slot.parts();
            self.drain_on_error(&context, waited)?;
        }
        Ok(pass.vectors(&slot.staging))
    }

    /// Runs a batch on a context whose adapters are the batch's, with the adapters applied in a given way.
    #[cfg(feature = "inspect")]
    pub(super) fn run_with(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        fusion: Fusion,
        on_stage: OnStage<'_>,
    ) -> Result<Vec<Option<Vector>>, Failure> {
        let pass = self.submit(context, staging, batch, self.key(batch, fusion), on_stage)?;
        let waited = staging.wait().map_err(in_step("a batch"));
        self.drain_on_error(context, waited)?;
        Ok(pass.vectors(staging))
    }

    fn key(&self, batch: &Batch, fusion: Fusion) -> PassKey {
        PassKey {
            bucket: bucket(batch.tokens(), self.capacity),
            adapted: batch.shape().adapted,
            attention: self.attention_tile(batch),
            fusion,
        }
    }

    /// Submits a batch as a pass that holds it. The batch's adapters are those of the context.
    pub(super) fn submit(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        key: PassKey,
        on_stage: OnStage<'_>,
    ) -> Result<InFlight, Failure> {
        self.ensure_not_lost()?;
        let submitted = self.submit_work(context, staging, batch, key, on_stage);
        self.drain_on_error(context, submitted)
            .inspect_err(|_| staging.in_flight = false)
    }

    fn submit_work(
        &self,
        context: &mut ExecContext,
        staging: &mut Staging,
        batch: &Batch,
        key: PassKey,
        on_stage: OnStage<'_>,
    ) -> Result<InFlight, Failure> {
        // Once, rather than in every call below.
        let _entered = self.device.enter()?;
        if !context.passes.contains_key(&key) {
            let pass = self.capture(context, &key)?;
            context.passes.insert(key, pass);
        }
        let pass = context.passes.get(&key).expect("it was inserted above");
        let stream = &context.stream;
        let tiles = attention_tiles(batch, key.attention);
        let positions = self.config.positions;
        let mut vectors = Vec::new();
        let mut last: Option<PoolBatch> = None;
        for pool in PoolBatch::all(batch, key.bucket) {
            // Where it is not the first: until its vectors are here, as the buffers are used again.
            staging.wait().map_err(in_step("a batch"))?;
            vectors.extend(last.iter().flat_map(|last| last.vectors(&staging.output)));
            staging
                .reserve(&self.device, pass.layout.bytes, pool.bytes)
                .map_err(in_step("page-locked memory of a batch"))?;
            let end = match last {
                None => pass
                    .layout
                    .write(batch, &tiles, &pool, positions, &mut staging.input),
                Some(_) => pass.layout.write_pool(batch, &tiles, &pool, &mut staging.input),
            };
            staging.in_flight = true;
            // SAFETY: the buffers hold what is copied and stay as they are until `done`, or until the stream is drained
            // after a failure. The addresses in the graph are of the context's own memory and of its adapters; neither
            // goes while the stream has work. Passes that share the memory are in the same stream.
            unsafe {
                on_stage(stream)?;
                let up = stream.upload(context.upload.address(), &staging.input, 0..end);
                up.map_err(in_step("upload of a batch"))?;
                on_stage(stream)?;
                if last.is_none() {
                    let launched = stream.launch_graph(&pass.graph);
                    launched.map_err(in_step("launch of a batch"))?;
                } else {
                    let launched = self.kernels.launch(stream, &pass.pool);
                    launched.map_err(in_step("Pool"))?;
                }
                on_stage(stream)?;
                let down = stream.download(&mut staging.output, 0..pool.bytes, pass.records);
                down.map_err(in_step("download of a batch"))?;
                on_stage(stream)?;
            }
            staging.done.record(stream).map_err(in_step("a batch"))?;
            last = Some(pool);
        }
        Ok(InFlight {
            vectors,
            pool: last.expect("there is one pool batch at least"),
            _adapters: context.adapters().clone(),
        })
    }

    fn capture(&self, context: &mut ExecContext, key: &PassKey) -> Result<CapturedPass, Failure> {
        let shape = BatchShape {
            tokens: key.bucket,
            output_rows: key.bucket,
            adapted: key.adapted,
        };
        let columns = context.adapters().columns();
        let plan = self.plan_for(columns, shape, key.attention, key.fusion);
        // A context has memory for every pass but those of an explicit fusion.
        let reserved = context.reserve_arena(&self.device, plan.arena_len * ACTIVATION_BYTES);
        reserved.map_err(in_step("memory of an execution context"))?;
        let slots = if key.adapted {
            context.adapters().slots()
        } else {
            0
        };
        let layout = InputLayout::new(key.bucket, slots);
        // The kernels would read past it.
        assert!(layout.bytes <= context.upload.len());
        let launches = self.launches(context, context.arena.address(), &plan, &layout);
        let graph = context.stream.capture(|stream| {
            for (number, (launch, step)) in launches.iter().zip(&plan.steps).enumerate() {
                // SAFETY: captured, not run; the launch of the graph says why its addresses are valid.
                let launched = unsafe {
                    // The graph begins when the batch has been copied, and so the first kernel.
                    if self.options.dependent_launch && number > 0 {
                        self.kernels.launch_dependent(stream, launch)
                    } else {
                        self.kernels.launch(stream, launch)
                    }
                };
                launched.map_err(in_step(plan.describe(step)))?;
            }
            Ok::<_, Failure>(())
        })?;
        tracing::debug!(
            bucket = key.bucket,
            adapted = key.adapted,
            launches = launches.len(),
            "graph"
        );
        Ok(CapturedPass {
            graph,
            layout,
            records: context.arena.address() + (plan.output().offset * ACTIVATION_BYTES) as u64,
            pool: *launches.last().expect("every plan pools"),
        })
    }

    /// Captures a pass again that was captured with other adapters, unless a batch came first.
    pub(super) fn recapture(&self, context: &mut ExecContext, key: &PassKey) -> Result<(), Failure> {
        if !context.passes.contains_key(key) {
            let captured = self.capture(context, key);
            let pass = self.drain_on_error(context, captured)?;
            context.passes.insert(*key, pass);
        }
        Ok(())
    }

    /// Captures every pass that batches of this engine may take on a context, and runs each once with as little as there can
    /// be, so that no later batch waits for a graph to be made or brought to the device.
    pub fn warm_up(
        &self,
        context: &Mutex<ExecContext>,
        slot: &mut PassSlot,
        table: &AdapterTable,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<(), Failure> {
        let loaded = || (0..adapters.slots()).filter(|&slot| adapters.adapter(slot).is_some());
        let merged = |slot: &usize| {
            self.options.numerics == Numerics::Fastest && self.merged_weights(*slot, adapters).is_some()
        };
        let adapted = loaded().take(1).map(|slot| (Some(slot), Fusion::Extended));
        let merged = loaded()
            .filter(merged)
            .map(|slot| (Some(slot), Fusion::Merged(slot)));
        let kinds: Vec<_> = [(None, Fusion::Extended)]
            .into_iter()
            .chain(adapted)
            .chain(merged)
            .collect();
        for bucket in buckets(self.capacity) {
            for &(adapter, fusion) in &kinds {
                let mut batch = Batch::new(table.clone());
                let sequence = batch.push(&[0], adapter.map(|slot| (slot, 1.0)).into_iter().collect());
                batch.pools.push(Pool {
                    sequence,
                    tokens: 0..1,
                    kind: PoolKind::Mean,
                    dimensions: self.config.hidden_size,
                    normalize: true,
                    encoding: Encoding::F32,
                });
                for attention in AttentionTile::ALL {
                    let key = PassKey {
                        bucket,
                        adapted: adapter.is_some(),
                        attention,
                        fusion,
                    };
                    // Calls get their turn in between.
                    let mut context = lock(context);
                    self.rebind_adapters(&mut context, adapters)?;
                    let staging = &mut slot.staging;
                    self.submit(&mut context, staging, &batch, key, &mut |_| Ok(()))?;
                }
            }
        }
        let waited = slot.staging.wait().map_err(in_step("a batch"));
        self.drain_on_error(&lock(context), waited)
    }

    /// Makes these the adapters of a context, and captures the passes with adapters again that it had.
    pub fn replace_adapters(
        &self,
        context: &Mutex<ExecContext>,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<(), Failure> {
        let keys: Vec<PassKey> = {
            let mut context = lock(context);
            let keys = context.passes.keys().filter(|key| key.adapted).copied().collect();
            self.rebind_adapters(&mut context, adapters)?;
            keys
        };
        // Merged weights may be of an adapter that is gone.
        for key in keys.iter().filter(|key| key.fusion == Fusion::Extended) {
            let mut context = lock(context);
            // A call that began before the change may have its own adapters here again.
            if Arc::ptr_eq(context.adapters(), adapters) && adapters.columns() != [0; 4] {
                self.recapture(&mut context, key)?;
            }
        }
        Ok(())
    }

    /// The launches of a plan, with its buffers at `arena` and the batch in the context's upload.
    pub(super) fn launches(
        &self,
        context: &ExecContext,
        arena: u64,
        plan: &Plan,
        layout: &InputLayout,
    ) -> Vec<Launch> {
        let adapters = context.adapters();
        let lowering = LaunchContext {
            config: &self.config,
            weights: self.weights.at(),
            merged: match plan.gpu.map(|gpu| gpu.fusion) {
                Some(Fusion::Merged(slot)) => self.merged_weights(slot, adapters),
                Some(Fusion::Extended | Fusion::Separate) | None => None,
            },
            adapters: &|layer, site| adapters.linear(layer, site),
            embedding_adapters: adapters.embed(),
            arena,
            upload: context.upload.address(),
            layout,
            persistent_blocks: self.device.facts().multiprocessors * BLOCKS_PER_MULTIPROCESSOR,
        };
        launches(&lowering, plan)
    }
}

impl InFlight {
    /// The output vectors, once the device is done with the staging buffers.
    fn vectors(self, staging: &Staging) -> Vec<Option<Vector>> {
        let mut vectors = self.vectors;
        vectors.extend(self.pool.vectors(&staging.output));
        vectors
    }
}

/// The memory that passes of up to `capacity` tokens need, of which `plan` makes the plans. All buckets are looked at: a
/// smaller pass, or one without adapters, may be packed less densely in the arena than the largest.
pub fn sizes(capacity: usize, slots: usize, plan: impl Fn(BatchShape) -> Plan) -> ContextSizes {
    let mut sizes = ContextSizes {
        arena: 0,
        upload: InputLayout::new(capacity, slots).bytes,
        records: 0,
    };
    for tokens in buckets(capacity) {
        // A pass on merged weights has the buffers of one without adapters.
        for adapted in [true, false] {
            let plan = plan(BatchShape {
                tokens,
                output_rows: tokens,
                adapted,
            });
            sizes.arena = sizes.arena.max(plan.arena_len * ACTIVATION_BYTES);
            sizes.records = sizes.records.max(plan.output().capacity * ACTIVATION_BYTES);
        }
    }
    sizes
}

/// The smallest bucket for a number of tokens: 16, 24, 32, 48, 64, …, at most `capacity`. Blocks past the tokens exit at
/// once, so that up to half as many again cost little, and there are few graphs.
pub fn bucket(tokens: usize, capacity: usize) -> usize {
    let fits = |bucket: &usize| *bucket >= tokens;
    buckets(capacity).find(fits).unwrap_or(capacity)
}

/// All buckets, ascending; the last is `capacity`.
pub fn buckets(capacity: usize) -> impl Iterator<Item = usize> {
    let all = (4..usize::BITS - 1).flat_map(|power| [1 << power, (1 << power) + (1 << (power - 1))]);
    all.take_while(move |&bucket| bucket < capacity).chain([capacity])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gpu::testing;
    use crate::plan::GpuOptions;
    use crate::precision::Half;
    use crate::{Device, Embed, Engine, KernelChoice, Precision, Request};

    fn options(fusion: Fusion) -> GpuOptions {
        GpuOptions {
            precision: Half::Bf16,
            numerics: Numerics::Invariant,
            fusion,
            attention: AttentionTile::Large,
            multiprocessors: crate::tile::Multiprocessors::H200,
            sm90: false,
            sm90_tile: None,
        }
    }

    /// What each kernel waits for is written by the one before: without the wait softcuda has to find it. Only the first of a
    /// pass has none before it.
    #[test]
    fn a_kernel_that_does_not_wait_for_those_before_it_is_found() {
        let test = "gpu::pass::tests::a_kernel_that_does_not_wait_for_those_before_it_is_found";
        if testing::is_child() {
            let altered = std::env::var(testing::WITHOUT_WAIT).unwrap();
            // With more than 64 tokens, the kernels for compute capability 9.0, and with 1024 the larger tile of attention;
            // with an adapter, lora_down; with up to 16 tokens, norm_gemm, and with an adapter down_gemm.
            let name = altered.rsplit('_').next().unwrap();
            let (kernels, words) = match name {
                "wgmma128" => (KernelChoice::Sm90, 1030),
                "quarter" | "wgmma64" => (KernelChoice::Sm90, 150),
                _ if altered.starts_with("norm_gemm") || altered.starts_with("down_gemm") => {
                    (KernelChoice::Sm80, 2)
                }
                _ => (KernelChoice::Sm80, 9),
            };
            let builder = Engine::builder()
                .device(Device::Cuda(0))
                .precision(Precision::Bf16)
                .dependent_launch(true);
            let engine = builder
                .kernels(kernels)
                .open(testing::golden("jina-hub"))
                .unwrap();
            let task = Embed::task("retrieval.query");
            let request = match altered.as_str() {
                "norm_gemm_bf16" => Request::text("word ".repeat(words), Embed::default()),
                // Of a text it has a prefix, of more than 16 tokens.
                "down_gemm_bf16" => Request::ids(vec![5; words], task),
                _ => Request::text("word ".repeat(words), task),
            };
            let done = engine.embed_batch(&[request]).pop().unwrap();
            assert_eq!(done.is_ok(), altered == "none", "{altered}: {:?}", done.err());
            return;
        }
        // A context of this process would be lost with the first finding, for other tests too: each has its own.
        let facts = testing::context().map(|context| context.facts().clone());
        let Some(facts) = facts.filter(|facts| facts.simulated() && facts.capability >= (9, 0)) else {
            return;
        };
        let mut entries = vec!["gemm_bf16_small16", "attention_bf16_hd64_small"];
        entries.extend([
            "layernorm_bf16",
            "norm_gemm_bf16",
            "lora_down_bf16",
            "down_gemm_bf16",
            "pool_bf16",
        ]);
        if facts.capability == (9, 0) {
            entries.extend(["gemm_bf16_quarter", "attention_bf16_hd64_wgmma64"]);
            // The same source for larger tiles, and a thousand tokens to reach them.
            if std::env::var_os("ROPEWAY_TEST_ALL").is_some() {
                entries.push("attention_bf16_hd64_wgmma128");
            }
        }
        for entry in entries.into_iter().chain(["none"]) {
            let output = testing::in_a_child(test, &[(testing::WITHOUT_WAIT, entry)]);
            let said = String::from_utf8_lossy(&output.stderr);
            let found =
                "before griddepcontrol.wait (cudaGridDependencySynchronize), but the launch before writes";
            let found = said.contains(found) && said.contains(&format!(" in {entry}, "));
            assert_eq!(found, entry != "none", "{entry}:\n{said}");
        }
    }

    proptest! {
        /// A context is made with memory for every pass that an engine runs.
        #[test]
        fn every_pass_has_memory(
            (hidden, capacity, tokens) in (1usize..40, 1usize..5000, 1usize..5000),
            columns in prop::collection::vec(0usize..6, 4),
            adapted: bool,
            fusion in prop::sample::select(vec![Fusion::Extended, Fusion::Merged(0)]),
        ) {
            let config = crate::cost::tests::model(8 * hidden, 2);
            let plan = |shape, fusion| {
                let columns = [0, 1, 2, 3].map(|site| 16 * columns[site]);
                Plan::gpu(&config, shape, columns, options(fusion))
            };
            let sizes = sizes(capacity, 3, |shape| plan(shape, Fusion::Extended));
            let bucket = bucket(tokens.min(capacity), capacity);
            let pass = plan(BatchShape { tokens: bucket, output_rows: bucket, adapted }, fusion);
            prop_assert!(pass.arena_len * ACTIVATION_BYTES <= sizes.arena);
            prop_assert!(pass.output().capacity * ACTIVATION_BYTES <= sizes.records);
            prop_assert!(InputLayout::new(bucket, 3).bytes <= sizes.upload);
        }
    }

    /// With 80 columns more the arena is smaller: the reason why `sizes` looks at all passes.
    #[test]
    fn fewer_buffers_may_need_a_larger_arena() {
        let config = crate::cost::tests::model(16, 2);
        let arena = |adapted| {
            let shape = BatchShape {
                tokens: 32,
                output_rows: 32,
                adapted,
            };
            Plan::gpu(&config, shape, [0, 16, 0, 0], options(Fusion::Extended)).arena_len
        };
        assert!(arena(false) > arena(true), "{} {}", arena(false), arena(true));
    }

    #[test]
    fn buckets_hold_their_tokens_with_little_to_spare() {
        let found = [1, 16, 17, 25, 33, 49, 65, 8194, 16000].map(|tokens| bucket(tokens, 16384));
        assert_eq!(found, [16, 16, 24, 32, 48, 64, 96, 12288, 16384]);
        assert_eq!(bucket(8194, 8194), 8194);
        for tokens in 1..5000 {
            let bucket = bucket(tokens, 1 << 20);
            assert!(
                bucket >= tokens && (bucket <= 16 || 2 * bucket < 3 * tokens + 2),
                "{tokens} in {bucket}"
            );
        }
    }
}
