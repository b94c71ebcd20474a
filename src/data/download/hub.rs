//! The hub's files: found in the repository's listing, fetched with resume, checked against their digests.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Source, parquet};
use crate::data::registry::known;
use crate::data::{ImageSet, Split, store};
use crate::{Error, Result, data::download::HubFile, digest, fs::write_atomic, watch::progress::plain_wanted};

/// How often a transfer that breaks off is continued before giving up.
const RETRIES: usize = 3;

/// A hub to download from.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Its address: `https://huggingface.co`, a mirror, a proxy.
    pub endpoint: String,
    /// Where downloaded files are kept, in the layout that all hub clients share.
    pub cache: PathBuf,
    /// For the request's `Authorization`; the sets here are public and need none.
    pub token: Option<String>,
}

impl Hub {
    /// As the hub's variables say: `HF_ENDPOINT`, `HF_HUB_CACHE` or else `HF_HOME`, `HF_TOKEN` or else the token file.
    ///
    /// # Errors
    /// [`Error::Input`] if none of them nor a home folder says where the cache is.
    pub fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = variable("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface")))
            .ok_or_else(|| {
                Error::input("there is no home folder for the hub's cache").hint("set HF_HOME to a folder")
            })?;
        let cache = variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let saved = || fs::read_to_string(home.join("token")).ok().map(|token| token.trim().to_owned());
        Ok(Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: variable("HF_TOKEN").or_else(saved).filter(|token| !token.is_empty()),
            cache,
        })
    }

    /// Puts the splits of `source` that are not there yet into `<root>/<its folder>`.
    pub(super) fn fetch(&self, source: &Source, root: &Path, progress: bool) -> Result<()> {
        let folder = root.join(known(source.name).map_or(source.name, |known| known.folder));
        let missing: Vec<_> =
            [Split::Train, Split::Test].into_iter().filter(|split| !store::path(&folder, *split).is_file()).collect();
        let say = |text: &str| {
            if progress {
                crate::say(format!("{}: {text}", source.name));
            }
        };
        if missing.is_empty() {
            say(&format!("already in {}", folder.display()));
            return Ok(());
        }
        let endpoint = self.endpoint.trim_end_matches('/');
        let what = What {
            name: source.name.to_owned(),
            address: format!("{endpoint}/datasets/{}", source.repository),
            by_hand: format!("put the original files into {} by hand (data/README.md says which)", folder.display()),
        };
        let api = self.api().map_err(|error| what.failed("the hub", &error))?;
        let main = api.repo(Repo::new(source.repository.into(), RepoType::Dataset));
        let info = main.info().map_err(|error| what.failed("the list of files", &error))?;
        let names: Vec<_> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        // All files from the revision that was listed, even if the repository changes meanwhile.
        let repo = Repo::with_revision(source.repository.into(), RepoType::Dataset, info.sha.clone());
        let download = Download { hub: self, what, api: &api, repo, progress };
        for split in missing {
            let mut images = Vec::new();
            let mut origin = format!("{endpoint}/datasets/{} revision {}", source.repository, info.sha);
            for name in parquet_files(source, split, &names)? {
                let (path, digest) = download.file(&name)?;
                say(&format!("reading {name}"));
                parquet::read(&path, source.label, &mut images).map_err(|reason| {
                    Error::input(format!("cannot use {name} of the hub's {}: {reason}", source.repository)).hint(
                        "its layout may have changed since this version of oodkit; see data/README.md for other ways",
                    )
                })?;
                origin += &format!(", {name} sha256:{digest}");
            }
            let set = assemble(source, split, images)?;
            store::write(&folder, &set, &origin)?;
            say(&format!("{} {split} images in {}", set.len(), store::path(&folder, split).display()));
        }
        Ok(())
    }

    /// Puts a file of weights where [`HubFile::path`] says below `cache`, unless it is there.
    pub(super) fn fetch_weights(&self, file: &HubFile, cache: &Path, progress: bool) -> Result<()> {
        let path = file.path(cache);
        let say = |text: &str| {
            if progress {
                crate::say(format!("{}: {text}", file.repository));
            }
        };
        if path.is_file() {
            say(&format!("already in {}", path.display()));
            return Ok(());
        }
        let what = What {
            name: file.repository.clone(),
            address: format!("{}/{}", self.endpoint.trim_end_matches('/'), file.repository),
            by_hand: format!("put {} into {} by hand", file.file, path.display()),
        };
        let api = self.api().map_err(|error| what.failed("the hub", &error))?;
        let repo = Repo::with_revision(file.repository.clone(), RepoType::Model, file.revision.clone());
        let download = Download { hub: self, what, api: &api, repo, progress };
        let (cached, digest) = download.file(&file.file)?;
        let mut from = File::open(&cached).map_err(Error::io("read", &cached))?;
        write_atomic(&path, |out| io::copy(&mut from, out).map(|_| ()))?;
        say(&format!("{} in {}, SHA-256 {digest}", file.file, path.display()));
        Ok(())
    }

    fn api(&self) -> Result<Api, ApiError> {
        ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.trim_end_matches('/').to_owned())
            .with_token(self.token.clone())
            .with_retries(RETRIES)
            .with_progress(false)
            .build()
    }
}

