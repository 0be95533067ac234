use super::*;
use crate::{MILLISECOND, SECOND};

fn config() -> Scrape {
    crate::config::Config::parse(b"{}").unwrap().scrape
}

#[test]
fn a_pod_is_due_once_an_interval() {
    let (mut schedule, config) = (Schedule::new(3), config());
    schedule.add(Slot(0), Micros::ZERO);
    schedule.note_traffic(1, Micros::ZERO);
    assert_eq!(schedule.take_due(Micros::ZERO), [Slot(0)]);
    assert!(schedule.take_due(SECOND).is_empty(), "not while it is under way");
    schedule.done(Slot(0), Some(Micros(50)), &config, Micros::ZERO, Micros::ZERO);
    assert!(schedule.take_due(87 * MILLISECOND).is_empty());
    assert_eq!(schedule.take_due(113 * MILLISECOND), [Slot(0)]);
}

#[test]
fn idle_pods_are_scraped_seldom_and_traffic_wakes_them() {
    let (mut schedule, config) = (Schedule::new(3), config());
    schedule.add(Slot(0), Micros::ZERO);
    schedule.note_traffic(1, Micros::ZERO);
    assert_eq!(schedule.interval(&config, SECOND), 100 * MILLISECOND);
    assert_eq!(schedule.interval(&config, 4 * SECOND), SECOND);
    schedule.take_due(4 * SECOND);
    schedule.done(Slot(0), None, &config, Micros::ZERO, 4 * SECOND);
    assert!(schedule.take_due(4 * SECOND + 500 * MILLISECOND).is_empty());
    schedule.note_traffic(2, 4 * SECOND + 500 * MILLISECOND);
    assert_eq!(schedule.take_due(4 * SECOND + 500 * MILLISECOND), [Slot(0)]);
}

#[test]
fn a_pod_that_gets_no_requests_is_scraped_seldom_until_it_is_hastened() {
    let (mut schedule, config) = (Schedule::new(3), config());
    schedule.add(Slot(0), Micros::ZERO);
    schedule.note_traffic(1, Micros::ZERO);
    schedule.take_due(Micros::ZERO);
    schedule.hasten(Slot(0), Micros::ZERO);
    assert!(schedule.take_due(SECOND).is_empty(), "not while it is under way");
    schedule.done(Slot(0), None, &config, SECOND, Micros::ZERO);
    assert!(schedule.take_due(800 * MILLISECOND).is_empty());
    schedule.hasten(Slot(0), 800 * MILLISECOND);
    assert_eq!(schedule.take_due(800 * MILLISECOND), [Slot(0)]);
}

#[test]
fn a_large_fleet_stretches_the_interval_to_five_percent() {
    let (mut schedule, config) = (Schedule::new(3), config());
    (0..100).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
    schedule.note_traffic(1, Micros::ZERO);
    let interval = schedule.interval(&config, Micros::ZERO);
    assert_eq!(interval, Micros((100.0 * (FIRST_PAGE_COST + HOST_COST) / THREAD_SHARE) as u64));
    assert!(schedule.take_due(Micros::ZERO).len() == 100);
}

#[test]
fn a_thread_that_was_held_up_does_not_stop_the_scrapes() {
    let (mut schedule, config) = (Schedule::new(3), config());
    (0..100).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
    schedule.note_traffic(1, Micros::ZERO);
    schedule.done(Slot(0), Some(SECOND), &config, Micros::ZERO, Micros::ZERO);
    assert!(
        schedule.interval(&config, Micros::ZERO) < 2 * SECOND,
        "{:?}",
        schedule.interval(&config, Micros::ZERO)
    );
    (0..500).for_each(|_| schedule.done(Slot(0), Some(SECOND), &config, Micros::ZERO, Micros::ZERO));
    assert_eq!(schedule.interval(&config, Micros::ZERO), LONGEST_INTERVAL);
    let slow = Scrape { interval: 2 * SECOND, ..config.clone() };
    (100..1000).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
    assert_eq!(schedule.interval(&slow, Micros::ZERO), 20 * SECOND);
}

