//! The loaded adapters on the device.
//!
//! At every linear layer the factors of all adapters are concatenated: rows of A and columns of B, `columns` in
//! total, of which each adapter has a range. `h = x Aᵀ` is masked for the row's adapters, and one product computes
//! `[x | h] [W | B]ᵀ`, whatever the mixtures of its rows are.
//!
//! An adapter keeps its slot and its range as long as it is loaded, so that its arithmetic, the order of sums
//! included, does not change when other adapters are added or removed. Its elements never reach rows that do not use
//! it: see [`Column::new`].

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Zeroable as _;

use crate::error::Result;
use crate::model::adapter::{AdapterTable, LoraPart, Site};
use crate::model::{Adapter, ModelConfig};
use crate::precision::Half;

use super::driver::{Context, DeviceMemory};
#[cfg(feature = "inspect")]
use super::merged::Merged;
use super::upload::{AddressAllocator, Image, Piece, Uploader};
use crate::kernels::params::{EmbedAdapter, LORA_NO_SLOT, LoraColumn};

/// The largest magnitude in B that leaves the sums of other rows alone: see [`Column::new`].
const LARGEST_B: f32 = (1u128 << 64) as f32;

/// The adapters of one state of an [`AdapterTable`]. A change of the table makes a new one; batches keep the one that
/// they started with.
#[derive(Debug)]
pub struct DeviceAdapters {
    /// By slot, as in the table.
    adapters: Vec<Option<Arc<Adapter>>>,
    /// By slot: the large part, which later states share.
    embeddings: Vec<Option<Arc<EmbeddingFactors>>>,
    /// Per [`Site`].
    #[cfg(test)]
    ranges: [Ranges; 4],
    at: AdapterLayout,
    memory: Option<DeviceMemory>,
    /// Columns of the down-projection per [`Site`].
    columns: [usize; 4],
    /// Weights that the adapter of a slot is merged into, for measurements.
    #[cfg(feature = "inspect")]
    merged: Option<(usize, Arc<Merged>)>,
}

/// The addresses of a linear layer's factors; null if no adapter has any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraAt {
    /// `[columns, in_features]` elements: A.
    pub a: u64,
    /// `[out_features, columns]` elements: B, at most [`LARGEST_B`] in magnitude.
    pub b: u64,
    /// `[columns]` [`LoraColumn`].
    pub column: u64,
}

impl DeviceAdapters {
    /// Uploads the adapters of `table`, on the threads of the current rayon pool. Those that `previous` has as
    /// well stay where they are in it, and share with it what does not change.
    ///
    /// # Errors
    /// A call of the driver that failed. `previous` is as it was, and nothing new is on the device.
    pub fn new(
        context: &Context,
        config: &ModelConfig,
        precision: Half,
        table: &AdapterTable,
        previous: Option<&DeviceAdapters>,
    ) -> Result<DeviceAdapters> {
        DeviceAdapters::sent_by(&Uploader::new(context, false), config, precision, table, previous)
    }

    /// As [`new`](Self::new), by an uploader that may have its buffers already.
    pub fn sent_by(
        uploader: &Uploader,
        config: &ModelConfig,
        precision: Half,
        table: &AdapterTable,
        previous: Option<&DeviceAdapters>,
    ) -> Result<DeviceAdapters> {
        let adapters = table.by_slot();
        // The same adapter, not one of the same name: the latter has other numbers, and its own place.
        let kept = |slot: usize| {
            let adapter = adapters[slot].as_ref()?;
            previous.filter(
                |p| matches!(p.adapters.get(slot), Some(Some(before)) if Arc::ptr_eq(before, adapter)),
            )
        };
        let ranges = Site::ALL.map(|site| Ranges::new(table, site));
        let embedding = |(slot, adapter): (usize, &Option<Arc<Adapter>>)| match (kept(slot), adapter) {
            (Some(previous), _) => Ok(previous.embeddings[slot].clone()),
            (None, Some(adapter)) => EmbeddingFactors::upload(uploader, config, precision, adapter),
            (None, None) => Ok(None),
        };
        let embeddings: Vec<_> = adapters
            .iter()
            .enumerate()
            .map(embedding)
            .collect::<Result<_>>()?;

        let contents = Contents {
            config,
            precision,
            adapters: &adapters,
            embeddings: embeddings.iter().map(|e| e.as_ref().map(|e| e.entry)).collect(),
            ranges: &ranges,
        };
        let offsets = contents.layout(0);
        let memory = match offsets.bytes {
            0 => None,
            _ => Some(uploader.upload(&contents.image(&offsets), "the adapters")?),
        };
        let at = memory
            .as_ref()
            .map_or(offsets, |memory| contents.layout(memory.address()));
        Ok(DeviceAdapters {
            adapters,
            embeddings,
            #[cfg(test)]
            ranges,
            columns: table_columns(table),
            at,
            memory,
            #[cfg(feature = "inspect")]
            merged: None,
        })
    }

