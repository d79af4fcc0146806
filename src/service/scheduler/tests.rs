//! The scheduler on virtual time: tokenizers and contexts are events, and everything that must hold is checked at each.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn place(caller: &str, priority: i32, deadline: Option<Duration>) -> Place {
    Place {
        caller: caller.into(),
        priority,
        deadline,
    }
}

fn limits(contexts: usize) -> Limits {
    Limits {
        contexts,
        queue_requests: 12,
        queue_tokens: 400,
        pass_tokens: 100,
        pass_time: Duration::from_micros(100),
        pass_cost: 0,
        max_wait: Duration::ZERO,
    }
}

/// One microsecond per unit of cost, as it was measured.
fn microseconds(cost: u64) -> Duration {
    Duration::from_micros(cost)
}

fn measured() -> Speed {
    let mut speed = Speed::default();
    speed.learn(100, microseconds(100));
    speed
}

/// Requests of one sequence each, tokenised at once.
fn submitted(scheduler: &mut Scheduler, now: Duration, place: Place, cost: u64) -> Id {
    let arrival = Arrival {
        place,
        tokens: cost as usize,
        cost,
        short: false,
    };
    let id = scheduler.submit(now, arrival).unwrap();
    assert_eq!(scheduler.next_text(), Some(id));
    assert!(scheduler.tokenized(now, id, 0, &[(cost as usize, cost)]));
    id
}

/// Tokens, and so cost and µs, from which on a sequence is long.
fn longest_short(contexts: usize) -> usize {
    if contexts == 1 { 100 } else { 25 }
}

