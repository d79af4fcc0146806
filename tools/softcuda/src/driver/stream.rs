//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{Context, Event, Stream, StreamKind};
use super::types::{CUcontext, CUdevice, CUevent, CUhostFn, CUlaunchAttributeValue, CUstream};
use super::work::{CUstreamCallback, HostCall, Work};
use super::{Call, exports, present, put, put_if};

/// Priorities go from 0 (least) to this.
pub const GREATEST_PRIORITY: c_int = -5;

const NON_BLOCKING: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
const INTERPROCESS: c_uint = 4;
/// `CU_EVENT_RECORD_EXTERNAL`, `CU_EVENT_WAIT_EXTERNAL`: as a node of the graph.
const EXTERNAL: c_uint = 1;
/// `CU_LAUNCH_ATTRIBUTE_PRIORITY`
const PRIORITY: c_uint = 8;

fn create(call: &mut Call, flags: c_uint, priority: c_int) -> Answer<CUstream> {
    let context = call.current()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    // Priorities out of the range are moved into it.
    let priority = priority.clamp(GREATEST_PRIORITY, 0);
    Ok(call.make_stream(context, StreamKind::Created, flags & NON_BLOCKING != 0, priority))
}

fn destroy(call: &mut Call, handle: CUstream) -> Answer {
    let stream = call.streams.get(handle)?;
    if stream.kind != StreamKind::Created {
        return Err(CUresult::INVALID_HANDLE);
    }
    if stream.capture.is_some() {
        call.invalidate(handle);
    }
    // Work that is in it is done all the same: later, or now when it is the last chance to find out about it.
    let stream = call.streams.remove(handle)?;
    call.check_drained(&stream);
    let last = stream.last;
    if let Some(op) = last
        && !call.config.lazy
    {
        call.run_until(op);
    }
    Ok(())
}

impl Call {
    fn event(&self, handle: Handle<Event>) -> Answer<&Event> {
        self.events.get(handle)
    }

    fn record(&mut self, event: CUevent, stream: CUstream, flags: c_uint) -> Answer {
        if flags & !EXTERNAL != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let stream = self.stream(stream)?;
        let context = self.streams.get(stream)?.context;
        if self.event(event)?.context != context {
            return Err(CUresult::INVALID_HANDLE);
        }
        if self.capturing(stream)? {
            if flags == EXTERNAL {
                return self.capture_work(stream, Work::Record(event));
            }
            let capture = self.streams.get(stream)?.capture.clone();
            let event = self.events.get_mut(event)?;
            event.captured = capture;
            return Ok(());
        }
        self.forbid_implicit(stream)?;
        let op = self.enqueue(stream, Work::Record(event))?;
        let recorded = self.events.get_mut(event)?;
        recorded.recorded = Some(op);
        recorded.time = None;
        recorded.captured = None;
        if !self.config.lazy {
            self.run_until(op);
        }
        Ok(())
    }

    fn wait_event(&mut self, stream: CUstream, handle: CUevent, flags: c_uint) -> Answer {
        if flags & !EXTERNAL != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let stream = self.stream(stream)?;
        let event = self.event(handle)?;
        let (captured, recorded) = (event.captured.clone(), event.recorded);
        if let Some(captured) = captured {
            return self.join_capture(stream, &captured);
        }
        if self.capturing(stream)? {
            if flags == EXTERNAL {
                return self.capture_work(stream, Work::Wait(handle));
            }
            if recorded.is_none() {
                return Ok(());
            }
            self.invalidate(stream);
            return self.refuse(
                CUresult::STREAM_CAPTURE_ISOLATION,
                "the event was recorded outside of the capture",
            );
        }
        if let Some(op) = recorded
            && (self.is_pending(op) || self.timeline.due(op).is_some())
        {
            self.streams.get_mut(stream)?.waits.push(op);
        }
        Ok(())
    }

    /// All work in a stream, what it was told to wait for included.
    fn run_stream(&mut self, stream: Handle<Stream>) -> Answer {
        let context = self.streams.get(stream)?.context;
        let mut ops = self.streams.get(stream)?.waits.clone();
        ops.extend(self.streams.get(stream)?.last);
        if self.streams.get(stream)?.kind == StreamKind::Legacy {
            // The legacy stream stands behind all blocking streams.
            let others = self.streams.iter();
            ops.extend(
                others
                    .filter(|(_, other)| other.context == context && !other.non_blocking)
                    .filter_map(|(_, other)| other.last),
            );
        }
        for op in ops {
            self.wait_until(op);
        }
        self.healthy(context)
    }

    fn stream_busy(&self, stream: Handle<Stream>) -> Answer<bool> {
        let stream = self.streams.get(stream)?;
        Ok(stream
            .last
            .iter()
            .chain(&stream.waits)
            .any(|&op| self.is_pending(op)))
    }

