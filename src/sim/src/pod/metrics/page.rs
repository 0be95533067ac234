//! The page itself: a recorded text cut into what never changes and what is filled in.

use super::family::{Family, families};
use super::histogram::Histogram;
use super::source::{Source, label_of};
use super::value::{label_value, push_value};
use super::{HISTOGRAMS, PageView, Stats};
use crate::pod::PodConfig;

/// `GET /metrics` of one server process with one engine, idle.
const ONE_PROCESS: &str = include_str!("../../../../../tests/fixtures/vllm-0.32/metrics-idle.txt");

/// The same of several server processes: they share files, and so have another order and nothing of their own
/// process.
const SEVERAL_PROCESSES: &str =
    include_str!("../../../../../tests/fixtures/vllm-0.32-modes/api-servers-2.txt");

/// The model's name in both.
const RECORDED_MODEL: &str = "/model/qwen";

/// The families without samples until a pod with several processes has had a request.
const ONCE_USED: [&str; 4] = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
];

/// The family of adapters, which the recorded pages do not have.
const ADAPTERS: &str = "# HELP vllm:lora_requests_info Running stats on lora requests.\n\
                        # TYPE vllm:lora_requests_info gauge\n";

/// The page of one pod.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pieces: Vec<Piece>,
    /// Empty histograms with the bounds of the page.
    histograms: Vec<Histogram>,
    max_loras: usize,
    /// Processes whose gauges of adapters are added up.
    processes: f64,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value(Source, usize),
    /// What follows, up to the next mark, is there once the pod has been used.
    OnceUsed,
    Always,
    Adapters,
}

impl Page {
    /// The page of a pod that is configured so.
    pub(crate) fn new(config: &PodConfig) -> Page {
        let several = config.engines > 1 || config.api_servers > 1;
        let mut page = Page {
            pieces: Vec::new(),
            histograms: vec![Histogram::default(); HISTOGRAMS.len()],
            max_loras: config.max_loras,
            processes: f64::from(config.api_servers.max(1)),
        };
        let recorded = families(if several { SEVERAL_PROCESSES } else { ONE_PROCESS });
        for family in &recorded {
            if family.name == "vllm:cache_config_info" && !several {
                page.pieces.push(Piece::Adapters);
            }
            let later = several && ONCE_USED.contains(&family.name);
            page.pieces.push(if later { Piece::OnceUsed } else { Piece::Always });
            page.push_family(family, config);
        }
        if several {
            page.pieces.push(Piece::Always);
            page.pieces.push(Piece::Adapters);
        }
        if config.adapters.is_empty() {
            page.pieces.retain(|piece| !matches!(piece, Piece::Adapters));
        }
        page
    }

    fn push_family(&mut self, family: &Family<'_>, config: &PodConfig) {
        let mut text: String = family.comments.iter().flat_map(|line| [*line, "\n"]).collect();
        for (series, recorded, engine) in family.by_engine(config.engines as usize) {
            let source = match family.histogram {
                true => self.of_histogram(&series, engine),
                false => Source::of(&series, recorded),
            };
            match series.starts_with("vllm:cache_config_info{") {
                true => text.push_str(&cache_config(&series, config)),
                false => text.push_str(&series.replace(RECORDED_MODEL, &label_value(config.name()))),
            }
            text.push(' ');
            self.pieces.push(Piece::Text(std::mem::take(&mut text)));
            self.pieces.push(Piece::Value(source, engine));
            text.push('\n');
        }
        self.pieces.push(Piece::Text(text));
    }

    /// What fills in a line of a histogram. Those of the first engine give their bounds on the way.
    fn of_histogram(&mut self, series: &str, engine: usize) -> Source {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        for (hist, base, label) in HISTOGRAMS {
            let Some(suffix) = name.strip_prefix(base).filter(|_| labels.contains(label)) else { continue };
            match suffix {
                "_bucket" => {
                    let Some(histogram) = self.histograms.get_mut(hist as usize) else { continue };
                    let bound = label_of(labels, "le").parse().unwrap_or(f64::INFINITY);
                    if engine == 0 {
                        histogram.add_bound(bound);
                    }
                    return Source::Bucket(hist, histogram.bucket_of(bound));
                }
                "_count" => return Source::Count(hist),
                "_sum" => return Source::Sum(hist),
                _ => {}
            }
        }
        Source::Always(0.0)
    }

