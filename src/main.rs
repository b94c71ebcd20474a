//! The `oodkit` program: parse, call, print the error, exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use oodkit::Error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    oodkit::ops::keep_freed_memory();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                Error::Interrupted => eprintln!("interrupted\n\nhint: the same command continues where it stopped"),
                other => match other.advice() {
                    Some(hint) => eprintln!("error: {other}\n\nhint: {hint}"),
                    None => eprintln!("error: {other}"),
                },
            }
            ExitCode::from(error.exit_code())
        }
    }
}
