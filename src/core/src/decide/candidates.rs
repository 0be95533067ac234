//! The pods of a pool as candidates for a request: what each would cost, and how willingly it is sent to.

use std::cell::LazyCell;

use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::account::rate::{DEFAULT_RATE, EQUAL_RATES, RELIABLE_SAMPLES, may_be_faster, teaches_rate};
use crate::account::refusal::Causes;
use crate::decide::adapters::AdapterPlaces;
use crate::decide::cost::{CostConstants, PodView, RequestView, cost};
use crate::decide::pick::{Candidate, Rank};
use crate::prefix::index::{PopularBlocks, PrefixIndex, PrefixMatch};
use crate::request::blocks::bytes_of;
use crate::shared::clusters::ClusterSet;
use crate::shared::pod_table::{Pod, PodKey, PodState, PodTable};
use crate::{Bytes, Micros, Slot, Tokens};

/// Age at which scraped load begins to count less.
const FRESH: Micros = Micros::from_seconds(2);
/// Age at which scraped load counts for nothing.
const STALE: Micros = Micros::from_seconds(10);

/// Requests of mean work that are believed to wait on a pod, besides those that are known, after it refused
/// one: enough to prefer its equals. More would drive conversations from the pods that hold them: under an
/// overload all pods refuse now and then, and a refused attempt costs little.
const WAITING_WHEN_FULL: f32 = 0.25;

/// What is known of a pool when a request is decided.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// Its pods and their scraped load.
    pub table: &'a PodTable,
    /// The requests in flight on each of them.
    pub ledger: &'a Ledger,
    /// The prefixes that they hold.
    pub index: &'a PrefixIndex,
    /// The clusters whose pods are candidates.
    pub among: ClusterSet,
    /// Where the LoRA adapter of the request is.
    pub adapters: &'a AdapterPlaces,
}

impl<'a> Pool<'a> {
    /// The pods that are candidates, in the order of the slots.
    pub fn pods(&self) -> impl Iterator<Item = (Slot, &'a Pod)> + use<'a> {
        let Pool { among, adapters, .. } = *self;
        let all = self.table.live().filter(move |(_, pod)| pod.candidate_of.meets(among));
        let restricted = adapters.restricted();
        all.filter(move |(slot, _)| !restricted || adapters.may_serve(*slot))
    }
}

/// The prompt of a request.
#[derive(Clone, Copy, Debug)]
pub struct PromptView {
    /// Canonical bytes; 0 without a prompt.
    pub bytes: Bytes,
    /// Tokens, as estimated.
    pub tokens: f32,
    /// What a pod may refuse it for.
    pub causes: Causes,
}

/// Scores every candidate of the pool for a prompt that was looked up with the result `found`. The candidates
/// come in the order of the slots; `candidates` is cleared first.
pub fn score_all(
    pool: &Pool<'_>,
    prompt: PromptView,
    found: &PrefixMatch,
    constants: &CostConstants,
    now: Micros,
    candidates: &mut Candidates,
) {
    let Pool { table, ledger, index, .. } = *pool;
    let Candidates { list, accounts, refusing } = candidates;
    refusing.clear();
    refusing.extend(ledger.refusing(prompt.causes, now));
    accounts.clear();
    let (mut waiting, mut in_flight) = (0.0, 0.0);
    for (slot, pod) in pool.pods() {
        let account = PodAccount::of(pod, ledger.account(slot));
        waiting += account.waiting as f32 + pod.foreign_waiting * freshness(pod, now);
        in_flight += account.in_flight as f32;
        accounts.push((slot, account));
    }
    let pods = accounts.len().max(1);
    let mean_rate = mean_rate(accounts);
    let request =
        RequestView { tokens: prompt.tokens, backlog: waiting / pods as f32, mean_work: ledger.mean_work() };
    let PopularBlocks { popular, in_use } = index.popular_blocks(found, pods, in_flight);
    let tokens_per_byte = prompt.tokens / prompt.bytes.max(Bytes(1)).as_f32();
    let in_tokens = |blocks: usize| bytes_of(blocks).as_f32() * tokens_per_byte;
    let lag = Tokens::estimated(constants.first_token_lag_tokens);
    let teaches = teaches_rate(Tokens::estimated(prompt.tokens));
    // Only prompts that can teach a rate need it.
    let fastest = LazyCell::new(|| fastest(accounts, mean_rate));
    list.clear();
    for &(slot, ref account) in accounts.iter() {
        let Some(pod) = table.pod(slot) else { continue };
        let fresh = freshness(pod, now);
        let refused = if account.health.full(now, pod.scraped_at) { WAITING_WHEN_FULL } else { 0.0 };
        let blocks = usize::from(found.blocks(slot));
        let matched = in_tokens(blocks);
        let rate = rate_of(account, mean_rate);
        let tries = teaches
            && rate < *fastest
            && teaches_rate(Tokens::estimated(prompt.tokens - matched))
            && may_be_faster(account, now);
        let tokens_per_second = if tries { *fastest } else { rate };
        let outstanding = account.remaining(tokens_per_second, now, lag);
        let view = PodView {
            matched,
            outstanding,
            waiting: account.waiting as f32,
            in_flight: account.in_flight as f32,
            foreign_running: pod.foreign_running * fresh,
            foreign_waiting: pod.foreign_waiting * fresh + refused,
            cache_fill: index.fill(slot),
            popular: in_tokens(popular.max(blocks)) - matched,
            kv_usage: pod.kv_usage * fresh,
            kv_need: prompt.tokens + constants.expected_answer_tokens - in_tokens(in_use.min(blocks)),
            kv_free: match pod.capacity {
                0 => f32::MAX,
                capacity => (1.0 - pod.kv_usage * fresh) * capacity as f32 - outstanding,
            },
            kv_capacity: pod.capacity as f32,
            adapter_seconds: pool.adapters.seconds(slot, constants),
            tokens_per_second,
        };
        let terms = cost(&view, &request, constants);
        let refuses = refusing.contains(&PodKey { slot, id: pod.id });
        let rank = rank(account, pod, refuses, now);
        let waits = account.outstanding.as_f32() + view.foreign_waiting * request.mean_work;
        let waits = waits / tokens_per_second.max(1.0);
        list.push(Candidate { slot, engine: pod.engine, rank, matched, waits, terms });
    }
}

/// The candidates of a decision, and the accounts that they were scored by; reused, so that their memory is.
#[derive(Debug, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
    accounts: Vec<(Slot, PodAccount)>,
    /// Pods that refuse such requests.
    refusing: Vec<PodKey>,
}

