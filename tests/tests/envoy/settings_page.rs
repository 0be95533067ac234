//! The settings of a pool in a file or on a page that is looked at again and again: they change while Envoy
//! runs.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use warmpath_tests::{Answer, Envoy, Request, TestPod, Traffic, until};

use crate::settings::{BAD, BY_LOAD, BY_PREFIX, LongStream, chat, model, takes};

const UNFETCHED: &str = "wasmcustom.warmpath_unfetched_settings_total.pool=default;";
const REFUSED: &str = "wasmcustom.warmpath_refused_settings_total.pool=default;";

/// An Envoy that looks for settings where `flag` says.
async fn follows(pods: &[TestPod], flag: &str, source: &str) -> Envoy {
    let envoy = Envoy::of(pods)
        .flag(flag, source)
        .flag("--settings-ms", "100")
        .concurrency(2)
        .log_level("info")
        .start()
        .await;
    envoy.sees_ready(pods.len()).await;
    envoy
}

/// As an editor does it: never half of it.
fn write(file: &Path, text: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_changes_the_settings_and_touches_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pool settings.json");
    let pods = TestPod::several(3).await;
    let envoy = follows(&pods, "--settings-file", file.to_str().unwrap()).await;
    // Without the file the configuration holds, and the log says that there is none.
    envoy
        .logs(&[
            "settings cannot be fetched, those in force stay",
            "/pool%20settings.json by",
            "it answers 404",
        ])
        .await;
    takes(&envoy, BY_PREFIX).await;

    // A stream that lasts longer than all that follows.
    let home = chat(1).send(envoy.routed).await.pod().to_owned();
    let home = pods.iter().find(|pod| pod.address() == home).unwrap();
    let stream = LongStream::open(&envoy, home, 1).await;

    pods.iter().for_each(|pod| pod.answer_all(model));
    let load = Traffic::start(envoy.routed, 6);
    load.more(20).await;
    for _ in 0..2 {
        write(&file, r#"{"$schema": "pool-settings.schema.json", "strategy": "LOAD_ONLY"}"#);
        takes(&envoy, BY_LOAD).await;
        write(&file, r#"{"strategy": "PREFIX_CACHE"}"#);
        takes(&envoy, BY_PREFIX).await;
    }
    // More than the strategy: a name is refused.
    write(&file, r#"{"models": [{"name": "a"}], "unknown_models": "refuse"}"#);
    until("the name was refused", async || {
        (Request::post("/v1/completions", &json!({"model": "b", "prompt": "x"}))
            .send(envoy.routed)
            .await
            .status
            == 404)
            .then_some(())
    })
    .await;
    write(&file, "{}");
    until("it passes again", async || (chat(3).send(envoy.routed).await.status == 200).then_some(())).await;
    let account = load.stop().await;
    assert_eq!(account.resent(), 0, "a connection was closed: {account}");
    stream.ends_whole().await;
    let listeners = envoy.stats("^listener_manager\\.listener_modified$").await;
    assert_eq!(listeners.get("listener_manager.listener_modified"), Some(&0), "{listeners:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_the_last_good_one_in_force_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    // A folder can be opened, and is no document.
    std::fs::create_dir(&file).unwrap();
    let pods = TestPod::several(2).await;
    let envoy = follows(&pods, "--settings-file", file.to_str().unwrap()).await;
    envoy.logs(&["settings cannot be fetched, those in force stay", "it answers 404"]).await;
    std::fs::remove_dir(&file).unwrap();
    write(&file, r#"{"strategy": "LOAD_ONLY"}"#);
    takes(&envoy, BY_LOAD).await;
    for (nth, (text, why)) in (1..).zip([
        (r#"{"strategy": "FASTEST"}"#, "`strategy` is \"FASTEST\"; use \"PREFIX_CACHE\" or"),
        (r#"{"stratgy": "PREFIX_CACHE"}"#, "`stratgy` is no setting"),
        ("{\"strategy\": ", "not valid JSON: error at line 1"),
    ]) {
        write(&file, text);
        let line = envoy.logs(&["are refused, those before stay in force", why]).await;
        assert!(line.contains(&format!("settings of the page {} are", file.display())), "{line}");
        assert_eq!((envoy.stat(BAD).await, envoy.stat(REFUSED).await), (1, nth));
        let by_prefix = envoy.told().await.stat(BY_PREFIX).await;
        takes(&envoy, BY_LOAD).await;
        assert_eq!(envoy.told().await.stat(BY_PREFIX).await, by_prefix);
    }
    // It is gone: nothing changes. It is back, and good.
    let before = envoy.stat(UNFETCHED).await;
    std::fs::remove_file(&file).unwrap();
    until("it was missed", async || (envoy.stat(UNFETCHED).await > before).then_some(())).await;
    takes(&envoy, BY_LOAD).await;
    write(&file, r#"{"strategy": "PREFIX_CACHE"}"#);
    takes(&envoy, BY_PREFIX).await;
    assert_eq!(envoy.stat(BAD).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_asked_for_by_its_tag() {
    let settings = Arc::new(Mutex::new((String::from(r#"{"strategy": "LOAD_ONLY"}"#), 1)));
    let server = TestPod::start().await;
    let served = Arc::clone(&settings);
    server.answer_by(move |received| {
        let (text, version) = served.lock().unwrap().clone();
        let tag = format!("\"{version}\"");
        if received.headers.get("if-none-match").is_some_and(|known| known == tag.as_str()) {
            return Answer::Whole(304, vec![("etag", tag)], "".into());
        }
        Answer::Whole(200, vec![("etag", tag), ("content-type", "application/json".into())], text.into())
    });
    let pods = TestPod::several(2).await;
    let url = format!("http://{}/pools/default.json?x=1", server.address());
    let envoy = follows(&pods, "--settings-url", &url).await;
    takes(&envoy, BY_LOAD).await;
    until("it was asked for again, by its tag", async || {
        let received = server.received();
        let last = received.last()?;
        assert_eq!(last.path, "/pools/default.json?x=1");
        assert_eq!(last.headers["host"], server.address().as_str());
        last.headers.get("if-none-match").is_some_and(|tag| tag == "\"1\"").then_some(())
    })
    .await;
    *settings.lock().unwrap() = (r#"{"strategy": "PREFIX_CACHE"}"#.into(), 2);
    takes(&envoy, BY_PREFIX).await;
    assert_eq!(envoy.stat(BAD).await, 0);
    assert_eq!(envoy.log().matches("settings of the page /pools/default.json?x=1").count(), 2);
}
