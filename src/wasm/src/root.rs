//! The root context: reads the configuration, takes the role that `root_id` names, and keeps time for it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use warmpath::config::Config;
use warmpath::shared::lease;
use warmpath::shared::membership::{NotAnnounced, PodList, announce};
use warmpath::shared::store::Keys;

use crate::collect::Collecting;
use crate::filter::{Filter, Mind};
use crate::host::{self, Host};
use crate::metrics::CollectorMetrics;

/// How often a router looks whether the collector lives, and reads what others wrote to the log.
const WATCH: Duration = Duration::from_secs(1);
/// Log segments that a router reads before its first request: all of the ring, if that is no longer than by default. 40,000
/// prompts of 2 KB, two thirds of such a ring, took 60 to 75 ms on a busy machine, in segments of 8 KiB; those of 1 KiB are 5,000
/// calls more, about a microsecond each. A prompt that is sent to a pod which does not hold it costs seconds. What a longer ring
/// has besides is read by and by.
const SEGMENTS_AT_START: usize = 8192;
/// Log segments that a router reads at a tick, about 6 ms.
const SEGMENTS_A_TICK: usize = 512;
/// The same for one that has routed nothing: a worker that waits for its first client keeps up with 400 prompts a second, and
/// Envoy's main thread, which has a VM too and never a client, has better things to do.
const SEGMENTS_UNUSED: usize = 64;

/// A plugin in one VM.
#[derive(Default)]
pub struct Root {
    role: Role,
}

#[derive(Default)]
enum Role {
    #[default]
    Unconfigured,
    Collector(Box<Collecting>),
    Router(Box<Watch>),
}

/// A router's root context: the mind its filters share, and the stand-in for a dead collector.
struct Watch {
    config: Config,
    mind: Rc<RefCell<Mind>>,
    keys: Keys,
    /// Names this VM.
    holder: u32,
    standing_in: Option<Collecting>,
}

impl Context for Root {
    fn on_http_call_response(&mut self, call: u32, headers: usize, body_size: usize, _trailers: usize) {
        match &mut self.role {
            Role::Collector(collecting) => {
                #[cfg(feature = "trap")]
                crate::trap::on_page(headers);
                collecting.answered(call, headers, body_size);
            }
            Role::Router(watch) => {
                if let Some(collecting) = &mut watch.standing_in {
                    collecting.answered(call, headers, body_size);
                }
            }
            Role::Unconfigured => {}
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let config = match Config::parse(&host::plugin_configuration()) {
            Ok(config) => config,
            Err(error) => {
                log::error!("warmpath: {error}");
                return false;
            }
        };
        let now = host::now();
        // Chance enough to tell VMs apart: they start at different nanoseconds and live at different addresses.
        let seed = now.0 ^ ((&raw const *self as u64) << 32);
        match host::root_id().as_slice() {
            b"router" => {
                let holder = warmpath::request::blocks::mix(seed) as u32;
                let keys = Keys::of(&config.pool, config.index.log_segments);
                announce_pods(&config, &keys);
                let mut mind = Mind::new(&config, holder);
                mind.follow(SEGMENTS_AT_START);
                let mind = Rc::new(RefCell::new(mind));
                host::tick_every(WATCH);
                self.role = Role::Router(Box::new(Watch { config, mind, keys, holder, standing_in: None }));
                true
            }
            b"collector" => {
                if let Err(error) = config.pods_to_scrape() {
                    log::error!("warmpath: {error}");
                    return false;
                }
                host::tick_every(Collecting::period(&config));
                self.role = Role::Collector(Box::new(Collecting::start(&config, seed, now)));
                true
            }
            other => {
                log::error!(
                    "warmpath: `root_id` is {:?}; write \"router\" for the HTTP filter, \"collector\" for the bootstrap service",
                    String::from_utf8_lossy(other)
                );
                false
            }
        }
    }

    fn on_tick(&mut self) {
        match &mut self.role {
            Role::Collector(collecting) => collecting.tick(host::now()),
            Role::Router(watch) => watch.tick(),
            Role::Unconfigured => {}
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let mind = match &self.role {
            Role::Router(watch) => Some(Rc::clone(&watch.mind)),
            _ => None,
        };
        Some(Box::new(Filter::new(mind)))
    }
}

/// Makes the configuration's list of pods the one that holds, and says so when it does not.
fn announce_pods(config: &Config, keys: &Keys) {
    let Some(pods) = config.pods.clone() else { return };
    let list = PodList { revision: config.revision, pods };
    match announce(&keys.pods, &list, &mut Host) {
        Ok(()) => {}
        Err(NotAnnounced::Superseded { by }) => log::warn!(
            "warmpath: `pods` is not used: its `revision` is {}, and a list with revision {by} holds; give it a higher revision",
            list.revision
        ),
        Err(NotAnnounced::Contended) => {
            log::warn!("warmpath: `pods` is not used: other workers wrote theirs at every try")
        }
    }
}

impl Watch {
    fn tick(&mut self) {
        let now = host::now();
        let Ok(mut mind) = self.mind.try_borrow_mut() else { return };
        let segments = if mind.routes() { SEGMENTS_A_TICK } else { SEGMENTS_UNUSED };
        mind.follow(segments);
        mind.tell_index();
        mind.look_around(now);
        match &mut self.standing_in {
            Some(collecting) => {
                if lease::take(&self.keys.lease, self.holder, &mut Host, now) {
                    collecting.tick(now);
                } else {
                    self.standing_in = None;
                    host::tick_every(WATCH);
                }
            }
            None => {
                // Without a table there never was a collector: it may come yet, after its own grace.
                if lease::abandoned(mind.table(), now)
                    && self.config.pods.is_some()
                    && lease::take(&self.keys.lease, self.holder, &mut Host, now)
                {
                    log::warn!(
                        "warmpath: the collector of pool {} gives no sign of life, this VM collects",
                        self.config.pool
                    );
                    CollectorMetrics::of(&self.config.pool).takeovers.count();
                    self.standing_in = Some(Collecting::start(&self.config, now.0, now));
                    host::tick_every(Collecting::period(&self.config));
                }
            }
        }
    }
}
