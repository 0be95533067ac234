//! The log lines of pods that begin to be left alone because they failed, and of those that are back.

use warmpath::monitor::left_alone::{Change, Why};

/// Pods of one kind that change at once and still have a line each.
const LINES: usize = 3;

/// Prints the changes of a pool with `pods` pods.
pub fn print(changes: &[Change], pods: usize) {
    for (why, one, many) in [
        (
            Some(Why::Errors),
            "is left alone: it answered several requests in a row with errors of its own",
            "are left alone: they answered several requests in a row with errors of their own",
        ),
        (
            Some(Why::Failures),
            "is left alone: it refused a request, broke it off or answered 503",
            "are left alone: they refused a request, broke it off or answered 503",
        ),
        (
            None,
            "serves again, nothing is held against it any more",
            "serve again, nothing is held against them any more",
        ),
    ] {
        let of_kind: Vec<&Change> = changes.iter().filter(|change| change.why == why).collect();
        match of_kind.as_slice() {
            [first, ..] if of_kind.len() > LINES => {
                log::warn!("warmpath: {} of {pods} pods {many}; the first is {}", of_kind.len(), first.pod);
            }
            several => several.iter().for_each(|change| log::warn!("warmpath: pod {} {one}", change.pod)),
        }
    }
}
