//! Downloading public data sets (`make data set=NAME`).
//!
//! The hub's Parquet files become our store ([`store`](super::store)): digests checked, interrupted downloads continued,
//! nothing fetched twice. The client is behind the cargo feature `hub`; without it [`download`] says how to get it.

#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod parquet;
mod tag;

use std::path::Path;

#[cfg(feature = "hub")]
pub use hub::Hub;
pub use tag::{HUB, HubFile};

use super::registry::{self, known};
use crate::{Error, Result, did_you_mean};

/// Where a data set is on the hub. File names are not facts of ours: they come from the repository's listing.
#[derive(Debug)]
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only the hub client asks for more than the name"))]
struct Source {
    /// Its name in oodkit.
    name: &'static str,
    /// The hub's data set repository.
    repository: &'static str,
    /// The folder in it, where there are several configurations.
    folder: Option<&'static str>,
    /// The column of the class; the pictures' column is found by its type.
    label: &'static str,
}

/// The folder below the data root where the hub's weights are kept.
pub const WEIGHTS: &str = "weights";

/// Something to download.
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only the hub client asks for more than the name"))]
enum Wanted {
    Set(&'static Source),
    Weights(HubFile),
}

/// The sets that are on the hub as Parquet.
const SOURCES: [Source; 5] = [
    Source { name: "mnist", repository: "ylecun/mnist", folder: None, label: "label" },
    Source { name: "fashion_mnist", repository: "zalando-datasets/fashion_mnist", folder: None, label: "label" },
    Source { name: "cifar10", repository: "uoft-cs/cifar10", folder: None, label: "label" },
    // The fine labels; there are coarse ones beside them.
    Source { name: "cifar100", repository: "uoft-cs/cifar100", folder: None, label: "fine_label" },
    // Beside it are the uncropped numbers. The digit 0 has label 0 here, not 10 as in the original files.
    Source { name: "svhn", repository: "ufldl-stanford/svhn", folder: Some("cropped_digits"), label: "label" },
];

/// Downloads the named sets into their folders under `root`; what is there already is left alone.
///
/// Respects `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE` and `HF_TOKEN`. With `progress` it tells on stderr what it does.
///
/// # Errors
/// [`Error::Input`] for a name that is unknown or not on the hub, a build without the hub client, a hub that does not
/// answer, and files that do not match their digest or are not what they should be; [`Error::Io`] for the disk.
pub fn download(names: &[String], root: &Path, progress: bool) -> Result<()> {
    let all = all(names, root)?;
    #[cfg(feature = "hub")]
    return fetch(&Hub::from_env()?, &all, root, progress);
    #[cfg(not(feature = "hub"))]
    {
        let _ = (all, root, progress);
        Err(without_client(&names.join(" ")))
    }
}

/// What a binary without the hub client says.
#[cfg(any(test, not(feature = "hub")))]
fn without_client(names: &str) -> Error {
    Error::input("this binary was built without the hub client").hint(format!("run `make data set=\"{names}\"`"))
}

/// [`download`] from a hub of your choice.
///
/// # Errors
/// Those of [`download`].
#[cfg(feature = "hub")]
pub fn download_from(hub: &Hub, names: &[String], root: &Path, progress: bool) -> Result<()> {
    fetch(hub, &all(names, root)?, root, progress)
}

#[cfg(feature = "hub")]
fn fetch(hub: &Hub, all: &[Wanted], root: &Path, progress: bool) -> Result<()> {
    all.iter().try_for_each(|wanted| match wanted {
        Wanted::Set(source) => hub.fetch(source, root, progress),
        Wanted::Weights(file) => hub.fetch_weights(file, &root.join(WEIGHTS), progress),
    })
}

/// What all names stand for, or what to do about the first that stands for nothing.
fn all(names: &[String], root: &Path) -> Result<Vec<Wanted>> {
    let wanted = |name: &String| match HubFile::parse(name) {
        Some(Ok(file)) => Ok(Wanted::Weights(file)),
        Some(Err(message)) => Err(Error::input(message)),
        None => source(name, root).map(Wanted::Set),
    };
    names.iter().map(wanted).collect()
}

/// Where a set is on the hub, or what to do about one that is not there.
fn source(name: &str, root: &Path) -> Result<&'static Source> {
    match (SOURCES.iter().find(|source| source.name == name), known(name)) {
        (Some(source), _) => Ok(source),
        (None, Some(known)) => Err(Error::input(format!("\"{name}\" cannot be downloaded for you: {}", known.origin))
            .hint(format!("{} (data/README.md says more)", known.how_to_get_into(root)))),
        (None, None) => {
            let suggestion = did_you_mean(name, registry::all().iter().map(|known| known.name));
            let names = SOURCES.map(|source| source.name).join(", ");
            Err(Error::input(format!("unknown data set \"{name}\"{suggestion}")).hint(format!("downloadable: {names}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_that_are_not_on_the_hub_say_where_they_come_from() {
        for name in ["textures", "places365", "lsun_crop", "lsun_resize", "isun", "tiny_images_300k"] {
            let Err(Error::Input { message, hint: Some(hint) }) = source(name, Path::new("data")) else {
                panic!("{name}")
            };
            assert!(message.starts_with(&format!("\"{name}\" cannot be downloaded for you: ")), "{message}");
            assert!(hint.contains("data/README.md"), "{hint}");
            let Err(error) = source(name, Path::new("/elsewhere")) else { panic!("{name}") };
            assert!(error.advice().unwrap().contains(&format!(" /elsewhere/{name}")), "{error:?}");
        }
        let message = source("cifar11", Path::new("data")).unwrap_err().to_string();
        assert!(message.starts_with("unknown data set \"cifar11\" (did you mean \"cifar10"), "{message}");
    }

    #[test]
    fn every_source_is_a_known_set() {
        for source in &SOURCES {
            let known = known(source.name).unwrap();
            assert!(known.shape.is_some() && known.train.is_some() && known.classes > 0, "{}", source.name);
        }
    }

    #[test]
    fn without_the_feature_the_error_says_what_to_run() {
        let Error::Input { message, hint: Some(hint) } = without_client("mnist svhn") else { panic!("not the user's") };
        assert_eq!(message, "this binary was built without the hub client");
        assert_eq!(hint, "run `make data set=\"mnist svhn\"`");
    }
}
