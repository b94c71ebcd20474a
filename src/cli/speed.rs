//! `oodkit speed`: how long the methods of an experiment take.

use std::fmt::Write as _;

use clap::Args;
use oodkit::{
    Error, Result,
    config::Method,
    detectors::DetectorConfig,
    run::{
        device::Wanted,
        execute::{Context, environment},
        speed::{PASSES, Speed, speed},
    },
    watch::interrupt::Interrupt,
};

use super::{Experiment, Memory, Opened, print};

/// Measure milliseconds an image of each method of an experiment that was run.
#[derive(Debug, Args)]
pub struct Measured {
    #[command(flatten)]
    experiment: Experiment,
    /// Images that pass together
    #[arg(long, value_name = "IMAGES", value_delimiter = ',', default_values_t = [1, 16], value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// A task of the experiment: a category; the first if not given
    #[arg(long)]
    task: Option<String>,
    /// What to compute on: cpu, cuda (the first GPU), cuda:1, auto (a GPU if there is one)
    #[arg(long, default_value = "cpu", env = "OODKIT_DEVICE")]
    device: String,
    #[command(flatten)]
    memory: Memory,
}

impl Measured {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let device: Wanted = self.device.parse()?;
        let opened = Opened::new(&self.experiment)?;
        let results = opened.results()?;
        let gone = || Error::input(format!("{} has no task", opened.plan.name));
        let cell = opened.plan.cells.first().ok_or_else(gone)?;
        let task = match &self.task {
            Some(name) => cell.task(Some(name)).map_err(|error| error.at("--task"))?,
            None => cell.tasks.first().ok_or_else(gone)?,
        };
        let scored = results.cells.first().and_then(|cell| cell.seeds.first()).ok_or_else(gone)?;
        let seed = scored.seed;
        // With the settings that they scored with: a search may have chosen them. Those that could not be fitted are left out.
        let with = |mut method: Method| {
            let result = scored.tasks.get(task.name())?.methods.get(&method.name)?;
            let settings = result.detector.clone().map(serde_json::from_value::<DetectorConfig>);
            Some(settings.transpose().map(|settings| {
                method.detector = settings.unwrap_or(method.detector);
                method
            }))
        };
        let methods =
            cell.experiment.methods().into_iter().filter_map(with).collect::<std::result::Result<Vec<_>, _>>();
        let methods =
            methods.map_err(|error| Error::input(format!("the settings of a method in results.json: {error}")))?;
        let context = Context {
            data: opened.data.clone(),
            store: opened.store.clone(),
            device: device.open(|reason| oodkit::say(reason))?,
            smoke: self.experiment.changes.smoke,
            overrides: Vec::new(),
            interrupt: Interrupt::on_signals()?,
            memory: self.memory.wanted(),
        };
        let batches: Vec<usize> = self.batch.iter().map(|images| *images as usize).collect();
        let all = speed(&opened.plan, &context, (task.name(), seed), &methods, &batches)?;
        let environment = environment(&context.device);
        let smoke = if context.smoke { "SMOKE RUN on synthetic data: these times mean nothing. " } else { "" };
        let caption = format!(
            "{smoke}From decoded images to scores, without fits; medians of {PASSES} passes. Images of {}, seed {seed}. oodkit {}, commit \
             {}, {}.",
            task.name(),
            environment.oodkit,
            environment.commit,
            environment.device
        );
        let text = markdown(&all, &batches, &caption);
        let path = opened.out.join("speed.md");
        print(&text)?;
        oodkit::write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
        print(&format!("\nfiles\n  {}\n", path.display()))
    }
}

/// The table, with a row a method.
fn markdown(all: &[Speed], batches: &[usize], caption: &str) -> String {
    let mut text = String::from("| Method |");
    batches.iter().for_each(|batch| _ = write!(text, " ms an image, {batch} together |"));
    text.push_str("\n| :-- |");
    text.push_str(&" --: |".repeat(batches.len()));
    for Speed { method, milliseconds } in all {
        _ = write!(text, "\n| {} |", method.replace('|', "\\|"));
        milliseconds.iter().for_each(|taken| _ = write!(text, " {} |", three_digits(*taken)));
    }
    text + &format!("\n\n{caption}\n")
}

/// Three digits that count: 0.0123, 1.23, 123.
fn three_digits(value: f64) -> String {
    let whole = value.abs().max(1e-9).log10().floor() as i32;
    format!("{value:.*}", usize::try_from(2 - whole).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_time_for_each_number_of_images() {
        let all = [Speed { method: "a|b".into(), milliseconds: vec![123.456, 0.012345] }];
        let text = markdown(&all, &[1, 16], "Five.");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "| Method | ms an image, 1 together | ms an image, 16 together |");
        assert_eq!(lines[2], "| a\\|b | 123 | 0.0123 |");
        assert_eq!(lines[4], "Five.");
        assert_eq!([1.0, 9.999, 1234.5].map(three_digits), ["1.00", "10.00", "1234"]);
    }
}
