//! What a pod is believed to hold: hybrid caches, sleep, restarts, emptied caches, and prompts that are the
//! same to vLLM.

use std::time::Duration;

use serde_json::{Value, json};
use warmpath_tests::{Answer, Envoy, Request, TestPod, repository};

use super::{
    answer_of_7500_tokens, believes, busy, chat, chosen, computed_answer, first_computes, input, page, post,
};

/// B01.
#[tokio::test]
async fn conversations_stay_where_they_are_while_a_hybrid_models_cache_holds_them() {
    for (name, conversations) in [("B01/page-a.txt", 60), ("B01/page-b.txt", 30)] {
        let pods = TestPod::several(3).await;
        pods.iter().for_each(|pod| {
            pod.set_page(page(name, 0));
            pod.answer_all(answer_of_7500_tokens);
        });
        let envoy = Envoy::ready(&pods).await;
        let conversation = |n: usize| chat(&format!("{n}. talk"), 30);
        let mut homes = Vec::new();
        for n in 0..conversations {
            homes.push(chosen(&envoy, &pods, conversation(n)).await);
        }
        for n in 0..pods.len() {
            let share = homes.iter().filter(|&&home| home == n).count();
            assert!(share >= conversations / 6, "{name}: pod {n} got {share} of {conversations}");
        }
        for idle in 0..pods.len() {
            for (n, pod) in pods.iter().enumerate() {
                pod.set_page(page(name, if n == idle { 0 } else { 2 }));
            }
            believes(&envoy, &pods).await;
            for (n, &home) in homes.iter().enumerate() {
                let now = chosen(&envoy, &pods, conversation(n)).await;
                assert_eq!(now, home, "{name}: conversation {n} while pod {idle} is less busy");
            }
        }
    }
}

/// B03.
#[tokio::test]
async fn a_line_that_vllm_leaves_out_changes_no_prefix() {
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(80), Duration::ZERO, 2));
    });
    let envoy = Envoy::ready(&pods).await;
    let turn = |name: &str| post("/v1/messages", input(&format!("B03/{name}.json")));
    first_computes(&envoy, &pods, vec![turn("turn1")]).await;
    pods[0].set_load(busy(6));
    believes(&envoy, &pods).await;
    assert_ne!(chosen(&envoy, &pods, chat("other", 9)).await, 0, "load decides for a new prompt");
    for name in ["turn2", "turn2-same-line"] {
        assert_eq!(chosen(&envoy, &pods, turn(name)).await, 0, "{name}");
    }
}

/// B05.
#[tokio::test]
async fn a_pod_that_sleeps_gets_nothing_and_wakes_up_empty() {
    const CONVERSATIONS: usize = 6;
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| pod.answer_all(computed_answer));
    let envoy = Envoy::ready(&pods).await;
    let conversation = |n: usize| chat(&format!("{n}. talk"), 30);
    pods[0].set_page(page("B05/page-awake.txt", 0));
    first_computes(&envoy, &pods, (0..CONVERSATIONS).map(conversation).collect()).await;
    pods[0].set_page(page("B05/page-awake.txt", 16));
    believes(&envoy, &pods).await;
    for n in 0..CONVERSATIONS / 2 {
        assert_eq!(chosen(&envoy, &pods, conversation(n)).await, 0, "held, though it is a little busier");
    }

    pods[0].set_page(page("B05/page-asleep.txt", 0));
    pods[1..].iter().for_each(|pod| pod.set_page(page("B05/page-awake.txt", 2)));
    believes(&envoy, &pods).await;
    let before = pods[0].begun();
    for n in 0..30 {
        chosen(&envoy, &pods, chat(&format!("{n}. new"), 1)).await;
        chosen(&envoy, &pods, Request::get("/v1/models")).await;
    }
    chosen(&envoy, &pods, conversation(0)).await;
    assert_eq!(pods[0].begun(), before, "a pod that sleeps got a request");

    pods[0].set_page(page("B05/page-awake.txt", 16));
    believes(&envoy, &pods).await;
    for n in 1..CONVERSATIONS {
        assert_ne!(chosen(&envoy, &pods, conversation(n)).await, 0, "conversation {n}: its cache is empty");
    }
}

/// B14.
#[tokio::test]
async fn a_restart_shows_without_a_start_time() {
    const CONVERSATIONS: usize = 6;
    let pods = TestPod::several(3).await;
    pods.iter().for_each(|pod| pod.answer_all(computed_answer));
    let envoy = Envoy::ready(&pods).await;
    let conversation = |n: usize| chat(&format!("{n}. talk"), 30);
    pods[0].set_page(page("B14/page-before.txt", 16));
    first_computes(&envoy, &pods, (0..CONVERSATIONS).map(conversation).collect()).await;
    for n in 0..CONVERSATIONS / 2 {
        assert_eq!(chosen(&envoy, &pods, conversation(n)).await, 0, "held, though it is a little busier");
    }
    pods[0].set_page(page("B14/page-after-restart.txt", 16));
    believes(&envoy, &pods).await;
    for n in 0..CONVERSATIONS {
        assert_ne!(chosen(&envoy, &pods, conversation(n)).await, 0, "conversation {n}: its cache is empty");
    }
}

