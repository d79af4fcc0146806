//! A model's base weights on the device: their addresses and their upload.

use crate::error::Result;
use crate::model::adapter::Site;
use crate::model::weights::Tensor;
use crate::model::{Linear, Model, ModelConfig, Norm, Positions, RopeTable};
use crate::precision::Half;

use super::driver::{Context, DeviceMemory};
use super::upload::{AddressAllocator, Image, Piece, upload};

/// The addresses of the weights on the device, or their offsets before it has memory for them. Elements have the
/// 16-bit type; every address is a multiple of [`ALIGN`](super::upload::ALIGN).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightLayout {
    /// `[vocab_size, hidden_size]` elements.
    pub word: u64,
    /// `[hidden_size]` elements: token type 0.
    pub token_type: u64,
    /// `[rows, hidden_size]` elements where positions are learned.
    pub position: Option<u64>,
    /// LayerNorm after the embeddings.
    pub norm: NormAt,
    /// The layers, first to last.
    pub layers: Vec<LayerAt>,
    /// `[max_tokens, head_dim / 2]` pairs of float32, cosine and sine, where positions are rotary: the CPU's.
    pub rope: Option<u64>,
    /// Bytes from the first address to the end of the last weight.
    pub bytes: u64,
}

/// A linear layer's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearAt {
    /// `[out_features, in_features]` elements.
    pub w: u64,
    /// `[out_features]` elements.
    pub bias: u64,
}

/// LayerNorm's gain and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormAt {
    /// `[hidden_size]` elements.
    pub gamma: u64,
    /// `[hidden_size]` elements.
    pub beta: u64,
}

/// The weights of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerAt {
    /// Rows: q (all heads), k (all heads), v (all heads).
    pub qkv: LinearAt,
    /// The attention's output projection.
    pub out_proj: LinearAt,
    /// LayerNorm after attention.
    pub norm1: NormAt,
    /// Into the feed-forward layer.
    pub fc1: LinearAt,
    /// Out of the feed-forward layer.
    pub fc2: LinearAt,
    /// LayerNorm after the feed-forward layer.
    pub norm2: NormAt,
}

impl LayerAt {
    /// The linear layer at a site.
    pub fn linear(&self, site: Site) -> LinearAt {
        match site {
            Site::Qkv => self.qkv,
            Site::OutProj => self.out_proj,
            Site::Fc1 => self.fc1,
            Site::Fc2 => self.fc2,
        }
    }
}

impl WeightLayout {
    /// The layout in memory that begins at `start`, a multiple of 256; 0 gives offsets. It follows from the
    /// configuration alone: [`bytes`](Self::bytes) is what a model takes, known before anything is uploaded.
    pub fn new(config: &ModelConfig, precision: Half, start: u64) -> WeightLayout {
        let mut addresses = AddressAllocator::new(start);
        let mut elements = |count: usize| addresses.take(count * precision.bytes());
        let (hidden, layers) = (config.hidden_size, config.num_hidden_layers);
        let word = elements(config.vocab_size * hidden);
        let token_type = elements(hidden);
        let position = match config.positions {
            Positions::Learned { rows, .. } => Some(elements(rows * hidden)),
            Positions::Rotary { .. } => None,
        };
        let norm_at = |elements: &mut dyn FnMut(usize) -> u64| NormAt {
            gamma: elements(hidden),
            beta: elements(hidden),
        };
        let linear_at = |elements: &mut dyn FnMut(usize) -> u64, site: Site| {
            let (out_features, in_features) = site.shape(config);
            LinearAt {
                w: elements(out_features * in_features),
                bias: elements(out_features),
            }
        };
        let norm = norm_at(&mut elements);
        let layer = |_| LayerAt {
            qkv: linear_at(&mut elements, Site::Qkv),
            out_proj: linear_at(&mut elements, Site::OutProj),
            norm1: norm_at(&mut elements),
            fc1: linear_at(&mut elements, Site::Fc1),
            fc2: linear_at(&mut elements, Site::Fc2),
            norm2: norm_at(&mut elements),
        };
        let layers = (0..layers).map(layer).collect();
        let rope = match config.positions {
            Positions::Rotary { .. } => {
                Some(addresses.take(config.max_tokens * config.head_dim * size_of::<f32>()))
            }
            Positions::Learned { .. } => None,
        };
        WeightLayout {
            word,
            token_type,
            position,
            norm,
            layers,
            rope,
            bytes: addresses.end() - start,
        }
    }

