//! The adapters that an engine has loaded, with their slots and columns.

use std::ops::Range;
use std::sync::Arc;

use super::{Adapter, Site};
use crate::error::{AdapterError, Error, Result};
use crate::kernels::params::LORA_COLUMN_STEP;

/// The adapters of an engine. A slot, and a range of columns in every site's down-projection, are given
/// when an adapter is added and kept until it is dropped, so that nothing about an adapter's arithmetic
/// changes when others come and go.
#[derive(Clone, Debug, Default)]
pub struct AdapterTable {
    slots: Vec<Option<Slot>>,
}

/// A loaded adapter and its columns.
#[derive(Clone, Debug)]
struct Slot {
    adapter: Arc<Adapter>,
    /// First column per site.
    starts: [usize; 4],
}

impl Slot {
    fn columns(&self, site: Site) -> Range<usize> {
        let start = self.starts[site as usize];
        start..start + self.adapter.rank(site)
    }
}

impl AdapterTable {
    /// A table that starts with the model's own adapters.
    pub fn new(adapters: Vec<Adapter>) -> AdapterTable {
        let mut table = AdapterTable::default();
        adapters.into_iter().for_each(|adapter| table.insert(adapter));
        table
    }

    /// The slot of `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(|s| s.adapter.name == name))
    }

    /// The adapter in `slot`.
    ///
    /// Panics if it is empty: slots come from [`find`](Self::find) on the same table.
    pub fn get(&self, slot: usize) -> &Arc<Adapter> {
        let slot = self.slots[slot].as_ref();
        &slot.expect("slots come from find on the same table").adapter
    }

    /// How many slots there are, empty ones included.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// By slot.
    pub fn by_slot(&self) -> Vec<Option<Arc<Adapter>>> {
        let adapter = |slot: &Option<Slot>| slot.as_ref().map(|slot| slot.adapter.clone());
        self.slots.iter().map(adapter).collect()
    }

    /// The adapters that are loaded, with their slots.
    pub fn loaded(&self) -> impl Iterator<Item = (usize, &Arc<Adapter>)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(number, slot)| Some((number, &slot.as_ref()?.adapter)))
    }

    /// The names, by slot.
    pub fn names(&self) -> Vec<String> {
        self.loaded().map(|(_, adapter)| adapter.name.clone()).collect()
    }

    /// Puts an adapter into the first free slot.
    pub fn add(&mut self, adapter: Adapter) -> Result<()> {
        if self.find(&adapter.name).is_some() {
            return Err(Error::adapter(&adapter.name, AdapterError::NameTaken));
        }
        self.insert(adapter);
        Ok(())
    }

    fn insert(&mut self, adapter: Adapter) {
        let starts = Site::ALL.map(|site| {
            let mut taken: Vec<_> = self
                .slots
                .iter()
                .flatten()
                .map(|slot| slot.columns(site))
                .collect();
            taken.sort_unstable_by_key(|range| range.start);
            first_gap(&taken, adapter.rank(site))
        });
        let slot = Some(Slot {
            adapter: adapter.into(),
            starts,
        });
        match self.slots.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
    }

    /// Empties the slot of `name`. Batches that use it keep it until they are done.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let not_loaded = || {
            let loaded = self.names();
            Error::adapter(name, AdapterError::NotLoaded { loaded })
        };
        let slot = self.find(name).ok_or_else(not_loaded)?;
        self.slots[slot] = None;
        Ok(())
    }

    /// First column of each slot's part of the down-projection at `site`, and the columns in all, a
    /// multiple of [`COLUMN_STEP`]; columns between and behind the parts are zero.
    pub fn columns(&self, site: Site) -> (Vec<usize>, usize) {
        let start = |slot: &Option<Slot>| slot.as_ref().map_or(0, |slot| slot.columns(site).start);
        let ends = self.slots.iter().flatten().map(|slot| slot.columns(site).end);
        let total = ends.max().unwrap_or(0).next_multiple_of(COLUMN_STEP);
        (self.slots.iter().map(start).collect(), total)
    }
}
/// Columns of a down-projection are padded to a multiple of this.
pub const COLUMN_STEP: usize = LORA_COLUMN_STEP as usize;

/// The first place for `width` columns beside the ranges that are taken, which ascend and do not overlap.
fn first_gap(taken: &[Range<usize>], width: usize) -> usize {
    let mut start = 0;
    for range in taken {
        if start + width <= range.start {
            break;
        }
        start = start.max(range.end);
    }
    start
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::adapter::LoraPart;
    use proptest::prelude::*;

    /// An adapter of one layer with this rank at every site.
    fn adapter(name: &str, rank: usize) -> Adapter {
        let part = LoraPart {
            rank,
            scale: 1.0,
            a: vec![0.0; rank],
            bt: vec![0.0; rank],
            column: 0,
            width: 1,
        };
        Adapter {
            name: name.into(),
            word: None,
            token_type: None,
            layers: vec![[(); 4].map(|()| vec![part.clone()])],
        }
    }

    proptest! {
        #[test]
        fn columns_keep_their_place(steps in prop::collection::vec((0usize..8, 0usize..20, any::<bool>()), 1..40)) {
            let mut table = AdapterTable::default();
            let mut before: BTreeMap<String, (usize, usize)> = BTreeMap::new();
            for (number, (victim, rank, add)) in steps.into_iter().enumerate() {
                let names = table.names();
                if add {
                    table.add(adapter(&number.to_string(), rank)).unwrap();
                } else if let Some(name) = names.get(victim) {
                    table.remove(name).unwrap();
                }
                let (starts, total) = table.columns(Site::Fc1);
                let mut uses = vec![0; total];
                let mut now = BTreeMap::new();
                for (slot, adapter) in table.loaded() {
                    let columns = starts[slot]..starts[slot] + adapter.rank(Site::Fc1);
                    uses[columns].iter_mut().for_each(|uses| *uses += 1);
                    now.insert(adapter.name.clone(), (slot, starts[slot]));
                }
                prop_assert!(uses.iter().all(|&uses| uses <= 1), "two have the same column");
                prop_assert_eq!(total % COLUMN_STEP, 0);
                prop_assert!(uses.iter().rev().take_while(|&&uses| uses == 0).count() < COLUMN_STEP);
                for (name, place) in &now {
                    prop_assert!(before.get(name).is_none_or(|before| before == place), "{} moved", name);
                }
                // The one that came could not begin any earlier.
                if let Some((slot, adapter)) = table.loaded().find(|(_, a)| !before.contains_key(&a.name)) {
                    let own = starts[slot]..starts[slot] + adapter.rank(Site::Fc1);
                    let free = |first: usize| (first..first + own.len()).all(|column| {
                        uses.get(column).is_none_or(|&uses| uses == 0) || own.contains(&column)
                    });
                    prop_assert!(own.is_empty() || (0..own.start).all(|first| !free(first)));
                }
                before = now;
            }
        }
    }
}
