//! Replays the corpora, then mutates them, on a stable compiler.
//!
//! `WARMPATH_FUZZ_SECONDS` is the time per target (two by default), and `WARMPATH_FUZZ_SEED` repeats a run.
//! An input that fails is written to `target/fuzz`. Put it into `fuzz/corpus`, under a name that says what is
//! wrong with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use warmpath_fuzz::{TARGETS, Target};

/// Longest input. Longer ones find nothing new and run slower.
const LONGEST: usize = 8192;

/// Pieces of the formats, which mutations insert.
const TOKENS: [&[u8]; 45] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"4294967296",
    b"18446744073709551615",
    b"\\ud800",
    b"\\u0000",
    b"\\/",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
    b"\"model\":\"m\"",
    b"\"messages\":[",
    b"\0,{\"role\":\"user\",\"content\":\"more\"}",
    b"\"content\":",
    b"\"prompt\":",
    b"\"input\":",
    b"\"role\":",
    b"\"text\":",
    b"\"stream\":true",
    b"\"usage\":{",
    b"\"usage\"",
    b"\"prompt_tokens\":",
    b"\"cached_tokens\":",
    b"data: ",
    b"\n",
    b"\r\n\r\n",
    b"vllm:num_requests_running ",
    b"vllm:num_requests_waiting ",
    b"vllm:cache_config_info{",
    b"process_start_time_seconds ",
    b"NaN",
    b"+Inf",
    b"1e308",
    b"WPT2",
    b"WPL4",
];

/// Chance from a seed.
struct Random(SmallRng);

impl Random {
    /// A number below `end`, which must not be 0.
    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs of a target, by name.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut inputs: Vec<_> = std::fs::read_dir(root().join("corpus").join(name))
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// An input made of one or two others.
fn mutated(inputs: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = inputs[random.below(inputs.len())].1.clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(32)).min(bytes.len());
        match random.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, random.0.random()][random.below(6)];
                }
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 | 5 => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
            6 => {
                // The same again, and again.
                let piece = bytes[at..end].repeat(1 + random.below(20));
                bytes.splice(at..at, piece);
            }
            7 => {
                let other = &inputs[random.below(inputs.len())].1;
                let from = random.below(other.len() + 1);
                let to = (from + random.below(200)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                // A number of four bytes, near an edge.
                let number = [0_u32, 1, 0x7fff_ffff, u32::MAX, 0x7f80_0000, 0x7fc0_0000][random.below(6)]
                    .to_le_bytes();
                bytes.iter_mut().skip(at).zip(number).for_each(|(place, byte)| *place = byte);
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Runs a target, and keeps the input if it fails.
fn run(name: &str, target: Target, input: &[u8], origin: &dyn std::fmt::Display) {
    if catch_unwind(|| target(input)).is_err() {
        let folder =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("../target"), PathBuf::from);
        let path = folder.join("fuzz").join(format!("{name}-failed"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, input).unwrap();
        panic!("{name}: {origin}; the input is {}:\n{}", path.display(), input.escape_ascii());
    }
}

fn replay_and_mutate(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let inputs = corpus(name);
    assert!(inputs.len() >= 5, "the corpus of {name} has {} inputs", inputs.len());
    for (path, input) in &inputs {
        run(name, target, input, &Path::new(path.file_name().unwrap()).display());
    }
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().unwrap());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("WARMPATH_FUZZ_SEED").unwrap_or_else(clock);
    let time = Duration::from_secs(number("WARMPATH_FUZZ_SECONDS").unwrap_or(2));
    let (began, mut runs) = (Instant::now(), 0_u64);
    let mut random = Random(SmallRng::seed_from_u64(seed));
    while began.elapsed() < time || runs < 200 {
        let input = mutated(&inputs, &mut random);
        run(name, target, &input, &format_args!("mutation {runs} of WARMPATH_FUZZ_SEED={seed}"));
        runs += 1;
    }
    println!("{name}: {} inputs, then {runs} mutations with seed {seed}", inputs.len());
}

#[test]
fn body() {
    replay_and_mutate("body");
}

#[test]
fn config() {
    replay_and_mutate("config");
}

#[test]
fn conversation() {
    replay_and_mutate("conversation");
}

#[test]
fn json() {
    replay_and_mutate("json");
}

#[test]
fn metrics() {
    replay_and_mutate("metrics");
}

#[test]
fn shared() {
    replay_and_mutate("shared");
}

#[test]
fn first_token() {
    replay_and_mutate("first_token");
}

#[test]
fn usage() {
    replay_and_mutate("usage");
}

#[test]
fn every_target_has_its_corpus_and_its_place_in_cargo_fuzz() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
        let target = std::fs::read_to_string(root().join(format!("targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("warmpath_fuzz::{name}(bytes)")), "{name}");
    }
    let folders = std::fs::read_dir(root().join("corpus")).unwrap().count();
    assert_eq!(folders, TARGETS.len());
}
