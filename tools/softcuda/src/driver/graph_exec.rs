//! Instantiated graphs: launched as one, their nodes in an order that the edges allow.

use std::collections::HashMap;
use std::ffi::c_uint;

use super::handle::Handle;
use super::launch::Attributes;
use super::result::{Answer, CUresult};
use super::state::{Graph, GraphExec, Node, Step, Stream};
use super::types::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS,
    CUDA_KERNEL_NODE_PARAMS_v1, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUevent, CUgraphEdgeData,
    CUgraphExecUpdateResultInfo, CUgraphNode, CUstream,
};
use super::work::{OpId, Work};
use super::{Call, exports, get, present, put, put_if};

type CUgraph = Handle<Graph>;
type CUgraphExec = Handle<GraphExec>;

/// `CUgraphExecUpdateResult`
mod update {
    pub const SUCCESS: u32 = 0;
    pub const TOPOLOGY_CHANGED: u32 = 2;
    pub const NODE_TYPE_CHANGED: u32 = 3;
}

/// Instantiation flags that change nothing here: free on launch (memory of a graph is the graph's), upload, node
/// priorities. A launch from the device is not among them.
const FLAGS: u64 = 1 | 2 | 8;

impl Call {
    /// The nodes of a graph in an order that its edges allow; child graphs are unfolded in front of their node.
    fn steps(&self, graph: Handle<Graph>, outer: &[Handle<Node>]) -> Answer<Vec<Step>> {
        let nodes = &self.graphs.get(graph)?.nodes;
        let mut missing = HashMap::new();
        for &node in nodes {
            missing.insert(node, self.nodes.get(node)?.after.len());
        }
        let mut dependents: HashMap<_, Vec<_>> = HashMap::new();
        for &node in nodes {
            for (before, _) in &self.nodes.get(node)?.after {
                dependents.entry(*before).or_default().push(node);
            }
        }
        // In the order in which the nodes were added, as far as the edges allow it.
        let mut ready: std::collections::VecDeque<_> =
            nodes.iter().copied().filter(|node| missing[node] == 0).collect();
        let mut steps = Vec::with_capacity(nodes.len());
        let mut done = 0;
        while let Some(handle) = ready.pop_front() {
            done += 1;
            let node = self.nodes.get(handle)?;
            let mut after: Vec<_> = node.after.iter().map(|(before, _)| *before).collect();
            if after.is_empty() {
                after.extend(outer);
            }
            if let Work::Child(child) = node.work {
                let inner = self.steps(child, &after)?;
                after.extend(inner.iter().map(|step| step.node));
                steps.extend(inner);
            }
            steps.push(Step {
                node: handle,
                work: node.work.clone(),
                after,
                enabled: true,
            });
            for &next in dependents.get(&handle).into_iter().flatten() {
                if let Some(left) = missing.get_mut(&next) {
                    *left -= 1;
                    if *left == 0 {
                        ready.push_back(next);
                    }
                }
            }
        }
        if done < nodes.len() {
            return self.refuse(CUresult::INVALID_VALUE, "the graph has a cycle");
        }
        Ok(steps)
    }

    fn instantiate(&mut self, graph: CUgraph, flags: u64) -> Answer<CUgraphExec> {
        if flags & !FLAGS != 0 {
            return self.refuse(
                CUresult::NOT_SUPPORTED,
                format!("instantiation flags {flags:#x}: graphs are not launched from kernels here"),
            );
        }
        let steps = self.steps(graph, &[])?;
        Ok(self.execs.insert(GraphExec { flags, steps }))
    }

    fn launch_graph(&mut self, exec: CUgraphExec, stream: Handle<Stream>) -> Answer {
        let steps = self.execs.get(exec)?.steps.clone();
        if self.capturing(stream)? {
            return self.capture_graph(steps, stream);
        }
        self.forbid_implicit(stream)?;
        let own = self.streams.get(stream)?;
        let place = (own.context, own.id);
        // A start that stands behind the stream's work, the nodes, and an end that stands behind them all.
        let mut streams: Vec<u64> = steps
            .iter()
            .filter_map(|step| match &step.work {
                Work::Kernel(kernel) => Some(kernel.launch.stream),
                _ => None,
            })
            .collect();
        streams.sort_unstable();
        streams.dedup();
        let start = self.enqueue(stream, Work::Order(streams.into()))?;
        let mut ops: HashMap<Handle<Node>, OpId> = HashMap::with_capacity(steps.len());
        let mut all = vec![start];
        for step in steps {
            let mut after = vec![start];
            after.extend(step.after.iter().filter_map(|before| ops.get(before)));
            let work = if step.enabled { step.work } else { Work::Empty };
            if let Work::Record(event) = work
                && let Ok(event) = self.events.get_mut(event)
            {
                event.captured = None;
            }
            let record = match work {
                Work::Record(event) => Some(event),
                _ => None,
            };
            let op = self.add_op(place, after, work);
            if let Some(event) = record
                && let Ok(event) = self.events.get_mut(event)
            {
                event.recorded = Some(op);
                event.time = None;
            }
            ops.insert(step.node, op);
            all.push(op);
        }
        let end = self.add_op(place, all, Work::Empty);
        self.streams.get_mut(stream)?.last = Some(end);
        if !self.config.lazy {
            self.run_until(end);
        }
        Ok(())
    }

