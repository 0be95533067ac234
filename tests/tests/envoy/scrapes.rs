//! What scraping costs a pod, how its page is reached, and what it does not tell.

use std::time::{Duration, Instant};

use serde_json::json;
use warmpath_tests::{Answer, Distance, Envoy, Load, Request, SimPod, TestPod, until};

use crate::SIMULATOR;

/// Pages that were fetched from a pod.
async fn pages(envoy: &Envoy) -> i64 {
    envoy.stat("wasmcustom.warmpath_scrapes_total.result=ok;.pool=default;").await
}

/// Traffic for so many seconds, so that pods are scraped as often as they may be.
async fn talk(envoy: &Envoy, seconds: u64) {
    for n in 0..10 * seconds {
        assert_eq!(Request::chat(&format!("hello {n}")).send(envoy.routed).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// B23, with a pod beside the gateway and with one that is 20 ms away.
#[tokio::test(flavor = "multi_thread")]
async fn a_dear_page_is_fetched_seldom() {
    const BUSY: Duration = Duration::from_millis(30);
    for one_way in [0, 10] {
        let pod = SimPod::start(SIMULATOR, &["--profile", "h100"]);
        pod.fault(&json!({"metrics_busy_ms": BUSY.as_millis() as u64})).await;
        let way = Distance::to(pod.address(), Duration::from_millis(one_way)).await;
        let envoy = Envoy::at(vec![way.address()]).start().await;
        envoy.sees_ready(1).await;
        let (start, before) = (Instant::now(), pages(&envoy).await);
        talk(&envoy, 8).await;
        let (fetched, seconds) = (pages(&envoy).await - before, start.elapsed().as_secs_f64());
        println!("{} ms away: {fetched} pages in {seconds:.1} s", 2 * one_way);
        assert!(fetched >= 1, "it is not scraped");
        // One percent, and three pages for the time before it is known what they take.
        assert!(
            fetched as f64 * BUSY.as_secs_f64() <= 0.0125 * seconds + 0.09,
            "{} ms away: {fetched} pages in {seconds:.1} s",
            2 * one_way
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_far_away_with_a_cheap_page_is_scraped_no_less_often() {
    let pods = TestPod::several(2).await;
    let way = Distance::to(pods[1].address(), Duration::from_millis(10)).await;
    let envoy = Envoy::at(vec![pods[0].address(), way.address()]).start().await;
    envoy.sees_ready(2).await;
    talk(&envoy, 2).await;
    let before = [0, 1].map(|nth| pods[nth].scrapes());
    until("the near pod was scraped eighty times more", async || {
        talk(&envoy, 1).await;
        (pods[0].scrapes() >= before[0] + 80).then_some(())
    })
    .await;
    let [near, far] = [0, 1].map(|nth| pods[nth].scrapes() - before[nth]);
    println!("{near} pages of the near pod, {far} of the far one");
    // A scrape of the far one takes 20 ms longer. If that counted as the pod's time, it would be scraped
    // every 2 s. The time of the way is known to a millisecond or two, and each of them stretches the
    // interval by 0.1 s.
    assert!(far * 5 >= near, "{near} pages of the near pod, {far} of the far one");
}

/// B21.
#[tokio::test]
async fn what_the_host_holds_is_remembered_when_it_is_said() {
    for said in [false, true] {
        let pods = TestPod::several(3).await;
        // A GPU that holds half a conversation.
        let load = |running| Load { running, blocks: 128, block_size: 16, ..Load::default() };
        for pod in &pods {
            pod.answer_all(|| Answer::After(Duration::from_millis(80), Box::new(Answer::Completion)));
        }
        let setting = if said { "\"max_mib\": 48, \"pod_tokens\": 1000000" } else { "\"max_mib\": 48" };
        let envoy = Envoy::of(&pods).edit(move |yaml| yaml.replace("\"max_mib\": 48", setting)).start().await;
        envoy.sees_ready(3).await;
        let chat = |topic: &str| {
            Request::chat(&(0..800).map(|n| format!("{topic:>10} {n:<8} ")).collect::<String>())
        };
        let set = async |loads: [u32; 3]| {
            pods.iter().zip(loads).for_each(|(pod, running)| pod.set_load(load(running)));
            envoy.sees(&pods).await;
            envoy.sees(&pods).await;
        };
        set([0, 600, 600]).await;
        for topic in ["one", "two"] {
            assert_eq!(chat(topic).send(envoy.routed).await.pod(), pods[0].address());
        }
        set([6, 0, 0]).await;
        let again = chat("one").send(envoy.routed).await;
        assert_eq!(again.pod() == pods[0].address(), said, "said: {said}");
    }
}

#[tokio::test]
async fn a_page_on_another_port_behind_a_key_is_reached() {
    let (pod, pages) = (TestPod::start().await, TestPod::start().await);
    let port = pages.address().rsplit(':').next().unwrap().to_owned();
    let extra = format!("\"port\": {port}, \"authorization\": \"Bearer abc\", \"path\": \"/metrics\"");
    let envoy = Envoy::at(vec![pod.address()])
        .edit(move |yaml| yaml.replace("\"path\": \"/metrics\"", &extra))
        .start()
        .await;
    envoy.sees_ready(1).await;
    until("the page was fetched there", async || (pages.scrapes() > 1).then_some(())).await;
    assert_eq!(pages.scrape_headers().unwrap()["authorization"], "Bearer abc");
    assert_eq!(pod.scrapes(), 0);
    pod.answer_all(|| Answer::Completion);
    assert_eq!(Request::chat("hello").send(envoy.routed).await.pod(), pod.address());
}
