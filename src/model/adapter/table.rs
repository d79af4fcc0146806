//! The adapters that an engine has loaded, with their slots and columns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Adapter, Site};
use crate::error::{AdapterError, Error, KnownNames, Result};
use crate::kernels::params::LORA_COLUMN_STEP;

/// The adapters of an engine. A slot, and a range of columns in every site's down-projection, are given
/// when an adapter is added and kept until it is dropped, so that nothing about an adapter's arithmetic
/// changes when others come and go.
///
/// A clone shares everything until one of the two is changed: calls keep the table that they began with. Adding and finding
/// take a time that does not grow with the number of adapters; where some were removed, adding looks through the gaps.
#[derive(Clone, Debug, Default)]
pub struct AdapterTable {
    loaded: Arc<Loaded>,
}

#[derive(Clone, Debug, Default)]
struct Loaded {
    slots: Vec<Option<Slot>>,
    by_name: HashMap<String, usize>,
    free_slots: BTreeSet<usize>,
    /// Per site.
    columns: [Columns; 4],
}

/// A loaded adapter and its columns.
#[derive(Clone, Debug)]
struct Slot {
    adapter: Arc<Adapter>,
    /// First column per site.
    starts: [usize; 4],
}

/// Which columns of a site are taken.
#[derive(Clone, Debug, Default)]
struct Columns {
    /// Free ranges before the last that is taken: length by start. No two touch.
    gaps: BTreeMap<usize, usize>,
    /// End of the last that is taken.
    end: usize,
}

impl Columns {
    /// Takes the first `width` columns that are free side by side, and returns where they start.
    fn take(&mut self, width: usize) -> usize {
        if width == 0 {
            return 0;
        }
        let gap = self.gaps.iter().find(|&(_, &length)| length >= width);
        let Some((start, length)) = gap.map(|(&start, &length)| (start, length)) else {
            self.end += width;
            return self.end - width;
        };
        self.gaps.remove(&start);
        if length > width {
            self.gaps.insert(start + width, length - width);
        }
        start
    }

    fn give_back(&mut self, start: usize, width: usize) {
        if width == 0 {
            return;
        }
        let (mut start, mut end) = (start, start + width);
        let before = self.gaps.range(..start).next_back();
        if let Some((gap, length)) = before
            .map(|(&gap, &length)| (gap, length))
            .filter(|(gap, length)| gap + length == start)
        {
            self.gaps.remove(&gap);
            start -= length;
        }
        if let Some(length) = self.gaps.remove(&end) {
            end += length;
        }
        if end == self.end {
            self.end = start;
        } else {
            self.gaps.insert(start, end - start);
        }
    }
}

impl AdapterTable {
    /// A table that starts with these adapters, which have different names.
    pub fn new(adapters: impl IntoIterator<Item = impl Into<Arc<Adapter>>>) -> AdapterTable {
        let mut loaded = Loaded::default();
        adapters
            .into_iter()
            .for_each(|adapter| loaded.insert(adapter.into()));
        AdapterTable {
            loaded: loaded.into(),
        }
    }

    /// A number that two tables share if one is a clone of the other and neither was changed since. It says nothing
    /// once a table is dropped.
    pub fn id(&self) -> usize {
        Arc::as_ptr(&self.loaded).addr()
    }

    /// The slot of `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.loaded.by_name.get(name).copied()
    }

    /// The adapter in `slot`.
    ///
    /// Panics if it is empty: slots come from [`find`](Self::find) on the same table.
    pub fn get(&self, slot: usize) -> &Arc<Adapter> {
        let slot = self.loaded.slots[slot].as_ref();
        &slot.expect("slots come from find on the same table").adapter
    }

    /// How many slots there are, empty ones included.
    pub fn slots(&self) -> usize {
        self.loaded.slots.len()
    }

    /// How many adapters are loaded.
    pub fn len(&self) -> usize {
        self.loaded.by_name.len()
    }

    /// By slot.
    pub fn by_slot(&self) -> Vec<Option<Arc<Adapter>>> {
        let adapter = |slot: &Option<Slot>| slot.as_ref().map(|slot| slot.adapter.clone());
        self.loaded.slots.iter().map(adapter).collect()
    }

    /// The adapters that are loaded, with their slots.
    pub fn loaded(&self) -> impl Iterator<Item = (usize, &Arc<Adapter>)> {
        let slots = self.loaded.slots.iter().enumerate();
        slots.filter_map(|(number, slot)| Some((number, &slot.as_ref()?.adapter)))
    }

    /// The names, by slot.
    pub fn names(&self) -> Vec<String> {
        self.loaded().map(|(_, adapter)| adapter.name.clone()).collect()
    }

    /// The same for an error that names them.
    pub fn known(&self) -> KnownNames {
        KnownNames::new(
            self.loaded().map(|(_, adapter)| adapter.name.as_str()),
            self.len(),
        )
    }

    /// Puts an adapter into the first free slot.
    pub fn add(&mut self, adapter: Adapter) -> Result<()> {
        if self.find(&adapter.name).is_some() {
            return Err(Error::adapter(&adapter.name, AdapterError::NameTaken));
        }
        Arc::make_mut(&mut self.loaded).insert(adapter.into());
        Ok(())
    }

    /// Empties the slot of `name`. Batches that use it keep it until they are done.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        if self.find(name).is_none() {
            let loaded = self.known();
            return Err(Error::adapter(name, AdapterError::NotLoaded { loaded }));
        }
        Arc::make_mut(&mut self.loaded).remove(name);
        Ok(())
    }

    /// First column of each slot's part of the down-projection at `site`, and the columns in all, a
    /// multiple of [`COLUMN_STEP`]; columns between and behind the parts are zero.
    pub fn columns(&self, site: Site) -> (Vec<usize>, usize) {
        let start = |slot: &Option<Slot>| slot.as_ref().map_or(0, |slot| slot.starts[site as usize]);
        let total = self.loaded.columns[site as usize]
            .end
            .next_multiple_of(COLUMN_STEP);
        (self.loaded.slots.iter().map(start).collect(), total)
    }
}

impl Loaded {
    fn insert(&mut self, adapter: Arc<Adapter>) {
        let starts = Site::ALL.map(|site| self.columns[site as usize].take(adapter.rank(site)));
        let slot = self.free_slots.pop_first().unwrap_or(self.slots.len());
        self.by_name.insert(adapter.name.clone(), slot);
        let filled = Some(Slot { adapter, starts });
        match self.slots.get_mut(slot) {
            Some(free) => *free = filled,
            None => self.slots.push(filled),
        }
    }

    fn remove(&mut self, name: &str) {
        let slot = self.by_name.remove(name);
        let Some((slot, Slot { adapter, starts })) =
            slot.and_then(|slot| Some((slot, self.slots[slot].take()?)))
        else {
            return;
        };
        self.free_slots.insert(slot);
        for site in Site::ALL {
            self.columns[site as usize].give_back(starts[site as usize], adapter.rank(site));
        }
    }
}

/// Columns of a down-projection are padded to a multiple of this.
pub const COLUMN_STEP: usize = LORA_COLUMN_STEP as usize;

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
