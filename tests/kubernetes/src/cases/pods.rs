//! Pods come, leave, and are replaced.

use std::time::{Duration, Instant};

use super::{brisk, chat_ends_whole, ends_with_done, is_used, stream_at, whole};
use crate::objects::Is;
use crate::world::{POOL, World, at, ready};

pub async fn a_pod_that_terminates_gets_nothing_new_and_ends_its_stream(world: &mut World) {
    let (stream, mut opened) = stream_at(world, 13).await;
    world.endpoints(&[(11, Is::Ready), (12, Is::Ready), (13, Is::Terminating)]).await;
    let changed = Instant::now();
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "HEALTHY"), (at(13), "DRAINING")]).await;
    // The module asks Envoy's admin page once a second.
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(changed.elapsed())).await;
    let before = world.pods[&13].begun();
    for number in 0..60 {
        chat_ends_whole(number).await;
    }
    assert_eq!(world.pods[&13].begun(), before, "the pod that terminates got new requests");
    stream.chunk("data: {}\n\ndata: [DONE]\n\n");
    drop(stream);
    ends_with_done(&mut opened).await;
    // It is gone, and comes back with another process.
    world.endpoints(&ready(&[11, 12])).await;
    world.envoy().knows(POOL, &[(at(11), "HEALTHY"), (at(12), "HEALTHY")]).await;
    world.start_pods(&[13]).await;
    world.endpoints(&ready(&[11, 12, 13])).await;
    is_used(13).await;
}

pub async fn a_pod_that_is_added_is_used_within_a_second(world: &mut World) {
    world.start_pods(&[14]).await;
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    let start = Instant::now();
    is_used(14).await;
    // Envoy Gateway's own way to Envoy is in it.
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
}

pub async fn pods_are_replaced_one_after_the_other_under_load(world: &mut World) {
    let traffic = brisk();
    traffic.more(100).await;
    for (old, new) in [(11, 14), (12, 15), (13, 16)] {
        let stay: Vec<u8> = world.pods.keys().copied().filter(|&number| number != old).collect();
        world.start_pods(&[new]).await;
        let mut pods = ready(&stay);
        pods.extend([(new, Is::Ready), (old, Is::Terminating)]);
        world.endpoints(&pods).await;
        traffic.lasts(Duration::from_secs(3)).await;
        let mut numbers = stay;
        numbers.push(new);
        world.endpoints(&ready(&numbers)).await;
        traffic.lasts(Duration::from_secs(1)).await;
        world.pods.remove(&old).unwrap().kill().await;
        traffic.more(100).await;
        // The conversations of this load may all have their home elsewhere.
        is_used(new).await;
    }
    whole(&traffic.stop().await);
}
