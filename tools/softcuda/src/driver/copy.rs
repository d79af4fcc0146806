//! Copies and memsets: all directions, one to three dimensions, in streams or waited for.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{Driver, Stream};
use super::types::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUcontext, CUdeviceptr, CUstream, MEMORYTYPE_DEVICE, MEMORYTYPE_HOST,
    MEMORYTYPE_UNIFIED,
};
use super::work::{Copy, Fill, Place, Work};
use super::{Call, exports, get};
use crate::memory::Pattern;

impl Driver {
    /// A device pointer as an end of a copy. Host memory that CUDA knows is taken by its address.
    fn device_place(&self, address: u64) -> Place {
        match self.find(address) {
            Some((_, allocation)) if allocation.kind().is_host() => Place::Host(address as usize),
            Some((device, _)) => Place::Device { device, address },
            None => Place::Device {
                device: self.current_device().unwrap_or(0),
                address,
            },
        }
    }

    /// A pointer that may be of the host or of a device (unified addressing).
    fn unified_place(&self, address: u64) -> Place {
        match self.find(address) {
            Some(_) => self.device_place(address),
            None => Place::Host(address as usize),
        }
    }

    /// Whether host memory is pageable: copies of it are finished with the caller's buffer when they return.
    fn pageable(&self, place: &Place) -> bool {
        matches!(place, Place::Host(address) if self.find(*address as u64).is_none())
    }

    /// Refuses what leaves its allocation.
    fn check_place(&self, place: &Place, bytes: usize) -> Result<(), String> {
        match *place {
            Place::Device { device, address } => {
                let memory = &self.devices[device].machine.memory;
                match memory.find(address) {
                    Some(allocation) if allocation.contains(address, bytes as u64) => {}
                    _ => return Err(memory.explain(address, bytes as u64)),
                }
                if let Some((base, owned)) = self.owned_at(address)
                    && owned.freed
                {
                    return Err(format!("{base:#x} was freed by cuMemFreeAsync"));
                }
                Ok(())
            }
            Place::Host(address) => match self.find(address as u64) {
                Some((_, allocation)) if !allocation.contains(address as u64, bytes as u64) => Err(format!(
                    "{bytes} bytes from {address:#x} leave the {} bytes at {:#x} from {}",
                    allocation.bytes(),
                    allocation.address(),
                    allocation.label()
                )),
                _ => Ok(()),
            },
            Place::Staged(_) => Ok(()),
        }
    }

    /// Refuses a copy that leaves an allocation.
    pub fn check_copy(&self, copy: &Copy) -> Result<(), String> {
        let overflow = || "its size does not fit into an address".to_owned();
        let from = copy.span(copy.from_pitch, copy.from_slice).ok_or_else(overflow)?;
        let to = copy.span(copy.to_pitch, copy.to_slice).ok_or_else(overflow)?;
        if copy.bytes() == 0 {
            return Ok(());
        }
        self.check_place(&copy.from, from)
            .map_err(|why| format!("source: {why}"))?;
        self.check_place(&copy.to, to)
            .map_err(|why| format!("destination: {why}"))
    }

    pub fn check_fill(&self, fill: &Fill) -> Result<(), String> {
        let bytes = fill
            .span()
            .ok_or_else(|| "its size does not fit into an address".to_owned())?;
        if bytes == 0 {
            return Ok(());
        }
        let place = Place::Device {
            device: fill.device,
            address: fill.address,
        };
        self.check_place(&place, bytes)
    }

