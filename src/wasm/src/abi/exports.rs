//! What Envoy calls. `callbacks.txt` lists these functions by role, for Envoy calls whatever is exported.

#![expect(unsafe_code, reason = "Envoy finds these functions by their names")]

use super::calls;
use super::contexts::{self, with_root, with_stream};
use super::logger;

/// Tells Envoy which version of Proxy-Wasm this is.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// The first call of a VM.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    #[cfg(target_os = "wasi")]
    {
        unsafe extern "C" {
            fn __wasm_call_ctors();
        }
        // SAFETY: the linker makes this function, for exactly one call before all others.
        unsafe { __wasm_call_ctors() };
    }
    logger::install();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    calls::allocate(size)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root: u32) {
    contexts::create(id, root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    contexts::delete(id);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, _size: usize) -> u32 {
    with_root(root, |root| root.on_configure()).unwrap_or(false).into()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with_root(root, |root| root.on_tick());
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root: u32,
    call: u32,
    headers: usize,
    body_size: usize,
    _trailers: usize,
) {
    with_root(root, |root| root.on_http_call_response(call, headers, body_size));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, count: usize, end_of_stream: u32) -> u32 {
    with_stream(id, |filter| filter.on_http_request_headers(count, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(id: u32, size: usize, end_of_stream: u32) -> u32 {
    with_stream(id, |filter| filter.on_http_request_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(id: u32, count: usize) -> u32 {
    with_stream(id, |filter| filter.on_http_request_trailers(count))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, count: usize, end_of_stream: u32) -> u32 {
    with_stream(id, |filter| filter.on_http_response_headers(count, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(id: u32, size: usize, end_of_stream: u32) -> u32 {
    with_stream(id, |filter| filter.on_http_response_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(id: u32, count: usize) -> u32 {
    with_stream(id, |filter| filter.on_http_response_trailers(count))
}
