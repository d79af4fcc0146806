//! A queue that is fair between callers: start-time fair queueing (Goyal, Vin and Cheng, 1996) within each priority.
//!
//! Every caller has a clock that runs ahead by the cost of what is taken from it; the next item is that of the caller whose
//! clock is furthest behind. Of two callers that always have something waiting, neither gets ahead of the other by more
//! than the cost of one item of each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Where a request stands in a queue.
#[derive(Clone, Debug)]
pub struct Place {
    /// Who shares with whom.
    pub caller: Arc<str>,
    /// Higher goes first, whoever waits below.
    pub priority: i32,
    /// Among the items of one caller and priority the earliest goes first; those without one follow.
    pub deadline: Option<Duration>,
}

/// Items of type `K`, of which the smallest goes first where nothing else decides.
#[derive(Debug)]
pub struct FairQueue<K> {
    levels: BTreeMap<Reverse<i32>, Level<K>>,
    len: usize,
}

/// The items of one priority.
#[derive(Debug)]
struct Level<K> {
    /// The clock of the caller that was served last. Nobody who comes new is further behind.
    now: u128,
    callers: HashMap<Arc<str>, Caller<K>>,
    /// The callers with items, by their clocks.
    order: BTreeSet<(u128, Arc<str>)>,
    /// The callers without items whose clocks are ahead of `now`.
    idle: BTreeSet<(u128, Arc<str>)>,
}

#[derive(Debug)]
struct Caller<K> {
    clock: u128,
    items: BTreeMap<(Duration, K), u64>,
}

impl<K> Default for FairQueue<K> {
    fn default() -> Self {
        FairQueue {
            levels: BTreeMap::new(),
            len: 0,
        }
    }
}

impl Place {
    fn deadline_key(&self) -> Duration {
        self.deadline.unwrap_or(Duration::MAX)
    }
}

impl<K: Copy + Ord> FairQueue<K> {
    /// Items that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item of this cost.
    pub fn push(&mut self, place: &Place, item: K, cost: u64) {
        let level = self
            .levels
            .entry(Reverse(place.priority))
            .or_insert_with(|| Level {
                now: 0,
                callers: HashMap::new(),
                order: BTreeSet::new(),
                idle: BTreeSet::new(),
            });
        let now = level.now;
        let caller = level.callers.entry(place.caller.clone()).or_insert(Caller {
            clock: now,
            items: BTreeMap::new(),
        });
        if caller.items.is_empty() {
            level.idle.remove(&(caller.clock, place.caller.clone()));
            caller.clock = caller.clock.max(now);
            level.order.insert((caller.clock, place.caller.clone()));
        }
        if caller
            .items
            .insert((place.deadline_key(), item), cost.max(1))
            .is_none()
        {
            self.len += 1;
        }
    }

    /// The item that is next, and its cost.
    pub fn peek(&self) -> Option<(K, u64)> {
        let (_, level) = self.levels.first_key_value()?;
        let (_, name) = level.order.first()?;
        let (&(_, item), &cost) = level.callers[name].items.first_key_value()?;
        Some((item, cost))
    }

    /// Takes the next item.
    pub fn pop(&mut self) -> Option<K> {
        let mut entry = self.levels.first_entry()?;
        let level = entry.get_mut();
        let (clock, name) = level.order.pop_first()?;
        level.now = clock;
        let caller = level.callers.get_mut(&name).expect("it is in the order");
        let ((_, item), cost) = caller.items.pop_first().expect("callers in the order have items");
        caller.clock += u128::from(cost);
        match caller.items.is_empty() {
            true => level.idle.insert((caller.clock, name)),
            false => level.order.insert((caller.clock, name)),
        };
        while let Some((clock, _)) = level.idle.first()
            && *clock <= level.now
        {
            let (_, name) = level.idle.pop_first().expect("it was just seen");
            level.callers.remove(&name);
        }
        if level.order.is_empty() {
            entry.remove();
        }
        self.len -= 1;
        Some(item)
    }