    /// A memset of rows.
    pub fn fill(
        &self,
        address: u64,
        pitch: usize,
        pattern: Pattern,
        width: usize,
        height: usize,
    ) -> Answer<Fill> {
        let device = match self.find(address) {
            Some((device, _)) => device,
            None => self.current_device()?,
        };
        let fill = Fill {
            device,
            address,
            pitch,
            pattern,
            width,
            height,
        };
        let element = fill.element();
        if !(address as usize).is_multiple_of(element)
            || (height > 1 && (!pitch.is_multiple_of(element) || pitch < width.saturating_mul(element)))
        {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(fill)
    }

    /// `CUDA_MEMCPY3D` in our terms.
    pub fn copy_3d(&self, copy: &CUDA_MEMCPY3D) -> Answer<Copy> {
        let end = |kind: c_uint, host: usize, device: u64, offset: [usize; 3], pitch: usize, rows: usize| {
            let [x, y, z] = offset;
            let add = z
                .checked_mul(rows)
                .and_then(|rows| rows.checked_add(y))
                .and_then(|rows| rows.checked_mul(pitch))
                .and_then(|bytes| bytes.checked_add(x))
                .ok_or(CUresult::INVALID_VALUE)?;
            let host_end = || host.checked_add(add).ok_or(CUresult::INVALID_VALUE);
            let device_end = || device.checked_add(add as u64).ok_or(CUresult::INVALID_VALUE);
            match kind {
                MEMORYTYPE_HOST => Ok(Place::Host(host_end()?)),
                MEMORYTYPE_DEVICE => Ok(self.device_place(device_end()?)),
                MEMORYTYPE_UNIFIED => Ok(self.unified_place(device_end()?)),
                // Arrays: there are none.
                _ => Err(CUresult::INVALID_VALUE),
            }
        };
        let pitch = |given: usize| if given == 0 { copy.width } else { given };
        let (from_pitch, to_pitch) = (pitch(copy.src_pitch), pitch(copy.dst_pitch));
        let rows = |given: usize| if given == 0 { copy.height } else { given };
        let (from_rows, to_rows) = (rows(copy.src_height), rows(copy.dst_height));
        if copy.height > 1 && (from_pitch < copy.width || to_pitch < copy.width) {
            return Err(CUresult::INVALID_VALUE);
        }
        let slice = |pitch: usize, rows: usize| pitch.checked_mul(rows).ok_or(CUresult::INVALID_VALUE);
        copy.width
            .checked_mul(copy.height)
            .and_then(|bytes| bytes.checked_mul(copy.depth))
            .ok_or(CUresult::INVALID_VALUE)?;
        Ok(Copy {
            from: end(
                copy.src_memory_type,
                copy.src_host as usize,
                copy.src_device,
                [copy.src_x, copy.src_y, copy.src_z],
                from_pitch,
                from_rows,
            )?,
            from_pitch,
            from_slice: slice(from_pitch, from_rows)?,
            to: end(
                copy.dst_memory_type,
                copy.dst_host as usize,
                copy.dst_device,
                [copy.dst_x, copy.dst_y, copy.dst_z],
                to_pitch,
                to_rows,
            )?,
            to_pitch,
            to_slice: slice(to_pitch, to_rows)?,
            width: copy.width,
            height: copy.height,
            depth: copy.depth,
        })
    }

    fn copy_2d(&self, copy: &CUDA_MEMCPY2D) -> Answer<Copy> {
        self.copy_3d(&CUDA_MEMCPY3D {
            src_x: copy.src_x,
            src_y: copy.src_y,
            src_z: 0,
            src_lod: 0,
            src_memory_type: copy.src_memory_type,
            src_host: copy.src_host,
            src_device: copy.src_device,
            src_array: copy.src_array,
            reserved0: std::ptr::null_mut(),
            src_pitch: copy.src_pitch,
            src_height: 0,
            dst_x: copy.dst_x,
            dst_y: copy.dst_y,
            dst_z: 0,
            dst_lod: 0,
            dst_memory_type: copy.dst_memory_type,
            dst_host: copy.dst_host,
            dst_device: copy.dst_device,
            dst_array: copy.dst_array,
            reserved1: std::ptr::null_mut(),
            dst_pitch: copy.dst_pitch,
            dst_height: 0,
            width: copy.width,
            height: copy.height,
            depth: 1,
        })
    }
}

/// Whether the caller waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The call returns when the copy is done.
    Done,
    /// The call returns at once, as far as the host's memory allows it.
    Async,
}

