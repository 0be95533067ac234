//! The part of a metrics page that tells of single pods. It is written from the present table, so a pod that
//! is gone leaves no series behind.

use std::borrow::Cow;

use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::monitor::page::Page;
use crate::monitor::pod_status::PodStatus;
use crate::shared::pod_table::{Pod, PodTable};
use crate::{Micros, Slot};

/// What is known of a pod.
struct Known<'a> {
    pod: &'a Pod,
    name: Cow<'a, str>,
    account: PodAccount,
    /// Tokens of prompts that it is believed to hold.
    held: u32,
    now: Micros,
}

/// One family: its name, its kind, its text for `HELP`, and the number of a pod.
struct Family(&'static str, &'static str, &'static str, fn(&Known<'_>) -> Number);

/// The number of a pod.
enum Number {
    Whole(u64),
    Millionths(u64),
    /// Not known: the pod has no sample.
    None,
}

/// The families with one sample per pod.
const FAMILIES: [Family; 16] = [
    Family(
        "warmpath_pod_requests_total",
        "counter",
        "Requests that were sent to the pod, by its present process.",
        |of| Number::Whole(of.account.opened.into()),
    ),
    Family(
        "warmpath_pod_failed_total",
        "counter",
        "Requests that the pod failed without a whole answer: it refused, reset, broke off or answered 503. Another pod answers them, if their answer had not begun.",
        |of| Number::Whole(of.account.failed.into()),
    ),
    Family(
        "warmpath_pod_errors_total",
        "counter",
        "Requests that the pod answered with an error of its own: status 500, 502 or 504, or a stream without a token.",
        |of| Number::Whole(of.account.erred.into()),
    ),
    Family(
        "warmpath_pod_first_tokens_total",
        "counter",
        "Streams whose first token has come from the pod, by its present process.",
        |of| Number::Whole(of.account.first_tokens.into()),
    ),
    Family(
        "warmpath_pod_first_token_seconds_total",
        "counter",
        "Time that clients waited for those first tokens, all together.",
        |of| Number::Millionths(u64::from(of.account.first_token_ms) * 1000),
    ),
    Family(
        "warmpath_pod_in_flight",
        "gauge",
        "Requests of this Envoy that the pod has and that have not ended.",
        |of| Number::Whole(of.account.in_flight.into()),
    ),
    Family(
        "warmpath_pod_waiting",
        "gauge",
        "Requests of this Envoy that wait on the pod for their first token.",
        |of| Number::Whole(of.account.waiting.into()),
    ),
    Family(
        "warmpath_pod_outstanding_tokens",
        "gauge",
        "Prompt tokens of the waiting requests that the pod has still to compute, as estimated.",
        |of| Number::Whole(of.account.outstanding.0.into()),
    ),
    Family(
        "warmpath_pod_prefill_tokens_per_second",
        "gauge",
        "Speed at which the pod computes prompts, as learned from its first tokens; 0 until it is known.",
        |of| Number::Whole(of.account.rate as u64),
    ),
    Family(
        "warmpath_pod_engine_running",
        "gauge",
        "Requests in the pod's batch, from all gateways, as its metrics page says.",
        |of| Number::Whole(of.pod.running as u64),
    ),
    Family(
        "warmpath_pod_engine_waiting",
        "gauge",
        "Requests in the pod's queue, from all gateways, as its metrics page says.",
        |of| Number::Whole(of.pod.waiting as u64),
    ),
    Family(
        "warmpath_pod_kv_usage_ratio",
        "gauge",
        "Share of the pod's KV cache that running requests use, 0 to 1, as its metrics page says.",
        |of| Number::Millionths((of.pod.kv_usage * 1e6) as u64),
    ),
    Family(
        "warmpath_pod_kv_capacity_tokens",
        "gauge",
        "Tokens that fit into the pod's KV cache; 0 when it caches no prefixes.",
        |of| Number::Whole(of.pod.capacity),
    ),
    Family(
        "warmpath_pod_page_age_seconds",
        "gauge",
        "Time since the pod's metrics page was last read.",
        |of| match of.pod.scraped_at {
            Micros::ZERO => Number::None,
            at => Number::Millionths(of.now.since(at).0),
        },
    ),
    Family(
        "warmpath_pod_probes",
        "gauge",
        "Requests under way that find out whether the pod serves again after a failure.",
        |of| Number::Whole(of.account.health.probes.into()),
    ),
    Family(
        "warmpath_pod_held_tokens",
        "gauge",
        "Tokens of prompts that the pod is believed to hold in its KV cache.",
        |of| Number::Whole(of.held.into()),
    ),
];

/// Why a pod cools down, as a label, and whether that is for errors of its own.
const COOL_DOWNS: [(&str, bool); 2] = [("errors", true), ("failures", false)];

