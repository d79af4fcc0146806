//! Which parts make the next pass.

use std::time::Duration;

use super::Scheduler;
use crate::service::items::{Next, Part, Running, Stage, State};

/// See [`Scheduler::long_time`]. On two cores with MiniLM and documents of 512 tokens, of 35 to 60 ms each, the p99 of
/// queries is 1.4 times that on one core alone, and was 4.3 times where documents were not long
/// (`benches/results/2026-11-30-serve-2-cores.md`).
const LONG_PART: u32 = 4;

impl Scheduler {
    /// The bound on the predicted time of a pass.
    pub fn pass_time(&self) -> Duration {
        self.limits
            .pass_time
            .max(self.speed.predict(self.limits.pass_cost))
    }

    /// The predicted time past which a sequence is long. With one context it is that of a pass: a shorter one keeps nobody
    /// waiting for longer than others may, and shares a pass. Where a context is kept from long sequences, a quarter of it:
    /// those that share one are waited for by everybody behind them, and by themselves fill a pass as well as several do.
    pub fn long_time(&self) -> Duration {
        match self.limits.contexts {
            1 => self.pass_time(),
            _ => (self.limits.pass_time / LONG_PART).max(self.speed.predict(self.limits.pass_cost)),
        }
    }

    /// Whether a long sequence may go now: one context is kept for the rest. With a single one, long sequences and the
    /// rest take turns of equal time.
    pub fn long_may_run(&self) -> bool {
        if self.long.is_empty() {
            return false;
        }
        match self.limits.contexts {
            1 => self.short.is_empty() || self.long_lead.is_zero(),
            contexts => self.running.values().filter(|pass| pass.long).count() + 1 < contexts,
        }
    }

    /// Until when a pass waits for company, if it does.
    pub fn company_until(&self, now: Duration) -> Option<Duration> {
        let (_, &since) = self.ready.first_key_value()?;
        let until = since + self.limits.max_wait;
        let full = self.queued_tokens >= self.limits.pass_tokens || self.short.is_empty();
        (!full && until > now).then_some(until)
    }

    /// Whether a part can no longer be in time; its request is then given up.
    fn is_late(&mut self, now: Duration, (id, number): Part) -> bool {
        let cost = self.part(id, number).cost;
        let deadline = self.entries[&id].place.deadline;
        let late = deadline.is_some_and(|deadline| now + self.speed.predict(cost) > deadline);
        if late {
            self.forget(id);
            self.late.push(id);
        }
        late
    }

    pub fn take_long(&mut self, now: Duration) -> Vec<Part> {
        while let Some((part, _)) = self.long.peek() {
            if !self.is_late(now, part) {
                self.long.pop();
                return vec![part];
            }
        }
        Vec::new()
    }

    pub fn take_short(&mut self, now: Duration) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let (mut tokens, mut cost, mut group) = (0, 0u64, None);
        let bound = self.pass_time();
        while let Some((part, part_cost)) = self.short.peek() {
            if self.is_late(now, part) {
                continue;
            }
            let Stage::Parts {
                group: its, alone, ..
            } = self.entries[&part.0].stage
            else {
                unreachable!("parts in a queue belong to a request in parts")
            };
            let its_tokens = self.part(part.0, part.1).tokens;
            let fits = parts.is_empty()
                || (!alone
                    && group == Some(its)
                    && tokens + its_tokens <= self.limits.pass_tokens
                    && self.speed.predict(cost + part_cost) <= bound);
            if !fits {
                break;
            }
            self.short.pop();
            parts.push(part);
            tokens += its_tokens;
            cost += part_cost;
            group = Some(its);
            if alone {
                break;
            }
        }
        // A later part of one of them may have been found to be late.
        parts.retain(|part| self.entries.contains_key(&part.0));
        parts
    }

    pub fn start(&mut self, now: Duration, parts: Vec<Part>) -> Next {
        let mut cost = 0;
        let mut long = false;
        for &(id, number) in &parts {
            let part = self.part(id, number);
            part.state = State::Runs;
            let (part_tokens, part_cost) = (part.tokens, part.cost);
            long |= part.long;
            cost += part_cost;
            let entry = &self.entries[&id];
            let left = (
                entry.tokens.saturating_sub(part_tokens),
                entry.cost.saturating_sub(part_cost),
            );
            self.charge(id, left.0, left.1);
            let Stage::Parts { parts, .. } = &self.entries[&id].stage else {
                unreachable!("a pass takes requests in parts")
            };
            if !parts.iter().any(|part| part.state == State::Waits) {
                self.leave_queue(id);
            }
        }
        let predicted = self.speed.predict(cost);
        if self.limits.contexts == 1 {
            self.long_lead = match long {
                // Where nothing else waits, nobody is owed anything.
                true if self.short.is_empty() => Duration::ZERO,
                true => predicted,
                false => self.long_lead.saturating_sub(predicted),
            };
        }
        let number = self.next_pass;
        self.next_pass += 1;
        let running = Running {
            parts: parts.clone(),
            cost,
            long,
            ends: now + predicted,
        };
        self.running.insert(number, running);
        Next::Pass { number, parts }
    }
}
