//! The C interface of ropeway. `include/ropeway.h` is made from these files and committed; its text
//! and `README.md` tell the rules: who owns what, which threads may call.
//!
//! | | |
//! |---|---|
//! | `types` | the header's constants and structs |
//! | `error` | status codes, the last error, and the fence that no panic crosses |
//! | `pointers` | what C hands over, checked as far as a pointer can be |
//! | `request` | from C's requests to Rust's |
//! | `results` | from Rust's results to C's |
//! | here | the functions |
//!
//! Every function passes its arguments through `pointers` and its outcome through `error`. Their
//! safety conditions are the same throughout, and stand in the header: pointers that are not NULL point
//! to what their types and lengths say for as long as the call runs, and handles are live.
#![warn(missing_docs)]
// The types have the names that C knows them by; the header says what callers must see to.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod error;
mod pointers;
mod request;
mod results;
mod types;

use std::ffi::{CString, c_char};

use ropeway::{Encoding, Engine, Pooling};

pub use error::ropeway_last_error;
use error::{Failure, c_string, guard, guard_pointer};
use pointers::{out, reference, slice, slice_mut, string, write_sized};
pub use results::ropeway_results;
pub use types::*;

/// A model, ready to embed. Close it with ropeway_close.
pub struct ropeway_engine {
    engine: Engine,
    device: CString,
    fallback_reason: Option<CString>,
}

/// A list of names. Free it with ropeway_names_free.
pub struct ropeway_names {
    names: Vec<CString>,
}

/// The version of the library, "MAJOR.MINOR.PATCH".
#[unsafe(no_mangle)]
pub extern "C" fn ropeway_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Opens the model in a folder. `options` may be NULL: all defaults. Close the engine with ropeway_close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_open(
    folder: *const c_char,
    options: *const ropeway_options,
    engine: *mut *mut ropeway_engine,
) -> ropeway_status {
    // SAFETY: the conditions of this library, told above.
    guard(|| unsafe {
        let handle = out(engine, "engine")?;
        let folder = string(folder, "folder")?;
        *handle = hand_over(request::read_settings(options)?.open(folder)?);
        Ok(())
    })
}

/// Opens a model by its hub id, "owner/name" or "owner/name@revision": from the hub's cache, else
/// downloaded into it. `options` may be NULL: all defaults. Close the engine with ropeway_close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_open_hub(
    id: *const c_char,
    options: *const ropeway_options,
    engine: *mut *mut ropeway_engine,
) -> ropeway_status {
    // SAFETY: the conditions of this library, told above.
    guard(|| unsafe {
        let handle = out(engine, "engine")?;
        let id = string(id, "id")?;
        *handle = hand_over(request::read_settings(options)?.from_hub(id)?);
        Ok(())
    })
}

fn hand_over(engine: Engine) -> *mut ropeway_engine {
    let device = c_string(engine.device_name());
    let fallback_reason = engine.fallback_reason().map(c_string);
    Box::into_raw(Box::new(ropeway_engine {
        engine,
        device,
        fallback_reason,
    }))
}

/// Closes an engine that no call uses any more. NULL is fine. Results and names outlive it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_close(engine: *mut ropeway_engine) {
    // SAFETY: as for `free`.
    unsafe { free(engine) }
}

/// Says what an engine is and needs. Set `info->struct_size` first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_engine_info(
    engine: *const ropeway_engine,
    info: *mut ropeway_info,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    guard(|| unsafe {
        let handle = reference(engine, "engine")?;
        let engine = &handle.engine;
        let (config, memory) = (engine.config(), engine.memory());
        let facts = ropeway_info {
            struct_size: 0,
            device: handle.device.as_ptr(),
            fallback_reason: handle
                .fallback_reason
                .as_ref()
                .map_or(std::ptr::null(), |text| text.as_ptr()),
            hidden_size: config.embedding_size(),
            max_tokens: config.max_tokens,
            vocab_size: config.vocab_size,
            num_hidden_layers: config.num_hidden_layers,
            matryoshka: config.matryoshka.as_ptr(),
            matryoshka_len: config.matryoshka.len(),
            threads: engine.threads(),
            concurrency: memory.concurrency,
            batch_tokens: engine.batch_tokens(),
            weights_bytes: memory.weights,
            arena_bytes: memory.arena,
        };
        write_sized(info, &facts, "info")
    })
}

/// Embeds requests of any kind together. Fails only if the call itself is wrong: otherwise there is a
/// result for every request, in order, each with a status of its own, and a bad request does not
/// hurt the others. Free the results with ropeway_results_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_embed(
    engine: *const ropeway_engine,
    requests: *const ropeway_request,
    requests_len: usize,
    results: *mut *mut ropeway_results,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    guard(|| unsafe {
        let handle = out(results, "results")?;
        let engine = reference(engine, "engine")?;
        let requests = slice(requests, requests_len, "requests")?;
        let results = request::embed(&engine.engine, requests);
        *handle = Box::into_raw(Box::new(ropeway_results::new(results)));
        Ok(())
    })
}

/// Checks a request as ropeway_embed would, without computing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_validate(
    engine: *const ropeway_engine,
    request: *const ropeway_request,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    guard(|| unsafe {
        let engine = reference(engine, "engine")?;
        request::validate(&engine.engine, reference(request, "request")?)
    })
}

