//! Requests as clients of vLLM send them, through the attached gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use futures::future::join_all;
use serde_json::json;
use warmpath_tests::Request;

use crate::access_log::ask;
use crate::process::{Process, program};
use crate::sandbox::address;
use crate::wait::until;
use crate::world::{POOL, World, at, plain, routed};

/// What both rounds of the reference's conversation begin with.
const OPENING: &str = "Hi, here's some system prompt: hi hi hi hi hi hi hi hi hi hi.For user 3, here are some other context: \
    hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi hi.I would like to test your intelligence. for this purpose I would \
    like you to play zork. you can interact with the game by typing in commands. I will forward these commands to the game and \
    type in any response. are you ready?";

pub async fn the_second_round_goes_to_the_pod_of_the_first(world: &mut World) {
    let (first, line) = ask(world.envoy(), round(&[("user", OPENING)])).await;
    assert_eq!(first.status, 200);
    assert_eq!(line.decision("reason"), Some("load"), "{line:?}");
    assert!(!line.is_warm(), "{line:?}");
    let before = world.envoy().said().matches("Do prefix-aware routing!").count();
    let second = round(&[
        ("user", OPENING),
        (
            "assistant",
            "Hi there! It looks like you're setting up a fun test. I'm ready to play Zork! You can",
        ),
        (
            "user",
            "% zork\nWelcome to Dungeon. This version created 11-MAR-91.\nYou are in an open field west of a big white house \
             with a boarded\nfront door.\nThere is a small mailbox here.\n>",
        ),
        ("assistant", "Great!"),
        ("user", "Opening the mailbox reveals:\n A leaflet.\n>"),
    ]);
    let (second, line) = ask(world.envoy(), second).await;
    assert_eq!(second.status, 200);
    assert_eq!(second.pod(), first.pod());
    // Among all that Envoy Gateway's own access log has.
    assert_eq!(line.decision("reason"), Some("prefix"), "{line:?}");
    assert!(line.is_warm(), "{line:?}");
    assert_eq!(line.chosen().first(), Some(&second.pod()), "{line:?}");
    until("the log has the reference's line", async || {
        (world.envoy().said().matches("Do prefix-aware routing!").count() > before).then_some(())
    })
    .await;
}

/// Simulated pods, whose first tokens depend on where prompts went. They are slow, since clients and gateway
/// share their processors. The ports take turns, so that what slows the machine down slows both, and the
/// middle one of the rounds counts.
///
/// Each burst follows two hundred other prompts, so that the share of recent prompts that it has is small at
/// first.
pub async fn a_burst_of_equal_prompts_is_answered_as_soon_as_by_least_request(world: &mut World) {
    const ROUNDS: usize = 3;
    world.spoilt();
    world.end_pods().await;
    let pods = [11, 12, 13].map(|number| SimulatedPod::start(world, number));
    for pod in &pods {
        pod.listens().await;
    }
    // By mean or last first token, cold or warm: least request's seconds and Warmpath's, of each round.
    let mut rounds: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for number in 0..ROUNDS {
        let mut ports = [("least request", plain()), ("Warmpath", routed())];
        ports.rotate_left(number % 2);
        world.start_envoy().await;
        world.envoy().knows(POOL, &[11, 12, 13].map(|number| (at(number), "HEALTHY"))).await;
        // Warmpath looks for the pods of a cluster when a request comes to it, and reads their loads ten
        // times as often while requests come.
        until("every pod answers, and has told its load", async || {
            if Request::get("/v1/models").send(routed()).await.status != 200 {
                return None;
            }
            let envoy = world.envoy();
            let told = envoy.metric("warmpath_scrapes_total").await? >= 9.0;
            (told && envoy.metric("warmpath_ready_pods").await? == 3.0).then_some(())
        })
        .await;
        let mut times: BTreeMap<(&str, &str), [f64; 2]> = BTreeMap::new();
        for (name, port) in ports {
            let prompt = format!("{name} {number}. {}", "The same words for all of them. ".repeat(200));
            join_all((0..200).map(async |other| burst(&format!("{other} {name} {number}"), 1, port).await))
                .await;
            for temperature in ["cold", "warm"] {
                times.insert((name, temperature), burst(&prompt, 64, port).await);
            }
        }
        for (temperature, mean, last) in
            [("cold", "cold, mean", "cold, last"), ("warm", "warm, mean", "warm, last")]
        {
            let (theirs, ours) = (times[&("least request", temperature)], times[&("Warmpath", temperature)]);
            rounds.entry(mean).or_default().push((theirs[0], ours[0]));
            rounds.entry(last).or_default().push((theirs[1], ours[1]));
        }
    }
    let ratio = |&(theirs, ours): &(f64, f64)| ours / theirs;
    let mut middles = Vec::new();
    for (of, mut rounds) in rounds {
        rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        let middle = ratio(&rounds[ROUNDS / 2]);
        println!("{of}: {middle:.3} of least request's; seconds (least request's, Warmpath's): {rounds:.3?}");
        middles.push(middle);
    }
    assert!(middles.iter().all(|middle| *middle <= 1.1), "{middles:.3?} of least request's");
}

/// Mean and largest time to the first token, in seconds, of so many equal prompts that are sent at once.
async fn burst(prompt: &str, times: usize, to: SocketAddr) -> [f64; 2] {
    let body = json!({"model": "/model/qwen", "stream": true, "max_tokens": 1, "messages": [{"role": "user", "content": prompt}]});
    let times = join_all((0..times).map(async |_| {
        let start = Instant::now();
        let mut opened = Request::post("/v1/chat/completions", &body).open(to).await;
        assert_eq!(opened.status, 200);
        let _ = opened.chunk().await.expect("a first token");
        let time = start.elapsed().as_secs_f64();
        while opened.chunk().await.expect("the rest of the stream").is_some() {}
        time
    }))
    .await;
    [times.iter().sum::<f64>() / times.len() as f64, times.into_iter().fold(0.0, f64::max)]
}

/// A pod that is a process of its own, the simulator's.
struct SimulatedPod {
    at: SocketAddr,
    _process: Process,
}

impl SimulatedPod {
    fn start(world: &World, number: u8) -> SimulatedPod {
        let mut command = Command::new(program("warmpath-sim"));
        command.args(["pod", "--host", &address::pod(number), "--port", "8000", "--speed-up", "0.25"]);
        let process = Process::start("simulated-pods", &world.ground.logs(), &mut command);
        SimulatedPod { at: at(number).parse().unwrap(), _process: process }
    }

    async fn listens(&self) {
        until("a simulated pod listens", async || tokio::net::TcpStream::connect(self.at).await.ok()).await;
    }
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
