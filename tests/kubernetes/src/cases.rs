//! The cases, in the order in which they run.

mod attach;
mod conversation;
mod doors;
mod faults;
mod func_e;
mod pods;
mod pool_company;
mod pool_definitions;
mod pool_faults;
mod pool_install;
mod pool_pages;
mod pool_shapes;
mod pools;
mod reference;
mod shapes;
mod updates;

use std::pin::Pin;
use std::time::{Duration, Instant};

use warmpath_tests::{Account, Opened, Reply, Request, Stream, Traffic};

use crate::wait::until;
use crate::world::{World, at, routed};

/// What a case does; a panic is its failure.
type Run = for<'a> fn(&'a mut World) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What a case begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ground {
    /// Attached by policies, with an Envoy: [`World::reset`].
    Policies,
    /// The same, and the case starts the Envoy: [`World::reset_without_envoy`].
    #[value(skip)]
    Bare,
    /// An InferencePool and the controller: [`crate::pools::reset`].
    Pools,
}

impl Ground {
    /// Whether a cluster that has had the one case has what the other begins with, but for a moment's work.
    pub fn is_like(self, other: Ground) -> bool {
        (self == Ground::Pools) == (other == Ground::Pools)
    }
}

/// How a case runs beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At any time, while other clusters run other cases.
    Beside,
    /// The same, and it waits for most of about so many seconds: the longest begin first.
    Early(u32),
    /// It measures time: when the rest is done, beside at most one other that does.
    Timed,
    /// What it measures hangs on how processors are shared: at the end, with the machine for itself.
    Alone,
    /// It takes minutes, so it runs only where `--long` asks for it.
    Long,
}

/// A named case.
#[derive(Clone, Copy)]
pub struct Case {
    /// `module::function`.
    pub name: &'static str,
    /// What the case begins with.
    pub ground: Ground,
    /// How it runs beside others.
    pub pace: Pace,
    /// The case itself.
    pub run: Run,
}

impl Case {
    /// Whether it waits for most of its time.
    pub fn waits(&self) -> bool {
        matches!(self.pace, Pace::Early(_) | Pace::Long)
    }
}

/// Names functions of one module as cases, each with its pace where that is not [`Pace::Beside`].
macro_rules! cases {
    ($($module:ident on $ground:ident: $($name:ident $(($($pace:tt)+))?),+ $(,)?;)+) => {
        vec![$($(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            ground: Ground::$ground,
            pace: cases!(@ $($($pace)+)?),
            run: |world| Box::pin($module::$name(world)),
        },)+)+]
    };
    (@) => { Pace::Beside };
    (@ $pace:ident) => { Pace::$pace };
    (@ $pace:ident $seconds:literal) => { Pace::$pace($seconds) };
}

