//! Pods with several engines behind one address (data parallelism, B27): each engine is a place of its own,
//! and the request says which one it is for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use warmpath_tests::{Answer, Envoy, Reply, Request, SimPod, TestPod, repository, until};

use crate::SIMULATOR;
use crate::discovery::{Endpoints, attached};

const RANK: &str = "x-data-parallel-rank";
/// Engines of the page of B27.
const ENGINES: usize = 4;

fn page() -> String {
    std::fs::read_to_string(repository().join("tests/fixtures/cases/B27/page.txt")).unwrap()
}

/// A chat of about 9 KB whose first words no other has.
fn chat(topic: usize) -> Request {
    let words: String = (0..450).map(|n| format!("{topic:>10} {n:<8} ")).collect();
    Request::chat(&words)
}

/// The engines that the pods were asked for so far, request by request.
fn asked(pods: &[TestPod]) -> Vec<(usize, Option<String>)> {
    let of = |(n, pod): (usize, &TestPod)| {
        let requests = pod.received().into_iter();
        requests.map(move |r| (r.at, n, r.headers.get(RANK).map(|rank| rank.to_str().unwrap().to_owned())))
    };
    let mut all: Vec<_> = pods.iter().enumerate().flat_map(of).collect();
    all.sort();
    all.into_iter().map(|(_, n, rank)| (n, rank)).collect()
}

#[tokio::test]
async fn each_engine_is_a_place_of_its_own() {
    // Equal places are drawn at random: that one of eight gets nothing happens once in fifty million runs.
    const CONVERSATIONS: usize = 150;
    const COME_BACK: usize = 40;
    let pods = TestPod::several(2).await;
    pods.iter().for_each(|pod| {
        pod.set_page(page());
        pod.answer_all(|| Answer::tokens(Duration::from_millis(30), Duration::ZERO, 2));
    });
    let envoy = Envoy::ready(&pods).await;
    envoy.sees(&pods).await;
    // What a client says of engines does not count.
    let all = (0..CONVERSATIONS).map(|n| chat(n).header(RANK, "9").send(envoy.routed));
    let replies: Vec<Reply> = futures::stream::iter(all).buffered(8).collect().await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    let mut place_of = BTreeMap::new();
    for (n, pod) in pods.iter().enumerate() {
        for request in pod.received() {
            let place = (n, request.headers[RANK].to_str().unwrap().to_owned());
            *places.entry(place.clone()).or_default() += 1;
            place_of.insert(request.body, place);
        }
    }
    let wanted = (0..pods.len()).flat_map(|n| (0..ENGINES).map(move |engine| (n, engine.to_string())));
    assert!(places.keys().cloned().eq(wanted), "{places:?}");
    for n in 0..COME_BACK {
        let reply = chat(n).send(envoy.routed).await;
        assert_eq!(reply.status, 200);
        let pod = pods.iter().position(|pod| pod.address() == reply.pod()).unwrap();
        let request = pods[pod].received().pop().unwrap();
        let place = (pod, request.headers[RANK].to_str().unwrap().to_owned());
        assert_eq!(place, place_of[&request.body], "conversation {n} left its engine");
    }
    envoy.accounts_for_nothing().await;
    assert_eq!(envoy.stat("wasmcustom.warmpath_pods.pool=default;").await, 2, "engines are no pods");
}

#[tokio::test]
async fn a_runner_up_gets_the_same_engine_and_keeps_the_conversation() {
    const CONVERSATIONS: usize = 8;
    let mut pods = TestPod::several(2).await;
    pods.iter().for_each(|pod| pod.set_page(page()));
    // No scrape notices that a pod is gone before a request meets it.
    let envoy = Envoy::of(&pods).flag("--scrape-ms", "60000").start().await;
    envoy.sees_ready(2).await;
    for n in 0..CONVERSATIONS {
        assert_eq!(chat(n).send(envoy.routed).await.status, 200);
    }
    let before = asked(&pods);
    let gone = before[0].0;
    pods[gone].kill().await;
    for n in 0..CONVERSATIONS {
        assert_eq!(chat(n).header("x-request-id", n.to_string()).send(envoy.routed).await.status, 200);
    }
    let after = asked(&pods);
    for (n, place) in after.iter().filter(|place| place.0 != gone).enumerate() {
        assert!(place.1.is_some(), "request {n} names no engine");
    }
    // The request that met the dead pod names the engine that it was to have there.
    assert_eq!(envoy.access("0").await["attempts"], 2);
    let moved =
        after.iter().filter(|place| place.0 != gone).nth(before.iter().filter(|p| p.0 != gone).count());
    assert_eq!(moved.unwrap().1, before[0].1);
    let served = || asked(&pods)[asked(&pods).len() - CONVERSATIONS..].to_vec();
    let once = served();
    for n in 0..CONVERSATIONS {
        assert_eq!(chat(n).send(envoy.routed).await.status, 200);
    }
    assert_eq!(served(), once, "the conversations stay where the runner-up has computed them");
}

