//! Names of files on the hub: `hub:timm/resnet18.tv_in1k`.

use std::path::{Path, PathBuf};

/// What stands before a tag of the hub.
pub const HUB: &str = "hub:";
/// The file of a hub's repository unless the tag names another: what timm and transformers write.
const HUB_FILE: &str = "model.safetensors";

/// A file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// `owner/name`.
    pub repository: String,
    /// A branch, tag or commit; `main` unless the tag says another.
    pub revision: String,
    /// Its path in the repository.
    pub file: String,
}

impl HubFile {
    /// The tag `hub:owner/name[@revision][/file]`; `None` for anything that does not start with `hub:`, an error for a tag that is
    /// not of this form.
    pub fn parse(tag: &str) -> Option<Result<Self, String>> {
        let rest = tag.strip_prefix(HUB)?;
        Some(
            Self::of(rest)
                .ok_or_else(|| format!("`{HUB}owner/name`, with `@revision` or `/file` after it, not {tag:?}")),
        )
    }

    fn of(rest: &str) -> Option<Self> {
        let (owner, rest) = rest.split_once('/')?;
        let (name, file) = rest.split_once('/').unwrap_or((rest, HUB_FILE));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        // Each part is a folder or file of the cache, so none may lead out of it.
        let plain = |part: &str| {
            let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.')
        };
        let all = [owner, name, revision].into_iter().chain(file.split('/')).all(plain);
        all.then(|| Self {
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            file: file.to_owned(),
        })
    }

    /// Where it is kept below `cache`.
    pub fn path(&self, cache: &Path) -> PathBuf {
        cache.join(&self.repository).join(&self.revision).join(&self.file)
    }
}