impl Candidates {
    /// The candidates, in the order of the slots.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// These pods are no candidates.
    pub fn leave_out(&mut self, slots: &[Slot]) {
        self.list.retain(|candidate| !slots.contains(&candidate.slot));
    }

    /// The request is to have its first token soon, whatever that costs the requests after it: what waits on
    /// a pod counts twice. All but these pods may have a request of another gateway that no page shows yet,
    /// with so many tokens of work.
    pub fn hurry(&mut self, seen: &[Slot], unseen: f32) {
        for candidate in &mut self.list {
            let unseen = if seen.contains(&candidate.slot) { 0.0 } else { unseen };
            let more = candidate.terms.queue_ahead + unseen;
            candidate.terms.queue_ahead += more;
            candidate.terms.seconds += more / candidate.terms.tokens_per_second.max(1.0);
        }
    }

    /// The candidate in a slot.
    pub fn get(&self, slot: Slot) -> Option<&Candidate> {
        let at = self.list.binary_search_by_key(&slot, |candidate| candidate.slot).ok()?;
        self.list.get(at)
    }
}

/// How long the pod of the pool with the shortest queue will take to compute what waits there: when a client
/// may ask again that all pods have refused.
pub fn shortest_queue(table: &PodTable, ledger: &Ledger, now: Micros) -> Micros {
    let accounts: Vec<_> =
        table.live().map(|(slot, pod)| (slot, PodAccount::of(pod, ledger.account(slot)))).collect();
    let mean_rate = mean_rate(&accounts);
    let queues = accounts.iter().zip(table.live()).map(|((_, account), (_, pod))| {
        let rate = rate_of(account, mean_rate);
        let foreign = pod.foreign_waiting * freshness(pod, now) * ledger.mean_work();
        (account.remaining(rate, now, Tokens::NONE) + foreign) / rate.max(1.0)
    });
    let seconds = queues.min_by(f32::total_cmp).unwrap_or(0.0);
    Micros((seconds * 1e6) as u64)
}

fn rank(account: &PodAccount, pod: &Pod, refuses: bool, now: Micros) -> Rank {
    if pod.state == PodState::Asleep {
        Rank::Asleep
    } else if pod.state == PodState::Hanging {
        Rank::Hanging
    } else if account.health.cooling_down(now, pod.recovered_at) {
        if account.health.errors > 0 { Rank::Erring } else { Rank::CoolingDown }
    } else if refuses {
        Rank::Refusing
    } else if pod.state == PodState::Unreachable {
        Rank::Unreachable
    } else {
        Rank::Ready
    }
}

