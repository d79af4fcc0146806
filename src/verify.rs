//! Whether a model's outputs make sense: files can be whole, and all numbers finite, while every text gets one vector.

use crate::engine::Engine;
use crate::error::{Error, RequestError, Result};
use crate::output::Embedding;
use crate::request::{Embed, Request};

/// Inputs that are told apart by any model, as places in the vocabulary, in 64ths. They begin alike, as texts do, so that a
/// model which pools its first token has to look at the others.
const INPUTS: [&[usize]; 3] = [
    &[0, 3, 17, 29, 2],
    &[0, 41, 60, 8, 23, 51, 2],
    &[0, 12, 12, 35, 2],
];

/// Unit vectors that are this close are the same: a cosine of 0.9999875, as they are where one bias outweighs all else.
const SAME: f32 = 5e-3;

impl Engine {
    /// Embeds three short, different inputs with the model alone and with each loaded adapter, and checks that the vectors
    /// are finite, not zero, and not the same. Weights that are all finite can be so large that every text gets the same
    /// vector: this is where it shows. [`model::verify`](crate::model::verify) checks the files; the two together are a
    /// whole check of a model. Takes as long as a few short texts.
    ///
    /// # Errors
    /// [`Error::Model`] with what was found; [`Error::Gpu`], [`Error::DeviceLost`] and [`Error::Internal`] as
    /// [`embed_batch`](Self::embed_batch) has them.
    pub fn verify_outputs(&self) -> Result<()> {
        self.verify_with("the model", &Embed::base())?;
        self.adapters().iter().try_for_each(|adapter| {
            let whose = format!("the model with its adapter `{adapter}`");
            self.verify_with(&whose, &Embed::mixture([(adapter.as_str(), 1.0)]))
        })
    }

    fn verify_with(&self, whose: &str, options: &Embed) -> Result<()> {
        let wrong = |problem: &str| {
            Error::model(
                self.path(),
                format!(
                    "{whose} gives {problem}: some weight, bias or scale is far too large, or the weights belong to another \
                     configuration; fetch the model again"
                ),
            )
        };
        let options = options.clone().normalize(true);
        let places = self.config().vocab_size;
        let ids = |input: &[usize]| -> Vec<u32> {
            let longest = input.iter().take(self.config().max_tokens);
            longest.map(|place| (place * places / 64) as u32).collect()
        };
        let inputs = INPUTS.map(ids);
        let requests: Vec<Request<'_>> = inputs.iter().map(|ids| Request::ids(ids, &options)).collect();
        let vector = |embedding: Result<_>| match embedding {
            Err(Error::Request(RequestError::NotFinite)) => Err(wrong("vectors that are not finite")),
            other => other.and_then(Embedding::into_f32),
        };
        let vectors: Vec<Vec<f32>> = self
            .embed_batch(&requests)
            .into_iter()
            .map(vector)
            .collect::<Result<_>>()?;
        if vectors.iter().any(|vector| vector.iter().all(|&x| x == 0.0)) {
            return Err(wrong("vectors of zeros"));
        }
        let distance = |i: usize, j: usize| -> f32 {
            let squares = vectors[i].iter().zip(&vectors[j]).map(|(x, y)| (x - y) * (x - y));
            squares.sum::<f32>().sqrt()
        };
        match [(0, 1), (0, 2), (1, 2)]
            .into_iter()
            .all(|(i, j)| distance(i, j) < SAME)
        {
            true => Err(wrong("the same vector for different inputs")),
            false => Ok(()),
        }
    }
}
