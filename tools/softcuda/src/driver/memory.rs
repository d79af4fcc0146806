//! Memory: device, pinned, registered and managed allocations, and what is known about pointers.

use std::ffi::{c_int, c_uint, c_void};

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{Owned, Pool};
use super::types::{
    CUcontext, CUdeviceptr, CUmemLocation, CUstream, MEM_LOCATION_DEVICE, MEMORYTYPE_DEVICE, MEMORYTYPE_HOST,
};
use super::{Call, exports, list, put, put_if};
use crate::memory::Kind;

/// Rows of pitched memory begin at multiples of this.
const PITCH: usize = 512;

impl Call {
    /// Allocates for the program in the current context.
    pub fn allocate(&mut self, bytes: usize, kind: Kind, pool: Handle<Pool>, flags: u32) -> Answer<u64> {
        let context = self.current()?;
        let device = self.contexts.get(context)?.device;
        if bytes == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let bytes = bytes as u64;
        if let Some(most) = self.faults.allocation
            && bytes > most
        {
            return self.refuse(
                CUresult::OUT_OF_MEMORY,
                format!("{bytes} bytes, and SOFTCUDA_FAULTS allows {most} at once"),
            );
        }
        let function = self.function;
        let mut result = self.devices[device]
            .machine
            .memory
            .allocate(bytes, kind, function);
        if result.is_err() && !self.pending.is_empty() {
            // Memory may be on its way back in streams that nobody waited for.
            self.run_context(context);
            result = self.devices[device]
                .machine
                .memory
                .allocate(bytes, kind, function);
        }
        let address = match result {
            Ok(address) => address,
            Err(error) => return self.refuse(CUresult::OUT_OF_MEMORY, error.to_string()),
        };
        self.own(address, device, bytes, kind, pool, flags)?;
        Ok(address)
    }

