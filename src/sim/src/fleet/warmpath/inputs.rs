//! What ours reads in Envoy: its configuration, pages of metrics and requests.

use std::sync::Arc;

use warmpath::config::Config;
use warmpath::request::body::{Part, Prompt, Request};
use warmpath::settings::error::SettingError;

use crate::policy::FleetPod;
use crate::workload::{Role, Span};

/// The address of a pod by its number.
pub fn address(number: usize) -> String {
    format!("10.0.{}.{}:8000", number / 250, number % 250 + 1)
}

/// The addresses of the pods that are listed.
pub fn addresses(listed: &[bool]) -> impl Iterator<Item = String> {
    listed.iter().enumerate().filter(|(_, listed)| **listed).map(|(number, _)| address(number))
}

/// The configuration; `interval` is that of the scrapes, in milliseconds.
pub fn config(strategy: &str, interval: u64, listed: &[bool]) -> Result<Config, SettingError> {
    let pods: Vec<String> = addresses(listed).collect();
    let scrape = serde_json::json!({ "interval_ms": interval, "idle_interval_ms": interval.max(1000) });
    let json = serde_json::json!({ "pods": pods, "strategy": strategy, "scrape": scrape });
    Config::parse(json.to_string().as_bytes())
}

/// The metrics page of a pod, as far as the collector reads it; `None` when it does not answer.
pub fn page(pod: &FleetPod, now: f64) -> Option<Vec<u8>> {
    let load = pod.scrape()?;
    let (engine, counters) = (pod.engine.config(), pod.engine.counters());
    let adapters = pod.adapters.as_ref().map_or_else(String::new, |adapters| adapters.line(now));
    Some(
        format!(
            "vllm:num_requests_running{{engine=\"0\",model_name=\"m\"}} {:.1}\n\
             vllm:num_requests_waiting{{engine=\"0\",model_name=\"m\"}} {:.1}\n\
             vllm:kv_cache_usage_perc{{engine=\"0\",model_name=\"m\"}} {}\n\
             vllm:cache_config_info{{block_size=\"{}\",enable_prefix_caching=\"True\",num_gpu_blocks=\"{}\"}} 1.0\n\
             vllm:prefix_cache_queries_total{{engine=\"0\",model_name=\"m\"}} {}\n\
             vllm:prefix_cache_hits_total{{engine=\"0\",model_name=\"m\"}} {}\n\
             {adapters}process_start_time_seconds {:.2}\n",
            f64::from(load.running),
            f64::from(load.waiting),
            load.kv_usage,
            engine.block_size,
            engine.num_gpu_blocks,
            counters.prefix_queries,
            counters.prefix_hits,
            1_700_000_000.0 + pod.started_at,
        )
        .into_bytes(),
    )
}

/// The request as the body would have been read.
pub fn request<'a>(model: &'a str, spans: &[Span], texts: &'a [Arc<str>]) -> Request<'a> {
    let mut tools = None;
    let mut messages = Vec::new();
    for (span, text) in spans.iter().zip(texts) {
        let role = match span.role {
            Role::Tools => {
                tools = Some(text.as_bytes());
                continue;
            }
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        messages.push(Part::Item(role.as_bytes().into()));
        messages.push(Part::Text(text.as_bytes().into()));
    }
    Request {
        model: model.as_bytes().into(),
        model_at: 0..0,
        has_priority: false,
        cache_salt: None,
        stream: true,
        reports_usage: true,
        follows: None,
        stores: false,
        prompt: Prompt::Chat { tools, system: Vec::new(), messages },
    }
}