impl Call {
    fn submit_copy(&mut self, stream: Handle<Stream>, mut copy: Copy, wait: Wait) -> Answer {
        if let Err(why) = self.check_copy(&copy) {
            return self.refuse(CUresult::INVALID_VALUE, why);
        }
        if copy.bytes() == 0 {
            return Ok(());
        }
        if matches!(copy.from, Place::Host(0)) || matches!(copy.to, Place::Host(0)) {
            return Err(CUresult::INVALID_VALUE);
        }
        let capturing = self.capturing(stream)?;
        if wait == Wait::Done {
            self.forbid_unsafe()?;
        }
        let mut finish = wait == Wait::Done;
        if !capturing && !finish && self.config.lazy {
            // As CUDA documents it: a pageable source is read before the call returns, a pageable destination is
            // written before the call returns.
            if self.pageable(&copy.from) {
                // SAFETY: the program's source, good until the call returns at least.
                unsafe { copy.stage() };
            }
            finish = self.pageable(&copy.to);
        }
        let work = Work::Copy(Arc::new(copy));
        if finish && !capturing {
            self.submit_and_wait(stream, work)
        } else {
            self.submit(stream, work).map(|_| ())
        }
    }

    fn submit_fill(&mut self, stream: Handle<Stream>, fill: Answer<Fill>) -> Answer {
        let fill = fill?;
        if let Err(why) = self.check_fill(&fill) {
            return self.refuse(CUresult::INVALID_VALUE, why);
        }
        if fill.width == 0 || fill.height == 0 {
            return Ok(());
        }
        self.submit(stream, Work::Fill(fill)).map(|_| ())
    }

    fn host_to_device(&mut self, to: u64, from: *const c_void, bytes: usize, on: Target) -> Answer {
        let (stream, wait) = self.target(on)?;
        let copy = Copy::flat(Place::Host(from as usize), self.device_place(to), bytes);
        self.submit_copy(stream, copy, wait)
    }

    fn device_to_host(&mut self, to: *mut c_void, from: u64, bytes: usize, on: Target) -> Answer {
        let (stream, wait) = self.target(on)?;
        let copy = Copy::flat(self.device_place(from), Place::Host(to as usize), bytes);
        self.submit_copy(stream, copy, wait)
    }

    /// Between device pointers. Without a stream the host does not wait either.
    fn device_to_device(&mut self, to: u64, from: u64, bytes: usize, on: Target) -> Answer {
        let (stream, _) = self.target(on)?;
        let copy = Copy::flat(self.device_place(from), self.device_place(to), bytes);
        self.submit_copy(stream, copy, Wait::Async)
    }

    /// Between any two pointers.
    fn unified(&mut self, to: u64, from: u64, bytes: usize, on: Target) -> Answer {
        let (stream, wait) = self.target(on)?;
        let copy = Copy::flat(self.unified_place(from), self.unified_place(to), bytes);
        let on_device = |place: &Place| matches!(place, Place::Device { .. });
        let wait = if on_device(&copy.from) && on_device(&copy.to) {
            Wait::Async
        } else {
            wait
        };
        self.submit_copy(stream, copy, wait)
    }

    fn target(&mut self, on: Target) -> Answer<(Handle<Stream>, Wait)> {
        Ok(match on {
            Target::Blocking => (self.stream(Handle::NULL)?, Wait::Done),
            Target::Stream(stream) => (self.stream(stream)?, Wait::Async),
        })
    }
}

/// Where a copy goes.
#[derive(Clone, Copy)]
enum Target {
    /// Into the default stream, and the caller waits.
    Blocking,
    Stream(CUstream),
}

use Target::Blocking;

/// Peer copies have contexts; with one address space the pointers say it all.
fn contexts(call: &Call, to: CUcontext, from: CUcontext) -> Answer {
    call.contexts.get(to)?;
    call.contexts.get(from).map(|_| ())
}

/// What `CUDA_MEMCPY3D_PEER` has in the place of the reserved pointers.
fn peer_contexts(call: &Call, copy: &CUDA_MEMCPY3D) -> Answer {
    contexts(
        call,
        Handle::from_bits(copy.reserved1 as usize),
        Handle::from_bits(copy.reserved0 as usize),
    )
}

