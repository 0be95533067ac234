//! Modules that do next to nothing, with the callbacks of another module.
//!
//! An Envoy with one costs more than an Envoy without by the price of calling into the virtual machine,
//! callback by callback; with headers to set, by the price of any module that waits for the body and names
//! pods.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use wasmparser::{ExternalKind, FuncType, Parser, Payload, TypeRef, ValType};

/// These say whether the module may start at all: 1 is yes.
const YES: [&str; 4] =
    ["proxy_on_vm_start", "proxy_on_configure", "proxy_validate_configuration", "proxy_on_done"];

/// These get the context, a size and whether the request ends here; they answer 0 (continue) or 1 (pause).
const HEADERS: &str = "proxy_on_request_headers";
const BODY: &str = "proxy_on_request_body";

/// Where the module has its texts, and where the host puts bytes that nobody reads.
const TEXTS: usize = 4096;
const HOST_BYTES: usize = 65536;

/// A callback: its name, and the types of its parameters and results.
type Callback = (String, FuncType);

/// A module that exports the callbacks of `module` and does nothing; or, with headers, holds each request
/// until its body is whole, and then sets header N of request R to the address of pod R + N.
pub fn imitate(module: &[u8], headers: &[String], pods: &[String]) -> Result<Vec<u8>> {
    let callbacks = callbacks(module)?;
    ensure!(!callbacks.is_empty(), "the module exports no callback of Proxy-Wasm");
    let mut data = Texts::default();
    let set_headers = if headers.is_empty() { String::new() } else { set_headers(headers, pods, &mut data) };
    let mut text = String::from("(module\n");
    if !headers.is_empty() {
        text += r#"(import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))"#;
    }
    text += "(memory (export \"memory\") 16)\n";
    write!(text, r#"(func (export "malloc") (param i32) (result i32) i32.const {HOST_BYTES})"#)?;
    for (name, signature) in &callbacks {
        let body = body(name, signature, &set_headers);
        let types = |word, types: &[ValType]| {
            types.iter().map(|each| format!(" ({word} {each})")).collect::<String>()
        };
        let (parameters, results) =
            (types("param", signature.params()), types("result", signature.results()));
        writeln!(text, r#"(func (export "{name}"){parameters}{results} {body})"#)?;
    }
    write!(text, "(data (i32.const {TEXTS}) \"{}\"))", data.escaped())?;
    wat::parse_str(&text).with_context(|| format!("the imitation is no module:\n{text}"))
}

/// The code of one callback.
fn body(name: &str, signature: &FuncType, set_headers: &str) -> String {
    if signature.results().is_empty() {
        return String::new();
    }
    if name == "proxy_on_memory_allocate" {
        return format!("i32.const {HOST_BYTES}");
    }
    if !set_headers.is_empty() && (name == HEADERS || name == BODY) {
        let at_end = if name == BODY { set_headers } else { "" };
        return format!("local.get 2 if (result i32) {at_end} i32.const 0 else i32.const 1 end");
    }
    format!("i32.const {}", u8::from(YES.contains(&name)))
}

/// Code that sets each header of the requests (map 0). A table has, per row, the address and the length of a
/// pod's text; it begins again after the last pod, so that row R % pods + N is always there.
fn set_headers(headers: &[String], pods: &[String], data: &mut Texts) -> String {
    let places: Vec<_> = pods.iter().map(|pod| (data.put(pod.as_bytes()), pod.len())).collect();
    data.align();
    let rows = places.iter().cycle().take(pods.len() + headers.len());
    let row = |(at, len): &(usize, usize)| [*at as u32, *len as u32].map(u32::to_le_bytes).concat();
    let table = data.put(&rows.flat_map(row).collect::<Vec<u8>>());
    let mut code = String::new();
    for (nth, header) in headers.iter().enumerate() {
        let name = data.put(header.as_bytes());
        let row = format!("local.get 0 i32.const {} i32.rem_u i32.const 8 i32.mul", pods.len());
        let [at, len] = [0, 4].map(|word| format!("{row} i32.load offset={}", table + 8 * nth + word));
        code +=
            &format!("i32.const 0 i32.const {name} i32.const {} {at} {len} call $set drop ", header.len());
    }
    code
}

/// What is in the module's memory from [`TEXTS`] on.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
}

impl Texts {
    /// Appends bytes; their address.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = TEXTS + self.bytes.len();
        self.bytes.extend(bytes);
        at
    }

    /// Makes the next address a multiple of 4.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn escaped(&self) -> String {
        self.bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
    }
}

/// The functions that a module exports under a name of Proxy-Wasm.
fn callbacks(module: &[u8]) -> Result<Vec<Callback>> {
    let (mut types, mut functions, mut exports) = (Vec::new(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        match payload.context("this is no Wasm module")? {
            Payload::TypeSection(section) => {
                for group in section.into_iter_err_on_gc_types() {
                    types.push(group?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(index) = import?.ty {
                        functions.push(index);
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for index in section {
                    functions.push(index?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    exports.push(export?);
                }
            }
            _ => (),
        }
    }
    let callbacks =
        exports.iter().filter(|each| each.kind == ExternalKind::Func && each.name.starts_with("proxy_"));
    callbacks
        .map(|export| {
            let signature = functions.get(export.index as usize).and_then(|index| types.get(*index as usize));
            Ok((
                export.name.to_owned(),
                signature.with_context(|| format!("{} has no type", export.name))?.clone(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = r#"(module
        (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) i32.const 0)
        (func (export "proxy_on_delete") (param i32))
        (func (export "other")))"#;

    fn names(module: &[u8]) -> Vec<String> {
        callbacks(module).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn imitation_has_the_callbacks_of_the_original_with_and_without_headers() {
        let original = wat::parse_str(ORIGINAL).unwrap();
        let pods = ["10.0.0.1:80".to_owned(), "10.0.0.2:8000".to_owned()];
        for headers in [vec![], vec!["x-first".to_owned(), "x-second".to_owned()]] {
            let imitation = imitate(&original, &headers, &pods).unwrap();
            wasmparser::Validator::new().validate_all(&imitation).unwrap();
            assert_eq!(names(&imitation), names(&original));
            for text in headers.iter().chain(pods.iter().filter(|_| !headers.is_empty())) {
                assert!(
                    imitation.windows(text.len()).any(|bytes| bytes == text.as_bytes()),
                    "{text} is missing"
                );
            }
        }
    }

    #[test]
    fn imitation_of_a_module_without_callbacks_is_refused() {
        assert!(imitate(&wat::parse_str("(module)").unwrap(), &[], &[]).is_err());
    }
}
