//! The document that the console shows: how the pods are, how long first tokens take, and the last decisions.

use crate::Micros;
use crate::account::ledger::Ledger;
use crate::account::pod_account::PodAccount;
use crate::monitor::json_text::JsonText;
use crate::monitor::pod_status::PodStatus;
use crate::shared::pod_table::{Pod, PodTable};

/// What the console is told besides what is shared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// First tokens of routed requests whose pod was believed to hold most of the prompt: how many, and
    /// microseconds in all.
    pub hit: [u64; 2],
    /// Those of other routed requests.
    pub miss: [u64; 2],
    /// Those of samples of plain routing.
    pub plain: [u64; 2],
    /// Prompt tokens that answers reported, those of them from the cache, and those believed to be there.
    pub reported: [u64; 3],
}

/// What is shared.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The pods.
    pub table: &'a PodTable,
    /// Their accounts.
    pub ledger: &'a Ledger,
    /// Tokens that each is believed to hold, by slot.
    pub held: &'a [u32],
    /// The last decisions, as values of a JSON list.
    pub decisions: &'a str,
}

/// Writes the document.
pub fn write(pool: &str, version: &str, shown: Shown<'_>, totals: Totals, now: Micros) -> String {
    let mut json = JsonText::default();
    json.open('{');
    json.key("now");
    json.number(now.0);
    json.key("pool");
    json.text(pool.as_bytes());
    json.key("version");
    json.text(version.as_bytes());
    json.key("ttft");
    json.open('{');
    for (key, pair) in [("hit", totals.hit), ("miss", totals.miss), ("plain", totals.plain)] {
        json.key(key);
        json.open('[');
        pair.into_iter().for_each(|number| json.number(number));
        json.close(']');
    }
    json.close('}');
    json.key("reported");
    json.open('{');
    for (key, number) in ["prompt", "cached", "believed"].into_iter().zip(totals.reported) {
        json.key(key);
        json.number(number);
    }
    json.close('}');
    json.key("pods");
    json.open('[');
    for (slot, pod) in shown.table.live() {
        let account = PodAccount::of(pod, shown.ledger.account(slot));
        let held = shown.held.get(usize::from(slot)).copied().unwrap_or(0);
        write_pod(&mut json, pod, &account, held, now);
    }
    json.close(']');
    json.key("decisions");
    json.open('[');
    json.raw(shown.decisions);
    json.close(']');
    json.close('}');
    json.into_text()
}

fn write_pod(json: &mut JsonText, pod: &Pod, account: &PodAccount, held: u32, now: Micros) {
    json.open('{');
    json.key("pod");
    json.text(pod.name().as_bytes());
    json.key("status");
    json.text(PodStatus::of(pod, account, now).as_str().as_bytes());
    for (key, number) in [
        ("in_flight", account.in_flight.into()),
        ("waiting", account.waiting.into()),
        ("outstanding", account.outstanding.0.into()),
        ("rate", account.rate as u64),
        ("queue", pod.waiting as u64),
        ("kv", (pod.kv_usage * 1e6) as u64),
        ("capacity", pod.capacity),
        ("held", held.into()),
        ("requests", account.opened.into()),
        ("first_tokens", account.first_tokens.into()),
        ("first_token_ms", account.first_token_ms.into()),
        ("failed", account.failed.into()),
        ("errors", account.erred.into()),
    ] {
        json.key(key);
        json.number(number);
    }
    json.key("age");
    match pod.scraped_at {
        Micros::ZERO => json.null(),
        at => json.number(now.since(at).0),
    }
    json.close('}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SECOND;
    use crate::shared::pod_table::PodState;

    #[test]
    fn the_document_tells_of_each_pod_and_each_decision() {
        let pod = |id, address: &str, scraped_at| Pod {
            id,
            first_id: id,
            address: address.into(),
            state: PodState::Ready,
            scraped_at,
            kv_usage: 0.5,
            ..Pod::default()
        };
        let pods = vec![pod(1, "a:1", SECOND), Pod::default(), pod(2, "[::1]:2", Micros::ZERO)];
        let table = PodTable { pods, ..PodTable::default() };
        let shown = Shown {
            table: &table,
            ledger: &Ledger::default(),
            held: &[7],
            decisions: "{\"id\":1},{\"id\":2}",
        };
        let totals = Totals { hit: [2, 9], ..Totals::default() };
        let text = write("p", "1.0", shown, totals, 3 * SECOND);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["pods"].as_array().unwrap().len(), 2);
        let first = &document["pods"][0];
        assert_eq!(
            (&first["pod"], &first["held"], &first["kv"]),
            (&"a:1".into(), &7.into(), &500_000.into())
        );
        assert_eq!((&first["age"], &first["status"]), (&2_000_000.into(), &"ready".into()));
        assert!(document["pods"][1]["age"].is_null());
        assert_eq!(
            (&document["ttft"]["hit"][1], document["decisions"].as_array().unwrap().len()),
            (&9.into(), 2)
        );
        let shown = Shown { decisions: "", ..shown };
        let empty: serde_json::Value = serde_json::from_str(&write("p", "1", shown, totals, SECOND)).unwrap();
        assert_eq!(empty["decisions"], serde_json::json!([]));
    }
}
