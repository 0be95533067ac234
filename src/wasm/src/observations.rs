//! What a worker has observed of its requests: kept in the VM, and added to Envoy's metrics at the tick. So a
//! request that a pod answers pays for none of its metrics with a call of the host.

use warmpath::answer::usage::Usage;
use warmpath::decide::reason::Reason;
use warmpath::monitor::histogram::Histogram;
use warmpath::monitor::models::{Models, OTHER};
use warmpath::router::Decision;
use warmpath::{Micros, Tokens};

use crate::decision_log::PREFIX_HIT;
use crate::host::{Host, Metric};
use crate::metrics::{
    DECISION, FIRST_TOKEN, HistogramFamily, MATCHED_TOKENS, PROMPT_TOKENS, REPORTED, REPORTED_KINDS,
    RouterMetrics,
};

/// A histogram of Envoy's: its counters, and what was observed since they were last added to.
#[derive(Debug)]
pub struct Series {
    family: HistogramFamily,
    buckets: Vec<Metric>,
    sum: Metric,
    observed: Histogram,
}

impl Series {
    /// Defines the counters, or finds them; `labels` is the end of their names.
    #[inline(never)]
    pub fn define(family: HistogramFamily, labels: &str) -> Series {
        let HistogramFamily { name, sum, buckets, .. } = family;
        let bounds = buckets.bounds.iter().map(|&(_, text)| text).chain(["+Inf"]);
        Series {
            family,
            buckets: bounds
                .map(|bound| Metric::counter(&format!("warmpath_{name}_bucket.le={bound};{labels}")))
                .collect(),
            sum: Metric::counter(&format!("warmpath_{sum}{labels}")),
            observed: Histogram::default(),
        }
    }

    #[inline(never)]
    fn observe(&mut self, number: u64) {
        self.observed.observe(self.family.buckets, number);
    }

    #[inline(never)]
    fn flush(&mut self) {
        if let Some((counts, sum)) = self.observed.take(self.family.buckets) {
            for (metric, count) in self.buckets.iter().zip(counts) {
                metric.add(count);
            }
            self.sum.add(sum);
        }
    }

    /// How many numbers were observed.
    pub fn count(&self) -> u64 {
        self.buckets.last().map_or(0, Metric::get)
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The counters' values, bucket by bucket, and the sum.
    pub fn read(&self) -> (Vec<u64>, u64) {
        (self.buckets.iter().map(Metric::get).collect(), self.sum.get())
    }
}

/// Which of a model's histograms of first tokens a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstTokenKind {
    /// Routed, and its pod was believed to hold most of the prompt.
    Hit,
    /// Routed, and it was not.
    Miss,
    /// A sample of plain routing.
    Plain,
}

impl FirstTokenKind {
    /// All of them, with their labels.
    pub const ALL: [(FirstTokenKind, [(&str, &str); 2]); 3] = [
        (FirstTokenKind::Hit, [("route", "warmpath"), ("matched", "true")]),
        (FirstTokenKind::Miss, [("route", "warmpath"), ("matched", "false")]),
        (FirstTokenKind::Plain, [("route", "plain"), ("matched", "any")]),
    ];
}

/// The metrics of one model.
#[derive(Debug)]
pub struct ModelSeries {
    /// By [`FirstTokenKind`].
    pub first_token: [Series; 3],
    /// Prompt tokens.
    pub prompt: Series,
    /// Matched tokens.
    pub matched: Series,
    /// By [`REPORTED_KINDS`].
    pub reported: [Metric; 3],
    reported_since: [u64; 3],
}

