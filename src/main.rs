//! The `oodkit` program: parse, call, print the error, exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use oodkit::{Error, say};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of stack of the thread that works: the main thread's is what the shell's `ulimit -s` leaves it. Ours: ten times
/// what the deepest YAML and the deepest network were seen to need.
const STACK: usize = 64 << 20;

/// Threads for each core that `RAYON_NUM_THREADS` may ask for. Ours: more only fight for the cores.
const THREADS_A_CORE: usize = 4;

fn main() -> ExitCode {
    oodkit::ops::keep_freed_memory();
    match std::thread::Builder::new().name("oodkit".into()).stack_size(STACK).spawn(work) {
        // A panic has been told by then.
        Ok(worker) => worker.join().unwrap_or_else(|_| ExitCode::from(101)),
        Err(error) => {
            say(format!("error: cannot start a thread: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn work() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = threads().and_then(|()| cli.run());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                Error::Interrupted => say("interrupted\n\nhint: the same command continues where it stopped"),
                other => match other.advice() {
                    Some(hint) => say(format!("error: {other}\n\nhint: {hint}")),
                    None => say(format!("error: {other}")),
                },
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Starts the pool of threads, no larger than the machine can use.
fn threads() -> Result<(), Error> {
    let mut pool = rayon::ThreadPoolBuilder::new().stack_size(STACK / 8);
    let most = THREADS_A_CORE * std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.trim().parse::<usize>().ok());
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        say(format!("RAYON_NUM_THREADS={wanted}: {most} threads are started, {THREADS_A_CORE} for each core"));
        pool = pool.num_threads(most);
    }
    pool.build_global().map_err(|error| Error::Failed(format!("cannot start threads: {error}")))
}
