//! Dense numbers for names, the same from one configuration to the next.
//!
//! The engine's tables are indexed by numbers, and its forwarding database remembers them: a name keeps its number
//! for as long as it exists, and a number that became free rests until the database has forgotten it
//! ([`IdMap::settle`]) before another name gets it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// No number is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are more than {most} {what}: that is what one daemon can hold; spread them over more hosts")]
pub(crate) struct TooMany {
    /// Of what.
    pub(crate) what: &'static str,
    /// How many there may be.
    pub(crate) most: usize,
}

/// Numbers of things of one kind.
#[derive(Debug, Clone)]
pub(crate) struct IdMap<K> {
    what: &'static str,
    ids: BTreeMap<K, u16>,
    names: Vec<Option<K>>,
    /// May be given out, oldest first.
    free: VecDeque<u16>,
    /// Were given back since the last [`IdMap::settle`].
    resting: Vec<u16>,
    first: u16,
}

impl<K: Ord + Clone + fmt::Debug> IdMap<K> {
    /// Numbers from `first` on.
    pub(crate) fn new(what: &'static str, first: u16) -> Self {
        Self {
            what,
            ids: BTreeMap::new(),
            names: vec![None; usize::from(first)],
            free: VecDeque::new(),
            resting: Vec::new(),
            first,
        }
    }

    /// The number of a name.
    pub(crate) fn get<Q>(&self, name: &Q) -> Option<u16>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.ids.get(name).copied()
    }

    /// The name of a number.
    pub(crate) fn name(&self, id: u16) -> Option<&K> {
        self.names.get(usize::from(id))?.as_ref()
    }

    /// The number of a name, a new one if it has none. The second value says whether it is new.
    pub(crate) fn assign(&mut self, name: &K) -> Result<(u16, bool), TooMany> {
        if let Some(id) = self.ids.get(name) {
            return Ok((*id, false));
        }
        let id = match self.free.pop_front() {
            Some(id) => id,
            None => {
                let id = u16::try_from(self.names.len()).map_err(|_| TooMany {
                    what: self.what,
                    most: usize::from(u16::MAX) + 1 - usize::from(self.first),
                })?;
                self.names.push(None);
                id
            }
        };
        self.names[usize::from(id)] = Some(name.clone());
        self.ids.insert(name.clone(), id);
        Ok((id, true))
    }

    /// Takes the numbers of the names that `keep` does not want; gives those numbers.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, u16) -> bool) -> Vec<u16> {
        let mut gone = Vec::new();
        self.ids.retain(|name, id| {
            let stays = keep(name, *id);
            if !stays {
                gone.push(*id);
            }
            stays
        });
        for id in &gone {
            self.names[usize::from(*id)] = None;
        }
        self.resting.extend(&gone);
        gone
    }

    /// The forwarding database was swept since the last call: what rested may be given out again.
    pub(crate) fn settle(&mut self) {
        self.free.extend(self.resting.drain(..));
    }

    /// All names with their numbers, in the order of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.ids.iter().map(|(name, id)| (name, *id))
    }
}

/// Slots of a bridge domain's members: like [`IdMap`], but a slot is given out again at once with a new
/// generation, by which the engine tells old entries from new ones.
#[derive(Debug, Clone)]
pub(crate) struct Slots<K> {
    ids: BTreeMap<K, u16>,
    generations: Vec<u16>,
    free: Vec<u16>,
}

impl<K> Default for Slots<K> {
    fn default() -> Self {
        Self {
            ids: BTreeMap::new(),
            generations: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<K: Ord + Clone> Slots<K> {
    /// The slot of a member and its generation.
    pub(crate) fn assign(&mut self, key: &K) -> Result<(u16, u16), TooMany> {
        if let Some(id) = self.ids.get(key) {
            return Ok((*id, self.generations[usize::from(*id)]));
        }
        let id = match self.free.pop() {
            Some(id) => {
                let generation = &mut self.generations[usize::from(id)];
                *generation = generation.wrapping_add(1);
                id
            }
            None => {
                let id = u16::try_from(self.generations.len()).map_err(|_| TooMany {
                    what: "members of a bridge domain",
                    most: usize::from(u16::MAX) + 1,
                })?;
                self.generations.push(0);
                id
            }
        };
        self.ids.insert(key.clone(), id);
        Ok((id, self.generations[usize::from(id)]))
    }

    /// Frees the slots that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u16) -> bool) {
        let free = &mut self.free;
        self.ids.retain(|_, id| {
            let stays = keep(*id);
            if !stays {
                free.push(*id);
            }
            stays
        });
    }

    /// Who has a slot.
    pub(crate) fn key(&self, id: u16) -> Option<&K> {
        self.ids.iter().find_map(|(key, at)| (*at == id).then_some(key))
    }

    /// Who has which slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.ids.iter().map(|(key, id)| (key, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_a_free_one_rests() {
        let mut ids = IdMap::new("things", 1);
        assert_eq!(ids.assign(&"a"), Ok((1, true)));
        assert_eq!(ids.assign(&"b"), Ok((2, true)));
        assert_eq!(ids.assign(&"a"), Ok((1, false)));
        assert_eq!(ids.retain(|name, _| *name != "a"), [1]);
        assert_eq!((ids.get(&"a"), ids.name(1)), (None, None));
        assert_eq!(ids.assign(&"c"), Ok((3, true)), "1 still rests");
        ids.settle();
        assert_eq!(ids.assign(&"a"), Ok((1, true)));
        assert_eq!(ids.iter().collect::<Vec<_>>(), [(&"a", 1), (&"b", 2), (&"c", 3)]);
    }

    #[test]
    fn numbers_end() {
        let mut ids = IdMap::new("things", 1);
        for n in 1..=u16::MAX {
            assert_eq!(ids.assign(&n), Ok((n, true)));
        }
        let error = ids.assign(&0).expect_err("full").to_string();
        assert!(error.contains("more than 65535 things"), "{error}");
    }

    #[test]
    fn a_slot_that_is_used_anew_has_a_new_generation() {
        let mut slots = Slots::default();
        assert_eq!(slots.assign(&"a"), Ok((0, 0)));
        assert_eq!(slots.assign(&"b"), Ok((1, 0)));
        slots.retain(|slot| slot != 0);
        assert_eq!(slots.assign(&"c"), Ok((0, 1)));
        assert_eq!(slots.assign(&"b"), Ok((1, 0)), "others keep theirs");
        assert_eq!(slots.key(0), Some(&"c"));
    }
}
