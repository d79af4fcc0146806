//! What is computed next: a state machine without threads, clocks or texts, so that tests drive it on virtual time.
//!
//! A request is submitted, waits to be tokenised, and becomes one part per sequence; parts wait in one of two queues, those
//! of bounded time and those that take long by themselves, until a pass takes them. Times are durations since some start.

mod pack;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::backlog::Backlog;
use super::fair_queue::{FairQueue, Place};
use super::items::{
    Arrival, Entry, Id, Limits, Next, Outcome, Part, Refusal, Running, Sequence, Stage, State,
};
use super::speed::Speed;

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    speed: Speed,
    next_id: Id,
    next_pass: u64,
    entries: HashMap<Id, Entry>,
    texts: FairQueue<Id>,
    short: FairQueue<Part>,
    long: FairQueue<Part>,
    /// Requests with parts that wait: the first has waited longest.
    ready: BTreeMap<Id, Duration>,
    /// Requests of which something waits, by their deadlines.
    deadlines: BTreeSet<(Duration, Id)>,
    /// The cost that waits.
    backlog: Backlog,
    queued_requests: usize,
    queued_tokens: usize,
    running: HashMap<u64, Running>,
    /// With one context: by how much more time long sequences had than the rest while both waited.
    long_lead: Duration,
    /// Requests that were given up since they were asked for.
    late: Vec<Id>,
}

impl Scheduler {
    pub fn new(limits: Limits, speed: Speed) -> Scheduler {
        Scheduler {
            limits,
            speed,
            next_id: 0,
            next_pass: 0,
            entries: HashMap::new(),
            texts: FairQueue::default(),
            short: FairQueue::default(),
            long: FairQueue::default(),
            ready: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            backlog: Backlog::default(),
            queued_requests: 0,
            queued_tokens: 0,
            running: HashMap::new(),
            long_lead: Duration::ZERO,
            late: Vec::new(),
        }
    }

    /// Requests that wait.
    pub fn queued_requests(&self) -> usize {
        self.queued_requests
    }

    /// Tokens that wait, as far as they are known.
    pub fn queued_tokens(&self) -> usize {
        self.queued_tokens
    }

    /// Passes that run.
    pub fn running_passes(&self) -> usize {
        self.running.len()
    }

