//! Programs that run beside the tests, each with a log of its own, each ended by its pid.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program of ours, which was built with this one and lies beside it.
pub fn program(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

/// A running program. Dropping it ends it.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; what it says is added to `NAME.log` in the folder `logs`.
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> Process {
        let log = logs.join(format!("{name}.log"));
        Process::start_with_output(name, logs, &log, command)
    }

    /// The same with a file of its own for what it writes to standard output.
    pub fn start_with_output(name: &str, logs: &Path, output: &Path, command: &mut Command) -> Process {
        let log = logs.join(format!("{name}.log"));
        let open = |file: &Path| OpenOptions::new().create(true).append(true).open(file).unwrap();
        let child = command
            // Several clusters share the machine's processors, and have memory to spare: Go collects its
            // garbage less often.
            .env("GOGC", "400")
            .stdin(Stdio::null())
            .stdout(open(output))
            .stderr(open(&log))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Process { name: name.to_owned(), log, child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
    }

    /// Panics if it has ended, with its last words.
    pub fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            let said = std::fs::read(&self.log).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let last: Vec<&str> = said.lines().rev().take(10).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            panic!(
                "{} ended with {status}; its last words in {}:\n{}",
                self.name,
                self.log.display(),
                last.join("\n")
            );
        }
    }

    /// Ends it: first it is asked, and after ten seconds not any more.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        if self.child.try_wait().ok().flatten().is_some() {
            return;
        }
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().ok().flatten().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.finish();
    }
}
