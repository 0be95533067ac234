//! Ours as a policy: the very collector and routers that run in Envoy, over a map instead of its shared data.

mod inputs;
pub mod unshared;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use clap::ValueEnum;
use warmpath::account::told;
use warmpath::account::transaction::LedgerStore;
use warmpath::answer::usage::Usage;
use warmpath::collector::{Collector, DueScrape, ScrapeFailure};
use warmpath::decide::pick::Picks;
use warmpath::router::{Demand, End, NoPod, RouteBy, Router, Ticket};
use warmpath::settings::criticality::Criticality;
use warmpath::shared::store::{Contended, Keys, Map};
use warmpath::shared::tenants::TenantId;
use warmpath::{MILLISECOND, Micros, Tokens};

use self::inputs::{address, addresses, config, page, request};
use super::text::Texts;
use super::tuning::Tuning;
use crate::baselines::LeastRequest;
use crate::policy::{FleetPod, Policy, RequestEnd, RouteRequest, World};
use crate::workload::Dice;

/// From the request for a metrics page to its last byte, in seconds: a round trip, and what a pod takes to
/// print it.
const SCRAPE_SECONDS: f64 = 0.003;
/// What taking in a page is said to cost the thread: measured on vLLM's 55 KB pages.
const PAGE_COST: Micros = Micros(60);
/// As the module does each second: log segments that a worker reads without a request.
const FOLLOW_SECONDS: f64 = 1.0;
const SEGMENTS_A_FOLLOW: usize = 512;

/// What the workers of one gateway share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Share {
    /// Ledger and log: what is in flight, and which pod holds which prompt.
    #[default]
    All,
    /// The ledger alone.
    Ledger,
    /// Nothing: each worker is on its own.
    None,
}

/// What can be set about ours.
#[derive(Clone, Debug)]
pub struct WarmpathOptions {
    /// `PREFIX_CACHE` or `LOAD_ONLY`.
    pub strategy: &'static str,
    /// Worker threads of the gateway.
    pub workers: usize,
    /// What they share. For [`Share::None`], use [`Unshared`](unshared::Unshared).
    pub share: Share,
    /// Whether answers report `cached_tokens`, which vLLM does only when told to.
    pub reports_cached: bool,
    /// Constants of the cost, and the interval of the scrapes.
    pub tuning: Tuning,
}

/// One gateway with our module.
#[derive(Debug)]
pub struct Warmpath {
    map: Map,
    store: LedgerStore,
    collector: Collector,
    period: f64,
    next_tick: f64,
    routers: Vec<Worker>,
    generation: u64,
    /// Pages on their way, by the time they arrive.
    pages: VecDeque<(f64, DueScrape, Option<Vec<u8>>)>,
    tickets: HashMap<u64, Open>,
    /// The fallback cluster, and its requests.
    fallback: LeastRequest,
    next_follow: f64,
    numbers: HashMap<String, usize>,
    listed: Vec<bool>,
    reports_cached: bool,
    texts: Texts,
    /// The request that was shed last.
    shed: Option<u64>,
}

#[derive(Debug)]
struct Worker {
    router: Router,
    generation: u64,
}

impl Worker {
    fn refresh(&mut self, generation: u64, map: &Map) {
        if self.generation != generation && self.router.refresh(map).is_ok() {
            self.generation = generation;
        }
    }
}

#[derive(Debug)]
struct Open {
    worker: usize,
    ticket: Ticket,
    picks: Picks,
    /// Whether a pod has refused it as it was full.
    refused: bool,
}

fn micros(seconds: f64) -> Micros {
    Micros((seconds * 1e6).round() as u64)
}

