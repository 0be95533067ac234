//! How runs came about, for the page.

use std::path::PathBuf;
use std::process::Command;

use crate::report;

/// How these runs came about.
pub(super) fn conditions() -> report::Conditions {
    let command: Vec<String> = std::env::args().collect();
    let program = command.first().map(PathBuf::from);
    let name = program.as_ref().and_then(|path| path.file_name()).unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let flags = command.get(1..).unwrap_or_default().join(" ");
    // The checkout that the program lies in is the one it was made from, as a rule.
    let folder = program.and_then(|path| Some(path.canonicalize().ok()?.parent()?.to_owned()));
    let commit = folder.and_then(|folder| {
        let git = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["describe", "--always", "--dirty"])
            .output()
            .ok()?;
        git.status.success().then(|| String::from_utf8_lossy(&git.stdout).trim().to_owned())
    });
    let commit = commit.map_or(String::new(), |commit| format!(" of the checkout {commit}"));
    report::Conditions {
        command: format!("{name} {flags}"),
        program: format!("warmpath-sim {}{commit}", env!("CARGO_PKG_VERSION")),
        date: report::today(),
    }
}
