//! What a platform team laid on its Gateway keeps its effect, whether it was there first or comes later.

use serde_json::{Value, json};
use warmpath_tests::Request;

use super::named_by_warmpath;
use crate::api::{BACKEND_POLICY, CLIENT_POLICY, CRD, EXTENSION_POLICY, PATCH_POLICY};
use crate::wait::until;
use crate::world::{World, at, input, plain, routed};

pub async fn policies_that_are_there_first_keep_their_effect(world: &mut World) {
    world.spoilt();
    detach(world).await;
    world.cluster().pipe(&["apply"], &input("door.yaml")).await;
    door_is_shut(plain()).await;
    world.attach(&[]).await;
    // A cluster that changed is used with its endpoints, 15 s later; one that Envoy starts with, at once.
    world.start_envoy().await;
    the_door_holds(world).await;
    // And it is as before when Warmpath goes.
    let printed = world.print(&world.module, &[]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    world.cluster().pipe(&["delete", "--ignore-not-found"], &printed.out).await;
    door_is_shut(routed()).await;
    until("Warmpath names no pod any more", async || {
        let reply = Request::chat("Who?").header("x-key", "k").send(routed()).await;
        (reply.status == 200 && !named_by_warmpath(world, &reply)).then_some(())
    })
    .await;
    assert_eq!(Request::chat("Who?").send(routed()).await.status, 403);
}

pub async fn policies_that_come_later_have_their_effect(world: &mut World) {
    world.spoilt();
    world.cluster().pipe(&["apply"], &input("door.yaml")).await;
    door_is_shut(routed()).await;
    world.start_envoy().await;
    the_door_holds(world).await;
    let checked = world.check().await;
    assert_eq!(checked.code, 0, "{}", checked.out);
}

pub async fn the_door_holds_while_the_module_cannot_be_had(world: &mut World) {
    world.spoilt();
    world.modules.go();
    world.start_gateway(json!({})).await;
    world.cluster().pipe(&["apply"], &input("door.yaml")).await;
    world.start_envoy().await;
    door_is_shut(routed()).await;
    door_is_shut(plain()).await;
    // Warmpath is not there to set the header, so a pod sees one only if the client's gets through.
    for number in [11, 12, 13] {
        let reply = Request::chat("Who?")
            .header("x-key", "k")
            .header("x-warmpath-destination", at(number))
            .send(routed())
            .await;
        assert_eq!(reply.status, 200);
        assert!(!named_by_warmpath(world, &reply), "the client's header reached the pod");
    }
    world.modules.come().await;
}

pub async fn a_second_policy_on_the_route_is_named_and_nothing_is_printed(world: &mut World) {
    world.cluster().pipe(&["apply"], &input("second-on-route.yaml")).await;
    let printed = world.print(&world.module, &[]).await;
    assert_eq!(printed.code, 1, "{}", printed.out);
    assert!(
        printed.out.is_empty() && printed.err.contains("EnvoyExtensionPolicy default/stamp"),
        "{}",
        printed.err
    );
    assert_eq!(printed.err.lines().count(), 1, "{}", printed.err);
    let checked = world.check().await;
    assert_eq!(checked.code, 1, "{}", checked.out);
    assert!(checked.out.contains("EnvoyExtensionPolicy default/stamp"), "{}", checked.out);
    world.rewrite().await;
}

pub async fn where_a_version_cannot_merge_nothing_is_printed(world: &mut World) {
    world.spoilt();
    let name = "envoyextensionpolicies.gateway.envoyproxy.io";
    let definition = world.cluster().get(CRD, "", name).await.unwrap();
    // Before 1.9 the kind has no such field.
    let mut older = definition.clone();
    let spec = &mut older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"].as_object_mut().unwrap().remove("mergeType").expect("the field");
    let rules = spec["x-kubernetes-validations"].as_array_mut().unwrap();
    rules.retain(|rule| !rule["rule"].as_str().unwrap().contains("mergeType"));
    world.cluster().replace(CRD, &older).await;
    world.cluster().pipe(&["apply"], &input("door.yaml")).await;
    let printed = until("the older definition is in force", async || {
        let printed = world.print(&world.module, &[]).await;
        (printed.code == 1).then_some(printed)
    })
    .await;
    assert!(
        printed.out.is_empty() && printed.err.contains("EnvoyExtensionPolicy default/door would be lost"),
        "{}",
        printed.err
    );
    assert!(printed.err.contains("upgrade to 1.9"), "{}", printed.err);
    world.cluster().replace(CRD, &definition).await;
    until("the definition is back", async || (world.print(&world.module, &[]).await.code == 0).then_some(()))
        .await;
}

/// Takes Warmpath away.
async fn detach(world: &World) {
    for (kind, name) in [
        (EXTENSION_POLICY, "warmpath"),
        (BACKEND_POLICY, "warmpath"),
        (PATCH_POLICY, "warmpath"),
        (PATCH_POLICY, "warmpath-by-port"),
    ] {
        world.cluster().delete(kind, "default", name).await;
    }
}

async fn door_is_shut(port: std::net::SocketAddr) {
    until("who has no key gets 403", async || {
        (Request::chat("Hello?").send(port).await.status == 403).then_some(())
    })
    .await;
}

/// No key is 403 on both ports, the sixth request a minute of one tenant is 429, requests are routed, a
/// client names no pod, and the other settings of the connection are in force.
async fn the_door_holds(world: &World) {
    for port in [plain(), routed()] {
        assert_eq!(Request::chat("Hello?").send(port).await.status, 403, "{port}");
    }
    until("a chat with a key is routed by Warmpath", async || {
        let reply = Request::chat("Who?").header("x-key", "k").send(routed()).await;
        assert_eq!(reply.status, 200);
        named_by_warmpath(world, &reply).then_some(())
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let request = Request::chat("Me again").header("x-key", "k").header("x-tenant", "small");
        statuses.push(request.send(routed()).await.status.as_u16());
    }
    // Both workers take from one bucket: the limit is the process's.
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let reply = Request::chat("Who?")
        .header("x-key", "k")
        .header("x-warmpath-destination", "10.244.0.99:8000")
        .send(routed())
        .await;
    let pod = world.pod_of(&reply).unwrap();
    let seen = pod.received().pop().unwrap().headers;
    assert!(
        !seen.get_all("x-warmpath-destination").iter().any(|value| value == "10.244.0.99:8000"),
        "{seen:?}"
    );
    let conflicted = |policy: &Value| policy.to_string().contains("\"Conflicted\"");
    let front = world.cluster().get(CLIENT_POLICY, "default", "front").await.unwrap();
    assert!(!conflicted(&front), "{front:#}");
}