/// All of them: first those that take long, and last those that leave Envoy as it was, which share one.
pub fn all() -> Vec<Case> {
    cases! {
        updates on Policies:
            a_new_module_is_in_force_at_once_and_costs_no_request,
            a_trap_costs_one_request,
            envoy_gateway_restarts_while_the_module_cannot_be_had,
            envoy_gateway_restarts_and_brings_what_changed_meanwhile,
            the_api_server_is_away_and_comes_back (Early 35),
            a_module_that_cannot_be_had_leaves_traffic_flowing (Early 25),
            a_stream_of_ninety_seconds_survives_an_update (Early 95),
            streams_of_ten_minutes_survive_updates (Long),
            policies_are_removed_and_nothing_is_left (Early 25);
        updates on Bare:
            envoy_starts_while_the_module_cannot_be_had;
        doors on Policies:
            policies_that_come_later_have_their_effect,
            where_a_version_cannot_merge_nothing_is_printed,
            policies_that_are_there_first_keep_their_effect;
        doors on Bare:
            the_door_holds_while_the_module_cannot_be_had;
        shapes on Bare:
            merged_gateways_share_an_envoy,
            envoys_in_the_namespace_of_their_gateway,
            listeners_with_tls_and_http3_and_several_host_names,
            a_service_in_place_of_its_pods_is_told (Early 45);
        attach on Bare:
            a_singleton_collects_pages_show_it_and_a_broken_stream_is_answered_by_another_pod;
        func_e on Bare:
            func_e_runs_the_configuration_of_the_readme;
        faults on Bare:
            a_pod_that_lacks_one_of_two_ports,
            a_pod_that_is_ready_and_does_not_listen (Timed);
        conversation on Bare:
            a_burst_of_equal_prompts_is_answered_as_soon_as_by_least_request (Alone);
        shapes on Policies:
            the_names_of_listeners_change_under_load,
            a_listener_that_no_patch_names_hangs_nobody (Timed),
            a_rule_that_moves_takes_its_pool_along (Early 45),
            a_hundred_routes_to_the_same_pods,
            two_pools_on_one_listener_are_kept_apart,
            a_dual_stack_service_is_told,
            two_hundred_pods;
        faults on Policies:
            one_pod_is_ready_and_three_load (Timed),
            three_pods_load_for_ten_minutes (Long),
            a_pod_that_does_not_listen_is_told_of_once_in_five_minutes (Long),
            nobody_is_ready (Timed),
            pods_are_taken_out_while_they_stream (Early 63),
            two_hundred_requests_a_second_while_pods_are_replaced (Early 121);
        pods on Policies:
            pods_are_replaced_one_after_the_other_under_load,
            a_pod_that_is_added_is_used_within_a_second (Timed),
            a_pod_that_is_taken_out_gets_nothing_after_a_second (Timed),
            a_pod_that_terminates_gets_nothing_new_and_ends_its_stream;
        doors on Policies:
            a_second_policy_on_the_route_is_named_and_nothing_is_printed;
        attach on Policies:
            whole_bodies_reach_the_pod,
            the_printed_policies_are_accepted_and_the_check_says_so,
            a_client_names_no_pod,
            a_pod_that_is_dead_or_full_costs_nothing;
        conversation on Policies:
            the_second_round_goes_to_the_pod_of_the_first,
            twenty_conversations_stay_where_they_are;
        pool_faults on Pools:
            a_thousand_pods,
            envoy_restarts_while_the_api_server_is_gone,
            a_deletion_that_no_watch_has_seen_is_noticed (Early 35),
            pods_of_the_pool_are_taken_out_while_they_stream (Early 63),
            the_api_server_is_gone_for_a_minute (Early 85),
            the_api_server_accepts_and_never_answers_for_a_minute (Early 68);
        pool_install on Pools:
            rights_and_pages_are_where_envoy_gateway_and_its_envoys_are,
            it_is_installed_by_the_script_and_removed_again,
            the_install_stops_where_another_server_is_asked;
        pool_pages on Pools:
            pages_show_the_pools_pods_and_no_client_of_the_gateway_reaches_them;
        pool_definitions on Pools:
            the_older_definitions_go_and_come_back,
            the_stable_definition_goes_and_comes_back;
        pool_shapes on Pools:
            merged_gateways_with_a_pool_on_one,
            a_rule_that_moves_takes_its_pool_of_the_controller_along,
            weights_across_pools_hold_whatever_matches,
            what_stands_beside_a_pool_is_told,
            a_pod_that_serves_one_of_two_ports,
            envoys_of_pools_in_the_namespace_of_their_gateway,
            pods_with_addresses_of_both_families_and_of_the_newer_alone,
            envoy_gateway_that_does_not_ask_is_told_and_when_it_does_again (Early 68);
        reference on Pools:
            the_first_documents_files_are_served_as_they_stand,
            the_second_documents_conversation_stays_at_its_pod;
        pool_faults on Pools:
            an_address_that_was_given_to_a_stranger_gets_nothing,
            a_pod_that_is_replaced_before_its_first_page_leaves_nothing_behind,
            a_helper_that_is_ready_and_does_not_listen,
            envoy_gateway_is_killed_and_pools_are_served_on,
            envoy_restarts_while_controller_and_gateway_live,
            a_pod_that_takes_over_an_address_is_believed_to_hold_nothing,
            one_pod_of_the_pool_is_ready_and_three_load (Timed);
        pool_company on Pools:
            a_users_own_policies_keep_their_effect,
            a_pool_of_another_namespace_needs_a_grant,
            a_model_is_renamed_and_its_change_is_hot,
            an_objective_says_who_is_refused_when_pods_are_full,
            what_another_controller_wrote_stays;
        pools on Pools:
            the_controller_is_killed_and_nothing_is_lost,
            nothing_is_written_when_nothing_changes (Early 135),
            two_pools_of_one_name_are_two_pools,
            a_pool_keeps_its_share_beside_one_that_is_not_there,
            the_pools_pods_are_served_and_every_status_says_so,
            pods_come_load_leave_and_fail_within_a_second (Timed),
            a_selector_and_a_label_are_followed (Timed),
            the_strategy_is_hot (Timed),
            a_route_that_comes_before_its_pool_is_served_when_the_pool_comes (Timed);
        pool_faults on Pools:
            one_of_two_replicas_is_killed (Timed);
    }
}

