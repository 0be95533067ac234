//! Envoy's access log, which the printed EnvoyProxy has say what Warmpath has decided of each request.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use warmpath_tests::{Reply, Request};

use crate::gateway::Envoy;
use crate::objects::envoy_proxy;
use crate::world::routed;

/// How many requests were asked about: each has a `user-agent` of its own, by which its line is found.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// The line of the access log about one request.
#[derive(Debug)]
pub struct Line(Value);

impl Line {
    /// The pods that were named for the request, the best first.
    pub fn chosen(&self) -> Vec<&str> {
        self.0["chosen"].as_str().map_or(Vec::new(), |pods| pods.split(',').collect())
    }

    /// A part of its field `decision`; nothing where that has no such part.
    pub fn decision(&self, part: &str) -> Option<&str> {
        self.0["decision"].as_str()?.split(' ').find_map(|each| each.strip_prefix(part)?.strip_prefix('='))
    }

    /// Whether the pod was believed to hold more than half of the prompt.
    pub fn is_warm(&self) -> bool {
        let matched = || {
            let (part, whole) = self.decision("matched")?.split_once('/')?;
            Some((part.parse::<u64>().ok()?, whole.parse::<u64>().ok()?))
        };
        let (part, whole) = matched().unwrap_or_else(|| panic!("no matched tokens in {}", self.0));
        2 * part > whole
    }
}

/// Sends a request to the routed port: the answer, and the line about it.
pub async fn ask(envoy: &Envoy, request: Request) -> (Reply, Line) {
    let agent = format!("asked-{}", ASKED.fetch_add(1, Ordering::Relaxed));
    let before = std::fs::metadata(&envoy.access_log).map_or(0, |file| file.len());
    let reply = request.header("user-agent", &agent).send(routed()).await;
    // Its line comes within milliseconds, and a look at the file costs nobody anything.
    let line = warmpath_tests::until(&format!("the access log had the request {agent}"), async || {
        let mut file = File::open(&envoy.access_log).ok()?;
        file.seek(SeekFrom::Start(before)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["user-agent"] == agent)
    })
    .await;
    (reply, Line(line))
}

/// Panics unless the printed access log has the fields of this Envoy's, and of its own those of [`Line`].
pub async fn printed_has_all_of(envoy: &Envoy) {
    let listeners = envoy.admin("/config_dump?resource=dynamic_listeners").await.unwrap().json();
    let theirs = json_formats(&listeners);
    assert!(!theirs.is_empty(), "no access log in {listeners}");
    let proxy = envoy_proxy(json!({}));
    let ours = &proxy["spec"]["telemetry"]["accessLog"]["settings"][0]["format"]["json"];
    for their in theirs {
        let mut more = ours.as_object().unwrap().clone();
        for (field, value) in their {
            assert_eq!(more.remove(field).as_ref(), Some(value), "{field}");
        }
        assert_eq!(more.keys().collect::<Vec<_>>(), ["answer", "chosen", "decision"]);
    }
}

/// The fields of each access log in JSON, wherever it stands.
fn json_formats(inside: &Value) -> Vec<&Map<String, Value>> {
    match inside {
        Value::Object(fields) => {
            let here = fields.get("json_format").and_then(Value::as_object);
            here.into_iter().chain(fields.values().flat_map(json_formats)).collect()
        }
        Value::Array(items) => items.iter().flat_map(json_formats).collect(),
        _ => Vec::new(),
    }
}
