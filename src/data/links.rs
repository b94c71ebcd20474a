//! Symbolic links inside a set.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::form::Links;
use crate::{Error, Result, data::Dataset};

/// Which links are followed, and what they led to.
#[derive(Debug, Default)]
pub(super) struct Followed {
    links: Option<Links>,
    /// The set's folder, links resolved.
    root: PathBuf,
    /// Folders that links led to.
    folders: BTreeSet<PathBuf>,
}

impl Followed {
    /// As the configuration says of a set whose files are in `folder`.
    pub(super) fn of(dataset: &Dataset, folder: &Path) -> Result<Self> {
        let links = dataset.links;
        let root = match links {
            None => PathBuf::new(),
            Some(_) => folder.canonicalize().map_err(Error::io("read", folder))?,
        };
        Ok(Self { links, root, ..Self::default() })
    }

    /// Wherever they lead, where only names are asked for.
    pub(super) fn anywhere() -> Self {
        Self { links: Some(Links::Anywhere), ..Self::default() }
    }

    /// What a link leads to; where that is a folder, once.
    ///
    /// # Errors
    /// Links are not followed, this one leads out of the set or nowhere, or its folder was read already.
    pub(super) fn target(&mut self, path: &Path) -> Result<PathBuf> {
        let shown = path.display();
        let Some(links) = self.links else {
            return Err(Error::input(format!("{shown} is a symbolic link")).hint(
                "links inside a data set are not followed unless `links: follow` says so: or put the image there, or point `path` \
                 at its folder",
            ));
        };
        let target = path.canonicalize().map_err(|_| Error::input(format!("{shown} is a symbolic link to nothing")))?;
        if links == Links::Follow && !target.starts_with(&self.root) {
            return Err(Error::input(format!("{shown} is a symbolic link out of {}", self.root.display()))
                .hint("`links: anywhere` follows it; do so only if you made the links"));
        }
        let first = !target.is_dir() || !self.root.starts_with(&target) && self.folders.insert(target.clone());
        if !first {
            return Err(Error::input(format!("{shown} is a symbolic link to a folder that is read already"))
                .hint("its images would count twice, and could be learned from and tested on: take the link away"));
        }
        Ok(target)
    }
}
