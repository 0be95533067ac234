//! The clocks of every VM in an Envoy.

/// WASI's names of its clocks.
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

/// Nanoseconds on WASI's monotonic clock. `std::time::Instant` reads the same clock but hides its origin, and all VMs of an
/// Envoy must mean the same by what one of them writes down.
pub fn nanoseconds() -> u64 {
    read(MONOTONIC)
}

/// Nanoseconds since the epoch, on a clock that is set now and then: only for comparing with dates of others.
pub fn nanoseconds_since_epoch() -> u64 {
    read(REALTIME)
}

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the call has no safe wrapper")]
fn read(clock: u32) -> u64 {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    }
    let mut time = 0;
    // SAFETY: the signature is WASI's, and the host writes the eight bytes of `time`, which outlives the call. If it writes
    // nothing, the time is 0.
    unsafe { clock_time_get(clock, 1_000, &raw mut time) };
    time
}

/// Nothing runs outside Envoy; this is for tools that check the workspace.
#[cfg(not(target_arch = "wasm32"))]
fn read(_clock: u32) -> u64 {
    0
}
