//! The upload of weights: an image of device memory, as pieces that can be written in any order, and its copy through
//! pinned staging buffers.
//!
//! rayon's threads fill a buffer (reading the mapped file, converting) while the copies of earlier buffers run.
//! A copy from pageable memory would wait for both, and the driver would stage it a second time.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::Result;
use crate::model::weights::Tensor;
use crate::precision::Half;

use super::driver::{Context, DeviceMemory, DriverError, Event, Pinned, Stream};
use super::failure::in_step;

/// The alignment of everything on the device: a whole number of cache lines, which `cuMemAlloc` guarantees.
pub const ALIGN: u64 = 256;

/// Bytes of a staging buffer.
const STAGE: usize = 8 << 20;

/// Staging buffers: one is filled, one is copied, one evens out their different speeds.
const STAGES: usize = 3;

/// Bytes that one thread fills at a time. A multiple of [`ALIGN`], as [`STAGE`] is: neither splits an element.
const SHARE: usize = 256 << 10;

/// Allocates ascending addresses.
#[derive(Debug)]
pub struct AddressAllocator {
    next: u64,
}

impl AddressAllocator {
    /// From `start` on, a multiple of [`ALIGN`].
    pub fn new(start: u64) -> AddressAllocator {
        assert!(start.is_multiple_of(ALIGN));
        AddressAllocator { next: start }
    }

    /// The address of the next `bytes` bytes.
    pub fn take(&mut self, bytes: usize) -> u64 {
        let address = self.next;
        self.next = (address + bytes as u64).next_multiple_of(ALIGN);
        address
    }

    /// The end of everything allocated, padding included.
    pub fn end(&self) -> u64 {
        self.next
    }
}

/// Makes bytes `at..at + out.len()` of a piece.
type Fill<'a> = Box<dyn Fn(usize, &mut [u8]) -> Result<()> + Send + Sync + 'a>;

/// Some bytes of an [`Image`].
pub struct Piece<'a> {
    /// From the image's first byte.
    at: usize,
    bytes: usize,
    fill: Fill<'a>,
    /// Its pages are released once it is copied.
    tensor: Option<Tensor>,
}

impl<'a> Piece<'a> {
    /// A tensor's elements, rounded if the file has another type. An element that is not finite is an error, and so is one
    /// that is finite there and infinite here.
    pub fn tensor(at: u64, tensor: Tensor, precision: Half) -> Piece<'a> {
        let source = tensor.clone();
        let bytes = tensor.len() * precision.bytes();
        let fill: Fill<'a> = if tensor.dtype() == precision.dtype() {
            Box::new(move |at, out| {
                source.check_finite_in(at / precision.bytes(), out.len() / precision.bytes())?;
                out.copy_from_slice(&source.bytes()[at..][..out.len()]);
                Ok(())
            })
        } else {
            Box::new(move |at, out| {
                source.check_finite_in(at / precision.bytes(), out.len() / precision.bytes())?;
                let read = |start: usize, x: &mut [f32]| source.read_into(start, x);
                match round(precision, at, out, read) {
                    None => Ok(()),
                    Some((index, x)) => {
                        Err(source.error(format!("holds {x:e} at index {index}, {}", precision.overflow())))
                    }
                }
            })
        };
        Piece {
            at: at as usize,
            bytes,
            fill,
            tensor: Some(tensor),
        }
    }

    /// `count` elements that `read` gives, from any index on. `lost` gets the index and value of one that is
    /// finite and becomes infinite.
    pub fn elements(
        at: u64,
        count: usize,
        precision: Half,
        read: impl Fn(usize, &mut [f32]) + Send + Sync + 'a,
        lost: impl Fn(usize, f32) -> Result<()> + Send + Sync + 'a,
    ) -> Piece<'a> {
        let fill = move |at: usize, out: &mut [u8]| match round(precision, at, out, &read) {
            None => Ok(()),
            Some((index, x)) => lost(index, x),
        };
        Piece {
            at: at as usize,
            bytes: count * precision.bytes(),
            fill: Box::new(fill),
            tensor: None,
        }
    }

    /// These values, as they are.
    pub fn plain<T: bytemuck::Pod + Send + Sync>(at: u64, values: Vec<T>) -> Piece<'a> {
        Piece {
            at: at as usize,
            bytes: size_of_val(values.as_slice()),
            fill: Box::new(move |at, out| {
                out.copy_from_slice(&bytemuck::cast_slice(&values)[at..][..out.len()]);
                Ok(())
            }),
            tensor: None,
        }
    }

    fn range(&self) -> Range<usize> {
        self.at..self.at + self.bytes
    }
}