    /// Notes an allocation as the program's, and makes host memory known to the other devices.
    fn own(
        &mut self,
        address: u64,
        device: usize,
        bytes: u64,
        kind: Kind,
        pool: Handle<Pool>,
        flags: u32,
    ) -> Answer {
        let owned = Owned {
            device,
            context: self.current()?,
            bytes,
            kind,
            function: self.function,
            call: self.number,
            pool,
            flags,
            graph: false,
            freed: false,
        };
        self.owned.insert(address, owned);
        if let Ok(pool) = self.pools.get_mut(pool) {
            pool.used += bytes;
            pool.used_high = pool.used_high.max(pool.used);
        }
        if kind.is_host() {
            let function = self.function;
            for other in (0..self.devices.len()).filter(|&other| other != device) {
                // SAFETY: the range is mapped until it is freed, when it is taken out of every device again.
                let result = unsafe {
                    self.devices[other]
                        .machine
                        .memory
                        .register_host(address as *mut u8, bytes, function)
                };
                if let Err(error) = result {
                    super::say(&format!("{function}: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Frees at once, after all work of the context.
    pub fn free(&mut self, address: u64, kinds: &[Kind]) -> Answer {
        let context = self.current()?;
        match self.owned.get(&address) {
            Some(owned) if owned.freed => {
                self.refuse(CUresult::INVALID_VALUE, format!("{address:#x} was freed already"))
            }
            Some(owned) if kinds.contains(&owned.kind) && !owned.graph => {
                let owner = owned.context;
                self.run_context(owner);
                if owner != context {
                    self.run_context(context);
                }
                self.release(address);
                Ok(())
            }
            Some(owned) => {
                let text = format!("{address:#x} is from {}", owned.function);
                self.refuse(CUresult::INVALID_VALUE, text)
            }
            None => {
                let device = self.current_device()?;
                let text = self.devices[device].machine.memory.explain(address, 1);
                self.refuse(CUresult::INVALID_VALUE, text)
            }
        }
    }
}

/// The program's allocation that holds a pointer.
fn owner(call: &Call, address: u64) -> Answer<(u64, &Owned)> {
    call.owned_at(address).ok_or(CUresult::INVALID_VALUE)
}

/// Start and size of what holds a device address, module variables among it.
fn range(call: &Call, address: u64) -> Option<(usize, u64, u64, Kind)> {
    let (device, allocation) = call.find(address)?;
    Some((
        device,
        allocation.address(),
        allocation.bytes(),
        allocation.kind(),
    ))
}

fn pitched(call: &mut Call, width: usize, height: usize, element: c_uint) -> Answer<(u64, usize)> {
    if width == 0 || height == 0 || !matches!(element, 4 | 8 | 16) {
        return Err(CUresult::INVALID_VALUE);
    }
    let pitch = width
        .checked_next_multiple_of(PITCH)
        .ok_or(CUresult::INVALID_VALUE)?;
    let bytes = pitch.checked_mul(height).ok_or(CUresult::OUT_OF_MEMORY)?;
    Ok((call.allocate(bytes, Kind::Device, Handle::NULL, 0)?, pitch))
}

fn pinned(call: &mut Call, bytes: usize, flags: c_uint) -> Answer<*mut c_void> {
    if flags & !7 != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let start = call.allocate(bytes, Kind::Pinned, Handle::NULL, flags)?;
    if let Some(delay) = call.faults.page_locking_delay(bytes as u64) {
        // Under the driver's lock, as all other threads would find it.
        std::thread::sleep(delay);
    }
    Ok(start as *mut c_void)
}

/// One `CUpointer_attribute`. What does not apply to the pointer is an error, as it is for a pointer that CUDA does
/// not know.
unsafe fn pointer_attribute(call: &Call, attribute: c_uint, data: *mut c_void, address: u64) -> Answer {
    if data.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let (device, base, bytes, kind) = range(call, address).ok_or(CUresult::INVALID_VALUE)?;
    let owned = call.owned_at(address).map(|(_, owned)| owned);
    let context = match owned {
        Some(owned) => owned.context,
        None => call.devices[device].primary,
    };
    let host = kind.is_host();
    // SAFETY: the caller gives room for what the attribute is.
    unsafe {
        match attribute {
            1 => data.cast::<CUcontext>().write(context),
            2 => data.cast::<c_uint>().write(match kind {
                Kind::Pinned | Kind::Registered => MEMORYTYPE_HOST,
                _ => MEMORYTYPE_DEVICE,
            }),
            3 => data.cast::<u64>().write(address),
            4 if host => data.cast::<u64>().write(address),
            4 => return Err(CUresult::INVALID_VALUE),
            6 => data.cast::<c_uint>().write(0),
            7 => data.cast::<u64>().write(match owned {
                Some(owned) => owned.call,
                None => base,
            }),
            8 => data.cast::<c_uint>().write(u32::from(kind == Kind::Managed)),
            9 => data.cast::<c_int>().write(device as c_int),
            10 | 15 | 21 => data.cast::<bool>().write(false),
            11 => data.cast::<u64>().write(base),
            12 => data.cast::<usize>().write(bytes as usize),
            13 => data.cast::<bool>().write(true),
            14 => data.cast::<u64>().write(0),
            // Read and write
            16 => data.cast::<c_uint>().write(3),
            17 => data.cast::<Handle<Pool>>().write(match owned {
                Some(owned) => owned.pool,
                None => Handle::NULL,
            }),
            _ => return Err(CUresult::INVALID_VALUE),
        }
    }
    Ok(())
}

exports! {
    fn cuMemGetInfo_v2(call, free: *mut usize, total: *mut usize) {
        let device = call.current_device()?;
        let (left, all) = call.devices[device].machine.memory.usage();
        put(free, left as usize)?;
        put(total, all as usize)
    }

    fn cuMemAlloc_v2(call, pointer: *mut CUdeviceptr, bytes: usize) {
        call.forbid_unsafe()?;
        super::present(pointer)?;
        put(pointer, call.allocate(bytes, Kind::Device, Handle::NULL, 0)?)
    }

    fn cuMemAllocPitch_v2(
        call, pointer: *mut CUdeviceptr, pitch: *mut usize, width: usize, height: usize, element: c_uint
    ) {
        call.forbid_unsafe()?;
        super::present(pointer)?;
        super::present(pitch)?;
        let (address, bytes) = pitched(call, width, height, element)?;
        put(pitch, bytes)?;
        put(pointer, address)
    }

    fn cuMemFree_v2(call, pointer: CUdeviceptr) {
        call.forbid_unsafe()?;
        call.current()?;
        if pointer == 0 {
            return Ok(());
        }
        call.free(pointer, &[Kind::Device, Kind::Pool, Kind::Managed])
    }

    fn cuMemGetAddressRange_v2(call, base: *mut CUdeviceptr, bytes: *mut usize, pointer: CUdeviceptr) {
        call.context()?;
        let (_, start, length, _) = range(call, pointer).ok_or(CUresult::NOT_FOUND)?;
        put_if(base, start);
        put_if(bytes, length as usize);
        Ok(())
    }

    fn cuMemAllocHost_v2(call, pointer: *mut *mut c_void, bytes: usize) {
        call.forbid_unsafe()?;
        super::present(pointer)?;
        put(pointer, pinned(call, bytes, 0)?)
    }

    fn cuMemHostAlloc(call, pointer: *mut *mut c_void, bytes: usize, flags: c_uint) {
        call.forbid_unsafe()?;
        super::present(pointer)?;
        put(pointer, pinned(call, bytes, flags)?)
    }

    fn cuMemFreeHost(call, pointer: *mut c_void) {
        call.forbid_unsafe()?;
        call.free(pointer as u64, &[Kind::Pinned])
    }

    fn cuMemHostGetDevicePointer_v2(
        call, device: *mut CUdeviceptr, pointer: *mut c_void, flags: c_uint
    ) {
        call.context()?;
        if flags != 0 || !owner(call, pointer as u64)?.1.kind.is_host() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(device, pointer as u64)
    }

    fn cuMemHostGetFlags(call, flags: *mut c_uint, pointer: *mut c_void) {
        call.context()?;
        let (_, owned) = owner(call, pointer as u64)?;
        if owned.kind != Kind::Pinned {
            return Err(CUresult::INVALID_VALUE);
        }
        // With unified addressing all pinned memory is mapped.
        put(flags, owned.flags | 2)
    }

    fn cuMemAllocManaged(call, pointer: *mut CUdeviceptr, bytes: usize, flags: c_uint) {
        call.forbid_unsafe()?;
        super::present(pointer)?;
        if !matches!(flags, 1 | 2) {
            return Err(CUresult::INVALID_VALUE);
        }
        put(pointer, call.allocate(bytes, Kind::Managed, Handle::NULL, flags)?)
    }

    fn cuMemHostRegister_v2(call, pointer: *mut c_void, bytes: usize, flags: c_uint) {
        call.forbid_unsafe()?;
        let context = call.current()?;
        if pointer.is_null() || bytes == 0 || flags & !0xF != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let start = pointer as u64;
        let end = start.checked_add(bytes as u64).ok_or(CUresult::INVALID_VALUE)?;
        let before = call.owned.range(..end).next_back();
        if before.is_some_and(|(&base, owned)| base + owned.bytes > start) {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let device = call.contexts.get(context)?.device;
        let function = call.function;
        let memory = &mut call.devices[device].machine.memory;
        let result = memory.register_host(pointer.cast(), bytes as u64, function);
        if let Err(error) = result {
            return call.refuse(CUresult::INVALID_VALUE, error.to_string());
        }
        call.own(start, device, bytes as u64, Kind::Registered, Handle::NULL, flags)
    }

    fn cuMemHostUnregister(call, pointer: *mut c_void) {
        call.forbid_unsafe()?;
        call.context()?;
        match call.owned.get(&(pointer as u64)) {
            Some(owned) if owned.kind == Kind::Registered => call.free(pointer as u64, &[Kind::Registered]),
            _ => Err(CUresult::HOST_MEMORY_NOT_REGISTERED),
        }
    }

    fn cuPointerGetAttribute(call, data: *mut c_void, attribute: c_uint, pointer: CUdeviceptr) {
        call.context()?;
        pointer_attribute(call, attribute, data, pointer)
    }

    fn cuPointerGetAttributes(
        call, number: c_uint, attributes: *const c_uint, data: *mut *mut c_void, pointer: CUdeviceptr
    ) {
        call.context()?;
        let attributes = list(attributes, number as usize)?;
        let data = list(data.cast_const(), number as usize)?;
        for (&attribute, &data) in attributes.iter().zip(data) {
            // For a pointer that CUDA does not know the answers are zeros, not an error.
            if pointer_attribute(call, attribute, data, pointer).is_err() {
                zero_attribute(attribute, data)?;
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(
        call, value: *const c_void, attribute: c_uint, pointer: CUdeviceptr
    ) {
        call.context()?;
        // SYNC_MEMOPS is the only one that can be set.
        if value.is_null() || attribute != 6 {
            return Err(CUresult::INVALID_VALUE);
        }
        range(call, pointer).map(|_| ()).ok_or(CUresult::INVALID_VALUE)
    }

    fn cuMemPrefetchAsync_v2 [cuMemPrefetchAsync_v2_ptsz] (
        call, pointer: CUdeviceptr, bytes: usize, location: CUmemLocation, flags: c_uint, stream: CUstream
    ) {
        call.stream(stream)?;
        if location.kind == MEM_LOCATION_DEVICE {
            call.device(location.id)?;
        }
        advise(call, pointer, bytes, flags)
    }

    fn cuMemAdvise_v2(call, pointer: CUdeviceptr, bytes: usize, _advice: c_uint, _location: CUmemLocation) {
        call.context()?;
        advise(call, pointer, bytes, 0)
    }

    fn cuStreamAttachMemAsync [cuStreamAttachMemAsync_ptsz] (
        call, stream: CUstream, pointer: CUdeviceptr, _bytes: usize, flags: c_uint
    ) {
        call.stream(stream)?;
        if !matches!(flags, 1 | 2 | 4) {
            return Err(CUresult::INVALID_VALUE);
        }
        range(call, pointer).map(|_| ()).ok_or(CUresult::INVALID_VALUE)
    }
}

/// Hints about managed memory: checked, and of no effect.
fn advise(call: &Call, pointer: u64, bytes: usize, flags: c_uint) -> Answer {
    let (_, base, length, kind) = range(call, pointer).ok_or(CUresult::INVALID_VALUE)?;
    let inside = bytes > 0 && (bytes as u64) <= length - (pointer - base);
    if flags != 0 || kind != Kind::Managed || !inside {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(())
}

unsafe fn zero_attribute(attribute: c_uint, data: *mut c_void) -> Answer {
    if data.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller gives room for what the attribute is.
    unsafe {
        match attribute {
            1 | 3 | 4 | 7 | 11 | 12 | 14 | 17 => data.cast::<u64>().write(0),
            2 | 6 | 8 | 16 => data.cast::<c_uint>().write(0),
            // DEVICE_ORDINAL
            9 => data.cast::<c_int>().write(-2),
            10 | 13 | 15 | 21 => data.cast::<bool>().write(false),
            _ => return Err(CUresult::INVALID_VALUE),
        }
    }
    Ok(())
}
