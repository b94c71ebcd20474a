//! The bytes of a set's images: held, or made of their files whenever they are asked for.
//!
//! Both forms give the same bytes. A set of files is held where its decoded images fit the memory that [`super::load_as`] is told of.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rayon::prelude::*;

use super::{ImageSet, conform, form::Fit, made::Distribution, picture};
use crate::{Error, Result};

/// The bytes of images (N, C, H, W), 0..=255.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// All of them.
    Held(Vec<u8>),
    /// Decoded from a file each.
    Files(Files),
    /// Made of the images of a set that is not held.
    Made(Made),
}

/// Images that are decoded whenever they are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    files: Vec<File>,
    /// What each is brought to, and then to the next: one shape (channels, rows, columns), most often.
    shapes: Vec<([usize; 3], Fit)>,
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq)]
struct File {
    path: PathBuf,
    stamp: Stamp,
}

/// A file's bytes, and when they were changed: digests are of the images that were there at first.
type Stamp = (u64, Option<SystemTime>);

/// Images that are made whenever they are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub(super) distribution: Distribution,
    pub(super) source: Arc<ImageSet>,
    /// The source's image that each is made of first.
    pub(super) places: Vec<usize>,
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Held(bytes)
    }
}

impl FromIterator<u8> for Pixels {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        Self::Held(bytes.into_iter().collect())
    }
}

impl Pixels {
    /// Images of these files at a shape, which are decoded whenever they are asked for.
    pub(super) fn of_files(files: impl IntoIterator<Item = PathBuf>, shape: [usize; 3], fit: Fit) -> Result<Self> {
        let files = files.into_iter().map(|path| Ok(File { stamp: stamp(&path)?, path }));
        Ok(Self::Files(Files { files: files.collect::<Result<_>>()?, shapes: vec![(shape, fit)] }))
    }

    /// All bytes, where they are held.
    pub fn held(&self) -> Option<&[u8]> {
        match self {
            Self::Held(bytes) => Some(bytes),
            Self::Files(_) | Self::Made(_) => None,
        }
    }

    /// How many images of `length` bytes there are.
    pub(super) fn count(&self, length: usize) -> usize {
        match self {
            Self::Held(bytes) => bytes.len() / length.max(1),
            Self::Files(files) => files.files.len(),
            Self::Made(made) => made.places.len(),
        }
    }

    /// The first `n` images of `length` bytes, of which there are as many.
    pub(super) fn truncate(&mut self, n: usize, length: usize) {
        match self {
            Self::Held(bytes) => bytes.truncate(n * length),
            Self::Files(files) => files.files.truncate(n),
            Self::Made(made) => made.places.truncate(n),
        }
    }

    /// The images of `length` bytes at `places`.
    pub(super) fn subset(&self, places: &[usize], length: usize) -> Self {
        match self {
            Self::Held(bytes) => {
                let mut chosen = Vec::with_capacity(places.len() * length);
                places.iter().for_each(|&place| chosen.extend_from_slice(&bytes[place * length..][..length]));
                Self::Held(chosen)
            }
            Self::Files(Files { files, shapes }) => {
                let files = places.iter().map(|&place| files[place].clone()).collect();
                Self::Files(Files { files, shapes: shapes.clone() })
            }
            Self::Made(made) => {
                let places = places.iter().map(|&place| made.places[place]).collect();
                Self::Made(Made { places, source: made.source.clone(), ..*made })
            }
        }
    }

    /// The bytes of image `place`, of `length` bytes.
    pub(super) fn image(&self, place: usize, length: usize) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Held(bytes) => Ok(Cow::Borrowed(&bytes[place * length..][..length])),
            Self::Files(Files { files, shapes }) => files[place].at(shapes).map(Cow::Owned),
            Self::Made(made) => made.distribution.image(&made.source, made.places[place]).map(Cow::Owned),
        }
    }

    /// The same images at another shape.
    pub(super) fn conform(&mut self, from: [usize; 3], to: [usize; 3], fit: Fit) -> Result<()> {
        match self {
            Self::Held(bytes) => *bytes = conform::images(bytes, from, to, fit)?,
            Self::Files(files) => files.shapes.push((to, fit)),
            Self::Made(_) => return Err(Error::Failed("images that are made have their source's shape".into())),
        }
        Ok(())
    }
}

impl File {
    /// Decodes it at each of these shapes in turn.
    fn at(&self, shapes: &[([usize; 3], Fit)]) -> Result<Vec<u8>> {
        if stamp(&self.path)? != self.stamp {
            return Err(Error::input(format!("{} was changed while it was in use", self.path.display()))
                .hint("run it again once the data set stays as it is"));
        }
        let (first, others) = shapes.split_first().ok_or_else(|| Error::Failed("no shape to decode at".into()))?;
        let mut image = picture::at(&self.path, first.0, first.1)?;
        for ((from, _), (to, fit)) in shapes.iter().zip(others) {
            image = conform::images(&image, *from, *to, *fit)?;
        }
        Ok(image)
    }
}

