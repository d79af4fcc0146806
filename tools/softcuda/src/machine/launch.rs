//! Launches: what is refused before anything runs, the run, and what it leaves.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Device, Module};
use crate::counters::Counters;
use crate::ir::Kernel;
use crate::memory::Kind;
use crate::run::check::Finding;
use crate::run::grid::{self, Findings, Run};
use crate::run::profile::{MAX_BLOCK, MAX_GRID, Profile};
use crate::run::warp::Aligned;

/// Bytes of a cooperative launch's workspace: its size and the grid's barrier (cooperative_groups' own layout).
const WORKSPACE: u64 = 64;

/// The configuration of a launch.
#[derive(Debug, Clone)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// The parameter block as laid out.
    pub params: Vec<u8>,
    pub cooperative: bool,
    pub cluster: Option<[u32; 3]>,
    /// Programmatic stream serialisation: the launch may begin before the one before it has ended.
    pub programmatic: bool,
    pub stream: u64,
}

/// Why a launch failed.
#[derive(Debug)]
pub enum LaunchError {
    /// Refused before anything ran.
    Invalid { kind: Invalid, message: String },
    /// The kernel ran, and checks failed.
    Failed { findings: Vec<Finding>, dropped: usize },
}

/// Why a launch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// Grid, block or shared memory is zero where it must not be, or too large.
    Value,
    /// Too many resources: threads, shared memory.
    Resources,
    /// A cooperative grid that does not fit the device at once.
    CooperativeTooLarge,
    /// Not what the kernel's directives say.
    Directive,
    /// A cluster that is too large, or of which the grid is not made.
    Cluster,
    NotSupported,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::Invalid { message, .. } => f.write_str(message),
            LaunchError::Failed { findings, dropped } => {
                for finding in findings {
                    finding.fmt(f)?;
                }
                if *dropped > 0 {
                    writeln!(f, "softcuda: and {dropped} more places")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LaunchError {}

/// The result of a launch without findings.
pub struct Done {
    pub counters: Counters,
    /// What is most likely wrong, though the launch went well.
    pub hints: Vec<Finding>,
}

/// Runs a kernel to its end.
pub fn launch(
    device: &mut Device,
    module: &Module,
    kernel: &Arc<Kernel>,
    config: &Launch,
) -> Result<Done, LaunchError> {
    check(device.profile, kernel, config)?;
    let Device {
        profile,
        memory,
        settings,
        launches,
        output,
        workspace,
        unfinished,
    } = device;
    *launches += 1;
    let workspace = match (config.cooperative, *workspace) {
        (false, _) => 0,
        (true, Some(address)) => address,
        (true, None) => {
            let address = memory
                .allocate(WORKSPACE, Kind::Internal, "workspace of cooperative launches")
                .map_err(|error| LaunchError::Invalid {
                    kind: Invalid::Resources,
                    message: error.to_string(),
                })?;
            *workspace = Some(address);
            address
        }
    };
    if workspace != 0 {
        memory
            .write(workspace, &[0; WORKSPACE as usize])
            .expect("the workspace is there");
    }
    let number = memory.begin_launch();
    let this = number.number();
    let previous = unfinished
        .remove(&config.stream)
        .filter(|_| config.programmatic)
        .unwrap_or_default();
    let dynamic_end = kernel.dynamic_base + config.shared;
    let static_end = if config.shared == 0 {
        kernel.shared_end
    } else {
        dynamic_end
    };
    let run = Run {
        kernel,
        module: &module.ast,
        memory,
        profile,
        settings,
        grid: config.grid,
        block: config.block,
        cluster: cluster(kernel, config),
        dynamic_shared: config.shared,
        shared_bytes: static_end,
        params: Aligned::from_bytes(&config.params),
        param_bytes: kernel.param_bytes,
        constants: Aligned::from_bytes(&kernel.constants),
        constant_memory: &module.constants,
        grid_id: *launches,
        began: grid::timer(),
        workspace,
        previous_from: number.first_epoch_of(&previous),
        launch: number,
        previous,
        early: Default::default(),
        findings: Default::default(),
        stop: Default::default(),
        events: Default::default(),
        output: Default::default(),
        touched: Default::default(),
    };
    let meter = grid::run(&run, config.cooperative);
    let counters = Counters::new(&run, &meter);
    // If every block lets the next launch begin before it waits, that one may run beside those that this one waits for.
    let mut running = match run.early.load(Relaxed) == run.blocks() {
        true => run.previous.clone(),
        false => Vec::new(),
    };
    running.push(this);
    unfinished.insert(config.stream, running);
    output.extend(run.output.into_inner().unwrap_or_else(|e| e.into_inner()));
    let Findings {
        mut list,
        hints,
        dropped,
        ..
    } = run.findings.into_inner().unwrap_or_else(|e| e.into_inner());
    if list.is_empty() {
        if let Some(path) = &settings.counters_file
            && let Err(error) = counters.append(path)
        {
            eprintln!("softcuda: SOFTCUDA_COUNTERS={}: {error}", path.display());
        }
        Ok(Done { counters, hints })
    } else {
        // They may say why.
        list.extend(hints);
        Err(LaunchError::Failed {
            findings: list,
            dropped,
        })
    }
}

/// Blocks of a cluster in each dimension.
fn cluster(kernel: &Kernel, config: &Launch) -> [u32; 3] {
    config
        .cluster
        .or(kernel.limits.required_cluster)
        .unwrap_or([1; 3])
}

/// Checks a launch against the device's limits and the kernel's directives; [`launch`] does so before anything runs.
pub fn check(profile: &Profile, kernel: &Kernel, config: &Launch) -> Result<(), LaunchError> {
    let name = &kernel.name;
    let refuse = |kind, message: String| {
        Err(LaunchError::Invalid {
            kind,
            message: format!("launch of `{name}`: {message}"),
        })
    };
    let threads = config.block.iter().map(|&n| u64::from(n)).product::<u64>();
    for (what, got, most) in [
        ("grid", config.grid, MAX_GRID),
        ("block", config.block, MAX_BLOCK),
    ] {
        for axis in 0..3 {
            if got[axis] == 0 || got[axis] > most[axis] {
                let letter = ["x", "y", "z"][axis];
                return refuse(
                    Invalid::Value,
                    format!(
                        "the {what}'s {letter} is {}; it is 1 to {}",
                        got[axis], most[axis]
                    ),
                );
            }
        }
    }
    if threads > u64::from(profile.threads_per_block) {
        return refuse(
            Invalid::Value,
            format!(
                "{threads} threads per block; the device has {}",
                profile.threads_per_block
            ),
        );
    }
    let limits = &kernel.limits;
    if let Some(required) = limits.required_threads
        && config.block != required
    {
        return refuse(
            Invalid::Directive,
            format!(
                "a block of {:?}, where .reqntid asks for {required:?}",
                config.block
            ),
        );
    }
    if let Some(most) = limits.max_threads
        && threads > most.iter().map(|&n| u64::from(n)).product::<u64>()
    {
        return refuse(
            Invalid::Resources,
            format!("{threads} threads per block, where .maxntid (__launch_bounds__) allows {most:?}"),
        );
    }
    let shared = u64::from(kernel.static_shared) + u64::from(config.shared);
    if shared > u64::from(profile.shared_per_block_optin) {
        return refuse(
            Invalid::Value,
            format!(
                "{shared} bytes of shared memory per block ({} of them dynamic); {} allows {}",
                config.shared, profile.key, profile.shared_per_block_optin
            ),
        );
    }
    if config.params.len() != kernel.param_bytes as usize {
        return refuse(
            Invalid::Value,
            format!(
                "{} bytes of parameters, where the kernel has {}",
                config.params.len(),
                kernel.param_bytes
            ),
        );
    }
    let cluster = cluster(kernel, config);
    let size = cluster.iter().map(|&n| u64::from(n)).product::<u64>();
    if size != 1 {
        if size > u64::from(profile.largest_cluster) || size == 0 {
            let most = profile.largest_cluster;
            return refuse(
                Invalid::Cluster,
                format!(
                    "a cluster of {cluster:?} blocks, where {} allows {most}",
                    profile.key
                ),
            );
        }
        if (0..3).any(|axis| !config.grid[axis].is_multiple_of(cluster[axis])) {
            return refuse(
                Invalid::Cluster,
                format!(
                    "a grid of {:?} blocks is not made of clusters of {cluster:?}",
                    config.grid
                ),
            );
        }
        if config.cooperative {
            let message = "a cooperative launch of clusters is not supported".to_owned();
            return refuse(Invalid::NotSupported, message);
        }
    }
    if config.cooperative {
        let by_threads = profile.threads_per_multiprocessor / threads.next_multiple_of(32) as u32;
        let per_block = (shared as u32 + profile.shared_reserved).max(1);
        let by_shared = profile.shared_per_multiprocessor / per_block;
        let fits = u64::from(by_threads.min(by_shared).min(profile.blocks_per_multiprocessor))
            * u64::from(profile.multiprocessors);
        let blocks = config.grid.iter().map(|&n| u64::from(n)).product::<u64>();
        if blocks > fits {
            return refuse(
                Invalid::CooperativeTooLarge,
                format!("a cooperative grid of {blocks} blocks, of which the device holds {fits} at once"),
            );
        }
    }
    Ok(())
}
