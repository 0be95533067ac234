//! Where a request's time goes, step by step on a real Envoy: only in the build of `scripts/bench-gateway --account` (feature
//! `laps`). In others all of this is empty.
//!
//! A lap ends where the next begins, and each reads the clock twice, so that its own bookkeeping is in none. What a reading
//! puts into a lap is measured beside them, as the lap `empty`.

#[cfg(feature = "laps")]
pub use timed::{Callback, call, lap, step, tell};

#[cfg(not(feature = "laps"))]
pub use untimed::{Callback, call, lap, step, tell};

#[cfg(feature = "laps")]
mod timed {
    use std::cell::RefCell;
    use std::fmt::Write;

    use warmpath::router::DecisionStep;

    use crate::host;

    /// The module's own code that no other lap has.
    const REST: &str = "rest";

    /// Whose time a lap is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Whose {
        Host,
        Module,
        Nobody,
    }

    /// Laps by name, each with their number and their sum in nanoseconds, since they were last told.
    #[derive(Default)]
    struct Laps {
        sums: Vec<(Whose, &'static str, u64, u64)>,
        /// When the current one began; `None` outside the callbacks of a request.
        began: Option<u64>,
    }

    thread_local! {
        static LAPS: RefCell<Laps> = RefCell::default();
    }

    /// Time that Envoy spends in a callback of a request.
    pub struct Callback;

    impl Callback {
        /// It begins.
        pub fn begin() -> Callback {
            LAPS.with_borrow_mut(|laps| laps.began = Some(host::nanoseconds()));
            end(Whose::Nobody, "empty");
            Callback
        }
    }

    impl Drop for Callback {
        fn drop(&mut self) {
            lap(REST);
            LAPS.with_borrow_mut(|laps| laps.began = None);
        }
    }

    /// Ends the lap of what the module has just done.
    pub fn lap(name: &'static str) {
        end(Whose::Module, name);
    }

    /// The lap of a call of the host.
    pub fn call<T>(name: &'static str, run: impl FnOnce() -> T) -> T {
        lap(REST);
        let result = run();
        end(Whose::Host, name);
        result
    }

    fn end(whose: Whose, name: &'static str) {
        LAPS.with_borrow_mut(|laps| {
            let Some(began) = laps.began else { return };
            let took = host::nanoseconds().saturating_sub(began);
            match laps.sums.iter_mut().find(|(of, known, ..)| (*of, *known) == (whose, name)) {
                Some((.., count, sum)) => (*count, *sum) = (*count + 1, *sum + took),
                None => laps.sums.push((whose, name, 1, took)),
            }
            laps.began = Some(host::nanoseconds());
        });
    }

    /// The lap of a step of a decision.
    pub fn step(step: DecisionStep) {
        lap(match step {
            DecisionStep::Hash => "hash",
            DecisionStep::CatchUp => "catch up",
            DecisionStep::LookUp => "look up",
            DecisionStep::Choose => "choose",
            DecisionStep::Book => "book",
            DecisionStep::Keep => "keep",
        });
    }

    /// Prints all laps since the last time, if there are any, and begins anew.
    pub fn tell() {
        if LAPS.with_borrow(|laps| laps.sums.is_empty()) {
            return;
        }
        let mut line = String::from("laps [");
        LAPS.with_borrow_mut(|laps| {
            for (nth, (whose, name, count, sum)) in laps.sums.drain(..).enumerate() {
                let _ = write!(
                    line,
                    "{}[\"{whose:?}\", \"{name}\", {count}, {sum}]",
                    if nth > 0 { ", " } else { "" }
                );
            }
        });
        line.push(']');
        host::info(&line);
    }
}

#[cfg(not(feature = "laps"))]
mod untimed {
    use warmpath::router::DecisionStep;

    /// Time that Envoy spends in a callback of a request.
    pub struct Callback;

    impl Callback {
        /// It begins.
        #[inline(always)]
        pub fn begin() -> Callback {
            Callback
        }
    }

    /// Ends the lap of what has just been done.
    #[inline(always)]
    pub fn lap(_name: &'static str) {}

    /// The lap of a call of the host.
    #[inline(always)]
    pub fn call<T>(_name: &'static str, run: impl FnOnce() -> T) -> T {
        run()
    }

    /// The lap of a step of a decision.
    #[inline(always)]
    pub fn step(_step: DecisionStep) {}

    /// Prints all laps since the last time, and begins anew.
    #[inline(always)]
    pub fn tell() {}
}
