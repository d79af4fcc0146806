//! Streaming writer of safetensors files: the header from the shapes, then one tensor after the other through a small buffer.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use half::{bf16, f16};
use serde_json::{Map, json};

use crate::values::Part;
use crate::{Dtype, write_json};

/// A tensor to be written: a name, a shape and the parts that fill it, in order.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub parts: Vec<Part>,
}

impl Tensor {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes `tensors`, sorted by name, to `path`. A few MB of memory, whatever the size of the tensors.
pub fn write_file(path: &Path, mut tensors: Vec<Tensor>, dtype: Dtype) -> Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.count() * dtype.size();
        header.insert(
            tensor.name.clone(),
            json!({ "dtype": dtype.safetensors_name(), "shape": tensor.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for part in tensors.iter().flat_map(|tensor| &tensor.parts) {
            write_part(&mut out, part, dtype)?;
        }
        out.flush()
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

fn write_part(out: &mut impl Write, part: &Part, dtype: Dtype) -> std::io::Result<()> {
    const CHUNK: usize = 1 << 14;
    let mut bytes = Vec::with_capacity(CHUNK * 4);
    let mut next = 0;
    while next < part.count() {
        let end = part.count().min(next + CHUNK);
        bytes.clear();
        let values = (next..end).map(|i| part.value(i));
        match dtype {
            Dtype::Bf16 => bytes.extend(values.flat_map(|v| bf16::from_f32(v).to_le_bytes())),
            Dtype::F16 => bytes.extend(values.flat_map(|v| f16::from_f32(v).to_le_bytes())),
            Dtype::F32 => bytes.extend(values.flat_map(f32::to_le_bytes)),
        }
        out.write_all(&bytes)?;
        next = end;
    }
    Ok(())
}

/// Writes `model.safetensors` in `folder`, or, for more than one shard, `model-0000i-of-0000N.safetensors` and the index.
pub fn write_model(folder: &Path, mut tensors: Vec<Tensor>, dtype: Dtype, shards: usize) -> Result<()> {
    if shards == 1 {
        return write_file(&folder.join("model.safetensors"), tensors, dtype);
    }
    if shards > tensors.len() {
        bail!(
            "--shards {shards}: the model has only {} tensors; ask for at most that many shards",
            tensors.len()
        );
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let total: usize = tensors.iter().map(Tensor::count).sum();
    let mut left = total;
    let mut weight_map = Map::new();
    let mut rest = tensors.into_iter().peekable();
    for shard in 1..=shards {
        // A shard takes tensors until it has its share of what is left, and leaves at least one to each shard after it.
        let after = shards - shard;
        let share = left / (after + 1);
        let file = format!("model-{shard:05}-of-{shards:05}.safetensors");
        let mut taken = Vec::new();
        let mut size = 0;
        while rest.len() > after && rest.peek().is_some() && (taken.is_empty() || after == 0 || size < share)
        {
            let Some(tensor) = rest.next() else { break };
            size += tensor.count();
            weight_map.insert(tensor.name.clone(), json!(file));
            taken.push(tensor);
        }
        left -= size;
        write_file(&folder.join(&file), taken, dtype)?;
    }
    let index = json!({ "metadata": { "total_size": total * dtype.size() }, "weight_map": weight_map });
    write_json(&folder.join("model.safetensors.index.json"), &index)
}