/// A metrics page of vLLM with these values.
fn page_of(running: u32, kv_usage: f64, queries: u64, hits: u64) -> String {
    let values = [
        ("vllm:num_requests_running{", f64::from(running)),
        ("vllm:kv_cache_usage_perc{", kv_usage),
        ("vllm:prefix_cache_queries_total{", queries as f64),
        ("vllm:prefix_cache_hits_total{", hits as f64),
    ];
    let path = repository().join("tests/fixtures/vllm-0.32/metrics-idle.txt");
    let page = std::fs::read_to_string(path).unwrap();
    let lines = page.lines().map(|line| {
        let value = values.iter().find(|(name, _)| line.starts_with(name));
        match (value, line.split_once("} ")) {
            (Some((_, value)), Some((name, _))) => format!("{name}}} {value:?}\n"),
            _ => format!("{line}\n"),
        }
    });
    lines.collect()
}

/// B13.
#[tokio::test]
async fn a_cache_that_is_emptied_while_the_process_lives_is_noticed() {
    const CONVERSATIONS: usize = 18;
    const TOKENS: u64 = 4000;
    fn answer(details: Value) -> Answer {
        let usage = json!({"prompt_tokens": TOKENS, "completion_tokens": 1, "total_tokens": TOKENS + 1, "prompt_tokens_details": details});
        let body = json!({"choices": [{"index": 0, "message": {"content": "Yes."}}], "usage": usage});
        Answer::After(Duration::from_millis(160), Box::new(Answer::json(200, body.to_string())))
    }
    for reports_cached in [false, true] {
        let pods = TestPod::several(3).await;
        pods.iter().for_each(|pod| {
            pod.set_page(page_of(0, 0.0, 0, 0));
            pod.answer_all(|| answer(Value::Null));
        });
        let envoy = Envoy::ready(&pods).await;
        let conversation = |n: usize| chat(&format!("{n}. talk"), 16);
        for pod in &pods[1..] {
            pod.set_page(page_of(600, 0.0, 0, 0));
        }
        believes(&envoy, &pods).await;
        let mut queries = 0;
        for n in 0..CONVERSATIONS {
            assert_eq!(chosen(&envoy, &pods, conversation(n)).await, 0);
            queries += TOKENS;
            pods[0].set_page(page_of(0, 0.0, queries, 0));
        }
        // The cache is emptied: whatever goes on, finds nothing.
        if reports_cached {
            pods[0].answer_all(|| answer(json!({"cached_tokens": 0})));
        }
        pods[0].set_page(page_of(8, 0.2, queries, 0));
        pods[1..].iter().for_each(|pod| pod.set_page(page_of(0, 0.0, 0, 0)));
        believes(&envoy, &pods).await;
        let mut went = Vec::new();
        for n in (0..CONVERSATIONS).map(|n| n * 7 % CONVERSATIONS) {
            let pod = chosen(&envoy, &pods, conversation(n)).await;
            if pod == 0 {
                queries += TOKENS;
                pods[0].set_page(page_of(8, 0.2, queries, 0));
            }
            went.push(pod);
        }
        println!("cached tokens reported: {reports_cached}; pods {went:?}");
        assert_eq!(went[0], 0, "it was believed to hold its conversations");
        assert!(went[CONVERSATIONS / 2..].iter().all(|&pod| pod != 0), "{reports_cached}: {went:?}");
        assert!(envoy.stat("wasmcustom.warmpath_emptied_caches_total.pool=default;").await <= 1);
        if !reports_cached {
            assert_eq!(envoy.stat("wasmcustom.warmpath_emptied_caches_total.pool=default;").await, 1);
        }
    }
}

/// B26.
#[tokio::test]
async fn the_same_tools_in_another_spelling_are_the_same_prefix() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::ready(&pods).await;
    let spelt = |name: &str| post("/v1/chat/completions", input(&format!("B26/{name}.json")));
    first_computes(&envoy, &pods, vec![spelt("tools-compact")]).await;
    pods[0].set_load(busy(6));
    believes(&envoy, &pods).await;
    assert_ne!(chosen(&envoy, &pods, chat("other", 8)).await, 0, "load decides for a new prompt");
    assert_eq!(chosen(&envoy, &pods, spelt("tools-spaced-and-reordered")).await, 0);
}
