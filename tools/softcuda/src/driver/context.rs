//! Contexts: primary ones, created ones, the thread's stack of them, limits.

use std::ffi::{c_int, c_uint};

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{self, Context};
use super::types::{CUcontext, CUctxCreateParams, CUdevice};
use super::{Call, exports, put};

const SCHEDULE: c_uint = 0x07;
const FLAGS: c_uint = 0xFF;
/// What `cuCtxGetApiVersion` tells: the version of the context interface, not of CUDA.
const CONTEXT_VERSION: c_uint = 3020;

fn check_flags(flags: c_uint) -> Answer {
    // The ways to wait exclude each other.
    if flags & !FLAGS != 0 || (flags & SCHEDULE).count_ones() > 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(())
}

fn create(call: &mut Call, device: CUdevice, flags: c_uint) -> Answer<CUcontext> {
    check_flags(flags)?;
    call.device(device)?;
    let context = call.make_context(device as usize, flags, false)?;
    state::push_current(context);
    Ok(context)
}

/// A context argument; null is the current one.
fn given(call: &Call, context: CUcontext) -> Answer<Handle<Context>> {
    if context.is_null() {
        return call.current();
    }
    call.contexts.get(context).map(|_| context)
}

fn synchronize(call: &mut Call, context: Handle<Context>) -> Answer {
    call.forbid_while_capturing(context)?;
    call.run_context(context);
    call.healthy(context)
}

/// The value of a limit that was never set.
fn default_limit(limit: c_uint) -> Option<usize> {
    Some(match limit {
        0 => 1024,
        1 => 1 << 20,
        2 => 8 << 20,
        // L2 fetch granularity
        5 => 64,
        // Persisting L2
        6 => 0,
        _ => return None,
    })
}