/// How much scraped load still counts: all of it at first, nothing once it is stale.
fn freshness(pod: &Pod, now: Micros) -> f32 {
    let age = now.since(pod.scraped_at);
    let faded = age.since(FRESH).0 as f32 / (STALE - FRESH).0 as f32;
    1.0 - faded.min(1.0)
}

fn mean_rate(accounts: &[(Slot, PodAccount)]) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (_, account) in accounts.iter().filter(|(_, account)| account.samples > 0) {
        sum += account.rate;
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { DEFAULT_RATE }
}

fn fastest(accounts: &[(Slot, PodAccount)], mean: f32) -> f32 {
    accounts.iter().map(|(_, account)| rate_of(account, mean)).fold(0.0, f32::max)
}

fn rate_of(account: &PodAccount, mean: f32) -> f32 {
    let differs = (account.rate - mean).abs() > EQUAL_RATES * mean;
    if account.samples >= RELIABLE_SAMPLES && differs { account.rate } else { mean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::account::pod_health::{Observed, PodHealth};
    use crate::prefix::index::IndexLimits;

    fn pod(id: u32) -> Pod {
        Pod { id, first_id: id, state: PodState::Ready, capacity: 10_000, ..Pod::default() }
    }

    fn scored(pods: Vec<Pod>, accounts: &[PodAccount], now: Micros) -> Vec<Candidate> {
        let table = PodTable { pods, ..PodTable::default() };
        let index = PrefixIndex::new(IndexLimits { memory: 1 << 20, holdings: 100 });
        let mut ledger = Ledger::default();
        ledger.grow(accounts.len());
        for (slot, account) in accounts.iter().enumerate() {
            ledger.set_account(Slot(slot as u16), account);
        }
        let adapters = AdapterPlaces::default();
        let pool = Pool {
            table: &table,
            ledger: &ledger,
            index: &index,
            among: ClusterSet::nth(0),
            adapters: &adapters,
        };
        let prompt = PromptView { bytes: Bytes(4000), tokens: 1000.0, causes: Causes::default() };
        let mut candidates = Candidates::default();
        score_all(&pool, prompt, &PrefixMatch::default(), &CostConstants::default(), now, &mut candidates);
        candidates.list().to_vec()
    }

    #[test]
    fn scraped_load_fades_between_two_and_ten_seconds() {
        let at = |age| freshness(&Pod { scraped_at: 100 * SECOND, ..pod(1) }, 100 * SECOND + age);
        assert_eq!([at(Micros::ZERO), at(2 * SECOND), at(6 * SECOND), at(10 * SECOND)], [1.0, 1.0, 0.5, 0.0]);
        assert_eq!(at(60 * SECOND), 0.0);
    }

    #[test]
    fn a_rate_counts_when_it_is_reliable_and_clearly_another_one() {
        let account = |rate, samples| PodAccount { rate, samples, ..PodAccount::new(1) };
        assert_eq!(rate_of(&account(2_000.0, 4), 1_000.0), 2_000.0);
        assert_eq!(rate_of(&account(2_000.0, 3), 1_000.0), 1_000.0);
        assert_eq!(rate_of(&account(1_300.0, 9), 1_000.0), 1_000.0);
        assert_eq!(mean_rate(&[(Slot(0), account(0.0, 0)), (Slot(1), account(800.0, 1))]), 800.0);
        assert_eq!(mean_rate(&[]), DEFAULT_RATE);
    }

    #[test]
    fn the_rank_tells_how_a_pod_failed() {
        let failed = |errors| PodAccount {
            health: PodHealth { failures: 1, errors, cool_until: SECOND, ..PodHealth::default() },
            ..PodAccount::new(1)
        };
        let unreachable = Pod { state: PodState::Unreachable, ..pod(1) };
        assert_eq!(rank(&PodAccount::new(1), &pod(1), false, Micros::ZERO), Rank::Ready);
        assert_eq!(rank(&PodAccount::new(1), &unreachable, false, Micros::ZERO), Rank::Unreachable);
        assert_eq!(rank(&failed(0), &unreachable, false, Micros::ZERO), Rank::CoolingDown);
        assert_eq!(rank(&failed(2), &pod(1), false, Micros::ZERO), Rank::Erring);
        assert_eq!(rank(&failed(2), &pod(1), false, SECOND), Rank::Ready);
        assert_eq!(rank(&failed(2), &pod(1), true, SECOND), Rank::Refusing);
        assert_eq!(rank(&failed(2), &pod(1), true, Micros::ZERO), Rank::Erring);
    }

    #[test]
    fn a_pod_that_refused_a_request_is_dearer_until_its_next_page() {
        let mut full = PodAccount::new(1);
        full.health.refused_as_full(SECOND);
        let accounts = [full, PodAccount::new(2)];
        let page_at = |scraped_at| vec![Pod { scraped_at, ..pod(1) }, pod(2)];
        let now = SECOND + SECOND / 10;
        let before = scored(page_at(SECOND / 2), &accounts, now);
        assert!(before[0].terms.seconds > before[1].terms.seconds);
        assert_eq!(before[0].rank, Rank::Ready);
        let after = scored(page_at(now), &accounts, now);
        assert_eq!(after[0].terms.seconds, after[1].terms.seconds);
    }

    #[test]
    fn the_shortest_queue_counts_own_and_foreign_work_at_the_pods_rate() {
        let mut ledger = Ledger::default();
        ledger.grow(2);
        let mut account = PodAccount { rate: 1000.0, samples: 9, ..PodAccount::new(1) };
        (0..3).for_each(|_| _ = account.open(Tokens(2000), Micros::ZERO));
        ledger.set_account(Slot(0), &account);
        ledger.set_account(Slot(1), &PodAccount { id: 2, ..account });
        ledger.learn_mean_work(Tokens(500));
        let pods = vec![pod(1), Pod { id: 2, first_id: 2, foreign_waiting: 4.0, ..pod(1) }];
        let mut table = PodTable { pods, ..PodTable::default() };
        assert_eq!(shortest_queue(&table, &ledger, Micros::ZERO), 6 * SECOND);
        table.pods.remove(0);
        ledger.set_account(Slot(0), &PodAccount { id: 2, ..account });
        assert_eq!(shortest_queue(&table, &ledger, Micros::ZERO), 8 * SECOND);
        assert_eq!(shortest_queue(&PodTable::default(), &ledger, Micros::ZERO), Micros::ZERO);
    }

    #[test]
    fn the_account_of_a_pod_that_is_gone_does_not_count() {
        let mut busy = PodAccount::new(1);
        (0..9).for_each(|_| _ = busy.open(Tokens(1000), Micros::ZERO));
        busy.health.failed(Observed { sent_at: Micros::ZERO, at: Micros::ZERO });
        let candidates = scored(vec![pod(1), pod(7)], &[busy, PodAccount { id: 2, ..busy }], Micros::ZERO);
        assert_eq!((candidates[0].rank, candidates[1].rank), (Rank::CoolingDown, Rank::Ready));
        assert_eq!((candidates[0].terms.queue_ahead, candidates[1].terms.queue_ahead), (9000.0, 0.0));
    }

    #[test]
    fn who_is_in_a_hurry_counts_what_waits_twice_and_what_nobody_may_have_seen() {
        let mut busy = PodAccount::new(1);
        let _ = busy.open(Tokens(1000), Micros::ZERO);
        let list = scored(vec![pod(1), pod(2)], &[busy, PodAccount::new(2)], Micros::ZERO);
        let mut candidates = Candidates { list: list.clone(), ..Candidates::default() };
        candidates.hurry(&[Slot(0)], 300.0);
        for (candidate, (before, more)) in candidates.list().iter().zip(list.iter().zip([1000.0, 300.0])) {
            let (terms, before) = (candidate.terms, before.terms);
            assert_eq!(terms.queue_ahead, before.queue_ahead + more);
            assert_eq!(terms.seconds, before.seconds + more / before.tokens_per_second);
        }
    }

    #[test]
    fn pods_of_other_clusters_are_no_candidates() {
        let of = |id, set| Pod { candidate_of: set, ..pod(id) };
        let pods =
            vec![of(1, ClusterSet::nth(1)), of(2, ClusterSet::nth(0)), of(3, ClusterSet::NONE), pod(4)];
        let slots: Vec<Slot> =
            scored(pods, &[], Micros::ZERO).iter().map(|candidate| candidate.slot).collect();
        assert_eq!(slots, [Slot(1), Slot(3)]);
    }

    #[test]
    fn empty_slots_are_no_candidates() {
        let slots: Vec<Slot> = scored(vec![pod(1), Pod::default(), pod(3)], &[], Micros::ZERO)
            .iter()
            .map(|candidate| candidate.slot)
            .collect();
        assert_eq!(slots, [Slot(0), Slot(2)]);
    }
}
