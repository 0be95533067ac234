//! The cases, in the order in which they run.

mod attach;
mod pods;
mod updates;

use std::pin::Pin;

use warmpath_tests::{Account, Request};

use crate::world::{World, routed};

/// What a case does; a panic is its failure.
type Run = for<'a> fn(&'a mut World) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A named case.
pub struct Case {
    /// `module::function`.
    pub name: &'static str,
    /// The case itself, which begins with [`World::reset`] done.
    pub run: Run,
}

/// Names functions of one module as cases.
macro_rules! cases {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        vec![$($(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |world| Box::pin($module::$name(world)),
        },)+)+]
    };
}

/// All of them.
pub fn all() -> Vec<Case> {
    cases! {
        attach:
            the_printed_policies_are_accepted_and_the_check_says_so,
            a_client_names_no_pod,
            whole_bodies_reach_the_pod,
            a_pod_that_is_dead_or_full_costs_nothing;
        pods:
            a_pod_that_is_added_is_used_within_a_second,
            a_pod_that_terminates_gets_nothing_new_and_ends_its_stream,
            pods_are_replaced_one_after_the_other_under_load;
        updates:
            envoy_gateway_restarts_and_brings_what_changed_meanwhile,
            the_api_server_is_away_and_comes_back,
            a_new_module_is_in_force_at_once_and_costs_no_request,
            a_module_that_cannot_be_had_leaves_traffic_flowing,
            envoy_starts_while_the_module_cannot_be_had;
    }
}

/// A chat of its own, which must end whole.
async fn chat_ends_whole(number: usize) {
    let reply = Request::chat(&format!("Chat number {number}. {}", "And so on. ".repeat(number % 10)))
        .send(routed())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
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