/// Rounds the elements from byte `at` of a piece on. Returns the first that becomes infinite, with its index in the
/// piece.
fn round(
    precision: Half,
    at: usize,
    out: &mut [u8],
    read: impl Fn(usize, &mut [f32]),
) -> Option<(usize, f32)> {
    let size = precision.bytes();
    let mut lost = None;
    let mut start = at / size;
    let mut wide = [0.0; 1024];
    for out in out.chunks_mut(wide.len() * size) {
        let wide = &mut wide[..out.len() / size];
        read(start, wide);
        if let Some(index) = precision.round_into(wide, out) {
            lost = lost.or(Some((start + index, wide[index])));
        }
        start += wide.len();
    }
    lost
}

/// The contents of a range of device memory: pieces, and zeros between them.
pub struct Image<'a> {
    bytes: usize,
    /// In order, disjoint.
    pieces: Vec<Piece<'a>>,
}

impl<'a> Image<'a> {
    /// Panics if pieces overlap or reach past the end: a layout is wrong then.
    pub fn new(bytes: u64, mut pieces: Vec<Piece<'a>>) -> Image<'a> {
        let bytes = bytes as usize;
        pieces.retain(|piece| piece.bytes > 0);
        pieces.sort_by_key(|piece| piece.at);
        let ends = pieces.iter().skip(1).map(|next| next.at).chain([bytes]);
        assert!(
            pieces
                .iter()
                .zip(ends)
                .all(|(piece, end)| piece.range().end <= end),
            "pieces overlap"
        );
        Image { bytes, pieces }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes bytes `at..at + out.len()`, on the threads of the current rayon pool. The error is the first one's.
    pub fn write(&self, at: usize, out: &mut [u8]) -> Result<()> {
        let shares = out.par_chunks_mut(SHARE).enumerate();
        let written = shares.map(|(n, out)| self.write_share(at + n * SHARE, out));
        written.find_first(Result::is_err).unwrap_or(Ok(()))
    }

    fn write_share(&self, at: usize, out: &mut [u8]) -> Result<()> {
        let end = at + out.len();
        let mut done = at;
        let first = self.pieces.partition_point(|piece| piece.range().end <= at);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.at < end) {
            let (from, to) = (piece.at.max(at), piece.range().end.min(end));
            out[done - at..from - at].fill(0);
            (piece.fill)(from - piece.at, &mut out[from - at..to - at])?;
            done = to;
        }
        out[done - at..].fill(0);
        Ok(())
    }

    /// Lets go of the file's pages behind the pieces that end in `range`.
    fn release(&self, range: Range<usize>) {
        let first = self
            .pieces
            .partition_point(|piece| piece.range().end <= range.start);
        let ended = |piece: &&Piece<'_>| piece.range().end <= range.end;
        for piece in self.pieces[first..].iter().take_while(ended) {
            piece.tensor.iter().for_each(Tensor::release_pages);
        }
    }
}

/// Allocates device memory and copies `image` to it; `what` is for messages: "the weights". Returns when the copy is
/// done.
pub fn upload(context: &Context, image: &Image<'_>, what: &str) -> Result<DeviceMemory> {
    Uploader::new(context, false).upload(image, what)
}

/// Copies images to a device, one at a time.
#[derive(Debug)]
pub struct Uploader {
    context: Context,
    /// Whether the staging buffers stay for the next image. To page-lock them anew holds up the driver for all threads.
    keeps: bool,
    copies: Mutex<Option<Copies>>,
}

impl Uploader {
    pub fn new(context: &Context, keeps: bool) -> Uploader {
        Uploader {
            context: context.clone(),
            keeps,
            copies: Mutex::new(None),
        }
    }

