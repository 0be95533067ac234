//! Where a request's time goes, step by step on a real Envoy: for `scripts/bench-gateway --account`, in builds with the
//! feature `profile`. In all others nothing of this is left.
//!
//! `hostcalls` stands between [`host`](crate::host) and the SDK, and [`http_context`] between the SDK and a filter, so neither
//! knows of it. A lap ends where the next one begins. Each reads the clock twice, so that its own bookkeeping is in none of
//! them; the cost of one reading is measured beside them, as the lap `empty`.

#[cfg(feature = "profile")]
pub use timed::{call, clock, hostcalls, http_context, lap, print, step};

#[cfg(all(not(feature = "profile"), target_arch = "wasm32"))]
pub use untimed::call;
#[cfg(not(feature = "profile"))]
pub use untimed::{http_context, lap, print};

#[cfg(not(feature = "profile"))]
mod untimed {
    use proxy_wasm::traits::HttpContext;

    /// The filter as Envoy will call it.
    pub fn http_context(filter: impl HttpContext + 'static) -> Box<dyn HttpContext> {
        Box::new(filter)
    }

    /// Ends the lap of a step of the module's own.
    #[inline(always)]
    pub fn lap(_name: &str) {}

    /// Runs a host call that is not made through the SDK; outside Envoy there is none.
    #[cfg(target_arch = "wasm32")]
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

    use proxy_wasm::traits::{Context, HttpContext};
    use proxy_wasm::types::{Action, LogLevel};
    use warmpath::router::DecisionStep;

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
            let took = crate::clock::nanoseconds().saturating_sub(began);
            match laps.sums.iter_mut().find(|sum| sum.account == account && sum.name == name) {
                Some(sum) => (sum.count, sum.nanoseconds) = (sum.count + 1, sum.nanoseconds + took),
                None => laps.sums.push(Sum { account, name: name.to_owned(), count: 1, nanoseconds: took }),
            }
            laps.began = Some(crate::clock::nanoseconds());
        });
    }

    /// Prints all laps since the last time as a JSON list of `[account, name, count, nanoseconds]`.
    pub fn print() {
        LAPS.with_borrow_mut(|laps| {
            if laps.sums.is_empty() {
                return;
            }
            let mut line = String::from("warmpath: laps [");
            for (nth, Sum { account, name, count, nanoseconds }) in laps.sums.drain(..).enumerate() {
                let comma = if nth > 0 { ", " } else { "" };
                let _ = write!(line, "{comma}[\"{account:?}\", \"{name}\", {count}, {nanoseconds}]");
            }
            line.push(']');
            let _ = proxy_wasm::hostcalls::log(LogLevel::Info, &line);
        });
    }

    /// The clock, as a host call.
    pub fn clock() -> u64 {
        call("clock", crate::clock::nanoseconds)
    }

    /// The SDK's host calls, those that requests make in laps of their own.
    pub mod hostcalls {

        use proxy_wasm::hostcalls as sdk;
        pub use proxy_wasm::hostcalls::{
            define_metric, dispatch_http_call, get_log_level, record_metric, resume_http_request,
            send_http_response, set_buffer, set_effective_context, set_tick_period,
        };
        use proxy_wasm::types::{BufferType, Bytes, LogLevel, MapType, Status};

        use super::call;

        pub fn get_shared_data(key: &str) -> Result<(Option<Bytes>, Option<u32>), Status> {
            call("get shared data", || sdk::get_shared_data(key))
        }

        pub fn set_shared_data(key: &str, value: Option<&[u8]>, cas: Option<u32>) -> Result<(), Status> {
            call("set shared data", || sdk::set_shared_data(key, value, cas))
        }

        pub fn get_property(path: Vec<&str>) -> Result<Option<Bytes>, Status> {
            call("property", || sdk::get_property(path))
        }

        pub fn get_map_value_bytes(map: MapType, key: &str) -> Result<Option<Bytes>, Status> {
            call(key, || sdk::get_map_value_bytes(map, key))
        }

        pub fn set_map_value_bytes(map: MapType, key: &str, value: Option<&[u8]>) -> Result<(), Status> {
            call(key, || sdk::set_map_value_bytes(map, key, value))
        }

        pub fn remove_map_value(map: MapType, key: &str) -> Result<(), Status> {
            call(key, || sdk::remove_map_value(map, key))
        }

        pub fn get_buffer(buffer: BufferType, start: usize, size: usize) -> Result<Option<Bytes>, Status> {
            let name = match buffer {
                BufferType::HttpRequestBody => "read body",
                BufferType::HttpResponseBody => "read answer",
                _ => "read buffer",
            };
            call(name, || sdk::get_buffer(buffer, start, size))
        }

        pub fn log(level: LogLevel, message: &str) -> Result<(), Status> {
            call("log", || sdk::log(level, message))
        }

        pub fn increment_metric(metric: u32, offset: i64) -> Result<(), Status> {
            call("count", || sdk::increment_metric(metric, offset))
        }

        pub fn get_metric(metric: u32) -> Result<u64, Status> {
            call("read gauge", || sdk::get_metric(metric))
        }
    }

    /// The filter as Envoy will call it, each of its callbacks timed.
    pub fn http_context(filter: impl HttpContext + 'static) -> Box<dyn HttpContext> {
        Box::new(Timed(Some(filter)))
    }

    /// A filter; `None` once it is dropped.
    struct Timed<Filter>(Option<Filter>);

    impl<Filter: HttpContext> Timed<Filter> {
        fn callback(&mut self, run: impl FnOnce(&mut Filter) -> Action) -> Action {
            begin();
            let action = self.0.as_mut().map_or(Action::Continue, run);
            finish();
            action
        }
    }

    impl<Filter> Drop for Timed<Filter> {
        fn drop(&mut self) {
            begin();
            drop(self.0.take());
            finish();
        }
    }

    fn begin() {
        LAPS.with_borrow_mut(|laps| laps.began = Some(crate::clock::nanoseconds()));
        end(Account::Nobody, "empty");
    }

    fn finish() {
        lap(REST);
        LAPS.with_borrow_mut(|laps| laps.began = None);
    }

    impl<Filter: HttpContext> Context for Timed<Filter> {}

    impl<Filter: HttpContext> HttpContext for Timed<Filter> {
        fn on_http_request_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
            self.callback(|filter| filter.on_http_request_headers(count, end_of_stream))
        }

        fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
            self.callback(|filter| filter.on_http_request_body(size, end_of_stream))
        }

        fn on_http_request_trailers(&mut self, count: usize) -> Action {
            self.callback(|filter| filter.on_http_request_trailers(count))
        }

        fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
            self.callback(|filter| filter.on_http_response_body(size, end_of_stream))
        }

        fn on_http_response_trailers(&mut self, count: usize) -> Action {
            self.callback(|filter| filter.on_http_response_trailers(count))
        }
    }
}