impl ModelSeries {
    /// Those of a model of a pool.
    #[inline(never)]
    pub fn define(model: &str, pool: &str) -> ModelSeries {
        let labels = format!(".model={model};.pool={pool};");
        ModelSeries {
            first_token: FirstTokenKind::ALL.map(|(_, [(_, route), (_, matched)])| {
                Series::define(FIRST_TOKEN, &format!(".route={route};.matched={matched};{labels}"))
            }),
            prompt: Series::define(PROMPT_TOKENS, &labels),
            matched: Series::define(MATCHED_TOKENS, &labels),
            reported: REPORTED_KINDS
                .map(|kind| Metric::counter(&format!("warmpath_{}.kind={kind};{labels}", REPORTED.name))),
            reported_since: [0; 3],
        }
    }

    fn flush(&mut self) {
        self.first_token.iter_mut().for_each(Series::flush);
        self.prompt.flush();
        self.matched.flush();
        for (metric, since) in self.reported.iter().zip(&mut self.reported_since) {
            metric.add(std::mem::take(since));
        }
    }
}

/// Defines the metrics of models that are not in `known` yet, and of all others together.
pub fn series_of_models(known: &mut Vec<(String, ModelSeries)>, models: &Models, pool: &str) {
    for name in models.names().iter().map(String::as_str).chain([OTHER]) {
        if !known.iter().any(|(known, _)| known == name) {
            known.push((name.to_owned(), ModelSeries::define(name, pool)));
        }
    }
}

/// The label of decisions that looked at a prompt, and of those that did not.
pub const DECISION_BY: [&str; 2] = ["prefix", "load"];

/// Defines the histograms of decisions, in the order of [`DECISION_BY`].
pub fn decisions(pool: &str) -> [Series; 2] {
    DECISION_BY.map(|by| Series::define(DECISION, &format!(".by={by};.pool={pool};")))
}

/// What one worker has observed.
#[derive(Debug)]
pub struct Observations {
    pool: String,
    /// The key of the models that workers share.
    key: String,
    models: Models,
    /// By place in `models`; those of the others come last, and those that were never needed are not there.
    of_models: Vec<(usize, ModelSeries)>,
    decisions: [Series; 2],
    counts: Counts,
}

/// Routed requests since the last tick.
#[derive(Debug, Default)]
struct Counts {
    /// By [`RoutedBy`].
    by: [u64; 3],
    /// By [`Reason`].
    reasons: [u64; Reason::ALL.len()],
    /// Those whose pod was believed to hold most of the prompt.
    prefix_hits: u64,
}

/// What a request was routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutedBy {
    /// The load, and what each pod holds of its prompt.
    Prefix,
    /// The load alone.
    Load,
    /// The load alone, as a sample of plain routing.
    Plain,
}

/// What is observed of a request once it is answered.
#[derive(Clone, Debug)]
pub struct Seen {
    model: ModelSeen,
    kind: FirstTokenKind,
    tokens: Tokens,
    matched_tokens: Tokens,
    /// How long its first token took, once it has come.
    pub first_token: Option<Micros>,
}

/// The model of a request.
#[derive(Clone, Debug)]
enum ModelSeen {
    /// The request has no prompt: nothing is observed.
    None,
    /// It has metrics of its own.
    Known(usize),
    /// It gets some, if a pod serves it.
    New(Box<[u8]>),
    /// It has those of all others.
    Other,
}

impl Seen {
    /// Nothing is observed.
    #[cfg(feature = "blind")]
    pub fn nothing() -> Seen {
        let (model, kind) = (ModelSeen::None, FirstTokenKind::Miss);
        Seen { model, kind, tokens: Tokens::NONE, matched_tokens: Tokens::NONE, first_token: None }
    }
}

impl Counts {
    fn add(&mut self, by: RoutedBy, reason: Reason, is_hit: bool) {
        let counts = [self.by.get_mut(by as usize), self.reasons.get_mut(reason as usize)];
        counts.into_iter().flatten().for_each(|count| *count += 1);
        self.prefix_hits += u64::from(is_hit);
    }