    /// See [`upload`].
    pub fn upload(&self, image: &Image<'_>, what: &str) -> Result<DeviceMemory> {
        let kept = || self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = kept().take();
        let (memory, copies) = upload_by(&self.context, copies, image, what, STAGE)?;
        *kept() = Some(copies).filter(|_| self.keeps);
        Ok(memory)
    }
}

/// With staging buffers of `size` bytes, those of earlier copies if they suffice.
fn upload_by(
    context: &Context,
    copies: Option<Copies>,
    image: &Image<'_>,
    what: &str,
    size: usize,
) -> Result<(DeviceMemory, Copies)> {
    let failed = |e: DriverError| in_step(format!("upload of {what}"))(e);
    let memory = context
        .allocate(image.bytes)
        .map_err(in_step(format!("memory for {what}")))?;
    let mut copies = match copies.filter(|copies| copies.suffice(image.bytes, size)) {
        Some(copies) => copies,
        None => Copies::new(context, image.bytes, size).map_err(failed)?,
    };
    for (n, at) in (0..image.bytes).step_by(size).enumerate() {
        let turn = n % copies.stages.len();
        let stage = &mut copies.stages[turn];
        let bytes = size.min(image.bytes - at);
        stage.copied.synchronize().map_err(failed)?;
        image.write(at, &mut stage.buffer[..bytes])?;
        let to = memory.address() + at as u64;
        // SAFETY: the memory has image.bytes bytes. Neither it nor the buffer goes before `copies`, which waits,
        // and the buffer is not written again before `copied`.
        unsafe { copies.stream.upload(to, &stage.buffer, 0..bytes) }.map_err(failed)?;
        stage.copied.record(&copies.stream).map_err(failed)?;
        image.release(at..at + bytes);
    }
    copies.stream.synchronize().map_err(failed)?;
    Ok((memory, copies))
}

/// Copies that may be running.
#[derive(Debug)]
struct Copies {
    /// The first field: dropped, and thereby drained, before the buffers that are copied from.
    stream: Stream,
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    buffer: Pinned,
    /// The buffer's last copy; over if there was none.
    copied: Event,
}

impl Copies {
    /// Whether the buffers are those that [`new`](Self::new) would make, or more.
    fn suffice(&self, bytes: usize, size: usize) -> bool {
        let wanted = bytes.div_ceil(size).min(STAGES);
        self.stages.len() >= wanted
            && self
                .stages
                .iter()
                .all(|stage| stage.buffer.len() >= bytes.min(size))
    }

