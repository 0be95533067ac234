//! Pods come, leave, and are replaced.

use std::time::{Duration, Instant};

use warmpath_tests::Stopwatch;

use super::{brisk, chat_ends_whole, ends_with_done, is_used, stream_at, whole};
use crate::objects::Is;
use crate::world::{POOL, World, at, ready};

/// Envoy Gateway's way to Envoy, and the second in which Warmpath looks at Envoy's clusters once.
const USED_WITHIN: Duration = Duration::from_secs(2);

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
    let watch = Stopwatch::start();
    world.endpoints(&ready(&[11, 12, 13, 14])).await;
    is_used(14).await;
    watch.within(USED_WITHIN, "the first chat at a pod that is added");
}

/// Ready turns False, or the pod is selected no more, while its server goes on.
pub async fn a_pod_that_is_taken_out_gets_nothing_after_a_second(world: &mut World) {
    let all = ready(&[11, 12, 13]);
    let not_ready = [(11, Is::Ready), (12, Is::Ready), (13, Is::NotReady)];
    for change in [&not_ready[..], &ready(&[11, 12])] {
        is_used(13).await;
        let watch = Stopwatch::start();
        world.endpoints(change).await;
        let mut number = 0;
        // Longer than Warmpath takes until it looks at Envoy's clusters again.
        while watch.elapsed() < Duration::from_millis(1600) {
            let (sent, before) = (watch.read(), world.pods[&13].begun());
            chat_ends_whole(number).await;
            if world.pods[&13].begun() > before {
                sent.within(
                    Duration::from_secs(1),
                    &format!("the time until chat {number} to a pod taken out"),
                );
            }
            number += 1;
        }
        let watch = Stopwatch::start();
        world.endpoints(&all).await;
        is_used(13).await;
        watch.within(USED_WITHIN, "the first chat at a pod that is back");
    }
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