    fn forbid_captured(&mut self, event: CUevent) -> Answer {
        self.forbid_unsafe()?;
        match self.event(event)?.captured.is_some() {
            true => self.refuse(
                CUresult::CAPTURED_EVENT,
                "the event was last recorded in a capturing stream",
            ),
            false => Ok(()),
        }
    }

    fn elapsed(&mut self, start: CUevent, end: CUevent) -> Answer<f32> {
        self.forbid_captured(start)?;
        self.forbid_captured(end)?;
        let (first, second) = (self.event(start)?, self.event(end)?);
        if (first.flags | second.flags) & DISABLE_TIMING != 0 {
            return Err(CUresult::INVALID_HANDLE);
        }
        if first.recorded.is_none() || second.recorded.is_none() {
            return Err(CUresult::INVALID_HANDLE);
        }
        match (first.time, second.time) {
            (Some(first), Some(second)) => Ok(match second.checked_duration_since(first) {
                Some(time) => time.as_secs_f32() * 1e3,
                None => -(first.duration_since(second).as_secs_f32() * 1e3),
            }),
            _ => Err(CUresult::NOT_READY),
        }
    }
}

exports! {
    fn cuStreamCreate(call, stream: *mut CUstream, flags: c_uint) {
        present(stream)?;
        put(stream, create(call, flags, 0)?)
    }
    fn cuStreamCreateWithPriority(call, stream: *mut CUstream, flags: c_uint, priority: c_int) {
        present(stream)?;
        put(stream, create(call, flags, priority)?)
    }
    fn cuStreamDestroy(call, stream: CUstream) {
        destroy(call, stream)
    }
    fn cuStreamDestroy_v2(call, stream: CUstream) {
        destroy(call, stream)
    }
    fn cuStreamGetPriority [cuStreamGetPriority_ptsz] (call, stream: CUstream, priority: *mut c_int) {
        let stream = call.stream(stream)?;
        put(priority, call.streams.get(stream)?.priority)
    }
    fn cuStreamGetFlags [cuStreamGetFlags_ptsz] (call, stream: CUstream, flags: *mut c_uint) {
        let stream = call.stream(stream)?;
        put(flags, c_uint::from(call.streams.get(stream)?.non_blocking))
    }
    fn cuStreamGetId [cuStreamGetId_ptsz] (call, stream: CUstream, id: *mut u64) {
        let stream = call.stream(stream)?;
        put(id, call.streams.get(stream)?.id)
    }
    fn cuStreamGetCtx [cuStreamGetCtx_ptsz] (call, stream: CUstream, context: *mut CUcontext) {
        let stream = call.stream(stream)?;
        put(context, call.streams.get(stream)?.context)
    }
    fn cuStreamGetCtx_v2 [cuStreamGetCtx_v2_ptsz] (
        call, stream: CUstream, context: *mut CUcontext, green: *mut *mut c_void
    ) {
        let stream = call.stream(stream)?;
        put_if(green, std::ptr::null_mut());
        put(context, call.streams.get(stream)?.context)
    }
    fn cuStreamGetDevice [cuStreamGetDevice_ptsz] (call, stream: CUstream, device: *mut CUdevice) {
        let stream = call.stream(stream)?;
        let context: Handle<Context> = call.streams.get(stream)?.context;
        put(device, call.contexts.get(context)?.device as CUdevice)
    }
    fn cuStreamGetAttribute [cuStreamGetAttribute_ptsz] (
        call, stream: CUstream, attribute: c_uint, value: *mut CUlaunchAttributeValue
    ) {
        let stream = call.stream(stream)?;
        let mut words = [0; 16];
        match attribute {
            PRIORITY => words[0] = call.streams.get(stream)?.priority as u32,
            // Access policy, synchronisation policy, memory domains: hints, never set.
            1 | 3 | 9 | 10 => {}
            _ => return Err(CUresult::INVALID_VALUE),
        }
        put(value, CUlaunchAttributeValue { words })
    }
    fn cuStreamSetAttribute [cuStreamSetAttribute_ptsz] (
        call, stream: CUstream, attribute: c_uint, value: *const CUlaunchAttributeValue
    ) {
        let stream = call.stream(stream)?;
        let value = super::get(value)?;
        match attribute {
            PRIORITY => {
                call.streams.get_mut(stream)?.priority =
                    (value.words[0] as c_int).clamp(GREATEST_PRIORITY, 0);
            }
            1 | 3 | 9 | 10 => {}
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }
    fn cuStreamCopyAttributes [cuStreamCopyAttributes_ptsz] (call, to: CUstream, from: CUstream) {
        let to = call.stream(to)?;
        let from = call.stream(from)?;
        call.streams.get_mut(to)?.priority = call.streams.get(from)?.priority;
        Ok(())
    }
    fn cuStreamWaitEvent [cuStreamWaitEvent_ptsz] (call, stream: CUstream, event: CUevent, flags: c_uint) {
        call.wait_event(stream, event, flags)
    }
    fn cuStreamQuery [cuStreamQuery_ptsz] (call, stream: CUstream) {
        let stream = call.stream(stream)?;
        call.forbid_on_captured(stream)?;
        if call.stream_busy(stream)? {
            // Asking is a way to wait: it is done now, and the next question hears of it.
            call.run_stream(stream)?;
            return Err(CUresult::NOT_READY);
        }
        let last = call.streams.get(stream)?.last;
        match last.and_then(|op| call.timeline.due(op)) {
            Some(_) => Err(CUresult::NOT_READY),
            None => Ok(()),
        }
    }
    fn cuStreamSynchronize [cuStreamSynchronize_ptsz] (call, stream: CUstream) {
        let stream = call.stream(stream)?;
        call.forbid_on_captured(stream)?;
        call.forbid_implicit(stream)?;
        call.run_stream(stream)
    }
    fn cuStreamAddCallback [cuStreamAddCallback_ptsz] (
        call, stream: CUstream, callback: Option<CUstreamCallback>, data: *mut c_void, flags: c_uint
    ) {
        let handle = call.stream(stream)?;
        let callback = callback.ok_or(CUresult::INVALID_VALUE)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        call.forbid_on_captured(handle)?;
        let host = HostCall { function: None, data, callback: Some((callback, stream)) };
        call.submit(handle, Work::Host(host)).map(|_| ())
    }
    fn cuLaunchHostFunc [cuLaunchHostFunc_ptsz] (
        call, stream: CUstream, function: CUhostFn, data: *mut c_void
    ) {
        let stream = call.stream(stream)?;
        if function.is_none() {
            return Err(CUresult::INVALID_VALUE);
        }
        let host = HostCall { function, data, callback: None };
        call.submit(stream, Work::Host(host)).map(|_| ())
    }

    fn cuEventCreate(call, event: *mut CUevent, flags: c_uint) {
        let context = call.current()?;
        present(event)?;
        if flags & !7 != 0 || flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS {
            return Err(CUresult::INVALID_VALUE);
        }
        let made = call.events.insert(Event {
            context,
            flags,
            recorded: None,
            time: None,
            captured: None,
        });
        put(event, made)
    }
    fn cuEventDestroy(call, event: CUevent) {
        call.events.remove(event).map(|_| ())
    }
    fn cuEventDestroy_v2(call, event: CUevent) {
        call.events.remove(event).map(|_| ())
    }
    fn cuEventRecord [cuEventRecord_ptsz] (call, event: CUevent, stream: CUstream) {
        call.record(event, stream, 0)
    }
    fn cuEventRecordWithFlags [cuEventRecordWithFlags_ptsz] (
        call, event: CUevent, stream: CUstream, flags: c_uint
    ) {
        call.record(event, stream, flags)
    }
    fn cuEventQuery(call, event: CUevent) {
        call.forbid_captured(event)?;
        let found = call.event(event)?;
        let (context, recorded) = (found.context, found.recorded);
        call.healthy(context)?;
        if let Some(op) = recorded
            && call.is_pending(op)
        {
            call.run_until(op);
            call.healthy(context)?;
            return Err(CUresult::NOT_READY);
        }
        match recorded.and_then(|op| call.timeline.due(op)) {
            Some(_) => Err(CUresult::NOT_READY),
            None => Ok(()),
        }
    }
    fn cuEventSynchronize(call, event: CUevent) {
        call.forbid_captured(event)?;
        let found = call.event(event)?;
        let (context, recorded) = (found.context, found.recorded);
        if let Some(op) = recorded {
            call.wait_until(op);
        }
        call.healthy(context)
    }
    fn cuEventElapsedTime(call, milliseconds: *mut f32, start: CUevent, end: CUevent) {
        present(milliseconds)?;
        put(milliseconds, call.elapsed(start, end)?)
    }
    fn cuEventElapsedTime_v2(call, milliseconds: *mut f32, start: CUevent, end: CUevent) {
        present(milliseconds)?;
        put(milliseconds, call.elapsed(start, end)?)
    }
    fn cuCtxRecordEvent(call, context: CUcontext, event: CUevent) {
        // The event stands for all work of the context.
        call.contexts.get(context)?;
        call.run_context(context);
        let legacy = call.contexts.get(context)?.legacy;
        call.record(event, legacy, 0)
    }
    fn cuCtxWaitEvent(call, context: CUcontext, event: CUevent) {
        call.contexts.get(context)?;
        if let Some(op) = call.event(event)?.recorded {
            call.wait_until(op);
        }
        call.healthy(context)
    }
}
