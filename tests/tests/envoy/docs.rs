//! The documents name metrics, log lines, settings and flags as the code has them. These tests start no
//! Envoy.

use std::collections::BTreeSet;

use warmpath_tests::{command, repository};

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The contents of the files in a folder that end in `end`, with their names.
fn files(folder: &str, end: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(repository().join(folder)).unwrap();
    let names = entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display()));
    let mut names: Vec<String> = names.filter(|name| name.ends_with(end)).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// A metric of `src/wasm/src/metrics.rs`.
struct Documented {
    /// Without `warmpath_`.
    name: String,
    kind: String,
    /// `{by="prefix"}`, or only `{version}` if the code computes the value; empty without a label.
    label: String,
    help: String,
}

/// Reads a line like `by_load: counter "requests_total" { by = "load" }, "Requests routed by load alone.";`.
fn documented(line: &str) -> Option<Documented> {
    let (_, rest) = line.trim().split_once(": ")?;
    let (kind, rest) = rest.split_once(" \"")?;
    let (name, rest) = rest.split_once('"')?;
    // A histogram has its buckets after the text.
    let rest = rest.rsplit_once("\", ").filter(|_| kind == "histogram").map_or(rest, |(rest, _)| rest);
    let rest = rest.strip_suffix("\";").unwrap_or(rest);
    let (label, help) = rest.split_once(", \"")?;
    let label = match label.trim().strip_prefix("{ ").and_then(|label| label.strip_suffix(" }")) {
        Some(label) => match label.split_once(" = ") {
            Some((key, value)) if value.starts_with('"') => format!("{{{key}={value}}}"),
            Some((key, _)) => format!("{{{key}}}"),
            None => format!("{{{label}}}"),
        },
        None => String::new(),
    };
    let is_kind = ["counter", "gauge", "histogram"].contains(&kind);
    is_kind.then(|| Documented { name: name.into(), kind: kind.into(), label, help: help.into() })
}

/// Reads the start of `Family("warmpath_pod_in_flight", "gauge", "Requests ...", |...`, after its first
/// bracket.
fn documented_of_pod(text: &str) -> Option<Documented> {
    let mut words = text.split('"');
    let (before, name, _, kind, _, help) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let name = name.strip_prefix("warmpath_").filter(|_| before.trim().is_empty())?;
    Some(Documented { name: name.into(), kind: kind.into(), label: "{pod}".into(), help: help.into() })
}

fn metrics() -> Vec<Documented> {
    let mut found: Vec<Documented> = read("src/wasm/src/metrics.rs").lines().filter_map(documented).collect();
    let pods = read("src/core/src/monitor/pods.rs");
    let of_pods: Vec<Documented> = pods.split("Family(").filter_map(documented_of_pod).collect();
    assert!(of_pods.len() > 10, "only {} metrics of pods found: has pods.rs changed?", of_pods.len());
    found.extend(of_pods);
    assert!(found.len() > 20, "only {} metrics found: has the form of metrics.rs changed?", found.len());
    found
}

#[test]
fn every_metric_is_in_operations_md_with_its_type_and_help() {
    let page = read("docs/operations.md");
    for Documented { name, kind, label, help } in metrics() {
        let row = format!("| `warmpath_{name}{label}` | {kind} | {help} |");
        assert!(page.contains(&row), "docs/operations.md lacks the row\n{row}");
    }
}

#[test]
fn the_dashboard_is_the_one_that_its_script_prints() {
    let printed = command("scripts/dashboard", &[], &[]);
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(
        printed.out == read("manifests/monitoring/dashboard.json"),
        "run scripts/dashboard > manifests/monitoring/dashboard.json"
    );
}

#[test]
fn every_alert_has_a_test_that_it_fires_and_a_row_that_says_what_to_do() {
    let (tests, page) = (read("manifests/monitoring/rules-test.yml"), read("docs/operations.md"));
    let rules = read("manifests/monitoring/rules.yml");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("- name: {alert} fires")), "{alert} has no test in rules-test.yml");
        assert!(page.contains(&format!("`{alert}`")), "docs/operations.md lacks the alert {alert}");
    }
}

