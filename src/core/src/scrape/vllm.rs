//! vLLM's metrics, by name: from a page of Prometheus text to the load of a pod.
//!
//! A pod may run several engines (data parallel ranks), each with samples of its own: requests add up, and so do cache
//! blocks; the share of the cache in use is the mean.

use crate::scrape::exposition::{Sample, samples};

/// What a metrics page says of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PodLoad {
    /// Requests in the running batch (`vllm:num_requests_running`).
    pub running: f32,
    /// Requests in the queue (`vllm:num_requests_waiting`).
    pub waiting: f32,
    /// Share of KV cache blocks that running requests use, 0 to 1 (`vllm:kv_cache_usage_perc`, once
    /// `vllm:gpu_cache_usage_perc`).
    pub kv_usage: f32,
    /// Tokens the KV cache can hold (`vllm:cache_config_info`); 0 when prefix caching is off, `None` when the page does not
    /// say.
    pub capacity: Option<u64>,
    /// Start of the process in seconds since the epoch; another value is a restart.
    pub started: Option<f64>,
}

/// A page without `vllm:num_requests_running` or `vllm:num_requests_waiting`: not vLLM, or not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotVllm;

/// Reads a metrics page.
///
/// # Errors
/// [`NotVllm`] when the page lacks the request counts.
pub fn load(page: &[u8]) -> Result<PodLoad, NotVllm> {
    let mut load = PodLoad::default();
    let (mut running, mut waiting) = (Sum::default(), Sum::default());
    let (mut kv, mut gpu) = (Sum::default(), Sum::default());
    samples(page, wanted, |sample| match sample.name {
        b"vllm:num_requests_running" => running.add(sample.value),
        b"vllm:num_requests_waiting" => waiting.add(sample.value),
        b"vllm:kv_cache_usage_perc" => kv.add(sample.value),
        b"vllm:gpu_cache_usage_perc" => gpu.add(sample.value),
        b"vllm:cache_config_info" => {
            if let Some(tokens) = capacity(&sample) {
                load.capacity = Some(load.capacity.unwrap_or(0).saturating_add(tokens));
            }
        }
        b"process_start_time_seconds" if sample.value.is_finite() => load.started = Some(sample.value),
        _ => {}
    });
    if running.count == 0 || waiting.count == 0 {
        return Err(NotVllm);
    }
    load.running = running.total as f32;
    load.waiting = waiting.total as f32;
    load.kv_usage = if kv.count > 0 { kv.mean() } else { gpu.mean() }.clamp(0.0, 1.0);
    Ok(load)
}

/// Whether a line may be one of those that count.
fn wanted(line: &[u8]) -> bool {
    match line.strip_prefix(b"vllm:") {
        Some(name) => {
            [&b"num_requests_"[..], b"kv_cache_usage_perc", b"gpu_cache_usage_perc", b"cache_config_info"]
                .iter()
                .any(|start| name.starts_with(start))
        }
        None => line.starts_with(b"process_start_time_seconds"),
    }
}

fn capacity(info: &Sample<'_>) -> Option<u64> {
    let number = |name| std::str::from_utf8(info.label(name)?).ok()?.parse::<u64>().ok();
    if info.label("enable_prefix_caching") == Some(b"False") {
        return Some(0);
    }
    number("num_gpu_blocks")?.checked_mul(number("block_size")?)
}

/// Most requests, or blocks, that a sample is believed to count: sums of such numbers stay finite.
const PLAUSIBLE: f64 = 1e9;

/// A sum over engines; what cannot be is left out.
#[derive(Default)]
struct Sum {
    total: f64,
    count: u32,
}

impl Sum {
    fn add(&mut self, value: f64) {
        if (0.0..=PLAUSIBLE).contains(&value) {
            self.total += value;
            self.count += 1;
        }
    }

    fn mean(&self) -> f32 {
        (self.total / f64::from(self.count.max(1))) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: &[u8] = include_bytes!("../../../../tests/fixtures/vllm-0.32/metrics-idle.txt");
    const LOADED: &[u8] = include_bytes!("../../../../tests/fixtures/vllm-0.32/metrics-loaded.txt");

    #[test]
    fn recorded_pages_are_read() {
        assert_eq!(
            load(LOADED),
            Ok(PodLoad {
                running: 6.0,
                waiting: 34.0,
                kv_usage: 0.096_774_19,
                capacity: Some(131_072),
                started: Some(1.795_224_676_21e9),
            })
        );
        assert_eq!(load(IDLE).map(|l| (l.running, l.waiting)), Ok((0.0, 0.0)));
    }

    #[test]
    fn engines_add_up() {
        let page = b"vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3\n\
            vllm:num_requests_waiting{engine=\"0\"} 1\nvllm:num_requests_waiting{engine=\"1\"} 0\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"50\"} 1\n";
        let load = load(page).unwrap();
        assert_eq!((load.running, load.waiting, load.capacity), (5.0, 1.0, Some(2400)));
        assert!((load.kv_usage - 0.3).abs() < 1e-6);
    }

    #[test]
    fn older_names_and_odd_values_are_understood() {
        let page =
            b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.5\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n";
        assert_eq!(load(page).unwrap().kv_usage, 0.5);
        assert_eq!(load(page).unwrap().capacity, None);
        let off = b"vllm:num_requests_running 1\nvllm:num_requests_waiting NaN\nvllm:num_requests_waiting 2\n\
            vllm:cache_config_info{enable_prefix_caching=\"False\",block_size=\"16\",num_gpu_blocks=\"9\"} 1\n";
        assert_eq!(load(off).unwrap().waiting, 2.0);
        assert_eq!(load(off).unwrap().capacity, Some(0));
    }

    #[test]
    fn another_page_is_not_a_load() {
        assert_eq!(load(b"<html>not found</html>"), Err(NotVllm));
        assert_eq!(load(b""), Err(NotVllm));
        assert_eq!(load(b"vllm:num_requests_running 1\n"), Err(NotVllm));
    }
}
