//! The machine code, as nvdisasm shows it: no local memory, and enough matrix instructions in the main loops.
//!
//! HMMA is the product of a warp, HGMMA that of a warpgroup, which reads shared memory itself. UTMALDG copies a box of a
//! matrix there.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::super::Architecture;
use super::gate::Gate;
use super::{embedded, entries, figures, images, source};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Instruction<'a> {
    /// `LDSM.16.M88.4`
    opcode: &'a str,
    /// Whether what follows may run although it is a branch or an exit.
    conditional: bool,
    /// Where a branch goes.
    target: Option<usize>,
}

impl<'a> Instruction<'a> {
    /// `LDSM`
    fn kind(&self) -> &'a str {
        self.opcode.split('.').next().unwrap_or_default()
    }
}

/// The instructions of each entry.
fn parse(text: &str) -> BTreeMap<&str, Vec<Instruction<'_>>> {
    let sections = text.split("\n.text.").skip(1);
    sections
        .map(|section| {
            let (name, body) = section.split_once(":\n").expect("a section begins with its name");
            let (mut labels, mut lines) = (BTreeMap::new(), Vec::new());
            for line in body.lines() {
                if let Some(label) = line.strip_suffix(':') {
                    labels.insert(label, lines.len());
                } else if let Some((_, instruction)) = line
                    .trim()
                    .strip_prefix("/*")
                    .and_then(|line| line.split_once("*/"))
                {
                    lines.push(instruction.trim());
                }
            }
            let code = lines.into_iter().map(|line| instruction(line, &labels));
            (name, code.collect())
        })
        .collect()
}

/// `@!P0 BRA P1, `(.L_x_0) ;`
fn instruction<'a>(line: &'a str, labels: &BTreeMap<&str, usize>) -> Instruction<'a> {
    let (guard, rest) = match line.starts_with('@') {
        true => line.split_once(' ').unwrap_or((line, "")),
        false => ("", line),
    };
    let rest = rest.trim_start();
    let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
    let (condition, label) = operands.split_once("`(").unwrap_or((operands, ""));
    let label = label.split(')').next().unwrap_or_default();
    let branch = opcode.starts_with("BRA");
    Instruction {
        opcode,
        conditional: !guard.is_empty() || branch && !condition.trim().is_empty(),
        target: if branch { labels.get(label).copied() } else { None },
    }
}

/// A loop's turn: how many instructions of each kind.
#[derive(Debug, Default, Clone, PartialEq)]
struct Turn<'a>(BTreeMap<&'a str, usize>);

