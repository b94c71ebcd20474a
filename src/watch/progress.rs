//! What happens, for a person who watches.
//!
//! A bar on standard error; where that is no terminal, or colour is unwanted, a line now and then.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::{
    Result, say,
    watch::events::{Event, Observer},
};

/// The least time between two lines of the plain form, epoch ends aside.
const EVERY: Duration = Duration::from_secs(10);

/// How far a pass over images, or other work of so many steps, is: a bar, or a line now and then.
pub struct Pass {
    bar: ProgressBar,
    plain: bool,
    begun: Instant,
    last_line: Instant,
}

impl Pass {
    /// Of `total` steps, each of them one of the `units`: "images".
    pub fn new(what: &str, total: usize, units: &str) -> Self {
        let (plain, now) = (plain_wanted(), Instant::now());
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::no_length() };
        bar.set_length(total as u64);
        bar.set_prefix(what.to_owned());
        let style =
            ProgressStyle::with_template(&format!("{{prefix}} {{bar:24}} {{pos}}/{{len}} {units}, {{eta}} left"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
        Self { bar, plain, begun: now, last_line: now }
    }

    /// So many steps are done.
    pub fn set(&mut self, done: usize) {
        self.bar.set_position(done as u64);
        let total = self.bar.length().unwrap_or_default();
        if self.plain && self.last_line.elapsed() >= EVERY && (done as u64) < total && done > 0 {
            self.last_line = Instant::now();
            let left = self.begun.elapsed().mul_f64((total - done as u64) as f64 / done as f64);
            say(format!("{}: {done}/{total}, {} left", self.bar.prefix(), HumanDuration(left)));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Whether standard error wants lines instead of bars.
pub(crate) fn plain_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !std::io::stderr().is_terminal()
}

/// Shows what is trained, step, loss terms, accuracy and the time left.
pub struct Progress {
    display: Display,
    what: String,
    total: u64,
}

enum Display {
    Bar(ProgressBar),
    Plain { out: Box<dyn Write>, begun: Instant, first_step: u64, last_line: Instant, every: Duration },
}

impl Progress {
    /// A bar; lines when standard error is no terminal, or when `NO_COLOR` is set.
    pub fn on_stderr() -> Self {
        if plain_wanted() {
            return Self::plain(Box::new(std::io::stderr()), EVERY);
        }
        Self { display: Display::Bar(ProgressBar::hidden()), what: String::new(), total: 0 }
    }

    /// Lines to `out`, at most one in `every` besides those at the ends of epochs.
    pub fn plain(out: Box<dyn Write>, every: Duration) -> Self {
        let now = Instant::now();
        let display = Display::Plain { out, begun: now, first_step: 0, last_line: now, every };
        Self { display, what: String::new(), total: 0 }
    }

    fn start(&mut self, step: u64) -> Result<()> {
        let (what, total) = (self.what.clone(), self.total);
        match &mut self.display {
            Display::Bar(bar) => {
                *bar = ProgressBar::new(total);
                // The template is a constant that a test parses; the default style would do as well.
                let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
                bar.set_style(style.progress_chars("━╸ "));
                bar.set_prefix(what);
                bar.set_position(step);
                // The rate, and the time left with it, counts from here and not from step 0.
                bar.reset_eta();
                bar.enable_steady_tick(Duration::from_millis(200));
                Ok(())
            }
            Display::Plain { begun, first_step, last_line, .. } => {
                (*begun, *first_step, *last_line) = (Instant::now(), step, Instant::now());
                let from = if step > 0 { format!(", continued at step {step}") } else { String::new() };
                self.line(&format!("{what}: {total} steps{from}"))
            }
        }
    }

    fn line(&mut self, text: &str) -> Result<()> {
        match &mut self.display {
            Display::Plain { out, last_line, .. } => {
                *last_line = Instant::now();
                // Work does not end because nobody can be told of it.
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
                Ok(())
            }
            Display::Bar(bar) => {
                bar.println(text);
                Ok(())
            }
        }
    }

    /// `12s left`, once there is a step to judge by.
    fn left(&self, step: u64) -> String {
        match &self.display {
            Display::Plain { begun, first_step, .. } if step > *first_step && step < self.total => {
                let rate = begun.elapsed().as_secs_f64() / (step - first_step) as f64;
                let left = Duration::try_from_secs_f64(rate * (self.total - step) as f64).unwrap_or(Duration::MAX);
                format!(", {} left", indicatif::HumanDuration(left))
            }
            _ => String::new(),
        }
    }
}

/// Name, bar, step, time left; loss and accuracy behind.
const TEMPLATE: &str = "{prefix} {bar:24.cyan} {pos}/{len} {eta:>4} left  {msg}";

impl Observer for Progress {
    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        match *event {
            Event::Started { what, step, total } => {
                (self.what, self.total) = (what.to_owned(), total);
                self.start(step)
            }
            Event::Step { step, epoch, loss, terms, watched, .. } => {
                let message = || {
                    let terms: Vec<String> = terms.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                    let terms = if terms.len() > 1 { format!(" ({})", terms.join(", ")) } else { String::new() };
                    let watched = watched.iter().map(|(name, share)| format!("  train {name} {:.1} %", share * 100.0));
                    format!("loss {loss:.4}{terms}{}", watched.collect::<String>())
                };
                let due = match &self.display {
                    Display::Bar(bar) => {
                        bar.set_position(step);
                        bar.set_message(message());
                        return Ok(());
                    }
                    Display::Plain { last_line, every, .. } => last_line.elapsed() >= *every,
                };
                if !due {
                    return Ok(());
                }
                let text = format!(
                    "{}: step {step}/{} (epoch {})  {}{}",
                    self.what,
                    self.total,
                    epoch + 1,
                    message(),
                    self.left(step)
                );
                self.line(&text)
            }
            Event::Epoch { epoch, step, loss, watched, validation } => {
                let watched = watched.iter().map(|(name, share)| format!("  train {name} {:.2} %", share * 100.0));
                let validation = match validation {
                    None => String::new(),
                    Some(("loss", loss)) => format!("  validation loss {loss:.4}"),
                    Some((_, share)) => format!("  validation {:.2} %", share * 100.0),
                };
                let text = format!(
                    "{}: epoch {} done, step {step}/{}  loss {loss:.4}{}{validation}{}",
                    self.what,
                    epoch + 1,
                    self.total,
                    watched.collect::<String>(),
                    self.left(step)
                );
                self.line(&text)
            }
            Event::Checkpoint { .. } => Ok(()),
            Event::Finished { step } => match &self.display {
                Display::Bar(bar) => {
                    bar.set_position(step);
                    bar.finish_and_clear();
                    Ok(())
                }
                Display::Plain { .. } => {
                    let text = format!("{}: {step} steps done", self.what);
                    self.line(&text)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, io, rc::Rc};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn watch(every: Duration) -> String {
        let out = Shared::default();
        let mut progress = Progress::plain(Box::new(out.clone()), every);
        let terms = [("cross_entropy", 1.5), ("sparsity", 0.5)];
        progress.on(&Event::Started { what: "tuned, seed 0", step: 2, total: 4 }).unwrap();
        for step in 3..=4 {
            progress
                .on(&Event::Step { step, epoch: 0, lr: 0.1, loss: 2.0, terms: &terms, watched: &[("accuracy", 0.25)] })
                .unwrap();
        }
        progress
            .on(&Event::Epoch {
                epoch: 0,
                step: 4,
                loss: 2.0,
                watched: &[("accuracy", 0.3)],
                validation: Some(("accuracy", 0.5)),
            })
            .unwrap();
        progress.on(&Event::Finished { step: 4 }).unwrap();
        let bytes = out.0.borrow().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// As a full disk or a pipe whose reader has gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn lines_that_nobody_reads_do_not_stop_the_work() {
        let mut progress = Progress::plain(Box::new(Gone), Duration::ZERO);
        progress.on(&Event::Started { what: "tuned, seed 0", step: 0, total: 1 }).unwrap();
        progress.on(&Event::Finished { step: 1 }).unwrap();
    }

    #[test]
    fn lines_come_at_epoch_ends_however_short_the_run() {
        assert_eq!(
            watch(EVERY),
            "tuned, seed 0: 4 steps, continued at step 2\n\
             tuned, seed 0: epoch 1 done, step 4/4  loss 2.0000  train accuracy 30.00 %  validation 50.00 %\n\
             tuned, seed 0: 4 steps done\n"
        );
    }

    #[test]
    fn a_due_line_tells_step_terms_accuracy_and_time_left() {
        let text = watch(Duration::ZERO);
        let line = text.lines().nth(1).unwrap();
        assert!(
            line.starts_with(
                "tuned, seed 0: step 3/4 (epoch 1)  loss 2.0000 (cross_entropy 1.5000, sparsity 0.5000)  train accuracy 25.0 %, "
            ),
            "{line}"
        );
        assert!(line.ends_with(" left"), "{line}");
    }

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