    /// Whoever sees a request among those that were routed sees all of its counts.
    fn tell(self, metrics: &RouterMetrics) {
        metrics.prefix_hits.add(self.prefix_hits);
        let of_reasons = [
            metrics.for_load,
            metrics.for_prefix,
            metrics.for_copy,
            metrics.for_busy,
            metrics.for_away,
            metrics.for_plain,
        ];
        of_reasons.iter().zip(self.reasons).for_each(|(metric, count)| metric.add(count));
        let by = [metrics.by_prefix, metrics.by_load, metrics.by_plain];
        by.iter().zip(self.by).for_each(|(metric, count)| metric.add(count));
    }
}

impl Observations {
    /// A worker that has observed nothing.
    pub fn new(pool: &str, key: &str) -> Observations {
        Observations {
            pool: pool.to_owned(),
            key: key.to_owned(),
            models: Models::default(),
            of_models: Vec::new(),
            decisions: decisions(pool),
            counts: Counts::default(),
        }
    }

    /// A request was decided within `took`; `model` is the one that it names, if it has a prompt.
    pub fn decided(&mut self, decision: &Decision, by: RoutedBy, model: Option<&[u8]>, took: Micros) -> Seen {
        let [with_prompt, without] = &mut self.decisions;
        let series = if model.is_some() { with_prompt } else { without };
        series.observe(took.0);
        let is_hit = decision.match_ratio() > PREFIX_HIT;
        self.counts.add(by, decision.reason, is_hit);
        let model = match model {
            None => ModelSeen::None,
            Some(name) => match self.models.place(name) {
                Some(place) => ModelSeen::Known(place),
                None if self.models.has_room() => ModelSeen::New(name.into()),
                None => ModelSeen::Other,
            },
        };
        let kind = match decision.reason {
            Reason::Plain => FirstTokenKind::Plain,
            _ if is_hit => FirstTokenKind::Hit,
            _ => FirstTokenKind::Miss,
        };
        let (tokens, matched_tokens) = (decision.tokens, decision.matched_tokens);
        Seen { model, kind, tokens, matched_tokens, first_token: None }
    }

    /// A pod has answered a request.
    pub fn answered(&mut self, seen: &Seen, usage: Option<Usage>) {
        let place = match &seen.model {
            ModelSeen::None => return,
            ModelSeen::Known(place) => *place,
            ModelSeen::New(name) => {
                // Another worker may have added it meanwhile.
                if self.models.place(name).is_none() {
                    self.models.add(name, &self.key, &mut Host);
                }
                self.models.place(name).unwrap_or(usize::MAX)
            }
            ModelSeen::Other => usize::MAX,
        };
        let Some(series) = self.of_model(place) else { return };
        if let Some(took) = seen.first_token
            && let Some(of_kind) = series.first_token.get_mut(seen.kind as usize)
        {
            of_kind.observe(took.0);
        }
        series.prompt.observe(seen.tokens.0.into());
        series.matched.observe(seen.matched_tokens.0.into());
        if let Some(Usage { prompt_tokens, cached_tokens: Some(cached) }) = usage {
            let believed = seen.matched_tokens.min(prompt_tokens);
            for (since, tokens) in series.reported_since.iter_mut().zip([prompt_tokens, cached, believed]) {
                *since += u64::from(tokens.0);
            }
        }
    }

    /// Adds what was observed to Envoy's metrics.
    pub fn flush(&mut self, metrics: &RouterMetrics) {
        std::mem::take(&mut self.counts).tell(metrics);
        self.decisions.iter_mut().for_each(Series::flush);
        self.of_models.iter_mut().for_each(|(_, series)| series.flush());
    }

    fn of_model(&mut self, place: usize) -> Option<&mut ModelSeries> {
        if !self.of_models.iter().any(|&(known, _)| known == place) {
            let name = self.models.names().get(place).map_or(OTHER, String::as_str);
            self.of_models.push((place, ModelSeries::define(name, &self.pool)));
        }
        self.of_models.iter_mut().find(|(known, _)| *known == place).map(|(_, series)| series)
    }
}
