//! Works on the module as a file. `cargo xtask --help` lists the commands; scripts call them.

mod imitate;
mod inspect;
mod ship;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Works on the module as a file")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the module that ships: the compiled one without the callbacks that nobody implements
    #[command(
        after_help = "example:\n  cargo xtask ship target/wasm32-wasip1/module/warmpath_wasm.wasm target/warmpath.wasm"
    )]
    Ship {
        /// The module that cargo has compiled
        compiled: PathBuf,
        /// Where the shipped one goes
        shipped: PathBuf,
        /// The list of callbacks to keep
        #[arg(long, default_value = "src/wasm/callbacks.txt")]
        callbacks: PathBuf,
    },
    /// Fails when a module is too large, or imports what Envoy does not have
    #[command(after_help = "example:\n  cargo xtask inspect target/warmpath.wasm")]
    Inspect {
        /// The module that ships
        module: PathBuf,
    },
    /// Writes a module with the callbacks of another that does nothing, or only names pods
    ///
    /// An Envoy with it, compared with one without, shows what any module would cost in the place of the
    /// other.
    #[command(
        after_help = "example:\n  cargo xtask imitate target/warmpath.wasm target/nothing.wasm\n  cargo xtask imitate target/warmpath.wasm target/naming.wasm --headers x-a,x-b --pods 10.0.0.1:80,10.0.0.2:80"
    )]
    Imitate {
        /// The module to imitate
        module: PathBuf,
        /// Where the imitation goes
        imitation: PathBuf,
        /// Headers that it sets once a request's body is whole
        #[arg(long, value_delimiter = ',', requires = "pods")]
        headers: Vec<String>,
        /// The values: header N of request R names pod R + N
        #[arg(long, value_delimiter = ',', requires = "headers")]
        pods: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Ship { compiled, shipped, callbacks } => {
            let list =
                std::fs::read_to_string(&callbacks).with_context(|| callbacks.display().to_string())?;
            write(&shipped, &ship::ship(&read(&compiled)?, &ship::kept(&list)?)?)
        }
        Command::Inspect { module } => {
            println!("{}", inspect::inspect(&read(&module)?)?);
            Ok(())
        }
        Command::Imitate { module, imitation, headers, pods } => {
            write(&imitation, &imitate::imitate(&read(&module)?, &headers, &pods)?)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Written aside and renamed: an Envoy that starts meanwhile reads the old module or the new one, never half
/// of one.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&aside, bytes).with_context(|| format!("cannot write {}", aside.display()))?;
    std::fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}
