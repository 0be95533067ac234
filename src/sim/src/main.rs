//! The `warmpath-sim` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    warmpath_sim::cli::main()
}
