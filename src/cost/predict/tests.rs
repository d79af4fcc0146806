use super::*;
use crate::batch::BatchShape;
use crate::cost::rates::MeasuredRates;
use crate::model::adapter::Site;
use crate::plan::{Fusion, GpuOptions};
use crate::precision::{Half, Numerics};
use serde_json::Value;

fn jina() -> ModelConfig {
    ModelConfig {
        head_dim: 64,
        num_attention_heads: 16,
        ..crate::cost::tests::model(1024, 24)
    }
}

/// The plan of jina-embeddings-v3 on a device, with h of so many columns.
fn plan(lengths: &[usize], columns: usize, sm90: bool, device: &DeviceRates) -> Plan {
    let config = jina();
    let shape = BatchShape {
        tokens: lengths.iter().sum(),
        output_rows: lengths.len(),
        adapted: columns > 0,
    };
    let gpu = GpuOptions {
        precision: Half::Bf16,
        numerics: Numerics::Invariant,
        fusion: Fusion::Extended,
        attention: AttentionTile::choose_for(lengths.iter().copied(), config.head_dim, sm90),
        multiprocessors: device.multiprocessors,
        sm90,
        sm90_tile: None,
    };
    Plan::gpu(&config, shape, [columns; 4], gpu)
}

/// Every step: its kernel, and what it is predicted to take.
fn predicted(lengths: &[usize], columns: usize, sm90: bool, device: &str) -> Vec<(String, Step, Prediction)> {
    let device = DeviceRates::named(device).unwrap();
    let plan = plan(lengths, columns, sm90, &device);
    // Adapters of rank 4.
    steps_of(&plan, lengths, if columns > 0 { 4.0 } else { 0.0 }, &device)
}

/// The same of a plan, of whose adapters' columns each row uses so many.
fn steps_of(
    plan: &Plan,
    lengths: &[usize],
    used: f64,
    device: &DeviceRates,
) -> Vec<(String, Step, Prediction)> {
    let config = jina();
    let work = Work {
        config: &config,
        plan,
        lengths,
        used_columns: [used; 4],
    };
    let predictions = predict(&work, device).into_iter().zip(&plan.steps);
    predictions
        .map(|(prediction, step)| (plan.variant(&config, step).to_string(), step.clone(), prediction))
        .collect()
}

fn micros(steps: &[(String, Step, Prediction)]) -> f64 {
    steps.iter().map(|(_, _, prediction)| prediction.micros).sum()
}

/// Every kernel of the report of an H200, alone, beside its prediction.
#[test]
fn predictions_are_near_what_an_h200_took() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/results/2026-11-29-h200/report.json"
    );
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = report["stages"]["kernels"]["report"]["rows"].as_array().unwrap();
    let number = |row: &Value, name: &str| row["parameters"][name].as_u64().map(|n| n as usize);
    let mut ratios = Vec::new();
    for row in rows {
        let (tokens, columns) = (
            number(row, "tokens").unwrap(),
            number(row, "columns").unwrap_or(0),
        );
        let lengths: Vec<usize> = match row["parameters"]["lengths"].as_array() {
            Some(lengths) => lengths
                .iter()
                .map(|length| length.as_u64().unwrap() as usize)
                .collect(),
            None if tokens > 512 => vec![512; tokens / 512],
            None => vec![tokens],
        };
        let group = row["group"].as_str().unwrap();
        let steps = predicted(&lengths, columns, false, "h200");
        let found = steps.iter().find(|(variant, step, _)| {
            let site = step.site();
            let h = step.outputs.len() > 1;
            variant.split(' ').next() == Some(group)
                && match group {
                    "gemm" => site.map(|site| site.shape(&jina())) == number(row, "n").zip(number(row, "k")),
                    "lora_down" => matches!(step.op(), Op::LoraDown(site) if Some(site.shape(&jina()).1) == number(row, "k")),
                    "layernorm" => h == (columns > 0),
                    _ => true,
                }
        });
        // Of few rows a LayerNorm and a down-projection are parts of a product's launch by now.
        let Some((variant, _, prediction)) = found else {
            let apart = ["layernorm", "lora_down"].contains(&group) && tokens <= 16;
            assert!(group == "gemm" || apart, "{row}");
            continue;
        };
        let case = row["case"].as_str().unwrap();
        assert!(
            case.ends_with(variant.split(' ').next_back().unwrap()) || !variant.contains(' '),
            "{variant}: {row}"
        );
        let took = row["micros"]["median"].as_f64().unwrap();
        let ratio = prediction.micros / took;
        println!(
            "{ratio:5.2} {:8.2} {took:8.2} {variant:16} {} {}",
            prediction.micros, prediction.bound, row["shape"]
        );
        ratios.push(ratio);
    }
    // The report measured rows of 4096 tokens out of L2, where a pass has them in it: these are the farthest.
    assert!(ratios.len() > 118, "{}", ratios.len());
    let near = |most: f64| {
        ratios
            .iter()
            .filter(|&&ratio| ratio <= most && ratio >= 1.0 / most)
            .count()
    };
    assert_eq!(near(2.0), ratios.len());
    assert!(
        near(1.25) * 5 >= ratios.len() * 4,
        "{} of {}",
        near(1.25),
        ratios.len()
    );
}