#[test]
fn a_dear_page_is_fetched_less_often_and_more_often_in_haste() {
    let (mut schedule, config) = (Schedule::new(3), config());
    (0..3).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
    schedule.note_traffic(1, Micros::ZERO);
    for (slot, millis) in [(0, 30), (1, 4), (2, 1)] {
        schedule.note_page(Slot(slot), millis * MILLISECOND, false);
        // A thread that was busy with something else.
        schedule.note_page(Slot(slot), 900 * MILLISECOND, false);
    }
    let due_after = |schedule: &mut Schedule, slot, millis: u64| {
        schedule.done(Slot(slot), None, &config, Micros::ZERO, Micros::ZERO);
        schedule.take_due(millis * MILLISECOND).contains(&Slot(slot))
    };
    assert_eq!([2600, 3500].map(|millis| due_after(&mut schedule, 0, millis)), [false, true]);
    assert_eq!([340, 470].map(|millis| due_after(&mut schedule, 1, millis)), [false, true]);
    assert_eq!([80, 120].map(|millis| due_after(&mut schedule, 2, millis)), [false, true]);
    schedule.note_page(Slot(0), 30 * MILLISECOND, true);
    assert!(due_after(&mut schedule, 0, 900));
    // Another pod in the slot has pages of its own.
    schedule.add(Slot(0), Micros::ZERO);
    assert!(due_after(&mut schedule, 0, 120));
}

#[test]
fn a_pod_far_away_with_a_cheap_page_is_scraped_as_often_as_a_near_one() {
    let config = config();
    // 20 ms away, a page of half a millisecond and one of thirty: when they are due again, in milliseconds.
    for (page, sooner, later) in [(20_500, 119, 121), (50_000, 2620, 3380)] {
        let mut schedule = Schedule::new(3);
        schedule.add(Slot(0), Micros::ZERO);
        schedule.note_traffic(1, Micros::ZERO);
        schedule.note_page(Slot(0), Micros(page), false);
        assert!(schedule.take_trip(Slot(0), &config, Micros::ZERO));
        schedule.done(Slot(0), None, &config, Micros::ZERO, Micros::ZERO);
        assert!(schedule.take_due(1500 * MILLISECOND).is_empty(), "it is not known yet how far away it is");
        schedule.note_trip(Slot(0), 20 * MILLISECOND, &config, 20 * MILLISECOND);
        assert_eq!(schedule.take_due(sooner * MILLISECOND), [], "{page}");
        assert_eq!(schedule.take_due(later * MILLISECOND), [Slot(0)], "{page}");
        // An answer that met a busy thread counts for little.
        schedule.note_trip(Slot(0), 900 * MILLISECOND, &config, later * MILLISECOND);
        schedule.done(Slot(0), None, &config, Micros::ZERO, later * MILLISECOND);
        assert_eq!(schedule.take_due((later + 85) * MILLISECOND), [], "{page}");
        assert_eq!(schedule.take_due((later + later) * MILLISECOND), [Slot(0)], "{page}");
    }
}

#[test]
fn the_round_trip_is_looked_at_seldom_and_only_where_it_matters() {
    let (mut schedule, config) = (Schedule::new(3), config());
    (0..2).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
    schedule.note_page(Slot(0), Micros(900), false);
    schedule.note_page(Slot(1), Micros(4000), false);
    assert!(!schedule.take_trip(Slot(0), &config, SECOND));
    for _ in 0..FIRST_TRIPS {
        assert!(schedule.take_trip(Slot(1), &config, SECOND));
        schedule.note_trip(Slot(1), Micros(300), &config, SECOND);
    }
    assert!(!schedule.take_trip(Slot(1), &config, 5 * SECOND));
    assert!(schedule.take_trip(Slot(1), &config, 6 * SECOND));
    assert!(!schedule.take_trip(Slot(1), &config, 7 * SECOND));
}

#[test]
fn a_fleet_that_shrinks_is_scraped_more_often_again() {
    let (mut schedule, config) = (Schedule::new(3), config());
    (0..100).for_each(|slot| schedule.add(Slot(slot), Micros::ZERO));
    schedule.note_traffic(1, Micros::ZERO);
    let before = schedule.interval(&config, Micros::ZERO);
    (10..100).for_each(|slot| schedule.remove(Slot(slot)));
    assert!(before > 3 * config.interval);
    assert_eq!(schedule.interval(&config, Micros::ZERO), config.interval);
}

#[test]
fn a_pod_that_has_gone_is_not_due() {
    let mut schedule = Schedule::new(1);
    schedule.add(Slot(0), Micros::ZERO);
    schedule.add(Slot(1), Micros::ZERO);
    schedule.remove(Slot(0));
    assert_eq!(schedule.take_due(Micros::ZERO), [Slot(1)]);
}
