//! What the answer filters of this VM see of attempts, so that a router in the same VM need not ask Envoy how
//! many there were.
//!
//! Every attempt that fails ends in its answer filter, before the next one can be answered. So where none has
//! failed since a request was sent, of all requests of this VM, its answer is that of its only attempt. A
//! cluster may have no answer filter, or one in another VM. Hence the part of an answer that comes to a
//! router must have passed an answer filter of this VM just before: Envoy calls one filter right after the
//! other.

use std::cell::Cell;

thread_local! {
    static FAILED: Cell<Failed> = const { Cell::new(Failed(0)) };
    static PASSED: Cell<bool> = const { Cell::new(false) };
}

/// How many attempts have failed. It wraps; only whether it has changed counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed(u32);

/// How many attempts have failed so far.
pub fn failed() -> Failed {
    FAILED.get()
}

/// An attempt has ended, and it did not serve its request.
pub fn has_failed() {
    FAILED.set(Failed(FAILED.get().0.wrapping_add(1)));
}

/// A part of an answer has come to an answer filter, which lets it pass or holds it.
pub fn note_part(passes: bool) {
    PASSED.set(passes);
}

/// The answer that has passed an answer filter goes to no router, as the module itself has asked for it.
pub fn forget_part() {
    PASSED.set(false);
}

/// Whether the part of an answer that has come to a router has passed an answer filter of this VM just
/// before.
pub fn has_passed() -> bool {
    PASSED.replace(false)
}
