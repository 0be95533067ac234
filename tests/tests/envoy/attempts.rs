//! One Envoy with two clusters, only one of which has the answer filter: what passes it tells nothing of the
//! attempts of requests to the other.

use warmpath_tests::{Answer, Envoy, Request, Stream, TestPod, until};

/// A cluster like `warmpath`, without its answer filter.
const UNFILTERED: &str = r#"
    - name: unfiltered
      lb_policy: CLUSTER_PROVIDED
      cluster_type:
        name: envoy.clusters.composite
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.clusters.composite.v3.ClusterConfig
          clusters: [{ name: warmpath-choice-1 }, { name: warmpath-choice-2 }, { name: warmpath-choice-3 }]
"#;

/// Clients name the cluster.
fn with_an_unfiltered_cluster(text: String) -> String {
    let route = text.replacen("cluster: warmpath\n", "cluster_header: x-cluster\n", 1);
    assert_ne!(route, text);
    let clusters =
        route.replacen("\n    - name: warmpath\n", &format!("{UNFILTERED}    - name: warmpath\n"), 1);
    assert_ne!(clusters, route);
    clusters
}

#[tokio::test]
async fn a_failover_counts_where_another_cluster_has_an_answer_filter_that_holds_a_stream() {
    let pods = TestPod::several(3).await;
    let envoy = Envoy::of(&pods).concurrency(1).edit(with_an_unfiltered_cluster).start().await;
    envoy.sees(&pods).await;
    let (stream, answer) = Stream::new();
    let (others, holder) = pods.split_at(2);
    // Equal pods are drawn, so it takes a while until the last one is met.
    holder[0].answer_next(answer);
    let mut n = 0;
    let held = loop {
        n += 1;
        let chat = Request::streamed_chat(&format!("{n}: {}", "hold on ".repeat(20)));
        let sent = tokio::spawn(chat.header("x-cluster", "warmpath").send(envoy.routed));
        until("a pod is asked", async || {
            (pods.iter().map(|pod| pod.received().len()).sum::<usize>() == n).then_some(())
        })
        .await;
        if !holder[0].received().is_empty() {
            break sent;
        }
        assert!(n < 200, "the pod with the stream is never met");
        assert_eq!(sent.await.unwrap().status, 200);
    };
    others[0].answer_all(|| Answer::Reset);
    let (met, came) = (others[0].received().len(), "cluster.warmpath-choice-1.upstream_cx_rx_bytes_total");
    // A line that has no end yet. Its first piece is longer than the headers, which may still be on their
    // way, and all pieces together are less than the answer filter holds.
    let mut piece = format!("data: {}", "x".repeat(4096));
    for nth in 0.. {
        if others[0].received().len() > met {
            break;
        }
        assert!(nth < 200, "the pod that fails is never met");
        let due = envoy.stat(came).await + piece.len() as i64;
        stream.chunk(std::mem::replace(&mut piece, "x".repeat(32)));
        until("the piece is held", async || (envoy.stat(came).await >= due).then_some(())).await;
        let reply = Request::chat(&format!("{nth}: {}", "what now? ".repeat(20)))
            .header("x-cluster", "unfiltered")
            .send(envoy.routed)
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(envoy.stat("wasmcustom.warmpath_failovers_total.pool=default;").await, 1);
    stream.chunk("\n\ndata: [DONE]\n\n");
    drop(stream);
    assert_eq!(held.await.unwrap().status, 200);
    envoy.accounts_for_nothing().await;
}