/// What is downloaded, for messages.
struct What {
    name: String,
    /// Of its repository.
    address: String,
    /// What to do instead.
    by_hand: String,
}

impl What {
    fn failed(&self, part: &str, error: &ApiError) -> Error {
        let message = format!("cannot download \"{}\": {part} of {}: {error}", self.name, self.address);
        let by_hand = &self.by_hand;
        Error::input(message).hint(format!("check the connection; HF_ENDPOINT=<address> uses a mirror; or {by_hand}"))
    }
}

/// What all files of one repository have in common.
struct Download<'a> {
    hub: &'a Hub,
    what: What,
    api: &'a Api,
    repo: Repo,
    progress: bool,
}

impl Download<'_> {
    /// The file in the cache and its SHA-256, fetched unless it is there already; a damaged one is fetched once more.
    fn file(&self, name: &str) -> Result<(PathBuf, String)> {
        let repo = self.api.repo(self.repo.clone());
        let failed = |error: &ApiError| self.what.failed(name, error);
        let metadata = self.api.metadata(&repo.url(name)).map_err(|error| failed(&error))?;
        // Large files have their SHA-256 as tag; the tag also names the file in the cache, so nothing else is let through.
        let wanted = metadata.etag().to_owned();
        if wanted.len() != 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::input(format!(
                "cannot download \"{}\": the hub gives no SHA-256 for {name} (its tag is {wanted:?})",
                self.what.name
            )));
        }
        let cached = Cache::new(self.hub.cache.clone()).repo(self.repo.clone());
        let blob = cached.blob_path(&wanted);
        let mut found = String::new();
        // Twice: what is left of an earlier attempt may be what is wrong.
        for attempt in 0..2 {
            let path = match cached.get(name).filter(|_| attempt == 0) {
                Some(path) => path,
                None => self.transfer(&repo, name, &blob, metadata.size() as u64)?,
            };
            found = digest::of_file(&path)?;
            if found == wanted {
                return Ok((path, found));
            }
            for bad in [&path, &blob] {
                fs::remove_file(bad).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(Error::io("delete", bad)(error)),
                })?;
            }
        }
        Err(Error::input(format!(
            "cannot download \"{}\": {name} has SHA-256 {found} where the hub promises {wanted}; it was deleted",
            self.what.name
        ))
        .hint("try again; if it stays so, a proxy or mirror on the way changes files (HF_ENDPOINT chooses another)"))
    }

    fn transfer(&self, repo: &ApiRepo, name: &str, blob: &Path, size: u64) -> Result<PathBuf> {
        prepare_part(&blob.with_extension("part"), size)?;
        let result = if self.progress {
            repo.download_with_progress(name, Reporter::new(name))
        } else {
            repo.download_with_progress(name, ())
        };
        result.map_err(|error| self.what.failed(name, &error))
    }
}

/// Makes what an earlier attempt left fit to be continued: hf-hub asks for the bytes after it, and a hub answers a request
/// for none with an error.
fn prepare_part(part: &Path, size: u64) -> Result<()> {
    let Ok(length) = fs::metadata(part).map(|metadata| metadata.len()) else { return Ok(()) };
    if length >= size {
        let keep = if length == size { size.saturating_sub(1) } else { 0 };
        OpenOptions::new()
            .write(true)
            .open(part)
            .and_then(|file| file.set_len(keep))
            .map_err(Error::io("write", part))?;
    }
    Ok(())
}