#[tokio::test]
async fn a_pod_with_one_engine_is_told_of_none() {
    let pods = TestPod::several(2).await;
    let envoy = Envoy::ready(&pods).await;
    for port in [envoy.routed, envoy.plain] {
        assert_eq!(Request::chat("hello").header(RANK, "1").send(port).await.status, 200);
        assert_eq!(
            Request::get("/v1/models").header("X-Data-Parallel-Rank", "1").send(port).await.status,
            200
        );
    }
    assert_eq!(asked(&pods).into_iter().map(|(_, rank)| rank).collect::<Vec<_>>(), [const { None }; 4]);
}

#[tokio::test]
async fn a_pod_that_starts_anew_with_another_number_of_engines_is_followed() {
    let pods = TestPod::several(1).await;
    let envoy = Envoy::ready(&pods).await;
    assert_eq!(chat(0).send(envoy.routed).await.status, 200);
    assert_eq!(asked(&pods).pop().unwrap().1, None);
    pods[0].set_page(page());
    until("an engine is named", async || {
        assert_eq!(chat(1).send(envoy.routed).await.status, 200);
        asked(&pods).pop().unwrap().1
    })
    .await;
    pods[0].set_load(warmpath_tests::Load::default());
    until("none is named", async || {
        assert_eq!(chat(1).send(envoy.routed).await.status, 200);
        asked(&pods).pop().unwrap().1.is_none().then_some(())
    })
    .await;
}

/// A pod that says what vLLM says when it is told of an engine that it does not have.
fn refuse_engines_from(pod: &TestPod, engines: usize) {
    pod.answer_by(move |received| {
        let rank = received.headers.get(RANK).map(|rank| rank.to_str().unwrap().parse::<usize>().unwrap());
        match rank.filter(|&rank| rank >= engines) {
            Some(rank) => {
                Answer::json(400, format!("data_parallel_rank {rank} is out of range [0, {engines})."))
            }
            None => Answer::Completion,
        }
    });
}

/// As while pods are replaced, one after the other, by such as have more engines, or fewer.
#[tokio::test]
async fn where_pods_have_different_numbers_of_engines_only_those_that_all_have_are_named() {
    let half: String = page()
        .lines()
        .filter(|line| !line.contains("\"2\"") && !line.contains("\"3\""))
        .fold(String::new(), |page, line| page + line + "\n");
    // Engines of the pods, and how many of them are common.
    for (engines, common) in [([4, 2, 4], 2), ([4, 1, 1], 0), ([4, 4, 4], 4)] {
        let mut pods = TestPod::several(3).await;
        for (pod, &engines) in pods.iter().zip(&engines) {
            match engines {
                4 => pod.set_page(page()),
                2 => pod.set_page(half.clone()),
                _ => {}
            }
            refuse_engines_from(pod, engines);
        }
        let envoy = Envoy::ready(&pods).await;
        envoy.sees(&pods).await;
        let ask = async |n: usize| {
            let reply = chat(n).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{engines:?}: {}", reply.text());
        };
        for n in 0..40 {
            ask(n).await;
        }
        let named =
            |pods: &[TestPod]| asked(pods).into_iter().filter_map(|(_, rank)| rank).collect::<Vec<_>>();
        let ranks = named(&pods);
        assert!(ranks.iter().all(|rank| rank.parse::<usize>().unwrap() < common), "{engines:?}: {ranks:?}");
        // Of 4 equal engines of a pod half are among the common ones where two are: that none of 40 is named
        // happens once in a billion runs.
        assert_eq!(ranks.is_empty(), common == 0, "{engines:?}: {ranks:?}");
        // The pod with most engines is gone, and whoever takes over serves what was meant for it.
        pods[0].kill().await;
        for n in 0..40 {
            ask(n).await;
        }
        envoy.accounts_for_nothing().await;
    }
}