impl<'a> Turn<'a> {
    fn with(mut self, instruction: &Instruction<'a>) -> Turn<'a> {
        *self.0.entry(instruction.kind()).or_default() += 1;
        self
    }

    fn count(&self, kind: &str) -> usize {
        self.0.get(kind).copied().unwrap_or_default()
    }

    fn instructions(&self) -> usize {
        self.0.values().sum()
    }

    /// Larger for what goes on turn after turn: what is done only in the first, the last or one sort of turns has no
    /// matrix instructions and no copies of its own, and is left out.
    fn rank(&self) -> (usize, usize, isize) {
        (
            self.all(&PRODUCTS),
            self.all(&COPIES),
            -(self.instructions() as isize),
        )
    }

    /// Those of some kinds.
    fn all(&self, kinds: &[&str]) -> usize {
        kinds.iter().map(|kind| self.count(kind)).sum()
    }

    fn per_mma(&self) -> f64 {
        self.instructions() as f64 / self.all(&PRODUCTS) as f64
    }

    /// All but what the table has, most first.
    fn others(&self) -> String {
        let others = self.0.iter().filter(|(kind, _)| !COLUMNS.contains(kind));
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
        let others = others.iter().map(|(kind, count)| format!("{count} {kind}"));
        others.collect::<Vec<_>>().join(", ")
    }
}

const PRODUCTS: [&str; 2] = ["HMMA", "HGMMA"];

/// Copies to shared memory: a thread's, and boxes of the tensor memory accelerator.
const COPIES: [&str; 2] = ["LDGSTS", "UTMALDG"];

/// Of the table, by kind: products of a warp, matrices from shared memory, asynchronous copies, barriers.
const COLUMNS: [&str; 4] = ["HMMA", "LDSM", "LDGSTS", "BAR"];

/// The usual way from `head` back to it, none past `end`.
fn turn<'a>(code: &[Instruction<'a>], head: usize, end: usize) -> Option<Turn<'a>> {
    // From each instruction on.
    let mut ways: Vec<Option<Turn>> = vec![None; end + 2 - head];
    for at in (head..=end).rev() {
        let instruction = &code[at];
        let leaves = instruction.target.is_some() || ["EXIT", "RET", "BRX"].contains(&instruction.kind());
        let next = ways[at + 1 - head].clone();
        let next = next.filter(|_| instruction.conditional || !leaves);
        let jump = match instruction.target {
            Some(target) if target == head => Some(Turn::default()),
            Some(target) if target > at && target <= end => ways[target - head].clone(),
            _ => None,
        };
        let way = [next, jump].into_iter().flatten().max_by_key(Turn::rank);
        ways[at - head] = way.map(|way| way.with(instruction));
    }
    ways.swap_remove(0)
}

/// Of the innermost loops that have instructions of some kinds the one that has most.
fn main_loop<'a>(code: &[Instruction<'a>], kinds: &[&str]) -> Option<Turn<'a>> {
    // By its head, where the last branch back to it is.
    let mut loops = BTreeMap::new();
    for (at, instruction) in code.iter().enumerate() {
        if let Some(head) = instruction.target.filter(|&head| head <= at) {
            loops.insert(head, at);
        }
    }
    let turns = loops.iter().filter_map(|(&head, &end)| {
        let turn = turn(code, head, end)?;
        (turn.all(kinds) > 0).then_some((head, end, turn))
    });
    let turns: Vec<_> = turns.collect();
    let innermost = turns.iter().filter(|(head, end, _)| {
        let inside = |h: usize, e: usize| h >= *head && e <= *end && (h, e) != (*head, *end);
        !turns.iter().any(|&(h, e, _)| inside(h, e))
    });
    let turn = innermost.map(|(_, _, turn)| turn).max_by_key(|turn| turn.rank());
    turn.cloned()
}

/// The most MUFU from the first product behind a wait of the warpgroup to the next wait: these run while products do.
fn ex2_beside_wgmma(code: &[Instruction]) -> usize {
    let (mut most, mut count) = (0, None);
    for instruction in code {
        match instruction.kind() {
            "HGMMA" => count = count.or(Some(0)),
            "MUFU" => count = count.map(|count| count + 1),
            "WARPGROUP" if instruction.opcode.starts_with("WARPGROUP.DEPBAR") => {
                most = most.max(count.unwrap_or(0));
                count = None;
            }
            _ => {}
        }
    }
    most
}

/// What stands between the products of one group of a warpgroup, which begin one after the other: the most instructions
/// between two of them, and the most that are not of the uniform datapath, which moves descriptors on beside the warp's own
/// instructions.
fn between_products(code: &[Instruction]) -> [usize; 2] {
    let (mut most, mut since) = ([0; 2], None::<[usize; 2]>);
    for instruction in code {
        let kind = instruction.kind();
        if kind == "HGMMA" {
            for (most, count) in most.iter_mut().zip(since.unwrap_or_default()) {
                *most = count.max(*most);
            }
            since = Some([0; 2]);
        } else if kind == "WARPGROUP" {
            // The group begins, or is waited for.
            since = None;
        } else if let Some([all, others]) = &mut since {
            *all += 1;
            *others += usize::from(!kind.starts_with('U') && kind != "NOP");
        }
    }
    most
}

