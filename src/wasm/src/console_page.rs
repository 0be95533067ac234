//! The console: one page, and the document that it asks for every second while somebody looks at it.

use warmpath::account::transaction::LedgerStore;
use warmpath::config::Config;
use warmpath::monitor::console::{self, Shown, Totals};
use warmpath::monitor::models::Models;
use warmpath::monitor::{decisions, held};
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::{Keys, SharedData};

use crate::host::{self, Host};
use crate::observations::{ModelSeries, Series, series_of_models};

/// The page.
pub const HTML: &[u8] = include_bytes!("console.html");

/// What the document of a pool is written from.
#[derive(Debug)]
pub struct ConsolePage {
    pool: String,
    keys: Keys,
    store: LedgerStore,
    models: Vec<(String, ModelSeries)>,
}

impl ConsolePage {
    /// The console of a pool.
    pub fn new(config: &Config) -> ConsolePage {
        let keys = Keys::of(&config.pool, config.index.log_segments);
        ConsolePage {
            pool: config.pool.clone(),
            store: LedgerStore::new(keys.clone()),
            keys,
            models: Vec::new(),
        }
    }

    /// The document as it is now. Tells the routers that somebody looks.
    pub fn write(&mut self) -> String {
        let now = host::now();
        decisions::look(&self.keys.looked, &mut Host, now);
        let table = Host.get(&self.keys.table).and_then(|(bytes, _)| PodTable::decode(&bytes).ok());
        let held = Host.get(&self.keys.held).and_then(|(bytes, _)| held::decode(&bytes).ok());
        let shown = Shown {
            table: &table.unwrap_or_default(),
            ledger: &self.store.read(&Host).unwrap_or_default(),
            held: &held.unwrap_or_default(),
            decisions: &decisions::listed(&self.keys.decisions, &Host),
        };
        let totals = self.totals();
        console::write(&self.pool, env!("CARGO_PKG_VERSION"), shown, totals, now)
    }

    /// Of all models together.
    fn totals(&mut self) -> Totals {
        series_of_models(&mut self.models, &Models::shared(&self.keys.models, &Host), &self.pool);
        let mut totals = Totals::default();
        for (_, all) in &self.models {
            let of_kinds = [&mut totals.hit, &mut totals.miss, &mut totals.plain];
            for ([count, sum], series) in of_kinds.into_iter().zip(&all.first_token) {
                *count += Series::count(series);
                *sum += Series::sum(series);
            }
            for (total, metric) in totals.reported.iter_mut().zip(&all.reported) {
                *total += metric.get();
            }
        }
        totals
    }
}
