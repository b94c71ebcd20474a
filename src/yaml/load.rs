//! Reading a YAML file with precise errors.
//!
//! `!include ../configs/train/sgd_100.yaml` puts a file's content in its place; its path starts at the including file and
//! must stay inside the folder that holds `experiments/`. `<<: !include …` merges a map, and keys beside it win.

use std::{
    cell::RefCell,
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_saphyr::{
    IncludeRequest, IncludeResolveError, ResolvedInclude, SafeFileReadMode, SafeFileResolver, SymlinkPolicy,
};

use super::{
    explain::{Source, explain, is_empty},
    problems::{Problem, Step},
};
use crate::{Error, Result, fs};

/// The largest file that is read as an experiment: ours are two kilobytes.
const MAX_BYTES: u64 = 1 << 20;

/// What a file may say as a whole.
pub trait Document: DeserializeOwned {
    /// Everything that is wrong with its values.
    fn problems(&self) -> Vec<Problem>;
    /// The keys that a map must have which is the value of `key`, if `field` is one of them; of the whole file without a key.
    /// `None` where that is not known.
    fn required(key: Option<&str>, field: &str) -> Option<Vec<String>>;
}

/// Reads and checks a file.
///
/// # Errors
/// [`Error::Input`] with file, line, column and the line itself, if the file is not there, is no YAML, has unknown keys or
/// wrong types, or a problem.
pub fn load<T: Document>(path: &Path) -> Result<T> {
    let text = read(path)?;
    let includes = Includes::of(path)?;
    parse_with(text, path.display().to_string(), Some(includes))
}

/// Parses and checks a text that is not in a file; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`]; `!include` is refused.
pub fn parse<T: Document>(text: &str, name: &str) -> Result<T> {
    parse_with(text.to_owned(), name.to_owned(), None)
}

fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = fs::read_regular(path, MAX_BYTES).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::input(format!("there is no experiment file {shown}"))
        }
        other => other,
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        let byte = error.as_bytes().get(valid.len()).copied().unwrap_or_default();
        Error::input(format!("{shown}:{line}: byte 0x{byte:02x} is not UTF-8 text"))
            .hint("save the file as UTF-8 in your editor")
    })
}

/// A value that is checked while its keys can still be located.
#[derive(Deserialize)]
#[serde(transparent, bound = "")]
struct Checked<T: Document>(T);

impl<T: Document> garde::Validate for Checked<T> {
    type Context = ();

    fn validate_into(&self, (): &(), _: &mut dyn FnMut() -> garde::Path, report: &mut garde::Report) {
        for problem in self.0.problems() {
            let path = problem.path.0.iter().fold(garde::Path::empty(), |path, step| match step {
                Step::Key(key) => path.join(key.as_str()),
                Step::Index(index) => path.join(*index),
            });
            report.append(path, garde::Error::new(problem.message));
        }
    }
}

fn parse_with<T: Document>(text: String, name: String, includes: Option<Includes>) -> Result<T> {
    let sources = Rc::new(RefCell::new(vec![Source { name, text: text.clone(), included_at: None }]));
    let read = Rc::clone(&sources);
    let options = serde_saphyr::options! {
        // `no` is text and `True` is not: only true and false are booleans.
        strict_booleans: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    }
    .with_include_resolver(move |request| resolve(includes.as_ref(), request, &read));
    match serde_saphyr::from_str_with_options_valid::<Checked<T>>(&text, options) {
        Ok(Checked(value)) => Ok(value),
        Err(error) => Err(explain(&error, &sources.borrow(), T::required)),
    }
}

/// Where `!include` may look.
struct Includes {
    resolver: SafeFileResolver,
    /// The experiment's folder, as the user wrote it.
    folder: PathBuf,
    /// The experiment's folder from the root of the file system.
    full_folder: PathBuf,
    /// What includes must not leave.
    root: PathBuf,
}

impl Includes {
    /// The nearest folder above that holds `experiments/`, else the file's own.
    fn of(path: &Path) -> Result<Self> {
        let full = std::fs::canonicalize(path).map_err(Error::io("read", path))?;
        let own = full.parent().unwrap_or(&full);
        let root = own.ancestors().find(|folder| folder.join("experiments").is_dir()).unwrap_or(own);
        // Named, so that a file that includes itself is told so; the library takes names that are text only.
        let named = |resolver: SafeFileResolver| match full.to_str() {
            Some(_) => resolver.with_root_file(&full),
            None => Ok(resolver),
        };
        let resolver = SafeFileResolver::new(root)
            .and_then(named)
            .map_err(Error::io("read", path))?
            .with_read_mode(SafeFileReadMode::Text)
            .with_symlink_policy(SymlinkPolicy::FollowWithinRoot);
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Self { resolver, folder, full_folder: own.to_path_buf(), root: root.to_path_buf() })
    }
}

