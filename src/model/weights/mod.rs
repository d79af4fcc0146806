//! Weight files: memory-mapped safetensors, validated once, borrowed ever after.
//!
//! A [`Checkpoint`] is one file or the shards of an index. Nothing is copied at load: a [`Tensor`]
//! is a window into the map that keeps it alive, and its rows are converted to f32 when read.

mod files;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use memmap2::Mmap;
use safetensors::tensor::{Dtype as StDtype, SafeTensors};

use crate::error::{Error, Result};
use crate::model::file::{self, Stamp};
use files::{diagnose, shards};

/// The number types weights may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        })
    }
}

/// One mapped file.
#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    map: Mmap,
    stamp: Stamp,
}

/// A validated window into a mapped file.
#[derive(Clone, Debug)]
pub struct Tensor {
    file: Arc<Mapped>,
    name: Arc<str>,
    offset: usize,
    dtype: Dtype,
    shape: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    offset: usize,
    /// As the file names it, so that an unsupported type is reported only when it is asked for.
    dtype: StDtype,
    shape: Vec<usize>,
}

/// All tensors of a model or adapter by name.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Arc<Mapped>>,
    entries: HashMap<String, Entry>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, of a
    /// folder.
    pub fn open_folder(folder: &Path) -> Result<Checkpoint> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if file::is_present(&single) {
            Checkpoint::open_files(folder, std::slice::from_ref(&single))
        } else if file::is_present(&index) {
            Checkpoint::open_files(folder, &shards(folder, &index)?)
        } else if file::is_present(&folder.join("pytorch_model.bin")) {
            Err(Error::model(
                folder,
                "only pytorch_model.bin is here, and pickled weights are not read; save the model with \
                 safetensors (`save_pretrained(..., safe_serialization=True)`)",
            ))
        } else {
            Err(Error::model(
                folder,
                "neither model.safetensors nor model.safetensors.index.json is here; other weights (pytorch_model.bin) are \
                 not read: save the model with safetensors",
            ))
        }
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Checkpoint> {
        Checkpoint::open_files(path, &[path.to_owned()])
    }

    fn open_files(path: &Path, files: &[PathBuf]) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint {
            path: path.to_owned(),
            files: Vec::new(),
            entries: HashMap::new(),
        };
        for file in files {
            checkpoint.add_file(file)?;
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let (file, opened) = file::open(path)?;
        if opened.len() == 0 {
            return Err(Error::model(path, "the file is empty; fetch it again"));
        }
        // SAFETY: the map is read-only. Another process that shortens the file while it
        // is mapped can make reads fault, as with any mapped file; the README says so. A change that is
        // over before a pass begins is noticed: see `Tensor::changed_file`.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            diagnose(path, &map).unwrap_or_else(|| {
                Error::model(
                    path,
                    format!("not a valid safetensors file ({e}); fetch or save it again"),
                )
            })
        })?;
        let index = self.files.len();
        // read_metadata returns the header's length without its own 8-byte length field, and has
        // checked that the tensors tile the rest of the file without gap or overlap.
        let data = header + 8;
        for (name, info) in metadata.tensors() {
            let (begin, _) = info.data_offsets;
            let size = info.dtype.bitsize().div_ceil(8);
            if size > 0 && (data + begin) % size != 0 {
                return Err(Error::Tensor {
                    path: path.to_owned(),
                    tensor: name,
                    problem: format!(
                        "its data starts at byte {}, which is not a multiple of {size}",
                        data + begin
                    ),
                });
            }
            let entry = Entry {
                file: index,
                offset: data + begin,
                dtype: info.dtype,
                shape: info.shape.clone(),
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::Tensor {
                    path: path.to_owned(),
                    tensor: name,
                    problem: "is in two shards".into(),
                });
            }
        }
        self.files.push(Arc::new(Mapped {
            path: path.to_owned(),
            map,
            stamp: Stamp::new(path, &opened),
        }));
        Ok(())
    }

    /// Whether a tensor of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The tensor `name`, whatever its shape.
    pub fn any(&self, name: &str) -> Result<Tensor> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| self.error(name, "is missing".into()))?;
        let dtype = match entry.dtype {
            StDtype::F32 => Dtype::F32,
            StDtype::F16 => Dtype::F16,
            StDtype::BF16 => Dtype::Bf16,
            other => {
                return Err(self.error(name, format!("has type {other:?}; wanted F32, F16 or BF16")));
            }
        };
        Ok(Tensor {
            file: self.files[entry.file].clone(),
            name: name.into(),
            offset: entry.offset,
            dtype,
            shape: entry.shape.clone(),
        })
    }

    /// The tensor `name` of exactly this shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.any(name)?;
        if tensor.shape != shape {
            return Err(self.error(
                name,
                format!("has shape {:?}; the configuration wants {shape:?}", tensor.shape),
            ));
        }
        Ok(tensor)
    }

    /// An error about a tensor of this name.
    pub fn error(&self, name: &str, problem: String) -> Error {
        Error::Tensor {
            path: self.path.clone(),
            tensor: name.into(),
            problem,
        }
    }
}

