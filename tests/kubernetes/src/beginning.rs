//! What etcd holds when every cluster begins: the definitions, and Envoy Gateway's certificates. It is made
//! once and kept beside the programs, since the API server computes for seconds over definitions that are new
//! to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sandbox;

/// The programs and definitions that it is made by; each has a stamp beside it.
const MADE_BY: [&str; 4] = ["etcd", "kube-apiserver", "envoy-gateway", "crds"];
const NAME: &str = "beginning-";

/// Where it is kept; another version of a program has another one.
fn place(tools: &Path) -> PathBuf {
    let stamps =
        MADE_BY.map(|name| std::fs::read_to_string(tools.join(format!(".{name}"))).unwrap_or_default());
    let short = stamps.map(|stamp| stamp.trim().chars().take(12).collect::<String>());
    tools.join(format!("{NAME}{}", short.join("-")))
}

/// Puts it where etcd of a cluster looks; false where there is none yet.
pub fn copy(tools: &Path, to: &Path) -> bool {
    let kept = place(tools);
    if !kept.is_dir() {
        return false;
    }
    copy_folder(&kept, to);
    true
}

/// Makes it where there is none, in a cluster of its own.
pub fn make(tools: &Path, arguments: &[String]) {
    if place(tools).is_dir() {
        return;
    }
    // Of several runs at once one makes it, and the others wait.
    let lock = File::create(tools.join(".beginning.lock")).unwrap();
    lock.lock().unwrap();
    if place(tools).is_dir() {
        return;
    }
    let made = sandbox::again(arguments.iter().map(String::as_str)).arg("--beginning").status();
    assert!(made.expect("unshare (of util-linux)").success(), "the first cluster could not be made");
}

/// Keeps what etcd has left in this folder, and removes that of other versions.
pub fn keep(tools: &Path, etcd: &Path) {
    let older = std::fs::read_dir(tools).unwrap().flatten();
    for each in older.filter(|each| each.file_name().to_string_lossy().starts_with(NAME)) {
        let _ = std::fs::remove_dir_all(each.path());
    }
    // Whole, or not there.
    let new = tools.join(".beginning.new");
    let _ = std::fs::remove_dir_all(&new);
    copy_folder(etcd, &new);
    std::fs::rename(&new, place(tools)).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .args(["--recursive", "--preserve=mode", "--sparse=always"])
        .args([from, to])
        .status();
    assert!(done.is_ok_and(|status| status.success()), "etcd's data cannot be copied to {}", to.display());
}
