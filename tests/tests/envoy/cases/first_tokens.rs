//! What is no first token, though the pod says something.

use std::time::Duration;

use serde_json::{Value, json};
use warmpath_tests::{Envoy, Load, Request, Stream, TestPod, until};

use super::{believes, busy, chat, chosen, computed_answer, input};
use crate::discovery::{Endpoints, attached};

/// Gives the first two of the pods six prompts each: those of the first have only `said` as an answer, and
/// those of the second have a token. Then new prompts must go to the second.
async fn waiting_prompts_repel(
    envoy: &Envoy,
    pods: &[TestPod],
    path: &str,
    prompt: impl Fn(usize) -> Value,
    said: &'static str,
    token: &'static str,
) {
    let mut held = Vec::new();
    for (full, other) in [(0, 1), (1, 0)] {
        pods[other].set_load(busy(2000));
        pods[full].set_load(Load::default());
        believes(envoy, pods).await;
        for n in 0..6 {
            let (stream, answer) = Stream::new();
            pods[full].answer_next(answer);
            let request = Request::post(path, &prompt(full * 100 + n));
            let before = pods[full].begun();
            let reply = tokio::spawn(request.send(envoy.routed));
            until("the pod has the prompt", async || (pods[full].begun() > before).then_some(())).await;
            stream.chunk(said);
            if full == 1 {
                stream.chunk(token);
            }
            held.push((stream, reply));
        }
    }
    pods.iter().for_each(|pod| pod.set_load(Load::default()));
    believes(envoy, pods).await;
    for n in 0..12 {
        assert_eq!(
            chosen(envoy, pods, chat(&format!("{n}. new"), 4)).await,
            1,
            "prompts wait on the other pod"
        );
    }
}

/// What a pod says before it has computed anything, and the first tokens of two APIs.
const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r1\"}}\n\n\
    event: response.in_progress\ndata: {\"type\":\"response.in_progress\",\"response\":{\"id\":\"r1\"}}\n\n";
const DELTA: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Yes\"}\n\n";
const TOKEN: &str = "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes\"}}]}\n\n";

/// B02, its first half.
#[tokio::test]
async fn a_response_that_is_created_has_no_first_token_yet() {
    let prompt = |n| {
        let mut body: Value = serde_json::from_slice(&input("B02/body.json")).unwrap();
        body["instructions"] = format!("{n}. {}", body["instructions"].as_str().unwrap()).into();
        body
    };
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    waiting_prompts_repel(&envoy, &pods, "/v1/responses", prompt, CREATED, DELTA).await;
}

/// B02, its second half.
#[tokio::test]
async fn a_pod_that_answers_responses_is_not_taken_for_a_faster_one() {
    const COMPUTES: Duration = Duration::from_millis(300);
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let prompt = |n: usize| format!("{n:>6} ").repeat(2300);
    let chat = |n: usize| {
        let messages = json!([{"role": "user", "content": prompt(n)}]);
        Request::post("/v1/chat/completions", &json!({"model": "m", "stream": true, "messages": messages}))
    };
    let response =
        |n: usize| Request::post("/v1/responses", &json!({"model": "m", "stream": true, "input": prompt(n)}));
    for n in 0..8 {
        for (pod, other) in [(0, 1), (1, 0)] {
            pods[other].set_load(busy(2000));
            pods[pod].set_load(Load::default());
            believes(&envoy, &pods).await;
            let (stream, answer) = Stream::new();
            pods[pod].answer_next(answer);
            let request = if pod == 0 { response(n) } else { chat(100 + n) };
            let before = pods[pod].begun();
            let reply = tokio::spawn(request.send(envoy.routed));
            until("the pod has the prompt", async || (pods[pod].begun() > before).then_some(())).await;
            if pod == 0 {
                stream.chunk(CREATED);
            }
            tokio::time::sleep(COMPUTES).await;
            stream.chunk(if pod == 0 { DELTA } else { TOKEN });
            drop(stream);
            assert_eq!(reply.await.unwrap().status, 200);
        }
    }
    pods.iter().for_each(|pod| {
        pod.set_load(Load::default());
        pod.answer_all(computed_answer);
    });
    believes(&envoy, &pods).await;
    let mut share = [0, 0];
    for n in 0..40 {
        share[chosen(&envoy, &pods, chat(200 + n)).await] += 1;
    }
    println!("{share:?} of 40 prompts");
    assert!(share.iter().all(|&count| count >= 8), "one is taken for faster: {share:?}");
}

/// B18, with both ways to name pods: by headers with the answer filter, and in a list without it.
#[tokio::test]
async fn a_keep_alive_is_no_first_token() {
    let said = String::from_utf8(input("B18/answer.sse")).unwrap();
    let comments: String = said.split_inclusive("\n\n").take(2).collect();
    assert!(comments.starts_with(": keep-alive"));
    let prompt = |n| {
        let words: String = (0..3000).map(|word| format!("{n:>4} {word:<7}")).collect();
        json!({"model": "/model/qwen", "stream": true, "messages": [{"role": "user", "content": words}]})
    };
    for said in [comments.leak(), "event: ping\ndata: {\"type\": \"ping\"}\n\n"] {
        let pods = TestPod::several(2).await;
        let envoy = Envoy::ready(&pods).await;
        waiting_prompts_repel(&envoy, &pods, "/v1/chat/completions", prompt, said, TOKEN).await;

        let pods = TestPod::several(2).await;
        let endpoints = Endpoints::of(&[(&pods[0], "HEALTHY"), (&pods[1], "HEALTHY")]);
        let envoy = attached(&pods, &endpoints, true).await;
        let known = "the pods are discovered once requests go to their cluster";
        until(known, async || {
            assert_eq!(Request::get("/v1/models").send(envoy.routed).await.status, 200);
            (pods.iter().all(|pod| pod.scrapes() > 2)).then_some(())
        })
        .await;
        waiting_prompts_repel(&envoy, &pods, "/v1/chat/completions", prompt, said, TOKEN).await;
    }
}
