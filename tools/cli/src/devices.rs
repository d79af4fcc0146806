//! `ropeway devices`: what can compute here, and the GPU kernels that this build embeds.

use ropeway::{DeviceInfo, Kernels};
use serde_json::{Value, json};

use super::exit::Exit;
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
    let mut devices = ropeway::devices();
    let kernels = ropeway::kernels();
    let mut text = String::new();
    if args.json {
        for DeviceInfo {
            kind,
            name,
            detail,
            usable,
            cuda,
        } in &devices
        {
            let mut device = json!({"kind": kind, "name": name, "detail": detail, "usable": usable});
            if let Some(cuda) = cuda {
                device["uuid"] = cuda.uuid.to_string().into();
                device["capability"] = format!("{}.{}", cuda.capability.0, cuda.capability.1).into();
                device["memory"] = cuda.memory.into();
                device["multiprocessors"] = cuda.multiprocessors.into();
                device["simulated"] = cuda.simulated.into();
            }
            if kind.starts_with("cuda") {
                device["kernels"] = embedded(kernels);
            }
            text += &format!("{device}\n");
        }
        return terminal::print(text.as_bytes());
    }
    // The kernels as one more line of the table.
    devices.push(DeviceInfo {
        kind: "kernels".into(),
        name: kernels.compiler.unwrap_or("none").into(),
        detail: match kernels.compiler {
            Ok(_) => summary(kernels),
            Err(reason) => reason.into(),
        },
        usable: false,
        cuda: None,
    });
    let width = |text: fn(&DeviceInfo) -> &str| {
        let widths = devices.iter().map(|device| text(device).chars().count());
        widths.max().unwrap_or(0)
    };
    let (kinds, names) = (width(|device| &device.kind), width(|device| &device.name));
    for DeviceInfo {
        kind, name, detail, ..
    } in &devices
    {
        text += &format!("{kind:kinds$}  {name:names$}  {detail}\n");
    }
    terminal::print(text.as_bytes())
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

/// `embed, layernorm for sm_80, sm_90, compute_80; …`: modules for the same architectures together.
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
