use super::*;
use crate::scrape::vllm::ranks::MAX_RANKS;

const IDLE: &[u8] = include_bytes!("../../../../../tests/fixtures/vllm-0.32/metrics-idle.txt");
const LOADED: &[u8] = include_bytes!("../../../../../tests/fixtures/vllm-0.32/metrics-loaded.txt");

#[test]
fn recorded_pages_are_read() {
    assert_eq!(
        load(LOADED),
        Ok(PodLoad {
            running: 6.0,
            waiting: 34.0,
            kv_usage: 0.096_774_19,
            capacity: Some(131_072),
            started: Some(1.795_224_676_21e9),
            computed_tokens: load(LOADED).unwrap().computed_tokens,
            cache_queries: load(LOADED).unwrap().cache_queries,
            cache_hits: load(LOADED).unwrap().cache_hits,
            ..PodLoad::default()
        })
    );
    assert_eq!(load(IDLE).map(|l| (l.running, l.waiting)), Ok((0.0, 0.0)));
}

#[test]
fn engines_add_up() {
    let page = b"vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3\n\
        vllm:num_requests_waiting{engine=\"0\"} 1\nvllm:num_requests_waiting{engine=\"1\"} 0\n\
        vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n\
        vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\"} 1\n\
        vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"50\"} 1\n";
    let load = load(page).unwrap();
    assert_eq!((load.running, load.waiting, load.capacity), (5.0, 1.0, Some(2400)));
    assert!((load.kv_usage - 0.3).abs() < 1e-6);
}

#[test]
fn older_names_and_odd_values_are_understood() {
    let page = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.5\n\
        vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n";
    assert_eq!(load(page).unwrap().kv_usage, 0.5);
    assert_eq!(load(page).unwrap().capacity, None);
    let off = b"vllm:num_requests_running 1\nvllm:num_requests_waiting NaN\nvllm:num_requests_waiting 2\n\
        vllm:cache_config_info{enable_prefix_caching=\"False\",block_size=\"16\",num_gpu_blocks=\"9\"} 1\n";
    assert_eq!(load(off).unwrap().waiting, 2.0);
    assert_eq!(load(off).unwrap().capacity, Some(0));
}

#[test]
fn another_page_is_not_a_load() {
    assert_eq!(load(b"<html>not found</html>"), Err(NotVllm));
    assert_eq!(load(b""), Err(NotVllm));
    assert_eq!(load(b"http_requests_total 1\nprocess_start_time_seconds 3\n"), Err(NotVllm));
}

macro_rules! page {
    ($path:literal) => {
        include_bytes!(concat!("../../../../../tests/fixtures/", $path)).as_slice()
    };
}

#[test]
fn the_size_of_the_cache_is_what_the_engine_says_fits() {
    // A hybrid model: 9,300 blocks of 4 tokens would be 37,200.
    assert_eq!(load(page!("cases/B01/page-a.txt")).unwrap().capacity, Some(1_190_000));
    // Four engines, each with a cache of its own.
    let ranks = Page::parse(page!("cases/B27/page.txt")).unwrap().ranks;
    let each: Vec<_> = ranks.iter().map(|rank| (rank.rank, rank.capacity)).collect();
    assert_eq!(each, (0..4).map(|rank| (rank, Some(131_072))).collect::<Vec<_>>());
    // Two engines of a real server, which name the blocks of both on each line.
    let two = Page::parse(page!("vllm-0.32-modes/data-parallel-2-loaded.txt")).unwrap();
    assert_eq!(two.ranks.iter().map(|rank| rank.capacity).collect::<Vec<_>>(), [Some(131_072); 2]);
    assert_eq!(two.total().capacity, Some(262_144));
}

#[test]
fn engines_are_kept_apart() {
    let two = Page::parse(page!("vllm-0.32-modes/data-parallel-2-loaded.txt")).unwrap();
    let seen: Vec<_> = two.ranks.iter().map(|r| (r.rank, r.cache_queries, r.cache_hits)).collect();
    assert_eq!(seen, [(0, 6375.0, 1152.0), (1, 6430.0, 1152.0)]);
    assert_eq!((two.total().cache_queries, two.total().cache_hits), (12_805.0, 2304.0));
    let second = two.of_engine(1);
    assert_eq!((second.capacity, second.cache_queries, second.cache_hits), (Some(131_072), 6430.0, 1152.0));
    assert_eq!(two.of_engine(2), PodLoad { asleep: true, ..PodLoad::default() });
}

#[test]
fn a_fresh_server_without_samples_is_idle() {
    let fresh = load(page!("vllm-0.32-modes/data-parallel-2-idle.txt")).unwrap();
    assert_eq!((fresh.running, fresh.waiting, fresh.capacity), (0.0, 0.0, Some(262_144)));
    let comments = b"# HELP vllm:num_requests_running x\n# TYPE vllm:num_requests_running gauge\n";
    assert_eq!(load(comments).map(|load| (load.running, load.waiting)), Ok((0.0, 0.0)));
    assert!(!load(comments).unwrap().asleep);
}

#[test]
fn a_server_with_several_api_processes_tells_no_start_but_what_it_has_computed() {
    let page = load(page!("vllm-0.32-modes/api-servers-2.txt")).unwrap();
    assert_eq!((page.started, page.cache_queries), (None, 5020.0));
    assert!(page.computed_tokens >= Some(5020.0));
    let (before, after) = (
        load(page!("cases/B14/page-before.txt")).unwrap(),
        load(page!("cases/B14/page-after-restart.txt")).unwrap(),
    );
    assert!(after.computed_tokens < before.computed_tokens);
}

#[test]
fn a_sleeping_engine_is_seen() {
    assert!(load(page!("cases/B05/page-asleep.txt")).unwrap().asleep);
    assert!(!load(page!("cases/B05/page-awake.txt")).unwrap().asleep);
    assert!(!load(LOADED).unwrap().asleep);
    let one_of_two = b"vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 0\n\
        vllm:engine_sleep_state{engine=\"1\",sleep_state=\"awake\"} 1\n";
    assert!(!load(one_of_two).unwrap().asleep, "the other engine serves");
}

#[test]
fn deferred_requests_do_not_wait_for_room() {
    let page = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 5\n\
        vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 2\n\
        vllm:num_requests_waiting_by_reason{reason=\"deferred\"} 3\n";
    assert_eq!(load(page).unwrap().waiting, 2.0);
    let odd = b"vllm:num_requests_waiting 1\nvllm:num_requests_waiting_by_reason{reason=\"deferred\"} 3\n";
    assert_eq!(load(odd).unwrap().waiting, 0.0);
}

#[test]
fn refusals_are_counted_over_their_reasons() {
    let page = b"vllm:num_requests_running 0\n\
        vllm:admission_rejections_total{model_name=\"m\",reason=\"max_num_queued_reqs\"} 4\n\
        vllm:admission_rejections_total{model_name=\"m\",reason=\"max_num_queued_tokens\"} 2\n";
    assert_eq!(load(page).unwrap().rejections, 6.0);
}

#[test]
fn more_engines_than_the_bound_are_left_out() {
    let lines: String =
        (0..200).map(|n| format!("vllm:num_requests_running{{engine=\"{n}\"}} 1\n")).collect();
    let page = Page::parse(lines.as_bytes()).unwrap();
    assert_eq!((page.ranks.len(), page.total().running), (MAX_RANKS, MAX_RANKS as f32));
}