impl Warmpath {
    /// A gateway in front of `pods`; `seed` spreads the scrapes of several.
    pub fn new(
        options: &WarmpathOptions,
        pods: &[FleetPod],
        seed: u64,
    ) -> Result<Warmpath, warmpath::settings::error::SettingError> {
        let listed: Vec<bool> = pods.iter().map(|pod| pod.listed).collect();
        let config = config(options.strategy, options.tuning.scrape_ms as u64, &listed)?;
        let mut map = Map::default();
        let mut collector = Collector::new(&config, &map, seed, Micros::ZERO);
        let generation = collector.publish(&mut map, Micros::ZERO).unwrap_or(0);
        let routers = (0..options.workers.max(1))
            .map(|n| Worker {
                // A worker passes over the records of its own number.
                router: Router::new(&config, if options.share == Share::Ledger { 1 } else { n as u32 + 1 })
                    .with_constants(options.tuning.constants),
                generation: 0,
            })
            .collect();
        Ok(Warmpath {
            store: LedgerStore::new(Keys::of(&config.pool, config.index.log_segments)),
            map,
            collector,
            // As the module's collector ticks.
            period: (config.scrape.interval.0 / MILLISECOND.0 / 5).clamp(5, 1000) as f64 / 1e3,
            next_tick: 0.0,
            routers,
            generation,
            pages: VecDeque::new(),
            tickets: HashMap::new(),
            fallback: LeastRequest::new(pods.len(), Dice::new(seed, 3)),
            next_follow: FOLLOW_SECONDS,
            numbers: (0..pods.len()).map(|n| (address(n), n)).collect(),
            listed,
            reports_cached: options.reports_cached,
            texts: Texts::default(),
            shed: None,
        })
    }

    fn number(&self, worker: usize, slot: warmpath::Slot) -> Option<usize> {
        let pod = self.routers.get(worker)?.router.table().pod(slot)?;
        self.numbers.get(&pod.address).copied()
    }

    fn publish(&mut self, now: f64) {
        if let Some(generation) = self.collector.publish(&mut self.map, micros(now)) {
            self.generation = generation;
        }
    }

    fn take_pages(&mut self, now: f64) {
        let mut taken = false;
        while let Some((_, due, page)) = self.pages.pop_front_if(|(at, ..)| *at <= now) {
            taken = true;
            match &page {
                Some(page) => self.collector.take(&due, page, &mut self.map, micros(now)),
                None => self.collector.fail(&due, ScrapeFailure::Unreachable),
            }
            self.collector.done(&due, page.as_ref().map(|_| PAGE_COST), micros(now));
        }
        if taken && self.pages.is_empty() {
            self.publish(now);
        }
    }

    fn tick(&mut self, world: &World<'_>) {
        let listed: Vec<bool> = world.pods.iter().map(|pod| pod.listed).collect();
        if listed != self.listed {
            let addresses: Vec<String> = addresses(&listed).collect();
            self.collector.set_pods(&addresses, micros(world.now));
            self.listed = listed;
        }
        for due in self.collector.due(&self.map, micros(world.now)) {
            let pod = self.numbers.get(&due.address).and_then(|&number| world.pods.get(number));
            self.pages.push_back((world.now + SCRAPE_SECONDS, due, pod.and_then(|pod| page(pod, world.now))));
        }
        for due in self.collector.due_lists(micros(world.now)) {
            let pod = self.numbers.get(&due.address).and_then(|&number| world.pods.get(number));
            if let Some(adapters) = pod.filter(|pod| pod.up).and_then(|pod| pod.adapters.as_ref()) {
                self.collector.take_list(&due, adapters.list().as_bytes(), &mut self.map);
            }
        }
        self.publish(world.now);
    }
}

impl Policy for Warmpath {
    fn choose(&mut self, world: &World<'_>, ask: &RouteRequest<'_>) -> Vec<usize> {
        let texts: Vec<Arc<str>> = ask.spans.iter().map(|span| self.texts.get(span)).collect();
        let model = ask.class.adapter_name().unwrap_or_else(|| "m".to_owned());
        let reading = request(&model, ask.spans, &texts).into();
        let Some(worker) = self.routers.get_mut(ask.worker) else { return Vec::new() };
        worker.refresh(self.generation, &self.map);
        let criticality = if ask.class.sheddable { Criticality::Sheddable } else { Criticality::default() };
        let tenant = ask.class.tenant.map(|tenant| TenantId::of(&tenant.to_le_bytes()));
        let demand = Demand { criticality, tenant, ..Demand::default() };
        let by = RouteBy::Prompt(&reading);
        let decision = match worker.router.decide_for(demand, by, &mut self.map, micros(world.now)) {
            Ok(decision) => decision,
            Err(NoPod::Saturated { .. } | NoPod::OverShare { .. }) => {
                self.shed = Some(ask.id);
                return Vec::new();
            }
            Err(_) => return self.fallback.choose(world, ask),
        };
        let picks = decision.picks;
        self.tickets
            .insert(ask.id, Open { worker: ask.worker, ticket: decision.ticket, picks, refused: false });
        picks.iter().filter_map(|slot| self.number(ask.worker, slot)).collect()
    }

