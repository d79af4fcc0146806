//! `ropeway diff`: one plan on two executors, or with two sets of options.

use std::str::FromStr;

use ropeway::inspect::{DeviceLimits, DeviceRates, Difference, Executor, Pass, Plan, Side, compare};
use ropeway::{AdapterSelection, Device, Embed, Engine, KernelChoice, Precision, Request};

use super::exit::{Exit, note};
use super::options::{Mixture, RunOptions, mixture, positive, with_prompt};
use super::{terminal, tuned};
use crate::measure::markdown;

const EXAMPLES: &str = "\
The plan is made for the side on a GPU, or else the right one. Both sides run it, and every buffer is compared as soon as it is
written, so that the first step that disagrees is the one at fault. Exit code 1 if any does.

Examples:
  ropeway diff                                     the CPU against the float64 reference
  ropeway diff --task separation --length 500      with an adapter, on 500 token ids
  ropeway diff --left-task separation --prompt \"\"  where does a task begin to matter?
  ropeway diff --left cpu --right cuda             the CPU against a GPU's kernels
  ropeway diff --right cuda --show-plan            what each step runs, and how long it is predicted to take
  ropeway diff --show-plan --device-name h200 --length 512   the same for a device that is not here
  ropeway diff --right-model other/copy --right cpu --all";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The texts [default: one short sentence, and the empty text]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,

    /// Use N token ids, the same in every run, instead of texts
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "texts")]
    length: Option<usize>,

    /// Executor of the left side: cpu, cuda, cuda:N, or naive (float64 on the CPU, slow)
    #[arg(long, default_value = "cpu", value_name = "EXECUTOR")]
    left: On,

    /// Executor of the right side
    #[arg(long, default_value = "naive", value_name = "EXECUTOR")]
    right: On,

    /// The right side's model [default: that of --model]
    #[arg(long, value_name = "FOLDER_OR_ID")]
    right_model: Option<String>,

    /// The task of both sides
    #[arg(long, value_name = "TASK")]
    task: Option<String>,

    /// The mixture of both sides
    #[arg(long, value_name = "NAME=WEIGHT,…", value_parser = mixture, conflicts_with = "task")]
    adapters: Option<Mixture>,

    /// The left side's task
    #[arg(long, value_name = "TASK")]
    left_task: Option<String>,

    /// The right side's task
    #[arg(long, value_name = "TASK")]
    right_task: Option<String>,

    /// The left side's mixture
    #[arg(long, value_name = "NAME=WEIGHT,…", value_parser = mixture, conflicts_with = "left_task")]
    left_adapters: Option<Mixture>,

    /// The right side's mixture
    #[arg(long, value_name = "NAME=WEIGHT,…", value_parser = mixture, conflicts_with = "right_task")]
    right_adapters: Option<Mixture>,

    /// Put this before the texts, in place of the tasks' prefixes
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// The left side's prompt; both sides' must come to the same number of tokens
    #[arg(long, value_name = "TEXT")]
    left_prompt: Option<String>,

    /// The right side's prompt
    #[arg(long, value_name = "TEXT")]
    right_prompt: Option<String>,

    /// Print every step, not only the first that disagrees
    #[arg(long)]
    all: bool,

    /// Run nothing: print the plan of the side on a GPU, and what each step is predicted to take. Steps that differ in their
    /// layer alone are one row, without --all
    #[arg(long)]
    show_plan: bool,

    /// With --show-plan, the plan for a device that need not be here: h200, h100, a100, l4, rtx4090, …
    #[arg(long, value_name = "NAME", requires = "show_plan", value_parser = DeviceRates::named)]
    device_name: Option<DeviceRates>,
}

/// What runs a side.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Device(Device),
    Naive,
}

impl FromStr for On {
    type Err = String;

    fn from_str(s: &str) -> Result<On, String> {
        match (s, s.parse()) {
            ("naive", _) => Ok(On::Naive),
            (_, Ok(device)) if device != Device::Auto => Ok(On::Device(device)),
            _ => Err(format!("`{s}` is not one of cpu, cuda, cuda:N, naive")),
        }
    }
}

