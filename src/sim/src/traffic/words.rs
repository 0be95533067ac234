//! Text of a given number of tokens: short common words, each of which is one token to the simulated pods (a
//! space and at most five letters) and to the vocabularies of real models.

use crate::workload::Dice;

const WORDS: [&str; 128] = [
    "time", "year", "way", "day", "man", "thing", "woman", "life", "child", "world", "state", "home", "hand",
    "part", "place", "case", "week", "work", "point", "fact", "group", "area", "money", "story", "month",
    "lot", "right", "study", "book", "eye", "job", "word", "issue", "side", "kind", "head", "house", "page",
    "power", "hour", "game", "line", "end", "among", "ever", "stand", "bad", "lose", "pay", "law", "meet",
    "car", "city", "name", "team", "best", "idea", "kid", "body", "back", "level", "door", "war", "force",
    "light", "voice", "wife", "whole", "mind", "price", "north", "cost", "role", "road", "drive", "rate",
    "heart", "drug", "show", "view", "town", "plan", "tree", "field", "class", "paper", "space", "south",
    "value", "court", "table", "music", "sense", "rule", "data", "film", "sound", "food", "land", "color",
    "floor", "site", "sign", "wall", "model", "skill", "style", "board", "risk", "fire", "bank", "west",
    "sport", "trade", "oil", "scene", "phone", "stage", "agent", "blue", "bit", "ball", "final", "green",
    "press", "image", "key", "truth",
];

/// A seeded source of words and lengths. The same seed gives the same on every machine.
#[derive(Debug)]
pub(super) struct Words(Dice);

impl Words {
    /// The stream number `stream` of `seed`.
    pub(super) fn new(seed: u64, stream: u64) -> Words {
        Words(Dice::new(seed, stream))
    }

    /// Appends so many words, with a space between any two, and before the first if there is text already.
    pub(super) fn append(&mut self, text: &mut String, words: u32) {
        for _ in 0..words {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(WORDS.get(self.0.below(WORDS.len())).copied().unwrap_or("time"));
        }
    }

    /// Evenly from `least` to `most`, both included.
    pub(super) fn between(&mut self, least: u32, most: u32) -> u32 {
        self.0.between(least, most)
    }

    /// Half are longer than `median`, and `ln` of them spreads by `sigma`: lengths of what people write. At
    /// least 1.
    pub(super) fn length(&mut self, median: f64, sigma: f64) -> u32 {
        // Box and Muller: a normal number of two even ones.
        let (a, b) = (self.0.unit(), self.0.unit());
        let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        (median * (sigma * normal).exp()).round().clamp(1.0, 1e6) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_words_as_asked_for_and_the_same_for_the_same_seed() {
        let text = |seed, stream| {
            let mut text = String::new();
            Words::new(seed, stream).append(&mut text, 100);
            text
        };
        assert_eq!(text(1, 2).split(' ').count(), 100);
        assert_eq!(text(1, 2), text(1, 2));
        assert_ne!(text(1, 2), text(1, 3));
        assert_ne!(text(1, 2), text(2, 2));
        assert!(WORDS.iter().all(|word| word.len() <= 5));
    }

    #[test]
    fn half_of_the_lengths_are_above_the_median() {
        let mut words = Words::new(0, 0);
        let above = (0..1000).filter(|_| words.length(40.0, 1.0) > 40).count();
        assert!((420..580).contains(&above), "{above}");
    }
}
