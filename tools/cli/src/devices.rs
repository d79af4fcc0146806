//! `ropeway devices`: what can compute here, and the GPU kernels that this build embeds.

use ropeway::inspect::{Kernels, kernels};
use serde_json::{Value, json};

use super::exit::{Exit, one_line};
use super::terminal;

const EXAMPLES: &str = "\
Examples:
  ropeway devices
  ropeway devices --json";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print one JSON object per device
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), Exit> {
    let devices = ropeway::devices();
    let kernels = kernels();
    let mut text = String::new();
    if args.json {
        for info in devices {
            let mut device =
                json!({"kind": info.kind, "name": info.name, "detail": info.detail, "usable": info.usable});
            if let Some(cuda) = info.cuda {
                device["uuid"] = cuda.uuid.into();
                device["capability"] = format!("{}.{}", cuda.capability.0, cuda.capability.1).into();
                device["memory"] = cuda.memory.into();
                device["multiprocessors"] = cuda.multiprocessors.into();
                device["simulated"] = cuda.simulated.into();
            }
            if info.kind.starts_with("cuda") {
                device["kernels"] = embedded(kernels);
            }
            text += &format!("{}\n", terminal::json_line(&device));
        }
        return terminal::print_text(&text);
    }
    let rows = devices
        .into_iter()
        .map(|device| [device.kind, device.name, device.detail].map(|cell| one_line(&cell)));
    let (compiler, detail) = match kernels.compiler {
        Ok(compiler) => (compiler, summary(kernels)),
        Err(reason) => ("none", reason.into()),
    };
    // The kernels as one more line of the table.
    let rows: Vec<[String; 3]> = rows
        .chain([["kernels".into(), compiler.into(), detail]])
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let (kinds, names) = (width(0), width(1));
    for [kind, name, detail] in &rows {
        text += &format!("{kind:kinds$}  {name:names$}  {detail}\n");
    }
    terminal::print_text(&text)
}

/// `{"compiler", "modules": {name: architectures}}`, or `{"compiler": null, "reason"}`.
fn embedded(kernels: &Kernels) -> Value {
    match kernels.compiler {
        Ok(compiler) => {
            let modules = kernels.modules.iter();
            let modules: serde_json::Map<String, Value> = modules
                .map(|module| (module.name.into(), json!(module.architectures)))
                .collect();
            json!({"compiler": compiler, "modules": modules})
        }
        Err(reason) => json!({"compiler": null, "reason": reason}),
    }
}

/// `embed, layernorm for sm_80, compute_80, sm_90, compute_90; …`: modules for the same architectures together.
fn summary(kernels: &Kernels) -> String {
    let groups = kernels
        .modules
        .chunk_by(|a, b| a.architectures == b.architectures);
    let groups = groups.map(|group| {
        let names: Vec<&str> = group.iter().map(|module| module.name).collect();
        format!("{} for {}", names.join(", "), group[0].architectures.join(", "))
    });
    groups.collect::<Vec<_>>().join("; ")
}
