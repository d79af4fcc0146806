//! Room for the bodies of all requests, and for their answers: taken while bodies arrive and answers are made, given back
//! when requests are answered and answers sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::failure::{Failure, Kind};

/// The first bytes of each take no room: small requests are served whatever large ones wait for. Connections are
/// bounded, and with them these bytes.
pub const FREE: usize = 64 << 10;

/// Room is taken in pieces of this size, so that few frames of a body ask for it.
const PIECE: usize = 64 << 10;

/// When somebody may come back for whom there was no room. Bodies that arrive as fast as networks bring them, and answers
/// that are read as fast, are gone by then.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// There is no room for what a request wants.
pub fn crowded(message: &str) -> Failure {
    Failure {
        retry_after: Some(BACK_AFTER),
        ..Failure::new(Kind::Overloaded, message)
    }
}

/// Bytes that all may have together.
#[derive(Debug)]
pub struct Room {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Those who hold some.
    by_caller: HashMap<String, usize>,
}

impl Room {
    pub fn new(most: usize) -> Room {
        Room {
            most,
            held: Mutex::default(),
        }
    }

    /// Takes more bytes for a caller, who afterwards holds no more than is left for others: who fills all that he gets
    /// still leaves half of it, two leave a third, and a few that send slowly lock nobody else out.
    fn take(&self, caller: &str, bytes: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = held.by_caller.get(caller).copied().unwrap_or_default() + bytes;
        let left = self.most.checked_sub(held.all + bytes);
        let granted = left.is_some_and(|left| mine <= left);
        if granted {
            held.all += bytes;
            held.by_caller.insert(caller.to_owned(), mine);
        }
        granted
    }

    fn give_back(&self, caller: &str, bytes: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= bytes;
        if let Some(mine) = held.by_caller.get_mut(caller) {
            *mine -= bytes;
            if *mine == 0 {
                held.by_caller.remove(caller);
            }
        }
    }
}

/// What one body, or one answer, holds of the room. It is given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    caller: String,
    /// How much there is room for.
    length: usize,
    /// How much of the room is taken for it.
    bytes: usize,
}

impl Share {
    pub fn new(room: Arc<Room>, caller: String) -> Share {
        Share {
            room,
            caller,
            length: 0,
            bytes: 0,
        }
    }

    /// Whether there is room for so many bytes. What is missing is taken.
    pub fn holds(&mut self, length: usize) -> bool {
        let missing = length.saturating_sub(FREE).saturating_sub(self.bytes);
        let taken = missing.next_multiple_of(PIECE);
        let holds = taken == 0 || self.room.take(&self.caller, taken);
        if holds {
            self.bytes += taken;
            self.length = self.length.max(length);
        }
        holds
    }

    /// How many bytes it has room for.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether there is room for so many bytes beside those that it has.
    pub fn holds_more(&mut self, bytes: usize) -> bool {
        self.holds(self.length.saturating_add(bytes))
    }

    /// Gives all of it back.
    pub fn give_back(&mut self) {
        self.length = 0;
        if self.bytes > 0 {
            self.room.give_back(&self.caller, std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_of_the_room() {
        let room = Arc::new(Room::new(12 * PIECE));
        let share = |caller: &str| Share::new(room.clone(), caller.to_owned());
        let fill = |caller: &str| -> Vec<Share> {
            let one = || {
                let mut share = share(caller);
                share.holds(FREE + 1).then_some(share)
            };
            std::iter::from_fn(one).collect()
        };
        let first = fill("a");
        let second = fill("b");
        assert_eq!((first.len(), second.len()), (6, 3));
        // Whatever others hold, small bodies need none.
        assert!(share("a").holds(FREE));
        let mut other = share("c");
        assert!(other.holds(FREE + PIECE) && !other.holds(FREE + 2 * PIECE));
        // What it has it keeps.
        assert!(other.holds(FREE + PIECE) && !other.holds_more(1));
        drop((first, second, other));
        assert_eq!(fill("c").len(), 6);
        let held = room.held.lock().unwrap();
        assert!(held.all == 0 && held.by_caller.is_empty());
    }
}
