//! Graphs as the program builds them: nodes, edges, clones.

use std::collections::{HashMap, HashSet};
use std::ffi::{c_char, c_uint, c_void};
use std::fmt::Write;
use std::sync::Arc;

use super::handle::Handle;
use super::launch::{Attributes, attribute};
use super::result::{Answer, CUresult};
use super::state::{Graph, Node};
use super::types::{
    CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS_v1, CUDA_MEMCPY3D,
    CUDA_MEMSET_NODE_PARAMS, CUcontext, CUevent, CUgraphEdgeData, CUgraphNode, CUlaunchAttributeValue,
    MEMORYTYPE_DEVICE, MEMORYTYPE_HOST,
};
use super::work::{Copy, HostCall, KernelWork, Place, Work};
use super::{Call, exports, get, list, present, put, string};
use crate::memory::Pattern;

type CUgraph = Handle<Graph>;

/// Kernel parameters that a node shows to the program: its own copies, good until the node changes.
pub struct Lent {
    _bytes: Vec<Vec<u8>>,
    pointers: Vec<*mut c_void>,
}

// SAFETY: the pointers lead into `_bytes`, which goes wherever they go.
unsafe impl Send for Lent {}

impl Work {
    /// `CUgraphNodeType`
    pub fn node_type(&self) -> c_uint {
        match self {
            Work::Kernel(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) => 3,
            Work::Child(_) => 4,
            Work::Empty | Work::Order(_) => 5,
            Work::Wait(_) => 6,
            Work::Record(_) => 7,
            Work::Alloc { .. } => 10,
            Work::Free { .. } => 11,
        }
    }

    fn label(&self) -> String {
        match self {
            Work::Kernel(kernel) => {
                let launch = &kernel.launch;
                format!("{} {:?} x {:?}", kernel.kernel.name, launch.grid, launch.block)
            }
            Work::Copy(copy) => format!("memcpy {} bytes", copy.bytes()),
            Work::Fill(fill) => format!("memset {} x {}", fill.width, fill.height),
            Work::Host(_) => "host".into(),
            Work::Child(graph) => format!("graph {graph:?}"),
            Work::Empty | Work::Order(_) => "empty".into(),
            Work::Wait(event) => format!("wait {event:?}"),
            Work::Record(event) => format!("record {event:?}"),
            Work::Alloc { address, bytes } => format!("alloc {bytes} bytes at {address:#x}"),
            Work::Free { address } => format!("free {address:#x}"),
        }
    }
}

/// A list as the graph functions give it out: without a buffer its length, with one as much as fits; what is left of
/// the buffer gets nulls, and then `number` is what was written.
unsafe fn give_list<T>(to: *mut Handle<T>, number: *mut usize, items: &[Handle<T>]) -> Answer {
    present(number)?;
    // SAFETY: the caller gives `number` and, with a buffer, as many elements as it says.
    unsafe {
        if to.is_null() {
            number.write(items.len());
            return Ok(());
        }
        let room = number.read();
        for place in 0..room {
            to.add(place)
                .write(items.get(place).copied().unwrap_or(Handle::NULL));
        }
        number.write(room.min(items.len()));
    }
    Ok(())
}

unsafe fn give_edges(to: *mut CUgraphEdgeData, room: usize, edges: &[CUgraphEdgeData]) {
    if to.is_null() {
        return;
    }
    for (place, edge) in edges.iter().take(room).enumerate() {
        // SAFETY: the caller's buffer is as long as the one for the nodes.
        unsafe { to.add(place).write(*edge) };
    }
}