/// The kernels of a whole pass, as the report has them: lengths of at least 32 tokens, whose plan is today's.
#[test]
fn a_pass_is_predicted_as_an_h200_took_it() {
    for (lengths, took) in [
        (vec![128], 1164.0),
        (vec![512], 2407.0),
        (vec![512; 4], 4767.0),
        (vec![128; 16], 4517.0),
        (vec![512; 32], 32121.0),
        (vec![2048], 5736.0),
        (vec![8192], 35742.0),
    ] {
        let micros = micros(&predicted(&lengths, 0, false, "h200"));
        let ratio = micros / took;
        println!("{lengths:?}: {micros:.0} of {took}, {ratio:.2}");
        assert!((0.8..1.25).contains(&ratio), "{lengths:?}: {micros} of {took}");
    }
}

/// By the arithmetic of cuda/NOTES.md.
#[test]
fn a_pass_of_16_tokens_is_what_the_notes_say() {
    let steps = predicted(&[16], 0, false, "h200");
    assert_eq!(steps.len(), 123);
    // A chain of 256 products of 55 clocks, and 1800 clocks before it, at 1.83 GHz; a launch; 32 elements per column.
    let fc2 = steps.iter().find(|(_, step, _)| step.op() == Op::Fc2).unwrap();
    let want = 1.3 + (1800.0 + 256.0 * 55.0 + 32.0) / 1830.0;
    assert!(
        (fc2.2.micros - want).abs() < 1e-9 && fc2.2.bound == Bound::Latency,
        "{fc2:?}"
    );
    assert_eq!(fc2.0, "gemm small16");
    // All blocks fit at once, and each normalises 16 rows: 2800 clocks of instructions, 900 of two sums; then 64 products.
    let qkv = steps
        .iter()
        .find(|(_, step, _)| step.site() == Some(Site::Qkv) && step.outputs.len() == 2);
    let (variant, _, prediction) = qkv.unwrap();
    let want = 1.3 + (1800.0 + 2800.0 + 900.0 + 64.0 * 55.0) / 1830.0;
    assert!((prediction.micros - want).abs() < 1e-9, "{prediction:?}");
    assert_eq!(variant, "norm_gemm");
    // The notes have 0.78 ms, by what an H200 took for seven launches a layer.
    let whole = micros(&steps);
    assert!((0.73..0.80).contains(&(1e-3 * whole)), "{whole} µs");
}

