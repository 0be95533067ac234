//! Whether Envoy can load the module, seen before it ships.

use anyhow::{Context as _, Result, ensure};
use wasmparser::{Parser, Payload, TypeRef};

/// The module travels in container layers and config maps, and is compiled once per start.
const LARGEST_KIB: usize = 600;

/// What Envoy's host implements of WASI preview 1. An import beyond these, and beyond those of Proxy-Wasm,
/// loads nowhere; its first sign is usually a dependency that asks for files, threads or sockets.
const WASI: [&str; 14] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_read",
    "fd_seek",
    "fd_write",
    "proc_exit",
    "random_get",
    "sched_yield",
];

/// One line on the module's size and imports; an error if Envoy would refuse it.
pub fn inspect(module: &[u8]) -> Result<String> {
    let imports = imports(module)?;
    let known = |(host, name): &&(String, String)| match host.as_str() {
        "env" => name.starts_with("proxy_"),
        "wasi_snapshot_preview1" => WASI.contains(&name.as_str()),
        _ => false,
    };
    let unknown: Vec<_> =
        imports.iter().filter(|import| !known(import)).map(|(host, name)| format!("{host}.{name}")).collect();
    ensure!(unknown.is_empty(), "Envoy does not have {}", unknown.join(", "));
    ensure!(!imports.is_empty(), "the module imports nothing at all, so it cannot talk to Envoy");
    let kib = module.len().div_ceil(1024);
    ensure!(kib < LARGEST_KIB, "the module has {kib} KiB, the limit is {LARGEST_KIB}");
    Ok(format!("{kib} KiB of {LARGEST_KIB}, {} imports, all known to Envoy", imports.len()))
}

/// The (module, name) pairs of a module's imports, which must be functions.
fn imports(module: &[u8]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(imports) = payload.context("this is no Wasm module")? {
            for import in imports.into_imports() {
                let import = import?;
                ensure!(
                    matches!(import.ty, TypeRef::Func(_)),
                    "the module imports {}.{}, which is no function",
                    import.module,
                    import.name
                );
                found.push((import.module.to_owned(), import.name.to_owned()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn importing(host: &str, name: &str) -> Vec<u8> {
        wat::parse_str(format!(r#"(module (import "{host}" "{name}" (func)))"#)).unwrap()
    }

    #[test]
    fn inspect_passes_a_module_that_envoy_can_load() {
        let line = inspect(&importing("env", "proxy_log")).unwrap();
        assert_eq!(line, "1 KiB of 600, 1 imports, all known to Envoy");
    }

    #[test]
    fn inspect_names_an_import_that_envoy_lacks() {
        for (host, name) in
            [("env", "open"), ("wasi_snapshot_preview1", "sock_send"), ("elsewhere", "proxy_log")]
        {
            let error = inspect(&importing(host, name)).unwrap_err().to_string();
            assert_eq!(error, format!("Envoy does not have {host}.{name}"));
        }
        let memory = wat::parse_str(r#"(module (import "env" "proxy_memory" (memory 1)))"#).unwrap();
        assert!(inspect(&memory).unwrap_err().to_string().contains("env.proxy_memory, which is no function"));
    }

    #[test]
    fn inspect_refuses_what_is_too_large_or_no_module() {
        let filler = "x".repeat(600 * 1024);
        let large = wat::parse_str(format!(
            r#"(module (import "env" "proxy_log" (func)) (@custom "filler" "{filler}"))"#
        ));
        assert_eq!(
            inspect(&large.unwrap()).unwrap_err().to_string(),
            "the module has 601 KiB, the limit is 600"
        );
        assert!(
            inspect(&wat::parse_str("(module)").unwrap())
                .unwrap_err()
                .to_string()
                .contains("imports nothing")
        );
        assert!(inspect(b"hello").unwrap_err().to_string().contains("no Wasm module"));
    }
}