    /// A launch in a capturing stream becomes a child graph.
    fn capture_graph(&mut self, steps: Vec<Step>, stream: Handle<Stream>) -> Answer {
        let graph = self.graphs.insert(Graph {
            nodes: Vec::new(),
            owned: true,
        });
        let mut made = HashMap::new();
        for step in steps {
            let after = step.after.iter().filter_map(|before| made.get(before));
            let after = after
                .map(|&before| (before, CUgraphEdgeData::default()))
                .collect();
            // Child graphs were unfolded: what is left of them is the node behind their steps.
            let work = match step.work {
                Work::Child(_) => Work::Empty,
                _ if !step.enabled => Work::Empty,
                work => work,
            };
            made.insert(step.node, self.add_node(graph, work, after)?);
        }
        self.capture_work(stream, Work::Child(graph))
    }

    /// The step of a node of the graph that an executable graph was made from.
    fn step(&mut self, exec: CUgraphExec, node: CUgraphNode) -> Answer<&mut Step> {
        let steps = &mut self.execs.get_mut(exec)?.steps;
        steps
            .iter_mut()
            .find(|step| step.node == node)
            .ok_or(CUresult::INVALID_VALUE)
    }

    fn set_step(&mut self, exec: CUgraphExec, node: CUgraphNode, work: Work) -> Answer {
        let step = self.step(exec, node)?;
        if step.work.node_type() != work.node_type() {
            return Err(CUresult::INVALID_VALUE);
        }
        step.work = work;
        Ok(())
    }

