//! Finding the tensors of a file by a name.

use std::hash::{BuildHasher, RandomState};

use backrule_tensor::{MemoryError, memory};

use crate::format::limits::MAX_HEADER;

/// Places of tensors by their names: a hash table with open addressing. The names stay in the file's header,
/// so the caller compares them. A map that owns them takes a hundred times the memory.
///
/// The keys of the hash are random, so no file can make searches long.
pub(super) struct Index {
    /// Of each one 24 bits are the place, 2 the state, and 6 are from the hash.
    slots: Vec<u32>,
    keys: RandomState,
}

/// The state of a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody has asked for it.
    Waiting,
    /// It fits the tensor that has asked.
    Fits,
    /// It doesn't.
    Kept,
    /// It was written, or passed over.
    Done,
}

const PLACE: u32 = (1 << 24) - 1;
const STATE: u32 = 24;
const HASH: u32 = 26;
/// No slot of a tensor: no entry begins at the last byte of the longest header.
const EMPTY: u32 = u32::MAX;
const _: () = assert!(MAX_HEADER <= 1 << STATE);

impl Index {
    /// One for so many names.
    pub(super) fn new(names: usize) -> Result<Self, MemoryError> {
        // An eighth stays empty, and one at least: there a search ends.
        let count = names.saturating_add(names / 7).saturating_add(1);
        let mut slots = memory::room("restore", count)?;
        slots.resize(count, EMPTY);
        Ok(Self { slots, keys: RandomState::new() })
    }

    /// Adds a tensor, or gives the place of the one that has this name already. `is` tells whether the tensor
    /// at a place has it.
    pub(super) fn insert(&mut self, name: &str, place: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (hash, at) = self.search(name, is);
        let slot = self.slots.get_mut(at?)?;
        if *slot != EMPTY {
            return Some(*slot & PLACE);
        }
        *slot = hash << HASH | place & PLACE;
        None
    }

    /// Where in this index the tensor of this name is, its place, and its state.
    pub(super) fn find(&self, name: &str, is: impl Fn(u32) -> bool) -> Option<(usize, u32, State)> {
        let at = self.search(name, is).1?;
        let slot = *self.slots.get(at).filter(|slot| **slot != EMPTY)?;
        let state = match slot >> STATE & 3 {
            0 => State::Waiting,
            1 => State::Fits,
            2 => State::Kept,
            _ => State::Done,
        };
        Some((at, slot & PLACE, state))
    }

    /// Changes the state of a tensor that was found.
    pub(super) fn set(&mut self, at: usize, state: State) {
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = *slot & !(3 << STATE) | (state as u32) << STATE;
        }
    }

    /// Bits of the hash, and where the name is or could be.
    fn search(&self, name: &str, is: impl Fn(u32) -> bool) -> (u32, Option<usize>) {
        let hash = self.keys.hash_one(name);
        let first = hash.checked_rem(self.slots.len() as u64).unwrap_or(0) as usize;
        let bits = (hash >> 58) as u32;
        let found = |slot: u32| slot == EMPTY || slot >> HASH == bits && is(slot & PLACE);
        let mut all = (first..self.slots.len()).chain(0..first);
        (bits, all.find(|at| self.slots.get(*at).is_some_and(|slot| found(*slot))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        for count in [0, 1, 7, 5000] {
            let names: Vec<_> = (0..count).map(|i| format!("layer{i}.weight")).collect();
            let is = |name: &str, place: u32| names[place as usize] == name;
            let mut index = Index::new(count).unwrap();
            for (name, place) in names.iter().zip(0..) {
                assert_eq!(index.insert(name, place, |other| is(name, other)), None);
            }
            for (name, place) in names.iter().zip(0..) {
                assert_eq!(index.insert(name, 9, |other| is(name, other)), Some(place));
                let (at, found, state) = index.find(name, |other| is(name, other)).unwrap();
                assert!(found == place && state == State::Waiting);
                for state in [State::Done, State::Kept, State::Fits] {
                    index.set(at, state);
                    assert!(index.find(name, |other| is(name, other)) == Some((at, place, state)));
                }
            }
            for other in ["", "layer", "layer0.bias"] {
                assert!(index.find(other, |place| is(other, place)).is_none());
            }
        }
    }
}
