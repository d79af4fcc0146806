//! Kernels with one instruction of their pipelines left out or changed, as PTX text.

/// What is put in the place of a statement.
struct Edit {
    what: &'static str,
    statement: String,
}

fn edit(what: &'static str, statement: String) -> Edit {
    Edit { what, statement }
}

fn left_out() -> Edit {
    // A predicate stays: it needs an instruction.
    edit("left out", "pmevent 0".into())
}

/// With the last operand, a number or register, plus this.
fn more(statement: &str, more: i32) -> String {
    let (before, last) = statement.rsplit_once([' ', '\t']).expect("operands");
    match last.parse::<i32>() {
        Ok(number) => format!("{before} {}", number + more),
        Err(_) => format!("{{ .reg .b32 other; add.s32 other, {last}, {more}; {before} other; }}"),
    }
}

/// With an address so many bytes on: the first, or the last.
fn further(statement: &str, last: bool, bytes: u32) -> String {
    let end = if last {
        statement.rfind(']')
    } else {
        statement.find(']')
    }
    .expect("an address");
    format!("{}+{bytes}{}", &statement[..end], &statement[end..])
}

/// The changes of one statement; none where it is not of a pipeline.
fn edits(statement: &str, stage_bytes: u32) -> Vec<Edit> {
    let is = |name: &str| statement.starts_with(name);
    if is("mbarrier.try_wait") {
        let (before, parity) = statement.rsplit_once(", ").expect("operands");
        let (_, predicate) = before.split_once(['\t', ' ']).expect("operands");
        let predicate = predicate.split(',').next().expect("the predicate comes first");
        return vec![
            edit("left out", format!("setp.eq.u32 {predicate}, 0, 0")),
            edit(
                "the other parity",
                format!("{{ .reg .b32 other; xor.b32 other, {parity}, 1; {before}, other; }}"),
            ),
            edit("the next barrier", further(statement, true, 8)),
        ];
    }
    if is("mbarrier.arrive.expect_tx") {
        return vec![
            left_out(),
            edit("16 bytes more", more(statement, 16)),
            edit("16 bytes fewer", more(statement, -16)),
            edit("the next barrier", further(statement, true, 8)),
        ];
    }
    if is("mbarrier.arrive") {
        return vec![left_out(), edit("the next barrier", further(statement, true, 8))];
    }
    if is("mbarrier.init") {
        return vec![left_out(), edit("an arrival more", more(statement, 1))];
    }
    if is("cp.async.bulk.tensor.2d.shared::cluster") {
        return vec![
            left_out(),
            edit("the next stage", further(statement, false, stage_bytes)),
            edit("the next barrier", further(statement, true, 8)),
        ];
    }
    if is("cp.async.bulk.wait_group") || is("wgmma.wait_group") {
        return vec![edit("a group more goes on", more(statement, 1))];
    }
    if is("setmaxnreg") {
        return vec![left_out(), edit("8 registers more", more(statement, 8))];
    }
    let others = [
        "fence.mbarrier_init",
        "fence.proxy.async",
        "bar.sync",
        "bar.warp.sync",
        "cp.async.bulk.tensor.2d.global",
        "cp.async.bulk.commit_group",
        "wgmma.fence",
        "wgmma.commit_group",
        "griddepcontrol.wait",
    ];
    match others.into_iter().any(is) {
        true => vec![left_out()],
        false => Vec::new(),
    }
}

/// A change of a kernel's text.
pub struct Mutant {
    /// `bar.sync 2 left out`: of the second such site of the text.
    pub name: String,
    pub text: String,
    /// The text with a trap in the place of the changed instructions: it ends well where nobody comes by.
    pub trapped: String,
}

impl Mutant {
    /// The site alone: `bar.sync 2`.
    pub fn site(&self) -> &str {
        let number = self.name.find(' ').expect("a number");
        let end = self.name[number + 1..].find(' ').expect("a change");
        &self.name[..number + 1 + end]
    }
}