    /// Nothing counted yet.
    pub(crate) fn empty_stats(&self) -> Stats {
        Stats::new(self.histograms.clone())
    }

    /// The text.
    pub(crate) fn render(&self, view: &PageView<'_>) -> String {
        let mut out = String::with_capacity(ONE_PROCESS.len() * view.engines.len().max(1) + 4096);
        let mut shown = true;
        for piece in &self.pieces {
            match piece {
                Piece::OnceUsed => shown = view.used,
                Piece::Always => shown = true,
                Piece::Text(text) if shown => out.push_str(text),
                Piece::Value(source, engine) if shown => push_value(&mut out, source.value(view, *engine)),
                Piece::Text(_) | Piece::Value(..) => {}
                Piece::Adapters => self.push_adapters(&mut out, view),
            }
        }
        out
    }

    fn push_adapters(&self, out: &mut String, view: &PageView<'_>) {
        out.push_str(ADAPTERS);
        for line in view.adapters {
            // Both lists name all adapters with requests, as the recorded pages do.
            let names = label_value(&line.adapters);
            out.push_str(&format!(
                "vllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"{names}\",\
                 waiting_lora_adapters=\"{names}\"}} ",
                self.max_loras
            ));
            push_value(out, line.at * self.processes);
            out.push('\n');
        }
    }
}

/// `vllm:cache_config_info{...}` with the pod's own sizes. `num_gpu_blocks` is the sum over all engines on
/// the line of each, as recorded of two, and of one KV group where there are several; `kv_cache_size_tokens`
/// is what one engine holds.
fn cache_config(recorded: &str, config: &PodConfig) -> String {
    let engine = &config.engine;
    let tokens = u64::from(engine.num_gpu_blocks) * u64::from(engine.block_size);
    let blocks = u64::from(engine.num_gpu_blocks / config.kv_groups) * u64::from(config.engines);
    let mut series = recorded.to_owned();
    let sizes = [
        ("{_block_size_resolved=\"True\",block_size", u64::from(engine.block_size)),
        (",effective_attention_block_size", u64::from(engine.block_size)),
        (",kv_cache_size_tokens", tokens),
        (",num_gpu_blocks", blocks),
    ];
    // What host memory holds is not on the page of 0.32: only that there is some.
    let offloading =
        (engine.host_blocks > 0).then_some((",kv_offloading_size", u64::from(engine.host_blocks)));
    for (label, value) in sizes.into_iter().chain(offloading) {
        let from = format!("{label}=\"");
        if let Some((before, after)) = series.split_once(&from)
            && let Some((_, rest)) = after.split_once('"')
        {
            series = format!("{before}{from}{value}\"{rest}");
        }
    }
    series
}

#[cfg(test)]
mod tests {
    use super::super::{EngineView, Hist, SleepLevel};
    use super::*;
    use crate::engine::AdapterLine;
    use crate::engine::{Counters, EngineConfig, EngineLoad};
    use crate::pod::admission::Rejections;

    /// The recorded server's cache: 1,024 blocks of 128 tokens.
    fn recorded_config() -> PodConfig {
        let engine = EngineConfig { block_size: 128, num_gpu_blocks: 1024, ..EngineConfig::default() };
        PodConfig { engine, ..PodConfig::default() }
    }

    fn render(config: &PodConfig, used: bool, adapters: &[AdapterLine], with: impl Fn(&mut Stats)) -> String {
        let page = Page::new(config);
        let mut stats = page.empty_stats();
        with(&mut stats);
        let view = |_| EngineView {
            load: EngineLoad { waiting: 2, ..EngineLoad::default() },
            deferred: 1,
            counters: Counters::default(),
            stats: &stats,
        };
        let engines: Vec<EngineView<'_>> = (0..config.engines).map(view).collect();
        page.render(&PageView {
            engines: &engines,
            started: 1_795_224_676.21,
            used,
            sleep: SleepLevel::WeightsOffloaded,
            rejections: Rejections { requests: 4, tokens: 5 },
            adapters,
        })
    }

