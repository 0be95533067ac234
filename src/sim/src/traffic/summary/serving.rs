//! The "Serving Benchmark Result" of vLLM's benchmark_serving.py.

use crate::traffic::{Times, TrafficRun};

/// Its lines.
pub fn serving(record: &TrafficRun) -> Vec<String> {
    let seconds = record.seconds.max(f64::MIN_POSITIVE);
    let input: u64 = record.requests.iter().map(|request| request.prompt_tokens).sum();
    let output: u64 = record.requests.iter().map(|request| request.output_tokens).sum();
    let count = |label: &str, value: u64| format!("{label:<40} {value:<10}");
    let number = |label: &str, value: f64| format!("{label:<40} {value:<10.2}");
    let mut lines = vec![
        format!("{:=^50}", " Serving Benchmark Result "),
        count("Successful requests:", record.requests.len() as u64),
        number("Benchmark duration (s):", record.seconds),
        count("Total input tokens:", input),
        count("Total generated tokens:", output),
        number("Request throughput (req/s):", record.requests.len() as f64 / seconds),
        number("Output token throughput (tok/s):", output as f64 / seconds),
        number("Total Token throughput (tok/s):", (input + output) as f64 / seconds),
    ];
    for (title, name, times) in [
        ("Time to First Token", "TTFT", &record.ttft),
        ("Time per Output Token (excl. 1st token)", "TPOT", &record.tpot),
        ("Inter-token Latency", "ITL", &record.itl),
    ] {
        let Times { mean, p50, p99, .. } = times;
        lines.push(format!("{title:-^50}"));
        lines.push(number(&format!("Mean {name} (ms):"), mean * 1e3));
        lines.push(number(&format!("Median {name} (ms):"), p50 * 1e3));
        lines.push(number(&format!("P99 {name} (ms):"), p99 * 1e3));
    }
    lines.push("=".repeat(50));
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::traffic::{Named, RequestLine};
    use crate::workload::RequestClass;
    use std::collections::BTreeMap;

    /// Two requests in ten seconds.
    pub(crate) fn record() -> TrafficRun {
        let request = |ttft: f64, latency: f64, output_tokens| RequestLine {
            launched: 0.0,
            ttft,
            latency,
            prompt_tokens: 300,
            cached_tokens: None,
            output_tokens,
            user: 1,
            round: 1,
            class: RequestClass::default(),
        };
        TrafficRun {
            label: "a".to_owned(),
            workload: Named::Random,
            url: "http://a".to_owned(),
            speed_up: 1.0,
            seed: 0,
            summary: Vec::new(),
            seconds: 10.0,
            ttft: Times::of(vec![0.5, 1.0]),
            ttft_of_the_few: None,
            tpot: Times::of(vec![0.1, 0.2]),
            itl: Times::of(vec![0.1, 0.2, 0.3]),
            latency: Times::of(vec![2.5, 3.0]),
            hit_rate: None,
            ttft_in_pods: None,
            evenness: None,
            errors: BTreeMap::new(),
            first_error: None,
            requests: vec![request(0.5, 2.5, 21), request(1.0, 1.25, 1)],
            pods: Vec::new(),
            samples: Vec::new(),
        }
    }

    #[test]
    fn it_is_what_vllm_prints() {
        let expected = "\
============ Serving Benchmark Result ============
Successful requests:                     2
Benchmark duration (s):                  10.00
Total input tokens:                      600
Total generated tokens:                  22
Request throughput (req/s):              0.20
Output token throughput (tok/s):         2.20
Total Token throughput (tok/s):          62.20
---------------Time to First Token----------------
Mean TTFT (ms):                          750.00
Median TTFT (ms):                        750.00
P99 TTFT (ms):                           995.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          150.00
Median TPOT (ms):                        150.00
P99 TPOT (ms):                           199.00
---------------Inter-token Latency----------------
Mean ITL (ms):                           200.00
Median ITL (ms):                         200.00
P99 ITL (ms):                            298.00
==================================================";
        assert_eq!(serving(&record()).join("\n"), expected);
    }
}