/// The Parquet files of a split, in order: `<folder>/train-00000-of-00002.parquet`, …
fn parquet_files(source: &Source, split: Split, names: &[String]) -> Result<Vec<String>> {
    let parts = |name: &str| -> Option<(String, Option<usize>)> {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let stem = file.strip_suffix(".parquet")?.strip_prefix(split.name())?;
        let of = if stem.is_empty() { None } else { Some(stem.strip_prefix('-')?.split_once("-of-")?.1.parse().ok()?) };
        source.folder.is_none_or(|wanted| wanted == folder).then(|| (folder.to_owned(), of))
    };
    let mut files: Vec<_> = names.iter().filter(|name| parts(name).is_some()).cloned().collect();
    files.sort();
    let kinds: BTreeSet<_> = files.iter().filter_map(|name| parts(name)).collect();
    let kinds: Vec<_> = kinds.into_iter().collect();
    let refuse = |what: String| {
        Error::input(format!("cannot download \"{}\": {} {what}", source.name, source.repository))
            .hint("its layout may have changed since this version of oodkit; see data/README.md for other ways")
    };
    match kinds.as_slice() {
        [] => Err(refuse(format!("lists no Parquet files of the {split} split"))),
        [(_, of)] if files.len() == of.unwrap_or(1) => Ok(files),
        _ => Err(refuse(format!("lists a {split} split that is incomplete or not the only one: {}", files.join(", ")))),
    }
}

/// One set of all pictures, which must look as the set is known to look.
fn assemble(source: &Source, split: Split, images: Vec<parquet::Labelled>) -> Result<ImageSet> {
    let known = known(source.name).ok_or_else(|| Error::Failed(format!("\"{}\" is in no registry", source.name)))?;
    let [channels, height, width] =
        known.shape.ok_or_else(|| Error::Failed(format!("\"{}\" has no shape", source.name)))?;
    let refuse = |what: String| Error::input(format!("cannot use the hub's {} ({split}): {what}", source.repository));
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let found = (image.width as usize, image.height as usize);
        if found != (width, height) {
            return Err(refuse(format!("picture {index} is {}×{} where {width}×{height} is wanted", found.0, found.1)));
        }
        image.append_planes(channels, &mut pixels).map_err(|reason| refuse(format!("picture {index} {reason}")))?;
        let label = u32::try_from(image.label).ok().filter(|label| (*label as usize) < known.classes);
        labels.push(label.ok_or_else(|| refuse(format!("picture {index} has label {}", image.label)))?);
    }
    if labels.is_empty() {
        return Err(refuse("no pictures".into()));
    }
    Ok(ImageSet {
        name: source.name.into(),
        split,
        channels,
        height,
        width,
        pixels: pixels.into(),
        labels: Some(labels),
        classes: known.classes,
        full_size: known.size(split),
        files: None,
        masks: None,
        note: None,
    })
}

/// A bar on a terminal, else a line at the start and the end of a file.
enum Reporter {
    Bar(ProgressBar),
    Lines { name: String, started: bool },
}

impl Reporter {
    fn new(name: &str) -> Self {
        if plain_wanted() {
            return Self::Lines { name: name.into(), started: false };
        }
        let bar = ProgressBar::new(0).with_message(name.to_owned());
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
        Self::Bar(
            ProgressStyle::with_template(template).map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style)),
        )
    }
}

impl Progress for Reporter {
    // Called anew, from zero, whenever a broken transfer is continued.
    fn init(&mut self, size: usize, _: &str) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(size as u64);
                bar.set_position(0);
            }
            Self::Lines { name, started } => {
                if !std::mem::replace(started, true) {
                    crate::say(format!("{name}: {} to fetch", indicatif::HumanBytes(size as u64)));
                }
            }
        }
    }

    fn update(&mut self, size: usize) {
        if let Self::Bar(bar) = self {
            bar.inc(size as u64);
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines { name, .. } => crate::say(format!("{name}: fetched")),
        }
    }
}