exports! {
    fn cuMemcpy [cuMemcpy_ptds] (call, to: CUdeviceptr, from: CUdeviceptr, bytes: usize) {
        call.unified(to, from, bytes, Blocking)
    }
    fn cuMemcpyAsync [cuMemcpyAsync_ptsz] (
        call, to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream
    ) {
        call.unified(to, from, bytes, Target::Stream(stream))
    }
    fn cuMemcpyPeer [cuMemcpyPeer_ptds] (
        call, to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize
    ) {
        contexts(call, to_context, from_context)?;
        call.unified(to, from, bytes, Blocking)
    }
    fn cuMemcpyPeerAsync [cuMemcpyPeerAsync_ptsz] (
        call, to: CUdeviceptr, to_context: CUcontext, from: CUdeviceptr, from_context: CUcontext, bytes: usize,
        stream: CUstream
    ) {
        contexts(call, to_context, from_context)?;
        call.unified(to, from, bytes, Target::Stream(stream))
    }
    fn cuMemcpyHtoD_v2 [cuMemcpyHtoD_v2_ptds] (
        call, to: CUdeviceptr, from: *const c_void, bytes: usize
    ) {
        call.host_to_device(to, from, bytes, Blocking)
    }
    fn cuMemcpyDtoH_v2 [cuMemcpyDtoH_v2_ptds] (call, to: *mut c_void, from: CUdeviceptr, bytes: usize) {
        call.device_to_host(to, from, bytes, Blocking)
    }
    fn cuMemcpyDtoD_v2 [cuMemcpyDtoD_v2_ptds] (call, to: CUdeviceptr, from: CUdeviceptr, bytes: usize) {
        call.device_to_device(to, from, bytes, Blocking)
    }
    fn cuMemcpyHtoDAsync_v2 [cuMemcpyHtoDAsync_v2_ptsz] (
        call, to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream
    ) {
        call.host_to_device(to, from, bytes, Target::Stream(stream))
    }
    fn cuMemcpyDtoHAsync_v2 [cuMemcpyDtoHAsync_v2_ptsz] (
        call, to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream
    ) {
        call.device_to_host(to, from, bytes, Target::Stream(stream))
    }
    fn cuMemcpyDtoDAsync_v2 [cuMemcpyDtoDAsync_v2_ptsz] (
        call, to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream
    ) {
        call.device_to_device(to, from, bytes, Target::Stream(stream))
    }
    fn cuMemcpy2D_v2 [cuMemcpy2D_v2_ptds] (call, copy: *const CUDA_MEMCPY2D) {
        let stream = call.stream(Handle::NULL)?;
        let copy = call.copy_2d(get(copy)?)?;
        call.submit_copy(stream, copy, Wait::Done)
    }
    fn cuMemcpy2DUnaligned_v2 [cuMemcpy2DUnaligned_v2_ptds] (call, copy: *const CUDA_MEMCPY2D) {
        let stream = call.stream(Handle::NULL)?;
        let copy = call.copy_2d(get(copy)?)?;
        call.submit_copy(stream, copy, Wait::Done)
    }
    fn cuMemcpy2DAsync_v2 [cuMemcpy2DAsync_v2_ptsz] (call, copy: *const CUDA_MEMCPY2D, stream: CUstream) {
        let stream = call.stream(stream)?;
        let copy = call.copy_2d(get(copy)?)?;
        call.submit_copy(stream, copy, Wait::Async)
    }
    fn cuMemcpy3D_v2 [cuMemcpy3D_v2_ptds] (call, copy: *const CUDA_MEMCPY3D) {
        let stream = call.stream(Handle::NULL)?;
        let copy = call.copy_3d(get(copy)?)?;
        call.submit_copy(stream, copy, Wait::Done)
    }
    fn cuMemcpy3DAsync_v2 [cuMemcpy3DAsync_v2_ptsz] (call, copy: *const CUDA_MEMCPY3D, stream: CUstream) {
        let stream = call.stream(stream)?;
        let copy = call.copy_3d(get(copy)?)?;
        call.submit_copy(stream, copy, Wait::Async)
    }
    fn cuMemcpy3DPeer [cuMemcpy3DPeer_ptds] (call, copy: *const CUDA_MEMCPY3D) {
        let stream = call.stream(Handle::NULL)?;
        let copy = get(copy)?;
        peer_contexts(call, copy)?;
        let copy = call.copy_3d(copy)?;
        call.submit_copy(stream, copy, Wait::Done)
    }
    fn cuMemcpy3DPeerAsync [cuMemcpy3DPeerAsync_ptsz] (call, copy: *const CUDA_MEMCPY3D, stream: CUstream) {
        let stream = call.stream(stream)?;
        let copy = get(copy)?;
        peer_contexts(call, copy)?;
        let copy = call.copy_3d(copy)?;
        call.submit_copy(stream, copy, Wait::Async)
    }

    fn cuMemsetD8_v2 [cuMemsetD8_v2_ptds] (call, to: CUdeviceptr, value: u8, count: usize) {
        let stream = call.stream(Handle::NULL)?;
        let fill = call.fill(to, 0, Pattern::U8(value), count, 1);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD16_v2 [cuMemsetD16_v2_ptds] (call, to: CUdeviceptr, value: u16, count: usize) {
        let stream = call.stream(Handle::NULL)?;
        let fill = call.fill(to, 0, Pattern::U16(value), count, 1);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD32_v2 [cuMemsetD32_v2_ptds] (call, to: CUdeviceptr, value: u32, count: usize) {
        let stream = call.stream(Handle::NULL)?;
        let fill = call.fill(to, 0, Pattern::U32(value), count, 1);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD8Async [cuMemsetD8Async_ptsz] (
        call, to: CUdeviceptr, value: u8, count: usize, stream: CUstream
    ) {
        let stream = call.stream(stream)?;
        let fill = call.fill(to, 0, Pattern::U8(value), count, 1);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD16Async [cuMemsetD16Async_ptsz] (
        call, to: CUdeviceptr, value: u16, count: usize, stream: CUstream
    ) {
        let stream = call.stream(stream)?;
        let fill = call.fill(to, 0, Pattern::U16(value), count, 1);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD32Async [cuMemsetD32Async_ptsz] (
        call, to: CUdeviceptr, value: u32, count: usize, stream: CUstream
    ) {
        let stream = call.stream(stream)?;
        let fill = call.fill(to, 0, Pattern::U32(value), count, 1);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD2D8_v2 [cuMemsetD2D8_v2_ptds] (
        call, to: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize
    ) {
        let stream = call.stream(Handle::NULL)?;
        let fill = call.fill(to, pitch, Pattern::U8(value), width, height);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD2D16_v2 [cuMemsetD2D16_v2_ptds] (
        call, to: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize
    ) {
        let stream = call.stream(Handle::NULL)?;
        let fill = call.fill(to, pitch, Pattern::U16(value), width, height);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD2D32_v2 [cuMemsetD2D32_v2_ptds] (
        call, to: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize
    ) {
        let stream = call.stream(Handle::NULL)?;
        let fill = call.fill(to, pitch, Pattern::U32(value), width, height);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD2D8Async [cuMemsetD2D8Async_ptsz] (
        call, to: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize, stream: CUstream
    ) {
        let stream = call.stream(stream)?;
        let fill = call.fill(to, pitch, Pattern::U8(value), width, height);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD2D16Async [cuMemsetD2D16Async_ptsz] (
        call, to: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize, stream: CUstream
    ) {
        let stream = call.stream(stream)?;
        let fill = call.fill(to, pitch, Pattern::U16(value), width, height);
        call.submit_fill(stream, fill)
    }
    fn cuMemsetD2D32Async [cuMemsetD2D32Async_ptsz] (
        call, to: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize, stream: CUstream
    ) {
        let stream = call.stream(stream)?;
        let fill = call.fill(to, pitch, Pattern::U32(value), width, height);
        call.submit_fill(stream, fill)
    }
}