fn pass_of(next: Next) -> (u64, Vec<Id>) {
    match next {
        Next::Pass { number, parts } => (number, parts.into_iter().map(|part| part.0).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_query_goes_beside_a_long_document_and_not_behind_it() {
    let zero = Duration::ZERO;
    let mut scheduler = Scheduler::new(limits(2), measured());
    let documents = [0, 1].map(|_| submitted(&mut scheduler, zero, place("a", 0, None), 150));
    let (first, ids) = pass_of(scheduler.next_pass(zero));
    assert_eq!(ids, documents[..1]);
    // The second document waits, for the other context is kept.
    assert_eq!(scheduler.next_pass(zero), Next::Nothing);
    let query = submitted(&mut scheduler, zero, place("a", 0, None), 5);
    let (second, ids) = pass_of(scheduler.next_pass(zero));
    assert_eq!(ids, [query]);
    assert_eq!(
        scheduler.end_pass(second, Outcome::Done(microseconds(5))).0,
        [query]
    );
    assert_eq!(
        scheduler.end_pass(first, Outcome::Done(microseconds(150))).0,
        documents[..1]
    );
    assert_eq!(pass_of(scheduler.next_pass(zero)).1, documents[1..]);
}

#[test]
fn a_document_within_a_passs_time_still_leaves_a_context_to_queries() {
    let zero = Duration::ZERO;
    let run = |contexts: usize, cost: u64| {
        let mut scheduler = Scheduler::new(limits(contexts), measured());
        for _ in 0..2 {
            submitted(&mut scheduler, zero, place("a", 0, None), cost);
        }
        std::iter::from_fn(|| match scheduler.running_passes() < contexts {
            true => match scheduler.next_pass(zero) {
                Next::Pass { parts, .. } => Some(parts.len()),
                Next::At(_) | Next::Nothing => None,
            },
            false => None,
        })
        .collect::<Vec<_>>()
    };
    // A pass is of 100: half of it is long where another context is there, and else shares it.
    assert_eq!(run(2, 50), [1]);
    assert_eq!(run(3, 50), [1, 1]);
    assert_eq!(run(1, 50), [2]);
    assert_eq!(run(2, 25), [2]);
}

#[test]
fn with_one_context_long_documents_and_the_rest_take_turns_of_equal_time() {
    let zero = Duration::ZERO;
    let mut scheduler = Scheduler::new(
        Limits {
            queue_requests: 100,
            queue_tokens: 10_000,
            ..limits(1)
        },
        measured(),
    );
    for _ in 0..3 {
        submitted(&mut scheduler, zero, place("a", 0, None), 300);
    }
    for _ in 0..20 {
        submitted(&mut scheduler, zero, place("b", 0, None), 50);
    }
    let mut order = String::new();
    while let Next::Pass { number, parts } = scheduler.next_pass(zero) {
        order.push(if parts.len() == 1 { 'L' } else { 's' });
        scheduler.end_pass(
            number,
            Outcome::Done(microseconds(if parts.len() == 1 { 300 } else { 100 })),
        );
    }
    assert_eq!(order, "LsssLsssLssss");
}

#[test]
fn a_bulk_job_and_a_user_share() {
    let zero = Duration::ZERO;
    let mut scheduler = Scheduler::new(
        Limits {
            queue_requests: 100,
            queue_tokens: 10_000,
            ..limits(1)
        },
        measured(),
    );
    for _ in 0..50 {
        submitted(&mut scheduler, zero, place("bulk", 0, None), 20);
    }
    let query = submitted(&mut scheduler, zero, place("user", 0, None), 5);
    let urgent = submitted(&mut scheduler, zero, place("bulk", 7, None), 20);
    let (_, ids) = pass_of(scheduler.next_pass(zero));
    assert_eq!(ids[0], urgent);
    assert!(ids[1..3].contains(&query), "{ids:?}");
}

#[test]
fn what_cannot_be_in_time_or_has_no_room_is_refused() {
    let zero = Duration::ZERO;
    let mut scheduler = Scheduler::new(limits(1), measured());
    let arrival = |cost, deadline| Arrival {
        place: place("a", 0, deadline),
        tokens: cost as usize,
        cost,
        short: false,
    };
    let needs = |refused| match refused {
        Err(Refusal::Late { needs }) => needs,
        other => panic!("{other:?}"),
    };
    let late = scheduler.submit(zero, arrival(50, Some(microseconds(49))));
    assert_eq!(needs(late), microseconds(50));
    for _ in 0..4 {
        submitted(&mut scheduler, zero, place("a", 0, None), 90);
    }
    let late = scheduler.submit(zero, arrival(30, Some(microseconds(389))));
    assert_eq!(needs(late), microseconds(390));
    assert!(
        scheduler
            .submit(zero, arrival(30, Some(microseconds(390))))
            .is_ok()
    );
    match scheduler.submit(zero, arrival(30, None)) {
        // Room for 30 tokens of 390 at 1 µs each comes sooner than the least that is ever said.
        Err(Refusal::Full { retry_after }) => assert_eq!(retry_after, Duration::from_millis(1)),
        other => panic!("{other:?}"),
    }
    // In an empty queue, anything has room.
    let mut scheduler = Scheduler::new(limits(1), measured());
    assert!(scheduler.submit(zero, arrival(10_000, None)).is_ok());
    assert!(scheduler.submit(zero, arrival(1, None)).is_err());
}

#[test]
fn a_pass_waits_for_company_so_long_and_no_longer() {
    let limits = Limits {
        max_wait: microseconds(50),
        ..limits(1)
    };
    let mut scheduler = Scheduler::new(limits, measured());
    let first = submitted(&mut scheduler, microseconds(10), place("a", 0, None), 10);
    assert_eq!(scheduler.next_pass(microseconds(20)), Next::At(microseconds(60)));
    let second = submitted(&mut scheduler, microseconds(40), place("b", 0, None), 10);
    let (number, ids) = pass_of(scheduler.next_pass(microseconds(60)));
    assert_eq!(ids, [first, second]);
    scheduler.end_pass(number, Outcome::Done(microseconds(20)));
    // A full pass does not wait.
    let both = [0, 1].map(|_| submitted(&mut scheduler, microseconds(70), place("a", 0, None), 50));
    assert_eq!(pass_of(scheduler.next_pass(microseconds(70))).1, both);
}

#[test]
fn after_a_lost_device_everything_is_tokenised_again() {
    let zero = Duration::ZERO;
    let mut scheduler = Scheduler::new(limits(3), measured());
    let ids = [0, 1, 2].map(|_| submitted(&mut scheduler, zero, place("a", 0, None), 60));
    let (lost, held) = pass_of(scheduler.next_pass(zero));
    let (other, also_held) = pass_of(scheduler.next_pass(zero));
    assert_eq!((held.as_slice(), also_held.as_slice()), (&ids[..1], &ids[1..2]));
    assert_eq!(scheduler.end_pass(lost, Outcome::Failed).1, ids[..1]);
    assert_eq!(scheduler.return_all(), ids[1..]);
    assert_eq!(scheduler.next_pass(zero), Next::Nothing);
    assert_eq!(scheduler.end_pass(other, Outcome::Failed), Default::default());
    assert_eq!((scheduler.queued_requests(), scheduler.queued_tokens()), (2, 120));
    for id in &ids[1..] {
        assert_eq!(scheduler.next_text(), Some(*id));
        assert!(scheduler.tokenized(zero, *id, 1, &[(60, 60)]));
        let (number, _) = pass_of(scheduler.next_pass(zero));
        assert_eq!(
            scheduler.end_pass(number, Outcome::Done(microseconds(60))).0,
            [*id]
        );
    }
    assert!(scheduler.is_empty() && scheduler.queued_requests() == 0 && scheduler.queued_tokens() == 0);
}

/// A request of the simulation.
#[derive(Clone, Debug)]
struct Plan {
    /// Microseconds after the one before.
    gap: u64,
    caller: usize,
    priority: i32,
    /// Microseconds from its arrival.
    deadline: Option<u64>,
    /// Tokens of its sequences; a token costs 1.
    sequences: Vec<usize>,
    group: usize,
    tokenize: u64,
    /// Cancelled so long after its arrival.
    cancel: Option<u64>,
    /// Every pass with it fails.
    poison: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let deadline = prop::option::weighted(0.3, 1u64..2000);
    let sequences = prop_oneof![
        6 => prop::collection::vec(1usize..60, 1..2),
        1 => prop::collection::vec(1usize..60, 2..5),
        1 => prop::collection::vec(101usize..300, 1..2),
    ];
    let rest = (
        0usize..2,
        0u64..30,
        prop::option::weighted(0.15, 0u64..300),
        prop::bool::weighted(0.05),
    );
    (0u64..80, 0usize..4, 0i32..2, deadline, sequences, rest).prop_map(
        |(gap, caller, priority, deadline, sequences, (group, tokenize, cancel, poison))| Plan {
            gap,
            caller,
            priority,
            deadline,
            sequences,
            group,
            tokenize,
            cancel,
            poison,
        },
    )
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    PassEnds(u64),
    Tokenized(Id),
    Cancelled(Id),
    Arrives(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    Late,
    Cancelled,
}

/// A world around a scheduler.
struct World {
    scheduler: Scheduler,
    limits: Limits,
    plans: Vec<Plan>,
    events: BTreeSet<(Duration, Event)>,
    of_id: BTreeMap<Id, usize>,
    arrived: BTreeMap<Id, Duration>,
    ends: BTreeMap<Id, End>,
    computed: BTreeMap<Part, usize>,
    waiting: BTreeMap<Part, (i32, usize, Duration)>,
    passes: BTreeMap<u64, (Vec<Part>, Duration)>,
    alone: BTreeSet<Id>,
    idle_tokenizers: usize,
}

impl World {
    fn plan(&self, id: Id) -> &Plan {
        &self.plans[self.of_id[&id]]
    }

    fn deadline(&self, id: Id) -> Option<Duration> {
        let after = self.plan(id).deadline?;
        Some(self.arrived[&id] + microseconds(after))
    }

    fn end(&mut self, id: Id, end: End) {
        self.waiting.retain(|part, _| part.0 != id);
        let before = self.ends.insert(id, end);
        assert_eq!(before, None, "request {id} ends twice");
    }

    fn arrive(&mut self, now: Duration, index: usize) {
        let plan = self.plans[index].clone();
        let tokens: usize = plan.sequences.iter().sum();
        let arrival = Arrival {
            place: place(
                &plan.caller.to_string(),
                plan.priority,
                plan.deadline.map(|after| now + microseconds(after)),
            ),
            tokens,
            cost: tokens as u64,
            short: false,
        };
        let (requests, before) = (self.scheduler.queued_requests(), self.scheduler.queued_tokens());
        let full = requests >= self.limits.queue_requests
            || (requests > 0 && before + tokens > self.limits.queue_tokens);
        match self.scheduler.submit(now, arrival) {
            Ok(id) => {
                assert!(!full);
                self.of_id.insert(id, index);
                self.arrived.insert(id, now);
                if let Some(after) = plan.cancel {
                    self.events
                        .insert((now + microseconds(after), Event::Cancelled(id)));
                }
            }
            Err(Refusal::Full { retry_after }) => {
                assert!(full && !retry_after.is_zero());
            }
            Err(Refusal::Late { needs }) => {
                assert!(microseconds(plan.deadline.unwrap()) < needs && !full);
            }
        }
    }

    fn happen(&mut self, now: Duration, event: Event) {
        match event {
            Event::Arrives(index) => self.arrive(now, index),
            Event::Cancelled(id) => {
                let known = self.scheduler.cancel(id);
                assert_eq!(known, !self.ends.contains_key(&id));
                if known {
                    self.end(id, End::Cancelled);
                }
            }
            Event::Tokenized(id) => {
                self.idle_tokenizers += 1;
                let plan = self.plan(id).clone();
                let sequences: Vec<(usize, u64)> = plan.sequences.iter().map(|&n| (n, n as u64)).collect();
                let wanted = self.scheduler.tokenized(now, id, plan.group, &sequences);
                assert_eq!(wanted, !self.ends.contains_key(&id));
                if wanted {
                    let deadline = self.deadline(id).unwrap_or(Duration::MAX);
                    for part in 0..sequences.len() {
                        self.waiting
                            .insert((id, part), (plan.priority, plan.caller, deadline));
                    }
                }
            }
            Event::PassEnds(number) => {
                let (parts, took) = self.passes.remove(&number).unwrap();
                let poisoned = parts.iter().any(|part| self.plan(part.0).poison);
                let outcome = match poisoned {
                    true => Outcome::FailedByOne,
                    false => Outcome::Done(took),
                };
                let (done, failed) = self.scheduler.end_pass(number, outcome);
                if !poisoned {
                    for &part in &parts {
                        *self.computed.entry(part).or_default() += 1;
                    }
                }
                for id in done {
                    assert!(!self.plan(id).poison);
                    self.end(id, End::Done);
                }
                for id in failed.iter().copied() {
                    assert!(self.plan(id).poison, "a neighbour fails");
                    self.end(id, End::Failed);
                }
                if poisoned && failed.is_empty() {
                    for part in parts.into_iter().filter(|part| !self.ends.contains_key(&part.0)) {
                        let plan = self.plan(part.0);
                        let deadline = self.deadline(part.0).unwrap_or(Duration::MAX);
                        let entry = (plan.priority, plan.caller, deadline);
                        self.waiting.insert(part, entry);
                        self.alone.insert(part.0);
                    }
                }
            }
        }
    }

    /// Gives free tokenizers and contexts work, and checks what they get.
    fn work(&mut self, now: Duration) {
        loop {
            let late = self.scheduler.take_late(now);
            for id in late {
                assert!(self.deadline(id).is_some());
                self.end(id, End::Late);
            }
            let mut idle = true;
            if self.idle_tokenizers > 0
                && let Some(id) = self.scheduler.next_text()
            {
                self.idle_tokenizers -= 1;
                let ready = now + microseconds(self.plan(id).tokenize);
                self.events.insert((ready, Event::Tokenized(id)));
                idle = false;
            }
            if self.passes.len() < self.limits.contexts {
                let next = self.scheduler.next_pass(now);
                for id in self.scheduler.take_late(now) {
                    self.end(id, End::Late);
                }
                match next {
                    Next::Pass { number, parts } => {
                        self.start(now, number, parts);
                        idle = false;
                    }
                    Next::At(_) => unreachable!("nobody waits for company"),
                    Next::Nothing => {
                        let short = |part: &Part| {
                            self.plan(part.0).sequences[part.1] <= longest_short(self.limits.contexts)
                        };
                        assert!(!self.waiting.keys().any(short), "a context is left idle");
                    }
                }
            }
            if idle {
                break;
            }
        }
        assert!(self.scheduler.queued_requests() <= self.limits.queue_requests + self.alone.len());
    }

    fn start(&mut self, now: Duration, number: u64, parts: Vec<Part>) {
        let sizes: Vec<usize> = parts
            .iter()
            .map(|&(id, part)| self.plan(id).sequences[part])
            .collect();
        let tokens: usize = sizes.iter().sum();
        // A token costs 1, a cost is 1 µs, and both bounds are 100.
        assert!(tokens <= 100 || parts.len() == 1, "{sizes:?}");
        let groups: BTreeSet<usize> = parts.iter().map(|part| self.plan(part.0).group).collect();
        assert_eq!(groups.len(), 1);
        let longest = longest_short(self.limits.contexts);
        let long = |parts: &[Part]| self.plan(parts[0].0).sequences[parts[0].1] > longest;
        if long(&parts) && self.limits.contexts > 1 {
            let running = self.passes.values().filter(|(parts, _)| long(parts)).count();
            assert!(running + 1 < self.limits.contexts, "no context is kept");
        }
        for &part in &parts {
            let place = self.waiting.remove(&part).expect("it waits");
            let own = microseconds(self.plan(part.0).sequences[part.1] as u64);
            assert!(now + own <= place.2, "too late");
            let is_long = self.plan(part.0).sequences[part.1] > longest;
            for (&other, their) in &self.waiting {
                let same_queue = (self.plan(other.0).sequences[other.1] > longest) == is_long;
                if same_queue {
                    assert!(
                        their.0 <= place.0 || parts.contains(&other),
                        "lower priority first"
                    );
                }
                if same_queue && (their.0, their.1) == (place.0, place.1) {
                    assert!((place.2, part) < (their.2, other), "out of order");
                }
            }
        }
        let took = microseconds(tokens as u64);
        self.events.insert((now + took, Event::PassEnds(number)));
        self.passes.insert(number, (parts, took));
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_done_twice_and_every_bound_is_kept(
        plans in prop::collection::vec(plan(), 1..80),
        contexts in 1usize..4,
        tokenizers in 1usize..3,
    ) {
        let limits = limits(contexts);
        let mut world = World {
            scheduler: Scheduler::new(limits.clone(), measured()),
            limits,
            plans,
            events: BTreeSet::new(),
            of_id: BTreeMap::new(),
            arrived: BTreeMap::new(),
            ends: BTreeMap::new(),
            computed: BTreeMap::new(),
            waiting: BTreeMap::new(),
            passes: BTreeMap::new(),
            alone: BTreeSet::new(),
            idle_tokenizers: tokenizers,
        };
        let mut at = 0;
        for (index, plan) in world.plans.iter().enumerate() {
            at += plan.gap;
            world.events.insert((microseconds(at), Event::Arrives(index)));
        }
        while let Some((now, event)) = world.events.pop_first() {
            world.happen(now, event);
            world.work(now);
        }
        for &id in world.of_id.keys() {
            let end = world.ends.get(&id);
            prop_assert!(end.is_some(), "request {id} is lost: {:?}", world.plan(id));
            for part in 0..world.plan(id).sequences.len() {
                let times = world.computed.get(&(id, part)).copied().unwrap_or(0);
                prop_assert!(times <= 1, "part {part} of {id} is computed {times} times");
                if end == Some(&End::Done) {
                    prop_assert_eq!(times, 1);
                }
            }
            if world.plan(id).poison {
                prop_assert!(end != Some(&End::Done));
            }
        }
        prop_assert!(world.scheduler.is_empty());
        prop_assert_eq!(world.scheduler.queued_requests(), 0);
        prop_assert_eq!(world.scheduler.queued_tokens(), 0);
        prop_assert_eq!(world.scheduler.running_passes(), 0);
        prop_assert_eq!(world.scheduler.next_deadline(), None);
        prop_assert_eq!(world.scheduler.backlog.total(), 0);
    }
}
