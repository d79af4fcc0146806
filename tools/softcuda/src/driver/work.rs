//! Work in streams: its kinds, its order, its execution.
//!
//! Each piece of work has a number, and depends on pieces with smaller numbers: the one before it in its stream,
//! events that the stream waits for, the legacy default stream. With `SOFTCUDA_ASYNC=lazy` a piece is done only when
//! the program waits for it or for a piece that depends on it, together with its own dependencies and nothing else. So
//! a program that reads a result without waiting finds the old bytes, and one that reuses a pinned source buffer too
//! early sends the new ones.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use super::Call;
use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{Context, Driver, Event, Function, Graph, Module, Stream, StreamKind};
use super::types::CUhostFn;
use crate::ir::Kernel;
use crate::machine;
use crate::memory::Pattern;

/// Number of a piece of work.
pub type OpId = u64;

pub struct Pending {
    /// The stream's [`Stream::id`].
    pub stream: u64,
    pub context: Handle<Context>,
    pub after: Vec<OpId>,
    /// When what it comes after is over, of what was performed before.
    pub ready: Option<Instant>,
    /// Whether it may take time by itself: a graph does as a whole.
    pub alone: bool,
    pub work: Work,
}

#[derive(Clone)]
pub enum Work {
    Empty,
    /// A graph begins: what its kernels come after in their streams is all done.
    Order(Arc<[u64]>),
    Kernel(Arc<KernelWork>),
    Copy(Arc<Copy>),
    Fill(Fill),
    Host(HostCall),
    Record(Handle<Event>),
    /// In graphs.
    Wait(Handle<Event>),
    /// In graphs.
    Child(Handle<Graph>),
    /// Memory of a graph: its bytes are fresh from here on.
    Alloc {
        address: u64,
        bytes: u64,
    },
    Free {
        address: u64,
    },
}

pub struct KernelWork {
    pub function: Handle<Function>,
    pub module: Handle<Module>,
    pub kernel: Arc<Kernel>,
    pub launch: machine::Launch,
}

#[derive(Clone, Copy)]
pub struct HostCall {
    pub function: CUhostFn,
    pub data: *mut c_void,
    /// `cuStreamAddCallback`'s kind of function, which gets the stream and a status.
    pub callback: Option<(CUstreamCallback, Handle<Stream>)>,
}

pub type CUstreamCallback = unsafe extern "C" fn(Handle<Stream>, CUresult, *mut c_void);

// SAFETY: the program asks for its function to be called with its pointer on a thread of the driver's choice.
unsafe impl Send for HostCall {}
// SAFETY: a shared `HostCall` gives no access to what `data` points to; only the program's function follows it.
unsafe impl Sync for HostCall {}

/// One end of a copy.
#[derive(Clone, Debug)]
pub enum Place {
    Host(usize),
    Device {
        device: usize,
        address: u64,
    },
    /// What a pageable source held when the copy was put in: rows of `width` bytes without gaps.
    Staged(Arc<[u8]>),
}

/// A copy of rows: `depth` slices of `height` rows of `width` bytes.
#[derive(Clone, Debug)]
pub struct Copy {
    pub from: Place,
    pub from_pitch: usize,
    pub from_slice: usize,
    pub to: Place,
    pub to_pitch: usize,
    pub to_slice: usize,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Fill {
    pub device: usize,
    pub address: u64,
    pub pitch: usize,
    pub pattern: Pattern,
    /// Elements per row.
    pub width: usize,
    pub height: usize,
}

impl Copy {
    /// `bytes` in one row.
    pub fn flat(from: Place, to: Place, bytes: usize) -> Self {
        Self {
            from,
            from_pitch: bytes,
            from_slice: bytes,
            to,
            to_pitch: bytes,
            to_slice: bytes,
            width: bytes,
            height: 1,
            depth: 1,
        }
    }

    /// Bytes moved.
    pub fn bytes(&self) -> usize {
        self.width * self.height * self.depth
    }

    /// From the first byte to the last one of an end with this pitch and slice; `None` when it does not fit into an
    /// address.
    pub fn span(&self, pitch: usize, slice: usize) -> Option<usize> {
        if self.bytes() == 0 {
            return Some(0);
        }
        (self.depth - 1)
            .checked_mul(slice)?
            .checked_add((self.height - 1).checked_mul(pitch)?)?
            .checked_add(self.width)
    }

