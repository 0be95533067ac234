//! What the metrics page of a pod says of its LoRA adapters: which have requests.

use crate::ModelId;
use crate::scrape::exposition::Sample;

/// The comment that stands on the page of a pod with LoRA, before any request for an adapter too.
pub const ANNOUNCED: &[u8] = b"# TYPE vllm:lora_requests_info";
/// Most adapters that have requests at a time.
const MOST_ACTIVE: usize = 64;

/// What a metrics page says of adapters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageAdapters {
    /// Whether the pod has LoRA at all.
    pub on: bool,
    /// Adapters that one batch can have (`max_lora`); 0 when the page does not say.
    pub slots: u16,
    /// Adapters with requests that run or wait, in order.
    pub active: Vec<ModelId>,
    /// When that was so, by the pod's clock.
    at: f64,
}

impl PageAdapters {
    /// Takes in a sample of `vllm:lora_requests_info`: its labels were true at the time that is its value.
    /// vLLM never takes one back, so the newest counts. With several API processes, times are sums over them,
    /// and the newest is still the largest.
    pub fn add(&mut self, sample: &Sample<'_>) {
        self.on = true;
        if !(sample.value.is_finite() && sample.value > self.at) {
            return;
        }
        self.at = sample.value;
        let slots = sample.label("max_lora").and_then(|label| std::str::from_utf8(label).ok()?.parse().ok());
        self.slots = slots.unwrap_or(0);
        let names = ["running_lora_adapters", "waiting_lora_adapters"];
        let names = names.iter().filter_map(|name| sample.label(name));
        let names = names.flat_map(|list| list.split(|&b| b == b',')).map(<[u8]>::trim_ascii);
        self.active = in_order(names.filter(|name| !name.is_empty()).take(MOST_ACTIVE));
    }
}

/// The adapters of these names, each once.
fn in_order<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<ModelId> {
    let mut adapters = Vec::new();
    names.map(ModelId::of).for_each(|adapter| insert(&mut adapters, adapter));
    adapters
}

/// Puts an adapter into a list in order, once.
pub(super) fn insert(adapters: &mut Vec<ModelId>, adapter: ModelId) {
    if let Err(at) = adapters.binary_search(&adapter) {
        adapters.insert(at, adapter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::vllm::Page;

    fn ids(names: &[&str]) -> Vec<ModelId> {
        let mut ids: Vec<ModelId> = names.iter().map(|name| ModelId::of(name.as_bytes())).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_newest_line_of_a_recorded_page_counts() {
        let recorded = [
            (&include_bytes!("../../../../tests/fixtures/vllm-0.32-modes/lora.txt")[..], &["a"][..]),
            (
                include_bytes!("../../../../tests/fixtures/vllm-0.32-modes/lora-api-servers-2.txt"),
                &["a", "b"],
            ),
        ];
        for (page, last) in recorded {
            let page = String::from_utf8_lossy(page);
            let now = Page::parse(page.as_bytes()).unwrap().adapters;
            // The last one of the recording says that all requests have ended.
            assert_eq!((now.on, now.slots, now.active), (true, 2, vec![]));
            let idle = page.lines().find(|line| line.contains("running_lora_adapters=\"\"")).unwrap();
            let before = Page::parse(page.replace(idle, "").as_bytes()).unwrap().adapters;
            assert_eq!(before.active, ids(last));
        }
    }

    #[test]
    fn a_page_without_a_request_for_an_adapter_tells_that_there_may_be_one() {
        let page = b"# TYPE vllm:num_requests_running gauge\n# TYPE vllm:lora_requests_info gauge\n";
        assert_eq!(Page::parse(page).unwrap().adapters, PageAdapters { on: true, ..PageAdapters::default() });
        let plain = include_bytes!("../../../../tests/fixtures/vllm-0.32/metrics-loaded.txt");
        assert_eq!(Page::parse(plain).unwrap().adapters, PageAdapters::default());
    }

    #[test]
    fn those_that_wait_are_active_too_and_names_keep_their_spelling() {
        let page = b"vllm:num_requests_running 1\nvllm:lora_requests_info{max_lora=\"x\",running_lora_adapters=\"a, b\\\"c\",waiting_lora_adapters=\"d\"} 5\n";
        let found = Page::parse(page).unwrap().adapters;
        assert_eq!((found.slots, found.active), (0, ids(&["a", "b\\\"c", "d"])));
    }
}