/// One header names all pods, and Envoy goes on in it: any of them may meet the engine that is named.
#[tokio::test]
async fn in_a_list_of_pods_an_engine_is_named_only_where_all_of_the_cluster_have_it() {
    let pods = TestPod::several(3).await;
    for (pod, engines) in pods.iter().zip([ENGINES, ENGINES, 1]) {
        if engines > 1 {
            pod.set_page(page());
        }
        refuse_engines_from(pod, engines);
    }
    let all: Vec<(&TestPod, &str)> = pods.iter().map(|pod| (pod, "HEALTHY")).collect();
    let endpoints = Endpoints::of(&all);
    let envoy = attached(&pods, &endpoints, true).await;
    let topic = Cell::new(0);
    // Sends so many requests, and says which pods and engines they came to.
    let ask = async |requests: usize| {
        let before = asked(&pods).len();
        for _ in 0..requests {
            let reply = chat(topic.replace(topic.get() + 1)).send(envoy.routed).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        asked(&pods).split_off(before)
    };
    // Envoy is asked for the pods of a cluster once a request goes there.
    ask(1).await;
    envoy.sees_ready(3).await;
    let names_none = |places: &[(usize, Option<String>)]| places.iter().all(|(_, rank)| rank.is_none());
    until("each pod was asked ten times", async || {
        assert!(names_none(&ask(1).await));
        pods.iter().all(|pod| pod.begun() >= 10).then_some(())
    })
    .await;

    // The one with one engine leaves the cluster, as the last one that is replaced.
    endpoints.set(&all[..2]);
    let names_one = |places: &[(usize, Option<String>)]| places.iter().all(|(_, rank)| rank.is_some());
    until("engines are named", async || names_one(&ask(10).await).then_some(())).await;
    let places = ask(40).await;
    assert!(names_one(&places) && places.iter().all(|&(pod, _)| pod < 2), "{places:?}");

    // Another one comes in its place.
    endpoints.set(&all);
    until("no engine is named", async || names_none(&ask(10).await).then_some(())).await;
    let places = ask(40).await;
    assert!(names_none(&places), "{places:?}");
    envoy.accounts_for_nothing().await;
}

/// How much of the prompt the pod had in its cache.
fn cached(reply: &Reply) -> f64 {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let usage = &reply.json()["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap_or(0.0);
    cached / usage["prompt_tokens"].as_f64().unwrap()
}

/// On pods that play vLLM: the second round of each conversation finds the cache of the first, though all go
/// at once.
#[tokio::test]
async fn conversations_find_the_cache_of_their_engine() {
    const CONVERSATIONS: usize = 16;
    let flags = ["--profile", "h100", "--data-parallel-size", "2"];
    let pods: Vec<SimPod> = (0..2).map(|_| SimPod::start(SIMULATOR, &flags)).collect();
    let envoy = Envoy::at(pods.iter().map(SimPod::address).collect()).concurrency(2).start().await;
    envoy.sees_ready(2).await;
    let body = |n: usize, rounds: usize| {
        let words: String = (0..200).map(|word| format!("{n:>6} {word:<6} ")).collect();
        let turns: Vec<_> = (0..rounds)
            .flat_map(|_| {
                [json!({"role": "user", "content": words}), json!({"role": "assistant", "content": "Yes."})]
            })
            .collect();
        json!({"model": "/model/qwen", "max_tokens": 8, "messages": turns[..2 * rounds - 1]})
    };
    for rounds in 1..=3 {
        // Two at a time: where many wait at one engine, it is right that a conversation leaves it.
        let asked = (0..CONVERSATIONS)
            .map(|n| Request::post("/v1/chat/completions", &body(n, rounds)).send(envoy.routed));
        let replies: Vec<Reply> = futures::stream::iter(asked).buffered(2).collect().await;
        for (n, reply) in replies.iter().enumerate() {
            let share = cached(reply);
            let least = (rounds - 1) as f64 / rounds as f64 - 0.1;
            assert!(share >= least, "conversation {n} found {share} of round {rounds} in the cache");
        }
    }
    envoy.accounts_for_nothing().await;
}