    /// Whether no request is left.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lets a request in, or says why not.
    pub fn submit(&mut self, now: Duration, arrival: Arrival) -> Result<Id, Refusal> {
        let Arrival {
            place,
            tokens,
            cost,
            short,
        } = arrival;
        // What is larger than the whole queue goes in when the queue is empty.
        let over = (self.queued_tokens + tokens).saturating_sub(self.limits.queue_tokens);
        let no_room = self.queued_requests > 0 && over > 0;
        if no_room || self.queued_requests >= self.limits.queue_requests {
            return Err(Refusal::Full {
                retry_after: self.time_to_drain(over),
            });
        }
        if let Some(deadline) = place.deadline {
            let needs = self.predicted_wait(now, &place, cost) + self.speed.predict(cost);
            if now + needs > deadline {
                return Err(Refusal::Late { needs });
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        if let Some(deadline) = place.deadline {
            self.deadlines.insert((deadline, id));
        }
        self.texts.push(&place, id, tokens as u64);
        self.queued_requests += 1;
        let entry = Entry {
            place,
            tokens: 0,
            cost: 0,
            short,
            stage: Stage::Text,
        };
        self.entries.insert(id, entry);
        self.charge(id, tokens, cost);
        Ok(id)
    }

    /// Texts that wait to be tokenised.
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// Whether the text to tokenise next is a short one: see [`Arrival`].
    pub fn has_short_text(&self) -> bool {
        self.texts.peek().is_some_and(|(id, _)| self.entries[&id].short)
    }

    /// Whether something waits for a pass.
    pub fn has_parts(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The request to tokenise next.
    pub fn next_text(&mut self) -> Option<Id> {
        let id = self.texts.pop()?;
        self.entry(id).stage = Stage::Tokenizing;
        Some(id)
    }

    /// The sequences of a request, each with its tokens and cost. False if nobody wants it any more. Requests of different
    /// `group`s do not share a pass.
    pub fn tokenized(&mut self, now: Duration, id: Id, group: usize, sequences: &[(usize, u64)]) -> bool {
        let bound = self.long_time();
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        let parts: Vec<Sequence> = sequences
            .iter()
            .map(|&(tokens, cost)| Sequence {
                tokens,
                cost,
                long: self.speed.predict(cost) > bound,
                state: State::Waits,
            })
            .collect();
        for (number, part) in parts.iter().enumerate() {
            let queue = if part.long {
                &mut self.long
            } else {
                &mut self.short
            };
            queue.push(&entry.place, (id, number), part.cost);
        }
        entry.stage = Stage::Parts {
            group,
            alone: false,
            parts,
        };
        self.ready.insert(id, now);
        let total = |f: fn(&(usize, u64)) -> u64| sequences.iter().map(f).sum::<u64>();
        self.charge(
            id,
            total(|&(tokens, _)| tokens as u64) as usize,
            total(|&(_, cost)| cost),
        );
        true
    }

    /// Puts a request back that a tokenizer took: it is to be tokenised again.
    pub fn return_text(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = Stage::Text;
            self.texts.push(&entry.place, id, entry.tokens as u64);
        }
    }

    /// All requests that are in parts are to be tokenised again: the device that they were made for is gone. What runs is
    /// given up.
    pub fn return_all(&mut self) -> Vec<Id> {
        self.running.clear();
        let in_parts = |(&id, entry): (&Id, &Entry)| matches!(entry.stage, Stage::Parts { .. }).then_some(id);
        let mut ids: Vec<Id> = self.entries.iter().filter_map(in_parts).collect();
        ids.sort_unstable();
        for &id in &ids {
            self.unqueue(id);
            let was_running = !self.ready.contains_key(&id);
            self.ready.remove(&id);
            if was_running {
                self.queued_requests += 1;
            }
            let entry = self.entry(id);
            let Stage::Parts { parts, .. } = std::mem::replace(&mut entry.stage, Stage::Text) else {
                unreachable!("these were in parts")
            };
            let place = entry.place.clone();
            if let Some(deadline) = place.deadline {
                self.deadlines.insert((deadline, id));
            }
            let tokens = parts.iter().map(|part| part.tokens).sum();
            self.charge(id, tokens, parts.iter().map(|part| part.cost).sum());
            self.texts.push(&place, id, tokens as u64);
        }
        ids
    }

    /// What a free context is to do.
    pub fn next_pass(&mut self, now: Duration) -> Next {
        loop {
            let parts = match self.long_may_run() {
                true => self.take_long(now),
                false => {
                    if let Some(until) = self.company_until(now) {
                        return Next::At(until);
                    }
                    self.take_short(now)
                }
            };
            // Everything that was looked at may have been late.
            if parts.is_empty() {
                match self.short.is_empty() && !self.long_may_run() {
                    true => return Next::Nothing,
                    false => continue,
                }
            }
            return self.start(now, parts);
        }
    }

    /// Takes the outcome of a pass: the requests that are done, and those that failed.
    pub fn end_pass(&mut self, number: u64, outcome: Outcome) -> (Vec<Id>, Vec<Id>) {
        let Some(pass) = self.running.remove(&number) else {
            // Given up by `return_all`.
            return Default::default();
        };
        if let Outcome::Done(took) = outcome {
            self.speed.learn(pass.cost, took);
        }
        let ids: BTreeSet<Id> = pass.parts.iter().map(|&(id, _)| id).collect();
        let ids = ids.into_iter().filter(|id| self.entries.contains_key(id));
        let ids: Vec<Id> = ids.collect();
        let retry =
            outcome == Outcome::FailedByOne && pass.parts.iter().any(|part| part.0 != pass.parts[0].0);
        match outcome {
            Outcome::Done(_) => {
                for (id, number) in pass.parts {
                    if self.entries.contains_key(&id) {
                        self.part(id, number).state = State::Done;
                    }
                }
                let done = ids
                    .into_iter()
                    .filter(|&id| self.all_done(id))
                    .collect::<Vec<_>>();
                done.iter().for_each(|&id| self.forget(id));
                (done, Vec::new())
            }
            _ if retry => {
                for part in pass.parts {
                    if self.entries.contains_key(&part.0) {
                        self.wait_again(part);
                    }
                }
                Default::default()
            }
            _ => {
                ids.iter().for_each(|&id| self.forget(id));
                (Vec::new(), ids)
            }
        }
    }

    /// Forgets a request: what waits of it is never computed.
    pub fn cancel(&mut self, id: Id) -> bool {
        let known = self.entries.contains_key(&id);
        if known {
            self.forget(id);
        }
        known
    }

    /// Forgets every request, and says which there were.
    pub fn cancel_all(&mut self) -> Vec<Id> {
        let ids: Vec<Id> = self.entries.keys().copied().collect();
        ids.iter().for_each(|&id| self.forget(id));
        ids
    }

    /// The requests whose deadlines passed while something of them waited. They are forgotten.
    pub fn take_late(&mut self, now: Duration) -> Vec<Id> {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.forget(id);
            self.late.push(id);
        }
        std::mem::take(&mut self.late)
    }

    /// When the next deadline of a waiting request passes.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    fn entry(&mut self, id: Id) -> &mut Entry {
        self.entries.get_mut(&id).expect("the request is known")
    }

