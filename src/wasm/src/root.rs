//! The root context: reads the configuration, and takes the role that `root_id` names.

use std::rc::Rc;

use warmpath::config::Config;
use warmpath::settings::error::SettingError;

use crate::answer_filter::AnswerFilter;
use crate::answer_role::AnswerRole;
use crate::attempts;
use crate::collector_driver::CollectorDriver;
use crate::filter::Filter;
use crate::host;
use crate::monitor_role::{MonitorFilter, MonitorRole};
use crate::router_role::RouterRole;
use crate::start;
use crate::stream::{PassThrough, Stream};

/// A plugin in one VM.
#[derive(Debug)]
pub struct Root {
    /// Envoy's number of this context.
    id: u32,
    role: Role,
}

#[derive(Debug, Default)]
enum Role {
    #[default]
    Unconfigured,
    Collector(Box<CollectorDriver>),
    Router(Box<RouterRole>),
    Answer(Rc<AnswerRole>),
    Monitor(Rc<MonitorRole>),
}

impl Root {
    /// A plugin that is not configured yet.
    pub fn new(id: u32) -> Root {
        Root { id, role: Role::Unconfigured }
    }

    /// Takes the role of the plugin's `root_id`.
    fn configure(&mut self) -> Result<(), String> {
        let in_words = |error: SettingError| format!("configuration: {error}");
        let config = Config::parse(&host::plugin_configuration()).map_err(in_words)?;
        let (now, seed) = (host::now(), host::random());
        let root_id = host::root_id();
        self.role = match root_id.as_slice() {
            b"router" => Role::Router(Box::new(RouterRole::start(config.clone(), self.id, seed, now))),
            b"collector" => {
                config.pods_to_scrape().map_err(in_words)?;
                host::tick_every(CollectorDriver::period(&config));
                Role::Collector(Box::new(CollectorDriver::start(&config, seed, now)))
            }
            b"answer" => Role::Answer(Rc::new(AnswerRole::new(&config))),
            b"monitor" => Role::Monitor(Rc::new(MonitorRole::metrics(&config))),
            b"console" => Role::Monitor(Rc::new(MonitorRole::console(&config))),
            other => {
                return Err(format!(
                    "`root_id` is {:?}; write \"router\" for the HTTP filter, \"answer\" for the upstream HTTP filter, \
                     \"collector\" for the bootstrap service, \"monitor\" for the filter of the metrics page, \"console\" for that of the console",
                    String::from_utf8_lossy(other)
                ));
            }
        };
        start::announce(&String::from_utf8_lossy(&root_id), &config);
        Ok(())
    }

    /// Envoy has a configuration for the plugin; `false` when it is no good.
    pub fn on_configure(&mut self) -> bool {
        self.configure().inspect_err(|error| log::error!("warmpath: {error}")).is_ok()
    }

    /// The period that the plugin has asked for is over.
    pub fn on_tick(&mut self) {
        match &mut self.role {
            Role::Collector(driver) => driver.tick(host::now()),
            Role::Router(router) => router.tick(host::now()),
            Role::Answer(_) | Role::Monitor(_) | Role::Unconfigured => {}
        }
    }

    /// The answer to a call that the plugin has made is here.
    pub fn on_http_call_response(&mut self, call: u32, headers: usize, body_size: usize) {
        attempts::forget_part();
        match &mut self.role {
            Role::Collector(driver) => {
                #[cfg(feature = "trap")]
                crate::trap::on_page(headers);
                driver.answered(call, headers, body_size);
            }
            Role::Router(router) => router.answered(call, headers, body_size),
            Role::Answer(_) | Role::Monitor(_) | Role::Unconfigured => {}
        }
    }

    /// The filter of a stream that Envoy has numbered `id`.
    pub fn stream(&self, id: u32) -> Stream {
        match &self.role {
            Role::Router(router) => Stream::Router(Filter::new(router.worker(), id)),
            Role::Answer(role) => Stream::Answer(AnswerFilter::new(Rc::clone(role))),
            Role::Monitor(role) => Stream::Monitor(MonitorFilter(Rc::clone(role))),
            Role::Collector(_) | Role::Unconfigured => Stream::None(PassThrough),
        }
    }
}
