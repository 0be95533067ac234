//! A listener with the module in it: disabled, for routes enable it; its access logs in one order.

use sha2::{Digest, Sha256};

use super::wire::{Message, WireError};
use super::{DESTINATION_HEADER, ENGINE_HEADER, FILTER, build, canon};

// envoy.config.listener.v3.Listener
const NAME: u32 = 1;
const ADDRESS: u32 = 2;
const FILTER_CHAINS: u32 = 3;
const ACCESS_LOG: u32 = 22;
const DEFAULT_FILTER_CHAIN: u32 = 25;
// envoy.config.listener.v3.FilterChain
const FILTERS: u32 = 3;
// envoy.config.listener.v3.Filter
const TYPED_CONFIG: u32 = 4;
// envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
const HTTP_FILTERS: u32 = 5;
const HTTP_ACCESS_LOG: u32 = 13;
const EARLY_HEADER_MUTATION: u32 = 52;
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

const EARLY: &str = "warmpath-early-header-removal";

/// The module as it is put into listeners and clusters: its code, and the configuration of its plugin.
#[derive(Clone, Debug)]
pub struct Module {
    code: Vec<u8>,
    configuration: String,
    fingerprint: String,
}

impl Module {
    /// `code`: the bytes of the `.wasm`. `configuration`: JSON for the plugin.
    pub fn new(code: Vec<u8>, configuration: impl Into<String>) -> Self {
        let digest = Sha256::digest(&code);
        let fingerprint = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Module { code, configuration: configuration.into(), fingerprint }
    }

    /// The first 16 hexadecimal digits of the SHA-256 of the code.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// `envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`.
    pub(super) fn http_filter(&self, role: &str, name: &str, disabled: bool) -> Vec<u8> {
        let text = |text: &str| build::any("google.protobuf.StringValue", &build::wrapped_text(text));
        let mut inline = Message::new();
        inline.set_bytes(2, self.code.as_slice());
        let mut local = Message::new();
        local.set_bytes(1, inline.encode());
        let mut vm = Message::new();
        // One vm_id, so that all roles share data; a configuration of its own for each role and version, so a
        // VM of its own.
        vm.set_bytes(1, &b"warmpath"[..])
            .set_bytes(2, &b"envoy.wasm.runtime.v8"[..])
            .set_bytes(3, local.encode());
        vm.set_bytes(4, text(&format!("{role} {}", self.fingerprint)));
        let mut plugin = Message::new();
        plugin.set_bytes(1, name.as_bytes()).set_bytes(2, role.as_bytes()).set_bytes(3, vm.encode());
        plugin.set_bytes(4, text(&self.configuration));
        plugin.set_varint(7, 1); // failure_policy: FAIL_RELOAD
        plugin.set_bytes(9, build::wrapped(1)); // allow_on_headers_stop_iteration: without it a paused request hangs
        let mut wasm = Message::new();
        wasm.set_bytes(1, plugin.encode());
        let mut filter = Message::new();
        filter.set_bytes(1, name.as_bytes());
        filter.set_bytes(4, build::any("envoy.extensions.filters.http.wasm.v3.Wasm", &wasm.encode()));
        if disabled {
            filter.set_varint(7, 1);
        }
        filter.encode()
    }
}

/// What the hook must know of a listener to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, by one of Envoy Gateway's two schemes.
    pub name: String,
    /// The port that it listens on inside the pod; `None` where it has no socket address.
    pub port: Option<u16>,
}

/// Name and port of a listener.
///
/// # Errors
/// Where the bytes are no listener.
pub fn identity(listener: &[u8]) -> Result<Identity, WireError> {
    let listener = Message::parse(listener)?;
    let address = listener.message(ADDRESS)?.unwrap_or_default();
    let socket = Message::parse(&address)?.message(1)?.unwrap_or_default().into_owned();
    let port = Message::parse(&socket)?.varint(3)?;
    Ok(Identity { name: listener.text(NAME)?.to_owned(), port: u16::try_from(port).ok().filter(|p| *p != 0) })
}

/// The listener with its access logs in one order and, where `module` is there, the module as the last filter
/// before the router and the removal of client-sent destination headers before any filter. Every filter chain
/// gets both.
///
/// # Errors
/// Where the bytes are no listener.
pub fn attach(listener: &[u8], module: Option<&Module>) -> Result<Vec<u8>, WireError> {
    let mut listener = Message::parse(listener)?;
    listener.edit_each(ACCESS_LOG, canon::access_log)?;
    for number in [FILTER_CHAINS, DEFAULT_FILTER_CHAIN] {
        listener.edit_each(number, |bytes| {
            let mut chain = Message::parse(bytes)?;
            chain.edit_each(FILTERS, |filter| network_filter(filter, module))?;
            Ok(chain.encode())
        })?;
    }
    Ok(listener.encode())
}

fn network_filter(bytes: &[u8], module: Option<&Module>) -> Result<Vec<u8>, WireError> {
    let mut filter = Message::parse(bytes)?;
    let Some(any) = filter.message(TYPED_CONFIG)?.map(std::borrow::Cow::into_owned) else {
        return Ok(filter.encode());
    };
    let any = Message::parse(&any)?;
    if !any.text(1)?.ends_with(MANAGER) {
        return Ok(filter.encode());
    }
    let manager = any.message(2)?.unwrap_or_default();
    filter.set_bytes(TYPED_CONFIG, build::any(MANAGER, &connection_manager(&manager, module)?));
    Ok(filter.encode())
}