/// Refuses a file that an experiment in `folder` names but may not read: the rule of `!include`, for files of other kinds.
///
/// # Errors
/// [`Error::Input`] if `path`, or what it links to, is outside the nearest folder above that holds `experiments/`.
pub(crate) fn within_reach(path: &Path, folder: &Path) -> Result<()> {
    let folder = std::fs::canonicalize(folder).map_err(Error::io("read", folder))?;
    let root = folder.ancestors().find(|folder| folder.join("experiments").is_dir()).unwrap_or(&folder);
    let written = std::path::absolute(path).map_err(Error::io("read", path))?;
    // As written first: a folder on the way may be a link, so its own place counts.
    let parent = written.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
    let written = parent.zip(written.file_name()).map_or_else(|| normal(&written), |(parent, name)| parent.join(name));
    let linked = std::fs::canonicalize(path).unwrap_or_else(|_| written.clone());
    if written.starts_with(root) && linked.starts_with(root) {
        return Ok(());
    }
    Err(Error::input(format!("{} is out of the experiment's reach", path.display())).hint(
        "an experiment may read files below the nearest folder above it that holds experiments/, else below its own: \
         put it there",
    ))
}

fn resolve(
    includes: Option<&Includes>,
    request: IncludeRequest<'_>,
    sources: &RefCell<Vec<Source>>,
) -> Result<ResolvedInclude, IncludeResolveError> {
    use serde_saphyr::ResolveProblem as Problem;
    let Some(includes) = includes else {
        return Err(IncludeResolveError::Message("there is no file here that an include could start from".into()));
    };
    let (spec, location) = (request.spec.to_owned(), request.location);
    let outside = || {
        IncludeResolveError::Message(format!(
            "`{spec}` is out of this file's reach\nhint: an experiment may include files below the nearest folder above it that \
             holds experiments/, else below its own: put it there, or write out what it includes"
        ))
    };
    let from =
        request.from_id.map_or(includes.full_folder.as_path(), |id| Path::new(id).parent().unwrap_or(Path::new("")));
    // Checked before the library looks at the file, so that its other refusals tell nothing about files outside.
    if !normal(&from.join(&spec)).starts_with(&includes.root) {
        return Err(outside());
    }
    let folder = match request.from_id {
        Some(_) => from.strip_prefix(&includes.root).unwrap_or(from).to_path_buf(),
        None => includes.folder.clone(),
    };
    let resolved = includes.resolver.resolve(request).map_err(|error| {
        let IncludeResolveError::FileInclude(problem) = error else { return error };
        let message = match *problem {
            Problem::ResolveFailed { err, .. } => {
                let looked_for = normal(&folder.join(&spec));
                let reason = match err.kind() {
                    std::io::ErrorKind::NotFound => "is not there".to_owned(),
                    _ => format!("cannot be read: {err}"),
                };
                format!(
                    "the included file {} {reason}\nhint: its path starts at the folder of this file",
                    looked_for.display()
                )
            }
            Problem::ResolvesOutsideRoot { .. } | Problem::AbsolutePathNotAllowed { .. } => return outside(),
            Problem::TargetIsRootFile { .. } => "this file includes itself".to_owned(),
            Problem::InvalidExtension { .. } => format!("`{spec}` is not a .yaml file"),
            Problem::HiddenFile { .. } => format!("`{spec}` is hidden (its path has a name that starts with a dot)"),
            Problem::TargetNotRegularFile { .. } => format!("`{spec}` is not a file"),
            Problem::EmptyPath => "`!include` needs the name of a file".to_owned(),
            other => return IncludeResolveError::FileInclude(Box::new(other)),
        };
        IncludeResolveError::Message(message)
    })?;
    let text = match &resolved.source {
        serde_saphyr::InputSource::Text(text) | serde_saphyr::InputSource::AnchoredText { text, .. } => text.clone(),
        _ => String::new(),
    };
    if is_empty(&text) {
        return Err(IncludeResolveError::Message(format!("the included file {} is empty", resolved.name)));
    }
    sources.borrow_mut().push(Source { name: resolved.name.clone(), text, included_at: Some(location) });
    Ok(resolved)
}

/// `experiments/../configs/x.yaml` as `configs/x.yaml`, without asking the file system.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if parts.file_name().is_some() => {
                parts.pop();
            }
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}