impl Tensor {
    /// The name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.file.map[self.offset..self.offset + self.len() * self.dtype.size()]
    }

    /// Entry `index` of the outermost dimension.
    ///
    /// Panics if there is none: callers have checked the shape.
    pub fn index(&self, index: usize) -> Tensor {
        assert!(index < self.shape[0]);
        let shape = self.shape[1..].to_vec();
        let stride: usize = shape.iter().product();
        Tensor {
            offset: self.offset + index * stride * self.dtype.size(),
            shape,
            ..self.clone()
        }
    }

    /// Reads `out.len()` numbers from number `start` on, as f32 (exact for all three types).
    ///
    /// Panics past the end, as do the other reads.
    pub fn read_into(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = &self.bytes()[start * size..(start + out.len()) * size];
        match self.dtype {
            Dtype::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
            Dtype::F16 => {
                for (x, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *x = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Dtype::Bf16 => {
                for (x, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *x = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
                }
            }
        }
    }

    /// Reads row `row` of a matrix.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        self.read_into(row * self.shape[self.shape.len() - 1], out);
    }

    /// Reads number `index` of the flattened tensor.
    pub fn read_one(&self, index: usize) -> f32 {
        let mut one = [0.0];
        self.read_into(index, &mut one);
        one[0]
    }

    /// Reads everything, as f32.
    pub fn read(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.read_into(0, &mut out);
        out
    }

    /// An error about this tensor.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.file.path.clone(),
            tensor: self.name.to_string(),
            problem: problem.into(),
        }
    }

    /// Checks that no number is NaN or infinite.
    pub fn check_finite(&self) -> Result<()> {
        self.check_finite_in(0, self.len())
    }

    /// The same of `count` numbers from number `start` on.
    pub fn check_finite_in(&self, start: usize, count: usize) -> Result<()> {
        let size = self.dtype.size();
        let bytes = &self.bytes()[start * size..(start + count) * size];
        // A number whose exponent has all bits set is not finite, in each of the three types.
        let found = match self.dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .position(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7f80_0000 == 0x7f80_0000),
            Dtype::F16 => bytes
                .chunks_exact(2)
                .position(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7c00 == 0x7c00),
            Dtype::Bf16 => bytes
                .chunks_exact(2)
                .position(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7f80 == 0x7f80),
        };
        match found.map(|at| start + at) {
            None => Ok(()),
            Some(index) => Err(self.error(format!(
                "holds {} at index {index}; fetch the file again, or repair the weights",
                self.read_one(index)
            ))),
        }
    }

    /// The file, if it is not what it was when it was mapped: one that somebody shortened makes reads fault, and one that
    /// was overwritten has other numbers. It cannot help against a change while the tensor is read.
    pub fn changed_file(&self) -> Option<&Path> {
        self.file.stamp.changed()
    }

    /// Whether both are in one mapped file.
    pub fn shares_file(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }

    /// Tells the system that these pages are not needed for now. They stay readable: they come
    /// back from the file. Used after a copy was made, so that a model is not in memory twice.
    pub fn release_pages(&self) {
        #[cfg(unix)]
        {
            let size = self.len() * self.dtype.size();
            // SAFETY: the map is a read-only map of a file, so dropping clean pages loses
            // nothing; the range lies within the map.
            let result = unsafe {
                self.file
                    .map
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.offset, size)
            };
            if let Err(error) = result {
                tracing::debug!(%error, "madvise");
            }
        }
    }
}
