//! Work for the device, done in the order in which it is given.
//!
//! Nothing here waits but `synchronize`. What a launch or a copy touches has to stay as it is until the
//! device is done with it; no type can say that, so giving work is unsafe.

use std::ffi::c_void;
use std::ops::Range;

use cudarc::driver::sys::{
    CUevent, CUevent_flags, CUgraph, CUgraphExec, CUstream, CUstream_flags, CUstreamCaptureMode,
};

use super::{Context, DriverError, Function, Handle, Pinned, call, log};

/// A queue of work, which waits for no other queue, the legacy default stream included. Threads may share
/// one, if the order in which their work comes does not matter.
#[derive(Debug)]
pub struct Stream {
    handle: Handle<CUstream>,
    context: Context,
}

/// Work that was captured once, to be given as a whole.
#[derive(Debug)]
pub struct Graph {
    handle: Handle<CUgraphExec>,
    context: Context,
}

/// A place in a stream to wait for.
#[derive(Debug)]
pub struct Event {
    handle: Handle<CUevent>,
    context: Context,
}

impl Context {
    pub fn stream(&self) -> Result<Stream, DriverError> {
        let _entered = self.enter()?;
        let mut handle = std::ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the place for the result is good.
        unsafe { call!(cuStreamCreate(&mut handle, flags)) }?;
        Ok(Stream {
            handle: Handle(handle),
            context: self.clone(),
        })
    }

    /// Without a time, which makes it cheaper.
    pub fn event(&self) -> Result<Event, DriverError> {
        self.event_with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// With the time at which it happened, for [`Event::micros_since`].
    #[cfg(feature = "inspect")]
    pub fn timed_event(&self) -> Result<Event, DriverError> {
        self.event_with(CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn event_with(&self, flags: CUevent_flags) -> Result<Event, DriverError> {
        let _entered = self.enter()?;
        let mut handle = std::ptr::null_mut();
        let flags = flags as u32;
        // SAFETY: the place for the result is good.
        unsafe { call!(cuEventCreate(&mut handle, flags)) }?;
        Ok(Event {
            handle: Handle(handle),
            context: self.clone(),
        })
    }
}

impl Stream {
    /// Launches a kernel that takes one parameter, with `shared` bytes of dynamic shared memory. The parameter is copied
    /// before this returns.
    ///
    /// # Panics
    /// If the kernel does not take one parameter of this size.
    ///
    /// # Safety
    /// Every address in `params` is good for what the kernel does with it until the kernel has ended, and
    /// nobody else meanwhile writes there, or reads what it writes. The function lives until then. In a
    /// capture all this holds for each launch of the graph. The function is of this stream's context.
    pub unsafe fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &[u8],
    ) -> Result<(), DriverError> {
        assert_eq!(function.params(), [params.len()], "{}", function.entry());
        let _entered = self.context.enter()?;
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        let [x, y, z] = grid;
        // SAFETY: there is one argument, of the size that the kernel takes (see `Module::function`), which the
        // driver reads; the rest is the caller's.
        unsafe {
            call!(cuLaunchKernel(
                function.handle(),
                x,
                y,
                z,
                block,
                1,
                1,
                shared,
                self.handle.0,
                arguments.as_mut_ptr(),
                std::ptr::null_mut()
            ))
        }
        .map_err(|e| {
            e.with_detail(format!(
                "{}, {x}×{y}×{z} blocks of {block} threads with {shared} bytes of shared memory",
                function.entry()
            ))
        })
    }

    /// Copies a part of `from` to the device.
    ///
    /// # Panics
    /// If `range` is not within `from`.
    ///
    /// # Safety
    /// The device's memory at `to` has this many bytes, and lives; `from` lives and is not written to; both
    /// until the copy is done (in a capture: whenever the graph is launched).
    pub unsafe fn upload(&self, to: u64, from: &Pinned, range: Range<usize>) -> Result<(), DriverError> {
        let from = &from[range];
        let _entered = self.context.enter()?;
        // SAFETY: the slice has the length that is said; the rest is the caller's.
        unsafe {
            call!(cuMemcpyHtoDAsync_v2(
                to,
                from.as_ptr().cast(),
                from.len(),
                self.handle.0
            ))
        }
        .map_err(|e| e.with_detail(format!("{} bytes", from.len())))
    }

    /// Copies from the device into a part of `to`.
    ///
    /// # Panics
    /// If `range` is not within `to`.
    ///
    /// # Safety
    /// The device's memory at `from` has this many bytes, and lives; `to` lives, and is neither read nor
    /// written to; both until the copy is done (in a capture: whenever the graph is launched).
    pub unsafe fn download(
        &self,
        to: &mut Pinned,
        range: Range<usize>,
        from: u64,
    ) -> Result<(), DriverError> {
        let to = &mut to[range];
        let _entered = self.context.enter()?;
        // SAFETY: the slice has the length that is said; the rest is the caller's.
        unsafe {
            call!(cuMemcpyDtoHAsync_v2(
                to.as_mut_ptr().cast(),
                from,
                to.len(),
                self.handle.0
            ))
        }
        .map_err(|e| e.with_detail(format!("{} bytes", to.len())))
    }

    /// Copies within the device's memory.
    ///
    /// # Safety
    /// Both places have this many bytes, and live until this is done (in a capture: whenever the graph is launched).
    #[cfg(feature = "inspect")]
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: the caller's.
        unsafe { call!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.handle.0)) }
            .map_err(|e| e.with_detail(format!("{bytes} bytes")))
    }

    /// Zeros the device's memory.
    ///
    /// # Safety
    /// It has this many bytes at `address`, and lives until this is done (in a capture: whenever the graph
    /// is launched).
    #[cfg(feature = "inspect")]
    pub unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: the caller's.
        unsafe { call!(cuMemsetD8Async(address, 0, bytes, self.handle.0)) }
            .map_err(|e| e.with_detail(format!("{bytes} bytes")))
    }

    /// Captures what `work` gives to this stream, instead of doing it. `work` may not allocate, free or wait;
    /// other threads may, and must leave this stream alone. If it fails, or does such a thing, nothing is left
    /// of the capture.
    pub fn capture<E: From<DriverError>>(
        &self,
        work: impl FnOnce(&Stream) -> Result<(), E>,
    ) -> Result<Graph, E> {
        let _entered = self.context.enter()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is there.
        unsafe { call!(cuStreamBeginCapture_v2(self.handle.0, mode)) }?;
        let capture = Capture(self);
        work(self)?;
        let captured = capture.end()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the graph is there; the place for the result is good.
        unsafe { call!(cuGraphInstantiateWithFlags(&mut handle, captured.0, 0)) }?;
        Ok(Graph {
            handle: Handle(handle),
            context: self.context.clone(),
        })
    }

    /// Gives all that the graph holds. One after the other, if it is given again before it has ended.
    ///
    /// # Safety
    /// What is captured was promised for this launch as well: see [`launch`](Stream::launch). The graph is of
    /// this stream's context and lives until it has ended.
    pub unsafe fn launch_graph(&self, graph: &Graph) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: both are there; the rest is the caller's.
        unsafe { call!(cuGraphLaunch(graph.handle.0, self.handle.0)) }
    }

    /// Waits until all is done that was given before. A kernel's failure shows here, or in any later call.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: the stream is there.
        unsafe { call!(cuStreamSynchronize(self.handle.0)) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: made by `stream`, destroyed once. Work that is left is done before it goes.
            unsafe { call!(cuStreamDestroy_v2(self.handle.0)) }
        }));
    }
}

