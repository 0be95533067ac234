//! Why each request went to its pod: in the access log, in headers of the answer, and in the log's lines
//! about pods and decisions that are not the plain case.

use std::time::Duration;

use warmpath_tests::{Answer, Envoy, Request, TestPod, until};

/// Pods that stream three tokens to whoever asks for a stream.
pub async fn streaming_pods(count: usize) -> Vec<TestPod> {
    let pods = TestPod::several(count).await;
    for pod in &pods {
        pod.answer_all(|| Answer::tokens(Duration::from_millis(20), Duration::from_millis(1), 3));
    }
    pods
}

/// A part of the fields `decision` and `answer` of a line of the access log.
pub fn part_of<'a>(line: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let fields = ["decision", "answer"].into_iter().filter_map(|field| line[field].as_str());
    fields.flat_map(|field| field.split(' ')).find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[tokio::test]
async fn the_access_log_says_why_and_how_much_was_matched() {
    let pods = streaming_pods(2).await;
    let envoy = Envoy::ready(&pods).await;
    let prompt = "a prompt of some length ".repeat(100);
    for id in ["first", "second"] {
        Request::streamed_chat(&prompt).header("x-request-id", id).send(envoy.routed).await;
    }
    let (first, second) = (envoy.access("first").await, envoy.access("second").await);
    assert_eq!((part_of(&first, "reason"), part_of(&second, "reason")), (Some("load"), Some("prefix")));
    let tokens = |line: &serde_json::Value| {
        let (part, whole) = part_of(line, "matched").unwrap().split_once('/').unwrap();
        (part.parse::<u32>().unwrap(), whole.parse::<u32>().unwrap())
    };
    assert_eq!(tokens(&first).0, 0);
    let seen = pods
        .iter()
        .flat_map(TestPod::received)
        .find(|seen| seen.headers.get("x-request-id").is_some_and(|id| id == "first"));
    assert_eq!(seen.unwrap().headers["x-warmpath-decision"], first["decision"].as_str().unwrap());
    let (part, whole) = tokens(&second);
    assert!(part > whole / 2 && part <= whole, "{second}");
    assert!(part_of(&second, "ttft_ms").unwrap().parse::<f64>().unwrap() >= 0.0);
    Request::get("/v1/models").header("x-request-id", "third").send(envoy.routed).await;
    let third = envoy.access("third").await;
    assert_eq!((part_of(&third, "reason"), part_of(&third, "matched")), (Some("load"), None));
}

#[tokio::test]
async fn the_access_log_says_what_an_answer_reports() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    let usage = r#"{"usage":{"prompt_tokens":120,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":96}}}"#;
    pods[0].answer_next(Answer::json(200, usage));
    Request::chat("a prompt").header("x-request-id", "reports").send(envoy.routed).await;
    let line = envoy.access("reports").await;
    assert_eq!((part_of(&line, "reported"), part_of(&line, "ttft_ms")), (Some("96/120"), None), "{line}");
}

#[tokio::test]
async fn a_receipt_in_the_headers_tells_which_pod_and_why() {
    let mut pods = streaming_pods(2).await;
    let envoy = Envoy::of(&pods).switch("--receipt").start().await;
    envoy.sees(&pods).await;
    let prompt = "a prompt of some length ".repeat(100);
    let first = Request::streamed_chat(&prompt).send(envoy.routed).await;
    assert_eq!(
        (first.header("x-warmpath-pod"), first.header("x-warmpath-reason")),
        (Some(first.pod()), Some("load"))
    );
    let second = Request::streamed_chat(&prompt).send(envoy.routed).await;
    assert_eq!((second.header("x-warmpath-reason"), second.pod()), (Some("prefix"), first.pod()));
    let (part, whole) = second.header("x-warmpath-matched").unwrap().split_once('/').unwrap();
    assert!(part.parse::<u32>().unwrap() * 2 > whole.parse::<u32>().unwrap());
    // The pod dies, and the other one answers: what was chosen and what answered differ.
    let home = pods.iter().position(|pod| pod.address() == first.pod()).unwrap();
    let dies = pods[home].address();
    pods[home].answer_next(Answer::Reset);
    let third = Request::streamed_chat(&prompt).header("x-request-id", "third").send(envoy.routed).await;
    assert_eq!(third.header("x-warmpath-chosen"), Some(&*dies));
    assert_eq!(third.header("x-warmpath-pod"), Some(pods[1 - home].address().as_str()));
    assert_eq!(envoy.access("third").await["chosen"], dies.as_str());
    envoy.logs(&[&dies, "is left alone: it refused a request"]).await;
    pods[home].kill().await;
}

#[tokio::test]
async fn a_pod_that_errs_has_one_line_when_it_begins_and_one_when_it_is_back() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    let sick = pods[0].address();
    pods[0].answer_all(|| Answer::Whole(500, Vec::new(), "".into()));
    until("the line", async || {
        Request::get("/v1/models").send(envoy.routed).await;
        envoy.log().contains("is left alone: it answered several requests in a row").then_some(())
    })
    .await;
    pods[0].answer_all(|| Answer::Completion);
    until("the pod was back", async || {
        Request::get("/v1/models").send(envoy.routed).await;
        envoy.log().contains("serves again").then_some(())
    })
    .await;
    let log = envoy.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("warmpath: pod ")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains(&sick) && line.contains("[warning]")), "{lines:?}");
}

#[tokio::test]
async fn a_request_that_leaves_the_pod_of_its_prompt_has_a_line_with_the_reason() {
    let mut pods = streaming_pods(2).await;
    let envoy = Envoy::of(&pods).log_level("info").start().await;
    envoy.sees(&pods).await;
    let prompt = "a prompt of some length ".repeat(100);
    let home = Request::streamed_chat(&prompt).send(envoy.routed).await.pod().to_owned();
    pods.iter_mut().find(|pod| pod.address() == home).unwrap().kill().await;
    envoy.logs(&[&home, "cannot be scraped"]).await;
    Request::streamed_chat(&prompt).header("x-request-id", "moved").send(envoy.routed).await;
    let line = envoy.logs(&["\"moved\" goes to ", "prompt tokens: "]).await;
    assert!(line.contains(&format!("and not to {home}, which holds")), "{line}");
    assert!(line.ends_with("that pod is left alone"), "{line}");
}
