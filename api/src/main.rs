//! The binary `trueup`; see [`api::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    api::cli::main()
}