    /// The image of the weights, for a layout of offsets.
    fn image(&self, model: &Model, precision: Half) -> Image<'static> {
        let encoder = &model.encoder;
        let mut pieces = Pieces {
            pieces: Vec::new(),
            precision,
        };
        pieces.tensors(self.word, [&encoder.word]);
        pieces.tensors(self.token_type, [&encoder.token_type.index(0)]);
        if let Some(at) = self.position {
            pieces.tensors(at, &encoder.position);
        }
        pieces.norm(self.norm, &encoder.norm);
        for (at, layer) in self.layers.iter().zip(&encoder.layers) {
            pieces.linear(at.qkv, &layer.qkv);
            pieces.linear(at.out_proj, &layer.out_proj);
            pieces.norm(at.norm1, &layer.norm1);
            pieces.linear(at.fc1, &layer.fc1);
            pieces.linear(at.fc2, &layer.fc2);
            pieces.norm(at.norm2, &layer.norm2);
        }
        if let (Some(at), Positions::Rotary { base }) = (self.rope, model.config.positions) {
            let table = RopeTable::new(model.config.max_tokens, model.config.head_dim, base.into());
            let pairs = |position: usize| {
                let (cos, sin) = table.at(position);
                cos.iter().zip(sin).map(|(&cos, &sin)| [cos, sin])
            };
            let pairs: Vec<[f32; 2]> = (0..table.positions()).flat_map(pairs).collect();
            pieces.pieces.push(Piece::plain(at, pairs));
        }
        Image::new(self.bytes, pieces.pieces)
    }
}

/// A model's base weights on the device.
#[derive(Debug)]
pub struct Weights {
    at: WeightLayout,
    memory: DeviceMemory,
}

impl Weights {
    /// Uploads a model's weights, on the threads of the current rayon pool, and lets go of the file's pages.
    ///
    /// # Errors
    /// A number that is finite in the file and infinite in `precision`; a call of the driver that failed. Nothing
    /// is left on the device then.
    pub fn upload(context: &Context, model: &Model, precision: Half) -> Result<Weights> {
        let offsets = WeightLayout::new(&model.config, precision, 0);
        let memory = upload(context, &offsets.image(model, precision), "the weights")?;
        Ok(Weights {
            at: WeightLayout::new(&model.config, precision, memory.address()),
            memory,
        })
    }

    /// Their addresses.
    pub fn at(&self) -> &WeightLayout {
        &self.at
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }
}

struct Pieces {
    pieces: Vec<Piece<'static>>,
    precision: Half,
}

