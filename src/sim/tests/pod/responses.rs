//! Stored responses.

use std::time::Duration;

use serde_json::{Value, json};
use warmpath_sim::pod::PodConfig;

use super::LONG;
use super::form::{chunks, json as parse};
use super::harness::{TestPod, answer, stuck};

#[tokio::test]
async fn stored_responses_are_found_again_by_the_pod_that_gave_them_only() {
    let path = "/v1/responses";
    let [pod, other] = [
        TestPod::with(PodConfig { stores_responses: true, ..TestPod::config() }).await,
        TestPod::with(PodConfig { stores_responses: true, ..TestPod::config() }).await,
    ];
    let first = answer(&pod, path, &json!({"input": LONG.repeat(20), "max_output_tokens": 32})).await;
    let id = first["id"].as_str().unwrap();
    assert_eq!(parse(&pod.get(&format!("{path}/{id}")).await.text().await.unwrap()), first);
    let follow_up = json!({"input": "go on", "previous_response_id": id, "max_output_tokens": 5});
    let second = answer(&pod, path, &follow_up).await;
    assert_eq!(second["previous_response_id"], id);
    let tokens = |of: &Value, field: &str| of["usage"][field].as_u64().unwrap();
    assert!(tokens(&second, "input_tokens") > tokens(&first, "total_tokens"), "all was said before");
    let reused = second["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(reused + 32 > tokens(&first, "total_tokens"), "{reused}");
    // A stream is stored as well.
    let mut third = json!({"input": "and on", "previous_response_id": second["id"], "stream": true});
    let text = pod.post(path, &third).await.text().await.unwrap();
    let last = parse(chunks(&text).last().unwrap());
    let id = last["response"]["id"].as_str().unwrap();
    assert_eq!(pod.get(&format!("{path}/{id}")).await.status(), 200);
    for missing in [&format!("{path}/{id}"), &format!("{path}/resp_0")] {
        let answer = other.get(missing).await;
        assert_eq!(answer.status(), 404);
        let error = parse(&answer.text().await.unwrap());
        assert!(
            error["error"]["message"].as_str().unwrap().starts_with("Response with id 'resp_"),
            "{error}"
        );
    }
    third["stream"] = json!(false);
    assert_eq!(other.post(path, &third).await.status(), 404);
    assert_eq!(pod.get(&format!("{path}/abc")).await.status(), 400);
    assert_eq!(pod.post(&format!("{path}/{id}/cancel"), &json!({})).await.status(), 400, "it is over");
}

#[tokio::test]
async fn a_response_in_the_background_can_be_cancelled() {
    let path = "/v1/responses";
    let pod = TestPod::with(PodConfig { stores_responses: true, ..stuck(4) }).await;
    let first = answer(&pod, path, &json!({"input": "hi", "background": true})).await;
    assert_eq!((&first["status"], &first["background"]), (&json!("queued"), &json!(true)));
    let own = format!("{path}/{}", first["id"].as_str().unwrap());
    assert_eq!(parse(&pod.get(&own).await.text().await.unwrap())["status"], "in_progress");
    let cancelled = answer(&pod, &format!("{own}/cancel"), &json!({})).await;
    assert_eq!(cancelled["status"], "cancelled");
    for _ in 0..100 {
        if pod.get("/load").await.text().await.unwrap() == "{\"server_load\":0}" {
            let quick = TestPod::with(PodConfig { stores_responses: true, ..TestPod::config() }).await;
            let first = answer(&quick, path, &json!({"input": "hi", "background": true})).await;
            let own = format!("{path}/{}", first["id"].as_str().unwrap());
            for _ in 0..100 {
                let state = parse(&quick.get(&own).await.text().await.unwrap());
                if state["status"] == "completed" {
                    assert_eq!(state["id"], first["id"]);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("it never ended");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the cancelled request is still there");
}

#[tokio::test]
async fn without_a_store_a_response_is_not_kept() {
    let pod = TestPod::start().await;
    let first = answer(&pod, "/v1/responses", &json!({"input": "hi", "store": true})).await;
    let own = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(pod.get(&own).await.status(), 404);
    let body = json!({"input": "hi", "background": true});
    assert_eq!(pod.post("/v1/responses", &body).await.status(), 400);
}
