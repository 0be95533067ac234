//! The arrival schedule, on virtual time.

use super::*;
use crate::traffic::options::tests::options;

/// Every question of a run whose answers take `answer` seconds, with its time.
fn run(flags: &[&str], seconds: f64, answer: f64) -> Vec<(f64, Question)> {
    let mut sessions = Sessions::new(&options(&[&["--workload", "multi-round-qa"], flags].concat()));
    let (mut asked, mut open) = (Vec::new(), Vec::new());
    for tick in 0..(seconds / TICK) as u32 {
        let now = f64::from(tick) * TICK;
        open.retain(|&(at, user, tokens)| {
            if at + answer > now {
                return true;
            }
            sessions.answered(user, Some(vec!["so"; tokens as usize].join(" ")));
            false
        });
        for question in sessions.step(now) {
            open.push((now, question.user, question.max_tokens));
            asked.push((now, question));
        }
    }
    asked
}

fn words(question: &Question) -> usize {
    question.messages.iter().map(|message| message.content.split(' ').count()).sum()
}

#[test]
fn the_references_command_asks_as_many_questions_as_the_reference_did() {
    // Its output: 0.1080 requests/s for 583.20 s.
    let asked = run(&[], 600.0, 3.0);
    assert!((61..=65).contains(&asked.len()), "{}", asked.len());
    let last = asked.last().unwrap().0;
    assert!((570.0..590.0).contains(&last), "{last}");
}

#[test]
fn over_a_long_time_the_rate_is_the_originals() {
    let asked = run(&["--qps", "2", "--num-users", "10", "--num-rounds", "5"], 3000.0, 0.5);
    let rate = asked.len() as f64 / 3000.0;
    // A user joins when the one before has asked its last question but one gap: 5 questions in the time of 4,
    // so the original sends 5/4 of the rate, and the reference's 15 rounds 0.108 instead of 0.1. Its ticks
    // take a little off.
    assert!((2.3..2.5).contains(&rate), "{rate}");
}

#[test]
fn a_user_waits_its_gap_between_questions_and_for_its_answer() {
    for (answer, least) in [(3.0, 80.0), (95.0, 95.0)] {
        let asked = run(&[], 2000.0, answer);
        let user = 9;
        let times: Vec<f64> = asked.iter().filter(|(_, q)| q.user == user).map(|(at, _)| *at).collect();
        assert_eq!((times.len(), times[0]), (15, 0.0), "the first to join asks at once, and all its rounds");
        for pair in times.windows(2) {
            assert!((least..least + 0.25).contains(&(pair[1] - pair[0])), "{times:?}");
        }
    }
}

#[test]
fn prompts_grow_by_question_and_answer_and_differ_between_users() {
    let asked = run(&[], 600.0, 3.0);
    let of = |user| asked.iter().filter(move |(_, q)| q.user == user).map(|(_, q)| q).collect::<Vec<_>>();
    let (ninth, tenth) = (of(9), of(10));
    assert_eq!((ninth[0].round, ninth[0].messages.len(), ninth[1].messages.len()), (1, 1, 3));
    assert_eq!(ninth[1].messages[..1], ninth[0].messages[..]);
    assert_eq!(ninth[1].messages[1].role, "assistant");
    assert!((2100..2130).contains(&words(ninth[0])), "{}", words(ninth[0]));
    assert!(ninth.iter().all(|question| question.max_tokens == 100));
    let (a, b) = (&ninth[0].messages[0].content, &tenth[0].messages[0].content);
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    assert!((300..400).contains(&same), "the system prompt is shared, the context is not: {same}");
}

#[test]
fn with_sharegpts_lengths_prompts_and_answers_are_as_long_as_the_references() {
    // Its output: 259.07 input and 4.86 output tokens/s at 0.1080 requests/s.
    let asked: Vec<_> =
        (0..10).flat_map(|seed| run(&["--sharegpt", "--seed", &seed.to_string()], 600.0, 3.0)).collect();
    let prompt = asked.iter().map(|(_, q)| words(q) as f64).sum::<f64>() / asked.len() as f64;
    let answer = asked.iter().map(|(_, q)| f64::from(q.max_tokens)).sum::<f64>() / asked.len() as f64;
    assert!((2300.0..2500.0).contains(&prompt), "{prompt}");
    assert!((42.0..50.0).contains(&answer), "{answer}");
}

#[test]
fn a_question_without_an_answer_leaves_no_gap_in_the_conversation() {
    let mut sessions = Sessions::new(&options(&["--workload", "multi-round-qa"]));
    let first = sessions.step(0.0);
    assert_eq!((first.len(), first[0].user), (1, 9));
    sessions.answered(9, None);
    let mut next = || {
        (1..1000).map(|s| f64::from(s) * 10.0).find_map(|at| {
            let due = sessions.step(at);
            for question in due.iter().filter(|q| q.user != 9) {
                sessions.answered(question.user, Some(String::new()));
            }
            due.into_iter().find(|q| q.user == 9)
        })
    };
    let second = next().unwrap();
    assert_eq!((second.round, second.messages.len()), (2, 1));
    assert!(second.messages[0].content.starts_with("Hi, here's some system prompt"));
}
