//! `softcuda-report`'s work: arguments in, text out.

use std::path::PathBuf;

use serde_json::json;

use super::{Counters, Figures, Gpu, Ptxas, Roofline, occupancy, roofline, table};

const HELP: &str = "\
Shows what softcuda counted: a program run with SOFTCUDA_COUNTERS=FILE appends one line of JSON per launch to FILE.

usage: softcuda-report FILE [options]

Without --kernel or --launch: one line per launch.

  --kernel NAME   the first launch of this kernel: its whole name, or a part that only one kernel has
  --launch N      launch number N of the file
  --gpu GPU       estimate for h200, h100, a100, l40s, l4 or rtx4090 (the launch's own device if not given)
  --ptxas FILE    registers from the output of `ptxas -v` or `nvcc -Xptxas -v`
  --ptxas N       N registers per thread
  --top N         so many source lines and allocations (10 if not given)
  --json          JSON instead of tables
  -h, --help      this text

Counts are exact for the PTX as it ran; times are a model, not a measurement.
";

/// What is asked for.
#[derive(Debug, Default)]
struct Arguments {
    file: Option<PathBuf>,
    kernel: Option<String>,
    launch: Option<usize>,
    gpu: Option<&'static Gpu>,
    ptxas: Option<Registers>,
    top: Option<usize>,
    json: bool,
}

#[derive(Debug)]
enum Registers {
    Number(u32),
    Output(Ptxas),
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        // Both `--top 5` and `--top=5`.
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("{name} wants a value; see --help"))
        };
        let number = |text: String| {
            text.parse::<usize>()
                .ok()
                .filter(|&n| n > 0)
                .ok_or_else(|| format!("{name} {text}: a number from 1 is wanted"))
        };
        match name {
            "--kernel" => parsed.kernel = Some(value()?),
            "--launch" => parsed.launch = Some(number(value()?)?),
            "--gpu" => parsed.gpu = Some(Gpu::find(&value()?)?),
            "--ptxas" => {
                let text = value()?;
                parsed.ptxas = Some(match text.parse() {
                    Ok(registers) => Registers::Number(registers),
                    Err(_) => {
                        let output = std::fs::read_to_string(&text)
                            .map_err(|error| format!("--ptxas {text}: {error}"))?;
                        let ptxas = Ptxas::parse(&output);
                        if ptxas.kernels.is_empty() {
                            return Err(format!(
                                "--ptxas {text}: no kernel's registers are in it; it is the text that `nvcc -Xptxas \
                                 -v` or `ptxas -v` prints (to standard error)"
                            ));
                        }
                        Registers::Output(ptxas)
                    }
                });
            }
            "--top" => parsed.top = Some(number(value()?)?),
            "--json" if inline.is_none() => parsed.json = true,
            _ if name.starts_with('-') => return Err(format!("{argument}: no such option; see --help")),
            _ if parsed.file.is_none() => parsed.file = Some(argument.into()),
            _ => return Err(format!("{argument}: one file at a time; see --help")),
        }
    }
    if parsed.kernel.is_some() && parsed.launch.is_some() {
        return Err("--kernel and --launch both choose a launch: give one of them".to_owned());
    }
    Ok(parsed)
}

