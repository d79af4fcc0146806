//! Handles: what programs hold instead of pointers.
//!
//! A handle is never an address. It holds the kind of its object, the object's place in a table and how many objects
//! had that place before, so that a stale, foreign or invented handle is told from a good one.

use std::marker::PhantomData;

use super::result::{Answer, CUresult};

/// A handle as it crosses the C boundary: the size of a pointer, and never one that can be followed.
#[repr(transparent)]
pub struct Handle<T> {
    bits: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    pub const NULL: Self = Self::from_bits(0);

    pub const fn from_bits(bits: usize) -> Self {
        Self {
            bits,
            of: PhantomData,
        }
    }

    pub const fn bits(self) -> usize {
        self.bits
    }

    pub const fn is_null(self) -> bool {
        self.bits == 0
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}
impl<T> Eq for Handle<T> {}
impl<T> std::hash::Hash for Handle<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}
impl<T> std::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.bits)
    }
}

/// The number that tells one kind of handle from another.
pub trait Object {
    const KIND: usize;
    /// The error that a handle of another kind, or of a destroyed object, gets.
    const INVALID: CUresult = CUresult::INVALID_HANDLE;
}

/// Upper bits of every handle: no address of a program lies there.
const MARK: usize = 0x5C << 56;
const KIND_SHIFT: u32 = 48;
const GENERATION_SHIFT: u32 = 28;
const GENERATION_MASK: usize = 0xF_FFFF;
/// Places are counted in steps of 16, which keeps handles as aligned as pointers are.
const PLACE_SHIFT: u32 = 4;
const PLACE_MASK: usize = 0xFF_FFFF;

struct Place<T> {
    generation: usize,
    object: Option<T>,
}

/// All objects of one kind.
pub struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T: Object> Table<T> {
    fn handle(place: usize, generation: usize) -> Handle<T> {
        Handle::from_bits(
            MARK | T::KIND << KIND_SHIFT | generation << GENERATION_SHIFT | (place + 1) << PLACE_SHIFT,
        )
    }

    pub fn insert(&mut self, object: T) -> Handle<T> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                object: None,
            });
            self.places.len() - 1
        });
        assert!(place < PLACE_MASK, "too many objects of one kind");
        let slot = &mut self.places[place];
        slot.object = Some(object);
        Self::handle(place, slot.generation)
    }

    fn place(&self, handle: Handle<T>) -> Answer<usize> {
        let place = (handle.bits >> PLACE_SHIFT & PLACE_MASK).wrapping_sub(1);
        match self.places.get(place) {
            Some(slot) if slot.object.is_some() && Self::handle(place, slot.generation) == handle => {
                Ok(place)
            }
            _ => Err(T::INVALID),
        }
    }

    pub fn get(&self, handle: Handle<T>) -> Answer<&T> {
        let place = self.place(handle)?;
        self.places[place].object.as_ref().ok_or(T::INVALID)
    }

    pub fn get_mut(&mut self, handle: Handle<T>) -> Answer<&mut T> {
        let place = self.place(handle)?;
        self.places[place].object.as_mut().ok_or(T::INVALID)
    }

    pub fn contains(&self, handle: Handle<T>) -> bool {
        self.place(handle).is_ok()
    }

    pub fn remove(&mut self, handle: Handle<T>) -> Answer<T> {
        let place = self.place(handle)?;
        let slot = &mut self.places[place];
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(place);
        slot.object.take().ok_or(T::INVALID)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle<T>, &T)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(place, slot)| Some((Self::handle(place, slot.generation), slot.object.as_ref()?)))
    }

    /// The handles for which `keep` is true.
    pub fn handles(&self, keep: impl Fn(&T) -> bool) -> Vec<Handle<T>> {
        self.iter()
            .filter(|(_, object)| keep(object))
            .map(|(handle, _)| handle)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct A;
    impl Object for A {
        const KIND: usize = 1;
    }
    struct B;
    impl Object for B {
        const KIND: usize = 2;
        const INVALID: CUresult = CUresult::INVALID_CONTEXT;
    }

    #[test]
    fn stale_and_foreign_handles_are_refused() {
        let mut table = Table::default();
        let first = table.insert(A);
        table.remove(first).unwrap();
        assert_eq!(table.remove(first).err(), Some(CUresult::INVALID_HANDLE));
        // The same place, another object.
        let second = table.insert(A);
        assert_ne!(first, second);
        assert!(table.get(first).is_err() && table.get(second).is_ok());

        let mut others = Table::<B>::default();
        let other = others.insert(B);
        assert_ne!(other.bits(), second.bits());
        let foreign = Handle::from_bits(second.bits());
        assert_eq!(others.get(foreign).err(), Some(CUresult::INVALID_CONTEXT));
        for bits in [0, 1, 2, usize::MAX, second.bits() + 1] {
            assert!(table.get(Handle::from_bits(bits)).is_err(), "{bits:#x}");
        }
    }
}
