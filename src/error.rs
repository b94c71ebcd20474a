//! One error type for the whole program.
//!
//! The variants are the exit codes: what the user gave is wrong or cannot be read ([`Error::Input`], 2), the user stopped
//! it ([`Error::Interrupted`], 130), anything else (1). Messages are lower-case fragments that name the thing, the place
//! and the value; the hint says what to type next.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// The result of anything in oodkit that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, value or argument that the user gave cannot be used. Exit code 2.
    #[error("{message}")]
    Input {
        /// What is wrong, where, and with which value.
        message: String,
        /// What to do about it: printed as `hint: …` after a blank line.
        hint: Option<String>,
    },
    /// A detector cannot learn from what a network shows, or score it, with what the detector said. Its exit code; one of
    /// `detector: all` is left out instead.
    #[error("{place}: {cause}")]
    Unfit {
        /// The method and its network.
        place: String,
        /// What the detector said.
        cause: Box<Error>,
    },
    /// Ctrl-C or SIGTERM, after the checkpoint was written. Exit code 130.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: `read`, `write`, `create`, `lock`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The work itself failed, such as a loss that is no longer finite.
    #[error("{0}")]
    Failed(String),
    /// A tensor operation failed: a defect of oodkit unless the device ran out of memory.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Something the user gave is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: None }
    }

    /// The advice of an input error.
    pub fn advice(&self) -> Option<&str> {
        match self {
            Self::Input { hint, .. } => hint.as_deref(),
            Self::Unfit { cause, .. } => cause.advice(),
            _ => None,
        }
    }

    /// The same error with advice; replaces an earlier hint. Other variants are returned unchanged.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Input { message, .. } => Self::Input { message, hint: Some(hint.into()) },
            other => other,
        }
    }

    /// The same input error with `place: ` before it. Other variants are returned unchanged.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        match self {
            Self::Input { message, hint } => Self::Input { message: format!("{place}: {message}"), hint },
            other => other,
        }
    }

    /// For `map_err` on file operations: `File::open(p).map_err(Error::io("read", p))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// The process exit code: 2 wrong input (a file that cannot be read is one), 130 interrupted, 1 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unfit { cause, .. } => cause.exit_code(),
            Self::Input { .. } | Self::Io { action: "read", .. } => 2,
            Self::Interrupted => 130,
            Self::Io { .. } | Self::Failed(_) | Self::Candle(_) => 1,
        }
    }
}

/// The most characters of a foreign text that a message quotes.
const LONGEST: usize = 200;

/// Foreign text (a file's name, a line of a file, a name in an archive) as it may stand in a message.
///
/// Control characters, line ends among them, and marks that turn the direction of text are written as `\u{1b}`; what
/// goes beyond 200 characters is left out, with `…` in its place.
pub fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    escaped(&shown, &[])
}

/// A whole message, of several lines perhaps, without what would steer a terminal.
pub fn for_terminal(text: &str) -> String {
    escaped(text, &['\n', '\t'])
}

fn escaped(text: &str, kept: &[char]) -> String {
    let steers = |c: char| {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() || turns) && !kept.contains(&c)
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A line on standard error.
///
/// Where that is closed or full, the line is dropped: work does not end because nobody can be told of it.
pub fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", for_terminal(text.as_ref()));
}

/// ` (did you mean "x"?)` for the candidate nearest to `given`, or nothing when none is near. Upper and lower case are the same.
pub fn did_you_mean<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let given = given.to_lowercase();
    candidates
        .into_iter()
        // Two letters swapped are one slip, however short the name.
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let swapped = strsim::osa_distance(&given, &lower) == 1 && strsim::levenshtein(&given, &lower) == 2;
            (if swapped { 1.0 } else { strsim::jaro_winkler(&given, &lower) }, candidate)
        })
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| format!(" (did you mean \"{candidate}\"?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_does_not_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}c"), r"a\u{1b}[2Jb\u{d}\u{a}\u{9b}c");
        assert_eq!(printable("exe\u{202e}gnp.é画"), r"exe\u{202e}gnp.é画");
        assert_eq!(printable(&"é".repeat(201)), "é".repeat(200) + "…");
        assert_eq!(printable(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(for_terminal("one\n\ttwo\u{7}"), "one\n\ttwo\\u{7}");
    }

    #[test]
    fn nearest_name_is_suggested() {
        assert_eq!(did_you_mean("epoch", ["epochs", "batch_size"]), " (did you mean \"epochs\"?)");
        assert_eq!(did_you_mean("mps", ["msp", "max_logit"]), " (did you mean \"msp\"?)");
        assert_eq!(did_you_mean("KNN", ["knn", "vim"]), " (did you mean \"knn\"?)");
        assert_eq!(did_you_mean("zzz", ["epochs", "batch_size"]), "");
    }
}