impl On {
    fn executor(self) -> Executor {
        match self {
            On::Device(_) => Executor::Device,
            On::Naive => Executor::Naive,
        }
    }

    /// The device that an engine for it is opened on.
    fn device(self) -> Device {
        match self {
            On::Device(device) => device,
            On::Naive => Device::Cpu,
        }
    }
}

impl Args {
    /// A side's options: its own, and where it has none those of both.
    fn options(&self, task: &Option<String>, adapters: &Option<Mixture>, prompt: &Option<String>) -> Embed {
        let selection = |task: &Option<String>, adapters: &Option<Mixture>| match (task, adapters) {
            (Some(task), _) => Some(AdapterSelection::Task(task.clone())),
            (None, Some(mixture)) => Some(AdapterSelection::Mixture(mixture.0.clone())),
            (None, None) => None,
        };
        let adapters = selection(task, adapters).or_else(|| selection(&self.task, &self.adapters));
        let options = Embed::default().adapters(adapters.unwrap_or_default());
        with_prompt(options, prompt.as_deref().or(self.prompt.as_deref()))
    }

    fn requests<'a>(&'a self, engine: &Engine, options: &'a Embed) -> Vec<Request<'a>> {
        if let Some(length) = self.length {
            let vocab = engine.config().vocab_size as u64;
            let id = |i: usize| ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % vocab;
            let ids: Vec<u32> = (0..length).map(|i| id(i) as u32).collect();
            return vec![Request::ids(ids, options)];
        }
        if self.texts.is_empty() {
            return vec![
                Request::text("A cable car climbs slowly over the valley.", options),
                Request::text("", options),
            ];
        }
        self.texts
            .iter()
            .map(|text| Request::text(text.as_str(), options))
            .collect()
    }
}

/// Prints the plan of one side, and runs nothing.
fn show_plan(run: &RunOptions, args: &Args) -> Result<(), Exit> {
    let is_cuda = |on: On| matches!(on, On::Device(Device::Cuda(_)));
    // As a comparison does: the right side, unless the left one alone is on a GPU.
    let right = is_cuda(args.right) || !is_cuda(args.left);
    let side = if right { args.right } else { args.left };
    if args.device_name.is_none() && !is_cuda(side) {
        return Err(Exit::usage(
            "--show-plan predicts the steps of a GPU: add --right cuda, or --device-name h200 for one that is not here",
        ));
    }
    let mut run = match &args.right_model {
        Some(model) if right => run.of_model(model),
        _ => run.clone(),
    };
    let (precision, kernels) = (run.precision.unwrap_or(Precision::Bf16), run.kernels);
    run.device = side.device();
    if args.device_name.is_some() {
        // The plan alone is for that device.
        (run.device, run.precision, run.kernels) = (Device::Cpu, None, KernelChoice::Auto);
    }
    let engine = run.open()?;
    let options = match right {
        true => args.options(&args.right_task, &args.right_adapters, &args.right_prompt),
        false => args.options(&args.left_task, &args.left_adapters, &args.left_prompt),
    };
    let pass = Pass::new(&engine, &args.requests(&engine, &options))?;
    let mut simulated = false;
    let (plan, rates) = match &args.device_name {
        Some(device) => (
            pass.plan_on(device, precision, run.numerics, kernels)?,
            device.clone(),
        ),
        None => {
            let device = DeviceLimits::of(&engine)?;
            simulated = device.simulated;
            let (rates, problem) = tuned::apply(DeviceRates::of_device(&device), &device);
            if let Some(problem) = problem {
                note(&format!("warning: {problem}"));
            }
            (pass.plan(), rates)
        }
    };
    terminal::print_text(&plan_table(&pass, &plan, &rates, args.all, simulated)?)
}

