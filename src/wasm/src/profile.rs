//! Where a request's time goes, step by step on a real Envoy: for `scripts/bench-gateway --account`, in
//! builds with the feature `profile`. In all others nothing of this is left.
//!
//! [`call`] is around each host call, and [`callback`] around each callback of a stream. A lap ends where the
//! next one begins. Each reads the clock twice, so that its own bookkeeping is in none of them; the cost of
//! one reading is measured beside them, as the lap `empty`.

#[cfg(feature = "profile")]
pub use timed::{call, callback, clock, lap, print, step};
#[cfg(not(feature = "profile"))]
pub use untimed::{call, callback, lap, print};

#[cfg(not(feature = "profile"))]
mod untimed {
    /// Runs a callback of a stream.
    #[inline(always)]
    pub fn callback<T>(run: impl FnOnce() -> T) -> T {
        run()
    }

    /// Ends the lap of a step of the module's own.
    #[inline(always)]
    pub fn lap(_name: &str) {}

    /// Runs a host call.
    #[inline(always)]
    pub fn call<T>(_name: &str, run: impl FnOnce() -> T) -> T {
        run()
    }

    /// Prints all laps since the last time.
    #[inline(always)]
    pub fn print() {}
}

#[cfg(feature = "profile")]
mod timed {
    use std::cell::RefCell;
    use std::fmt::Write;

    use warmpath::router::DecisionStep;

    use crate::abi::{self, Level};

    /// The module's own code that is in no other lap.
    const REST: &str = "rest";

    /// On whose account a lap goes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Account {
        Host,
        Module,
        Nobody,
    }

    /// The laps of one name since the last print.
    struct Sum {
        account: Account,
        name: String,
        count: u64,
        nanoseconds: u64,
    }

    #[derive(Default)]
    struct Laps {
        sums: Vec<Sum>,
        /// When the current lap began; `None` outside the callbacks of a request.
        began: Option<u64>,
    }

    thread_local! {
        static LAPS: RefCell<Laps> = RefCell::default();
    }

    /// Ends the lap of a step of the module's own.
    pub fn lap(name: &str) {
        end(Account::Module, name);
    }

    /// Ends the lap of a step of a decision.
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

    /// Runs a host call in a lap of its own.
    pub fn call<T>(name: &str, run: impl FnOnce() -> T) -> T {
        lap(REST);
        let result = run();
        end(Account::Host, name);
        result
    }

    fn end(account: Account, name: &str) {
        LAPS.with_borrow_mut(|laps| {
            let Some(began) = laps.began else { return };
            let took = abi::monotonic().saturating_sub(began);
            match laps.sums.iter_mut().find(|sum| sum.account == account && sum.name == name) {
                Some(sum) => (sum.count, sum.nanoseconds) = (sum.count + 1, sum.nanoseconds + took),
                None => laps.sums.push(Sum { account, name: name.to_owned(), count: 1, nanoseconds: took }),
            }
            laps.began = Some(abi::monotonic());
        });
    }

    /// Prints all laps since the last time as a JSON list of `[account, name, count, nanoseconds]`.
    pub fn print() {
        let sums = LAPS.with_borrow_mut(|laps| std::mem::take(&mut laps.sums));
        if sums.is_empty() {
            return;
        }
        let mut line = String::from("warmpath: laps [");
        for (nth, Sum { account, name, count, nanoseconds }) in sums.into_iter().enumerate() {
            let comma = if nth > 0 { ", " } else { "" };
            let _ = write!(line, "{comma}[\"{account:?}\", \"{name}\", {count}, {nanoseconds}]");
        }
        line.push(']');
        abi::log(Level::Info, &line);
    }

    /// The clock, as a host call.
    pub fn clock() -> u64 {
        call("clock", abi::monotonic)
    }

    /// Runs a callback of a stream.
    pub fn callback<T>(run: impl FnOnce() -> T) -> T {
        LAPS.with_borrow_mut(|laps| laps.began = Some(abi::monotonic()));
        end(Account::Nobody, "empty");
        let result = run();
        lap(REST);
        LAPS.with_borrow_mut(|laps| laps.began = None);
        result
    }
}
