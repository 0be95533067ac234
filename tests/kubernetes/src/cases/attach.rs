//! The attach as it is printed and applied.

use warmpath_tests::{Answer, Request};

use crate::world::{World, at, plain, routed};

pub async fn the_printed_policies_are_accepted_and_the_check_says_so(world: &mut World) {
    let checked = world.check();
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    assert!(checked.out.ends_with("all there\n"), "{}", checked.out);
}

pub async fn a_client_names_no_pod(world: &mut World) {
    for number in [11, 12, 13] {
        let reply =
            Request::chat("Who answers?").header("x-warmpath-destination", at(number)).send(routed()).await;
        assert_eq!(reply.status, 200);
        let pod = &world.pods.values().find(|pod| pod.address() == reply.pod()).unwrap();
        let seen = pod.received().pop().unwrap().headers;
        let named: Vec<_> = seen.get_all("x-warmpath-destination").iter().collect();
        assert_eq!(named.len(), 1, "{named:?}");
        assert!(
            named[0].to_str().unwrap().starts_with(reply.pod()),
            "{named:?}, and {} answered",
            reply.pod()
        );
    }
    // And on a port that Warmpath does not route, least request alone decides: the header is no way to steer it.
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..12 {
        met.insert(
            Request::chat("Who?")
                .header("x-warmpath-destination", at(11))
                .send(plain())
                .await
                .pod()
                .to_owned(),
        );
    }
    assert!(met.len() > 1, "only {met:?}");
}

pub async fn whole_bodies_reach_the_pod(world: &mut World) {
    let prompt = "x".repeat(3_000_000);
    for request in [Request::chat(&prompt), Request::chat(&prompt).chunked(100_000)] {
        let reply = request.send(routed()).await;
        assert_eq!(reply.status, 200);
        let pod = world.pods.values().find(|pod| pod.address() == reply.pod()).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&pod.received().pop().unwrap().body).unwrap();
        assert!(body["messages"][0]["content"] == prompt.as_str(), "the body changed on its way");
    }
    // Above the limit of the printed policies.
    let reply = Request::chat(&"x".repeat(40_000_000)).send(routed()).await;
    assert_eq!(reply.status, 413);
}

pub async fn a_pod_that_is_dead_or_full_costs_nothing(world: &mut World) {
    let home = Request::chat(&conversation(1)).send(routed()).await.pod().to_owned();
    let number = *world.pods.iter().find(|(_, pod)| pod.address() == home).unwrap().0;
    world.pods[&number].answer_next(Answer::Whole(503, vec![], "{}".into()));
    let reply = Request::chat(&conversation(1)).send(routed()).await;
    assert_eq!(reply.status, 200);
    assert_ne!(reply.pod(), home, "the full pod answered");
    world.pods.get_mut(&number).unwrap().kill().await;
    for _ in 0..20 {
        let reply = Request::chat(&conversation(1)).send(routed()).await;
        assert_eq!(reply.status, 200);
        assert_ne!(reply.pod(), home);
    }
}

/// A long beginning of its own.
fn conversation(number: u32) -> String {
    (0..1000).map(|n| format!("{:x} ", (number + 1) * 7919 * (n + 3))).collect()
}