/// What each step of a plan runs and is predicted to take, for people.
fn plan_table(
    pass: &Pass<'_>,
    plan: &Plan,
    rates: &DeviceRates,
    all: bool,
    simulated: bool,
) -> Result<String, Exit> {
    let steps = pass.predict(plan, rates)?;
    let gpu = plan.gpu.expect("it was predicted");
    let kinds = match all {
        true => (0..plan.steps.len()).map(|step| vec![step]).collect(),
        false => plan.kinds(),
    };
    let mut rows = vec![["step", "kernel", "class", "times", "µs each", "bound by"].map(String::from)];
    for kind in &kinds {
        let first = kind[0];
        let step = plan.steps[first].to_string();
        let layer = plan.steps[first].outputs[0]
            .layer
            .map(|layer| format!("layer {layer} "));
        let name = match (&layer, all) {
            (Some(layer), false) => step.strip_prefix(layer.as_str()).unwrap_or(&step),
            _ => &step,
        };
        let micros: f64 = kind.iter().map(|&step| steps[step].prediction.micros).sum();
        rows.push([
            name.to_owned(),
            steps[first].variant.clone(),
            gpu.numerics.to_string(),
            kind.len().to_string(),
            format!("{:.1}", micros / kind.len() as f64),
            steps[first].prediction.bound.to_string(),
        ]);
    }
    let total: f64 = steps.iter().map(|step| step.prediction.micros).sum();
    let DeviceRates {
        name,
        multiprocessors,
        clock,
        rates: figures,
        source,
        ..
    } = rates;
    let meaning = match simulated {
        true => "softcuda computes on the CPU: THE FIGURES MEAN NOTHING\n",
        false => "",
    };
    Ok(format!(
        "{} tokens in {} on {name}, kernels {}: {} steps, predicted to take {total:.0} µs\n\
         A prediction, from {source}: {} multiprocessors at {clock:.2} GHz; memory {:.0} GB/s, L2 {:.0} GB/s, a \
         launch {:.1} µs\n{meaning}\n{}",
        pass.tokens(),
        gpu.precision,
        if gpu.sm90 { "sm90" } else { "sm80" },
        plan.steps.len(),
        multiprocessors.count,
        figures.dram_gb_per_s,
        figures.l2_gb_per_s,
        figures.launch_micros,
        markdown(&rows)
    ))
}

pub fn run(run: &RunOptions, args: Args) -> Result<(), Exit> {
    if args.show_plan {
        return show_plan(run, &args);
    }
    let gpu = [args.left, args.right]
        .iter()
        .any(|on| on.device() != Device::Cpu);
    let open = |model: Option<&String>, on: On| {
        let mut run = match model {
            Some(model) => run.of_model(model),
            None => run.clone(),
        };
        run.device = on.device();
        // Beside a GPU, and as float64, the CPU is the reference.
        if on == On::Naive || on == On::Device(Device::Cpu) && gpu {
            run.precision = None;
        }
        run.open()
    };
    let left = open(None, args.left)?;
    let other = match &args.right_model {
        // One engine does for both sides.
        None if args.left.device() == args.right.device() => None,
        model => Some(open(model.as_ref(), args.right)?),
    };
    let right = other.as_ref().unwrap_or(&left);
    let left_options = args.options(&args.left_task, &args.left_adapters, &args.left_prompt);
    let right_options = args.options(&args.right_task, &args.right_adapters, &args.right_prompt);
    let left_requests = args.requests(&left, &left_options);
    let right_requests = args.requests(right, &right_options);
    let differences = compare(
        &Side {
            engine: &left,
            executor: args.left.executor(),
            requests: &left_requests,
        },
        &Side {
            engine: right,
            executor: args.right.executor(),
            requests: &right_requests,
        },
    )?;
    let first = differences.iter().find(|difference| !difference.within());
    let mut text = String::new();
    if args.all {
        differences
            .iter()
            .for_each(|difference| text.push_str(&format!("{difference}\n")));
    } else if let Some(first) = first {
        text.push_str(&format!("{first}\n"));
    }
    if first.is_none() {
        let worst = differences.iter().map(Difference::relative).fold(0.0, f64::max);
        text.push_str(&format!(
            "all {} steps agree; the largest relative difference is {worst:.1e}\n",
            differences.len()
        ));
    }
    terminal::print_text(&text)?;
    match first {
        Some(first) => Err(Exit::inputs(format!(
            "the first step that disagrees is {}",
            first.step
        ))),
        None => Ok(()),
    }
}
