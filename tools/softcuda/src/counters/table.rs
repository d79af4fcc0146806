//! Counters as text: aligned tables.

use std::fmt::Write;

use super::gpu::Gpu;
use super::occupancy::Occupancy;
use super::ptxas::Figures;
use super::roofline::{Roofline, WHAT};
use super::{Counters, Line, Memory, Position, Requests, Waves};

/// Rows of cells: the first column is flush left, the others right, those named in `left` left too.
struct Table {
    rows: Vec<Vec<String>>,
    left: &'static [usize],
}

impl Table {
    fn new(head: &[&str], left: &'static [usize]) -> Self {
        Self {
            rows: vec![head.iter().map(|&s| s.to_owned()).collect()],
            left,
        }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    fn write(&self, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                let gap = if column == 0 { "" } else { "  " };
                if column == 0 || self.left.contains(&column) {
                    write!(line, "{gap}{cell}{pad}").expect("a string");
                } else {
                    write!(line, "{gap}{pad}{cell}").expect("a string");
                }
            }
            // The heading stands out by two columns less.
            let indent = if index == 0 { "" } else { "  " };
            let shift = if index == 0 { "  " } else { "" };
            let line = match line.split_at_checked(widths[0]) {
                Some((first, rest)) => format!("{indent}{first}{shift}{rest}"),
                None => line,
            };
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out.push('\n');
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with three digits that count and a prefix: 4.30 T.
fn scaled(number: f64) -> String {
    let (value, prefix) = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")]
        .into_iter()
        .find(|(unit, _)| number >= *unit * 0.9995)
        .map_or((number, " "), |(unit, prefix)| (number / unit, prefix));
    format!("{}{prefix}", digits(value))
}

fn digits(value: f64) -> String {
    match value {
        v if v >= 99.95 || v == 0.0 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Seconds in the unit that fits.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", digits(s)),
        s if s >= 1e-3 => format!("{} ms", digits(s * 1e3)),
        s if s >= 1e-6 => format!("{} µs", digits(s * 1e6)),
        s => format!("{} ns", digits(s * 1e9)),
    }
}

/// 1 block, 2 blocks.
fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

fn ratio(a: u64, b: u64) -> String {
    if b == 0 {
        return "-".to_owned();
    }
    format!("{:.2}", a as f64 / b as f64)
}

fn percent(a: u64, b: u64) -> String {
    if b == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", 100.0 * a as f64 / b as f64)
}

fn shape([x, y, z]: [u32; 3]) -> String {
    format!("({x}, {y}, {z})")
}

/// One line per launch.
pub fn summary(
    launches: &[Counters],
    device: &str,
    estimate: impl Fn(&Counters) -> Option<Roofline>,
) -> String {
    let mut table = Table::new(
        &[
            "launch",
            "kernel",
            "grid",
            "block",
            "warp instructions",
            "FLOP (matrix)",
            "L2 B",
            "DRAM B",
            "bank conflicts",
            "model: at least",
            "bound by",
        ],
        &[1, 10],
    );
    for (index, launch) in launches.iter().enumerate() {
        let memory =
            |get: &dyn Fn(&Memory) -> u64| launch.memory.as_ref().map_or("-".to_owned(), |m| grouped(get(m)));
        let bound = estimate(launch);
        let bound = bound.as_ref().and_then(Roofline::binding);
        table.row([
            (index + 1).to_string(),
            launch.kernel.clone(),
            shape(launch.grid),
            shape(launch.block),
            grouped(launch.instructions.warps),
            grouped(launch.flops()),
            memory(&|m| m.global.total().bytes()),
            memory(&|m| m.dram.read_bytes + m.dram.written_bytes),
            memory(&|m| m.shared.total().conflicts()),
            bound.map_or("-".to_owned(), |b| time(b.seconds)),
            bound.map_or("-".to_owned(), |b| b.resource.clone()),
        ]);
    }
    let mut out = String::new();
    table.write(&mut out);
    out.pop();
    writeln!(out, "  times: {WHAT}, for {device}").expect("a string");
    out
}

/// Everything about one launch but its estimate.
pub fn kernel(counters: &Counters, number: usize, top: usize) -> String {
    let mut out = String::new();
    let total = counters.instructions;
    let c = counters;
    writeln!(out, "kernel {}  (launch {number}, {})", c.kernel, c.device).expect("a string");
    writeln!(
        out,
        "grid {} × block {}: {}, {}; shared memory per block: {} B static, {} B dynamic\n",
        shape(c.grid),
        shape(c.block),
        counted(c.blocks, "block"),
        counted(c.warps, "warp"),
        grouped(c.static_shared.into()),
        grouped(c.dynamic_shared.into()),
    )
    .expect("a string");
    let mut table = Table::new(&["instructions", "warps", "of all", "lanes", "lanes/warp"], &[]);
    let mut row = |name: &str, executed: super::Executed| {
        table.row([
            name.to_owned(),
            grouped(executed.warps),
            percent(executed.warps, total.warps),
            grouped(executed.lanes),
            ratio(executed.lanes, executed.warps),
        ]);
    };
    c.classes
        .iter()
        .for_each(|class| row(&class.class, class.executed));
    row("total", total);
    table.write(&mut out);
    if !c.matrix.is_empty() {
        let mut table = Table::new(&["matrix", "instructions", "FLOP"], &[]);
        for matrix in &c.matrix {
            table.row([
                matrix.ty.clone(),
                grouped(matrix.instructions),
                grouped(matrix.flops),
            ]);
        }
        table.write(&mut out);
        out.pop();
        let matrix: u64 = c.matrix.iter().map(|m| m.instructions).sum();
        if let Some(blocks) = &c.matrix_blocks {
            writeln!(
                out,
                "  instructions per matrix instruction: {} in all, {} in the basic blocks that have them,\n  {} in \
                 the hottest of these (PTX lines {} to {})\n",
                ratio(total.warps, matrix),
                ratio(blocks.warps, blocks.matrix),
                ratio(blocks.hottest_warps, blocks.hottest_matrix),
                blocks.hottest_lines[0],
                blocks.hottest_lines[1],
            )
            .expect("a string");
        }
    }
    match &c.memory {
        Some(memory) => traffic(&mut out, memory, top),
        None => out.push_str("memory traffic was not counted\n\n"),
    }
    let mut table = Table::new(&["waiting", "warps"], &[]);
    table.row(["barrier arrivals".to_owned(), grouped(c.barriers.arrivals)]);
    if c.barriers.mbarrier_polls > 0 {
        table.row(["mbarrier polls".to_owned(), grouped(c.barriers.mbarrier_polls)]);
    }
    table.write(&mut out);
    mbarriers(&mut out, c, top);
    let mut table = Table::new(&["local memory", "bytes"], &[]);
    table.row(["read".to_owned(), grouped(c.local.read_bytes)]);
    table.row(["written".to_owned(), grouped(c.local.written_bytes)]);
    table.write(&mut out);
    out
}

/// Bulk copies, and the waits for them.
fn mbarriers(out: &mut String, counters: &Counters, top: usize) {
    let bulk = &counters.bulk;
    if bulk.loads + bulk.stores > 0 {
        let mut table = Table::new(&["bulk copies", "requests", "bytes"], &[]);
        table.row([
            "loads".to_owned(),
            grouped(bulk.loads),
            grouped(bulk.loaded_bytes),
        ]);
        if bulk.saved_bytes > 0 {
            let name = "  of these saved by multicast".to_owned();
            table.row([name, String::new(), grouped(bulk.saved_bytes)]);
        }
        table.row([
            "stores".to_owned(),
            grouped(bulk.stores),
            grouped(bulk.stored_bytes),
        ]);
        table.write(out);
        if bulk.filled > 0 {
            out.pop();
            writeln!(
                out,
                "  {} filled; issued and not yet waited for, with the one at hand: {} on average, {} at most\n",
                counted(bulk.filled, "phase"),
                ratio(bulk.ahead, bulk.filled),
                bulk.most_ahead,
            )
            .expect("a string");
        }
    }
    let waits = &counters.barriers.mbarriers;
    let mut table = Table::new(&["waits by mbarrier", "polls in vain"], &[2]);
    for wait in waits.iter().take(top) {
        let mut row = vec![
            format!("{:#x} at {}", wait.offset, position(&wait.at)),
            grouped(wait.in_vain),
        ];
        if wait.kernel_at != wait.at {
            row.push(format!("inlined at {}", position(&wait.kernel_at)));
        }
        table.row(row);
    }
    if !table.is_empty() {
        table.write(out);
        if waits.len() > top {
            out.pop();
            writeln!(out, "  … and {} more (--top N)\n", waits.len() - top).expect("a string");
        }
    }
}

fn traffic(out: &mut String, memory: &Memory, top: usize) {
    let global = &memory.global;
    let mut table = Table::new(
        &[
            "global memory",
            "requests",
            "sectors",
            "per request",
            "ideal",
            "B asked of L2",
            "B useful",
            "useful",
        ],
        &[],
    );
    let mut row = |name: &str, requests: Requests| {
        if requests.requests > 0 {
            table.row([
                name.to_owned(),
                grouped(requests.requests),
                grouped(requests.sectors),
                ratio(requests.sectors, requests.requests),
                ratio(requests.ideal_sectors, requests.requests),
                grouped(requests.bytes()),
                grouped(requests.useful_bytes),
                percent(requests.useful_bytes, requests.bytes()),
            ]);
        }
    };
    row("loads", global.loads);
    row("stores", global.stores);
    row("atomics", global.atomics);
    row("async copies", global.copies);
    row("total", global.total());
    if !table.is_empty() {
        table.write(out);
    }
    let dram = &memory.dram;
    let mut table = Table::new(
        &["DRAM, each sector once", "B read", "B written", "B in all"],
        &[],
    );
    let mut touched: Vec<_> = dram.allocations.iter().collect();
    touched.sort_by_key(|touch| std::cmp::Reverse(touch.read_bytes + touch.written_bytes));
    for touch in touched.iter().take(top) {
        table.row([
            format!("{} {} ({})", touch.label, touch.serial, touch.kind),
            grouped(touch.read_bytes),
            grouped(touch.written_bytes),
            format!("of {}", grouped(touch.bytes)),
        ]);
    }
    if touched.len() > top {
        let rest = &touched[top..];
        table.row([
            format!("{} more", rest.len()),
            grouped(rest.iter().map(|touch| touch.read_bytes).sum()),
            grouped(rest.iter().map(|touch| touch.written_bytes).sum()),
            String::new(),
        ]);
    }
    if !touched.is_empty() {
        table.row([
            "total (without the host's memory)".to_owned(),
            grouped(dram.read_bytes),
            grouped(dram.written_bytes),
            grouped(dram.read_bytes + dram.written_bytes),
        ]);
        table.write(out);
    }
    let shared = &memory.shared;
    let mut table = Table::new(
        &[
            "shared memory",
            "requests",
            "wavefronts",
            "per request",
            "ideal",
            "bank conflicts",
        ],
        &[],
    );
    let mut row = |name: &str, waves: Waves| {
        if waves.requests > 0 {
            table.row([
                name.to_owned(),
                grouped(waves.requests),
                grouped(waves.wavefronts),
                ratio(waves.wavefronts, waves.requests),
                ratio(waves.ideal, waves.requests),
                grouped(waves.conflicts()),
            ]);
        }
    };
    row("loads", shared.loads);
    row("stores", shared.stores);
    row("ldmatrix, stmatrix", shared.matrix);
    row("async copies", shared.copies);
    row("atomics", shared.atomics);
    row("wgmma's operands", shared.wgmma);
    row("total", shared.total());
    if !table.is_empty() {
        table.write(out);
    }
    let total = shared.total().conflicts();
    lines(
        out,
        memory,
        top,
        &["bank conflicts by line", "extra", "of all", "wavefronts", "ideal"],
        |line| line.shared.conflicts(),
        |line| {
            vec![
                grouped(line.shared.conflicts()),
                percent(line.shared.conflicts(), total),
                grouped(line.shared.wavefronts),
                grouped(line.shared.ideal),
            ]
        },
    );
    lines(
        out,
        memory,
        top,
        &[
            "wasted sectors by line",
            "extra",
            "sectors",
            "per request",
            "ideal",
        ],
        |line| line.global.sectors - line.global.ideal_sectors,
        |line| {
            vec![
                grouped(line.global.sectors - line.global.ideal_sectors),
                grouped(line.global.sectors),
                ratio(line.global.sectors, line.global.requests),
                ratio(line.global.ideal_sectors, line.global.requests),
            ]
        },
    );
    let all: u64 = memory.lines.iter().map(|line| line.executed.warps).sum();
    lines(
        out,
        memory,
        top,
        &["hot lines", "warps", "of all", "lanes/warp", "local B"],
        |line| line.executed.warps,
        |line| {
            vec![
                grouped(line.executed.warps),
                percent(line.executed.warps, all),
                ratio(line.executed.lanes, line.executed.warps),
                grouped(line.local_bytes),
            ]
        },
    );
}

/// The lines with most of something, as far as they have any.
fn lines(
    out: &mut String,
    memory: &Memory,
    top: usize,
    head: &[&str],
    key: impl Fn(&Line) -> u64,
    cells: impl Fn(&Line) -> Vec<String>,
) {
    let mut found: Vec<_> = memory.lines.iter().filter(|line| key(line) > 0).collect();
    found.sort_by_key(|line| std::cmp::Reverse(key(line)));
    let mut table = Table::new(head, &[5]);
    for line in found.iter().take(top) {
        let mut row = vec![position(&line.at)];
        row.extend(cells(line));
        if line.kernel_at != line.at {
            let function = line
                .function
                .as_ref()
                .map_or(String::new(), |f| format!(" ({})", plain_name(f)));
            row.push(format!("inlined at {}{function}", position(&line.kernel_at)));
        }
        table.row(row);
    }
    if !table.is_empty() {
        table.write(out);
        if found.len() > top {
            out.pop();
            writeln!(out, "  … and {} more lines (--top N)\n", found.len() - top).expect("a string");
        }
    }
}

/// A C++ function's own name out of its mangled one, where that is a plain or nested name; otherwise as it is.
fn plain_name(mangled: &str) -> &str {
    let Some(mut rest) = mangled.strip_prefix("_Z") else {
        return mangled;
    };
    let nested = rest.starts_with('N');
    rest = rest.strip_prefix('N').unwrap_or(rest);
    let mut name = mangled;
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()).filter(|&end| end > 0) {
        let length: usize = rest[..end].parse().unwrap_or(usize::MAX);
        let Some(part) = rest.get(end..end.saturating_add(length)) else {
            return mangled;
        };
        name = part;
        rest = &rest[end + length..];
        if !nested {
            break;
        }
    }
    name
}

/// A file's name without its folders, and the line.
fn position(position: &Position) -> String {
    let name = position.file.rsplit('/').next().unwrap_or(&position.file);
    format!("{name}:{}", position.line)
}

/// Blocks per multiprocessor.
pub fn occupancy(occupancy: &Occupancy, gpu: &Gpu, blocks: u64, figures: Option<&Figures>) -> String {
    let mut out = String::new();
    let mut table = Table::new(&["occupancy", "blocks per SM"], &[2]);
    for (limit, blocks) in &occupancy.limits {
        let note = match limit {
            super::Limit::Registers => {
                let registers = occupancy.registers.unwrap_or(0);
                let target = figures.map_or(String::new(), |f| format!(" (ptxas, {})", f.target));
                format!("{registers} per thread{target}")
            }
            _ => String::new(),
        };
        table.row([format!("by {}", limit.name()), blocks.to_string(), note]);
    }
    if occupancy.registers.is_none() {
        table.row([
            "by registers".to_owned(),
            "?".to_owned(),
            "give --ptxas FILE or --ptxas N".to_owned(),
        ]);
    }
    table.write(&mut out);
    out.pop();
    let binding: Vec<_> = occupancy.binding().map(super::Limit::name).collect();
    if occupancy.blocks == 0 {
        writeln!(
            out,
            "  the kernel does not fit on the {} ({})\n",
            gpu.name,
            binding.join(", ")
        )
        .expect("a string");
        return out;
    }
    let at_once = u64::from(occupancy.blocks) * u64::from(gpu.multiprocessors);
    writeln!(
        out,
        "  {}{} of {} warps on each of the {}'s {} SMs, limited by {};\n  the grid is {} waves of {} blocks",
        if occupancy.registers.is_none() {
            "at most "
        } else {
            ""
        },
        occupancy.warps,
        occupancy.most_warps,
        gpu.name,
        gpu.multiprocessors,
        binding.join(" and "),
        ratio(blocks, at_once),
        grouped(at_once),
    )
    .expect("a string");
    if let Some(figures) = figures
        && figures.spill_load_bytes + figures.spill_store_bytes > 0
    {
        writeln!(
            out,
            "  ptxas spills: {} B stored, {} B loaded",
            figures.spill_store_bytes, figures.spill_load_bytes
        )
        .expect("a string");
    }
    out.push('\n');
    out
}

/// The estimate.
pub fn roofline(roofline: &Roofline) -> String {
    let mut out = format!(
        "roofline on {}: {} (blocks on {} of {} SMs)\n",
        roofline.gpu, roofline.what, roofline.used, roofline.multiprocessors
    );
    let mut table = Table::new(
        &["resource", "amount", "ceiling", "at least", "ceiling's source"],
        &[4],
    );
    for bound in &roofline.bounds {
        let unit = match bound.unit {
            unit @ ("B" | "FLOP") => unit,
            _ => "",
        };
        table.row([
            bound.resource.clone(),
            format!("{} {}", grouped(bound.amount), bound.unit),
            format!("{}{unit}/s", scaled(bound.rate)),
            time(bound.seconds),
            bound.source.clone(),
        ]);
    }
    table.write(&mut out);
    out.pop();
    for missing in &roofline.missing {
        writeln!(out, "  {missing}").expect("a string");
    }
    if let Some(bound) = roofline.binding() {
        writeln!(
            out,
            "  bound by {}: at least {}, if all else overlaps",
            bound.resource,
            time(bound.seconds)
        )
        .expect("a string");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_written() {
        for (mangled, want) in [
            ("_Z7elementPKfi", "element"),
            ("_ZN4math5roundEf", "round"),
            ("_Z3addIfEvT_", "add"),
            ("plain", "plain"),
            ("_ZZ9gemm_bf164GemmENKUliE_clEi", "_ZZ9gemm_bf164GemmENKUliE_clEi"),
            ("_Z99short", "_Z99short"),
        ] {
            assert_eq!(plain_name(mangled), want);
        }
    }

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(scaled(4.3e12), "4.30 T");
        assert_eq!(scaled(999_999.0), "1.00 M");
        assert_eq!(scaled(989.4e12), "989 T");
        assert_eq!(time(0.0), "0 ns");
        assert_eq!(time(3.217e-6), "3.22 µs");
        assert_eq!(time(2.0), "2.00 s");
    }
}
