//! Waiting for conditions, and running the repository's scripts.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a condition. It is far above what any test needs, so that a busy machine makes tests slow
/// and not red. The longest real wait is for the reconciliation of leaks under load: two windows of ten
/// seconds, and a scrape per second.
const PATIENCE: Duration = Duration::from_secs(45);

/// Time between two checks of a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `condition` gives a value; panics with `what` when it takes too long.
pub async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    until_resting(|_| LOOK, what, condition).await
}

/// The same where a check is dear to whom it asks: `rest` says how long to wait after one that took so long.
pub async fn until_resting<T>(
    rest: impl Fn(Duration) -> Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        let look = Instant::now();
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(rest(look.elapsed())).await;
    }
}

/// Awaits `future`; panics with `what` when it takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// The repository's root folder.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder of build results, as cargo and the scripts choose it.
pub fn target() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    repository().join(chosen)
}

/// The output of a program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs a program of the repository (`scripts/...`) with `environment` on top of the test's own, until it
/// ends.
pub fn command(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let output = Command::new(repository().join(program))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(repository())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    Finished {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