/// By the same notes, where k is split: 753 µs and 655, fc2 10.0 and 6.7, out_proj 4.2 and 3.4.
#[test]
fn a_pass_of_16_tokens_in_the_fastest_class_is_what_the_notes_say() {
    let device = DeviceRates::named("h200").unwrap();
    let mut plan = plan(&[16], 0, false, &device);
    let usual = steps_of(&plan, &[16], 0.0, &device);
    plan.gpu.as_mut().unwrap().numerics = Numerics::Fastest;
    let split = steps_of(&plan, &[16], 0.0, &device);
    assert_eq!(
        [&usual, &split].map(|steps| micros(steps).round()),
        [753.0, 655.0]
    );
    for (op, times) in [(Op::Fc2, ["10.0", "6.7"]), (Op::OutProj, ["4.2", "3.4"])] {
        let step = |steps: &[(String, Step, Prediction)]| {
            let (kernel, _, prediction) = steps.iter().find(|(_, step, _)| step.op() == op).unwrap();
            (kernel.clone(), format!("{:.1}", prediction.micros))
        };
        let wanted = |kernel: &str, micros: &str| (kernel.to_owned(), micros.to_owned());
        assert_eq!(step(&usual), wanted("gemm small16", times[0]));
        assert_eq!(step(&split), wanted("gemm split16", times[1]));
    }
}

/// What binds is named: DRAM where rows are many and columns few, tensor cores in a large product, the launch in a row.
#[test]
fn what_binds_is_named() {
    let bound = |lengths: &[usize], device: &str, op: Op| {
        let steps = predicted(lengths, 0, false, device);
        let (_, _, prediction) = steps.iter().find(|(_, step, _)| step.op() == op).unwrap();
        prediction.bound
    };
    let last = Op::AddLayerNorm(crate::plan::NormSite::Mlp);
    assert_eq!(bound(&[512; 16], "h200", Op::Fc1), Bound::Tensor);
    assert_eq!(bound(&[512; 32], "h200", last), Bound::Dram);
    assert_eq!(bound(&[64], "h200", last), Bound::Launch);
    assert_eq!(bound(&[16], "h200", Op::Fc2), Bound::Latency);
    assert_eq!(bound(&[16], "l4", Op::Fc2), Bound::Dram);
}

/// What a measurement replaces counts, each figure where its work is.
#[test]
fn a_measurement_takes_the_tables_place() {
    let device = DeviceRates::named("h200").unwrap();
    let (config, lengths) = (jina(), [512; 4]);
    for sm90 in [false, true] {
        let plan = plan(&lengths, 0, sm90, &device);
        let work = Work {
            config: &config,
            plan: &plan,
            lengths: &lengths,
            used_columns: [0.0; 4],
        };
        let total = |rates| -> f64 {
            let predictions = predict(&work, &device.clone().measured(rates));
            predictions.iter().map(|prediction| prediction.micros).sum()
        };
        let table = total(device.rates);
        let slow = |set: &dyn Fn(&mut MeasuredRates)| {
            let mut rates = device.rates;
            set(&mut rates);
            total(rates) / table
        };
        assert!(slow(&|rates| rates.launch_micros += 1.0) > 1.0);
        assert!(slow(&|rates| rates.dram_gb_per_s /= 4.0) > 1.0);
        assert!(slow(&|rates| rates.l2_gb_per_s /= 4.0) > 1.0);
        assert_eq!(slow(&|rates| rates.reached /= 2.0) > 1.3, !sm90);
        assert_eq!(slow(&|rates| rates.sm90_speed /= 2.0) > 1.3, sm90);
    }
}

/// On the kernels for compute capability 9.0, µs as cuda/NOTES.md has them.
#[test]
fn attention_on_compute_capability_9_is_near_what_an_h200_took() {
    for (lengths, took) in [
        (vec![128], 4.7),
        (vec![512], 8.1),
        (vec![512; 16], 48.3),
        (vec![1024], 15.3),
        (vec![2048; 4], 156.0),
        (vec![4096; 2], 297.0),
        (vec![8192], 584.0),
        (vec![64; 128], 20.9),
    ] {
        let steps = predicted(&lengths, 0, true, "h200");
        let (variant, _, prediction) = steps
            .iter()
            .find(|(_, step, _)| step.op() == Op::Attention)
            .unwrap();
        let ratio = prediction.micros / took;
        println!(
            "{variant}, {} × {}: {:.1} of {took}, {ratio:.2}",
            lengths.len(),
            lengths[0],
            prediction.micros
        );
        assert!(variant.starts_with("attention wgmma"), "{variant}");
        assert!(
            (0.7..1.35).contains(&ratio),
            "{lengths:?}: {prediction:?} of {took}"
        );
    }
}
