//! `oodkit report`: an experiment as one HTML page.

use std::path::PathBuf;

use clap::Args;
use oodkit::{
    Error, Result,
    report::page::{self, Places},
};

use super::{Experiment, Opened, print};

/// Write one HTML file with the tables, figures, heat maps and images of an experiment that was run.
#[derive(Debug, Args)]
pub struct Page {
    #[command(flatten)]
    experiment: Experiment,
    /// Where the page goes; page.html beside the tables if not given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Page {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let opened = Opened::new(&self.experiment)?;
        let results = opened.results().map_err(|error| {
            let advice = error.advice().map(str::to_owned).unwrap_or_default();
            error.hint(format!("{}\n      or {advice}", self.command()))
        })?;
        let out = self.out.clone().unwrap_or_else(|| opened.out.join("page.html"));
        if out.is_dir() {
            return Err(Error::input(format!("--out {}: is a folder", out.display())).hint("give a file: page.html"));
        }
        let places = Places {
            experiments: &self.experiment.changes.folders.experiments,
            runs: opened.store.root(),
            folder: &opened.out,
        };
        let mut images = |task: &str, set: &str| page::images(&opened.plan, &results, &opened.data, task, set);
        let built = page::build(&results, &opened.plan.experiment, places, &mut images, page::MOST)?;
        oodkit::write_atomic(&out, |file| file.write_all(built.html.as_bytes()))?;
        let left_out = match built.left_out {
            0 => String::new(),
            count => format!("; {count} pictures had no room: the page says where they are"),
        };
        let size = built.html.len() as f64 / 1e6;
        print(&format!("files\n  {} ({size:.1} MB{left_out})\n", out.display()))
    }

    /// What to type first.
    fn command(&self) -> String {
        let Experiment { experiment, changes } = &self.experiment;
        let mut command = format!("oodkit run {}", experiment.display());
        for (flag, texts) in [("--set", &changes.set), ("--sweep", &changes.sweep)] {
            texts.iter().for_each(|text| command.push_str(&format!(" {flag} \"{text}\"")));
        }
        command + if changes.smoke { " --smoke" } else { "" }
    }
}
