//! `ropeway devices`: what can compute here.

use ropeway::DeviceInfo;

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
    let devices = ropeway::devices();
    let width = |text: fn(&DeviceInfo) -> &str| {
        let widths = devices.iter().map(|device| text(device).chars().count());
        widths.max().unwrap_or(0)
    };
    let (kinds, names) = (width(|device| device.kind), width(|device| &device.name));
    let mut text = String::new();
    for DeviceInfo {
        kind,
        name,
        detail,
        usable,
    } in &devices
    {
        text += &match args.json {
            true => serde_json::json!({"kind": kind, "name": name, "detail": detail, "usable": usable})
                .to_string(),
            false => format!("{kind:kinds$}  {name:names$}  {detail}"),
        };
        text.push('\n');
    }
    terminal::print(text.as_bytes())
}