#[test]
fn every_metric_that_a_document_names_exists() {
    const DOCUMENTS: [&str; 9] = [
        "manifests/monitoring/rules.yml",
        "manifests/monitoring/rules-test.yml",
        "manifests/monitoring/dashboard.json",
        "README.md",
        "docs/operations.md",
        "docs/configuration.md",
        "docs/compatibility.md",
        "docs/upgrade.md",
        "docs/faq.md",
    ];
    let names: BTreeSet<String> = metrics().into_iter().map(|metric| metric.name).collect();
    for file in DOCUMENTS {
        let text = read(file);
        for (at, _) in text.match_indices("warmpath_") {
            // Envoy's own metrics of the plugin are no metrics of the module.
            if text[..at].ends_with('_') {
                continue;
            }
            let rest = &text[at + "warmpath_".len()..];
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(rest.len());
            // The series of a histogram, and the two families of pods that have one more label.
            let series =
                ["_bucket", "_sum", "_count"].iter().find_map(|end_of| rest[..end].strip_suffix(end_of));
            let known = ["pod_held_tokens", "pod_status", "pod_cooling_down"].contains(&&rest[..end])
                || series.is_some_and(|name| names.contains(name));
            assert!(
                known || names.contains(&rest[..end]),
                "{file} names warmpath_{}, which is no metric",
                &rest[..end]
            );
        }
    }
}

/// The first string literal in `text`, without escapes and line continuations.
fn literal(text: &str) -> Option<String> {
    let mut characters = text.split_once('"')?.1.chars();
    let mut found = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(found),
            '\\' => match characters.next()? {
                '\n' => {
                    let rest = characters.as_str().trim_start();
                    characters = rest.chars();
                }
                escaped => found.push(escaped),
            },
            other => found.push(other),
        }
    }
}

#[test]
fn every_log_line_is_in_operations_md() {
    let page = read("docs/operations.md");
    let mut lines = 0;
    for (file, source) in files("src/wasm/src", ".rs") {
        for call in ["log::error!(", "log::warn!(", "log::info!(", "log::debug!("] {
            for (at, _) in source.match_indices(call) {
                let Some(line) = literal(&source[at..]) else { continue };
                // The longest part that is the same in each line. Lines that are made elsewhere have none.
                let fixed = line.strip_prefix("warmpath: ").unwrap_or(&line);
                let fixed = fixed.split(['{', '}']).max_by_key(|part| part.len()).unwrap_or_default().trim();
                if fixed.len() < 10 {
                    continue;
                }
                lines += 1;
                assert!(page.contains(fixed), "docs/operations.md lacks the line of {file}: {fixed}");
            }
        }
    }
    assert!(lines >= 8, "only {lines} log lines found");
}

