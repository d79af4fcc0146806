//! Memory in the order of streams: pools, `cuMemAllocAsync`, `cuMemFreeAsync`.

use std::ffi::{c_int, c_uint, c_void};

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{Pool, Stream};
use super::types::{
    CUdeviceptr, CUmemAccessDesc, CUmemLocation, CUmemPoolProps, CUstream, MEM_LOCATION_DEVICE,
};
use super::work::Work;
use super::{Call, exports, get, list, put};
use crate::memory::Kind;

/// `CU_MEM_ALLOCATION_TYPE_PINNED`, the one type that pools have.
const PINNED: c_uint = 1;

impl Call {
    fn allocate_async(&mut self, bytes: usize, pool: Handle<Pool>, stream: Handle<Stream>) -> Answer<u64> {
        // An empty allocation is null, and freeing that is nothing.
        if bytes == 0 {
            return Ok(0);
        }
        let owner = self.pools.get(pool)?;
        if owner.max_size != 0 && owner.used + bytes as u64 > owner.max_size {
            return Err(CUresult::OUT_OF_MEMORY);
        }
        let address = self.allocate(bytes, Kind::Pool, pool, 0)?;
        if self.capturing(stream)? {
            // The graph's memory from now on: it lies at the same address in every launch.
            if let Some(owned) = self.owned.get_mut(&address) {
                owned.graph = true;
            }
            let bytes = bytes as u64;
            self.capture_work(stream, Work::Alloc { address, bytes })?;
        }
        Ok(address)
    }

    /// The pool that a device allocates from.
    fn device_pool(&self, stream: Handle<Stream>) -> Answer<Handle<Pool>> {
        let context = self.streams.get(stream)?.context;
        Ok(self.devices[self.contexts.get(context)?.device].pool)
    }
}

fn location_pool(call: &Call, location: *const CUmemLocation, kind: c_uint) -> Answer<usize> {
    // SAFETY: null or good, as the functions' callers have it.
    let location = unsafe { get(location) }?;
    if kind != PINNED {
        return Err(CUresult::INVALID_VALUE);
    }
    if location.kind != MEM_LOCATION_DEVICE {
        return Err(CUresult::NOT_SUPPORTED);
    }
    call.device(location.id)?;
    Ok(location.id as usize)
}