/// Runs `softcuda-report` with these arguments (without the program's name). What it prints, or what is wrong.
pub fn report(arguments: &[String]) -> Result<String, String> {
    if arguments.iter().any(|a| a == "-h" || a == "--help") {
        return Ok(HELP.to_owned());
    }
    let asked = parse(arguments)?;
    let Some(file) = &asked.file else {
        return Err(format!("which file?\n\n{HELP}"));
    };
    let launches = Counters::read(file)?;
    if launches.is_empty() {
        return Err(format!("{}: no launches in it", file.display()));
    }
    let gpu = |counters: &Counters| asked.gpu.or_else(|| Gpu::for_device(&counters.device));
    let estimate =
        |counters: &Counters| -> Option<Roofline> { gpu(counters).map(|gpu| roofline(counters, gpu)) };
    let Some(index) = choose(&asked, &launches)? else {
        if asked.json {
            return Ok(lines_of_json(launches.iter().map(
                |counters| json!({"counters": counters, "roofline": estimate(counters)}),
            )));
        }
        let device = asked.gpu.map_or("each launch's own device", |gpu| gpu.name);
        return Ok(table::summary(&launches, device, estimate));
    };
    let counters = &launches[index];
    let gpu = gpu(counters).ok_or_else(|| format!("device {}: choose one with --gpu", counters.device))?;
    let figures = match &asked.ptxas {
        Some(Registers::Output(ptxas)) => {
            let found = ptxas.find(&counters.kernel, gpu.profile.capability());
            Some(found.ok_or_else(|| unknown_figures(&counters.kernel, gpu, ptxas))?)
        }
        _ => None,
    };
    let registers = match &asked.ptxas {
        Some(Registers::Number(registers)) => Some(*registers),
        _ => figures.map(|figures: &Figures| figures.registers),
    };
    let threads: u32 = counters.block.iter().product();
    let shared = counters.static_shared + counters.dynamic_shared;
    let occupancy = occupancy(gpu.profile, threads, registers, shared);
    let estimate = roofline(counters, gpu);
    if asked.json {
        let all = json!({"counters": counters, "occupancy": occupancy, "roofline": estimate});
        return Ok(lines_of_json([all]));
    }
    let mut out = table::kernel(counters, index + 1, asked.top.unwrap_or(10));
    out += &table::occupancy(&occupancy, gpu, counters.blocks, figures);
    out += &table::roofline(&estimate);
    if let Some(name) = &asked.kernel {
        let others: Vec<_> = launches
            .iter()
            .enumerate()
            .skip(index + 1)
            .filter(|(_, other)| other.kernel == counters.kernel)
            .map(|(index, _)| (index + 1).to_string())
            .collect();
        if !others.is_empty() {
            let shown = others.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
            let more = if others.len() > 8 { ", …" } else { "" };
            out += &format!("\nother launches of {name} (--launch N): {shown}{more}\n");
        }
    }
    Ok(out)
}

fn lines_of_json(values: impl IntoIterator<Item = serde_json::Value>) -> String {
    values.into_iter().map(|value| format!("{value}\n")).collect()
}

fn unknown_figures(kernel: &str, gpu: &Gpu, ptxas: &Ptxas) -> String {
    let known: Vec<_> = ptxas
        .kernels
        .iter()
        .map(|figures| format!("{} ({})", figures.kernel, figures.target))
        .collect();
    format!(
        "--ptxas has no figures of {kernel} for the {} (sm_{} or older); it has {}",
        gpu.name,
        gpu.profile.capability(),
        known.join(", ")
    )
}

/// The launch asked for, if one is.
fn choose(asked: &Arguments, launches: &[Counters]) -> Result<Option<usize>, String> {
    if let Some(number) = asked.launch {
        if number > launches.len() {
            return Err(format!(
                "--launch {number}: the file has {} launches",
                launches.len()
            ));
        }
        return Ok(Some(number - 1));
    }
    let Some(name) = &asked.kernel else {
        return Ok(None);
    };
    if let Some(index) = launches.iter().position(|l| l.kernel == *name) {
        return Ok(Some(index));
    }
    let mut names: Vec<&str> = Vec::new();
    for launch in launches {
        if !names.contains(&launch.kernel.as_str()) {
            names.push(&launch.kernel);
        }
    }
    let matching: Vec<_> = names.iter().filter(|n| n.contains(name.as_str())).collect();
    match matching[..] {
        [only] => Ok(launches.iter().position(|l| l.kernel == **only)),
        [] => Err(format!(
            "--kernel {name}: not in the file, which has {}",
            names.join(", ")
        )),
        _ => {
            let names: Vec<_> = matching.into_iter().copied().collect();
            Err(format!("--kernel {name}: which of {}?", names.join(", ")))
        }
    }
}