    /// The lines without their values.
    fn series(page: &str) -> Vec<&str> {
        page.lines()
            .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 })
            .collect()
    }

    fn fixture(file: &str) -> String {
        let path = format!("{}/../../tests/fixtures/vllm-0.32-modes/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_page_has_the_lines_of_vllm_in_order() {
        let ours = render(&recorded_config(), true, &[], |_| {});
        assert_eq!(series(&ours), series(ONE_PROCESS));
        assert!(ours.contains("process_start_time_seconds 1.79522467621e+09\n"));
        assert!(ours.contains("vllm:num_requests_running{engine=\"0\",model_name=\"/model/qwen\"} 0.0\n"));
        assert!(ours.ends_with('\n'));
        let several = PodConfig { api_servers: 2, ..recorded_config() };
        assert_eq!(series(&render(&several, true, &[], |_| {})), series(SEVERAL_PROCESSES));
    }

    #[test]
    fn two_engines_have_the_lines_that_were_recorded_of_two() {
        let config = PodConfig { engines: 2, api_servers: 2, ..recorded_config() };
        for (used, file) in [(true, "data-parallel-2-loaded.txt"), (false, "data-parallel-2-idle.txt")] {
            let (ours, recorded) = (render(&config, used, &[], |_| {}), fixture(file));
            // Families come in another order at each start, and which handlers have lines depends on the
            // requests.
            let of_vllm = |page: &str| -> Vec<String> {
                let mut lines: Vec<String> = series(page)
                    .into_iter()
                    .filter(|line| line.starts_with("vllm:"))
                    .map(str::to_owned)
                    .collect();
                lines.sort();
                lines
            };
            assert_eq!(of_vllm(&ours), of_vllm(&recorded), "{file}");
        }
    }

    #[test]
    fn every_recorded_value_reads_back_in_its_own_form() {
        for line in ONE_PROCESS.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit_once(' ').unwrap().1;
            let mut ours = String::new();
            push_value(&mut ours, value.parse().unwrap());
            assert_eq!(ours, value, "{line}");
        }
    }

    #[test]
    fn the_pod_says_its_own_model_cache_and_state() {
        let config = PodConfig {
            served_names: vec!["a\"b".to_owned()],
            kv_groups: 4,
            adapters: vec!["sql".to_owned()],
            ..PodConfig::default()
        };
        let adapters = [AdapterLine { adapters: "sql".to_owned(), at: 1_795_224_680.5 }];
        let ours = render(&config, true, &adapters, |_| {});
        assert!(ours.contains("model_name=\"a\\\"b\"} 0.0"));
        assert!(!ours.contains(RECORDED_MODEL));
        let info = ours.lines().find(|line| line.starts_with("vllm:cache_config_info{")).unwrap();
        for label in [",block_size=\"16\"", ",num_gpu_blocks=\"512\"", ",kv_cache_size_tokens=\"32768\""] {
            assert!(info.contains(label), "{label}");
        }
        for line in [
            "vllm:num_requests_waiting{engine=\"0\",model_name=\"a\\\"b\"} 3.0",
            "vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"a\\\"b\",reason=\"capacity\"} 2.0",
            "vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"a\\\"b\",reason=\"deferred\"} 1.0",
            "vllm:engine_sleep_state{engine=\"0\",model_name=\"a\\\"b\",sleep_state=\"awake\"} 0.0",
            "vllm:engine_sleep_state{engine=\"0\",model_name=\"a\\\"b\",sleep_state=\"weights_offloaded\"} 1.0",
            "vllm:admission_rejections_total{model_name=\"a\\\"b\",reason=\"max_num_queued_tokens\"} 5.0",
            "vllm:lora_requests_info{max_lora=\"1\",running_lora_adapters=\"sql\",waiting_lora_adapters=\"sql\"} \
             1.7952246805e+09",
        ] {
            assert!(ours.lines().any(|ours| ours == line), "{line}");
        }
    }

    #[test]
    fn histograms_cumulate() {
        let config = PodConfig { served_names: vec!["m".to_owned()], ..PodConfig::default() };
        let ours = render(&config, true, &[], |stats| {
            stats.observe(Hist::TimeToFirstToken, 0.3);
            stats.observe(Hist::TimeToFirstToken, 9_999.0);
        });
        let bucket = |le| {
            format!("vllm:time_to_first_token_seconds_bucket{{engine=\"0\",le=\"{le}\",model_name=\"m\"}}")
        };
        for (le, count) in [("0.25", "0.0"), ("0.5", "1.0"), ("2560.0", "1.0"), ("+Inf", "2.0")] {
            assert!(ours.contains(&format!("{} {count}\n", bucket(le))), "{le}");
        }
        assert!(ours.contains("time_to_first_token_seconds_sum{engine=\"0\",model_name=\"m\"} 9999.3\n"));
    }
}