/// A capture that is under way; dropped, it ends and leaves nothing.
struct Capture<'a>(&'a Stream);

impl Capture<'_> {
    fn end(self) -> Result<Captured, DriverError> {
        let stream = self.0;
        std::mem::forget(self);
        end(stream)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        log(end(self.0).map(drop));
    }
}

fn end(stream: &Stream) -> Result<Captured, DriverError> {
    let end = || {
        let mut graph = std::ptr::null_mut();
        // SAFETY: this thread began the capture; the place for the result is good.
        unsafe { call!(cuStreamEndCapture(stream.handle.0, &mut graph)) }.map(|()| Captured(graph))
    };
    // A call that failed may have left the stream in its capture, where all that is given to it later fails;
    // a second one ends that, and where there is nothing to end it does nothing.
    end().inspect_err(|_| drop(end()))
}

/// What was captured, before it is made into what can be launched.
struct Captured(CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: captured once, destroyed once; the context is entered as long as a capture takes.
        log(unsafe { call!(cuGraphDestroy(self.0)) });
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: made by `capture`, destroyed once. A launch that is under way ends before it goes.
            unsafe { call!(cuGraphExecDestroy(self.handle.0)) }
        }));
    }
}

impl Event {
    /// Stands for all that was given to the stream before.
    pub fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: both are there; the driver refuses a stream of another context.
        unsafe { call!(cuEventRecord(self.handle.0, stream.handle.0)) }
    }

    /// Microseconds from `start` to this, once both are over; both are timed, and recorded.
    #[cfg(feature = "inspect")]
    pub fn micros_since(&self, start: &Event) -> Result<f64, DriverError> {
        let _entered = self.context.enter()?;
        let mut millis = 0f32;
        // SAFETY: both are there; the place for the result is good.
        unsafe { call!(cuEventElapsedTime_v2(&mut millis, start.handle.0, self.handle.0)) }?;
        Ok(1e3 * f64::from(millis))
    }

    /// Waits for it. One that was never recorded is over.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: the event is there.
        unsafe { call!(cuEventSynchronize(self.handle.0)) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: made by `event`, destroyed once.
            unsafe { call!(cuEventDestroy_v2(self.handle.0)) }
        }));
    }
}
