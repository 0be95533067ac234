//! Values in shared data.

use warmpath::account::ledger::Ledger;
use warmpath::account::pod_health::Observed;
use warmpath::collector::Collector;
use warmpath::prefix::log::{LogRecord, unseal};
use warmpath::request::body::Api;
use warmpath::request::parse;
use warmpath::router::{End, RouteBy, Router};
use warmpath::shared::codec::Reader;
use warmpath::shared::lease;
use warmpath::shared::membership::{PodList, announce, announced};
use warmpath::shared::pod_table::{MAX_PODS, PodKey, PodTable};
use warmpath::shared::store::{Keys, Map, SharedData};
use warmpath::{Bytes, Micros, ModelId, SECOND, Slot, Tokens};

use crate::pool::{NOW, config_of, publish};

/// A value in shared data; the first byte chooses which. It may be of another version of Warmpath, or
/// garbage.
pub fn shared(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let config = config_of(3);
    let keys = Keys::of(&config.pool, config.index.log_segments);
    let mut map = Map::default();
    publish(&config, &mut map);
    let key = match which % 5 {
        0 => &keys.table,
        1 => &keys.ledger,
        2 => &keys.lease,
        3 => &keys.pods,
        _ => &keys.segment(u64::from(which) / 5 % 2),
    };
    map.set(key, bytes, None).unwrap();

    if let Ok(table) = PodTable::decode(bytes) {
        assert!(table.pods.len() <= MAX_PODS);
        assert_eq!(PodTable::decode(&table.encode()), Ok(table));
    }
    if let Ok(mut ledger) = Ledger::decode(bytes.to_vec()) {
        let slots = ledger.slots();
        ledger.totals();
        ledger.grow(slots.saturating_add(2).min(usize::from(u16::MAX)));
        for slot in Slot::all().take(4) {
            let id = ledger.account(slot).id;
            ledger.change(PodKey { slot, id }, |account| {
                account.open(Tokens(u32::MAX), NOW);
                account.start(Tokens(5), Observed { sent_at: Micros(7), at: Micros(9) });
                account.health.failed(Observed { sent_at: NOW, at: NOW });
                account.close(Some(Tokens(7)));
                account.reconcile(3, 2);
            });
        }
        ledger.count_routed();
        ledger.learn_mean_work(Tokens(9));
        assert!(ledger.mean_work().is_finite());
        ledger.learn_bytes_per_token(ModelId(3), Bytes(4000), Tokens(1000));
        assert!(ledger.bytes_per_token(ModelId(3)) > 0.0);
        ledger.append(&LogRecord {
            writer: 1,
            pod: PodKey { slot: Slot(2), id: 3 },
            correction: None,
            hashes: &[0; 64],
        });
        assert_eq!(Ledger::decode(ledger.as_ref().to_vec()).unwrap().as_ref(), ledger.as_ref());
    }
    if let Ok((_, records)) = unseal(bytes) {
        let mut reader = Reader(records);
        while let Ok(record) = LogRecord::decode(&mut reader) {
            let mut out = Vec::new();
            record.encode(&mut out);
            assert_eq!(out.len(), record.size());
            assert_eq!(LogRecord::decode(&mut Reader(&out)), Ok(record));
        }
    }
    let [one, two] = [1, 2].map(|id| lease::Holder { id, since: NOW });
    let mine = lease::take(&keys.lease, one, &mut map, NOW);
    assert!(!mine || !lease::take(&keys.lease, two, &mut map, NOW), "two hold the lease");
    // With any value, the list that holds afterwards is at least as new as the announced one.
    let list = PodList { revision: u64::from(which), pods: vec!["10.0.0.1:1".to_owned()] };
    let said = announce(&keys.pods, &list, &mut map);
    let (holding, _) = announced(&keys.pods, &map).unwrap();
    assert!(if said.is_ok() { holding == list } else { holding.revision > list.revision });

    // Both roles continue with any value.
    let mut router = Router::new(&config, 7);
    let readable = router.refresh(&map);
    router.follow(&map, 4);
    let request =
        parse(Api::Completions, br#"{"model":"m","prompt":"Once upon a time, and so on and on"}"#).unwrap();
    for by in [RouteBy::Prompt(&request.into()), RouteBy::Load] {
        if let Ok(mut decision) = router.decide(by, &mut map, NOW) {
            router.start(&mut decision.ticket, &mut map, NOW).unwrap();
            router.failed_over(&mut decision.ticket, 1, Some(Slot(2)), &mut map, NOW).unwrap();
            router.unanswered(&decision.ticket, 2, &mut map, NOW).unwrap();
            router.close(decision.ticket, End::Aborted, &mut map).unwrap();
        }
    }
    assert!(readable.is_err() || router.refresh(&map).is_ok());
    let mut collector = Collector::new(&config, &map, 1, NOW);
    for due in collector.due(&map, NOW + SECOND) {
        let page =
            b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nprocess_start_time_seconds 5\n";
        collector.take(&due, page, &mut map, NOW + SECOND);
        collector.done(&due, None, NOW + SECOND);
    }
    collector.ledger(&map).totals();
    collector.publish(&mut map, NOW + 5 * SECOND);
    // The collector has replaced it with a readable table.
    assert!(router.refresh(&map).is_ok());
}
