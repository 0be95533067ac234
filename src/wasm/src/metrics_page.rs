//! The module's own metrics page, in Prometheus' text format, with what Envoy's lacks: `HELP`, histograms in
//! seconds, and series of single pods that end with their pod. It is written when it is asked for, so it
//! costs nothing otherwise.

use warmpath::account::transaction::LedgerStore;
use warmpath::config::Config;
use warmpath::monitor::models::Models;
use warmpath::monitor::page::Page;
use warmpath::monitor::{held, pods};
use warmpath::shared::pod_table::PodTable;
use warmpath::shared::store::{Keys, SharedData};

use crate::host::{self, Host};
use crate::metrics::{
    AnswerMetrics, BuildMetrics, CollectorMetrics, DECISION, FIRST_TOKEN, HistogramFamily, MATCHED_TOKENS,
    PROMPT_TOKENS, REPORTED, REPORTED_KINDS, RouterMetrics, Row, StopIterationMetrics,
};
use crate::observations::{DECISION_BY, FirstTokenKind, ModelSeries, Series, decisions, series_of_models};

/// What the page of a pool is written from.
#[derive(Debug)]
pub struct MetricsPage {
    pool: String,
    keys: Keys,
    store: LedgerStore,
    /// The metrics without a histogram, in any order.
    rows: Vec<Row>,
    decisions: [Series; 2],
    /// By model, as far as they were needed.
    models: Vec<(String, ModelSeries)>,
}

impl MetricsPage {
    /// The page of a pool.
    pub fn new(config: &Config) -> MetricsPage {
        let pool = &config.pool;
        let keys = Keys::of(pool, config.index.log_segments);
        let rows = [
            RouterMetrics::of(pool).rows(),
            CollectorMetrics::of(pool).rows(),
            AnswerMetrics::of(pool).rows(),
            StopIterationMetrics::of(pool).rows(),
            BuildMetrics::of(pool).rows(),
        ]
        .concat();
        MetricsPage {
            store: LedgerStore::new(keys.clone()),
            keys,
            rows,
            decisions: decisions(pool),
            models: Vec::new(),
            pool: pool.clone(),
        }
    }

    /// The page as it is now.
    pub fn write(&mut self) -> String {
        let mut page = Page::default();
        self.rows(&mut page);
        self.histograms(&mut page);
        let table = Host.get(&self.keys.table).and_then(|(bytes, _)| PodTable::decode(&bytes).ok());
        if let Some(table) = table {
            // Without a request there is no ledger yet.
            let ledger = self.store.read(&Host).unwrap_or_default();
            let held = Host.get(&self.keys.held).and_then(|(bytes, _)| held::decode(&bytes).ok());
            pods::write(&mut page, &self.pool, &table, &ledger, &held.unwrap_or_default(), host::now());
        }
        page.into_text()
    }

    fn rows(&self, page: &mut Page) {
        for (at, first) in self.rows.iter().enumerate() {
            let before = self.rows.get(..at).unwrap_or_default();
            if before.iter().any(|row| row.of.name == first.of.name) {
                continue;
            }
            page.family(first.of.name, first.of.kind, &self.help(first.of.name));
            // Two roles may define the same metric.
            let mut written: Vec<&[_]> = Vec::new();
            for row in self.rows.iter().filter(|row| row.of.name == first.of.name) {
                if !written.contains(&row.of.labels) {
                    written.push(row.of.labels);
                    self.sample(page, row);
                }
            }
        }
    }

    /// The text of a family: that of its one metric, or those of all, each after the value of its label.
    #[inline(never)]
    fn help(&self, name: &str) -> String {
        let mut texts: Vec<(&str, &str)> = Vec::new();
        for row in self.rows.iter().filter(|row| row.of.name == name) {
            if !texts.iter().any(|&(_, text)| text == row.of.help) {
                texts.push((row.of.labels.first().map_or("", |(_, value)| value), row.of.help));
            }
        }
        match texts.as_slice() {
            [(_, only)] => (*only).to_owned(),
            several => several.iter().map(|(value, text)| format!("{value}: {text} ")).collect(),
        }
    }

    #[inline(never)]
    fn sample(&self, page: &mut Page, row: &Row) {
        let pool = ("pool", self.pool.as_str());
        match row.of.labels {
            [label, ..] => page.sample(row.of.name, &[*label, pool], row.metric.get()),
            [] => page.sample(row.of.name, &[pool], row.metric.get()),
        }
    }

    fn histograms(&mut self, page: &mut Page) {
        series_of_models(&mut self.models, &Models::shared(&self.keys.models, &Host), &self.pool);
        let pool = ("pool", self.pool.as_str());
        begin(page, DECISION);
        for (by, series) in DECISION_BY.into_iter().zip(&self.decisions) {
            histogram(page, DECISION, series, &[("by", by), pool]);
        }
        begin(page, FIRST_TOKEN);
        for (model, all) in &self.models {
            for ((_, [route, matched]), series) in FirstTokenKind::ALL.into_iter().zip(&all.first_token) {
                histogram(page, FIRST_TOKEN, series, &[route, matched, ("model", model), pool]);
            }
        }
        begin(page, PROMPT_TOKENS);
        for (model, all) in &self.models {
            histogram(page, PROMPT_TOKENS, &all.prompt, &[("model", model), pool]);
        }
        begin(page, MATCHED_TOKENS);
        for (model, all) in &self.models {
            histogram(page, MATCHED_TOKENS, &all.matched, &[("model", model), pool]);
        }
        let name = format!("warmpath_{}", REPORTED.name);
        page.family(&name, "counter", REPORTED.help);
        for (model, all) in &self.models {
            for (kind, metric) in REPORTED_KINDS.into_iter().zip(&all.reported) {
                page.sample(&name, &[("kind", kind), ("model", model), pool], metric.get());
            }
        }
    }
}

#[inline(never)]
fn begin(page: &mut Page, family: HistogramFamily) {
    page.family(&format!("warmpath_{}", family.name), "histogram", family.help);
}

#[inline(never)]
fn histogram(page: &mut Page, family: HistogramFamily, series: &Series, labels: &[(&str, &str)]) {
    let (counts, sum) = series.read();
    let name = format!("warmpath_{}", family.name);
    let bounds = family.buckets.bounds.iter().map(|&(_, text)| text).chain(["+Inf"]);
    // A worker adds to the counters one by one, so that a page may be written in between; a bucket is never
    // below the one before.
    let mut no_less = 0;
    for (bound, count) in bounds.zip(counts) {
        no_less = count.max(no_less);
        let with_bound: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
        page.sample(&format!("{name}_bucket"), &with_bound, no_less);
    }
    let sum_name = format!("{name}_sum");
    match family.buckets.unit {
        1 => page.sample(&sum_name, labels, sum),
        _ => page.sample_in_millionths(&sum_name, labels, sum),
    }
    page.sample(&format!("{name}_count"), labels, no_less);
}
