//! Streams: work for the device, executed in the order in which it is submitted.
//!
//! Only `synchronize` waits. The memory that a launch or a copy uses must stay valid and unchanged until the device is
//! done with it; no type expresses that, so submitting work is unsafe.

use std::ffi::c_void;
use std::ops::Range;

#[cfg(feature = "inspect")]
use cudarc::driver::sys::CUresult;
use cudarc::driver::sys::{
    CUevent, CUevent_flags, CUgraph, CUgraphExec, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUstream, CUstream_flags, CUstreamCaptureMode,
};

#[cfg(feature = "inspect")]
use super::library;
use super::{Context, DriverError, Function, Handle, Pinned, call, log};

/// A non-blocking stream: it does not synchronise with the legacy default stream or any other. Threads may share
/// one, if the order of their work does not matter. Dropping it waits for its work.
#[derive(Debug)]
pub struct Stream {
    handle: Handle<CUstream>,
    context: Context,
}

/// Work that was captured once, to be launched as a whole. It has to go before the modules of its kernels do: no document
/// of the driver allows the other order.
#[derive(Debug)]
pub struct Graph {
    handle: Handle<CUgraphExec>,
    context: Context,
}

/// When a launch begins, as to the launch before it in its stream, or in the capture of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serialization {
    /// When that one has ended.
    Full,
    /// From compute capability [`DEPENDENT_LAUNCH`] on, when that one lets it (programmatic dependent launch: see
    /// `cuda/ptx.cuh`); on others when that one has ended.
    Programmatic,
}

/// Since when devices have programmatic dependent launch, and kernels the instructions for it.
const DEPENDENT_LAUNCH: (u32, u32) = (9, 0);

#[cfg(feature = "inspect")]
type ElapsedTime = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// A point in a stream that can be waited for.
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

    /// An event without a timestamp, which is cheaper.
    pub fn event(&self) -> Result<Event, DriverError> {
        self.event_with(CUevent_flags::CU_EVENT_DISABLE_TIMING as u32)
    }

    /// The same; a thread that waits for it sleeps until the device wakes it. (For others it asks all the time, which
    /// takes a core and hears of the end some microseconds earlier.)
    pub fn sleeping_event(&self) -> Result<Event, DriverError> {
        let flags = [
            CUevent_flags::CU_EVENT_DISABLE_TIMING,
            CUevent_flags::CU_EVENT_BLOCKING_SYNC,
        ];
        self.event_with(flags.into_iter().fold(0, |all, flag| all | flag as u32))
    }

    /// An event with a timestamp, for [`Event::micros_since`].
    #[cfg(feature = "inspect")]
    pub fn timed_event(&self) -> Result<Event, DriverError> {
        self.event_with(CUevent_flags::CU_EVENT_DEFAULT as u32)
    }

    fn event_with(&self, flags: u32) -> Result<Event, DriverError> {
        let _entered = self.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the place for the result is good.
        unsafe { call!(cuEventCreate(&mut handle, flags)) }?;
        Ok(Event {
            handle: Handle(handle),
            context: self.clone(),
        })
    }
}