    /// Takes an item out of its place, and says whether it was there.
    pub fn remove(&mut self, place: &Place, item: K) -> bool {
        let key = Reverse(place.priority);
        let Some(level) = self.levels.get_mut(&key) else {
            return false;
        };
        let Some(caller) = level.callers.get_mut(&place.caller) else {
            return false;
        };
        if caller.items.remove(&(place.deadline_key(), item)).is_none() {
            return false;
        }
        self.len -= 1;
        if caller.items.is_empty() {
            let clock = caller.clock;
            level.order.remove(&(clock, place.caller.clone()));
            match clock > level.now {
                true => drop(level.idle.insert((clock, place.caller.clone()))),
                false => drop(level.callers.remove(&place.caller)),
            }
            if level.order.is_empty() {
                self.levels.remove(&key);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(caller: usize, priority: i32, deadline: Option<u64>) -> Place {
        Place {
            caller: caller.to_string().into(),
            priority,
            deadline: deadline.map(Duration::from_millis),
        }
    }

    proptest! {
        #[test]
        fn callers_that_always_wait_get_equal_shares(
            costs in prop::collection::vec(prop::collection::vec(1u64..1000, 40..60), 2..5),
        ) {
            let mut queue = FairQueue::default();
            for (caller, costs) in costs.iter().enumerate() {
                for (index, &cost) in costs.iter().enumerate() {
                    queue.push(&place(caller, 0, None), (caller, index), cost);
                }
            }
            let mut served = vec![0u64; costs.len()];
            let mut left: Vec<usize> = costs.iter().map(Vec::len).collect();
            while left.iter().all(|&left| left > 0) {
                let (caller, index) = queue.pop().unwrap();
                served[caller] += costs[caller][index];
                left[caller] -= 1;
                let (most, least) = (served.iter().max().unwrap(), served.iter().min().unwrap());
                // The largest cost of each of two callers.
                prop_assert!(most - least <= 2 * 1000, "{served:?}");
            }
        }

        #[test]
        fn whatever_is_pushed_comes_out_once_by_priority_and_deadline(
            steps in prop::collection::vec((0usize..4, 0i32..3, prop::option::of(0u64..50), 1u64..100, 0u8..4), 1..120),
        ) {
            let mut queue = FairQueue::default();
            let mut inside: BTreeMap<usize, Place> = BTreeMap::new();
            for (item, (caller, priority, deadline, cost, step)) in steps.into_iter().enumerate() {
                match step {
                    0 if !inside.is_empty() => {
                        let highest = inside.values().map(|place| place.priority).max().unwrap();
                        let next = queue.peek().unwrap().0;
                        prop_assert_eq!(queue.pop(), Some(next));
                        let taken = inside.remove(&next).expect("it was pushed and not taken before");
                        prop_assert_eq!(taken.priority, highest);
                        let key = |item: usize, place: &Place| (place.deadline.unwrap_or(Duration::MAX), item);
                        let same = inside.iter().filter(|(_, p)| p.priority == taken.priority && p.caller == taken.caller);
                        for (&other, place) in same {
                            prop_assert!(key(next, &taken) < key(other, place));
                        }
                    }
                    1 if !inside.is_empty() => {
                        let (item, place) = inside.pop_first().unwrap();
                        prop_assert!(queue.remove(&place, item));
                        prop_assert!(!queue.remove(&place, item));
                    }
                    _ => {
                        let place = place(caller, priority, deadline);
                        queue.push(&place, item, cost);
                        inside.insert(item, place);
                    }
                }
                prop_assert_eq!(queue.len(), inside.len());
                prop_assert_eq!(queue.peek().is_none(), inside.is_empty());
            }
            while let Some(item) = queue.pop() {
                prop_assert!(inside.remove(&item).is_some());
            }
            prop_assert!(inside.is_empty() && queue.levels.is_empty());
        }
    }
}
