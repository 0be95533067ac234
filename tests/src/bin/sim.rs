//! `warmpath-sim` where the tests find it: cargo builds the binaries of a package before its own tests, not
//! those of others.

fn main() -> std::process::ExitCode {
    warmpath_sim::cli::main()
}