    fn new(context: &Context, bytes: usize, size: usize) -> Result<Copies, DriverError> {
        let stage = |_| {
            Ok(Stage {
                buffer: context.pinned(bytes.min(size))?,
                copied: context.event()?,
            })
        };
        Ok(Copies {
            stream: context.stream()?,
            stages: (0..bytes.div_ceil(size).min(STAGES))
                .map(stage)
                .collect::<Result<_, DriverError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::adapters::DeviceAdapters;
    use crate::gpu::merged::Merged;
    use crate::gpu::testing::{context, download, in_a_child, is_child, model};
    use crate::gpu::weights::Weights;
    use crate::model::adapter::AdapterTable;
    use proptest::prelude::*;

    /// Many stages: each is used again while others are on their way, done late, or slowly.
    #[test]
    fn a_stage_is_not_overwritten_before_it_is_copied() {
        let Some(context) = context() else { return };
        if !is_child() && context.facts().simulated() {
            let test = "gpu::upload::tests::a_stage_is_not_overwritten_before_it_is_copied";
            in_a_child(test, &[("SOFTCUDA_ASYNC", "lazy")]);
            in_a_child(test, &[("SOFTCUDA_FAULTS", "slow-copies=2MB")]);
        }
        let values: Vec<u32> = (0..30_001).collect();
        let expected: Vec<u8> = bytemuck::cast_slice(&values).to_vec();
        let image = Image::new(expected.len() as u64, vec![Piece::plain(0, values)]);
        for size in [expected.len(), 40_000, 4096] {
            let (memory, _) = upload_by(&context, None, &image, "numbers", size).unwrap();
            assert_eq!(memory.len(), expected.len());
            assert!(
                download(&context, memory.address(), memory.len()) == expected,
                "stages of {size}"
            );
        }
    }

    #[test]
    fn staging_buffers_are_kept_for_images_that_they_suffice_for() {
        let Some(context) = context() else { return };
        let image = |bytes: usize| Image::new(bytes as u64, vec![Piece::plain(0, vec![7u8; bytes])]);
        let buffers = |uploader: &Uploader| {
            let copies = uploader.copies.lock().unwrap();
            let stages = copies.iter().flat_map(|copies| &copies.stages);
            stages.map(|stage| stage.buffer.as_ptr()).collect::<Vec<_>>()
        };
        let uploader = Uploader::new(&context, true);
        uploader.upload(&image(5000), "numbers").unwrap();
        let first = buffers(&uploader);
        let memory = uploader.upload(&image(4000), "numbers").unwrap();
        assert!(download(&context, memory.address(), 4000) == [7; 4000]);
        assert_eq!((first.len(), buffers(&uploader)), (1, first));
        uploader.upload(&image(STAGE + 1), "numbers").unwrap();
        assert_eq!(buffers(&uploader).len(), 2);
        let once = Uploader::new(&context, false);
        once.upload(&image(5000), "numbers").unwrap();
        assert!(buffers(&once).is_empty());
    }

    /// Fails, and only then succeeds: the first run at the call's first use, the second at its second …
    #[test]
    fn a_call_that_fails_is_a_typed_error_and_nothing_is_left() {
        let Some(context) = context() else { return };
        if !is_child() {
            if !context.facts().simulated() {
                return;
            }
            for call in [
                "cuMemAlloc",
                "cuMemHostAlloc",
                "cuStreamCreate",
                "cuEventCreate",
                "cuMemcpyHtoDAsync",
                "cuEventRecord",
                "cuEventSynchronize",
                "cuStreamSynchronize",
            ] {
                // An upload waits for its stream twice: at its end, and after a failure or else for nothing, where
                // nobody hears of it.
                let uses = |run: usize| match call {
                    "cuStreamSynchronize" => run * (run - 1) + 2 * run - 1,
                    _ => run * (run + 1) / 2,
                };
                let faults: Vec<String> = (1..=RUNS)
                    .map(|run| format!("{call}:{}=CUDA_ERROR_OUT_OF_MEMORY", uses(run)))
                    .collect();
                let test = "gpu::upload::tests::a_call_that_fails_is_a_typed_error_and_nothing_is_left";
                let output = in_a_child(test, &[("SOFTCUDA_FAULTS", &faults.join(";"))]);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!said.contains("not freed"), "{call}: {said}");
                assert!(said.contains("run 1: ") && said.contains(call), "{call}: {said}");
            }
            return;
        }
        const RUNS: usize = 9;
        let model = model("jina-hub");
        let table = AdapterTable::new(crate::model::Model::open(&model.path).unwrap().adapters);
        let all = || -> Result<()> {
            let precision = Half::Bf16;
            let weights = Weights::upload(&context, &model, precision)?;
            let resident = DeviceAdapters::new(&context, &model.config, precision, &table, None)?;
            let merged = Merged::upload(&context, &model, table.get(0), precision)?;
            assert!(weights.bytes() > 0 && resident.bytes() > 0 && merged.bytes() > 0);
            Ok(())
        };
        // Eight uploads: the weights, five tables, the adapters, the merged weights.
        for run in 1..RUNS {
            let error = all().expect_err("a call fails");
            assert!(matches!(error, crate::Error::Gpu { .. }), "run {run}: {error:?}");
            eprintln!("run {run}: {error}");
        }
        all().expect("no call fails any more");
    }

    proptest! {
        #[test]
        fn any_stretch_of_an_image_is_that_of_the_whole(
            pieces in prop::collection::vec((0usize..600, 0usize..700), 0..12),
            tail in 0usize..300,
            cuts in prop::collection::vec(0usize..3000, 1..6),
        ) {
            let mut whole: Vec<u8> = Vec::new();
            let mut made = Vec::new();
            for (n, &(gap, numbers)) in pieces.iter().enumerate() {
                whole.resize(whole.len() + 2 * gap, 0);
                let values: Vec<u16> = (0..numbers).map(|i| (n * 1000 + i + 1) as u16).collect();
                let at = whole.len() as u64;
                whole.extend(bytemuck::cast_slice::<u16, u8>(&values));
                made.push(Piece::plain(at, values));
            }
            whole.resize(whole.len() + tail, 0);
            made.reverse();
            let image = Image::new(whole.len() as u64, made);
            prop_assert_eq!(image.bytes(), whole.len());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| (2 * cut).min(whole.len())).collect();
            cuts.sort_unstable();
            for cut in cuts.windows(2) {
                let mut out = vec![0xcc; cut[1] - cut[0]];
                image.write(cut[0], &mut out).unwrap();
                prop_assert_eq!(&out, &whole[cut[0]..cut[1]]);
            }
        }

        #[test]
        fn addresses_are_aligned_and_disjoint(sizes in prop::collection::vec(0usize..2000, 0..20), start in 0u64..9) {
            let mut addresses = AddressAllocator::new(start * ALIGN);
            let mut end = start * ALIGN;
            for size in sizes {
                let place = addresses.take(size);
                prop_assert!(place >= end && place.is_multiple_of(ALIGN) && place - end < ALIGN);
                end = place + size as u64;
            }
            prop_assert!(addresses.end() >= end && addresses.end() - end < ALIGN);
        }
    }

    #[test]
    fn an_image_of_many_shares_names_the_first_number_that_is_lost() {
        let count = 3 * SHARE;
        let read = |start: usize, x: &mut [f32]| {
            for (index, x) in (start..).zip(x) {
                *x = if index % 300_000 == 299_999 {
                    1e5
                } else {
                    index as f32 / 1e3
                };
            }
        };
        let lost = |index: usize, x: f32| Err(crate::Error::request(format!("{x} at {index}")));
        let piece = |precision| Piece::elements(256, count, precision, read, lost);
        let bytes = 2 * count + 512;
        let mut out = vec![0xcc; bytes];
        Image::new(bytes as u64, vec![piece(Half::Bf16)])
            .write(0, &mut out)
            .unwrap();
        let expected = |index: usize| match index % 300_000 {
            299_999 => 1e5,
            _ => index as f32 / 1e3,
        };
        for (index, out) in out[256..][..2 * count].chunks(2).enumerate() {
            assert_eq!(
                u16::from_le_bytes([out[0], out[1]]),
                Half::Bf16.round(expected(index))
            );
        }
        assert!(out[..256].iter().chain(&out[bytes - 256..]).all(|&b| b == 0));
        let error = Image::new(bytes as u64, vec![piece(Half::F16)]).write(0, &mut out);
        assert_eq!(error.unwrap_err().to_string(), "100000 at 299999");
    }

    #[test]
    #[should_panic(expected = "pieces overlap")]
    fn pieces_that_overlap_are_a_bug() {
        Image::new(
            600,
            vec![Piece::plain(0, vec![1u8; 257]), Piece::plain(256, vec![1u8; 8])],
        );
    }
}
