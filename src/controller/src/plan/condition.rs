//! Conditions, as `metav1.Condition` has them: written only where they say something new.

use serde_json::{Value as Json, json};

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// The conditions for a status: those of `wanted`, with the time of the last change kept where the status is
/// as before, and after them those in `existing` that are not ours. `now`: RFC 3339, UTC.
pub fn merge(existing: &Json, wanted: &[Condition], generation: i64, now: &str) -> Vec<Json> {
    let existing = existing.as_array().map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &str| existing.iter().find(|c| c.get("type").and_then(Json::as_str) == Some(kind));
    let written = wanted.iter().map(|condition| {
        let status = if condition.status { "True" } else { "False" };
        let before = of_kind(condition.kind).filter(|before| before.get("status").and_then(Json::as_str) == Some(status));
        let since = before.and_then(|before| before.get("lastTransitionTime")?.as_str()).unwrap_or(now);
        json!({
            "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
            "observedGeneration": generation, "lastTransitionTime": since,
        })
    });
    let ours = |c: &&Json| !wanted.iter().any(|w| c.get("type").and_then(Json::as_str) == Some(w.kind));
    written.chain(existing.iter().filter(ours).cloned()).collect()
}

/// What a change of conditions tells people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct News {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What is new from `before` to `after`: each condition that is wrong now in a way it was not, or right
/// again.
pub fn news(before: &Json, after: &[Json]) -> Vec<News> {
    let before = before.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |condition: &Json, key: &str| {
        condition.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
    };
    let mut all = Vec::new();
    for condition in after {
        let was = before.iter().find(|c| text(c, "type") == text(condition, "type"));
        let wrong = text(condition, "status") == "False";
        let was_wrong = was.is_some_and(|was| text(was, "status") == "False");
        let same = was.is_some_and(|was| text(was, "message") == text(condition, "message"));
        if (wrong && !(was_wrong && same)) || (!wrong && was_wrong) {
            let (reason, message) = (text(condition, "reason"), text(condition, "message"));
            all.push(News { warning: wrong, reason, message });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(status: bool) -> Vec<Condition> {
        vec![Condition { kind: "Accepted", status, reason: "Accepted", message: "m".into() }]
    }

    #[test]
    fn the_time_of_a_change_stays_until_the_status_changes() {
        let first = Json::Array(merge(&Json::Null, &wanted(true), 1, "t1"));
        assert_eq!(first[0]["lastTransitionTime"], "t1");
        assert_eq!(Json::Array(merge(&first, &wanted(true), 1, "t2")), first);
        let later = merge(&first, &wanted(true), 2, "t2");
        assert_eq!(
            (&later[0]["lastTransitionTime"], &later[0]["observedGeneration"]),
            (&json!("t1"), &json!(2))
        );
        assert_eq!(merge(&first, &wanted(false), 2, "t3")[0]["lastTransitionTime"], "t3");
    }

    #[test]
    fn only_what_goes_wrong_and_what_is_right_again_is_news() {
        let good = merge(&Json::Null, &wanted(true), 1, "t");
        assert_eq!(news(&Json::Null, &good), []);
        let bad = merge(&Json::Null, &wanted(false), 1, "t");
        let wrong = News { warning: true, reason: "Accepted".into(), message: "m".into() };
        assert_eq!(news(&Json::Array(good.clone()), &bad), [wrong]);
        assert_eq!(news(&Json::Array(bad.clone()), &bad), []);
        assert!(!news(&Json::Array(bad), &good)[0].warning);
    }

    #[test]
    fn what_others_say_stays() {
        let existing = json!([{"type": "Other", "status": "True"}]);
        let merged = merge(&existing, &wanted(true), 1, "t");
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[1], existing[0]);
    }
}