/// What nvdisasm makes of machine code; `None`, and a line that says so, where it is missing.
fn disassemble(code: &[u8]) -> Option<String> {
    let nvcc = Path::new(option_env!("ROPEWAY_NVCC").unwrap_or_default());
    // It may be a link to where the toolkit is.
    let nvcc = nvcc.canonicalize().unwrap_or(nvcc.to_owned());
    let program = nvcc.with_file_name("nvdisasm");
    if !program.is_file() {
        let line = format!("SKIPPED: no {}, which tools/setup gets\n", program.display());
        let required = std::env::var("ROPEWAY_CUDA").is_ok_and(|value| value == "require");
        assert!(!required, "ROPEWAY_CUDA=require, and {line}");
        std::io::stderr().write_all(line.as_bytes()).unwrap_or_default();
        return None;
    }
    let mut file = tempfile::NamedTempFile::new().expect("a file for the code");
    file.write_all(code).expect("the code can be written");
    let output = Command::new(program).arg("-c").arg(file.path()).output();
    let output = output.expect("nvdisasm runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).expect("nvdisasm writes text"))
}

/// From compute capability 9.0 on every thread lets the next launch begin, and waits for those before it ends or writes.
fn check_dependent_launch(code: &[Instruction], architecture: &str, place: &str) {
    let parsed = Architecture::parse(architecture);
    let dependent = parsed.is_some_and(|parsed| parsed.capability >= (9, 0));
    let at = |kind: &str| -> Vec<usize> {
        let all = code.iter().enumerate().filter(|(_, one)| one.kind() == kind);
        all.map(|(at, _)| at).collect()
    };
    let (starts, waits) = (at("PREEXIT"), at("ACQBULK"));
    assert_eq!(
        [starts.len(), waits.len()],
        [usize::from(dependent); 2],
        "{place}: lets the next launch begin, and waits for those before"
    );
    let Some(&wait) = waits.first() else { return };
    assert!(
        starts[0] < wait && !code[wait].conditional,
        "{place}: waits on a condition"
    );
    for one in &code[..wait] {
        assert!(
            !["EXIT", "RET", "BRX", "STG", "UTMASTG", "RED"].contains(&one.kind()),
            "{place}: {} before the wait",
            one.opcode
        );
        assert!(
            one.target.is_none_or(|target| target <= wait),
            "{place}: a way around the wait"
        );
    }
}

#[test]
fn main_loops_have_the_matrix_instructions_that_were_planned() {
    println!(
        "{:30} code   registers | per turn: mma  ldsm  copies  barriers  instructions per mma  others",
        "entry"
    );
    let mut worse = Vec::new();
    for module in embedded() {
        let source = source(module);
        let gate = Gate::of(&source);
        let figures = figures(module.log);
        let images = images(module.image).into_iter();
        for image in images.filter(|image| image.architecture.starts_with("sm")) {
            let architecture = image.architecture.as_str();
            let Some(text) = disassemble(image.bytes) else {
                return;
            };
            let parsed = parse(&text);
            for (entry, _) in entries(&source) {
                let code = &parsed[entry];
                let has = |kinds: &[&str]| code.iter().any(|one| kinds.contains(&one.kind()));
                let place = format!("{entry} on {architecture}");
                assert!(!has(&["LDL", "STL"]), "{place} uses local memory");
                check_dependent_launch(code, architecture, &place);
                // These find out when they run which memory they are to access.
                assert!(!has(&["LD", "ST", "ATOM"]), "{place} uses generic addresses");

                let limits = gate.limits(entry, architecture);
                let registers = figures[&(entry, architecture)].registers;
                let mut row = format!("{entry:30} {architecture:6} {registers:9} |");
                if let Some(most) = limits.get("instructions per mma") {
                    let turn = main_loop(code, &PRODUCTS);
                    let turn = turn.unwrap_or_else(|| panic!("{place} has no loop with HMMA or HGMMA"));
                    let [mma, ldsm, copies, barriers] = COLUMNS.map(|kind| turn.count(kind));
                    let (per_mma, others) = (turn.per_mma(), turn.others());
                    row += &format!(" {mma:13} {ldsm:5} {copies:7} {barriers:9} {per_mma:21.2}  {others}");
                    if per_mma > *most {
                        worse.push(format!(
                            "{place}: {per_mma:.2} instructions per mma, and not {most}"
                        ));
                    }
                    let least = limits.get("mma per ldsm").copied();
                    if least.is_some_and(|least| ldsm == 0 || (mma as f64) < least * ldsm as f64) {
                        worse.push(format!("{place}: {ldsm} LDSM for {mma} HMMA"));
                    }
                } else {
                    assert!(!has(&PRODUCTS), "{place}: no limit on instructions per mma");
                }
                if let Some(least) = limits.get("ex2 beside wgmma") {
                    let turn = main_loop(code, &PRODUCTS).unwrap_or_default();
                    let (products, beside) = (turn.count("HGMMA"), ex2_beside_wgmma(code));
                    if products != 16 || (beside as f64) < *least {
                        worse.push(format!("{place}: {products} HGMMA, {beside} ex2 while they run"));
                    }
                }
                if let Some(wanted) = limits.get("warpgroup products per turn") {
                    let turn = main_loop(code, &PRODUCTS).unwrap_or_default();
                    // One wait and one fence: ptxas serialises products that it must order itself, each with both.
                    let found = ["HGMMA", "WARPGROUP"].map(|kind| turn.count(kind) as f64);
                    if found != [*wanted, 2.0] {
                        worse.push(format!(
                            "{place}: {found:?} HGMMA and WARPGROUP, and not {wanted} and 2"
                        ));
                    }
                }
                // Around a copy that one thread makes, where ptxas does not know that it is one.
                let repeats = code.iter().any(|one| one.opcode == "BRA.U.ANY");
                assert!(!repeats, "{place} repeats an instruction for each thread");
                if has(&["UTMALDG"]) {
                    let turn = main_loop(code, &["UTMALDG"]);
                    let turn = turn.unwrap_or_else(|| panic!("{place} has no loop with UTMALDG"));
                    let found = [turn.count("UTMALDG"), turn.instructions()].map(|count| count as f64);
                    let [boxes, most] = ["boxes per turn", "instructions that copy"].map(|name| {
                        let limit = limits.get(name).copied();
                        limit.unwrap_or_else(|| panic!("{place}: no limit on {name}"))
                    });
                    row += &format!("  {} boxes, {} instructions", found[0], found[1]);
                    if found[0] != boxes || found[1] > most {
                        worse.push(format!(
                            "{place}: {found:?} UTMALDG and instructions in a turn, and not {boxes} and {most}"
                        ));
                    }
                }
                for (limit, found) in ["between wgmma", "not uniform between wgmma"]
                    .into_iter()
                    .zip(between_products(code))
                {
                    if limits.get(limit).is_some_and(|most| found as f64 > *most) {
                        worse.push(format!("{place}: {found} instructions {limit}"));
                    }
                }
                println!("{row}");
            }
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

#[test]
fn the_usual_turn_of_a_loop_is_found() {
    let text = "\t.section\t.text.k,\"ax\"
.text.k:
        /*0000*/                   MOV R1, R2 ;
.L_x_0:
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   LDG.E R0, [R2.64] ;
        /*0040*/                   STS [R1], R0 ;
.L_x_1:
        /*0050*/               @P1 BRA `(.L_x_2) ;
        /*0060*/                   LDGSTS.E.BYPASS.128 [R1], [R2.64] ;
.L_x_2:
        /*0070*/                   BRA.DIV ~URZ, `(.L_x_3) ;
        /*0080*/                   LDSM.16.M88.4 R4, [R1] ;
        /*0090*/               @P2 EXIT ;
        /*00a0*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*00b0*/                   BAR.SYNC 0x0 ;
        /*00c0*/              @!P3 BRA `(.L_x_0) ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   BRA `(.L_x_2) ;
";
    let parsed = parse(text);
    let turn = main_loop(&parsed["k"], &PRODUCTS).expect("there is a loop");
    let wanted = [
        ("HMMA", 2),
        ("BRA", 4),
        ("LDGSTS", 1),
        ("LDSM", 1),
        ("EXIT", 1),
        ("BAR", 1),
    ];
    assert_eq!(turn.0, BTreeMap::from(wanted));
    assert_eq!(turn.per_mma(), 5.0);
}

/// The loop of a warp that copies, beside that of those that multiply.
#[test]
fn a_loop_of_copies_is_found_beside_one_of_products() {
    let text = "\t.section\t.text.k,\"ax\"
.text.k:
.L_x_0:
        /*0000*/              @!P0 BRA `(.L_x_1) ;
        /*0010*/                   UTMALDG.2D [UR8], [UR4] ;
.L_x_1:
        /*0020*/                   UTMALDG.2D [UR8], [UR6] ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
        /*0040*/                   UTMALDG.2D [UR8], [UR6] ;
.L_x_2:
        /*0050*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0 ;
        /*0060*/               @P1 BRA `(.L_x_2) ;
";
    let parsed = parse(text);
    let count = |kinds: &[&str]| main_loop(&parsed["k"], kinds).map(|turn| turn.all(kinds));
    assert_eq!(count(&["UTMALDG"]), Some(2));
    assert_eq!(count(&PRODUCTS), Some(1));
    assert_eq!(count(&["HMMA"]), None);
}

#[test]
fn ex2_beside_wgmma_are_those_from_a_product_to_its_wait() {
    let text = "\t.section\t.text.k,\"ax\"
.text.k:
        /*0000*/                   MUFU.EX2 R1, R2 ;
        /*0010*/                   HGMMA.64x64x16.F32 R24, R92, gdesc[UR4], R24, gsb0 ;
        /*0020*/                   MUFU.EX2 R1, R2 ;
        /*0028*/                   HGMMA.64x64x16.F32 R24, R92, gdesc[UR4], R24, gsb0 ;
        /*0030*/                   MUFU.EX2 R1, R2 ;
        /*0040*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0050*/                   MUFU.EX2 R1, R2 ;
        /*0060*/                   MUFU.EX2 R1, R2 ;
        /*0068*/                   MUFU.EX2 R1, R2 ;
        /*0070*/                   WARPGROUP.ARRIVE ;
        /*0080*/                   HGMMA.64x64x16.F32 R24, R92, gdesc[UR4], R24, gsb0 ;
        /*0090*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
";
    assert_eq!(ex2_beside_wgmma(&parse(text)["k"]), 2);
}

#[test]
fn what_stands_between_the_products_of_a_group_is_found() {
    let text = "\t.section\t.text.k,\"ax\"
.text.k:
        /*0000*/                   WARPGROUP.ARRIVE ;
        /*0008*/                   MOV R1, R2 ;
        /*0010*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0 ;
        /*0020*/                   UIADD3 UR4, UR4, 0x2, URZ ;
        /*0028*/                   NOP ;
        /*0030*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0 ;
        /*0040*/                   R2UR UR5, R2 ;
        /*0048*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0 ;
        /*0050*/                   MOV R1, R2 ;
        /*0060*/                   MOV R1, R2 ;
        /*0068*/                   MOV R1, R2 ;
        /*0070*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0080*/                   MOV R1, R2 ;
        /*0090*/                   MOV R1, R2 ;
        /*00a0*/                   MOV R1, R2 ;
        /*00b0*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24, gsb0 ;
";
    assert_eq!(between_products(&parse(text)["k"]), [2, 1]);
}
