//! How many blocks fit on a multiprocessor: threads, blocks, registers, shared memory.

use std::ffi::{c_int, c_uint};

use super::result::{Answer, CUresult};
use super::state::Function;
use super::types::{CUfunction, CUlaunchConfig};
use super::{Call, exports, get, present, put, put_if};
use crate::run::profile::{Profile, WARP};

/// Registers are given out to warps in this many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given out in this many bytes.
const SHARED_UNIT: u32 = 128;

/// What a kernel's block takes.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// Per thread.
    pub registers: u32,
    pub static_shared: u32,
    /// Most threads per block that the kernel declares.
    pub threads: Option<u32>,
}

impl From<&Function> for Demand {
    fn from(function: &Function) -> Self {
        let limits = &function.kernel.limits;
        let declared = limits.required_threads.or(limits.max_threads);
        Self {
            registers: function.registers,
            static_shared: function.kernel.static_shared,
            threads: declared.map(|n| n.iter().product()),
        }
    }
}

type SharedFor = Option<unsafe extern "C" fn(c_int) -> usize>;

/// Blocks of `threads` threads that a multiprocessor holds at once.
pub fn blocks(profile: &Profile, demand: &Demand, threads: u32, dynamic: u32) -> u32 {
    if threads == 0 || threads > most_threads(profile, demand) {
        return 0;
    }
    let warps = threads.div_ceil(WARP);
    let by_threads = profile.threads_per_multiprocessor / (warps * WARP);
    let per_warp = (demand.registers * WARP)
        .next_multiple_of(REGISTER_UNIT)
        .max(REGISTER_UNIT);
    // A quarter of the registers belongs to each of the four schedulers, and warps do not straddle them.
    let warps_by_registers = profile.registers_per_multiprocessor / 4 / per_warp * 4;
    let by_registers = warps_by_registers / warps;
    let shared = demand.static_shared.saturating_add(dynamic);
    if shared > profile.shared_per_block_optin {
        return 0;
    }
    let taken = shared.next_multiple_of(SHARED_UNIT) + profile.shared_reserved;
    let by_shared = profile.shared_per_multiprocessor / taken;
    by_threads
        .min(by_registers)
        .min(by_shared)
        .min(profile.blocks_per_multiprocessor)
}

/// `CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK`
pub fn most_threads(profile: &Profile, demand: &Demand) -> u32 {
    let declared = demand.threads.unwrap_or(profile.threads_per_block);
    let per_warp = (demand.registers * WARP)
        .next_multiple_of(REGISTER_UNIT)
        .max(REGISTER_UNIT);
    let by_registers = profile.registers_per_block / 4 / per_warp * 4 * WARP;
    declared.min(profile.threads_per_block).min(by_registers)
}

/// Bytes of dynamic shared memory that let `blocks` blocks live on one multiprocessor.
fn available(profile: &Profile, demand: &Demand, blocks: u32) -> u32 {
    let each = profile.shared_per_multiprocessor / blocks / SHARED_UNIT * SHARED_UNIT;
    each.saturating_sub(profile.shared_reserved)
        .min(profile.shared_per_block_optin)
        .saturating_sub(demand.static_shared)
}

/// Clusters of `size` blocks that run at once, with room for `blocks` blocks on a multiprocessor.
fn clusters(profile: &Profile, blocks: u32, size: u32) -> u32 {
    let parts = profile.graphics_clusters.iter();
    parts
        .map(|multiprocessors| multiprocessors * blocks / size.max(1))
        .sum()
}

/// Blocks in a cluster of this launch, by attribute or by the kernel's own declaration.
fn cluster_size(call: &Call, function: &Function, config: &CUlaunchConfig) -> Answer<u32> {
    // SAFETY: the configuration is the caller's, with its list of attributes.
    let attributes = unsafe { super::launch::Attributes::read(config.attrs, config.num_attrs) }?;
    let device = call.contexts.get(function.context)?.device;
    if !call.devices[device].profile().hopper {
        return Err(CUresult::INVALID_CLUSTER_SIZE);
    }
    let declared = function.required_cluster.map(|n| n.max(1) as u32);
    Ok(attributes.cluster.unwrap_or(declared).iter().product())
}

impl Call {
    fn potential(
        &mut self,
        function: CUfunction,
        shared_for: SharedFor,
        dynamic: usize,
        limit: c_int,
    ) -> Answer<(c_int, c_int)> {
        let handle = self.resolve(function)?;
        let profile = self.profile()?;
        let demand = Demand::from(self.functions.get(handle)?);
        let most = most_threads(profile, &demand);
        let limit = match u32::try_from(limit) {
            Ok(0) => most,
            Ok(limit) => most.min(limit),
            Err(_) => return Err(CUresult::INVALID_VALUE),
        };
        let mut best = (0, 0, 0);
        // The largest block among those that keep most threads alive.
        for threads in (1..=limit.div_ceil(WARP))
            .rev()
            .map(|warps| (warps * WARP).min(limit))
        {
            let bytes = match shared_for {
                // SAFETY: the program's function, to be called with a block's size.
                Some(shared_for) => super::state::callback(|| unsafe { shared_for(threads as c_int) }),
                None => dynamic,
            };
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let blocks = blocks(profile, &demand, threads, bytes);
            if blocks * threads > best.0 {
                best = (blocks * threads, blocks, threads);
            }
        }
        Ok(((best.1 * profile.multiprocessors) as c_int, best.2 as c_int))
    }

