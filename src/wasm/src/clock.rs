//! The clock of every VM in an Envoy.

/// Nanoseconds on WASI's monotonic clock. `std::time::Instant` reads the same clock but hides its origin, and all VMs of an
/// Envoy must mean the same by what one of them writes down.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the call has no safe wrapper")]
pub fn nanoseconds() -> u64 {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    }
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: the signature is WASI's, and the host writes the eight bytes of `time`, which outlives the call. If it writes
    // nothing, the time is 0.
    unsafe { clock_time_get(MONOTONIC, 1_000, &raw mut time) };
    time
}

/// Nothing runs outside Envoy; this is for tools that check the workspace.
#[cfg(not(target_arch = "wasm32"))]
pub fn nanoseconds() -> u64 {
    0
}
