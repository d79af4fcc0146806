//! Memory of the device, and page-locked memory of the host.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};

use super::{Context, DriverError, Handle, call, log};

/// Memory of the device, freed when this is dropped. Its initial contents are undefined.
#[derive(Debug)]
pub struct DeviceMemory {
    address: u64,
    len: usize,
    context: Context,
}

/// Page-locked memory of the host, freed when this is dropped. Copies to and from it are asynchronous.
#[derive(Debug)]
pub struct Pinned {
    start: Handle<*mut c_void>,
    len: usize,
    context: Context,
}

impl Context {
    /// Allocates device memory, aligned to at least 256 bytes.
    pub fn allocate(&self, bytes: usize) -> Result<DeviceMemory, DriverError> {
        let _entered = self.enter()?;
        let mut address = 0;
        // The driver refuses an allocation of 0 bytes.
        // SAFETY: the place for the result is good.
        unsafe { call!(cuMemAlloc_v2(&mut address, bytes.max(1))) }
            .map_err(|e| e.with_detail(format!("{bytes} bytes")))?;
        Ok(DeviceMemory {
            address,
            len: bytes,
            context: self.clone(),
        })
    }

    /// Allocates page-locked memory, filled with zeros.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, DriverError> {
        let _entered = self.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: the place for the result is good.
        unsafe { call!(cuMemHostAlloc(&mut start, bytes.max(1), 0)) }
            .map_err(|e| e.with_detail(format!("{bytes} bytes")))?;
        // SAFETY: it has this many bytes, and nobody else knows of it.
        unsafe { start.cast::<u8>().write_bytes(0, bytes) };
        Ok(Pinned {
            start: Handle(start),
            len: bytes,
            context: self.clone(),
        })
    }
}

impl DeviceMemory {
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl Pinned {
    /// Its address for kernels: the same as for the host, as all memory of a process has one address space (CUDA
    /// programming guide, "Unified Virtual Address Space").
    pub fn address(&self) -> u64 {
        self.start.0 as u64
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: allocated by `allocate`, freed once. Whoever gave its address to a kernel promised that it
            // is done.
            unsafe { call!(cuMemFree_v2(self.address)) }
        }));
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: it has this many bytes, all of them written, and is freed after `self`. Whoever lets the
        // device write to it promised that nobody looks meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.0.cast(), self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: it has this many bytes, all of them written, and is freed after `self`, which is borrowed mutably.
        // Whoever lets the device read or write it promised that nobody looks meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.0.cast(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: allocated by `pinned`, freed once. Whoever began a copy promised that it is done.
            unsafe { call!(cuMemFreeHost(self.start.0)) }
        }));
    }
}
