//! Namespaces of our own: network, mounts, processes. What is started in them ends with this process, however
//! it ends, and nothing of the machine's network or files changes.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Set inside.
const INSIDE: &str = "WARMPATH_INSIDE_SANDBOX";

/// Addresses of the cluster. All are on the loopback device of the network namespace, as pods are processes
/// in it.
pub mod address {
    /// The API server.
    pub const API: &str = "10.244.0.1";
    /// Envoy's listeners.
    pub const ENVOY: &str = "10.244.0.3";
    /// The extension server of Envoy Gateway, and its second replica.
    pub const EXTENSION: [&str; 2] = ["10.244.0.4", "10.244.0.6"];
    /// The server that the module is downloaded from.
    pub const MODULES: &str = "10.244.0.5";
    /// This end of the link to Envoy Gateway's own network namespace, and the other.
    pub const LINK: (&str, &str) = ("10.244.1.1", "10.244.1.2");
    /// How many pods a case may have: 10.244.0.11 and on, fd00::11 and on.
    pub const PODS: u8 = 220;

    /// The node where pods run that are processes of their own: the bridge that they are plugged into.
    pub const NODE: &str = "10.244.2.1";

    /// The address of the pod that is started as this one, from 1.
    pub fn of_running_pod(number: u8) -> String {
        format!("10.244.2.{}", number + 1)
    }

    /// The address of the pod with this number, from 11.
    pub fn pod(number: u8) -> String {
        format!("10.244.0.{number}")
    }
}

/// Lays a new root over the machine's: everything of the old one, and empty folders where containers have
/// theirs. The last line runs this program again, in it.
const ENTER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
for each in /* /.[!.]*; do
  name=${each##*/}
  if [ "$name" = mnt ] || [ ! -e "$each" ]; then continue
  elif [ -L "$each" ]; then cp -P "$each" /mnt/
  elif [ -d "$each" ]; then mkdir "/mnt/$name"; mount --rbind "$each" "/mnt/$name"
  else touch "/mnt/$name"; mount --bind "$each" "/mnt/$name"
  fi
done
mkdir -p /mnt/mnt /mnt/certs /mnt/sds /mnt/config
exec chroot /mnt sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
"#;

/// Runs this program again inside the sandbox, and does not come back; inside, prepares it and comes back.
pub fn enter() {
    if std::env::var_os(INSIDE).is_some() {
        return prepare();
    }
    let failure = again(std::env::args_os().skip(1)).exec();
    panic!("cannot run unshare (of util-linux): {failure}");
}

/// This program again, with these arguments, inside a sandbox of its own.
pub fn again(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let me = std::env::current_exe().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["sh", "-c", ENTER, "sandbox"]).arg(me).args(arguments).env(INSIDE, "1");
    unshare
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout == b"0\n"
}

/// Gives the loopback device the cluster's addresses, and names to those who ask by name.
fn prepare() {
    let mut batch = String::from("link set lo up\n");
    let [first, second] = address::EXTENSION;
    let fixed = [address::API, address::ENVOY, first, second, address::MODULES].map(str::to_owned);
    for each in fixed.into_iter().chain((11..address::PODS).map(address::pod)) {
        batch += &format!("addr add {each}/32 dev lo\n");
    }
    for number in 11..=30 {
        batch += &format!("addr add fd00::{number}/128 dev lo\n");
    }
    let folder = scratch();
    let file = folder.join("ip");
    std::fs::write(&file, batch).unwrap();
    run("ip", &["-batch", file.to_str().unwrap()]);

    let gateway = address::LINK.1;
    let service = "envoy-gateway.envoy-gateway-system.svc";
    let names = [
        "127.0.0.1 localhost".to_owned(),
        format!("{} kubernetes.default.svc", address::API),
        // Envoy asks with a dot at the end for its configuration, and without one for the module.
        format!("{gateway} envoy-gateway {service} {service}.cluster.local {service}.cluster.local."),
        format!("{} modules.test", address::MODULES),
        format!("{first} warmpath-controller.warmpath-system.svc.cluster.local"),
        format!("{second} warmpath-controller.warmpath-system.svc.cluster.local"),
    ];
    for (name, text) in [
        ("hosts", names.join("\n") + "\n"),
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n".into()),
    ] {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        run("mount", &["--bind", file.to_str().unwrap(), &format!("/etc/{name}")]);
    }
}

/// A folder of the sandbox alone, in memory.
fn scratch() -> PathBuf {
    let folder = PathBuf::from("/mnt/sandbox");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a program of the system until it ends well.
pub fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        done.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
}