impl Stream {
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Launches a kernel that takes one parameter, with `shared` bytes of dynamic shared memory. The parameter is copied
    /// before this returns.
    ///
    /// # Panics
    /// If the driver tells that the kernel does not take one parameter of this size.
    ///
    /// # Safety
    /// Every address in `params` is valid for what the kernel does with it until the kernel has ended; meanwhile
    /// nothing else writes there, or reads what the kernel writes. The function lives until then. In a
    /// capture all this holds for each launch of the graph. The function belongs to this stream's context.
    /// With [`Serialization::Programmatic`] the kernel itself waits for those before it, all of whose threads do likewise.
    pub unsafe fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        params: &[u8],
        serialization: Serialization,
    ) -> Result<(), DriverError> {
        if let Some(sizes) = function.params() {
            assert_eq!(sizes, [params.len()], "{}", function.entry());
        }
        let _entered = self.context.enter()?;
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        let mut attributes = [CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        }];
        let programmatic = serialization == Serialization::Programmatic
            && self.context.facts().capability >= DEPENDENT_LAUNCH;
        let [x, y, z] = grid;
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: self.handle.0,
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(programmatic),
        };
        // SAFETY: there is one argument, of the size that the kernel takes (see `Module::function`), and there are as many
        // attributes as the configuration says; the driver reads them, and keeps none. The rest is the caller's.
        unsafe {
            call!(cuLaunchKernelEx(
                &config,
                function.handle(),
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
    /// Until the copy is done, the device's memory at `to` lives and has this many bytes, and `from` lives and is not
    /// written (in a capture: at every launch of the graph).
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
    /// Until the copy is done, the device's memory at `from` lives and has this many bytes, and `to` lives and is neither
    /// read nor written (in a capture: at every launch of the graph).
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
    /// Both ranges live and have this many bytes until this is done (in a capture: at every launch of the graph).
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
    /// The memory at `address` lives and has this many bytes until this is done (in a capture: at every launch of the
    /// graph).
    pub unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: the caller's.
        unsafe { call!(cuMemsetD8Async(address, 0, bytes, self.handle.0)) }
            .map_err(|e| e.with_detail(format!("{bytes} bytes")))
    }

    /// Captures what `work` submits to this stream, instead of executing it. `work` must not allocate, free or wait;
    /// other threads may, but must not use this stream. If `work` fails, or does such a thing, the capture is
    /// discarded.
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

    /// Launches a graph. A launch before the previous one has ended waits for it.
    ///
    /// # Safety
    /// The conditions of everything that was captured hold for this launch: see [`launch`](Stream::launch). The graph
    /// belongs to this stream's context and lives until it has ended.
    pub unsafe fn launch_graph(&self, graph: &Graph) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: both are there; the rest is the caller's.
        unsafe { call!(cuGraphLaunch(graph.handle.0, self.handle.0)) }
    }

    /// Waits until all work submitted before is done. A kernel's failure is returned here, or by any later call.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: the stream is there.
        unsafe { call!(cuStreamSynchronize(self.handle.0)) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // To destroy a stream does not wait for its work, and what that work uses may be freed next. If this fails, the
        // context is lost and nothing runs in it.
        log(self.synchronize());
        log(self.context.enter().and_then(|_entered| {
            // SAFETY: made by `stream`, destroyed once, without work in it.
            unsafe { call!(cuStreamDestroy_v2(self.handle.0)) }
        }));
    }
}

/// A running capture; dropping it discards it.
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
    // A failed call may leave the stream capturing, so that all later work fails; a second call ends the capture, and
    // does nothing if there is none.
    end().inspect_err(|_| drop(end()))
}

/// A captured graph, before it is instantiated.
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
            // SAFETY: made by `capture`, destroyed once. The driver keeps it until a launch that is under way has ended.
            unsafe { call!(cuGraphExecDestroy(self.handle.0)) }
        }));
    }
}

impl Event {
    /// Makes this event the current end of the stream's work.
    pub fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        let _entered = self.context.enter()?;
        // SAFETY: both are there; the driver refuses a stream of another context.
        unsafe { call!(cuEventRecord(self.handle.0, stream.handle.0)) }
    }

    /// Microseconds from `start` to this; both have timestamps, are recorded and have happened.
    #[cfg(feature = "inspect")]
    pub fn micros_since(&self, start: &Event) -> Result<f64, DriverError> {
        let _entered = self.context.enter()?;
        let mut millis = 0f32;
        // SAFETY: that is its type; both events are there; the place for the result is good.
        let code = unsafe {
            // `cuEventElapsedTime_v2` came with CUDA 12.8 and gives the same for events like these.
            let elapsed = library::symbol::<ElapsedTime>("cuEventElapsedTime");
            elapsed(&mut millis, start.handle.0, self.handle.0)
        };
        if code != CUresult::CUDA_SUCCESS {
            return Err(DriverError::new("cuEventElapsedTime", code));
        }
        Ok(1e3 * f64::from(millis))
    }

    /// Waits until it has happened. An event that was never recorded counts as having happened.
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