/// A chat of its own, which must end whole.
async fn chat_ends_whole(number: usize) {
    let reply = Request::chat(&format!("Chat number {number}. {}", "And so on. ".repeat(number % 10)))
        .send(routed())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// Load while something changes: a hundred requests per second. As many as are answered would take the
/// processors from what changes.
fn brisk() -> Traffic {
    Traffic::paced(routed(), 4, 100)
}

/// Load for as long as something is away: fifty requests per second.
fn steady() -> Traffic {
    Traffic::paced(routed(), 4, 50)
}

/// Panics unless every request of the load ended whole.
fn whole(account: &Account) {
    assert!(
        account.lost().is_empty() && account.errors().is_empty() && account.broken() == 0,
        "{account}: {:?}",
        {
            let bad = account.sent.iter().filter(|sent| sent.ending != warmpath_tests::Ending::Whole);
            bad.take(5).map(|sent| (sent.at, &sent.ending)).collect::<Vec<_>>()
        }
    );
}

/// A stream that the pod writes as the case says, and the client's side of it.
async fn stream_at(world: &World, number: u8) -> (Stream, Opened) {
    let (stream, answer) = Stream::new();
    world.pods[&number].answer_next(answer);
    for turn in 0..200 {
        let prompt = format!("{turn} times I asked: {}", "who? ".repeat(turn * 40));
        let body = serde_json::json!({"model": "/model/qwen", "stream": true, "messages": [{"role": "user", "content": prompt}]});
        let opened = Request::post("/v1/chat/completions", &body).open(routed()).await;
        if opened.headers.get("x-test-pod").is_some_and(|pod| pod == at(number).as_str()) {
            return (stream, opened);
        }
    }
    panic!("of 200 streams none meets pod {number}");
}

/// For so many seconds streams of these pods go on, an event each second, and nothing new goes there; then
/// they end whole.
async fn only_streams_go_on<const N: usize>(
    world: &World,
    streams: [(u8, (Stream, Opened)); N],
    seconds: usize,
) {
    let begun = || streams.each_ref().map(|(number, _)| world.pods[number].begun());
    let before = begun();
    for second in 0..seconds {
        chat_ends_whole(second).await;
        streams.iter().for_each(|(_, (stream, _))| stream.chunk("data: {}\n\n"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(begun(), before, "pods that are taken out got new requests");
    for (_, (stream, mut opened)) in streams {
        stream.chunk("data: [DONE]\n\n");
        drop(stream);
        ends_with_done(&mut opened).await;
    }
}

/// Reads a stream to its end, which must be the proper one.
async fn ends_with_done(stream: &mut Opened) {
    let mut text = Vec::new();
    while let Some(chunk) = stream.chunk().await.expect("the rest of the stream") {
        text.extend_from_slice(&chunk);
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"), "the stream was cut after {} bytes", text.len());
}

/// Waits until a chat meets the pod.
async fn is_used(number: u8) {
    let mut turn = 0;
    until(&format!("pod {number} gets a chat"), async || {
        turn += 1;
        let reply =
            Request::chat(&format!("{turn} {}", "again ".repeat(turn % 100 * 20))).send(routed()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        (reply.pod() == at(number)).then_some(())
    })
    .await;
}

/// Waits for what takes longer than most, and panics when it takes longer than `bound`.
async fn until_within(bound: Duration, what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < bound, "waited {bound:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the request of this answer reached its pod with the header that names pods, which is Warmpath's
/// alone.
fn named_by_warmpath(world: &World, reply: &Reply) -> bool {
    let pod = world.pod_of(reply).expect("a pod of this case");
    pod.received().last().is_some_and(|request| request.headers.contains_key("x-warmpath-destination"))
}