    fn part(&mut self, id: Id, number: usize) -> &mut Sequence {
        match &mut self.entry(id).stage {
            Stage::Parts { parts, .. } => &mut parts[number],
            _ => unreachable!("a pass takes requests in parts"),
        }
    }

    fn all_done(&self, id: Id) -> bool {
        match &self.entries[&id].stage {
            Stage::Parts { parts, .. } => parts.iter().all(|part| part.state == State::Done),
            _ => false,
        }
    }

    /// A part whose pass failed waits for one of its own.
    fn wait_again(&mut self, (id, number): Part) {
        let now_waiting = !self.ready.contains_key(&id);
        let part = self.part(id, number);
        part.state = State::Waits;
        let (tokens, cost, long) = (part.tokens, part.cost, part.long);
        let entry = self.entries.get_mut(&id).expect("the request is known");
        if let Stage::Parts { alone, .. } = &mut entry.stage {
            *alone = true;
        }
        let queue = if long { &mut self.long } else { &mut self.short };
        queue.push(&entry.place, (id, number), cost);
        let (deadline, total) = (entry.place.deadline, (entry.tokens + tokens, entry.cost + cost));
        self.charge(id, total.0, total.1);
        if now_waiting {
            self.queued_requests += 1;
            // It has waited enough.
            self.ready.insert(id, Duration::ZERO);
            if let Some(deadline) = deadline {
                self.deadlines.insert((deadline, id));
            }
        }
    }

    /// Nothing of the request waits any more.
    fn leave_queue(&mut self, id: Id) {
        self.ready.remove(&id);
        if let Some(deadline) = self.entries[&id].place.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.queued_requests -= 1;
    }

    /// Takes what waits of a request out of the queues.
    fn unqueue(&mut self, id: Id) {
        let entry = &self.entries[&id];
        match &entry.stage {
            Stage::Text => drop(self.texts.remove(&entry.place, id)),
            Stage::Tokenizing => {}
            Stage::Parts { parts, .. } => {
                for (number, part) in parts.iter().enumerate() {
                    let queue = if part.long {
                        &mut self.long
                    } else {
                        &mut self.short
                    };
                    queue.remove(&entry.place, (id, number));
                }
            }
        }
    }

    fn forget(&mut self, id: Id) {
        self.unqueue(id);
        let waits = match self.entries[&id].stage {
            Stage::Parts { .. } => self.ready.contains_key(&id),
            Stage::Text | Stage::Tokenizing => true,
        };
        self.charge(id, 0, 0);
        if waits {
            self.leave_queue(id);
        }
        self.entries.remove(&id);
    }

    /// Sets what a request counts for in the queue.
    fn charge(&mut self, id: Id, tokens: usize, cost: u64) {
        let entry = self.entries.get_mut(&id).expect("the request is known");
        self.queued_tokens = self.queued_tokens + tokens - std::mem::replace(&mut entry.tokens, tokens);
        let old = std::mem::replace(&mut entry.cost, cost);
        self.backlog.change(&entry.place, old, cost);
    }

    /// The time until a context takes a request of this cost, if it came now.
    fn predicted_wait(&self, now: Duration, place: &Place, cost: u64) -> Duration {
        let free = match self.running.len() < self.limits.contexts {
            true => Duration::ZERO,
            false => {
                let first = self.running.values().map(|pass| pass.ends).min();
                first.unwrap_or_default().saturating_sub(now)
            }
        };
        match self.backlog.ahead_of(place, cost) {
            0 => free,
            ahead => free + self.speed.predict(ahead) / self.limits.contexts as u32,
        }
    }

    /// The time until so many tokens of the queue are computed.
    fn time_to_drain(&self, tokens: usize) -> Duration {
        let part = (tokens.max(1) as f64 / self.queued_tokens.max(1) as f64).min(1.0);
        let time = self.speed.predict(self.backlog.total()).mul_f64(part) / self.limits.contexts as u32;
        time.max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests;
