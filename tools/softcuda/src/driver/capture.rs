//! Stream capture: work becomes nodes of a graph instead of being done.

use std::collections::HashSet;
use std::ffi::c_uint;

use super::handle::Handle;
use super::result::{Answer, CUresult};
use super::state::{
    Capture, CaptureMode, Context, Graph, INTERACTION, Node, Stream, StreamCapture, StreamKind,
};
use super::types::{CUgraphEdgeData, CUgraphNode, CUstream};
use super::work::Work;
use super::{Call, exports, list, present, put, put_if};

const STATUS_NONE: c_uint = 0;
const STATUS_ACTIVE: c_uint = 1;
const STATUS_INVALIDATED: c_uint = 2;

fn mode(value: c_uint) -> Answer<CaptureMode> {
    match value {
        0 => Ok(CaptureMode::Global),
        1 => Ok(CaptureMode::ThreadLocal),
        2 => Ok(CaptureMode::Relaxed),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

impl Call {
    /// Whether a stream captures. A capture that went wrong is an error for everything but its end.
    pub fn capturing(&self, stream: Handle<Stream>) -> Answer<bool> {
        let Some(part) = &self.streams.get(stream)?.capture else {
            return Ok(false);
        };
        match self.captures.get(part.capture) {
            Ok(capture) if capture.invalidated => Err(CUresult::STREAM_CAPTURE_INVALIDATED),
            Ok(_) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    /// Makes the capture of a stream end in an error.
    pub fn invalidate(&mut self, stream: Handle<Stream>) {
        let part = self
            .streams
            .get(stream)
            .ok()
            .and_then(|stream| stream.capture.as_ref());
        if let Some(capture) = part.map(|part| part.capture)
            && let Ok(capture) = self.captures.get_mut(capture)
        {
            capture.invalidated = true;
        }
    }

    /// Refuses work in the legacy stream while a stream captures that would have to wait for it.
    pub fn forbid_implicit(&mut self, stream: Handle<Stream>) -> Answer {
        let own = self.streams.get(stream)?;
        if own.kind != StreamKind::Legacy {
            return Ok(());
        }
        let context = own.context;
        let capturing: Vec<_> = self
            .streams
            .handles(|other| other.context == context && !other.non_blocking && other.capture.is_some());
        if capturing.is_empty() {
            return Ok(());
        }
        for stream in capturing {
            self.invalidate(stream);
        }
        self.refuse(
            CUresult::STREAM_CAPTURE_IMPLICIT,
            "the legacy default stream would wait for a stream that is capturing",
        )
    }

    /// Refuses what cannot be asked of a stream while it captures.
    pub fn forbid_on_captured(&mut self, stream: Handle<Stream>) -> Answer {
        if self.capturing(stream)? {
            self.invalidate(stream);
            return self.refuse(
                CUresult::STREAM_CAPTURE_UNSUPPORTED,
                "the stream is capturing: nothing runs that could be waited for",
            );
        }
        Ok(())
    }

    /// Refuses to wait for a context in which a stream captures.
    pub fn forbid_while_capturing(&mut self, context: Handle<Context>) -> Answer {
        let capturing = self
            .streams
            .handles(|stream| stream.context == context && stream.capture.is_some());
        match capturing.first() {
            Some(&stream) => self.forbid_on_captured(stream),
            None => Ok(()),
        }
    }

    /// Refuses calls that the rules of capture forbid (allocations, waits) while somebody captures.
    pub fn forbid_unsafe(&mut self) -> Answer {
        let interaction = INTERACTION.get();
        if interaction == CaptureMode::Relaxed {
            return Ok(());
        }
        let thread = std::thread::current().id();
        let forbidding = self.captures.handles(|capture| {
            let own = capture.thread == thread && capture.mode != CaptureMode::Relaxed;
            let global = capture.mode == CaptureMode::Global && interaction == CaptureMode::Global;
            own || global
        });
        if forbidding.is_empty() {
            return Ok(());
        }
        for capture in forbidding {
            if let Ok(capture) = self.captures.get_mut(capture) {
                capture.invalidated = true;
            }
        }
        self.refuse(
            CUresult::STREAM_CAPTURE_UNSUPPORTED,
            "not allowed while a stream is capturing (see cuThreadExchangeStreamCaptureMode)",
        )
    }

    /// Adds work to the graph that a stream captures.
    pub fn capture_work(&mut self, stream: Handle<Stream>, work: Work) -> Answer {
        let part = self
            .streams
            .get(stream)?
            .capture
            .clone()
            .ok_or(CUresult::ILLEGAL_STATE)?;
        let graph = self.captures.get(part.capture)?.graph;
        let after = part.after.iter().map(|&node| (node, CUgraphEdgeData::default()));
        let node = self.add_node(graph, work, after.collect())?;
        if let Some(part) = &mut self.streams.get_mut(stream)?.capture {
            part.after = vec![node];
        }
        Ok(())
    }

    /// A stream waits for an event of a capture: it becomes a part of that capture.
    pub fn join_capture(&mut self, stream: Handle<Stream>, event: &StreamCapture) -> Answer {
        if !self.captures.contains(event.capture) {
            return self.refuse(CUresult::CAPTURED_EVENT, "the event's capture is over");
        }
        if self.streams.get(stream)?.kind == StreamKind::Legacy {
            if let Ok(capture) = self.captures.get_mut(event.capture) {
                capture.invalidated = true;
            }
            return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
        }
        let part = self
            .streams
            .get(stream)?
            .capture
            .as_ref()
            .map(|part| part.capture);
        match part {
            Some(capture) if capture != event.capture => {
                self.invalidate(stream);
                if let Ok(capture) = self.captures.get_mut(event.capture) {
                    capture.invalidated = true;
                }
                self.refuse(CUresult::STREAM_CAPTURE_MERGE, "two captures would become one")
            }
            Some(_) => {
                if let Some(part) = &mut self.streams.get_mut(stream)?.capture {
                    for &node in &event.after {
                        if !part.after.contains(&node) {
                            part.after.push(node);
                        }
                    }
                }
                Ok(())
            }
            None => {
                self.streams.get_mut(stream)?.capture = Some(event.clone());
                Ok(())
            }
        }
    }

    fn begin(
        &mut self,
        stream: CUstream,
        graph: Option<(Handle<Graph>, Vec<CUgraphNode>)>,
        how: c_uint,
    ) -> Answer {
        let how = mode(how)?;
        let stream = self.stream(stream)?;
        let own = self.streams.get(stream)?;
        if own.kind == StreamKind::Legacy {
            return self.refuse(
                CUresult::STREAM_CAPTURE_UNSUPPORTED,
                "the legacy default stream cannot be captured",
            );
        }
        if own.capture.is_some() {
            return Err(CUresult::ILLEGAL_STATE);
        }
        let to_existing = graph.is_some();
        let (graph, after) = match graph {
            Some(given) => given,
            None => (self.graphs.insert(Graph::default()), Vec::new()),
        };
        let before: HashSet<_> = self.graphs.get(graph)?.nodes.iter().copied().collect();
        if after.iter().any(|node| !before.contains(node)) {
            return Err(CUresult::INVALID_VALUE);
        }
        let id = self.next_id();
        let capture = self.captures.insert(Capture {
            id,
            graph,
            origin: stream,
            mode: how,
            thread: std::thread::current().id(),
            before,
            to_existing,
            invalidated: false,
        });
        self.streams.get_mut(stream)?.capture = Some(StreamCapture { capture, after });
        Ok(())
    }

    fn end(&mut self, stream: CUstream) -> Answer<Handle<Graph>> {
        let stream = self.stream(stream)?;
        let part = self
            .streams
            .get(stream)?
            .capture
            .clone()
            .ok_or(CUresult::ILLEGAL_STATE)?;
        let capture = self.captures.get(part.capture)?;
        if capture.origin != stream {
            return self.refuse(
                CUresult::STREAM_CAPTURE_UNMATCHED,
                "the capture began in another stream",
            );
        }
        let relaxed = capture.mode == CaptureMode::Relaxed;
        if !relaxed && capture.thread != std::thread::current().id() {
            return Err(CUresult::STREAM_CAPTURE_WRONG_THREAD);
        }
        let joined = self.ancestors(&part.after);
        let capture = self.captures.remove(part.capture)?;
        for other in self.streams.handles(|other| {
            other
                .capture
                .as_ref()
                .is_some_and(|other| other.capture == part.capture)
        }) {
            self.streams.get_mut(other)?.capture = None;
        }
        let loose = self.graphs.get(capture.graph)?.nodes.iter();
        let loose = loose
            .filter(|node| !capture.before.contains(node) && !joined.contains(node))
            .count();
        let answer = if capture.invalidated {
            Err(CUresult::STREAM_CAPTURE_INVALIDATED)
        } else if loose > 0 {
            self.refuse(
                CUresult::STREAM_CAPTURE_UNJOINED,
                format!("{loose} nodes of other streams, which the first stream does not wait for"),
            )
        } else {
            Ok(capture.graph)
        };
        if answer.is_err() && !capture.to_existing {
            self.destroy_graph(capture.graph)?;
        }
        answer
    }

    fn ancestors(&self, nodes: &[Handle<Node>]) -> HashSet<Handle<Node>> {
        let mut found = HashSet::new();
        let mut open = nodes.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node)
                && let Ok(node) = self.nodes.get(node)
            {
                open.extend(node.after.iter().map(|(before, _)| *before));
            }
        }
        found
    }

    /// (status, id, graph) of a stream's capture.
    fn status(&mut self, stream: CUstream) -> Answer<(c_uint, u64, Handle<Graph>, Handle<Stream>)> {
        let stream = self.stream(stream)?;
        // Asking about the legacy stream would mean asking about streams that capture.
        if self.streams.get(stream)?.capture.is_none() {
            self.forbid_implicit(stream)?;
        }
        let part = self.streams.get(stream)?.capture.as_ref();
        let capture = part.and_then(|part| self.captures.get(part.capture).ok());
        Ok(match capture {
            None => (STATUS_NONE, 0, Handle::NULL, stream),
            Some(capture) if capture.invalidated => (STATUS_INVALIDATED, capture.id, capture.graph, stream),
            Some(capture) => (STATUS_ACTIVE, capture.id, capture.graph, stream),
        })
    }

    unsafe fn info(
        &mut self,
        stream: CUstream,
        status_out: *mut c_uint,
        id: *mut u64,
        graph_out: *mut Handle<Graph>,
        nodes: *mut *const CUgraphNode,
        edges: *mut *const CUgraphEdgeData,
        number: *mut usize,
    ) -> Answer {
        let (status, capture, graph, stream) = self.status(stream)?;
        let after = self
            .streams
            .get(stream)?
            .capture
            .as_ref()
            .map(|part| part.after.as_slice());
        let after = after.unwrap_or(&[]);
        // All edges that a capture makes are of the plain kind.
        static PLAIN: [CUgraphEdgeData; 64] = [CUgraphEdgeData {
            from_port: 0,
            to_port: 0,
            kind: 0,
            reserved: [0; 5],
        }; 64];
        // SAFETY: the function's caller vouches for its pointers; the list of nodes stays until the stream's next call.
        unsafe {
            put(status_out, status)?;
            if status != STATUS_ACTIVE {
                return Ok(());
            }
            put_if(id, capture);
            put_if(graph_out, graph);
            put_if(nodes, after.as_ptr());
            if !edges.is_null() {
                if after.len() > PLAIN.len() {
                    return Err(CUresult::NOT_SUPPORTED);
                }
                edges.write(PLAIN.as_ptr());
            }
            put_if(number, after.len());
        }
        Ok(())
    }

    unsafe fn update_capture(
        &mut self,
        stream: CUstream,
        nodes: *const CUgraphNode,
        number: usize,
        flags: c_uint,
    ) -> Answer {
        let stream = self.stream(stream)?;
        if !self.capturing(stream)? {
            return Err(CUresult::ILLEGAL_STATE);
        }
        // SAFETY: the function's caller vouches for the list.
        let nodes = unsafe { list(nodes, number) }?;
        for &node in nodes {
            self.nodes.get(node)?;
        }
        let part = self
            .streams
            .get_mut(stream)?
            .capture
            .as_mut()
            .ok_or(CUresult::ILLEGAL_STATE)?;
        match flags {
            // Add, set
            0 => part.after.extend(nodes),
            1 => part.after = nodes.to_vec(),
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }
}

exports! {
    fn cuStreamBeginCapture [cuStreamBeginCapture_ptsz] (call, stream: CUstream) {
        call.begin(stream, None, 0)
    }
    fn cuStreamBeginCapture_v2 [cuStreamBeginCapture_v2_ptsz] (call, stream: CUstream, how: c_uint) {
        call.begin(stream, None, how)
    }
    fn cuStreamBeginCaptureToGraph [cuStreamBeginCaptureToGraph_ptsz] (
        call, stream: CUstream, graph: Handle<Graph>, after: *const CUgraphNode,
        _edges: *const CUgraphEdgeData, number: usize, how: c_uint
    ) {
        call.graphs.get(graph)?;
        let after = list(after, number)?.to_vec();
        call.begin(stream, Some((graph, after)), how)
    }
    fn cuThreadExchangeStreamCaptureMode(_call, how: *mut c_uint) {
        let new = mode(*super::get(how)?)?;
        let old = INTERACTION.replace(new);
        put(how, old as c_uint)
    }
    fn cuStreamEndCapture [cuStreamEndCapture_ptsz] (call, stream: CUstream, graph: *mut Handle<Graph>) {
        present(graph)?;
        put(graph, Handle::NULL)?;
        put(graph, call.end(stream)?)
    }
    fn cuStreamIsCapturing [cuStreamIsCapturing_ptsz] (call, stream: CUstream, status: *mut c_uint) {
        put(status, call.status(stream)?.0)
    }
    fn cuStreamGetCaptureInfo [cuStreamGetCaptureInfo_ptsz] (
        call, stream: CUstream, status: *mut c_uint, id: *mut u64
    ) {
        use std::ptr::null_mut;
        call.info(stream, status, id, null_mut(), null_mut(), null_mut(), null_mut())
    }
    fn cuStreamGetCaptureInfo_v2 [cuStreamGetCaptureInfo_v2_ptsz] (
        call, stream: CUstream, status: *mut c_uint, id: *mut u64, graph: *mut Handle<Graph>,
        nodes: *mut *const CUgraphNode, number: *mut usize
    ) {
        call.info(stream, status, id, graph, nodes, std::ptr::null_mut(), number)
    }
    fn cuStreamGetCaptureInfo_v3 [cuStreamGetCaptureInfo_v3_ptsz] (
        call, stream: CUstream, status: *mut c_uint, id: *mut u64, graph: *mut Handle<Graph>,
        nodes: *mut *const CUgraphNode, edges: *mut *const CUgraphEdgeData, number: *mut usize
    ) {
        call.info(stream, status, id, graph, nodes, edges, number)
    }
    fn cuStreamUpdateCaptureDependencies [cuStreamUpdateCaptureDependencies_ptsz] (
        call, stream: CUstream, nodes: *const CUgraphNode, number: usize, flags: c_uint
    ) {
        call.update_capture(stream, nodes, number, flags)
    }
    fn cuStreamUpdateCaptureDependencies_v2 [cuStreamUpdateCaptureDependencies_v2_ptsz] (
        call, stream: CUstream, nodes: *const CUgraphNode, _edges: *const CUgraphEdgeData, number: usize,
        flags: c_uint
    ) {
        call.update_capture(stream, nodes, number, flags)
    }
}