    /// Adds weights that the adapter of a slot is merged into, which passes with [`Fusion::Merged`] use.
    ///
    /// [`Fusion::Merged`]: crate::plan::Fusion::Merged
    #[cfg(feature = "inspect")]
    pub fn with_merged(self, slot: usize, merged: Arc<Merged>) -> DeviceAdapters {
        DeviceAdapters {
            merged: Some((slot, merged)),
            ..self
        }
    }

    /// See [`with_merged`](Self::with_merged).
    #[cfg(feature = "inspect")]
    pub fn merged(&self, slot: usize) -> Option<&Merged> {
        let (of, merged) = self.merged.as_ref()?;
        (*of == slot).then_some(merged)
    }

    /// The adapter in a slot, if the slot is not empty.
    pub fn adapter(&self, slot: usize) -> Option<&Arc<Adapter>> {
        self.adapters.get(slot)?.as_ref()
    }

    /// Columns of the down-projection per [`Site`].
    pub fn columns(&self) -> [usize; 4] {
        self.columns
    }

    /// Slots, empty ones included: the length of a row of mixture weights.
    pub fn slots(&self) -> usize {
        self.adapters.len()
    }

    /// The addresses of a linear layer's factors.
    pub fn linear(&self, layer: usize, site: Site) -> LoraAt {
        self.at.linear[layer][site as usize]
    }

    /// `[slots]` [`EmbedAdapter`], or null if none adapts the embedding tables.
    pub fn embed(&self) -> u64 {
        self.at.embed
    }

    /// Bytes on the device, shared ones included.
    pub fn bytes(&self) -> u64 {
        let shared = self.embeddings.iter().flatten().map(|e| e.memory.len());
        let own = self.memory.as_ref().map_or(0, DeviceMemory::len);
        (own + shared.sum::<usize>()) as u64
    }
}

/// The columns of a site's down-projection that each slot has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges {
    /// By slot; empty where the slot is, or its adapter has nothing at the site.
    ranges: Vec<Range<usize>>,
    /// Columns in all.
    total: usize,
}

impl Ranges {
    /// Those of the table, which an adapter keeps while it is loaded.
    fn new(table: &AdapterTable, site: Site) -> Ranges {
        let (starts, total) = table.columns(site);
        let range = |(start, adapter): (usize, Option<Arc<Adapter>>)| {
            start..start + adapter.map_or(0, |adapter| adapter.rank(site))
        };
        Ranges {
            ranges: starts.into_iter().zip(table.by_slot()).map(range).collect(),
            total,
        }
    }

    fn of(&self, slot: usize) -> Range<usize> {
        self.ranges[slot].clone()
    }
}

/// One column of a layer's factors: row `r` of a part's A, and of its Bᵀ.
#[derive(Clone, Copy)]
struct Column<'a> {
    slot: u32,
    part: &'a LoraPart,
    r: usize,
    /// Whether all of B is at most [`LARGEST_B`] and fits the 16-bit type.
    fits: bool,
}

