//! The "Performance summary" of multi-round-qa.py, without its colours.

use crate::traffic::TrafficRun;
use crate::traffic::stats::mean;

/// Its lines. `qps` is what was asked for; `began_unix` is when the first question was due, in Unix seconds.
pub fn multi_round_qa(record: &TrafficRun, qps: f64, began_unix: f64) -> Vec<String> {
    let seconds = record.seconds.max(f64::MIN_POSITIVE);
    let requests = &record.requests;
    let input: u64 = requests.iter().map(|request| request.prompt_tokens).sum();
    let output: u64 = requests.iter().map(|request| request.output_tokens).sum();
    let speeds: Vec<f64> = requests
        .iter()
        .map(|request| (request.output_tokens as f64, request.latency - request.ttft))
        .filter(|&(_, seconds)| seconds > 0.0)
        .map(|(tokens, seconds)| tokens / seconds)
        .collect();
    let ended_unix = began_unix + record.seconds;
    // Every request has ended when a run is over: none is on the fly.
    vec![
        "==================== Performance summary ======================".to_owned(),
        format!("  QPS: {qps:.4} reqs/s"),
        format!("  Processing speed: {:.4} reqs/s", requests.len() as f64 / seconds),
        "  Requests on-the-fly: 0".to_owned(),
        format!("  Input tokens per second: {:.4} tokens/s", input as f64 / seconds),
        format!("  Output tokens per second: {:.4} tokens/s", output as f64 / seconds),
        format!("  Average generation throughput (per request): {:.4} tokens/req/s", mean(&speeds)),
        format!("  Average TTFT: {:.4}s", record.ttft.mean),
        format!("Time range: {began_unix:.7} - {ended_unix:.7} ({:.2}s)", record.seconds),
        "===============================================================".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::summary::serving::tests::record;

    /// The reference's "Expected output", as its page has it: the lines are joined by spaces there.
    const REFERENCE: &str = "==================== Performance summary ====================== QPS: 0.1000 reqs/s \
        Processing speed: 0.1080 reqs/s Requests on-the-fly: 0 Input tokens per second: 259.0703 tokens/s Output tokens \
        per second: 4.8576 tokens/s Average generation throughput (per request): 26.6710 tokens/req/s Average TTFT: \
        0.3669s Time range: 1748231183.2753935 - 1748231766.4799275 (583.20s) \
        ===============================================================";

    /// The text with every number shown by its form: `0.1080` is `0.0000`.
    fn form(text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut out = String::new();
        let mut decimals = false;
        for c in words.join(" ").chars() {
            // Before the point, a number has as many digits as it needs.
            if c.is_ascii_digit() && (decimals || !out.ends_with('0')) {
                out.push('0');
            } else if !c.is_ascii_digit() {
                decimals = c == '.';
                out.push(c);
            }
        }
        out
    }

    #[test]
    fn it_has_the_references_labels_order_and_formats() {
        let lines = multi_round_qa(&record(), 0.1, 1_748_231_183.275_393_5);
        assert_eq!(form(&lines.join("\n")), form(REFERENCE));
        // One thing a line, as the original prints it.
        assert_eq!(lines[1], "  QPS: 0.1000 reqs/s");
        assert_eq!(lines.len(), 10);
    }

    #[test]
    fn its_numbers_are_those_of_the_run() {
        let lines = multi_round_qa(&record(), 0.1, 0.0);
        assert_eq!(lines[2], "  Processing speed: 0.2000 reqs/s");
        assert_eq!(lines[4], "  Input tokens per second: 60.0000 tokens/s");
        assert_eq!(lines[5], "  Output tokens per second: 2.2000 tokens/s");
        assert_eq!(lines[6], "  Average generation throughput (per request): 7.2500 tokens/req/s");
        assert_eq!(lines[7], "  Average TTFT: 0.7500s");
        assert!(lines[8].ends_with("(10.00s)"));
    }
}