    fn has_shed(&self, id: u64) -> bool {
        self.shed == Some(id)
    }

    fn on_moved(&mut self, world: &World<'_>, id: u64, to: usize) {
        let Some(open) = self.tickets.get_mut(&id) else { return self.fallback.on_moved(world, id, to) };
        let Some(worker) = self.routers.get_mut(open.worker) else { return };
        let name = address(to);
        let slot = worker.router.table().live().find(|(_, pod)| pod.address == name).map(|(slot, _)| slot);
        if let Some(slot) = slot {
            let now = micros(world.now);
            // A full pod has not failed.
            let failed =
                if open.refused { 0 } else { open.picks.iter().take_while(|&pick| pick != slot).count() };
            written(worker.router.failed_over(&mut open.ticket, failed, Some(slot), &mut self.map, now));
        }
    }

    fn on_refused(&mut self, world: &World<'_>, id: u64, pod: usize) {
        match self.tickets.get_mut(&id) {
            Some(open) => {
                open.refused = true;
                if let Some(worker) = self.routers.get(open.worker) {
                    let (table, address) = (worker.router.table(), address(pod));
                    let now = micros(world.now);
                    let told = told::note(&self.store, table, address.as_bytes(), &mut self.map, |pod| {
                        pod.refused_as_full(now)
                    });
                    written(told.map(drop));
                }
            }
            None => self.fallback.on_refused(world, id, pod),
        }
    }

    fn on_first_token(&mut self, world: &World<'_>, id: u64) {
        let Some(open) = self.tickets.get_mut(&id) else { return };
        if let Some(worker) = self.routers.get_mut(open.worker) {
            written(worker.router.start(&mut open.ticket, &mut self.map, micros(world.now)));
        }
    }

    fn on_end(&mut self, world: &World<'_>, id: u64, outcome: RequestEnd) {
        let Some(open) = self.tickets.remove(&id) else { return self.fallback.on_end(world, id, outcome) };
        let Some(worker) = self.routers.get_mut(open.worker) else { return };
        let now = micros(world.now);
        let end = match outcome {
            RequestEnd::Answered(answer) => {
                let cached_tokens = self.reports_cached.then_some(Tokens(answer.cached_tokens));
                let usage = Usage { prompt_tokens: Tokens(answer.prompt_tokens), cached_tokens };
                End::Answered { usage: Some(usage), at: now }
            }
            RequestEnd::Broken | RequestEnd::Refused => End::Aborted,
            RequestEnd::Failed { attempts } => {
                written(worker.router.unanswered(&open.ticket, attempts, &mut self.map, now));
                End::Aborted
            }
        };
        written(worker.router.close(open.ticket, end, &mut self.map));
    }

    fn on_timer(&mut self, world: &World<'_>) -> Option<f64> {
        self.take_pages(world.now);
        if world.now >= self.next_tick {
            self.tick(world);
            self.next_tick = world.now + self.period;
        }
        if world.now >= self.next_follow {
            for worker in &mut self.routers {
                worker.refresh(self.generation, &self.map);
                worker.router.follow(&self.map, SEGMENTS_A_FOLLOW);
            }
            self.next_follow = world.now + FOLLOW_SECONDS;
        }
        let page = self.pages.front().map_or(f64::INFINITY, |(at, ..)| *at);
        Some(self.next_tick.min(self.next_follow).min(page))
    }
}

/// Workers take turns in a simulation, so no write meets another one.
fn written(result: Result<(), Contended>) {
    debug_assert_eq!(result, Ok(()));
}
