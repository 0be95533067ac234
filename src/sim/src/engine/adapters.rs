//! LoRA adapters on the GPU: which are there, which are on their way, and the requests that wait for one.

use std::collections::VecDeque;

use super::EngineRequest;

/// A request that waits for its adapter.
#[derive(Debug)]
pub struct WaitingForAdapter {
    /// The engine that it is for.
    pub engine: usize,
    /// The request.
    pub request: EngineRequest,
    /// Its adapter.
    pub adapter: String,
    /// When the adapter will be there, in virtual seconds; `None` while no slot is free for it.
    pub ready_at: Option<f64>,
}

/// One line of `vllm:lora_requests_info`: which adapters had requests, and when that was last so. vLLM never
/// takes a line back, so the newest one is the one that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLine {
    /// Names with commas, in the order of their requests.
    pub adapters: String,
    /// Unix seconds.
    pub at: f64,
}

#[derive(Debug)]
struct Loaded {
    adapter: String,
    /// Virtual seconds.
    ready_at: f64,
    used_at: f64,
    /// Whether requests for it compute, or wait for nothing but its loading.
    in_use: bool,
}

/// The slots of a GPU for adapters.
#[derive(Debug)]
pub struct AdapterSlots {
    most: usize,
    load_seconds: f64,
    loaded: Vec<Loaded>,
    waiting: VecDeque<WaitingForAdapter>,
    lines: Vec<AdapterLine>,
}

impl AdapterSlots {
    /// `most` adapters at a time, each loaded in `load_seconds` virtual seconds.
    pub fn new(most: usize, load_seconds: f64) -> AdapterSlots {
        AdapterSlots { most, load_seconds, loaded: Vec::new(), waiting: VecDeque::new(), lines: Vec::new() }
    }

    /// Queues a request for its adapter.
    pub fn push(&mut self, engine: usize, request: EngineRequest, adapter: String) {
        self.waiting.push_back(WaitingForAdapter { engine, request, adapter, ready_at: None });
    }

    /// How many requests of an engine wait here.
    pub fn waiting(&self, engine: usize) -> u32 {
        self.waiting.iter().filter(|waiting| waiting.engine == engine).count() as u32
    }

    /// Gives slots to those who wait, in their order. `requests` says how many requests for an adapter are at
    /// the pod, those who wait included. A slot is not taken from an adapter while requests for it are under
    /// way; of the others the least recently used goes first.
    pub fn assign(&mut self, now: f64, requests: impl Fn(&str) -> usize) {
        for there in &mut self.loaded {
            let without_slot = self
                .waiting
                .iter()
                .filter(|waiting| waiting.adapter == there.adapter && waiting.ready_at.is_none());
            there.in_use = requests(&there.adapter) > without_slot.count();
        }
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.ready_at.is_none()) {
            if let Some(there) = self.loaded.iter_mut().find(|there| there.adapter == waiting.adapter) {
                (there.used_at, there.in_use) = (now, true);
                waiting.ready_at = Some(there.ready_at.max(now));
                continue;
            }
            if self.loaded.len() >= self.most {
                let idle = self.loaded.iter().enumerate().filter(|(_, there)| !there.in_use);
                let Some((oldest, _)) = idle.min_by(|a, b| a.1.used_at.total_cmp(&b.1.used_at)) else {
                    continue;
                };
                self.loaded.swap_remove(oldest);
            }
            let ready_at = now + self.load_seconds;
            self.loaded.push(Loaded {
                adapter: waiting.adapter.clone(),
                ready_at,
                used_at: now,
                in_use: true,
            });
            waiting.ready_at = Some(ready_at);
        }
    }

    /// When the next adapter that a request waits for is there.
    pub fn next_ready(&self) -> Option<f64> {
        self.waiting.iter().filter_map(|waiting| waiting.ready_at).min_by(f64::total_cmp)
    }

    /// A request whose adapter is there at `now`.
    pub fn take_ready(&mut self, now: f64) -> Option<WaitingForAdapter> {
        let at = self.waiting.iter().position(|waiting| waiting.ready_at.is_some_and(|at| at <= now))?;
        self.waiting.remove(at)
    }

    /// Forgets a request.
    pub fn abort(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.request.id != id);
    }

    /// Notes at the Unix second `at` which adapters have requests, as `adapters` in the order of their
    /// requests.
    pub fn note(&mut self, adapters: String, at: f64) {
        match self.lines.iter_mut().find(|line| line.adapters == adapters) {
            Some(line) => line.at = at,
            None => self.lines.push(AdapterLine { adapters, at }),
        }
    }

    /// What was noted.
    pub fn lines(&self) -> &[AdapterLine] {
        &self.lines
    }

    /// As after a restart.
    pub fn clear(&mut self) {
        *self = AdapterSlots::new(self.most, self.load_seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn push(slots: &mut AdapterSlots, id: u64, adapter: &str) {
        let request = EngineRequest { id, blocks: Arc::from([]), prompt_tokens: 1, output_tokens: 1 };
        slots.push(0, request, adapter.to_owned());
    }

    #[test]
    fn an_adapter_is_loaded_once_and_the_idle_one_makes_room() {
        let mut slots = AdapterSlots::new(1, 2.0);
        push(&mut slots, 1, "a");
        push(&mut slots, 2, "a");
        push(&mut slots, 3, "b");
        let all = |adapter: &str| if adapter == "a" { 2 } else { 1 };
        slots.assign(10.0, all);
        assert_eq!((slots.next_ready(), slots.waiting(0)), (Some(12.0), 3));
        assert!(slots.take_ready(11.0).is_none());
        assert_eq!([12.0, 12.0].map(|now| slots.take_ready(now).unwrap().request.id), [1, 2]);
        slots.assign(20.0, all);
        assert!(slots.next_ready().is_none(), "the only slot is in use");
        slots.assign(21.0, |adapter| usize::from(adapter == "b"));
        assert_eq!(slots.next_ready(), Some(23.0));
        slots.abort(3);
        assert!(slots.take_ready(99.0).is_none());
    }

    #[test]
    fn a_slot_that_is_free_goes_to_one_of_those_who_wait() {
        let mut slots = AdapterSlots::new(1, 2.0);
        push(&mut slots, 1, "a");
        slots.assign(10.0, |adapter| usize::from(adapter == "a"));
        assert_eq!(slots.take_ready(12.0).unwrap().request.id, 1);
        push(&mut slots, 2, "b");
        push(&mut slots, 3, "c");
        slots.assign(13.0, |_| 1);
        assert_eq!(slots.next_ready(), None, "the only slot is in use");
        let rest = |adapter: &str| usize::from(adapter != "a");
        slots.assign(20.0, rest);
        assert_eq!(slots.take_ready(99.0).unwrap().request.id, 2);
        assert!(slots.take_ready(99.0).is_none(), "the only slot is given");
        slots.assign(99.0, rest);
        assert_eq!(slots.next_ready(), None, "the only slot is in use");
        slots.assign(100.0, |adapter| usize::from(adapter == "c"));
        assert_eq!(slots.next_ready(), Some(102.0));
    }

    #[test]
    fn the_newest_line_is_the_one_with_the_latest_time() {
        let mut slots = AdapterSlots::new(1, 0.0);
        slots.note("a".to_owned(), 1.0);
        slots.note(String::new(), 2.0);
        slots.note("a".to_owned(), 3.0);
        let line = |adapters: &str, at| AdapterLine { adapters: adapters.to_owned(), at };
        assert_eq!(slots.lines(), [line("a", 3.0), line("", 2.0)]);
    }
}