/// Embeds texts, all with the same options (NULL: all defaults), into the caller's matrix of
/// `texts_len` rows of `options->dimensions` floats (0: the full embedding); `matrix_len` is the
/// number of floats. `text_lens` may be NULL: every text ends with a NUL. If a text fails, its row is
/// NaN, the other rows are good, and the status and ropeway_last_error() are of the first that
/// failed. If the call itself is wrong, the matrix stays as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_embed_texts(
    engine: *const ropeway_engine,
    texts: *const *const c_char,
    text_lens: *const usize,
    texts_len: usize,
    options: *const ropeway_embed_options,
    matrix: *mut f32,
    matrix_len: usize,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    guard(|| unsafe {
        let engine = &reference(engine, "engine")?.engine;
        let texts = slice(texts, texts_len, "texts")?;
        let lens = match text_lens.is_null() {
            true => None,
            false => Some(slice(text_lens, texts_len, "text_lens")?),
        };
        let options = request::read_options(options, "options")?;
        let vectors = options.get_chunks().is_none()
            && options.get_pooling() != Some(Pooling::None)
            && options.get_encoding() == Encoding::F32;
        if !vectors {
            return Err(Failure::argument(
                "options ask for chunks, for one vector per token or for an encoding; ropeway_embed has these",
            ));
        }
        let dimensions = options
            .get_dimensions()
            .unwrap_or_else(|| engine.config().vector_size(options.get_pooling()));
        if texts_len.checked_mul(dimensions) != Some(matrix_len) {
            return Err(Failure::argument(format!(
                "matrix_len is {matrix_len}; wanted {texts_len} texts × {dimensions} dimensions"
            )));
        }
        let matrix = slice_mut(matrix, matrix_len, "matrix")?;
        let results = request::run(engine, request::texts(texts, lens, &options));
        let mut first = Ok(());
        for (index, (row, result)) in matrix.chunks_exact_mut(dimensions).zip(results).enumerate() {
            match result {
                Ok(embedding) => row.copy_from_slice(embedding.as_f32().unwrap_or_default()),
                Err(failure) => {
                    row.fill(f32::NAN);
                    first = first.and(Err(failure.at_input(index)));
                }
            }
        }
        first
    })
}

/// How many results there are; as many as there were requests.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_results_len(results: *const ropeway_results) -> usize {
    // SAFETY: NULL, or live as the conditions of this library have it.
    unsafe { results.as_ref() }.map_or(0, ropeway_results::len)
}

/// The result of the request at `index`, until ropeway_results_free; NULL if there is none there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_results_get(
    results: *const ropeway_results,
    index: usize,
) -> *const ropeway_embedding {
    // SAFETY: the conditions of this library.
    guard_pointer(|| unsafe {
        let results = reference(results, "results")?;
        let embedding = results.get(index).map(std::ptr::from_ref);
        embedding.ok_or_else(|| out_of_range(index, results.len()))
    })
}

/// Frees results and all that they point to. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_results_free(results: *mut ropeway_results) {
    // SAFETY: as for `free`.
    unsafe { free(results) }
}

/// Adds a PEFT LoRA adapter folder under a name; calls that start later can use it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_add_adapter(
    engine: *const ropeway_engine,
    name: *const c_char,
    folder: *const c_char,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    guard(|| unsafe {
        let engine = reference(engine, "engine")?;
        let (name, folder) = (string(name, "name")?, string(folder, "folder")?);
        Ok(engine.engine.add_adapter(name, folder)?)
    })
}

/// Removes an adapter. Calls that are computing with it finish; its memory is freed after them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_remove_adapter(
    engine: *const ropeway_engine,
    name: *const c_char,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    guard(|| unsafe {
        let engine = reference(engine, "engine")?;
        Ok(engine.engine.remove_adapter(string(name, "name")?)?)
    })
}

/// The names of all loaded adapters, the model's own included. Free them with ropeway_names_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_adapters(
    engine: *const ropeway_engine,
    names: *mut *mut ropeway_names,
) -> ropeway_status {
    // SAFETY: the conditions of this library.
    unsafe { hand_out(engine, names, Engine::adapters) }
}

/// The names of the model's tasks. Free them with ropeway_names_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_tasks(
    engine: *const ropeway_engine,
    names: *mut *mut ropeway_names,
) -> ropeway_status {
    let tasks = |engine: &Engine| {
        engine
            .config()
            .tasks
            .iter()
            .map(|task| task.name.clone())
            .collect()
    };
    // SAFETY: the conditions of this library.
    unsafe { hand_out(engine, names, tasks) }
}

/// How many names there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_names_len(names: *const ropeway_names) -> usize {
    // SAFETY: NULL, or live as the conditions of this library have it.
    unsafe { names.as_ref() }.map_or(0, |names| names.names.len())
}

/// The name at `index`, until ropeway_names_free; NULL if there is none there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_names_get(names: *const ropeway_names, index: usize) -> *const c_char {
    // SAFETY: the conditions of this library.
    guard_pointer(|| unsafe {
        let names = &reference(names, "names")?.names;
        let name = names.get(index).map(|name| name.as_ptr());
        name.ok_or_else(|| out_of_range(index, names.len()))
    })
}

/// Frees names. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ropeway_names_free(names: *mut ropeway_names) {
    // SAFETY: as for `free`.
    unsafe { free(names) }
}

/// # Safety
/// The conditions of this library.
unsafe fn hand_out(
    engine: *const ropeway_engine,
    names: *mut *mut ropeway_names,
    list: impl FnOnce(&Engine) -> Vec<String>,
) -> ropeway_status {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let handle = out(names, "names")?;
        let engine = reference(engine, "engine")?;
        let names = list(&engine.engine).into_iter().map(c_string).collect();
        *handle = Box::into_raw(Box::new(ropeway_names { names }));
        Ok(())
    })
}

/// # Safety
/// NULL, or a handle of this library that has not been freed, and that nothing uses any more.
unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        guard(|| {
            // SAFETY: handles come from `Box::into_raw`; the rest is the caller's promise.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}

fn out_of_range(index: usize, len: usize) -> Failure {
    Failure::argument(format!("index is {index}; there are {len}"))
}
