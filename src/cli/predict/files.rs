//! Which images to predict, and what they are called.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use indexmap::IndexMap;
use oodkit::{Error, Result, data, say};

/// The images to read, each once, in the order of the inputs and within them of their paths; with the path below the folder that was
/// given, or the file's name.
pub fn of(inputs: &[PathBuf]) -> Result<IndexMap<PathBuf, PathBuf>> {
    let mut files = Files::default();
    for input in inputs {
        let text = input.to_string_lossy();
        if input.is_dir() {
            files.below(input)?;
        } else if input.exists() || !text.contains(['*', '?', '[']) {
            // One that is not there is told of with all that cannot be read.
            files.one(input.clone());
        } else {
            let paths = glob::glob(&text).map_err(|error| Error::input(format!("--input {text}: {error}")))?;
            let before = files.0.len();
            for path in paths {
                let path = path.map_err(|error| {
                    let file = error.path().to_owned();
                    Error::io("read", file)(error.into())
                })?;
                if path.is_dir() { files.below(&path)? } else { files.one(path) }
            }
            if files.0.len() == before {
                return Err(Error::input(format!("--input {text}: no file has such a name")));
            }
        }
    }
    Ok(files.0)
}

/// Files, each with what it is called below its input.
#[derive(Default)]
struct Files(IndexMap<PathBuf, PathBuf>);

impl Files {
    fn below(&mut self, folder: &Path) -> Result<()> {
        for file in pictures(folder)? {
            let below = file.strip_prefix(folder).unwrap_or(&file).to_owned();
            self.0.entry(file).or_insert(below);
        }
        Ok(())
    }

    fn one(&mut self, file: PathBuf) {
        let name = file.file_name().map_or_else(|| file.clone(), PathBuf::from);
        self.0.entry(file).or_insert(name);
    }
}

/// The pictures of a folder, of which there is at least one; tells of other files.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let (files, others) = data::list_pictures(folder)?;
    if files.is_empty() {
        return Err(Error::input(format!("--input {}: the folder holds no images", folder.display())));
    }
    if others > 0 {
        say(format!("{}: {others} other files are left out: their names are not those of images", folder.display()));
    }
    Ok(files)
}

/// As much of the end of each path as tells it from all others: `000.png`, or `scratch/000.png` of every one where two have one name.
pub fn short_names(paths: &[PathBuf]) -> Vec<String> {
    let parts = |path: &PathBuf| -> Vec<String> {
        let named = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
        named.map(|part| part.as_os_str().to_string_lossy().replace(char::is_control, " ")).collect()
    };
    let parts: Vec<Vec<String>> = paths.iter().map(parts).collect();
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    let ends = |count: usize| -> Vec<String> {
        parts.iter().map(|parts| parts[parts.len().saturating_sub(count)..].join("/")).collect()
    };
    let differ = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    (1..longest).map(ends).find(differ).unwrap_or_else(|| ends(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_tells_them_apart() {
        let names = |paths: &[&str]| short_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["new/a.png", "new/b.png"]), ["a.png", "b.png"]);
        assert_eq!(names(&["test/dent/0.png", "test/good/0.png", "1.png"]), ["dent/0.png", "good/0.png", "1.png"]);
        assert_eq!(names(&["bolt/good/0.png", "/nut/good/0.png"]), ["bolt/good/0.png", "nut/good/0.png"]);
        // Nothing tells these apart.
        assert_eq!(names(&["/a.png", "a.png"]), ["a.png", "a.png"]);
        assert_eq!(names(&[]), [""; 0]);
    }
}