fn stamp(path: &Path) -> Result<Stamp> {
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

/// The bytes of several images, decoded on all threads.
pub(super) fn read(images: &ImageSet, places: impl IndexedParallelIterator<Item = usize>) -> Result<Vec<u8>> {
    let length = images.image_len();
    let mut bytes = vec![0; places.len() * length];
    let read = bytes.par_chunks_exact_mut(length.max(1)).zip(places).map(|(out, place)| {
        out.copy_from_slice(&images.image(place)?);
        Ok(())
    });
    // The first error by place, whichever thread is first.
    read.collect::<Vec<Result<()>>>().into_iter().collect::<Result<()>>()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;

    /// Five grey images of 6×4 pixels in files, held and not.
    fn forms(folder: &Path) -> [ImageSet; 2] {
        let files: Vec<PathBuf> = (0..5).map(|image| folder.join(format!("{image}.png"))).collect();
        for (image, file) in (0..).zip(&files) {
            let pixel = |x: u32, y: u32| image::Luma([(40 * image + 7 * x + y) as u8]);
            image::GrayImage::from_fn(4, 6, pixel).save(file).unwrap();
        }
        let set = |pixels| ImageSet {
            name: "five".into(),
            split: Split::Test,
            channels: 1,
            height: 6,
            width: 4,
            pixels,
            labels: Some(vec![0, 1, 2, 0, 1]),
            classes: 3,
            full_size: None,
            files: None,
            masks: None,
            note: None,
        };
        let decoded = files.iter().flat_map(|file| picture::at(file, [1, 6, 4], Fit::default()).unwrap()).collect();
        [set(decoded), set(Pixels::of_files(files, [1, 6, 4], Fit::default()).unwrap())]
    }

    fn bytes(set: &ImageSet) -> Vec<u8> {
        set.read(&(0..set.len()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn both_forms_are_the_same_images() {
        let folder = tempfile::tempdir().unwrap();
        let [held, files] = forms(folder.path());
        assert!(held.pixels.held().is_some() && files.pixels.held().is_none());
        let subset = |set: &ImageSet| set.subset(&[4, 0, 3]);
        let small = |set: &ImageSet| set.clone().conform(3, 3, 2).unwrap();
        let twice = |set: &ImageSet| small(set).conform(1, 5, 5).unwrap();
        let made = |distribution: Distribution| move |set: &ImageSet| distribution.of(set).unwrap();
        type Change<'a> = &'a dyn Fn(&ImageSet) -> ImageSet;
        let changes: [(&str, Change<'_>); 8] = [
            ("as it is", &ImageSet::clone),
            ("some", &subset),
            ("the first", &|set| set.clone().take(2)),
            ("smaller", &small),
            ("twice", &twice),
            ("means", &made(Distribution::ArithmeticMean)),
            ("some of noise", &|set| subset(&made(Distribution::SpeckleNoise)(set))),
            ("the first of noise", &|set| made(Distribution::UniformNoise)(set).take(3)),
        ];
        for (what, change) in changes {
            let [held, files] = [&held, &files].map(change);
            assert!(held.pixels.held().is_some() && files.pixels.held().is_none(), "{what}");
            assert_eq!((held.len(), held.shape(), &held.labels), (files.len(), files.shape(), &files.labels), "{what}");
            assert!(bytes(&held) == bytes(&files), "{what}");
            assert_eq!(held.sha256().unwrap(), files.sha256().unwrap(), "{what}");
            assert_eq!(held.digests().unwrap(), files.digests().unwrap(), "{what}");
            assert_eq!(files.among(&held.distinct().unwrap()).unwrap(), files.len(), "{what}");
        }
        assert_eq!(small(&made(Distribution::Inversion)(&held)).shape(), [3, 3, 2]);
    }

    #[test]
    fn a_file_that_breaks_or_changes_later_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let [_, files] = forms(folder.path());
        let path = folder.path().join("3.png");
        let whole = fs::read(&path).unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let error = |set: &ImageSet| set.sha256().unwrap_err().to_string();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        assert_eq!(error(&files), format!("{} was changed while it was in use", path.display()));
        fs::remove_file(&path).unwrap();
        assert!(error(&files).contains("3.png"), "{}", error(&files));
        // Bytes that differ, and a size and a time that do not.
        let mut broken = whole.clone();
        broken[40..50].fill(0);
        fs::write(&path, broken).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert!(error(&files).starts_with(&format!("{}: ", path.display())), "{}", error(&files));
    }
}
