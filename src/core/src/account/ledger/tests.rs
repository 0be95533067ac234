use super::*;
use crate::account::cache_tally::CacheTally;
use crate::account::pod_health::PodHealth;
use crate::{Bytes, MILLISECOND, Micros, Tokens};
use proptest::prelude::*;

fn accounts() -> impl Strategy<Value = PodAccount> {
    (any::<[u32; 11]>(), 0.0f32..1e9, any::<[u16; 5]>(), any::<bool>(), any::<[u64; 5]>()).prop_map(
        |(
            [
                id,
                in_flight,
                waiting,
                outstanding,
                tried_at,
                opened,
                failed,
                erred,
                tokens,
                first_tokens,
                first_token_ms,
            ],
            rate,
            [failures, errors, probes, answers, samples],
            on_trial,
            [failed_at, cool_until, full_at, declined_at, since],
        )| PodAccount {
            id,
            in_flight,
            waiting,
            outstanding: Tokens(outstanding),
            rate,
            samples,
            on_trial,
            tried_at,
            opened,
            failed,
            erred,
            first_tokens,
            first_token_ms,
            since: Micros(since),
            cache: CacheTally { since: Micros(since), tokens: Tokens(tokens), answers },
            health: PodHealth {
                failures,
                errors,
                failed_at: Micros(failed_at),
                cool_until: Micros(cool_until),
                probes,
                full_at: Micros(full_at),
                declined_at: Micros(declined_at),
            },
        },
    )
}

fn record(hashes: &[u8]) -> LogRecord<'_> {
    LogRecord { writer: 1, pod: PodKey { slot: Slot(1), id: 1 }, correction: None, hashes }
}

proptest! {
    #[test]
    fn accounts_round_trip(list in prop::collection::vec(accounts(), 1..20), log in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut ledger = Ledger::default();
        ledger.bytes.extend_from_slice(&log);
        ledger.grow(list.len());
        for (slot, account) in list.iter().enumerate() {
            ledger.set_account(Slot(slot as u16), account);
        }
        let ledger = Ledger::decode(ledger.as_ref().to_vec()).unwrap();
        prop_assert_eq!(ledger.log().records, log);
        for (slot, account) in list.iter().enumerate() {
            prop_assert_eq!(ledger.account(Slot(slot as u16)), *account);
        }
    }

    #[test]
    fn truncations_and_bit_flips_never_panic(slots in 0usize..4, cut in 0usize..530, flip in 0usize..530, bit in 0u8..8) {
        let mut ledger = Ledger::default();
        ledger.grow(slots);
        let mut bytes = ledger.as_ref().to_vec();
        bytes.truncate(cut);
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 1 << bit;
        }
        if let Ok(mut ledger) = Ledger::decode(bytes) {
            for slot in 0..6 {
                ledger.change(PodKey { slot: Slot(slot), id: 0 }, |account| _ = account.open(Tokens(5), MILLISECOND));
                ledger.account(Slot(slot));
            }
            ledger.count_routed();
            ledger.learn_mean_work(Tokens(3));
            ledger.learn_bytes_per_token(ModelId(1), Bytes(400), Tokens(100));
            ledger.append(&record(&[0; 8]));
        }
    }
}

#[test]
fn the_layout_is_the_one_of_its_mark() {
    // Another layout needs another mark, or two versions of the module misread each other's ledgers.
    assert_eq!((head::SIZE, model::SIZE, account::SIZE), (36, 8, 108));
    assert_eq!(ACCOUNTS_AT, 164);
    let mut ledger = Ledger::default();
    ledger.grow(1);
    ledger.count_routed();
    ledger.set_account(Slot(0), &PodAccount { in_flight: 0x0102, ..PodAccount::new(7) });
    let mut expected = [0; 164 + 108];
    expected[..6].copy_from_slice(b"WPLA\x01\x00");
    expected[14] = 1;
    expected[164] = 7;
    expected[168..170].copy_from_slice(&[2, 1]);
    assert_eq!(ledger.as_ref(), expected);
}

#[test]
fn bytes_that_are_no_ledger_are_refused() {
    assert_eq!(Ledger::decode(b"WPL".to_vec()), Err(CodecError::Truncated));
    assert_eq!(
        Ledger::decode(vec![b'x'; 400]),
        Err(CodecError::Version { found: u32::from_le_bytes(*b"xxxx") })
    );
    let mut ledger = Ledger::default();
    ledger.grow(3);
    let mut bytes = ledger.as_ref().to_vec();
    bytes.pop();
    assert_eq!(Ledger::decode(bytes), Err(CodecError::Truncated));
}

#[test]
fn another_pod_in_the_slot_is_not_changed() {
    let mut ledger = Ledger::default();
    ledger.grow(1);
    ledger.set_account(Slot(0), &PodAccount { in_flight: 3, ..PodAccount::new(7) });
    ledger.change(PodKey { slot: Slot(0), id: 6 }, |account| account.close(None));
    assert_eq!(ledger.account(Slot(0)).in_flight, 3);
    ledger.change(PodKey { slot: Slot(0), id: 7 }, |account| account.close(None));
    assert_eq!(ledger.account(Slot(0)).in_flight, 2);
}

#[test]
fn an_account_past_the_end_is_not_written_into_the_log() {
    let mut ledger = Ledger::default();
    ledger.append(&record(&[7; 400]));
    let before = ledger.clone();
    ledger.set_account(Slot(0), &PodAccount::new(3));
    ledger.change(PodKey { slot: Slot(0), id: 0 }, |account| _ = account.open(Tokens(1), MILLISECOND));
    assert_eq!(ledger, before);
}

#[test]
fn a_full_segment_is_sealed_and_the_next_one_begins() {
    let mut ledger = Ledger::default();
    ledger.grow(2);
    let record = record(&[7; 400]);
    let fitting = SEGMENT_BYTES / record.size();
    (0..fitting).for_each(|_| ledger.append(&record));
    assert!(ledger.sealed().is_empty());
    ledger.append(&record);
    let [sealed] = ledger.sealed() else { panic!("one segment is sealed") };
    assert_eq!((sealed.number, sealed.records.len()), (0, fitting * record.size()));
    assert_eq!((ledger.log().number, ledger.log().records.len()), (1, record.size()));
}