exports! {
    fn cuDevicePrimaryCtxRetain(call, context: *mut CUcontext, device: CUdevice) {
        let flags = call.device(device)?.primary_flags;
        if call.device(device)?.primary.is_null() {
            let made = call.make_context(device as usize, flags, true)?;
            call.device_mut(device)?.primary = made;
        }
        let state = call.device_mut(device)?;
        state.primary_retained += 1;
        put(context, state.primary)
    }

    fn cuDevicePrimaryCtxRelease(call, device: CUdevice) {
        release_primary(call, device)
    }

    fn cuDevicePrimaryCtxRelease_v2(call, device: CUdevice) {
        release_primary(call, device)
    }

    fn cuDevicePrimaryCtxReset(call, device: CUdevice) {
        reset_primary(call, device)
    }

    fn cuDevicePrimaryCtxReset_v2(call, device: CUdevice) {
        reset_primary(call, device)
    }

    fn cuDevicePrimaryCtxSetFlags(call, device: CUdevice, flags: c_uint) {
        set_primary_flags(call, device, flags)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(call, device: CUdevice, flags: c_uint) {
        set_primary_flags(call, device, flags)
    }

    fn cuDevicePrimaryCtxGetState(call, device: CUdevice, flags: *mut c_uint, active: *mut c_int) {
        let state = call.device(device)?;
        put(flags, state.primary_flags)?;
        put(active, c_int::from(!state.primary.is_null()))
    }

    fn cuCtxCreate_v2(call, context: *mut CUcontext, flags: c_uint, device: CUdevice) {
        put(context, Handle::NULL)?;
        put(context, create(call, device, flags)?)
    }

    fn cuCtxCreate_v3(
        call, context: *mut CUcontext, _affinity: *const std::ffi::c_void, number: c_int, flags: c_uint,
        device: CUdevice
    ) {
        put(context, Handle::NULL)?;
        if number != 0 {
            return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
        }
        put(context, create(call, device, flags)?)
    }

    fn cuCtxCreate_v4(
        call, context: *mut CUcontext, params: *const CUctxCreateParams, flags: c_uint, device: CUdevice
    ) {
        put(context, Handle::NULL)?;
        if let Some(params) = params.as_ref() {
            if params.num_affinity != 0 {
                return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
            }
            if !params.cig.is_null() {
                return call.refuse(CUresult::NOT_SUPPORTED, "graphics queues are not supported");
            }
        }
        put(context, create(call, device, flags)?)
    }

    fn cuCtxDestroy(call, context: CUcontext) {
        destroy(call, context)
    }

    fn cuCtxDestroy_v2(call, context: CUcontext) {
        destroy(call, context)
    }

    fn cuCtxPushCurrent(call, context: CUcontext) {
        call.contexts.get(context)?;
        state::push_current(context);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(call, context: CUcontext) {
        call.contexts.get(context)?;
        state::push_current(context);
        Ok(())
    }

    fn cuCtxPopCurrent(_call, context: *mut CUcontext) {
        let popped = state::pop_current().ok_or(CUresult::INVALID_CONTEXT)?;
        super::put_if(context, popped);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(_call, context: *mut CUcontext) {
        let popped = state::pop_current().ok_or(CUresult::INVALID_CONTEXT)?;
        super::put_if(context, popped);
        Ok(())
    }

    fn cuCtxSetCurrent(call, context: CUcontext) {
        if !context.is_null() {
            call.contexts.get(context)?;
        }
        state::set_current(context);
        Ok(())
    }

    fn cuCtxGetCurrent(_call, context: *mut CUcontext) {
        put(context, state::current())
    }

    fn cuCtxGetDevice(call, device: *mut CUdevice) {
        put(device, call.current_device()? as CUdevice)
    }

    fn cuCtxGetDevice_v2(call, device: *mut CUdevice, context: CUcontext) {
        let context = given(call, context)?;
        put(device, call.contexts.get(context)?.device as CUdevice)
    }

    fn cuCtxGetFlags(call, flags: *mut c_uint) {
        put(flags, call.context()?.flags)
    }

    fn cuCtxSetFlags(call, flags: c_uint) {
        check_flags(flags)?;
        let context = call.current()?;
        call.contexts.get_mut(context)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetId(call, context: CUcontext, id: *mut u64) {
        let context = given(call, context)?;
        put(id, call.contexts.get(context)?.id)
    }

    fn cuCtxSynchronize(call) {
        let context = call.current()?;
        synchronize(call, context)
    }

    fn cuCtxSynchronize_v2(call, context: CUcontext) {
        let context = given(call, context)?;
        synchronize(call, context)
    }

    fn cuCtxSetLimit(call, limit: c_uint, value: usize) {
        let context = call.current()?;
        if limit > 9 {
            return Err(CUresult::INVALID_VALUE);
        }
        default_limit(limit).ok_or(CUresult::UNSUPPORTED_LIMIT)?;
        if limit == 6 {
            let most = call.profile()?.persisting_l2_bytes as usize;
            if value > most {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        call.contexts.get_mut(context)?.limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetLimit(call, value: *mut usize, limit: c_uint) {
        let context = call.context()?;
        if limit > 9 {
            return Err(CUresult::INVALID_VALUE);
        }
        let default = default_limit(limit).ok_or(CUresult::UNSUPPORTED_LIMIT)?;
        put(value, context.limits.get(&limit).copied().unwrap_or(default))
    }

    fn cuCtxGetCacheConfig(call, config: *mut c_uint) {
        put(config, call.context()?.cache_config)
    }

    fn cuCtxSetCacheConfig(call, config: c_uint) {
        let context = call.current()?;
        if config > 3 {
            return Err(CUresult::INVALID_VALUE);
        }
        call.contexts.get_mut(context)?.cache_config = config;
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(call, config: *mut c_uint) {
        put(config, call.context()?.shared_config)
    }

    fn cuCtxSetSharedMemConfig(call, config: c_uint) {
        let context = call.current()?;
        if config > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        call.contexts.get_mut(context)?.shared_config = config;
        Ok(())
    }

    fn cuCtxGetApiVersion(call, context: CUcontext, version: *mut c_uint) {
        given(call, context)?;
        put(version, CONTEXT_VERSION)
    }

    fn cuCtxGetStreamPriorityRange(call, least: *mut c_int, greatest: *mut c_int) {
        call.context()?;
        super::put_if(least, 0);
        super::put_if(greatest, super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache(call) {
        call.context()?;
        Ok(())
    }

    fn cuCtxGetExecAffinity(call, _affinity: *mut std::ffi::c_void, _kind: c_uint) {
        call.context()?;
        Err(CUresult::UNSUPPORTED_EXEC_AFFINITY)
    }

    fn cuCtxAttach(call, context: *mut CUcontext, flags: c_uint) {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        put(context, call.current()?)
    }

    fn cuCtxDetach(call, context: CUcontext) {
        call.contexts.get(context)?;
        Ok(())
    }

    fn cuCtxEnablePeerAccess(call, peer: CUcontext, flags: c_uint) {
        let own = call.context()?.device;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        if call.contexts.get(peer)?.device == own {
            return Err(CUresult::INVALID_CONTEXT);
        }
        Err(CUresult::PEER_ACCESS_UNSUPPORTED)
    }

    fn cuCtxDisablePeerAccess(call, peer: CUcontext) {
        call.context()?;
        call.contexts.get(peer)?;
        Err(CUresult::PEER_ACCESS_NOT_ENABLED)
    }
}

fn release_primary(call: &mut Call, device: CUdevice) -> Answer {
    let state = call.device_mut(device)?;
    if state.primary_retained == 0 {
        return Err(CUresult::INVALID_CONTEXT);
    }
    state.primary_retained -= 1;
    if state.primary_retained > 0 {
        return Ok(());
    }
    end_primary(call, device)
}

fn reset_primary(call: &mut Call, device: CUdevice) -> Answer {
    call.device_mut(device)?.primary_retained = 0;
    end_primary(call, device)
}

fn end_primary(call: &mut Call, device: CUdevice) -> Answer {
    let primary = std::mem::replace(&mut call.device_mut(device)?.primary, Handle::NULL);
    if !primary.is_null() {
        call.run_context(primary);
        let why = format!("{} ended the primary context", call.function);
        call.destroy_context(primary, &why);
    }
    Ok(())
}

fn set_primary_flags(call: &mut Call, device: CUdevice, flags: c_uint) -> Answer {
    check_flags(flags)?;
    let state = call.device_mut(device)?;
    state.primary_flags = flags;
    let primary = state.primary;
    if let Ok(context) = call.contexts.get_mut(primary) {
        context.flags = flags;
    }
    Ok(())
}

fn destroy(call: &mut Call, context: CUcontext) -> Answer {
    if call.contexts.get(context)?.primary {
        return call.refuse(
            CUresult::INVALID_CONTEXT,
            "the primary context ends with cuDevicePrimaryCtxRelease",
        );
    }
    call.run_context(context);
    let why = format!("{} ended the context", call.function);
    call.destroy_context(context, &why);
    if state::current() == context {
        state::pop_current();
    }
    Ok(())
}