exports! {
    fn cuMemAllocAsync [cuMemAllocAsync_ptsz] (
        call, pointer: *mut CUdeviceptr, bytes: usize, stream: CUstream
    ) {
        super::present(pointer)?;
        let stream = call.stream(stream)?;
        let pool = call.device_pool(stream)?;
        put(pointer, call.allocate_async(bytes, pool, stream)?)
    }

    fn cuMemAllocFromPoolAsync [cuMemAllocFromPoolAsync_ptsz] (
        call, pointer: *mut CUdeviceptr, bytes: usize, pool: Handle<Pool>, stream: CUstream
    ) {
        super::present(pointer)?;
        let stream = call.stream(stream)?;
        put(pointer, call.allocate_async(bytes, pool, stream)?)
    }

    fn cuMemFreeAsync [cuMemFreeAsync_ptsz] (call, pointer: CUdeviceptr, stream: CUstream) {
        let stream = call.stream(stream)?;
        if pointer == 0 {
            return Ok(());
        }
        let capturing = call.capturing(stream)?;
        match call.owned.get_mut(&pointer) {
            Some(owned) if owned.freed => {
                call.refuse(CUresult::INVALID_VALUE, format!("{pointer:#x} was freed already"))
            }
            Some(owned) if matches!(owned.kind, Kind::Pool | Kind::Device) && owned.graph == capturing => {
                owned.freed = !capturing;
                call.submit(stream, Work::Free { address: pointer }).map(|_| ())
            }
            Some(owned) => {
                let text = format!("{pointer:#x} is from {}", owned.function);
                call.refuse(CUresult::INVALID_VALUE, text)
            }
            None => {
                let device = call.current_device()?;
                let text = call.devices[device].machine.memory.explain(pointer, 1);
                call.refuse(CUresult::INVALID_VALUE, text)
            }
        }
    }

    fn cuMemPoolCreate(call, pool: *mut Handle<Pool>, properties: *const CUmemPoolProps) {
        let properties = get(properties)?;
        if properties.alloc_type != PINNED || properties.handle_types != 0 {
            return call.refuse(CUresult::NOT_SUPPORTED, "only plain pools, which no other process opens");
        }
        if properties.location.kind != MEM_LOCATION_DEVICE {
            return call.refuse(CUresult::NOT_SUPPORTED, "only pools on devices");
        }
        call.device(properties.location.id)?;
        super::present(pool)?;
        let made = Pool::new(properties.location.id as usize, false, properties.max_size as u64);
        put(pool, call.pools.insert(made))
    }

    fn cuMemPoolDestroy(call, pool: Handle<Pool>) {
        if call.pools.get(pool)?.default {
            return Err(CUresult::INVALID_VALUE);
        }
        let removed = call.pools.remove(pool)?;
        let device = &mut call.devices[removed.device];
        if device.pool == pool {
            device.pool = device.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(call, pool: Handle<Pool>, _keep: usize) {
        // Freed memory is given back at once, so there is never any to trim.
        call.pools.get(pool)?;
        Ok(())
    }

    fn cuMemPoolSetAttribute(call, pool: Handle<Pool>, attribute: c_uint, value: *mut c_void) {
        let pool = call.pools.get_mut(pool)?;
        match attribute {
            1..=3 => pool.reuse[attribute as usize - 1] = *get(value.cast::<c_int>())?,
            4 => pool.release_threshold = *get(value.cast::<u64>())?,
            // The high-water marks can only be set back.
            6 | 8 => {
                if *get(value.cast::<u64>())? != 0 {
                    return Err(CUresult::INVALID_VALUE);
                }
                pool.used_high = pool.used;
            }
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolGetAttribute(call, pool: Handle<Pool>, attribute: c_uint, value: *mut c_void) {
        let pool = call.pools.get(pool)?;
        match attribute {
            1..=3 => put(value.cast::<c_int>(), pool.reuse[attribute as usize - 1]),
            4 => put(value.cast::<u64>(), pool.release_threshold),
            5 | 7 => put(value.cast::<u64>(), pool.used),
            6 | 8 => put(value.cast::<u64>(), pool.used_high),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAccess(
        call, pool: Handle<Pool>, descriptions: *const CUmemAccessDesc, number: usize
    ) {
        let own = call.pools.get(pool)?.device;
        for description in list(descriptions, number)? {
            let location = description.location;
            if location.kind != MEM_LOCATION_DEVICE {
                return Err(CUresult::INVALID_VALUE);
            }
            call.device(location.id)?;
            // The own device always has access, and no other one can have it.
            if location.id as usize != own && description.flags != 0 {
                return Err(CUresult::INVALID_DEVICE);
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(
        call, flags: *mut c_uint, pool: Handle<Pool>, location: *const CUmemLocation
    ) {
        let own = call.pools.get(pool)?.device;
        let location = get(location)?;
        if location.kind != MEM_LOCATION_DEVICE {
            return Err(CUresult::INVALID_VALUE);
        }
        call.device(location.id)?;
        put(flags, if location.id as usize == own { 3 } else { 0 })
    }

    fn cuMemGetDefaultMemPool(
        call, pool: *mut Handle<Pool>, location: *const CUmemLocation, kind: c_uint
    ) {
        let device = location_pool(call, location, kind)?;
        put(pool, call.devices[device].default_pool)
    }

    fn cuMemGetMemPool(call, pool: *mut Handle<Pool>, location: *const CUmemLocation, kind: c_uint) {
        let device = location_pool(call, location, kind)?;
        put(pool, call.devices[device].pool)
    }

    fn cuMemSetMemPool(call, location: *const CUmemLocation, kind: c_uint, pool: Handle<Pool>) {
        let device = location_pool(call, location, kind)?;
        if call.pools.get(pool)?.device != device {
            return Err(CUresult::INVALID_DEVICE);
        }
        call.devices[device].pool = pool;
        Ok(())
    }
}