impl Pieces {
    /// Tensors, stacked without gaps.
    fn tensors<'t>(&mut self, mut at: u64, tensors: impl IntoIterator<Item = &'t Tensor>) {
        for tensor in tensors {
            self.pieces
                .push(Piece::tensor(at, tensor.clone(), self.precision));
            at += (tensor.len() * self.precision.bytes()) as u64;
        }
    }

    fn linear(&mut self, at: LinearAt, linear: &Linear) {
        self.tensors(at.w, &linear.weight);
        self.tensors(at.bias, &linear.bias);
    }

    fn norm(&mut self, at: NormAt, norm: &Norm) {
        self.tensors(at.gamma, [&norm.weight]);
        self.tensors(at.beta, [&norm.bias]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{context, download, model, numbers, rounded};
    use crate::gpu::upload::ALIGN;
    use model_maker::{Dtype, Family, ModelSpec};

    const MODELS: [&str; 4] = ["jina-hub", "jina-native", "bert", "xlm-roberta"];

    /// A small model, and the folder that keeps it.
    fn made(family: Family, dtype: Dtype) -> (tempfile::TempDir, Model) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let spec = ModelSpec {
            vocab: 64,
            hidden: 32,
            layers: 2,
            heads: 2,
            ffn: 64,
            max_positions: 40,
            dtype,
            tokenizer: false,
            ..ModelSpec::new(family)
        };
        model_maker::write(&spec, &path).unwrap();
        let model = Model::open(&path).unwrap();
        (folder, model)
    }

    /// Every place of a layout, with what is to be there as float32, which every file's type is a part of.
    fn places(at: &WeightLayout, model: &Model) -> Vec<(u64, Vec<f32>)> {
        let encoder = &model.encoder;
        let hidden = model.config.hidden_size;
        let mut places = vec![
            (at.word, encoder.word.read()),
            (at.token_type, encoder.token_type.read()[..hidden].to_vec()),
        ];
        let norm = |at: NormAt, norm: &Norm| [(at.gamma, norm.weight.read()), (at.beta, norm.bias.read())];
        let linear = |at: LinearAt, linear: &Linear| {
            let read = |tensors: &[Tensor]| tensors.iter().flat_map(Tensor::read).collect();
            [(at.w, read(&linear.weight)), (at.bias, read(&linear.bias))]
        };
        assert_eq!(at.position.is_some(), encoder.position.is_some());
        places.extend(at.position.zip(encoder.position.as_ref().map(Tensor::read)));
        places.extend(norm(at.norm, &encoder.norm));
        assert_eq!(at.layers.len(), encoder.layers.len());
        for (at, layer) in at.layers.iter().zip(&encoder.layers) {
            for site in Site::ALL {
                places.extend(linear(at.linear(site), layer.linear(site)));
            }
            places.extend(norm(at.norm1, &layer.norm1));
            places.extend(norm(at.norm2, &layer.norm2));
        }
        places
    }

    #[test]
    fn a_layout_is_aligned_and_never_overlaps() {
        for name in MODELS {
            let model = model(name);
            for precision in [Half::Bf16, Half::F16] {
                let at = WeightLayout::new(&model.config, precision, 0);
                let places = places(&at, &model);
                let mut ranges: Vec<(u64, u64)> = places
                    .iter()
                    .map(|(at, values)| (*at, at + 2 * values.len() as u64))
                    .collect();
                let rope = (model.config.max_tokens * model.config.head_dim * 4) as u64;
                ranges.extend(at.rope.map(|at| (at, at + rope)));
                ranges.sort_unstable();
                assert!(
                    ranges.iter().all(|(start, _)| start.is_multiple_of(ALIGN)),
                    "{name}"
                );
                assert!(
                    ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
                    "{name} overlaps"
                );
                let end = ranges.last().unwrap().1;
                assert!(
                    at.bytes >= end && at.bytes - end < ALIGN,
                    "{name}: {} of {end}",
                    at.bytes
                );
                // What lies between places is padding alone.
                let used: u64 = ranges.iter().map(|(start, end)| end - start).sum();
                assert!(at.bytes - used < ALIGN * ranges.len() as u64, "{name}");
            }
        }
    }

    #[test]
    fn addresses_are_offsets_from_the_memory() {
        for name in MODELS {
            let model = model(name);
            let offsets = WeightLayout::new(&model.config, Half::Bf16, 0);
            let start = 7 << 20;
            let at = WeightLayout::new(&model.config, Half::Bf16, start);
            assert_eq!(at.bytes, offsets.bytes);
            let starts = |at: &WeightLayout, start: u64| {
                let places = places(at, &model).into_iter().map(|(at, _)| at);
                let starts = places.chain(at.rope).map(|at| at - start);
                starts.collect::<Vec<_>>()
            };
            assert_eq!(starts(&at, start), starts(&offsets, 0));
        }
    }

    #[test]
    fn weights_are_on_the_device_bit_for_bit() {
        let Some(context) = context() else { return };
        let mut models: Vec<Model> = MODELS.map(model).into();
        let made: Vec<_> = [
            (Family::Jina, Dtype::F16),
            (Family::Bert, Dtype::F32),
            (Family::XlmRoberta, Dtype::F16),
        ]
        .map(|(family, dtype)| made(family, dtype))
        .into();
        let (_folders, more): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        models.extend(more);
        for (model, precision) in models
            .iter()
            .flat_map(|model| [(model, Half::Bf16), (model, Half::F16)])
        {
            let name = model.path.display();
            let weights = Weights::upload(&context, model, precision).unwrap();
            assert_eq!(
                weights.bytes(),
                WeightLayout::new(&model.config, precision, 0).bytes
            );
            for (n, (address, values)) in places(weights.at(), model).into_iter().enumerate() {
                let found = numbers(&download(&context, address, 2 * values.len()));
                let same = found == rounded(precision, &values);
                assert!(same, "{name}, {precision}: place {n} of {} numbers", values.len());
            }
            assert_eq!(weights.at().rope.is_some(), model.encoder.position.is_none());
            let Some(rope) = weights.at().rope else { continue };
            let Positions::Rotary { base } = model.config.positions else {
                panic!("a table without rotary positions");
            };
            let half = model.config.head_dim / 2;
            let table = download(&context, rope, model.config.max_tokens * half * 8);
            let number = |at: usize| f32::from_le_bytes(table[4 * at..][..4].try_into().unwrap());
            let cpu = RopeTable::new(model.config.max_tokens, 2 * half, base.into());
            for position in 0..model.config.max_tokens {
                for i in 0..half {
                    let at = 2 * (position * half + i);
                    let (cos, sin) = (cpu.at(position).0[i], cpu.at(position).1[i]);
                    assert_eq!(
                        (number(at).to_bits(), number(at + 1).to_bits()),
                        (cos.to_bits(), sin.to_bits())
                    );
                }
            }
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_an_error_that_says_where_and_what_to_do() {
        let (folder, model) = made(Family::Bert, Dtype::F32);
        let tensor = &model.encoder.layers[1].fc2.weight[0];
        let path = folder.path().join("model/model.safetensors");
        let mut file = std::fs::read(&path).unwrap();
        let bytes = tensor.bytes();
        let at = file
            .windows(bytes.len())
            .position(|window| window == bytes)
            .unwrap();
        file[at + 4 * 77..][..4].copy_from_slice(&70000f32.to_le_bytes());
        let broken = folder.path().join("broken.safetensors");
        std::fs::write(&broken, file).unwrap();
        drop(model);
        std::fs::rename(&broken, &path).unwrap();

        let model = Model::open(&folder.path().join("model")).unwrap();
        let write = |precision| {
            let at = WeightLayout::new(&model.config, precision, 0);
            at.image(&model, precision)
                .write(0, &mut vec![0; at.bytes as usize])
        };
        write(Half::Bf16).unwrap();
        let error = write(Half::F16).unwrap_err().to_string();
        let expected = "tensor `encoder.layer.1.output.dense.weight`: holds 7e4 at index 77, which is infinite as \
                        f16 (up to 65504); take precision bf16";
        assert!(error.ends_with(expected), "{error}");
    }
}
