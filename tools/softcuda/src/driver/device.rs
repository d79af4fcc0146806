//! Initialisation, versions, devices, errors' names.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::exports;
use super::handle::Handle;
use super::result::CUresult;
use super::types::{CUdevice, CUdevprop, CUuuid};
use super::{VERSION, exit, put, put_text, string};
use crate::run::profile::{MAX_BLOCK, MAX_GRID, WARP};

exports! {
    fn cuInit(call, flags: c_uint) {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        if let Some(error) = call.config.error.clone() {
            return call.refuse(CUresult::INVALID_VALUE, error);
        }
        if !call.initialised {
            call.initialised = true;
            exit::register();
        }
        Ok(())
    }

    fn cuDriverGetVersion(call, version: *mut c_int) {
        put(version, call.faults.driver.unwrap_or(VERSION))
    }

    fn cuGetErrorName(_call, error: CUresult, name: *mut *const c_char) {
        match error.name() {
            Some(text) => put(name, text.as_ptr()),
            None => {
                put(name, std::ptr::null())?;
                Err(CUresult::INVALID_VALUE)
            }
        }
    }

    fn cuGetErrorString(_call, error: CUresult, description: *mut *const c_char) {
        match error.description() {
            Some(text) => put(description, text.as_ptr()),
            None => {
                put(description, std::ptr::null())?;
                Err(CUresult::INVALID_VALUE)
            }
        }
    }

    fn cuGetExportTable(call, _table: *mut *const c_void, _id: *const CUuuid) {
        call.refuse(
            CUresult::NOT_SUPPORTED,
            "programs of the CUDA runtime API are not supported: they reach into the driver by tables that are not \
             documented. Use the driver API (cuLaunchKernel and so on)",
        )
    }

    fn cuDeviceGet(call, device: *mut CUdevice, ordinal: c_int) {
        call.device(ordinal)?;
        put(device, ordinal)
    }

    fn cuDeviceGetCount(call, count: *mut c_int) {
        put(count, call.devices.len() as c_int)
    }

    fn cuDeviceGetName(call, name: *mut c_char, length: c_int, device: CUdevice) {
        let profile = call.device(device)?.profile();
        put_text(name, usize::try_from(length).unwrap_or(0), profile.name)
    }

    fn cuDeviceGetUuid(call, uuid: *mut CUuuid, device: CUdevice) {
        put(uuid, identity(call.device(device)?.profile().key, device))
    }

    fn cuDeviceGetUuid_v2(call, uuid: *mut CUuuid, device: CUdevice) {
        put(uuid, identity(call.device(device)?.profile().key, device))
    }

    fn cuDeviceGetLuid(call, _luid: *mut c_char, _mask: *mut c_uint, device: CUdevice) {
        // Only Windows has them.
        call.device(device)?;
        Err(CUresult::NOT_SUPPORTED)
    }

    fn cuDeviceTotalMem_v2(call, bytes: *mut usize, device: CUdevice) {
        let (_, total) = call.device(device)?.machine.memory.usage();
        put(bytes, total as usize)
    }

    fn cuDeviceGetAttribute(call, value: *mut c_int, attribute: c_uint, device: CUdevice) {
        let profile = call.device(device)?.profile();
        let found = profile.attribute(attribute, device as u32).ok_or(CUresult::INVALID_VALUE)?;
        put(value, found)
    }

    fn cuDeviceComputeCapability(call, major: *mut c_int, minor: *mut c_int, device: CUdevice) {
        let profile = call.device(device)?.profile();
        put(major, profile.major)?;
        put(minor, profile.minor)
    }

    fn cuDeviceGetProperties(call, properties: *mut CUdevprop, device: CUdevice) {
        let profile = call.device(device)?.profile();
        put(properties, CUdevprop {
            max_threads_per_block: profile.threads_per_block as c_int,
            max_threads_dim: MAX_BLOCK.map(|n| n as c_int),
            max_grid_size: MAX_GRID.map(|n| n as c_int),
            shared_mem_per_block: profile.shared_per_block as c_int,
            total_constant_memory: profile.constant_bytes as c_int,
            simd_width: WARP as c_int,
            mem_pitch: c_int::MAX,
            regs_per_block: profile.registers_per_block as c_int,
            clock_rate: profile.clock_khz as c_int,
            texture_align: 512,
        })
    }

    fn cuDeviceGetPCIBusId(call, id: *mut c_char, length: c_int, device: CUdevice) {
        call.device(device)?;
        let text = format!("0000:{:02X}:00.0", device + 1);
        if usize::try_from(length).unwrap_or(0) <= text.len() {
            return Err(CUresult::INVALID_VALUE);
        }
        put_text(id, length as usize, &text)
    }

    fn cuDeviceGetByPCIBusId(call, device: *mut CUdevice, id: *const c_char) {
        let id = string(id)?.to_string_lossy().to_ascii_uppercase();
        let parsed = || {
            let rest = id.strip_prefix("0000:").unwrap_or(&id);
            let (bus, place) = rest.split_once(':')?;
            matches!(place, "00" | "00.0").then_some(())?;
            c_int::from_str_radix(bus, 16).ok()?.checked_sub(1)
        };
        let ordinal = parsed().ok_or(CUresult::INVALID_VALUE)?;
        call.device(ordinal)?;
        put(device, ordinal)
    }

    fn cuDeviceGetExecAffinitySupport(call, supported: *mut c_int, _kind: c_uint, device: CUdevice) {
        call.device(device)?;
        put(supported, 0)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(
        call, width: *mut usize, _format: c_uint, _channels: c_uint, device: CUdevice
    ) {
        call.device(device)?;
        put(width, 0)
    }

    fn cuDeviceCanAccessPeer(call, can: *mut c_int, device: CUdevice, peer: CUdevice) {
        call.device(device)?;
        call.device(peer)?;
        put(can, 0)
    }

    fn cuDeviceGetP2PAttribute(
        call, value: *mut c_int, _attribute: c_uint, source: CUdevice, target: CUdevice
    ) {
        call.device(source)?;
        call.device(target)?;
        if source == target {
            return Err(CUresult::INVALID_DEVICE);
        }
        put(value, 0)
    }

    fn cuDeviceGetDefaultMemPool(call, pool: *mut Handle<super::state::Pool>, device: CUdevice) {
        put(pool, call.device(device)?.default_pool)
    }

    fn cuDeviceGetMemPool(call, pool: *mut Handle<super::state::Pool>, device: CUdevice) {
        put(pool, call.device(device)?.pool)
    }

    fn cuDeviceSetMemPool(call, device: CUdevice, pool: Handle<super::state::Pool>) {
        call.device(device)?;
        if call.pools.get(pool)?.device != device as usize {
            return Err(CUresult::INVALID_DEVICE);
        }
        call.device_mut(device)?.pool = pool;
        Ok(())
    }

    fn cuProfilerStart(call) {
        call.context()?;
        Ok(())
    }

    fn cuProfilerStop(call) {
        call.context()?;
        Ok(())
    }
}

/// An identifier that is the same in every process.
fn identity(key: &str, device: CUdevice) -> CUuuid {
    let mut bytes = *b"softcuda\0\0\0\0\0\0\0\0";
    bytes[8..8 + key.len().min(7)].copy_from_slice(&key.as_bytes()[..key.len().min(7)]);
    bytes[15] = device as u8;
    CUuuid { bytes }
}