    /// (offset at the source, offset at the destination, offset in rows without gaps, bytes), row by row; rows that
    /// touch on both sides are one.
    fn rows(&self) -> Vec<(usize, usize, usize, usize)> {
        if self.bytes() == 0 {
            return Vec::new();
        }
        let dense = |pitch: usize, slice: usize| {
            (self.height == 1 || pitch == self.width)
                && (self.depth == 1 || slice == self.width * self.height)
        };
        if dense(self.from_pitch, self.from_slice) && dense(self.to_pitch, self.to_slice) {
            return vec![(0, 0, 0, self.bytes())];
        }
        let mut rows = Vec::with_capacity(self.height * self.depth);
        for z in 0..self.depth {
            for y in 0..self.height {
                rows.push((
                    z * self.from_slice + y * self.from_pitch,
                    z * self.to_slice + y * self.to_pitch,
                    (z * self.height + y) * self.width,
                    self.width,
                ));
            }
        }
        rows
    }

    /// Takes the source's bytes now.
    ///
    /// # Safety
    /// The host source is readable.
    pub unsafe fn stage(&mut self) {
        let Place::Host(base) = self.from else { return };
        let mut bytes = Vec::with_capacity(self.bytes());
        for (from, _, _, width) in self.rows() {
            // SAFETY: the caller vouches for the rows.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts((base + from) as *const u8, width) });
        }
        self.from = Place::Staged(bytes.into());
        self.from_pitch = self.width;
        self.from_slice = self.width * self.height;
    }

    fn run(&self, driver: &mut Driver) -> Result<(), String> {
        for (from, to, packed, bytes) in self.rows() {
            // SAFETY: host addresses of copies are the program's, which vouches for them until the copy is done.
            unsafe { self.run_row(driver, from, to, packed, bytes) }?;
        }
        Ok(())
    }

    unsafe fn run_row(
        &self,
        driver: &mut Driver,
        from: usize,
        to: usize,
        packed: usize,
        bytes: usize,
    ) -> Result<(), String> {
        let memory = |device: usize| &driver.devices[device].machine.memory;
        let text = |error: crate::memory::AccessError| error.to_string();
        match (&self.from, &self.to) {
            (Place::Host(source), Place::Host(target)) => {
                // SAFETY: see `run`; the ranges may overlap.
                unsafe { std::ptr::copy((source + from) as *const u8, (target + to) as *mut u8, bytes) };
            }
            (Place::Staged(source), Place::Host(target)) => {
                let source = &source[packed..packed + bytes];
                // SAFETY: see `run`.
                unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), (target + to) as *mut u8, bytes) };
            }
            (Place::Host(source), &Place::Device { device, address }) => {
                // SAFETY: see `run`.
                let source = unsafe { std::slice::from_raw_parts((source + from) as *const u8, bytes) };
                memory(device).write(address + to as u64, source).map_err(text)?;
            }
            (Place::Staged(source), &Place::Device { device, address }) => {
                let source = &source[packed..packed + bytes];
                memory(device).write(address + to as u64, source).map_err(text)?;
            }
            (&Place::Device { device, address }, Place::Host(target)) => {
                // SAFETY: see `run`.
                let target = unsafe { std::slice::from_raw_parts_mut((target + to) as *mut u8, bytes) };
                memory(device).read(address + from as u64, target).map_err(text)?;
            }
            (
                &Place::Device { device, address },
                &Place::Device {
                    device: other,
                    address: target,
                },
            ) => {
                let (source, target) = (address + from as u64, target + to as u64);
                if device == other {
                    memory(device).copy(target, source, bytes as u64).map_err(text)?;
                } else {
                    let mut buffer = vec![0; bytes];
                    memory(device).read(source, &mut buffer).map_err(text)?;
                    memory(other).write(target, &buffer).map_err(text)?;
                }
            }
            (_, Place::Staged(_)) => unreachable!("a copy into what was staged"),
        }
        Ok(())
    }
}

impl Fill {
    pub fn element(&self) -> usize {
        match self.pattern {
            Pattern::U8(_) => 1,
            Pattern::U16(_) => 2,
            Pattern::U32(_) => 4,
        }
    }

    pub fn span(&self) -> Option<usize> {
        if self.width == 0 || self.height == 0 {
            return Some(0);
        }
        (self.height - 1)
            .checked_mul(self.pitch)?
            .checked_add(self.width.checked_mul(self.element())?)
    }

