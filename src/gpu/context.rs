//! An execution context: a stream, the memory of one pass at a time, the adapters, and the CUDA graphs captured so far.

use std::collections::HashMap;
use std::sync::Arc;

use super::adapters::DeviceAdapters;
use super::driver::{Context, DeviceMemory, DriverError, Graph, Pinned, Stream};
use super::inputs::InputLayout;
use super::launch::Launch;
use crate::plan::Fusion;
use crate::tile::AttentionTile;

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

/// What one pass runs on, reused from call to call.
#[derive(Debug)]
pub struct ExecContext {
    /// The first field: dropped, and thereby drained, before the graphs and the memory that its work uses.
    pub stream: Stream,
    pub passes: HashMap<PassKey, CapturedPass>,
    adapters: Arc<DeviceAdapters>,
    pub arena: DeviceMemory,
    pub upload: DeviceMemory,
    /// Page-locked, for the copy to `upload`.
    pub host_input: Pinned,
    /// Page-locked, for the copy of the output records.
    pub host_output: Pinned,
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
    pub fn new(
        device: &Context,
        sizes: ContextSizes,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<ExecContext, DriverError> {
        Ok(ExecContext {
            stream: device.stream()?,
            passes: HashMap::new(),
            adapters: adapters.clone(),
            arena: device.allocate(sizes.arena)?,
            upload: device.allocate(sizes.upload)?,
            host_input: device.pinned(sizes.upload)?,
            host_output: device.pinned(sizes.records)?,
        })
    }

    /// The adapters that the next pass uses.
    pub fn adapters(&self) -> &DeviceAdapters {
        &self.adapters
    }

    /// Replaces the adapters. More of them may need more memory, and captured passes with adapters hold their addresses.
    pub fn rebind_adapters(
        &mut self,
        device: &Context,
        sizes: impl FnOnce() -> ContextSizes,
        adapters: &Arc<DeviceAdapters>,
    ) -> Result<(), DriverError> {
        if Arc::ptr_eq(&self.adapters, adapters) {
            return Ok(());
        }
        let sizes = sizes();
        self.reserve_arena(device, sizes.arena)?;
        if sizes.upload > self.upload.len() {
            self.passes.clear();
            // Both or, if there is no memory, neither.
            (self.upload, self.host_input) = (device.allocate(sizes.upload)?, device.pinned(sizes.upload)?);
        }
        self.passes.retain(|key, _| !key.adapted);
        self.adapters = adapters.clone();
        Ok(())
    }

    /// Makes the arena at least this large. The stream is drained, as it is between passes.
    pub fn reserve_arena(&mut self, device: &Context, bytes: usize) -> Result<(), DriverError> {
        if bytes > self.arena.len() {
            // Their addresses are of the old arena.
            self.passes.clear();
            self.arena = device.allocate(bytes)?;
        }
        Ok(())
    }
}
