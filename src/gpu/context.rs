//! An execution context: a stream, the device's memory of one pass at a time, the adapters, and the CUDA graphs captured so
//! far; and the buffers of the host that passes in flight are sent from and received in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapters::DeviceAdapters;
use super::driver::{Context, DeviceMemory, DriverError, Event, Graph, Pinned, Stream};
use super::inputs::InputLayout;
use super::launch::Launch;
use crate::plan::Fusion;
use crate::tile::AttentionTile;

/// Passes of a context that may be in flight: one computes while the next one's input is there and launched, so that the
/// device goes from one to the next without the host.
pub const PASSES_IN_FLIGHT: usize = 2;

/// Staging buffers have room for the output vectors of this part of a pass's tokens from the start, and grow when more come
/// back: most batches pool whole sequences. Page-locking a vector per token would take 67 MB for a pass of
/// jina-embeddings-v3.
const OUTPUT_PARTS: usize = 16;

/// What a captured pass depends on, beside the context's adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PassKey {
    /// The largest number of tokens that it can run.
    pub bucket: usize,
    /// Whether any sequence uses an adapter.
    pub adapted: bool,
    pub attention: AttentionTile,
    pub fusion: Fusion,
}

/// A captured pass, and the address of its output.
#[derive(Debug)]
pub struct CapturedPass {
    pub graph: Graph,
    pub layout: InputLayout,
    /// The records of the output vectors.
    pub records: u64,
    /// The last launch, which may be repeated with other output vectors.
    pub pool: Launch,
}

/// What passes run on, one after the other in its stream: the order of the stream keeps a pass from the memory of the one
/// before.
#[derive(Debug)]
pub struct ExecContext {
    /// The first field: dropped, and thereby drained, before the graphs and the memory that its work uses.
    pub stream: Stream,
    pub passes: HashMap<PassKey, CapturedPass>,
    adapters: Arc<DeviceAdapters>,
    pub arena: DeviceMemory,
    pub upload: DeviceMemory,
    zeroed: bool,
}

/// The memory of an execution context, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextSizes {
    pub arena: usize,
    pub upload: usize,
    /// Of the output records.
    pub records: usize,
}

impl ExecContext {
    /// `zeroed`: the arena begins as zeros. Kernels that copy whole tiles read rows past the tokens, whose products they then
    /// drop; others read nothing that no kernel wrote, which a checked device notices only if it is not zeroed.
    pub fn new(
        device: &Context,
        sizes: ContextSizes,
        adapters: &Arc<DeviceAdapters>,
        zeroed: bool,
    ) -> Result<ExecContext, DriverError> {
        let stream = device.stream()?;
        Ok(ExecContext {
            passes: HashMap::new(),
            adapters: adapters.clone(),
            arena: allocate_arena(device, &stream, sizes.arena, zeroed)?,
            upload: device.allocate(sizes.upload)?,
            stream,
            zeroed,
        })
    }

    /// The adapters that the next pass uses.
    pub fn adapters(&self) -> &Arc<DeviceAdapters> {
        &self.adapters
    }

    /// Replaces the adapters. More of them may need more memory, and captured passes with adapters hold their addresses:
    /// passes in flight are waited for.
    pub fn rebind_adapters(
        &mut self,
        device: &Context,
        sizes: impl FnOnce() -> ContextSizes,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<(), DriverError> {
        if Arc::ptr_eq(&self.adapters, adapters) {
            return Ok(());
        }
        self.stream.synchronize()?;
        let sizes = sizes();
        self.reserve_arena(device, sizes.arena)?;
        if sizes.upload > self.upload.len() {
            self.passes.clear();
            self.upload = device.allocate(sizes.upload)?;
        }
        self.passes.retain(|key, _| !key.adapted);
        self.adapters = adapters.clone();
        Ok(())
    }

    /// Makes the arena at least this large; passes in flight are waited for if it grows.
    pub fn reserve_arena(&mut self, device: &Context, bytes: usize) -> Result<(), DriverError> {
        if bytes > self.arena.len() {
            self.stream.synchronize()?;
            // Their addresses are of the old arena.
            self.passes.clear();
            self.arena = allocate_arena(device, &self.stream, bytes, self.zeroed)?;
        }
        Ok(())
    }
}

fn allocate_arena(
    device: &Context,
    stream: &Stream,
    bytes: usize,
    zeroed: bool,
) -> Result<DeviceMemory, DriverError> {
    let arena = device.allocate(bytes)?;
    if zeroed {
        // SAFETY: these are its bytes, and the stream is drained before they are freed: `ExecContext` drops it first, and
        // waits for it before it takes another arena.
        unsafe { stream.zero(arena.address(), arena.len()) }?;
    }
    Ok(arena)
}

/// The page-locked buffers of one pass in flight.
#[derive(Debug)]
pub struct Staging {
    /// For the copy to the context's `upload`.
    pub input: Pinned,
    /// For the copy of the output records.
    pub output: Pinned,
    /// The end of the last pass that used the buffers.
    pub done: Event,
    /// Whether nobody has waited for that end yet.
    pub in_flight: bool,
}

impl Staging {
    /// Buffers for a context of these sizes; a thread that waits for a pass spins or sleeps.
    pub fn new(device: &Context, sizes: ContextSizes, sleeps: bool) -> Result<Staging, DriverError> {
        Ok(Staging {
            input: device.pinned(sizes.upload)?,
            output: device.pinned(sizes.records / OUTPUT_PARTS)?,
            done: if sleeps {
                device.sleeping_event()
            } else {
                device.event()
            }?,
            in_flight: false,
        })
    }

    /// Waits until the device neither reads nor writes the buffers.
    pub fn wait(&mut self) -> Result<(), DriverError> {
        if self.in_flight {
            self.done.synchronize()?;
            self.in_flight = false;
        }
        Ok(())
    }

    /// Makes the buffers at least this large. The device uses neither.
    pub fn reserve(&mut self, device: &Context, input: usize, output: usize) -> Result<(), DriverError> {
        for (buffer, bytes) in [(&mut self.input, input), (&mut self.output, output)] {
            if bytes > buffer.len() {
                *buffer = device.pinned(bytes.next_power_of_two())?;
            }
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // If it fails, the context is lost and nothing runs in it.
        let _ = self.wait();
    }
}

/// The place of one pass in flight: an execution context, which other places share, and buffers of its own.
#[derive(Debug)]
pub struct PassSlot {
    context: Arc<Mutex<ExecContext>>,
    pub staging: Staging,
}

impl PassSlot {
    pub fn new(context: &Arc<Mutex<ExecContext>>, staging: Staging) -> PassSlot {
        PassSlot {
            context: context.clone(),
            staging,
        }
    }

    /// The context, for the length of a submission, and the buffers.
    pub fn parts(&mut self) -> (MutexGuard<'_, ExecContext>, &mut Staging) {
        (lock(&self.context), &mut self.staging)
    }
}

/// A panic under the lock leaves a context in use: at worst it lacks a graph, which is captured again.
pub fn lock(context: &Mutex<ExecContext>) -> MutexGuard<'_, ExecContext> {
    context.lock().unwrap_or_else(PoisonError::into_inner)
}
