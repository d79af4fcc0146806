//! What the files of weights say of themselves: the index of shards, and what is wrong with a broken header.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;

use crate::error::{Error, Result};
use crate::model::settings::{Settings, read_json};

/// The shard files that an index names, in order, each once.
pub(super) fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
    let map = Settings::new(index, &json)?.object("weight_map")?;
    let map = map.ok_or_else(|| Error::model(index, "has no object `weight_map`"))?;
    let mut names: Vec<&str> = Vec::new();
    for (tensor, file) in map {
        let file = file
            .as_str()
            .ok_or_else(|| Error::model(index, format!("the shard of `{tensor}` is not a file name")))?;
        // An index is not to reach outside its folder.
        if file.contains(['/', '\\']) || file == ".." {
            return Err(Error::model(
                index,
                format!("the shard name `{file}` is not a plain file name"),
            ));
        }
        names.push(file);
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(Error::model(index, "names no shards"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Says with names and numbers what is wrong with a file that `read_metadata` refused; `None` where
/// its own message says all there is.
pub(super) fn diagnose(path: &Path, file: &[u8]) -> Option<Error> {
    // Above any real header; a hostile one is not built up in memory for the sake of its message.
    const LIMIT: u64 = 16 << 20;
    let broken = |problem: String| {
        Error::model(
            path,
            format!("not a valid safetensors file: {problem}; fetch or save it again"),
        )
    };
    let length = file.len() as u64;
    let Some((size, rest)) = file.split_first_chunk::<8>() else {
        return Some(broken(format!(
            "it has {length} bytes, not even a header's length"
        )));
    };
    let header = u64::from_le_bytes(*size);
    if header > rest.len() as u64 {
        return Some(broken(format!(
            "its header takes {header} bytes, but only {} follow",
            rest.len()
        )));
    }
    if header > LIMIT {
        return None;
    }
    let (header, data) = rest.split_at(header as usize);
    let json: serde_json::Value = serde_json::from_slice(header).ok()?;
    let mut tensors = Vec::new();
    for (name, info) in json
        .as_object()?
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
    {
        let info: TensorInfo = match serde_json::from_value(info.clone()) {
            Ok(info) => info,
            Err(e) => return Some(broken(format!("its header's entry for tensor `{name}`: {e}"))),
        };
        tensors.push((info.data_offsets, name, info.dtype, info.shape));
    }
    tensors.sort_by_key(|&(offsets, ..)| offsets);
    let mut at = 0;
    for ((begin, end), name, dtype, shape) in tensors {
        let wrong = |problem: String| Error::Tensor {
            path: path.to_owned(),
            tensor: name.clone(),
            problem,
        };
        if begin != at || end < begin {
            return Some(wrong(format!(
                "its data is said to be bytes {begin} to {end}; wanted its start at {at}, where the tensor before \
                 it ends"
            )));
        }
        let bits = shape
            .iter()
            .try_fold(dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - begin) {
            return Some(wrong(format!(
                "has {} bytes of data, which is not what type {dtype:?} and shape {shape:?} take",
                end - begin
            )));
        }
        at = end;
    }
    (at != data.len()).then(|| {
        broken(format!(
            "its tensors take {at} bytes, but {} follow the header",
            data.len()
        ))
    })
}