/// The keys that a function of the settings reads, from calls like `object.whole("revision", ...)`.
fn keys_read(function: &str) -> BTreeSet<&str> {
    const READERS: [&str; 8] =
        [".text(", ".flag(", ".whole(", ".word(", ".list(", ".objects(", "milliseconds(", ".get("];
    let mut keys = BTreeSet::new();
    for reader in READERS {
        for (at, _) in function.match_indices(reader) {
            // `milliseconds` has the object before the key.
            let arguments = function[at + reader.len()..].split([')', ';']).next().unwrap_or_default();
            let key = arguments.split('"').nth(1);
            keys.extend(key.filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        }
    }
    keys
}

#[test]
fn every_setting_is_in_configuration_md() {
    let page = read("docs/configuration.md");
    let mut keys = 0;
    for file in ["src/core/src/config.rs", "src/core/src/settings.rs", "src/core/src/settings/models.rs"] {
        let source = read(file);
        let (source, _) = source.split_once("#[cfg(test)]").unwrap();
        for function in source.split("fn ") {
            let prefix = match function.split('(').next() {
                // It reads a key for two others.
                Some("cluster" | "name") => continue,
                Some("model") => "models[].".to_owned(),
                Some("objective") => "objectives[].".to_owned(),
                Some(part @ ("discovery" | "scrape" | "index")) => format!("{part}."),
                Some("settings_page") => "settings.".to_owned(),
                _ => String::new(),
            };
            let clusters = function.contains("= cluster(&mut").then_some("cluster");
            for key in keys_read(function).into_iter().chain(clusters) {
                keys += 1;
                let prefix = if key == "weight" { "models[].targets[]." } else { &prefix };
                let row = format!("| `{prefix}{key}` |");
                assert!(page.contains(&row), "docs/configuration.md lacks the row of {file} that has {row}");
            }
        }
    }
    assert!(keys >= 15, "only {keys} settings found: has the way that they are read changed?");
}

#[test]
fn every_flag_of_envoy_config_is_in_configuration_md() {
    let page = read("docs/configuration.md");
    let help = command("scripts/envoy-config", &["--help"], &[]);
    assert_eq!(help.code, 0, "{}", help.err);
    let words = help.out.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    let flags: BTreeSet<&str> = words.filter(|word| word.starts_with("--") && word.len() > 4).collect();
    assert!(flags.len() > 15, "{flags:?}");
    // The second is Envoy's own, in an example.
    for flag in flags.into_iter().filter(|flag| !["--help", "--config-yaml"].contains(flag)) {
        let named = page.contains(&format!("| `{flag} ")) || page.contains(&format!("| `{flag}`"));
        assert!(named, "docs/configuration.md lacks the flag {flag}");
    }
}

/// A number as documents write it: `7,500` for 7500, `0.05` for 0.05.
fn written(number: f64) -> String {
    if number < 1000.0 {
        return number.to_string();
    }
    let digits = number.to_string();
    let (thousands, rest) = digits.split_at(digits.len() - 3);
    format!("{thousands},{rest}")
}

#[test]
fn every_constant_of_the_cost_is_in_routing_md_with_its_value() {
    let page = read("docs/routing.md");
    let source = read("src/core/src/decide/cost.rs");
    let (_, defaults) = source.split_once("impl Default for CostConstants").unwrap();
    let (defaults, _) = defaults.split_once("}\n    }\n").unwrap();
    let mut constants = 0;
    for line in defaults.lines() {
        let Some((name, value)) = line.trim().trim_end_matches(',').split_once(": ") else { continue };
        let Ok(value) = value.replace('_', "").parse::<f64>() else { continue };
        constants += 1;
        let row = format!("| `{name}` | {} |", written(value));
        assert!(page.contains(&row), "docs/routing.md lacks the row that begins with {row}");
    }
    assert!(constants >= 13, "only {constants} constants found");
}

#[test]
fn every_workload_and_policy_of_the_fleet_is_in_routing_md() {
    let page = read("docs/routing.md");
    for workload in warmpath_sim::workload::ALL {
        let row =
            format!("| `{}` | {} | {} |", workload.name, workload.pods, written(workload.requests as f64));
        assert!(page.contains(&row), "docs/routing.md lacks the row that begins with {row}");
    }
    for policy in warmpath_sim::baselines::ALL {
        assert!(
            page.contains(&format!("`{}`", policy.name)),
            "docs/routing.md lacks the policy {}",
            policy.name
        );
    }
}

#[test]
fn every_mark_of_a_shared_value_is_in_architecture_md() {
    let page = read("docs/architecture.md");
    let mut marks = 0;
    for folder in [
        "src/core/src/shared",
        "src/core/src/shared/pod_table",
        "src/core/src/account/ledger",
        "src/core/src/prefix",
        "src/core/src/monitor",
    ] {
        for (file, source) in files(folder, ".rs") {
            for line in source.lines().filter(|line| line.contains("_MARK: ")) {
                let mark = literal(line).unwrap_or_else(|| panic!("{file}: no mark in {line}"));
                marks += 1;
                assert!(
                    page.contains(&format!("| `{mark}` |")),
                    "docs/architecture.md lacks the mark {mark} of {file}"
                );
            }
        }
    }
    assert_eq!(marks, 14, "a kind of shared value was added or removed: see docs/architecture.md");
}