    fn run(&self, driver: &mut Driver) -> Result<(), String> {
        let memory = &driver.devices[self.device].machine.memory;
        for row in 0..self.height {
            if self.width > 0 {
                memory
                    .fill(
                        self.address + (row * self.pitch) as u64,
                        self.pattern,
                        self.width as u64,
                    )
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

impl HostCall {
    fn run(self) {
        // SAFETY: the program gave the function and its pointer to be called once the work before is done.
        unsafe {
            match (self.callback, self.function) {
                (Some((callback, stream)), _) => callback(stream, CUresult::SUCCESS, self.data),
                (None, Some(function)) => function(self.data),
                (None, None) => {}
            }
        }
    }
}

impl Driver {
    /// Puts work at the end of a stream that is not capturing. It is not done yet.
    pub fn enqueue(&mut self, handle: Handle<Stream>, work: Work) -> Answer<OpId> {
        let stream = self.streams.get_mut(handle)?;
        let mut after = std::mem::take(&mut stream.waits);
        after.extend(stream.last);
        let (context, id, kind, non_blocking) = (stream.context, stream.id, stream.kind, stream.non_blocking);
        // The legacy default stream and the blocking streams of its context wait for each other.
        if kind == StreamKind::Legacy {
            after.extend(
                self.streams
                    .iter()
                    .filter(|(_, other)| other.context == context && !other.non_blocking)
                    .filter_map(|(_, other)| other.last),
            );
        } else if !non_blocking {
            let legacy = self.contexts.get(context)?.legacy;
            after.extend(self.streams.get(legacy)?.last);
        }
        let op = self.add_op((context, id), after, work);
        if let Some(pending) = self.pending.get_mut(&op) {
            pending.alone = true;
        }
        self.streams.get_mut(handle)?.last = Some(op);
        Ok(op)
    }

    /// Work with its place in the order given.
    pub fn add_op(
        &mut self,
        (context, stream): (Handle<Context>, u64),
        mut after: Vec<OpId>,
        work: Work,
    ) -> OpId {
        let ready = self.timeline.latest(&after);
        after.retain(|op| self.is_pending(*op));
        let op = self.next_op;
        self.next_op += 1;
        self.pending.insert(
            op,
            Pending {
                stream,
                context,
                after,
                ready,
                alone: false,
                work,
            },
        );
        op
    }

    pub fn is_pending(&self, op: OpId) -> bool {
        self.pending.contains_key(&op) || self.running.contains(&op)
    }

    /// What has to be done for `op` to be done, in order; work that runs on another thread is in it.
    fn needed(&self, op: OpId) -> BTreeSet<OpId> {
        let mut needed = BTreeSet::new();
        let mut open = vec![op];
        while let Some(op) = open.pop() {
            if !self.is_pending(op) || !needed.insert(op) {
                continue;
            }
            if let Some(pending) = self.pending.get(&op) {
                open.extend(&pending.after);
            }
        }
        needed
    }

    /// Does one piece of work that needs no function of the program.
    fn perform(&mut self, op: OpId, pending: &Pending) -> Result<(), (CUresult, String)> {
        let illegal = |message| (CUresult::ILLEGAL_ADDRESS, message);
        let device = self
            .contexts
            .get(pending.context)
            .map_err(|error| (error, "the context is gone".to_owned()))?
            .device;
        let work = &pending.work;
        let now = Instant::now();
        let before = self.timeline.latest(&pending.after).max(pending.ready);
        let ready = before.map_or(now, |before| before.max(now));
        if !matches!(work, Work::Kernel(_)) {
            self.devices[device].machine.order_stream(pending.stream);
        }
        match work {
            Work::Empty | Work::Host(_) | Work::Child(_) => {}
            Work::Order(streams) => {
                for &stream in streams.iter() {
                    self.devices[device].machine.order_stream(stream);
                }
            }
            Work::Kernel(kernel) => {
                let module = self.modules.get(kernel.module).ok();
                let Some(module) = module.and_then(|module| module.machine.as_ref()) else {
                    let text = format!("{}: its module was unloaded before it ran", kernel.kernel.name);
                    return Err((CUresult::LAUNCH_FAILED, text));
                };
                super::launch::run(&mut self.devices[device].machine, module, kernel)?;
            }
            Work::Copy(copy) => copy.run(self).map_err(illegal)?,
            Work::Fill(fill) => fill.run(self).map_err(illegal)?,
            Work::Record(event) => {
                // The event may be gone, or recorded again since.
                if let Ok(event) = self.events.get_mut(*event)
                    && event.recorded.is_none_or(|last| last <= op)
                {
                    event.recorded = Some(op);
                    event.time = Some(ready);
                }
            }
            Work::Wait(_) => {}
            Work::Alloc { .. } => {}
            Work::Free { address } => {
                if self.owned.get(address).is_some_and(|owned| !owned.graph) {
                    self.release(*address);
                }
            }
        }
        let length = match work {
            _ if !pending.alone => None,
            Work::Copy(copy) => self.faults.copy_delay(copy.bytes() as u64),
            // A graph's start stands for the whole.
            Work::Kernel(_) | Work::Order(_) => self.faults.slow_launches,
            _ => None,
        };
        self.timeline.add(op, work, ready, length);
        Ok(())
    }
}

impl Call {
    /// Does `op` and whatever it waits for.
    pub fn run_until(&mut self, op: OpId) {
        loop {
            let needed = self.needed(op);
            let Some(&first) = needed.first() else { return };
            if needed.iter().any(|op| self.running.contains(op)) {
                self.wait_for_others();
                continue;
            }
            let Some(pending) = self.pending.remove(&first) else {
                return;
            };
            let healthy = self
                .contexts
                .get(pending.context)
                .is_ok_and(|context| context.poisoned.is_none());
            // Nothing runs in a context that has failed.
            if healthy {
                if let Work::Host(host) = pending.work {
                    self.running.insert(first);
                    self.unlocked(|| host.run());
                    self.running.remove(&first);
                    super::DONE.notify_all();
                } else if let Work::Wait(event) = pending.work {
                    // A graph waits for an event as it is recorded by now.
                    if let Some(recorded) = self.events.get(event).ok().and_then(|event| event.recorded)
                        && self.is_pending(recorded)
                        && recorded < first
                    {
                        self.run_until(recorded);
                    }
                } else if let Err((error, message)) = self.perform(first, &pending) {
                    super::say(&message);
                    self.poison(pending.context, error);
                }
            }
        }
    }

    /// Waits until `op` is over.
    pub fn wait_until(&mut self, op: OpId) {
        self.run_until(op);
        self.sleep_until(self.timeline.due(op));
    }

    fn sleep_until(&mut self, end: Option<Instant>) {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            self.unlocked(|| std::thread::sleep(left));
        }
    }

    /// Waits until all work of a context is over. (Where work has a length: of all contexts.)
    pub fn run_context(&mut self, context: Handle<Context>) {
        while let Some(op) = self.last_op(context) {
            self.run_until(op);
        }
        while !self.running.is_empty() {
            self.wait_for_others();
        }
        self.sleep_until(self.timeline.end());
    }

    fn last_op(&self, context: Handle<Context>) -> Option<OpId> {
        self.pending
            .iter()
            .rev()
            .find(|(_, pending)| pending.context == context)
            .map(|(&op, _)| op)
    }

    /// The error that a context has, if it has one.
    pub fn healthy(&self, context: Handle<Context>) -> Answer {
        match self.contexts.get(context)?.poisoned {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// A stream argument: 0, 1 (legacy), 2 (per thread) or a handle.
    pub fn stream(&mut self, handle: Handle<Stream>) -> Answer<Handle<Stream>> {
        let stream = match (handle.bits(), self.per_thread) {
            (0, false) | (1, _) => self.context()?.legacy,
            (0, true) | (2, _) => {
                let context = self.current()?;
                let thread = std::thread::current().id();
                match self.contexts.get(context)?.per_thread.get(&thread) {
                    Some(&stream) => stream,
                    None => {
                        let stream = self.make_stream(context, StreamKind::PerThread, false, 0);
                        self.contexts.get_mut(context)?.per_thread.insert(thread, stream);
                        stream
                    }
                }
            }
            _ => handle,
        };
        let context = self.streams.get(stream)?.context;
        self.healthy(context)?;
        Ok(stream)
    }

    /// Puts work into a stream: into the graph that it captures, or to be done. `None` when captured.
    pub fn submit(&mut self, stream: Handle<Stream>, work: Work) -> Answer<Option<OpId>> {
        if self.capturing(stream)? {
            self.capture_work(stream, work)?;
            return Ok(None);
        }
        self.forbid_implicit(stream)?;
        let op = self.enqueue(stream, work)?;
        if !self.config.lazy {
            self.run_until(op);
        }
        Ok(Some(op))
    }

    /// Puts work into a stream and waits for it.
    pub fn submit_and_wait(&mut self, stream: Handle<Stream>, work: Work) -> Answer {
        let context = self.streams.get(stream)?.context;
        if let Some(op) = self.submit(stream, work)? {
            self.wait_until(op);
        }
        self.healthy(context)
    }
}
