//! The cost that waits, and how much of it goes ahead of a request that comes now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::fair_queue::Place;

/// Of each priority, the cost of each caller.
#[derive(Debug, Default)]
pub struct Backlog {
    levels: BTreeMap<Reverse<i32>, HashMap<Arc<str>, u64>>,
}

impl Backlog {
    /// What waits in this place costs `new` where it did cost `old`.
    pub fn change(&mut self, place: &Place, old: u64, new: u64) {
        let level = self.levels.entry(Reverse(place.priority)).or_default();
        let sum = level.entry(place.caller.clone()).or_default();
        *sum = *sum + new - old;
        if *sum == 0 {
            level.remove(&place.caller);
        }
        if level.is_empty() {
            self.levels.remove(&Reverse(place.priority));
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let costs = self.levels.values().flat_map(HashMap::values);
        costs.fold(0, |sum, &cost| sum.saturating_add(cost))
    }

    /// What goes ahead of a request of this cost: everything of higher priority, the caller's own, and of every other caller
    /// as much as this one has, for they take turns.
    pub fn ahead_of(&self, place: &Place, cost: u64) -> u64 {
        let mut ahead = 0u64;
        for (&Reverse(priority), callers) in &self.levels {
            if priority < place.priority {
                break;
            }
            let own = callers.get(&place.caller).copied().unwrap_or(0);
            let share = match priority > place.priority {
                true => u64::MAX,
                false => own.saturating_add(cost),
            };
            let others = callers.iter().filter(|(name, _)| **name != place.caller);
            let others = others.fold(0u64, |sum, (_, &cost)| sum.saturating_add(cost.min(share)));
            ahead = ahead.saturating_add(own).saturating_add(others);
        }
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_job_is_not_ahead_of_somebody_elses_query() {
        let place = |caller: &str, priority| Place {
            caller: caller.into(),
            priority,
            deadline: None,
        };
        let mut backlog = Backlog::default();
        backlog.change(&place("bulk", 0), 0, 1_000_000);
        assert_eq!(backlog.ahead_of(&place("user", 0), 10), 10);
        assert_eq!(backlog.ahead_of(&place("bulk", 0), 10), 1_000_000);
        assert_eq!(backlog.ahead_of(&place("user", 1), 10), 0);
        backlog.change(&place("vip", 2), 0, 500);
        assert_eq!(backlog.ahead_of(&place("user", 0), 10), 510);
        assert_eq!(backlog.ahead_of(&place("user", -1), 10), 1_000_500);
        backlog.change(&place("bulk", 0), 1_000_000, 0);
        backlog.change(&place("vip", 2), 500, 0);
        assert_eq!((backlog.total(), backlog.levels.len()), (0, 0));
    }
}
