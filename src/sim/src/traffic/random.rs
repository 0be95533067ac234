//! The prompts of the `random` data set: words by chance, of lengths by chance. No clock and no I/O.

use super::TrafficOptions;
use super::words::Words;

/// A prompt and the length of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    /// Words, each one token.
    pub(super) text: String,
    /// Tokens of the answer.
    pub(super) output_tokens: u32,
}

/// Draws prompts.
#[derive(Debug)]
pub(super) struct RandomPrompts {
    prefix: String,
    input: (u32, u32),
    output: (u32, u32),
    seed: u64,
}

impl RandomPrompts {
    /// All prompts of a run.
    pub(super) fn new(options: &TrafficOptions) -> RandomPrompts {
        let range = |mean: u32| {
            let by = |factor: f64| (f64::from(mean) * factor) as u32;
            (by(1.0 - options.random_range_ratio).max(1), by(1.0 + options.random_range_ratio).max(1))
        };
        let mut prefix = String::new();
        Words::new(options.seed, 0).append(&mut prefix, options.random_prefix_len);
        RandomPrompts {
            prefix,
            input: range(options.random_input_len),
            output: range(options.random_output_len),
            seed: options.seed,
        }
    }

    /// The `nth` prompt, from 0.
    pub(super) fn get(&self, nth: u32) -> Prompt {
        let mut words = Words::new(self.seed, u64::from(nth) + 1);
        let mut text = self.prefix.clone();
        let tokens = words.between(self.input.0, self.input.1);
        let output_tokens = words.between(self.output.0, self.output.1);
        words.append(&mut text, tokens);
        Prompt { text, output_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::options::tests::options;

    #[test]
    fn lengths_are_in_their_range_and_prompts_differ_behind_the_prefix() {
        let prompts = RandomPrompts::new(&options(&["--workload", "random"]));
        let all: Vec<Prompt> = (0..300).map(|nth| prompts.get(nth)).collect();
        let mean = |of: fn(&Prompt) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        for prompt in &all {
            let tokens = prompt.text.split(' ').count();
            assert!((1240 + 10..=1860 + 10).contains(&tokens), "{tokens}");
            assert!((1440..=2160).contains(&prompt.output_tokens), "{}", prompt.output_tokens);
            assert!(prompt.text.starts_with(&prompts.prefix));
        }
        assert_eq!(prompts.prefix.split(' ').count(), 10);
        assert!((mean(|p| p.text.split(' ').count() as f64) - 1560.0).abs() < 40.0);
        assert!((mean(|p| p.output_tokens.into()) - 1800.0).abs() < 50.0);
        assert_ne!(all[0].text.get(100..200), all[1].text.get(100..200));
        assert_eq!(all[7], prompts.get(7));
    }
}
