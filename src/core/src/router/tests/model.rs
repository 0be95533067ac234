//! The model test: several routers, and another worker that writes between any read and any write.

use std::cell::RefCell;
use std::sync::LazyLock;

use super::*;
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert_eq, prop_oneof, proptest};

// --- the model test ---

/// Shared data into which another worker comes between a read and the write.
struct Interrupted<'a> {
    map: &'a RefCell<Map>,
    interrupt: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
}

impl SharedData for Interrupted<'_> {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.map.borrow().get(key)
    }

    fn set(&mut self, key: &str, value: &[u8], cas: Option<u32>) -> Result<(), Conflict> {
        if let Some(interrupt) = self.interrupt.borrow_mut().take() {
            interrupt();
        }
        self.map.borrow_mut().set(key, value, cas)
    }
}

const PODS: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Decide { prompt: u64 },
    Start(usize),
    Move(usize),
    Fail(usize),
    Close { nth: usize, end: u8 },
}

fn steps() -> impl Strategy<Value = (usize, Step)> {
    (
        0usize..4,
        prop_oneof![
            4 => (0u64..PROMPTS).prop_map(|prompt| Step::Decide { prompt }),
            2 => (0usize..50).prop_map(Step::Start),
            1 => (0usize..50).prop_map(Step::Move),
            1 => (0usize..50).prop_map(Step::Fail),
            4 => (0usize..50, 0u8..4).prop_map(|(nth, end)| Step::Close { nth, end }),
        ],
    )
}

struct World {
    map: RefCell<Map>,
    workers: Vec<RefCell<Router>>,
    open: RefCell<Vec<(Picks, Ticket)>>,
    now: Micros,
}

const PROMPTS: u64 = 12;

/// Prompts of three conversations, each of which goes on in two ways, and in each of them ends early or late.
fn prompt_of(nth: u64) -> &'static str {
    static ALL: LazyLock<Vec<String>> = LazyLock::new(|| {
        let of = |nth| text(nth % 3, 700) + &text(100 + nth % 6, if nth < 6 { 300 } else { 700 });
        (0..PROMPTS).map(of).collect()
    });
    &ALL[nth as usize]
}

impl World {
    fn run(&self, worker: usize, step: &Step, shared: &mut impl SharedData) {
        let mut router = self.workers[worker].borrow_mut();
        let take = |nth: usize| {
            let mut open = self.open.borrow_mut();
            let len = open.len();
            (len > 0).then(|| open.swap_remove(nth % len))
        };
        match step {
            Step::Decide { prompt } => {
                let decided =
                    with_request(prompt_of(*prompt), |r| router.decide(RouteBy::Prompt(r), shared, self.now));
                if let Ok(decision) = decided {
                    self.open.borrow_mut().push((decision.picks, decision.ticket));
                }
            }
            Step::Start(nth) => {
                if let Some((picks, mut ticket)) = take(*nth) {
                    router.start(&mut ticket, shared, self.now + SECOND).unwrap();
                    self.open.borrow_mut().push((picks, ticket));
                }
            }
            Step::Move(nth) => {
                if let Some((picks, mut ticket)) = take(*nth) {
                    if !ticket.started()
                        && let Some(to) = picks.iter().find(|&slot| slot != ticket.slot())
                    {
                        router.failed_over(&mut ticket, 1, Some(to), shared, self.now).unwrap();
                    }
                    self.open.borrow_mut().push((picks, ticket));
                }
            }
            Step::Fail(nth) => {
                if let Some((picks, ticket)) = take(*nth) {
                    router.unanswered(&ticket, 1, shared, self.now).unwrap();
                    self.open.borrow_mut().push((picks, ticket));
                }
            }
            Step::Close { nth, end } => {
                if let Some((_, ticket)) = take(*nth) {
                    let usage = Usage { prompt_tokens: Tokens(200), cached_tokens: Some(Tokens(20)) };
                    let end = match end {
                        0 => End::Aborted,
                        1 => End::UpstreamError { at: self.now },
                        _ => End::Answered { usage: (*end == 2).then_some(usage), at: self.now },
                    };
                    router.close(ticket, end, shared).unwrap();
                }
            }
        }
    }

