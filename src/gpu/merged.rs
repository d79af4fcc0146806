//! Weights with an adapter added to them: W + scale·B·A.

use crate::error::{Error, Result};
use crate::model::adapter::{LoraPart, Site};
use crate::model::{Adapter, Linear, Model, ModelConfig};
use crate::precision::Half;

use super::driver::{Context, DeviceMemory};
use super::upload::{AddressAllocator, Image, Piece, upload};

/// A model's linear weights with one adapter added to them, on the device; each replaces its layer's `w`.
/// The adapter then costs nothing but its factors of the embedding tables, which are not merged.
#[derive(Debug)]
pub struct Merged {
    /// Per layer, per [`Site`]: `[out_features, in_features]` elements.
    at: Vec<[u64; 4]>,
    memory: DeviceMemory,
}

impl Merged {
    /// Uploads W + scale·B·A of every layer and site, computed in float32 and rounded once.
    ///
    /// # Errors
    /// A sum that is infinite in `precision`; a call of the driver that failed. Nothing is left on the device then.
    pub fn upload(context: &Context, model: &Model, adapter: &Adapter, precision: Half) -> Result<Merged> {
        let (offsets, bytes) = layout(&model.config, precision, 0);
        let image = image_of(&offsets, bytes, model, adapter, precision);
        let memory = upload(
            context,
            &image,
            &format!("weights merged with adapter `{}`", adapter.name),
        )?;
        let (at, _) = layout(&model.config, precision, memory.address());
        Ok(Merged { at, memory })
    }

    /// The address of a linear layer's weight.
    pub fn w(&self, layer: usize, site: Site) -> u64 {
        self.at[layer][site as usize]
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }
}

/// AddressAllocator of merged weights, as `Layout::new` has them, and the bytes that they take.
fn layout(config: &ModelConfig, precision: Half, start: u64) -> (Vec<[u64; 4]>, u64) {
    let mut addresses = AddressAllocator::new(start);
    let mut address = |site: Site| {
        let (out_features, in_features) = site.shape(config);
        addresses.take(out_features * in_features * precision.bytes())
    };
    let at = (0..config.num_hidden_layers)
        .map(|_| Site::ALL.map(&mut address))
        .collect();
    (at, addresses.end() - start)
}

fn image_of<'a>(
    offsets: &[[u64; 4]],
    bytes: u64,
    model: &'a Model,
    adapter: &'a Adapter,
    precision: Half,
) -> Image<'a> {
    let piece = |layer: usize, site: Site| {
        let linear = model.encoder.layers[layer].linear(site);
        let parts = adapter.parts(layer, site);
        let columns = linear.in_features;
        Piece::elements(
            offsets[layer][site as usize],
            linear.out_features * columns,
            precision,
            move |start, out| merge(linear, parts, start, out),
            move |index, x| {
                let (row, column) = (index / columns, index % columns);
                Err(Error::adapter(
                    &adapter.name,
                    format!(
                        "merged into {site:?} of layer {layer} it gives {x:e} at row {row}, column {column}, {}",
                        precision.overflow()
                    ),
                ))
            },
        )
    };
    let layers = 0..model.config.num_hidden_layers;
    let pieces = layers.flat_map(|layer| Site::ALL.map(|site| piece(layer, site)));
    Image::new(bytes, pieces.collect())
}