impl<'a> Column<'a> {
    /// B must be finite in the device's type, and not huge. The product runs over all columns for every row, and the
    /// zeros that h has in columns of adapters that the row does not use help against neither:
    ///
    /// - 0·∞ and 0·NaN are NaN.
    /// - A tensor core aligns the sum so far and all products to the largest exponent among them, and cuts what lies 24
    ///   bits below (25 on compute capability 9.0). The exponent of a product is the sum of its factors', and a bfloat16
    ///   zero counts with its exponent field, -126: 0·2¹²⁷ cuts the sum below 2⁻²³ (as MMA-Sim, a simulator that was
    ///   fitted to the hardware, has it: `extract_significand_exponent` in mmasim/simulator/arithmetic.py). With
    ///   |b| ≤ 2⁶⁴ it cuts below 2⁻⁸⁶, far under the roundings of any sum of activations.
    ///
    /// A column whose B does not fit is therefore zeros, and its scale is NaN: its h is NaN for the
    /// rows that use it, and so are their sums, since NaN·0 is NaN; for all others h is 0, the scale being
    /// masked by a select. A needs no such care: a sum of x·A goes to its own column alone, masked as well.
    fn new(slot: usize, part: &'a LoraPart, r: usize, precision: Half) -> Column<'a> {
        let bt = &part.bt[r * part.width..][..part.width];
        Column {
            slot: slot as u32,
            part,
            r,
            fits: bt.iter().all(|&b| precision.fits(b) && b.abs() <= LARGEST_B),
        }
    }

    /// The kernels' description of the column.
    fn entry(&self) -> LoraColumn {
        LoraColumn {
            slot: self.slot,
            scale: if self.fits { self.part.scale } else { f32::NAN },
        }
    }

    /// B of output column `row`: zero outside of the part's, as for a part of q, k or v alone.
    fn b(&self, row: usize) -> f32 {
        match row.checked_sub(self.part.column) {
            Some(at) if at < self.part.width && self.fits => self.part.bt[self.r * self.part.width + at],
            _ => 0.0,
        }
    }
}

/// Addresses, or offsets while there is no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AdapterLayout {
    /// Per layer, per [`Site`].
    linear: Vec<[LoraAt; 4]>,
    embed: u64,
    bytes: u64,
}

/// The contents of a [`DeviceAdapters`] before they are on the device.
struct Contents<'a> {
    config: &'a ModelConfig,
    precision: Half,
    adapters: &'a [Option<Arc<Adapter>>],
    embeddings: Vec<Option<EmbedAdapter>>,
    ranges: &'a [Ranges; 4],
}

impl Contents<'_> {
    fn layout(&self, start: u64) -> AdapterLayout {
        let mut addresses = AddressAllocator::new(start);
        let mut at = |site: Site| {
            let columns = self.ranges[site as usize].total;
            let (n, k) = site.shape(self.config);
            match columns {
                0 => LoraAt::default(),
                _ => LoraAt {
                    a: addresses.take(columns * k * self.precision.bytes()),
                    b: addresses.take(n * columns * self.precision.bytes()),
                    column: addresses.take(columns * size_of::<LoraColumn>()),
                },
            }
        };
        let linear = (0..self.config.num_hidden_layers)
            .map(|_| Site::ALL.map(&mut at))
            .collect();
        let embed = match self.embeddings.iter().any(Option::is_some) {
            true => addresses.take(self.embeddings.len() * size_of::<EmbedAdapter>()),
            false => 0,
        };
        AdapterLayout {
            linear,
            embed,
            bytes: addresses.end() - start,
        }
    }

    /// The image of the adapters, for a layout of offsets. Padding columns of A and B are zeros, as is everything that no
    /// piece covers.
    fn image(&self, at: &AdapterLayout) -> Image<'_> {
        let precision = self.precision;
        // Without an adapter of the embeddings there is no place for their table, and offset 0 is another's.
        let has_embed = self.embeddings.iter().any(Option::is_some);
        let mut pieces = Vec::new();
        if has_embed {
            let entry = |e: &Option<EmbedAdapter>| e.unwrap_or_else(EmbedAdapter::zeroed);
            pieces.push(Piece::plain(
                at.embed,
                self.embeddings.iter().map(entry).collect(),
            ));
        }
        for (layer, at) in at.linear.iter().enumerate() {
            for site in Site::ALL {
                let at = at[site as usize];
                let columns = self.columns(layer, site);
                if columns.is_empty() {
                    continue;
                }
                let (n, k) = site.shape(self.config);
                for (index, column) in columns.iter().enumerate() {
                    let Some(Column { part, r, .. }) = *column else {
                        continue;
                    };
                    let a = &part.a[r * k..][..k];
                    let place = at.a + (index * k * precision.bytes()) as u64;
                    let read = |start: usize, x: &mut [f32]| x.copy_from_slice(&a[start..][..x.len()]);
                    pieces.push(Piece::elements(place, k, precision, read, |_, _| Ok(())));
                }
                let entry = |column: &Option<Column<'_>>| match column {
                    Some(column) => column.entry(),
                    None => LoraColumn {
                        slot: LORA_NO_SLOT,
                        scale: 0.0,
                    },
                };
                pieces.push(Piece::plain(at.column, columns.iter().map(entry).collect()));
                let count = n * columns.len();
                let read = move |start: usize, x: &mut [f32]| {
                    let (mut row, mut index) = (start / columns.len(), start % columns.len());
                    for x in x {
                        *x = columns[index].as_ref().map_or(0.0, |column| column.b(row));
                        index += 1;
                        if index == columns.len() {
                            (row, index) = (row + 1, 0);
                        }
                    }
                };
                pieces.push(Piece::elements(at.b, count, precision, read, |_, _| Ok(())));
            }
        }
        Image::new(at.bytes, pieces)
    }

    /// The factors of each column of a layer; none for padding, and where an adapter has fewer in this layer
    /// than in another.
    fn columns(&self, layer: usize, site: Site) -> Vec<Option<Column<'_>>> {
        let ranges = &self.ranges[site as usize];
        let mut columns = vec![None; ranges.total];
        for (slot, adapter) in self.adapters.iter().enumerate() {
            let parts = adapter.iter().flat_map(|adapter| adapter.parts(layer, site));
            let rows = parts.flat_map(|part| (0..part.rank).map(move |r| (part, r)));
            for (index, (part, r)) in ranges.of(slot).zip(rows) {
                columns[index] = Some(Column::new(slot, part, r, self.precision));
            }
            let lost = |column: &Option<Column<'_>>| column.is_some_and(|column| !column.fits);
            if let (Some(adapter), true) = (adapter, columns[ranges.of(slot)].iter().any(lost)) {
                let (adapter, precision) = (&adapter.name, self.precision);
                let problem =
                    "B holds a number beyond 2^64 or the precision: inputs that use the adapter become NaN";
                tracing::warn!(?adapter, %precision, layer, ?site, problem);
            }
        }
        columns
    }
}

