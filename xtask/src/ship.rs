//! From the module that is compiled to the one that ships.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::{ExportSection, RawSection};
use wasmparser::{ExternalKind, Parser, Payload};

/// Exported beside the callbacks: what Envoy needs of any module.
const BASE: [&str; 3] = ["memory", "_initialize", "proxy_abi_version_0_2_1"];

/// Names of the allocator by which Envoy hands bytes over: a module has one of them or both.
const ALLOCATORS: [&str; 2] = ["proxy_on_memory_allocate", "malloc"];

/// The names of a list of callbacks: the first word of each line that is no comment.
pub fn kept(list: &str) -> Result<BTreeSet<&str>> {
    let mut names = BTreeSet::new();
    for line in list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let name = line.split_whitespace().next().unwrap_or_default();
        ensure!(
            name.starts_with("proxy_on_"),
            "'{name}' is no callback of Proxy-Wasm: their names begin with proxy_on_"
        );
        ensure!(names.insert(name), "{name} is listed twice");
    }
    Ok(names)
}

/// Custom sections that only tools read: the names of functions, and who compiled them.
const FOR_TOOLS: [&str; 3] = ["name", "producers", "target_features"];

/// The module with no exports but `callbacks` and those that every module needs. Sections for tools are gone;
/// all others are as they are.
pub fn ship(module: &[u8], callbacks: &BTreeSet<&str>) -> Result<Vec<u8>> {
    let mut shipped = wasm_encoder::Module::new();
    let mut missing: BTreeSet<&str> = BASE.into_iter().chain(callbacks.iter().copied()).collect();
    let mut can_allocate = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.context("this is no Wasm module")?;
        if let Payload::ExportSection(exports) = &payload {
            let mut section = ExportSection::new();
            for export in exports.clone() {
                let export = export?;
                let allocates = ALLOCATORS.contains(&export.name);
                can_allocate |= allocates;
                if missing.remove(export.name) || allocates {
                    section.export(export.name, kind(export.kind)?, export.index);
                }
            }
            shipped.section(&section);
        } else if matches!(&payload, Payload::CustomSection(section) if FOR_TOOLS.contains(&section.name())) {
        } else if let Some((id, range)) = payload.as_section() {
            let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
            let data = module.get(range).context("a section goes beyond the end of the module")?;
            shipped.section(&RawSection { id, data });
        }
    }
    ensure!(missing.is_empty(), "the module does not export {}", Vec::from_iter(missing).join(", "));
    ensure!(can_allocate, "the module exports neither {}", ALLOCATORS.join(" nor "));
    Ok(shipped.finish())
}

fn kind(kind: ExternalKind) -> Result<wasm_encoder::ExportKind> {
    match kind {
        ExternalKind::Func => Ok(wasm_encoder::ExportKind::Func),
        ExternalKind::Memory => Ok(wasm_encoder::ExportKind::Memory),
        other => bail!("the module exports a {other:?}, and Proxy-Wasm knows functions and memories"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"(module
        (func (export "_initialize")) (func (export "proxy_abi_version_0_2_1")) (func (export "malloc"))
        (func (export "proxy_on_tick")) (func (export "proxy_on_log")) (memory (export "memory") 1)
        (@custom "note" "kept"))"#;

    fn exports(module: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for payload in Parser::new(0).parse_all(module) {
            if let Payload::ExportSection(section) = payload.unwrap() {
                names.extend(section.into_iter().map(|export| export.unwrap().name.to_owned()));
            }
        }
        names
    }

    #[test]
    fn ship_strips_callbacks_that_are_not_listed_and_nothing_else() {
        let module = wat::parse_str(SMALL).unwrap();
        let shipped = ship(&module, &BTreeSet::from(["proxy_on_tick"])).unwrap();
        assert_eq!(
            exports(&shipped),
            ["_initialize", "proxy_abi_version_0_2_1", "malloc", "proxy_on_tick", "memory"]
        );
        assert!(shipped.windows(4).any(|bytes| bytes == b"kept"), "the custom section is gone");
        wasmparser::Validator::new().validate_all(&shipped).unwrap();
    }

    #[test]
    fn ship_names_a_listed_callback_that_is_not_exported() {
        let module = wat::parse_str(SMALL).unwrap();
        let error = ship(&module, &BTreeSet::from(["proxy_on_tick", "proxy_on_delete"])).unwrap_err();
        assert_eq!(error.to_string(), "the module does not export proxy_on_delete");
        assert!(ship(b"hello", &BTreeSet::new()).is_err());
    }

    #[test]
    fn kept_reads_first_words_and_refuses_other_names() {
        let list = "# comment\n\nproxy_on_tick  router collector\nproxy_on_delete router\n";
        assert_eq!(Vec::from_iter(kept(list).unwrap()), ["proxy_on_delete", "proxy_on_tick"]);
        assert!(kept("memory router").is_err());
        assert!(kept("proxy_on_tick router\nproxy_on_tick router").is_err());
    }
}
