//! MNIST's IDX files, plain or gzipped.
//!
//! A file is two zero bytes, a type (8: unsigned byte), the number of dimensions, each size as a big-endian u32, then the
//! values in row-major order (LeCun, Cortes, Burges: the MNIST home page).

use std::{
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};

use super::{Layout, Paint, Painter, Site, Wanted, splits};
use crate::{
    Error, Result,
    data::{Dataset, ImageSet, Split, damaged, synthetic::save, unreadable},
    fs::open_regular,
};

/// No deflate stream grows by more than this (zlib's technical notes).
pub(in crate::data) const MAX_DEFLATE_RATIO: u64 = 1032;

/// Most values in a file. Ours: 4 GiB, six times EMNIST.
const MAX_VALUES: u64 = 4 << 30;

/// Most bytes that a zipped file may unpack to for each of its own, beyond [`SMALL`]. Ours: MNIST's have 5, a bomb has 1000.
const MAX_GROWTH: u64 = 100;

/// What a zipped file may unpack to however short it is. Ours: 64 MiB, harmless, and blank images pack well.
const SMALL: u64 = 64 << 20;

/// Longest side of an image. Ours: far above any set in this format.
const MAX_SIDE: usize = 4096;

/// Most bytes that are unpacked from `length` zipped ones: what they can hold at all, and what data that are no bomb do.
pub(super) fn most_unpacked(length: u64) -> u64 {
    let possible = length.saturating_mul(MAX_DEFLATE_RATIO);
    possible.min(length.saturating_mul(MAX_GROWTH).max(SMALL)).min(MAX_VALUES)
}

/// This format.
pub(super) struct Idx;

impl Layout for Idx {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder, split).map(Files::paths)
    }

    fn read(&self, site: &Site, split: Split, _: &Wanted) -> Result<ImageSet> {
        read(&site.folder, split)
    }

    fn within(&self, folder: &Path, dataset: &Dataset, root: &Path) -> Option<PathBuf> {
        torchvision(folder, dataset.source(), dataset.path.is_none().then_some(root))
    }

    fn paint(&self) -> Paint {
        Paint { shape: [1, 28, 28], classes: 10, free: true }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| {
            let stem = if split == Split::Train { "train" } else { "t10k" };
            let images: Vec<u8> = (0..n).flat_map(|i| painter.image(i)).collect();
            let labels: Vec<u8> = (0..n).map(|i| (painter.class(i) + painter.first_label) as u8).collect();
            let [_, height, width] = painter.shape;
            let images = gzip(&idx(&[n, height, width], &images))?;
            save(&folder.join(format!("{stem}-images-idx3-ubyte.gz")), &images)?;
            save(&folder.join(format!("{stem}-labels-idx1-ubyte.gz")), &gzip(&idx(&[n], &labels))?)
        })
    }
}

/// An IDX file of bytes.
fn idx(dims: &[usize], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    for dim in dims {
        file.extend((*dim as u32).to_be_bytes());
    }
    file.extend_from_slice(values);
    file
}

/// `bytes` as a gzip file without a time stamp.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(Error::io("write", "gzip"))
}

/// The files of a split.
struct Files {
    images: PathBuf,
    labels: Option<PathBuf>,
    transposed: bool,
}

impl Files {
    /// Images, then labels.
    fn paths(self) -> Vec<PathBuf> {
        std::iter::once(self.images).chain(self.labels).collect()
    }
}

