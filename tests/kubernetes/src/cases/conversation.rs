//! Requests as clients of vLLM send them, through the attached gateway.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use warmpath_tests::{Answer, Request, until};

use crate::world::{World, at, plain, routed};

/// What both rounds of the reference's conversation begin with.
const OPENING: &str = "Hi, here's some system prompt: hi hi hi hi hi hi hi hi hi hi.For user 3, here are some other context: \
    hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi.I would like to test your intelligence. for this purpose I would \
    like you to play zork. you can interact with the game by typing in commands. I will forward these commands to the game and \
    type in any response. are you ready?";

pub async fn the_second_round_goes_to_the_pod_of_the_first(world: &mut World) {
    let first = round(&[("user", OPENING)]).send(routed()).await;
    assert_eq!(first.status, 200);
    let before = world.envoy().said().matches("Do prefix-aware routing!").count();
    let second = round(&[
        ("user", OPENING),
        ("assistant", "Hi there! It looks like you're setting up a fun test. I'm ready to play Zork! You can"),
        (
            "user",
            "% zork\nWelcome to Dungeon. This version created 11-MAR-91.\nYou are in an open field west of a big white house \
             with a boarded\nfront door.\nThere is a small mailbox here.\n>",
        ),
        ("assistant", "Great!"),
        ("user", "Opening the mailbox reveals:\n A leaflet.\n>"),
    ])
    .send(routed())
    .await;
    assert_eq!(second.status, 200);
    assert_eq!(second.pod(), first.pod());
    until("the log has the reference's line", async || {
        (world.envoy().said().matches("Do prefix-aware routing!").count() > before).then_some(())
    })
    .await;
}

pub async fn a_burst_of_equal_prompts_spreads_as_least_request_does(world: &mut World) {
    for pod in world.pods.values() {
        pod.answer_all(|| Answer::After(Duration::from_millis(300), Box::new(Answer::Completion)));
    }
    let prompt = "The same words for all of them. ".repeat(200);
    let mut most = Vec::new();
    for port in [plain(), routed(), routed()] {
        let before = world.counts();
        let replies = join_all((0..64).map(|_| Request::chat(&prompt).send(port))).await;
        assert!(replies.iter().all(|reply| reply.status == 200));
        let after = world.counts();
        most.push([11, 12, 13].map(|number| after[&number] - before[&number]).into_iter().max().unwrap());
        // The ledger is empty again before the next one.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // A third of 64 is 21; the fullest pod decides when the last one is answered.
    assert!(
        most[1] <= most[0].max(22) + 6 && most[2] <= most[0].max(22) + 6,
        "least request, cold, warm: {most:?}"
    );
}

pub async fn twenty_conversations_stay_where_they_are(world: &mut World) {
    let words = |number: usize| -> String {
        (0..600).map(|n| format!("{:x} ", (number + 1) * 104_729 * (n + 3))).collect()
    };
    let mut homes = Vec::new();
    for number in 0..20 {
        homes.push(round(&[("user", &words(number))]).send(routed()).await.pod().to_owned());
    }
    let mut warm = 0;
    for (number, home) in homes.iter().enumerate() {
        let text = words(number);
        let reply = round(&[("user", &text), ("assistant", "Yes."), ("user", "Go on.")]).send(routed()).await;
        warm += usize::from(reply.pod() == home);
    }
    assert_eq!(warm, 20);
    assert!(world.pods.keys().all(|&number| homes.iter().any(|home| *home == at(number))), "{homes:?}");
}

fn round(messages: &[(&str, &str)]) -> Request {
    let messages: Vec<_> =
        messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    Request::post(
        "/v1/chat/completions",
        &json!({"model": "/model/qwen", "max_tokens": 24, "temperature": 0, "messages": messages}),
    )
}