    /// In flight, waiting, and work of those that wait, pod by pod, as the ledger has it.
    fn counted(&self) -> Vec<(u32, u32, u32)> {
        let map = self.map.borrow();
        let ledger = map.get("warmpath/default/ledger").map(|(bytes, _)| Ledger::decode(bytes).unwrap());
        let entry = |slot| ledger.as_ref().map_or(PodAccount::new(0), |ledger| ledger.account(slot));
        Slot::all()
            .take(PODS)
            .map(entry)
            .map(|entry| (entry.in_flight, entry.waiting, entry.outstanding.0))
            .collect()
    }

    /// The same by the tickets that are open.
    fn expected(&self) -> Vec<(u32, u32, u32)> {
        let mut counts = vec![(0, 0, 0); PODS];
        for (_, ticket) in self.open.borrow().iter() {
            let (in_flight, waiting, work) = &mut counts[usize::from(ticket.slot())];
            *in_flight += 1;
            if !ticket.started() {
                *waiting += 1;
                *work += ticket.tokens().0;
            }
        }
        counts
    }

    /// What each pod holds of each prompt, as a worker believes once it has read all that others wrote.
    fn believed(&self, worker: usize) -> Vec<Vec<u16>> {
        let mut router = self.workers[worker].borrow_mut();
        router.follow(&*self.map.borrow(), usize::MAX);
        let of = |nth| with_request(prompt_of(nth), |request| router.matched_blocks(request));
        (0..PROMPTS).map(of).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever workers do, and whoever comes between whose read and write: the ledger counts exactly the
    /// requests that are open, pod by pod, all workers believe the same of every pod once they have read the
    /// log, and nothing is left when all requests have ended.
    #[test]
    fn nothing_leaks_and_nothing_goes_negative(steps in prop::collection::vec((steps(), prop::option::of(steps())), 1..120)) {
        let gateway = Gateway::new(&config(PODS, ""), 4);
        let mut world = World {
            map: RefCell::new(gateway.shared),
            workers: gateway.workers.into_iter().map(RefCell::new).collect(),
            open: RefCell::new(Vec::new()),
            now: Micros::ZERO,
        };
        for (nth, ((worker, step), interruption)) in steps.into_iter().enumerate() {
            world.now = world.now + 700 * MILLISECOND;
            let interrupt: Option<Box<dyn FnOnce()>> = match &interruption {
                Some((other, step)) if *other != worker => {
                    let world = &world;
                    Some(Box::new(move || {
                        world.run(*other, step, &mut Interrupted { map: &world.map, interrupt: RefCell::new(None) });
                    }))
                }
                _ => None,
            };
            let mut shared = Interrupted { map: &world.map, interrupt: RefCell::new(interrupt) };
            world.run(worker, &step, &mut shared);
            drop(shared);
            prop_assert_eq!(world.counted(), world.expected());
            // Now and then, so that at other times a worker is behind.
            if nth % 16 == 15 {
                let believed = world.believed(0);
                for worker in 1..4 {
                    prop_assert_eq!(&world.believed(worker), &believed, "worker {}", worker);
                }
            }
        }
        for (_, ticket) in world.open.take() {
            world.workers[0].borrow_mut().close(ticket, End::Aborted, &mut *world.map.borrow_mut()).unwrap();
        }
        let ledger = Ledger::decode(world.map.borrow().get("warmpath/default/ledger").unwrap_or_default().0).unwrap_or_default();
        for slot in 0..ledger.slots() {
            let entry = ledger.account(Slot(slot as u16));
            prop_assert_eq!((entry.in_flight, entry.waiting, entry.outstanding.0), (0, 0, 0));
        }
    }
}