/// torchvision's folder of such files, where `folder` has none itself: `raw` in it, or `MNIST/raw` in it or in `root`, by the set's
/// name in torchvision.
fn torchvision(folder: &Path, name: &str, root: Option<&Path>) -> Option<PathBuf> {
    let there = |folder: &Path| [Split::Train, Split::Test].iter().any(|split| locate(folder, *split).is_ok());
    if there(folder) {
        return None;
    }
    const THEIRS: [(&str, &str); 4] =
        [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST"), ("emnist_letters", "EMNIST")];
    // A set of one's own may be any of them, if only one is there.
    let mut theirs: Vec<&str> = THEIRS.iter().filter(|(known, _)| *known == name).map(|(_, theirs)| *theirs).collect();
    if theirs.is_empty() {
        theirs
            .extend(THEIRS.iter().map(|(_, theirs)| *theirs).filter(|theirs| there(&folder.join(theirs).join("raw"))));
    }
    let inner = |place: &Path| if let [theirs] = theirs[..] { Some(place.join(theirs).join("raw")) } else { None };
    let places = [Some(folder.join("raw")), inner(folder), root.and_then(inner)];
    places.into_iter().flatten().find(|place| there(place))
}

/// Finds the files of a split, or says which was looked for.
fn locate(folder: &Path, split: Split) -> Result<Files, String> {
    // EMNIST's official files hold each letter transposed.
    let stems: [(&str, bool); 2] = match split {
        Split::Train => [("train", false), ("emnist-letters-train", true)],
        Split::Test => [("t10k", false), ("emnist-letters-test", true)],
        Split::Val => [("val", false), ("emnist-letters-val", true)],
    };
    let find = |stem: &str, kind: &str| {
        // With a dot in some unpacked copies.
        let names = ["-", "."].map(|separator| format!("{stem}-{}", kind.replacen('-', separator, 1)));
        let mut files = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
        files.find(|file| file.is_file())
    };
    for (stem, transposed) in stems {
        if let Some(images) = find(stem, "images-idx3-ubyte") {
            return Ok(Files { images, labels: find(stem, "labels-idx1-ubyte"), transposed });
        }
    }
    Err(format!("{}-images-idx3-ubyte or {0}-images-idx3-ubyte.gz", stems[0].0))
}

/// Reads a split; labels as in the file.
fn read(folder: &Path, split: Split) -> Result<ImageSet> {
    let files = locate(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let Values { dims: [n, height, width], mut values } = read_values(&files.images)?;
    if height == 0 || width == 0 || height > MAX_SIDE || width > MAX_SIDE {
        return Err(damaged(&files.images, format!("its images are {height}×{width} pixels")));
    }
    if files.transposed {
        if height != width {
            return Err(damaged(&files.images, format!("its images are {height}×{width} pixels, not square")));
        }
        values.chunks_exact_mut(height * width).for_each(|image| transpose(image, height));
    }
    let labels = match &files.labels {
        None => None,
        Some(path) => {
            let Values { dims: [labels], values } = read_values(path)?;
            if labels != n {
                let what = format!("{labels} labels for the {n} images of {}", files.images.display());
                return Err(damaged(path, what));
            }
            Some(values.into_iter().map(u32::from).collect())
        }
    };
    Ok(ImageSet {
        name: String::new(),
        split,
        channels: 1,
        height,
        width,
        pixels: values.into(),
        labels,
        classes: 0,
        full_size: Some(n),
        files: None,
        masks: None,
        note: None,
    })
}

/// A file of unsigned bytes with `D` dimensions.
#[derive(Debug)]
struct Values<const D: usize> {
    dims: [usize; D],
    values: Vec<u8>,
}

/// Reads a file, which must hold exactly what its header claims.
fn read_values<const D: usize>(path: &Path) -> Result<Values<D>> {
    let (file, length) = open_regular(path)?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let file = BufReader::new(file);
    let mut reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let unreadable = unreadable(path);

    let mut magic = [0; 4];
    reader.read_exact(&mut magic).map_err(&unreadable)?;
    if magic != [0, 0, 8, D as u8] {
        let expected = u32::from_be_bytes([0, 0, 8, D as u8]);
        let what = format!(
            "begins with {:#010x}, not the {expected:#010x} of IDX bytes in {D} dimensions",
            u32::from_be_bytes(magic)
        );
        return Err(damaged(path, what));
    }
    let mut dims = [0; D];
    let mut claimed = 1u64;
    for dim in &mut dims {
        let mut size = [0; 4];
        reader.read_exact(&mut size).map_err(&unreadable)?;
        let size = u32::from_be_bytes(size);
        *dim = size as usize;
        claimed = claimed.saturating_mul(u64::from(size));
    }
    // Before any allocation: what the header claims must fit into a file of this length.
    let possible = if zipped { length.saturating_mul(MAX_DEFLATE_RATIO) } else { length };
    if claimed > possible {
        return Err(damaged(path, format!("claims {dims:?} values, more than its {length} bytes can hold")));
    }
    let most = if zipped { most_unpacked(length) } else { MAX_VALUES };
    if claimed > most {
        let what = format!("claims {dims:?} values; of a file of {length} bytes at most {most} are read");
        return Err(damaged(path, what));
    }
    let mut values = Vec::new();
    reader.take(claimed + 1).read_to_end(&mut values).map_err(&unreadable)?;
    if values.len() as u64 != claimed {
        let found = if (values.len() as u64) < claimed { format!("only {}", values.len()) } else { "more".into() };
        return Err(damaged(path, format!("claims {dims:?} values but holds {found}")));
    }
    Ok(Values { dims, values })
}

/// Swaps rows and columns of a square image.
fn transpose(image: &mut [u8], side: usize) {
    for row in 0..side {
        for column in row + 1..side {
            image.swap(row * side + column, column * side + row);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn error(name: &str, bytes: Vec<u8>) -> String {
        let folder = folder(&[(name, bytes)]);
        let message = read(folder.path(), Split::Test).unwrap_err().to_string();
        message.replace(&folder.path().display().to_string(), "FOLDER")
    }

    #[test]
    fn reads_plain_and_zipped_files_with_and_without_labels() {
        let pixels: Vec<u8> = (0..12).collect();
        let images = idx(&[3, 2, 2], &pixels);
        let plain =
            folder(&[("t10k-images-idx3-ubyte", images.clone()), ("t10k-labels-idx1-ubyte", idx(&[3], &[7, 0, 1]))]);
        let set = read(plain.path(), Split::Test).unwrap();
        assert_eq!(
            (set.shape(), set.pixels.held().unwrap(), set.labels),
            ([1, 2, 2], &pixels[..], Some(vec![7, 0, 1]))
        );
        let zipped = folder(&[("train-images.idx3-ubyte.gz", gzip(&images).unwrap())]);
        let set = read(zipped.path(), Split::Train).unwrap();
        assert_eq!((set.shape(), set.pixels.held().unwrap(), set.labels), ([1, 2, 2], &pixels[..], None));
    }

    #[test]
    fn emnist_letters_are_turned_upright() {
        let folder = folder(&[("emnist-letters-test-images-idx3-ubyte", idx(&[1, 2, 2], &[1, 2, 3, 4]))]);
        assert_eq!(read(folder.path(), Split::Test).unwrap().pixels, vec![1, 3, 2, 4].into());
    }

    #[test]
    fn claims_are_checked_before_anything_is_allocated() {
        let name = "t10k-images-idx3-ubyte";
        let huge = idx(&[1_000_000, 1000, 1000], &[0; 4]);
        assert_eq!(
            error(name, huge.clone()),
            format!("FOLDER/{name}: claims [1000000, 1000, 1000] values, more than its 20 bytes can hold")
        );
        let zipped = error(&format!("{name}.gz"), gzip(&huge).unwrap());
        assert!(zipped.contains("claims [1000000, 1000, 1000] values, more than its"), "{zipped}");
        // A bomb: 16 MB of zeros in some 16 kB, under a header that claims little.
        let bomb = gzip(&idx(&[2, 2, 2], &vec![0; 16 << 20])).unwrap();
        assert_eq!(
            error(&format!("{name}.gz"), bomb),
            format!("FOLDER/{name}.gz: claims [2, 2, 2] values but holds more")
        );
    }

    #[test]
    fn what_unpacks_to_far_more_than_images_do_is_not_read() {
        // 80 MB of zeros in some 80 kB: the header tells the truth, and the file could hold it.
        let bomb = gzip(&idx(&[80, 1000, 1000], &vec![0; 80_000_000])).unwrap();
        let length = bomb.len();
        assert!(length < 100_000);
        assert_eq!(
            error("t10k-images-idx3-ubyte.gz", bomb),
            format!(
                "FOLDER/t10k-images-idx3-ubyte.gz: claims [80, 1000, 1000] values; of a file of {length} bytes at most {} are read",
                64 << 20
            )
        );
        assert_eq!(most_unpacked(1000), 1_032_000);
        assert_eq!(most_unpacked(4_000_000), 400_000_000);
        assert_eq!(most_unpacked(u64::MAX), 4 << 30);
    }

    #[test]
    fn malformed_files_are_named() {
        let name = "t10k-images-idx3-ubyte";
        for (bytes, expected) in [
            (vec![], "ends too early"),
            (vec![0, 0, 8], "ends too early"),
            (vec![0, 0, 8, 3, 0, 0], "ends too early"),
            (idx(&[4], &[0; 4]), "begins with 0x00000801, not the 0x00000803 of IDX bytes in 3 dimensions"),
            (idx(&[2, 2, 2], &[0; 7]), "claims [2, 2, 2] values but holds only 7"),
            (idx(&[2, 2, 2], &[0; 9]), "claims [2, 2, 2] values but holds more"),
            (idx(&[2, 0, 2], &[]), "its images are 0×2 pixels"),
            (idx(&[1, 1, 5000], &[0; 5000]), "its images are 1×5000 pixels"),
        ] {
            assert_eq!(error(name, bytes), format!("FOLDER/{name}: {expected}"));
        }
        assert_eq!(
            error(&format!("{name}.gz"), b"not gzip at all".to_vec()),
            format!("FOLDER/{name}.gz: invalid gzip header")
        );
        let folder = folder(&[(name, idx(&[2, 1, 1], &[0; 2])), ("t10k-labels-idx1-ubyte", idx(&[3], &[0; 3]))]);
        let message = read(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(message.contains("3 labels for the 2 images of"), "{message}");
    }
}
