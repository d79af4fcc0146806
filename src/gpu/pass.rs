//! One batch on the GPU: its bucket, the captured graph, and the run.

use super::Gpu;
use super::context::{CapturedPass, ContextSizes, ExecContext, PassKey};
use super::driver::{DriverError, Stream};
use super::failure::{Failure, in_step};
use super::inputs::{InputLayout, PoolBatch, attention_tiles};
use super::launch::{ACTIVATION_BYTES, Launch, LaunchContext, launches};
use crate::batch::{Batch, BatchShape};
use crate::output::Vector;
use crate::plan::{Fusion, Plan};

/// Blocks per multiprocessor of the persistent kernels.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 4;

/// Called with the stream before the upload, after the upload, after the graph and after the download of a pass; four
/// times more for every further pool batch.
pub type OnStage<'a> = &'a mut dyn FnMut(&Stream) -> Result<(), DriverError>;

impl Gpu {
    /// Runs one batch: one copy to the device, one graph, one copy back. The batch's adapters are those of the context.
    /// Returns the output vectors, `None` for one whose elements are not all finite.
    pub fn run(&self, context: &mut ExecContext, batch: &Batch) -> Result<Vec<Option<Vector>>, Failure> {
        self.run_with(context, batch, self.fusion(batch), &mut |_| Ok(()))
    }

    /// As [`run`](Self::run), with the adapters applied in a given way.
    pub(super) fn run_with(
        &self,
        context: &mut ExecContext,
        batch: &Batch,
        fusion: Fusion,
        on_stage: OnStage<'_>,
    ) -> Result<Vec<Option<Vector>>, Failure> {
        self.ensure_not_lost()?;
        let result = self.pass(context, batch, fusion, on_stage);
        self.drain_on_error(context, result)
    }

    fn pass(
        &self,
        context: &mut ExecContext,
        batch: &Batch,
        fusion: Fusion,
        on_stage: OnStage<'_>,
    ) -> Result<Vec<Option<Vector>>, Failure> {
        let key = PassKey {
            bucket: bucket(batch.tokens(), self.capacity),
            adapted: batch.shape().adapted,
            attention: self.attention_tile(batch),
            fusion,
        };
        if !context.passes.contains_key(&key) {
            let pass = self.capture(context, &key)?;
            context.passes.insert(key, pass);
        }
        let ExecContext {
            stream,
            host_input,
            host_output,
            upload,
            passes,
            ..
        } = context;
        let pass = passes.get(&key).expect("it was inserted above");
        let tiles = attention_tiles(batch, key.attention);
        let positions = self.config.positions;
        let mut vectors = Vec::new();
        for (number, pool) in PoolBatch::all(batch, key.bucket).iter().enumerate() {
            let first = number == 0;
            let end = if first {
                pass.layout.write(batch, &tiles, pool, positions, host_input)
            } else {
                pass.layout.write_pool(batch, &tiles, pool, host_input)
            };
            // SAFETY: the context is this call's alone. Its buffers hold what is copied and stay until the stream is
            // synchronised, below or after a failure; the addresses in the graph are of the context's own memory and of
            // its adapters.
            unsafe {
                on_stage(stream)?;
                let up = stream.upload(upload.address(), host_input, 0..end);
                up.map_err(in_step("upload of a batch"))?;
                on_stage(stream)?;
                if first {
                    let launched = stream.launch_graph(&pass.graph);
                    launched.map_err(in_step("launch of a batch"))?;
                } else {
                    let launched = self.kernels.launch(stream, &pass.pool);
                    launched.map_err(in_step("Pool"))?;
                }
                on_stage(stream)?;
                let down = stream.download(host_output, 0..pool.bytes, pass.records);
                down.map_err(in_step("download of a batch"))?;
                on_stage(stream)?;
            }
            stream.synchronize().map_err(in_step("a batch"))?;
            vectors.extend(pool.vectors(host_output));
        }
        Ok(vectors)
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
            for (launch, step) in launches.iter().zip(&plan.steps) {
                // SAFETY: captured, not run; the launch of the graph says why its addresses are valid.
                unsafe { self.kernels.launch(stream, launch) }.map_err(in_step(plan.describe(step)))?;
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
    use crate::plan::GpuOptions;
    use crate::precision::{Half, Numerics};
    use crate::tile::AttentionTile;

    fn options(fusion: Fusion) -> GpuOptions {
        GpuOptions {
            precision: Half::Bf16,
            numerics: Numerics::Invariant,
            fusion,
            attention: AttentionTile::Large,
            multiprocessors: 132,
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
        let config = crate::cost::tests::model(24, 2);
        let arena = |adapted| {
            let shape = BatchShape {
                tokens: 5,
                output_rows: 5,
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