/// An adapter's factors of the embedding tables. Rows that do not use it never read them, whatever they hold.
#[derive(Debug)]
struct EmbeddingFactors {
    entry: EmbedAdapter,
    memory: DeviceMemory,
}

impl EmbeddingFactors {
    fn upload(
        uploader: &Uploader,
        config: &ModelConfig,
        precision: Half,
        adapter: &Adapter,
    ) -> Result<Option<Arc<EmbeddingFactors>>> {
        let (offsets, image) = embedding_image(config, precision, adapter);
        if image.bytes() == 0 {
            return Ok(None);
        }
        let memory = uploader.upload(&image, &format!("adapter `{}`", adapter.name))?;
        let address = |offset: Option<u64>| offset.map_or(0, |offset| memory.address() + offset);
        let word = adapter.word.as_ref();
        let entry = EmbedAdapter {
            a: address(offsets.a),
            b: address(offsets.b),
            token_type: address(offsets.token_type),
            scale: word.map_or(0.0, |lora| lora.scale()),
            rank: word.map_or(0, |lora| lora.rank() as u32),
        };
        Ok(Some(Arc::new(EmbeddingFactors { entry, memory })))
    }
}

/// Offsets of what an adapter has.
#[derive(Clone, Copy, Debug, Default)]
struct EmbeddingOffsets {
    a: Option<u64>,
    b: Option<u64>,
    token_type: Option<u64>,
}

fn embedding_image<'a>(
    config: &ModelConfig,
    precision: Half,
    adapter: &'a Adapter,
) -> (EmbeddingOffsets, Image<'a>) {
    let hidden = config.hidden_size;
    let mut addresses = AddressAllocator::new(0);
    let mut pieces = Vec::new();
    let mut offsets = EmbeddingOffsets::default();
    if let Some(lora) = &adapter.word {
        let (a, b) = (lora.rows() * lora.rank(), lora.rank() * hidden);
        let [a_at, b_at] = [a, b].map(|count| addresses.take(count * precision.bytes()));
        let read_a = |start: usize, x: &mut [f32]| lora.read_a(start, x);
        let read_b = |start: usize, x: &mut [f32]| x.copy_from_slice(&lora.b()[start..][..x.len()]);
        pieces.push(Piece::elements(a_at, a, precision, read_a, |_, _| Ok(())));
        pieces.push(Piece::elements(b_at, b, precision, read_b, |_, _| Ok(())));
        (offsets.a, offsets.b) = (Some(a_at), Some(b_at));
    }
    if let Some(lora) = &adapter.token_type {
        // Every token has type 0, so that its row is all there is to it.
        let mut row = vec![0.0; hidden];
        lora.add_row(0, 1.0, &mut row);
        let at = addresses.take(size_of_val(row.as_slice()));
        pieces.push(Piece::plain(at, row));
        offsets.token_type = Some(at);
    }
    (offsets, Image::new(addresses.end(), pieces))
}

/// Columns of the down-projection of all adapters of a table, per [`Site`].
pub fn table_columns(table: &AdapterTable) -> [usize; 4] {
    Site::ALL.map(|site| table.columns(site).1)
}

#[cfg(test)]
mod tests;