/// The text with the statements of some lines exchanged.
fn with(lines: &[&str], site: &[usize], statement: impl Fn(&str) -> String) -> String {
    let changed: Vec<String> = site.iter().map(|&line| statement(lines[line].trim())).collect();
    let mut lines = lines.to_vec();
    for (&line, statement) in site.iter().zip(&changed) {
        lines[line] = statement;
    }
    lines.join("\n") + "\n"
}

/// A statement's predicate, with the space behind it, and the statement.
fn parts(text: &str) -> (String, &str) {
    let guarded = text
        .strip_prefix('@')
        .and_then(|guarded| guarded.split_once([' ', '\t']));
    match guarded {
        Some((predicate, statement)) => (format!("@{predicate} "), statement.trim().trim_end_matches(';')),
        None => (String::new(), text.trim_end_matches(';')),
    }
}

/// The text with each of the changes. A stage of its ring has so many bytes.
///
/// What is a wait in the source are several `try_wait` for the same parity, one after the other: they are one site, for one
/// would make up for another.
pub fn mutants(source: &str, stage_bytes: u32) -> Vec<Mutant> {
    let lines: Vec<&str> = source.lines().collect();
    let mut sites: Vec<Vec<usize>> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let text = line.trim();
        let parity = |line: &str| {
            let (wait, parity) = line.rsplit_once(", ")?;
            wait.starts_with("mbarrier.try_wait").then(|| parity.to_owned())
        };
        if !text.ends_with(';') || edits(parts(text).1, stage_bytes).is_empty() {
            continue;
        }
        match sites.last_mut() {
            Some(site) if parity(text).is_some() && parity(text) == parity(lines[site[0]].trim()) => {
                site.push(number)
            }
            _ => sites.push(vec![number]),
        }
    }
    let (mut list, mut counts) = (Vec::new(), std::collections::HashMap::new());
    for site in sites {
        let (_, statement) = parts(lines[site[0]].trim());
        let name = NAMES.iter().find(|(opcode, _)| statement.starts_with(opcode));
        let opcode = statement.split([' ', '\t']).next().expect("an opcode");
        let name = name.map_or(opcode, |&(_, name)| name);
        let count = counts.entry(name).or_insert(0);
        *count += 1;
        let trapped = with(&lines, &site, |text| parts(text).0 + "trap;");
        for (number, change) in edits(statement, stage_bytes).into_iter().enumerate() {
            list.push(Mutant {
                name: format!("{name} {count} {}", change.what),
                text: with(&lines, &site, |text| {
                    let (guard, statement) = parts(text);
                    let changed = edits(statement, stage_bytes).swap_remove(number).statement;
                    assert!(
                        guard.is_empty() || !changed.starts_with('{'),
                        "one instruction for a predicate: {text}"
                    );
                    let end = if changed.ends_with('}') { "" } else { ";" };
                    format!("{guard}{changed}{end}")
                }),
                trapped: trapped.clone(),
            });
        }
    }
    list
}

/// Instructions, and their names here.
const NAMES: &[(&str, &str)] = &[
    ("mbarrier.try_wait", "wait"),
    ("mbarrier.init", "init"),
    ("mbarrier.arrive.expect_tx", "expect"),
    ("mbarrier.arrive", "arrive"),
    ("fence.proxy.async", "fence.proxy.async"),
    ("fence.mbarrier_init", "fence.mbarrier_init"),
    ("setmaxnreg.inc", "setmaxnreg.inc"),
    ("setmaxnreg.dec", "setmaxnreg.dec"),
    ("wgmma.fence", "wgmma.fence"),
    ("wgmma.commit_group", "wgmma.commit_group"),
    ("wgmma.wait_group", "wgmma.wait_group"),
    ("cp.async.bulk.tensor.2d.shared", "load"),
    ("cp.async.bulk.tensor.2d.global", "store"),
];