/// Writes what is known of each pod. `held` has the tokens of prompts that each pod is believed to hold, by
/// slot.
pub fn write(page: &mut Page, pool: &str, table: &PodTable, ledger: &Ledger, held: &[u32], now: Micros) {
    let known = |(slot, pod): (Slot, _)| Known {
        pod,
        name: Pod::name(pod),
        account: PodAccount::of(pod, ledger.account(slot)),
        held: held.get(usize::from(slot)).copied().unwrap_or(0),
        now,
    };
    let pods: Vec<Known<'_>> = table.live().map(known).collect();
    if pods.is_empty() {
        return;
    }
    for Family(name, kind, help, number) in &FAMILIES {
        page.family(name, kind, help);
        for of in &pods {
            let labels = [("pod", &*of.name), ("pool", pool)];
            match number(of) {
                Number::Whole(value) => page.sample(name, &labels, value),
                Number::Millionths(value) => page.sample_in_millionths(name, &labels, value),
                Number::None => {}
            }
        }
    }
    const STATUS: &str = "warmpath_pod_status";
    page.family(STATUS, "gauge", "1 for what the pod is: asleep, hanging, loading (never ready so far), erring, cooling_down, probing, unreachable (was ready, and its port does not answer), full, unreadable or ready; 0 for the others.");
    for Known { pod, name, account, .. } in &pods {
        let now_is = PodStatus::of(pod, account, now);
        for status in PodStatus::ALL {
            let labels = [("pod", &**name), ("status", status.as_str()), ("pool", pool)];
            page.sample(STATUS, &labels, u64::from(status == now_is));
        }
    }
    const COOLING: &str = "warmpath_pod_cooling_down";
    page.family(
        COOLING,
        "gauge",
        "1 while the pod is left alone: after errors of its own, or after failures without an answer.",
    );
    for Known { pod, name, account, .. } in &pods {
        let cools = account.health.cooling_down(now, pod.recovered_at);
        let errs = account.health.errors > 0;
        for (reason, by_errors) in COOL_DOWNS {
            let labels = [("pod", &**name), ("reason", reason), ("pool", pool)];
            page.sample(COOLING, &labels, u64::from(cools && errs == by_errors));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::pod_health::Observed;
    use crate::shared::pod_table::PodState;
    use crate::{SECOND, Tokens};

    fn pod(id: u32, address: &str) -> Pod {
        Pod {
            id,
            first_id: id,
            address: address.into(),
            state: PodState::Ready,
            scraped_at: SECOND,
            kv_usage: 0.25,
            ..Pod::default()
        }
    }

    fn page(table: &PodTable, ledger: &Ledger) -> String {
        let mut page = Page::default();
        write(&mut page, "p", table, ledger, &[0, 0, 640], 3 * SECOND);
        page.into_text()
    }

    #[test]
    fn each_pod_of_the_table_has_its_numbers_and_no_other_has() {
        let table = PodTable {
            pods: vec![pod(1, "10.0.0.1:8000"), Pod::default(), pod(3, "[::1]:8000")],
            ..PodTable::default()
        };
        let mut ledger = Ledger::default();
        ledger.grow(3);
        let mut account = PodAccount::new(1);
        let _ = account.open(Tokens(100), SECOND);
        account.fail(Observed { sent_at: 3 * SECOND, at: 3 * SECOND });
        ledger.set_account(Slot(0), &account);
        // The account of a pod that was in the slot before.
        ledger.set_account(Slot(2), &PodAccount { in_flight: 9, ..PodAccount::new(2) });
        let text = page(&table, &ledger);
        for line in [
            "# TYPE warmpath_pod_requests_total counter",
            "warmpath_pod_requests_total{pod=\"10.0.0.1:8000\",pool=\"p\"} 1",
            "warmpath_pod_failed_total{pod=\"10.0.0.1:8000\",pool=\"p\"} 1",
            "warmpath_pod_outstanding_tokens{pod=\"10.0.0.1:8000\",pool=\"p\"} 100",
            "warmpath_pod_in_flight{pod=\"[::1]:8000\",pool=\"p\"} 0",
            "warmpath_pod_held_tokens{pod=\"[::1]:8000\",pool=\"p\"} 640",
            "warmpath_pod_kv_usage_ratio{pod=\"[::1]:8000\",pool=\"p\"} 0.250000",
            "warmpath_pod_page_age_seconds{pod=\"[::1]:8000\",pool=\"p\"} 2.000000",
            "warmpath_pod_status{pod=\"10.0.0.1:8000\",status=\"cooling_down\",pool=\"p\"} 1",
            "warmpath_pod_status{pod=\"10.0.0.1:8000\",status=\"ready\",pool=\"p\"} 0",
            "warmpath_pod_status{pod=\"[::1]:8000\",status=\"ready\",pool=\"p\"} 1",
            "warmpath_pod_cooling_down{pod=\"10.0.0.1:8000\",reason=\"failures\",pool=\"p\"} 1",
            "warmpath_pod_cooling_down{pod=\"10.0.0.1:8000\",reason=\"errors\",pool=\"p\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let each = FAMILIES.len() + PodStatus::ALL.len() + COOL_DOWNS.len();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 2 * each);
    }

    #[test]
    fn a_pool_without_pods_has_no_series_of_pods() {
        assert_eq!(page(&PodTable::default(), &Ledger::default()), "");
    }
}
