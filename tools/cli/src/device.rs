//! What a failing device, or a model whose files changed, means for the inputs that were computed with it: nothing.

use ropeway::{Embedding, Engine, Error, Request, Result};

/// Whether the device failed. That says nothing about the input that was being computed, which must not be told as failed.
pub fn failed(error: &Error) -> bool {
    match error {
        Error::Gpu { .. } | Error::DeviceLost(_) => true,
        Error::Input { source, .. } => failed(source),
        _ => false,
    }
}

/// Whether an error says nothing about the input that it came with: the device failed, or a file of the model was changed
/// under the engine. All later inputs would get it too; so a run ends there, and none of them gets a row.
pub fn ends_run(error: &Error) -> bool {
    match error {
        Error::Model { .. } | Error::Tensor { .. } | Error::Io { .. } => true,
        Error::Input { source, .. } => ends_run(source),
        other => failed(other),
    }
}

/// Embeds requests. Those that a device failure hit are tried once more: a call that failed for want of memory, say, may
/// succeed now, and a lost device says so again.
pub fn embed_batch(engine: &Engine, requests: &[Request<'_>]) -> Vec<Result<Embedding>> {
    let mut results = engine.embed_batch(requests);
    let hit: Vec<usize> = (0..results.len())
        .filter(|&index| results[index].as_ref().is_err_and(failed))
        .collect();
    if !hit.is_empty() {
        let again: Vec<Request<'_>> = hit.iter().map(|&index| requests[index].clone()).collect();
        for (index, result) in hit.into_iter().zip(engine.embed_batch(&again)) {
            results[index] = result;
        }
    }
    results
}