    fn step_attributes(&mut self, exec: CUgraphExec, node: CUgraphNode) -> Answer<Attributes> {
        match &self.step(exec, node)?.work {
            Work::Kernel(kernel) => Ok(Attributes {
                cooperative: kernel.launch.cooperative,
                cluster: kernel.launch.cluster,
                programmatic: kernel.launch.programmatic,
            }),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Takes over what the nodes of `graph` do, when the graph has the same shape; else what differs and where.
    fn update(&mut self, exec: CUgraphExec, graph: CUgraph) -> Answer<(u32, CUgraphNode, CUgraphNode)> {
        let new = self.steps(graph, &[])?;
        let old = &self.execs.get(exec)?.steps;
        let places = |steps: &[Step]| -> HashMap<Handle<Node>, usize> {
            steps
                .iter()
                .enumerate()
                .map(|(place, step)| (step.node, place))
                .collect()
        };
        let (old_places, new_places) = (places(old), places(&new));
        if old.len() != new.len() {
            return Ok((update::TOPOLOGY_CHANGED, Handle::NULL, Handle::NULL));
        }
        for (before, after) in old.iter().zip(&new) {
            if before.work.node_type() != after.work.node_type() {
                return Ok((update::NODE_TYPE_CHANGED, after.node, before.node));
            }
            let edges = |step: &Step, places: &HashMap<Handle<Node>, usize>| {
                let mut edges: Vec<_> = step
                    .after
                    .iter()
                    .filter_map(|node| places.get(node).copied())
                    .collect();
                edges.sort_unstable();
                edges
            };
            if edges(before, &old_places) != edges(after, &new_places) {
                return Ok((update::TOPOLOGY_CHANGED, after.node, before.node));
            }
        }
        for (step, new) in self.execs.get_mut(exec)?.steps.iter_mut().zip(new) {
            step.work = new.work;
        }
        Ok((update::SUCCESS, Handle::NULL, Handle::NULL))
    }
}

exports! {
    fn cuGraphInstantiate(
        call, exec: *mut CUgraphExec, graph: CUgraph, error_node: *mut CUgraphNode,
        _log: *mut std::ffi::c_char, _size: usize
    ) {
        present(exec)?;
        put_if(error_node, Handle::NULL);
        put(exec, call.instantiate(graph, 0)?)
    }
    fn cuGraphInstantiate_v2(
        call, exec: *mut CUgraphExec, graph: CUgraph, error_node: *mut CUgraphNode,
        _log: *mut std::ffi::c_char, _size: usize
    ) {
        present(exec)?;
        put_if(error_node, Handle::NULL);
        put(exec, call.instantiate(graph, 0)?)
    }
    fn cuGraphInstantiateWithFlags(call, exec: *mut CUgraphExec, graph: CUgraph, flags: u64) {
        present(exec)?;
        put(exec, call.instantiate(graph, flags)?)
    }
    fn cuGraphInstantiateWithParams [cuGraphInstantiateWithParams_ptsz] (
        call, exec: *mut CUgraphExec, graph: CUgraph, params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS
    ) {
        present(exec)?;
        let flags = get(params.cast_const())?.flags;
        let result = call.instantiate(graph, flags);
        let params = &mut *params;
        params.err_node_out = Handle::NULL;
        params.result_out = u32::from(result.is_err());
        put(exec, result?)
    }
    fn cuGraphExecGetFlags(call, exec: CUgraphExec, flags: *mut u64) {
        put(flags, call.execs.get(exec)?.flags)
    }
    fn cuGraphUpload [cuGraphUpload_ptsz] (call, exec: CUgraphExec, stream: CUstream) {
        call.stream(stream)?;
        call.execs.get(exec).map(|_| ())
    }
    fn cuGraphLaunch [cuGraphLaunch_ptsz] (call, exec: CUgraphExec, stream: CUstream) {
        let stream = call.stream(stream)?;
        call.launch_graph(exec, stream)
    }
    fn cuGraphExecDestroy(call, exec: CUgraphExec) {
        let removed = call.execs.remove(exec)?;
        for step in removed.steps {
            if let Work::Alloc { address, .. } = step.work {
                call.release_if_unused(address);
            }
        }
        Ok(())
    }
    fn cuGraphExecUpdate(
        call, exec: CUgraphExec, graph: CUgraph, error_node: *mut CUgraphNode, result: *mut c_uint
    ) {
        let (outcome, node, _) = call.update(exec, graph)?;
        put_if(error_node, node);
        put(result, outcome)?;
        match outcome {
            update::SUCCESS => Ok(()),
            _ => Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE),
        }
    }
    fn cuGraphExecUpdate_v2(
        call, exec: CUgraphExec, graph: CUgraph, info: *mut CUgraphExecUpdateResultInfo
    ) {
        present(info)?;
        let (result, error_node, error_from_node) = call.update(exec, graph)?;
        put(info, CUgraphExecUpdateResultInfo { result, error_node, error_from_node })?;
        match result {
            update::SUCCESS => Ok(()),
            _ => Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE),
        }
    }
    fn cuGraphExecKernelNodeSetParams(
        call, exec: CUgraphExec, node: CUgraphNode, params: *const CUDA_KERNEL_NODE_PARAMS_v1
    ) {
        let params = super::graph::widen(get(params)?);
        let attributes = call.step_attributes(exec, node)?;
        let work = call.kernel_work(&params, attributes)?;
        call.set_step(exec, node, work)
    }
    fn cuGraphExecKernelNodeSetParams_v2(
        call, exec: CUgraphExec, node: CUgraphNode, params: *const CUDA_KERNEL_NODE_PARAMS
    ) {
        let attributes = call.step_attributes(exec, node)?;
        let work = call.kernel_work(get(params)?, attributes)?;
        call.set_step(exec, node, work)
    }
    fn cuGraphExecMemcpyNodeSetParams(
        call, exec: CUgraphExec, node: CUgraphNode, params: *const CUDA_MEMCPY3D, context: CUcontext
    ) {
        call.contexts.get(context)?;
        let work = call.copy_work(get(params)?)?;
        call.set_step(exec, node, work)
    }
    fn cuGraphExecMemsetNodeSetParams(
        call, exec: CUgraphExec, node: CUgraphNode, params: *const CUDA_MEMSET_NODE_PARAMS, context: CUcontext
    ) {
        call.contexts.get(context)?;
        let work = call.fill_work(get(params)?)?;
        call.set_step(exec, node, work)
    }
    fn cuGraphExecHostNodeSetParams(
        call, exec: CUgraphExec, node: CUgraphNode, params: *const CUDA_HOST_NODE_PARAMS
    ) {
        let work = Call::host_work(get(params)?)?;
        call.set_step(exec, node, work)
    }
    fn cuGraphExecEventRecordNodeSetEvent(
        call, exec: CUgraphExec, node: CUgraphNode, event: CUevent
    ) {
        call.events.get(event)?;
        call.set_step(exec, node, Work::Record(event))
    }
    fn cuGraphExecEventWaitNodeSetEvent(
        call, exec: CUgraphExec, node: CUgraphNode, event: CUevent
    ) {
        call.events.get(event)?;
        call.set_step(exec, node, Work::Wait(event))
    }
    fn cuGraphNodeSetEnabled(call, exec: CUgraphExec, node: CUgraphNode, enabled: c_uint) {
        let step = call.step(exec, node)?;
        // Kernels, copies and memsets only.
        if step.work.node_type() > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        step.enabled = enabled != 0;
        Ok(())
    }
    fn cuGraphNodeGetEnabled(call, exec: CUgraphExec, node: CUgraphNode, enabled: *mut c_uint) {
        let step = call.step(exec, node)?;
        if step.work.node_type() > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        put(enabled, c_uint::from(step.enabled))
    }
}
