//! Properties of a stream in Envoy's filter state.

/// Writes the property `name`, which the access log, headers and spans find as `%FILTER_STATE(wasm.NAME:PLAIN)%`. Nothing happens
/// where Envoy does not take it; the SDK's own function would panic there.
///
/// A configuration that does not grant `proxy_set_property` is noticed at the first call, and no other one follows: Envoy would
/// write a line to its log for each.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the SDK's call panics where Envoy refuses")]
pub fn set(name: &str, value: &[u8]) {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// What Envoy answers to a call that is not granted.
    const INTERNAL_FAILURE: u32 = 10;
    static REFUSED: AtomicBool = AtomicBool::new(false);
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    }
    if REFUSED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the signature is that of Proxy-Wasm's ABI. The host only reads, within the bounds that it is given.
    let status = crate::profile::call("set property", || unsafe {
        proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len())
    });
    if status == INTERNAL_FAILURE {
        REFUSED.store(true, Ordering::Relaxed);
    }
}

/// Nothing runs outside Envoy; this is for tools that check the workspace.
#[cfg(not(target_arch = "wasm32"))]
pub fn set(_name: &str, _value: &[u8]) {}