/// Elements of W + Σ scale·B·A from element `start` on.
fn merge(linear: &Linear, parts: &[LoraPart], start: usize, out: &mut [f32]) {
    let columns = linear.in_features;
    let tensor_rows = linear.out_features / linear.weight.len();
    let mut product = vec![0.0; out.len().min(columns)];
    let mut done = 0;
    while done < out.len() {
        let (row, column) = ((start + done) / columns, (start + done) % columns);
        let width = (columns - column).min(out.len() - done);
        let out = &mut out[done..done + width];
        linear.weight[row / tensor_rows].read_into(row % tensor_rows * columns + column, out);
        for part in parts {
            let Some(b) = row.checked_sub(part.column).filter(|&b| b < part.width) else {
                continue;
            };
            let product = &mut product[..width];
            product.fill(0.0);
            for (a, bt) in part.a.chunks_exact(columns).zip(part.bt.chunks_exact(part.width)) {
                for (sum, a) in product.iter_mut().zip(&a[column..]) {
                    *sum += bt[b] * a;
                }
            }
            for (x, sum) in out.iter_mut().zip(product) {
                *x += part.scale * *sum;
            }
        }
        done += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{context, download, golden, model, numbers};
    use half::{bf16, f16};

    /// The adapter over all four sites with one part each, and one of q and v with a part each.
    fn cases() -> Vec<(Model, Adapter)> {
        let (jina, bert) = (model("jina-hub"), model("bert"));
        let task = model("jina-hub").adapters.swap_remove(2);
        let user = Adapter::read_peft("user", &golden("bert/user"), &bert.config).unwrap();
        vec![(jina, task), (bert, user)]
    }

    /// Whether each number is the sum in float64, rounded once.
    fn check(found: &[u16], model: &Model, adapter: &Adapter, layer: usize, site: Site, precision: Half) {
        let linear = model.encoder.layers[layer].linear(site);
        let widen = |bits: u16| match precision {
            Half::Bf16 => bf16::from_bits(bits).to_f32(),
            Half::F16 => f16::from_bits(bits).to_f32(),
        };
        let w: Vec<f32> = linear.weight.iter().flat_map(|tensor| tensor.read()).collect();
        let (k, mut changed) = (linear.in_features, 0);
        for (index, (&found, &w)) in found.iter().zip(&w).enumerate() {
            let (row, column) = (index / k, index % k);
            let (mut sum, mut size) = (f64::from(w), f64::from(w.abs()));
            for part in adapter.parts(layer, site) {
                if (part.column..part.column + part.width).contains(&row) {
                    for r in 0..part.rank {
                        let b = f64::from(part.bt[r * part.width + row - part.column]);
                        let product = f64::from(part.scale) * b * f64::from(part.a[r * k + column]);
                        sum += product;
                        size += product.abs();
                    }
                }
            }
            // Rounding keeps order; float32's own error decides where the sum is all but half-way.
            let [low, high] =
                [sum - size * 1e-6, sum + size * 1e-6].map(|x| widen(precision.round(x as f32)));
            let x = widen(found);
            let at = format!("{site:?} of layer {layer}, {row}, {column}");
            assert!(low <= x && x <= high, "{at}: {x:e}, not from {low:e} to {high:e}");
            changed += usize::from(found != precision.round(w));
        }
        let adapted = !adapter.parts(layer, site).is_empty();
        assert_eq!(changed > 0, adapted, "{site:?} of layer {layer}");
    }

    #[test]
    fn weights_and_adapter_are_added_and_rounded_once() {
        for (model, adapter) in cases() {
            for precision in [Half::Bf16, Half::F16] {
                let (offsets, bytes) = layout(&model.config, precision, 0);
                let mut whole = vec![0; bytes as usize];
                image_of(&offsets, bytes, &model, &adapter, precision)
                    .write(0, &mut whole)
                    .unwrap();
                for (layer, offsets) in offsets.iter().enumerate() {
                    for site in Site::ALL {
                        let (n, k) = site.shape(&model.config);
                        let found = numbers(&whole[offsets[site as usize] as usize..][..2 * n * k]);
                        check(&found, &model, &adapter, layer, site, precision);
                    }
                }
            }
        }
    }

    #[test]
    fn merged_weights_are_on_the_device() {
        let Some(context) = context() else { return };
        for (model, adapter) in cases() {
            let merged = Merged::upload(&context, &model, &adapter, Half::Bf16).unwrap();
            for layer in 0..model.config.num_hidden_layers {
                for site in Site::ALL {
                    let (n, k) = site.shape(&model.config);
                    let found = numbers(&download(&context, merged.w(layer, site), 2 * n * k));
                    check(&found, &model, &adapter, layer, site, Half::Bf16);
                }
            }
        }
    }

    #[test]
    fn a_sum_that_does_not_fit_is_the_adapters_error() {
        let (model, mut adapter) = cases().swap_remove(0);
        let part = &mut adapter.layers[1][Site::Fc1 as usize][0];
        part.scale = 1.0;
        part.a.fill(0.0);
        part.a[5] = 300.0;
        part.bt[9] = 300.0;
        let write = |precision| {
            let (offsets, bytes) = layout(&model.config, precision, 0);
            image_of(&offsets, bytes, &model, &adapter, precision).write(0, &mut vec![0; bytes as usize])
        };
        write(Half::Bf16).unwrap();
        let error = write(Half::F16).unwrap_err().to_string();
        let start = "adapter `separation`: merged into Fc1 of layer 1 it gives ";
        assert!(
            error.starts_with(start) && error.contains("e4 at row 9, column 5, "),
            "{error}"
        );
        assert!(error.ends_with("take precision bf16"), "{error}");
    }
}