    fn active_blocks(&mut self, function: CUfunction, threads: c_int, dynamic: usize) -> Answer<c_int> {
        let handle = self.resolve(function)?;
        let threads = u32::try_from(threads).map_err(|_| CUresult::INVALID_VALUE)?;
        if threads == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let dynamic = u32::try_from(dynamic).unwrap_or(u32::MAX);
        let demand = self.functions.get(handle)?.into();
        Ok(blocks(self.profile()?, &demand, threads, dynamic) as c_int)
    }
}

exports! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        call, number: *mut c_int, function: CUfunction, threads: c_int, dynamic: usize
    ) {
        put(number, call.active_blocks(function, threads, dynamic)?)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        call, number: *mut c_int, function: CUfunction, threads: c_int, dynamic: usize, flags: c_uint
    ) {
        if flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        put(number, call.active_blocks(function, threads, dynamic)?)
    }
    fn cuOccupancyMaxPotentialBlockSize(
        call, grid: *mut c_int, block: *mut c_int, function: CUfunction, shared_for: SharedFor, dynamic: usize,
        limit: c_int
    ) {
        let (blocks, threads) = call.potential(function, shared_for, dynamic, limit)?;
        put(grid, blocks)?;
        put(block, threads)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        call, grid: *mut c_int, block: *mut c_int, function: CUfunction, shared_for: SharedFor, dynamic: usize,
        limit: c_int, flags: c_uint
    ) {
        if flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        let (blocks, threads) = call.potential(function, shared_for, dynamic, limit)?;
        put(grid, blocks)?;
        put(block, threads)
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        call, bytes: *mut usize, function: CUfunction, number: c_int, threads: c_int
    ) {
        let handle = call.resolve(function)?;
        let (number, threads) = (u32::try_from(number), u32::try_from(threads));
        let (Ok(number @ 1..), Ok(threads @ 1..)) = (number, threads) else {
            return Err(CUresult::INVALID_VALUE);
        };
        let profile = call.profile()?;
        let function = call.functions.get(handle)?;
        if blocks(profile, &function.into(), threads, 0) < number {
            return Err(CUresult::INVALID_VALUE);
        }
        put(bytes, available(profile, &function.into(), number) as usize)
    }
    fn cuOccupancyMaxPotentialClusterSize(
        call, size: *mut c_int, function: CUfunction, config: *const CUlaunchConfig
    ) {
        present(size)?;
        let handle = call.resolve(function)?;
        get(config)?;
        let profile = call.profile()?;
        let function = call.functions.get(handle)?;
        put(size, match function.non_portable_cluster {
            true => profile.largest_cluster,
            false => profile.portable_cluster,
        } as c_int)
    }
    fn cuOccupancyMaxActiveClusters(
        call, number: *mut c_int, function: CUfunction, config: *const CUlaunchConfig
    ) {
        let handle = call.resolve(function)?;
        let config = get(config)?;
        let profile = call.profile()?;
        let function = call.functions.get(handle)?;
        let size = cluster_size(call, function, config)?;
        let threads = config.block.iter().product();
        let blocks = blocks(profile, &function.into(), threads, config.shared);
        put_if(number, clusters(profile, blocks, size) as c_int);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::profile::{SM_80, SM_89, SM_90, SM_90_H100};

    fn function(registers: u32, static_shared: u32) -> Demand {
        Demand {
            registers,
            static_shared,
            threads: None,
        }
    }

    #[test]
    fn as_the_occupancy_calculator_has_it() {
        // Warps: 2048 / 256.
        assert_eq!(blocks(&SM_90, &function(32, 0), 256, 0), 8);
        assert_eq!(blocks(&SM_89, &function(32, 0), 256, 0), 6);
        // Registers: 65536 / (128 · 256).
        assert_eq!(blocks(&SM_90, &function(128, 0), 256, 0), 2);
        // 65536 / (40 · 256) = 6.4
        assert_eq!(blocks(&SM_80, &function(40, 0), 256, 0), 6);
        // Blocks: 32 and 24.
        assert_eq!(blocks(&SM_80, &function(16, 0), 32, 0), 32);
        assert_eq!(blocks(&SM_89, &function(16, 0), 32, 0), 24);
        // Shared memory: 228 KB hold two blocks of 112 KB, with 1 KB each for the system.
        assert_eq!(blocks(&SM_90, &function(32, 0), 128, 112 << 10), 2);
        assert_eq!(blocks(&SM_90, &function(32, 16 << 10), 128, 100 << 10), 1);
        assert_eq!(blocks(&SM_90, &function(32, 0), 128, 228 << 10), 0);
        // A block that has too many registers.
        assert_eq!(blocks(&SM_90, &function(128, 0), 1024, 0), 0);
        assert_eq!(most_threads(&SM_90, &function(128, 0)), 512);
    }

    #[test]
    fn clusters_lie_within_a_part_of_the_device() {
        let sizes = [1, 2, 4, 8, 16];
        assert_eq!(sizes.map(|size| clusters(&SM_90, 1, size)), [132, 66, 31, 15, 7]);
        assert_eq!(clusters(&SM_90, 2, 8), 31);
        for profile in [&SM_90, &SM_90_H100] {
            assert_eq!(
                profile.graphics_clusters.iter().sum::<u32>(),
                profile.multiprocessors
            );
        }
    }

    #[test]
    fn available_shared_memory_keeps_the_blocks() {
        for number in 1..=8 {
            let function = function(32, 1024);
            let bytes = available(&SM_90, &function, number);
            assert!(blocks(&SM_90, &function, 128, bytes) >= number, "{number}");
            let more = bytes + SHARED_UNIT;
            assert!(blocks(&SM_90, &function, 128, more) < number, "{number}");
        }
    }
}