impl Call {
    pub fn add_node(
        &mut self,
        graph: Handle<Graph>,
        work: Work,
        after: Vec<(Handle<Node>, CUgraphEdgeData)>,
    ) -> Answer<Handle<Node>> {
        self.graphs.get(graph)?;
        let mut seen = HashSet::new();
        for (node, _) in &after {
            if self.nodes.get(*node)?.graph != graph || !seen.insert(*node) {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        let node = self.nodes.insert(Node {
            graph,
            work,
            after,
            cloned_from: Handle::NULL,
            lent: None,
        });
        self.graphs.get_mut(graph)?.nodes.push(node);
        Ok(node)
    }

    unsafe fn add(
        &mut self,
        to: *mut CUgraphNode,
        graph: CUgraph,
        after: *const CUgraphNode,
        number: usize,
        work: Work,
    ) -> Answer {
        present(to)?;
        // SAFETY: the function's caller vouches for its list and its result.
        unsafe {
            let after = list(after, number)?
                .iter()
                .map(|&node| (node, CUgraphEdgeData::default()));
            let node = self.add_node(graph, work, after.collect())?;
            put(to, node)
        }
    }

    pub fn destroy_graph(&mut self, graph: Handle<Graph>) -> Answer {
        let removed = self.graphs.remove(graph)?;
        for node in removed.nodes {
            self.drop_node(node)?;
        }
        Ok(())
    }

    /// Removes a node's object, with the child graph or the memory that it had.
    fn drop_node(&mut self, node: Handle<Node>) -> Answer {
        match self.nodes.remove(node)?.work {
            Work::Child(child) => self.destroy_graph(child),
            Work::Alloc { address, .. } => {
                self.release_if_unused(address);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Frees memory of graphs when no graph uses it any more.
    pub fn release_if_unused(&mut self, memory: u64) {
        let uses = |work: &Work| matches!(work, Work::Alloc { address, .. } if *address == memory);
        let used = self.nodes.iter().any(|(_, node)| uses(&node.work))
            || self
                .execs
                .iter()
                .any(|(_, exec)| exec.steps.iter().any(|step| uses(&step.work)));
        if !used {
            self.release(memory);
        }
    }

    /// A copy of a graph; its nodes remember what they were made from.
    pub fn clone_graph(&mut self, graph: Handle<Graph>, owned: bool) -> Answer<Handle<Graph>> {
        let nodes = self.graphs.get(graph)?.nodes.clone();
        let copy = self.graphs.insert(Graph {
            nodes: Vec::new(),
            owned,
        });
        let mut made = HashMap::new();
        // Edges may lead to nodes that come later in the list: nodes first.
        for &node in &nodes {
            let work = match self.nodes.get(node)?.work.clone() {
                Work::Child(child) => Work::Child(self.clone_graph(child, true)?),
                work => work,
            };
            let new = self.add_node(copy, work, Vec::new())?;
            self.nodes.get_mut(new)?.cloned_from = node;
            made.insert(node, new);
        }
        for &node in &nodes {
            let after = self.nodes.get(node)?.after.clone();
            let after = after
                .into_iter()
                .map(|(before, edge)| (made[&before], edge))
                .collect();
            self.nodes.get_mut(made[&node])?.after = after;
        }
        Ok(copy)
    }

    fn dependents(&self, node: Handle<Node>) -> Answer<(Vec<CUgraphNode>, Vec<CUgraphEdgeData>)> {
        let graph = self.nodes.get(node)?.graph;
        let mut found = (Vec::new(), Vec::new());
        for &other in &self.graphs.get(graph)?.nodes {
            for (before, edge) in &self.nodes.get(other)?.after {
                if *before == node {
                    found.0.push(other);
                    found.1.push(*edge);
                }
            }
        }
        Ok(found)
    }

    fn reaches(&self, from: Handle<Node>, to: Handle<Node>) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            if node == to {
                return true;
            }
            if seen.insert(node)
                && let Ok(node) = self.nodes.get(node)
            {
                open.extend(node.after.iter().map(|(before, _)| *before));
            }
        }
        false
    }

    unsafe fn connect(
        &mut self,
        graph: CUgraph,
        from: *const CUgraphNode,
        to: *const CUgraphNode,
        edges: *const CUgraphEdgeData,
        number: usize,
    ) -> Answer {
        self.graphs.get(graph)?;
        // SAFETY: the function's caller vouches for its lists.
        let (from, to) = unsafe { (list(from, number)?, list(to, number)?) };
        for place in 0..number {
            let (from, to) = (from[place], to[place]);
            // SAFETY: not null here, and the function's caller vouches for `number` elements.
            let edge = unsafe {
                if edges.is_null() {
                    None
                } else {
                    Some(*edges.add(place))
                }
            };
            if self.nodes.get(from)?.graph != graph || self.nodes.get(to)?.graph != graph {
                return Err(CUresult::INVALID_VALUE);
            }
            if self
                .nodes
                .get(to)?
                .after
                .iter()
                .any(|(before, _)| *before == from)
                || self.reaches(from, to)
            {
                return Err(CUresult::INVALID_VALUE);
            }
            self.nodes
                .get_mut(to)?
                .after
                .push((from, edge.unwrap_or_default()));
        }
        Ok(())
    }

    unsafe fn disconnect(
        &mut self,
        graph: CUgraph,
        from: *const CUgraphNode,
        to: *const CUgraphNode,
        number: usize,
    ) -> Answer {
        self.graphs.get(graph)?;
        // SAFETY: the function's caller vouches for its lists.
        let (from, to) = unsafe { (list(from, number)?, list(to, number)?) };
        for (from, to) in from.iter().zip(to) {
            let after = &mut self.nodes.get_mut(*to)?.after;
            let place = after.iter().position(|(before, _)| before == from);
            after.remove(place.ok_or(CUresult::INVALID_VALUE)?);
        }
        Ok(())
    }

    unsafe fn edges(
        &mut self,
        graph: CUgraph,
        from: *mut CUgraphNode,
        to: *mut CUgraphNode,
        data: *mut CUgraphEdgeData,
        number: *mut usize,
    ) -> Answer {
        let (mut sources, mut targets, mut edges) = (Vec::new(), Vec::new(), Vec::new());
        for &node in &self.graphs.get(graph)?.nodes {
            for (before, edge) in &self.nodes.get(node)?.after {
                sources.push(*before);
                targets.push(node);
                edges.push(*edge);
            }
        }
        if from.is_null() != to.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        present(number)?;
        // SAFETY: the function's caller vouches for its buffers, all of the same length.
        unsafe {
            let mut room = *number;
            give_edges(data, room, &edges);
            give_list(from, &mut room, &sources)?;
            give_list(to, number, &targets)
        }
    }

    unsafe fn dependencies(
        &mut self,
        node: CUgraphNode,
        to: *mut CUgraphNode,
        data: *mut CUgraphEdgeData,
        number: *mut usize,
    ) -> Answer {
        let (nodes, edges): (Vec<_>, Vec<_>) = self.nodes.get(node)?.after.iter().copied().unzip();
        present(number)?;
        // SAFETY: the function's caller vouches for its buffers.
        unsafe {
            give_edges(data, *number, &edges);
            give_list(to, number, &nodes)
        }
    }

    unsafe fn dependent_nodes(
        &mut self,
        node: CUgraphNode,
        to: *mut CUgraphNode,
        data: *mut CUgraphEdgeData,
        number: *mut usize,
    ) -> Answer {
        let (nodes, edges) = self.dependents(node)?;
        present(number)?;
        // SAFETY: the function's caller vouches for its buffers.
        unsafe {
            give_edges(data, *number, &edges);
            give_list(to, number, &nodes)
        }
    }

    /// The work of a kernel node.
    ///
    /// # Safety
    /// The parameters' pointers are good.
    pub unsafe fn kernel_work(
        &mut self,
        params: &CUDA_KERNEL_NODE_PARAMS,
        attributes: Attributes,
    ) -> Answer<Work> {
        let request = self.node_request(params, attributes);
        // SAFETY: the caller vouches for the parameters.
        Ok(Work::Kernel(Arc::new(unsafe { self.prepare(request, 0) }?)))
    }

    pub fn copy_work(&self, params: &CUDA_MEMCPY3D) -> Answer<Work> {
        let copy = self.copy_3d(params)?;
        if let Err(why) = self.check_copy(&copy) {
            return self.refuse(CUresult::INVALID_VALUE, why);
        }
        Ok(Work::Copy(Arc::new(copy)))
    }

    pub fn fill_work(&self, params: &CUDA_MEMSET_NODE_PARAMS) -> Answer<Work> {
        let pattern = match params.element_size {
            1 => Pattern::U8(params.value as u8),
            2 => Pattern::U16(params.value as u16),
            4 => Pattern::U32(params.value),
            _ => return Err(CUresult::INVALID_VALUE),
        };
        let fill = self.fill(params.dst, params.pitch, pattern, params.width, params.height)?;
        if let Err(why) = self.check_fill(&fill) {
            return self.refuse(CUresult::INVALID_VALUE, why);
        }
        Ok(Work::Fill(fill))
    }

    pub fn host_work(params: &CUDA_HOST_NODE_PARAMS) -> Answer<Work> {
        if params.func.is_none() {
            return Err(CUresult::INVALID_VALUE);
        }
        Ok(Work::Host(HostCall {
            function: params.func,
            data: params.user_data,
            callback: None,
        }))
    }

    fn kernel_of(&self, node: CUgraphNode) -> Answer<Arc<KernelWork>> {
        match &self.nodes.get(node)?.work {
            Work::Kernel(kernel) => Ok(kernel.clone()),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Changes what a node does; its type stays.
    fn set_work(&mut self, node: CUgraphNode, work: Work) -> Answer {
        let node = self.nodes.get_mut(node)?;
        if node.work.node_type() != work.node_type() {
            return Err(CUresult::INVALID_VALUE);
        }
        node.work = work;
        node.lent = None;
        Ok(())
    }

    /// A kernel node as parameters, whose arguments are lent from the node.
    fn kernel_params(&mut self, handle: CUgraphNode) -> Answer<CUDA_KERNEL_NODE_PARAMS> {
        let kernel = self.kernel_of(handle)?;
        let node = self.nodes.get_mut(handle)?;
        let lent = node.lent.get_or_insert_with(|| {
            let block = &kernel.launch.params;
            let mut bytes: Vec<Vec<u8>> = kernel
                .kernel
                .params
                .iter()
                .map(|param| block[param.offset as usize..(param.offset + param.size) as usize].to_vec())
                .collect();
            let pointers = bytes.iter_mut().map(|bytes| bytes.as_mut_ptr().cast()).collect();
            Box::new(Lent {
                _bytes: bytes,
                pointers,
            })
        });
        Ok(CUDA_KERNEL_NODE_PARAMS {
            func: kernel.function,
            grid: kernel.launch.grid,
            block: kernel.launch.block,
            shared: kernel.launch.shared,
            kernel_params: lent.pointers.as_mut_ptr(),
            extra: std::ptr::null_mut(),
            kern: Handle::NULL,
            ctx: Handle::NULL,
        })
    }

    fn event_of(&self, node: CUgraphNode, kind: c_uint) -> Answer<CUevent> {
        match self.nodes.get(node)?.work {
            ref work if work.node_type() != kind => Err(CUresult::INVALID_VALUE),
            Work::Record(event) | Work::Wait(event) => Ok(event),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
}

fn attributes_of(kernel: &KernelWork) -> Attributes {
    Attributes {
        cooperative: kernel.launch.cooperative,
        cluster: kernel.launch.cluster,
        programmatic: kernel.launch.programmatic,
    }
}

/// The first version of the parameters, without the last fields.
pub fn widen(params: &CUDA_KERNEL_NODE_PARAMS_v1) -> CUDA_KERNEL_NODE_PARAMS {
    CUDA_KERNEL_NODE_PARAMS {
        func: params.func,
        grid: params.grid,
        block: params.block,
        shared: params.shared,
        kernel_params: params.kernel_params,
        extra: params.extra,
        kern: Handle::NULL,
        ctx: Handle::NULL,
    }
}

/// A copy as `CUDA_MEMCPY3D`.
fn copy_params(copy: &Copy) -> CUDA_MEMCPY3D {
    let end = |place: &Place| match place {
        Place::Host(address) => (MEMORYTYPE_HOST, *address, 0),
        Place::Device { address, .. } => (MEMORYTYPE_DEVICE, 0, *address),
        Place::Staged(bytes) => (MEMORYTYPE_HOST, bytes.as_ptr() as usize, 0),
    };
    let (from, to) = (end(&copy.from), end(&copy.to));
    CUDA_MEMCPY3D {
        src_x: 0,
        src_y: 0,
        src_z: 0,
        src_lod: 0,
        src_memory_type: from.0,
        src_host: from.1 as *const c_void,
        src_device: from.2,
        src_array: std::ptr::null_mut(),
        reserved0: std::ptr::null_mut(),
        src_pitch: copy.from_pitch,
        src_height: copy.from_slice.checked_div(copy.from_pitch).unwrap_or(0),
        dst_x: 0,
        dst_y: 0,
        dst_z: 0,
        dst_lod: 0,
        dst_memory_type: to.0,
        dst_host: to.1 as *mut c_void,
        dst_device: to.2,
        dst_array: std::ptr::null_mut(),
        reserved1: std::ptr::null_mut(),
        dst_pitch: copy.to_pitch,
        dst_height: copy.to_slice.checked_div(copy.to_pitch).unwrap_or(0),
        width: copy.width,
        height: copy.height,
        depth: copy.depth,
    }
}

exports! {
    fn cuGraphCreate(call, graph: *mut CUgraph, flags: c_uint) {
        present(graph)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        put(graph, call.graphs.insert(Graph::default()))
    }
    fn cuGraphDestroy(call, graph: CUgraph) {
        if call.graphs.get(graph)?.owned {
            return Err(CUresult::INVALID_VALUE);
        }
        call.destroy_graph(graph)
    }
    fn cuGraphClone(call, copy: *mut CUgraph, graph: CUgraph) {
        present(copy)?;
        put(copy, call.clone_graph(graph, false)?)
    }
    fn cuGraphNodeFindInClone(
        call, found: *mut CUgraphNode, original: CUgraphNode, graph: CUgraph
    ) {
        let nodes = &call.graphs.get(graph)?.nodes;
        let node = nodes
            .iter()
            .copied()
            .find(|&node| call.nodes.get(node).is_ok_and(|node| node.cloned_from == original));
        put(found, node.ok_or(CUresult::INVALID_VALUE)?)
    }
    fn cuGraphGetNodes(call, graph: CUgraph, nodes: *mut CUgraphNode, number: *mut usize) {
        give_list(nodes, number, &call.graphs.get(graph)?.nodes)
    }
    fn cuGraphGetRootNodes(call, graph: CUgraph, nodes: *mut CUgraphNode, number: *mut usize) {
        let all = call.graphs.get(graph)?.nodes.iter().copied();
        let roots: Vec<_> =
            all.filter(|&node| call.nodes.get(node).is_ok_and(|node| node.after.is_empty())).collect();
        give_list(nodes, number, &roots)
    }
    fn cuGraphGetEdges(
        call, graph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, number: *mut usize
    ) {
        call.edges(graph, from, to, std::ptr::null_mut(), number)
    }
    fn cuGraphGetEdges_v2(
        call, graph: CUgraph, from: *mut CUgraphNode, to: *mut CUgraphNode, data: *mut CUgraphEdgeData,
        number: *mut usize
    ) {
        call.edges(graph, from, to, data, number)
    }
    fn cuGraphNodeGetDependencies(call, node: CUgraphNode, nodes: *mut CUgraphNode, number: *mut usize) {
        call.dependencies(node, nodes, std::ptr::null_mut(), number)
    }
    fn cuGraphNodeGetDependencies_v2(
        call, node: CUgraphNode, nodes: *mut CUgraphNode, data: *mut CUgraphEdgeData, number: *mut usize
    ) {
        call.dependencies(node, nodes, data, number)
    }
    fn cuGraphNodeGetDependentNodes(call, node: CUgraphNode, nodes: *mut CUgraphNode, number: *mut usize) {
        call.dependent_nodes(node, nodes, std::ptr::null_mut(), number)
    }
    fn cuGraphNodeGetDependentNodes_v2(
        call, node: CUgraphNode, nodes: *mut CUgraphNode, data: *mut CUgraphEdgeData, number: *mut usize
    ) {
        call.dependent_nodes(node, nodes, data, number)
    }
    fn cuGraphAddDependencies(
        call, graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, number: usize
    ) {
        call.connect(graph, from, to, std::ptr::null(), number)
    }
    fn cuGraphAddDependencies_v2(
        call, graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode,
        data: *const CUgraphEdgeData, number: usize
    ) {
        call.connect(graph, from, to, data, number)
    }
    fn cuGraphRemoveDependencies(
        call, graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode, number: usize
    ) {
        call.disconnect(graph, from, to, number)
    }
    fn cuGraphRemoveDependencies_v2(
        call, graph: CUgraph, from: *const CUgraphNode, to: *const CUgraphNode,
        _data: *const CUgraphEdgeData, number: usize
    ) {
        call.disconnect(graph, from, to, number)
    }
    fn cuGraphDestroyNode(call, node: CUgraphNode) {
        let graph = call.nodes.get(node)?.graph;
        for other in call.graphs.get(graph)?.nodes.clone() {
            call.nodes.get_mut(other)?.after.retain(|(before, _)| *before != node);
        }
        call.graphs.get_mut(graph)?.nodes.retain(|&other| other != node);
        call.drop_node(node)
    }
    fn cuGraphNodeGetType(call, node: CUgraphNode, kind: *mut c_uint) {
        put(kind, call.nodes.get(node)?.work.node_type())
    }

    fn cuGraphAddEmptyNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize
    ) {
        call.add(node, graph, after, number, Work::Empty)
    }
    fn cuGraphAddKernelNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize,
        params: *const CUDA_KERNEL_NODE_PARAMS_v1
    ) {
        let work = call.kernel_work(&widen(get(params)?), Attributes::default())?;
        call.add(node, graph, after, number, work)
    }
    fn cuGraphAddKernelNode_v2(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize,
        params: *const CUDA_KERNEL_NODE_PARAMS
    ) {
        let work = call.kernel_work(get(params)?, Attributes::default())?;
        call.add(node, graph, after, number, work)
    }
    fn cuGraphKernelNodeGetParams(
        call, node: CUgraphNode, params: *mut CUDA_KERNEL_NODE_PARAMS_v1
    ) {
        let all = call.kernel_params(node)?;
        put(params, CUDA_KERNEL_NODE_PARAMS_v1 {
            func: all.func,
            grid: all.grid,
            block: all.block,
            shared: all.shared,
            kernel_params: all.kernel_params,
            extra: all.extra,
        })
    }
    fn cuGraphKernelNodeGetParams_v2(call, node: CUgraphNode, params: *mut CUDA_KERNEL_NODE_PARAMS) {
        put(params, call.kernel_params(node)?)
    }
    fn cuGraphKernelNodeSetParams(
        call, node: CUgraphNode, params: *const CUDA_KERNEL_NODE_PARAMS_v1
    ) {
        let attributes = attributes_of(&*call.kernel_of(node)?);
        let work = call.kernel_work(&widen(get(params)?), attributes)?;
        call.set_work(node, work)
    }
    fn cuGraphKernelNodeSetParams_v2(call, node: CUgraphNode, params: *const CUDA_KERNEL_NODE_PARAMS) {
        let attributes = attributes_of(&*call.kernel_of(node)?);
        let work = call.kernel_work(get(params)?, attributes)?;
        call.set_work(node, work)
    }
    fn cuGraphKernelNodeGetAttribute(
        call, node: CUgraphNode, which: c_uint, value: *mut CUlaunchAttributeValue
    ) {
        let launch = &call.kernel_of(node)?.launch;
        let mut words = [0; 16];
        match which {
            attribute::COOPERATIVE => words[0] = u32::from(launch.cooperative),
            attribute::CLUSTER_DIMENSION => words[..3].copy_from_slice(&launch.cluster.unwrap_or([0; 3])),
            attribute::PROGRAMMATIC_STREAM_SERIALIZATION => words[0] = u32::from(launch.programmatic),
            attribute::PRIORITY => {}
            _ => return Err(CUresult::INVALID_VALUE),
        }
        put(value, CUlaunchAttributeValue { words })
    }
    fn cuGraphKernelNodeSetAttribute(
        call, node: CUgraphNode, which: c_uint, value: *const CUlaunchAttributeValue
    ) {
        let words = get(value)?.words;
        let kernel = call.kernel_of(node)?;
        let mut attributes = attributes_of(&kernel);
        match which {
            attribute::COOPERATIVE => attributes.cooperative = words[0] != 0,
            attribute::CLUSTER_DIMENSION => attributes.cluster = Some([words[0], words[1], words[2]]),
            attribute::PROGRAMMATIC_STREAM_SERIALIZATION => attributes.programmatic = words[0] != 0,
            attribute::PRIORITY => {}
            _ => return Err(CUresult::INVALID_VALUE),
        }
        // Checked again as a whole, with the parameters that it has.
        let params = call.kernel_params(node)?;
        let work = call.kernel_work(&params, attributes)?;
        call.set_work(node, work)
    }
    fn cuGraphKernelNodeCopyAttributes(call, to: CUgraphNode, from: CUgraphNode) {
        let attributes = attributes_of(&*call.kernel_of(from)?);
        let params = call.kernel_params(to)?;
        let work = call.kernel_work(&params, attributes)?;
        call.set_work(to, work)
    }
    fn cuGraphAddMemcpyNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize,
        params: *const CUDA_MEMCPY3D, context: CUcontext
    ) {
        call.contexts.get(context)?;
        let work = call.copy_work(get(params)?)?;
        call.add(node, graph, after, number, work)
    }
    fn cuGraphMemcpyNodeGetParams(call, node: CUgraphNode, params: *mut CUDA_MEMCPY3D) {
        match &call.nodes.get(node)?.work {
            Work::Copy(copy) => put(params, copy_params(copy)),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
    fn cuGraphMemcpyNodeSetParams(call, node: CUgraphNode, params: *const CUDA_MEMCPY3D) {
        let work = call.copy_work(get(params)?)?;
        call.set_work(node, work)
    }
    fn cuGraphAddMemsetNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize,
        params: *const CUDA_MEMSET_NODE_PARAMS, context: CUcontext
    ) {
        call.contexts.get(context)?;
        let work = call.fill_work(get(params)?)?;
        call.add(node, graph, after, number, work)
    }
    fn cuGraphMemsetNodeGetParams(call, node: CUgraphNode, params: *mut CUDA_MEMSET_NODE_PARAMS) {
        let Work::Fill(fill) = call.nodes.get(node)?.work else {
            return Err(CUresult::INVALID_VALUE);
        };
        put(params, CUDA_MEMSET_NODE_PARAMS {
            dst: fill.address,
            pitch: fill.pitch,
            value: match fill.pattern {
                Pattern::U8(value) => u32::from(value),
                Pattern::U16(value) => u32::from(value),
                Pattern::U32(value) => value,
            },
            element_size: fill.element() as c_uint,
            width: fill.width,
            height: fill.height,
        })
    }
    fn cuGraphMemsetNodeSetParams(call, node: CUgraphNode, params: *const CUDA_MEMSET_NODE_PARAMS) {
        let work = call.fill_work(get(params)?)?;
        call.set_work(node, work)
    }
    fn cuGraphAddHostNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize,
        params: *const CUDA_HOST_NODE_PARAMS
    ) {
        let work = Call::host_work(get(params)?)?;
        call.add(node, graph, after, number, work)
    }
    fn cuGraphHostNodeGetParams(call, node: CUgraphNode, params: *mut CUDA_HOST_NODE_PARAMS) {
        let Work::Host(host) = call.nodes.get(node)?.work else {
            return Err(CUresult::INVALID_VALUE);
        };
        put(params, CUDA_HOST_NODE_PARAMS { func: host.function, user_data: host.data })
    }
    fn cuGraphHostNodeSetParams(call, node: CUgraphNode, params: *const CUDA_HOST_NODE_PARAMS) {
        let work = Call::host_work(get(params)?)?;
        call.set_work(node, work)
    }
    fn cuGraphAddChildGraphNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize, child: CUgraph
    ) {
        if child == graph {
            return Err(CUresult::INVALID_VALUE);
        }
        let child = call.clone_graph(child, true)?;
        let added = call.add(node, graph, after, number, Work::Child(child));
        if added.is_err() {
            call.destroy_graph(child)?;
        }
        added
    }
    fn cuGraphChildGraphNodeGetGraph(call, node: CUgraphNode, graph: *mut CUgraph) {
        match call.nodes.get(node)?.work {
            Work::Child(child) => put(graph, child),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
    fn cuGraphAddEventRecordNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize, event: CUevent
    ) {
        call.events.get(event)?;
        call.add(node, graph, after, number, Work::Record(event))
    }
    fn cuGraphEventRecordNodeGetEvent(call, node: CUgraphNode, event: *mut CUevent) {
        put(event, call.event_of(node, 7)?)
    }
    fn cuGraphEventRecordNodeSetEvent(call, node: CUgraphNode, event: CUevent) {
        call.events.get(event)?;
        call.set_work(node, Work::Record(event))
    }
    fn cuGraphAddEventWaitNode(
        call, node: *mut CUgraphNode, graph: CUgraph, after: *const CUgraphNode, number: usize, event: CUevent
    ) {
        call.events.get(event)?;
        call.add(node, graph, after, number, Work::Wait(event))
    }
    fn cuGraphEventWaitNodeGetEvent(call, node: CUgraphNode, event: *mut CUevent) {
        put(event, call.event_of(node, 6)?)
    }
    fn cuGraphEventWaitNodeSetEvent(call, node: CUgraphNode, event: CUevent) {
        call.events.get(event)?;
        call.set_work(node, Work::Wait(event))
    }
    fn cuGraphMemAllocNodeGetParams(call, node: CUgraphNode, _params: *mut c_void) {
        call.nodes.get(node)?;
        call.refuse(CUresult::NOT_SUPPORTED, "allocations of graphs come from captures only")
    }
    fn cuGraphMemFreeNodeGetParams(call, node: CUgraphNode, pointer: *mut u64) {
        match call.nodes.get(node)?.work {
            Work::Free { address } => put(pointer, address),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }
    fn cuGraphDebugDotPrint(call, graph: CUgraph, path: *const c_char, _flags: c_uint) {
        let mut text = String::from("digraph {\n");
        let nodes = &call.graphs.get(graph)?.nodes;
        for (number, &handle) in nodes.iter().enumerate() {
            let node = call.nodes.get(handle)?;
            let label = node.work.label().replace('"', "'");
            let _ = writeln!(text, "  n{number} [label=\"{label}\"];");
            for (before, _) in &node.after {
                if let Some(before) = nodes.iter().position(|other| other == before) {
                    let _ = writeln!(text, "  n{before} -> n{number};");
                }
            }
        }
        text.push_str("}\n");
        let path = string(path)?.to_string_lossy();
        match std::fs::write(&*path, text) {
            Ok(()) => Ok(()),
            Err(error) => call.refuse(CUresult::OPERATING_SYSTEM, format!("{path}: {error}")),
        }
    }
    fn cuDeviceGraphMemTrim(call, device: super::types::CUdevice) {
        call.device(device).map(|_| ())
    }
}