fn connection_manager(bytes: &[u8], module: Option<&Module>) -> Result<Vec<u8>, WireError> {
    let mut manager = Message::parse(bytes)?;
    manager.edit_each(HTTP_ACCESS_LOG, canon::access_log)?;
    let Some(module) = module else { return Ok(manager.encode()) };
    let mut filters = named_others(&manager, HTTP_FILTERS, FILTER)?;
    filters.insert(filters.len().saturating_sub(1), module.http_filter("router", FILTER, true));
    let mut early = named_others(&manager, EARLY_HEADER_MUTATION, EARLY)?;
    early.push(early_removal());
    manager.set_all(HTTP_FILTERS, filters).set_all(EARLY_HEADER_MUTATION, early);
    Ok(manager.encode())
}

/// The items of a repeated field but for the one of that name.
fn named_others(message: &Message<'_>, number: u32, name: &str) -> Result<Vec<Vec<u8>>, WireError> {
    let mut others = Vec::new();
    for item in message.all(number) {
        let item = item?;
        if Message::parse(item)?.text(1)? != name {
            others.push(item.to_vec());
        }
    }
    Ok(others)
}

/// Takes what a client sends as these headers away before any filter: clients choose neither pods nor engines
/// of them.
fn early_removal() -> Vec<u8> {
    let mut config = Message::new();
    for name in [DESTINATION_HEADER, ENGINE_HEADER] {
        let mut by_name = Message::new();
        by_name.set_bytes(1, name.as_bytes()); // remove
        config.push(1, by_name.encode());
    }
    build::extension(
        EARLY,
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        &config.encode(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> Module {
        Module::new(b"\0asm".to_vec(), r#"{"pool":"x"}"#)
    }

    fn named(name: &str) -> Vec<u8> {
        let mut message = Message::new();
        message.set_bytes(1, name.as_bytes());
        message.encode()
    }

    /// A listener with an HTTP chain and a default chain, as Envoy Gateway makes it, and fields that this
    /// program does not know.
    fn listener() -> Vec<u8> {
        let mut manager = Message::new();
        manager
            .push(HTTP_FILTERS, named("envoy.filters.http.jwt_authn"))
            .push(HTTP_FILTERS, named("envoy.filters.http.router"));
        manager.set_varint(4444, 9);
        let mut filter = Message::new();
        filter.set_bytes(1, &b"hcm"[..]).set_bytes(TYPED_CONFIG, build::any(MANAGER, &manager.encode()));
        let mut chain = Message::new();
        chain.push(FILTERS, filter.encode()).push(FILTERS, named("tcp"));
        let mut socket = Message::new();
        socket.set_bytes(2, &b"0.0.0.0"[..]).set_varint(3, 8081);
        let mut address = Message::new();
        address.set_bytes(1, socket.encode());
        let mut listener = Message::new();
        listener.set_bytes(NAME, &b"default/eg/routed"[..]).set_bytes(ADDRESS, address.encode());
        listener.push(FILTER_CHAINS, chain.encode()).set_bytes(DEFAULT_FILTER_CHAIN, chain.encode());
        listener.set_varint(5555, 1);
        listener.encode()
    }

    /// The names of the HTTP filters of each chain.
    fn filters(listener: &[u8]) -> Vec<Vec<String>> {
        let listener = Message::parse(listener).unwrap();
        let chains = listener.all(FILTER_CHAINS).chain(listener.all(DEFAULT_FILTER_CHAIN));
        chains
            .map(|chain| {
                let chain = Message::parse(chain.unwrap()).unwrap();
                let filter = Message::parse(chain.all(FILTERS).next().unwrap().unwrap()).unwrap();
                let any = filter.message(TYPED_CONFIG).unwrap().unwrap();
                let manager = Message::parse(&any).unwrap().message(2).unwrap().unwrap().into_owned();
                let manager = Message::parse(&manager).unwrap();
                assert_eq!(manager.varint(4444), Ok(9));
                manager
                    .all(HTTP_FILTERS)
                    .map(|f| Message::parse(f.unwrap()).unwrap().text(1).unwrap().to_owned())
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_module_stands_before_the_router_in_every_chain() {
        let bytes = attach(&listener(), Some(&module())).unwrap();
        let expected = ["envoy.filters.http.jwt_authn", "warmpath", "envoy.filters.http.router"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(filters(&bytes), [expected.clone(), expected]);
        assert_eq!(Message::parse(&bytes).unwrap().varint(5555), Ok(1));
        assert_eq!(attach(&bytes, Some(&module())).unwrap(), bytes);
    }

    #[test]
    fn without_a_module_only_the_logs_are_put_in_order() {
        assert_eq!(attach(&listener(), None).unwrap(), listener());
    }

    #[test]
    fn another_code_is_another_vm() {
        let other = Module::new(b"\0asm2".to_vec(), r#"{"pool":"x"}"#);
        assert_ne!(other.fingerprint(), module().fingerprint());
        let first = attach(&listener(), Some(&module())).unwrap();
        let updated = attach(&first, Some(&other)).unwrap();
        assert_eq!(updated, attach(&listener(), Some(&other)).unwrap());
        assert_ne!(updated, first);
    }

    #[test]
    fn a_listener_is_told_by_name_and_port() {
        assert_eq!(
            identity(&listener()).unwrap(),
            Identity { name: "default/eg/routed".into(), port: Some(8081) }
        );
        assert_eq!(identity(&named("x")).unwrap(), Identity { name: "x".into(), port: None });
    }
}
