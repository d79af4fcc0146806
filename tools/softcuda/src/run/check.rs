//! Findings: the checks that can fail, and their report with kernel, source line, block, thread and address.

use std::fmt;
use std::sync::Arc;

use crate::ptx::ast::{Loc, Module};

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    OutOfBounds,
    Misaligned,
    Uninitialised,
    Race,
    /// Data of an asynchronous copy, or registers of a wgmma, touched before its wait.
    AsyncPending,
    /// Shared memory read by a bulk copy or wgmma without the writer's `fence.proxy.async`.
    ProxyFence,
    /// Registers of a wgmma touched without `wgmma.fence` before it.
    WgmmaFence,
    DivergentBarrier,
    SyncMask,
    Deadlock,
    BarrierMisuse,
    Assert,
    Trap,
    /// Anything else that a kernel must not do: calls to nowhere, writes to constants, a stack that is too deep.
    Illegal,
    /// A hint: a matrix descriptor names another swizzle than the bulk copy that wrote the operand.
    Swizzle,
}

impl Check {
    pub const ALL: &[Check] = &[
        Check::OutOfBounds,
        Check::Misaligned,
        Check::Uninitialised,
        Check::Race,
        Check::AsyncPending,
        Check::ProxyFence,
        Check::WgmmaFence,
        Check::DivergentBarrier,
        Check::SyncMask,
        Check::Deadlock,
        Check::BarrierMisuse,
        Check::Assert,
        Check::Trap,
        Check::Illegal,
        Check::Swizzle,
    ];

    /// As printed, and as `SOFTCUDA_CHECKS` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Check::OutOfBounds => "out-of-bounds",
            Check::Misaligned => "misaligned",
            Check::Uninitialised => "uninitialised",
            Check::Race => "race",
            Check::AsyncPending => "async-pending",
            Check::ProxyFence => "proxy-fence",
            Check::WgmmaFence => "wgmma-fence",
            Check::DivergentBarrier => "divergent-barrier",
            Check::SyncMask => "sync-mask",
            Check::Deadlock => "deadlock",
            Check::BarrierMisuse => "barrier-misuse",
            Check::Assert => "assert",
            Check::Trap => "trap",
            Check::Illegal => "illegal",
            Check::Swizzle => "swizzle",
        }
    }

    /// Whether the kernel can go on, so that further findings come out in the same run.
    pub const fn continues(self) -> bool {
        matches!(
            self,
            Check::Uninitialised
                | Check::Race
                | Check::AsyncPending
                | Check::ProxyFence
                | Check::WgmmaFence
                | Check::Swizzle
        )
    }

    /// Whether it is said, but fails no launch: most likely wrong, and perhaps meant.
    pub const fn is_hint(self) -> bool {
        matches!(self, Check::Swizzle)
    }
}

/// Who did something where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub block: Option<[u32; 3]>,
    pub thread: Option<[u32; 3]>,
    /// Instruction's index in the kernel.
    pub pc: u32,
    /// Its PTX line.
    pub line: u32,
    pub loc: Option<Loc>,
    /// What it did, in words: `wrote it here`.
    pub what: String,
}

/// One thing found wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    pub check: Check,
    pub kernel: Arc<str>,
    pub message: String,
    pub address: Option<u64>,
    pub site: Site,
    /// The other half of a race, the other lanes of a barrier, …
    pub others: Vec<Site>,
    /// The module, for source positions.
    pub module: Arc<Module>,
}

impl Finding {
    /// The source line of a site, as the kernel's author sees it: the position itself and, for inlined code, the
    /// lines that called it, innermost first.
    pub fn places(&self, site: &Site) -> Vec<Place> {
        places(&self.module, site.loc)
    }

    /// The kernel's own line: the outermost of [`Finding::places`].
    pub fn kernel_line(&self) -> Option<Place> {
        self.places(&self.site).pop()
    }
}

/// A position in a source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    pub function: Option<Arc<str>>,
}

/// Follows `inlined_at` from a location outwards.
pub fn places(module: &Module, mut loc: Option<Loc>) -> Vec<Place> {
    let mut places = Vec::new();
    while let Some(location) = loc.and_then(|l| module.locations.get(l.0 as usize)) {
        let file = module.files.iter().find(|(number, _)| *number == location.file);
        places.push(Place {
            file: file.map_or_else(|| "?".into(), |(_, name)| name.clone()),
            line: location.line,
            column: location.column,
            function: location.function.clone(),
        });
        loc = location.inlined_at;
        if places.len() > 64 {
            break;
        }
    }
    places
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "softcuda: {}: {}", self.check.name(), self.message)?;
        write_site(f, self, &self.site, "in")?;
        for other in &self.others {
            write_site(f, self, other, &other.what)?;
        }
        Ok(())
    }
}

fn write_site(f: &mut fmt::Formatter<'_>, finding: &Finding, site: &Site, lead: &str) -> fmt::Result {
    write!(f, "    {lead} {}", finding.kernel)?;
    if let Some([x, y, z]) = site.block {
        write!(f, ", block ({x}, {y}, {z})")?;
    }
    if let Some([x, y, z]) = site.thread {
        write!(f, ", thread ({x}, {y}, {z})")?;
    }
    writeln!(f)?;
    let places = finding.places(site);
    if places.is_empty() {
        writeln!(
            f,
            "        at PTX line {} (no .loc: compile with -lineinfo)",
            site.line
        )?;
    }
    for (i, place) in places.iter().enumerate() {
        let lead = if i == 0 { "at" } else { "inlined at" };
        writeln!(f, "        {lead} {}:{}:{}", place.file, place.line, place.column)?;
        if let Some(text) = source_line(&place.file, place.line) {
            writeln!(f, "           {text}")?;
        }
    }
    Ok(())
}

/// The line's text, where the source file is at hand.
fn source_line(file: &str, line: u32) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().nth(line.checked_sub(1)? as usize)?;
    Some(line.trim().to_owned())
}
