//! SVHN's cropped digits: `X` (32, 32, 3, N) bytes and `y` (N) labels 1..=10 in MATLAB v5 files, where 10 is the digit 0
//! (Netzer et al. 2011, the SVHN home page).

use std::path::{Path, PathBuf};

use super::{
    Layout, Paint, Painter, Site, Wanted,
    mat::{self, Values},
    splits,
};
use crate::{
    Result,
    data::{ImageSet, Split, damaged, synthetic::save},
};

/// Rows and columns of a picture.
const SIDE: usize = 32;

/// This format.
pub(super) struct Svhn;

impl Layout for Svhn {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder, split).map(|file| vec![file])
    }

    fn read(&self, site: &Site, split: Split, _: &Wanted) -> Result<ImageSet> {
        read(&site.folder, split)
    }

    fn paint(&self) -> Paint {
        Paint { shape: [3, SIDE, SIDE], classes: 10, free: false }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| {
            let images: Vec<u8> = (0..n).flat_map(|i| column_major(&painter.image(i))).collect();
            let labels: Vec<u8> =
                (0..n).map(|i| if painter.class(i) == 0 { 10 } else { painter.class(i) as u8 }).collect();
            let arrays = [("X", vec![SIDE, SIDE, 3, n], images), ("y", vec![n, 1], labels)];
            save(&folder.join(format!("{split}_32x32.mat")), &mat::write(&arrays, true, false)?)
        })
    }
}

/// Planes of an image with the row varying fastest.
fn column_major(image: &[u8]) -> Vec<u8> {
    let transposed =
        |plane: &[u8]| -> Vec<u8> { (0..SIDE * SIDE).map(|at| plane[at % SIDE * SIDE + at / SIDE]).collect() };
    image.chunks_exact(SIDE * SIDE).flat_map(transposed).collect()
}

/// Finds the file of a split, or says which was looked for.
fn locate(folder: &Path, split: Split) -> Result<PathBuf, String> {
    let file = format!("{split}_32x32.mat");
    Some(folder.join(&file)).filter(|path| path.is_file()).ok_or(file)
}

/// Reads a split.
fn read(folder: &Path, split: Split) -> Result<ImageSet> {
    let path = locate(folder, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let mut arrays = mat::read(&path, &["X", "y"])?;
    let mut array = |name| arrays.remove(name).ok_or_else(|| damaged(&path, format!("has no numeric array {name}")));
    let (images, labels) = (array("X")?, array("y")?);

    // MATLAB drops a last dimension of 1.
    let n = match images.dims.as_slice() {
        [SIDE, SIDE, 3] => 1,
        [SIDE, SIDE, 3, n] => *n,
        dims => return Err(damaged(&path, format!("X is {dims:?}, not [32, 32, 3, N]"))),
    };
    let Values::Bytes(columns) = images.values else { return Err(damaged(&path, "X does not hold bytes")) };
    let labels = match labels.values {
        Values::Bytes(labels) => labels.into_iter().map(f64::from).collect(),
        Values::Numbers(labels) => labels,
    };
    if labels.len() != n {
        return Err(damaged(&path, format!("{} labels for {n} images", labels.len())));
    }
    let digit = |(i, &label): (usize, &f64)| match label {
        10.0 => Ok(0),
        _ if label.fract() == 0.0 && (1.0..10.0).contains(&label) => Ok(label as u32),
        _ => Err(damaged(&path, format!("label {label} of image {i} is not in 1..=10"))),
    };
    let labels = labels.iter().enumerate().map(digit).collect::<Result<Vec<u32>>>()?;

    // Column-major: within a plane, the row varies fastest.
    let mut pixels = vec![0; columns.len()];
    for (plane, columns) in pixels.chunks_exact_mut(SIDE * SIDE).zip(columns.chunks_exact(SIDE * SIDE)) {
        for (row, out) in plane.chunks_exact_mut(SIDE).enumerate() {
            for (column, out) in out.iter_mut().enumerate() {
                *out = columns[column * SIDE + row];
            }
        }
    }
    Ok(ImageSet {
        name: String::new(),
        split,
        channels: 3,
        height: SIDE,
        width: SIDE,
        pixels: pixels.into(),
        labels: Some(labels),
        classes: 10,
        full_size: Some(n),
        files: None,
        masks: None,
        note: None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read_bytes(bytes: &[u8]) -> Result<ImageSet, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("test_32x32.mat"), bytes).unwrap();
        let place = folder.path().display().to_string();
        read(folder.path(), Split::Test).map_err(|error| error.to_string().replace(&place, "FOLDER"))
    }

    /// Pixel (n, c, h, w) as `tests/golden/data/make.py` computes it.
    fn golden() -> Vec<u8> {
        let place = |at: usize| [at / 3072, at / 1024 % 3, at / 32 % 32, at % 32];
        (0..2 * 3072).map(place).map(|[n, c, h, w]| ((7 * n + 3 * h + w + 50 * c) % 256) as u8).collect()
    }

    #[test]
    fn reads_what_scipy_writes() {
        let plain: &[u8] = include_bytes!("../../../tests/golden/data/svhn_plain.mat");
        let compressed: &[u8] = include_bytes!("../../../tests/golden/data/svhn_compressed.mat");
        for bytes in [plain, compressed] {
            let set = read_bytes(bytes).unwrap();
            assert_eq!((set.shape(), set.classes), ([3, 32, 32], 10));
            assert_eq!(set.labels, Some(vec![0, 3]));
            assert!(set.pixels == golden().into());
        }
    }

    #[test]
    fn reads_both_byte_orders() {
        let arrays = |n: usize| {
            let pixels = (0..n * 3072).map(|i| (i % 253) as u8).collect::<Vec<u8>>();
            let dims = if n == 1 { vec![32, 32, 3] } else { vec![32, 32, 3, n] };
            [("X", dims, pixels), ("y", vec![n, 1], vec![10; n])]
        };
        for n in [1, 3] {
            let expected = read_bytes(&mat::write(&arrays(n), false, false).unwrap()).unwrap();
            assert_eq!((expected.len(), expected.pixels.held().unwrap()[1]), (n, 32));
            for (compressed, big_endian) in [(true, false), (false, true), (true, true)] {
                assert!(read_bytes(&mat::write(&arrays(n), compressed, big_endian).unwrap()).unwrap() == expected);
            }
        }
    }

    #[test]
    fn malformed_files_are_named() {
        let x = |dims: &[usize], bytes: usize| ("X", dims.to_vec(), vec![0; bytes]);
        let y = |labels: &[u8]| ("y", vec![labels.len(), 1], labels.to_vec());
        for (arrays, expected) in [
            (vec![x(&[32, 32, 3, 1], 3072)], "has no numeric array y"),
            (vec![x(&[32, 32, 3, 2], 6144), y(&[1])], "1 labels for 2 images"),
            (vec![x(&[32, 32, 3, 1], 3072), y(&[11])], "label 11 of image 0 is not in 1..=10"),
            (vec![x(&[32, 32, 3, 1], 3072), y(&[0])], "label 0 of image 0 is not in 1..=10"),
            (vec![x(&[32, 32], 1024), y(&[1])], "X is [32, 32], not [32, 32, 3, N]"),
            (
                vec![x(&[32, 32, 3, 1_000_000], 3072), y(&[1])],
                "array X claims [32, 32, 3, 1000000] values but holds 3072",
            ),
        ] {
            for compressed in [false, true] {
                let error = read_bytes(&mat::write(&arrays, compressed, false).unwrap()).unwrap_err();
                assert_eq!(error, format!("FOLDER/test_32x32.mat: {expected}"));
            }
        }
        let version_7_3 = [&[b' '; 124][..], b"\x00\x02IM"].concat();
        let error = read_bytes(&version_7_3).unwrap_err();
        assert!(error.ends_with("not a MATLAB v5 file (v7.3 files are HDF5, which is not read)"), "{error}");
        // An element that claims 4 GB in a file of 136 bytes.
        let hostile = [&[b' '; 124][..], b"\x00\x01IM", &[14, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]].concat();
        let error = read_bytes(&hostile).unwrap_err();
        assert!(error.ends_with("an element claims 4294967295 bytes where at most 0 remain"), "{error}");
    }

    #[test]
    fn small_files_do_not_become_large_arrays() {
        // 3 million signed bytes, each of which would be an f64.
        let mut signed = mat::write(&[("X", vec![32, 32, 3, 1000], vec![0; 3_072_000])], false, false).unwrap();
        let tag = [[2, 0, 0, 0], 3_072_000_u32.to_le_bytes()].concat();
        let at = signed.windows(8).position(|window| window == tag).unwrap();
        signed[at] = 1;
        let error = read_bytes(&signed).unwrap_err();
        let what = "array X holds 3072000 numbers that are no unsigned bytes; more than 2097152 are not read";
        assert_eq!(error, format!("FOLDER/test_32x32.mat: {what}"));
        // 68 MB of zeros in some 70 kB.
        let images = 22_222;
        let zeros = mat::write(&[("X", vec![32, 32, 3, images], vec![0; 3072 * images])], true, false).unwrap();
        assert!(zeros.len() < 100_000);
        let error = read_bytes(&zeros).unwrap_err();
        assert!(error.contains("bytes where at most 67108856 remain"), "{error}");
    }

    #[test]
    fn a_changed_byte_in_a_compressed_array_is_noticed() {
        let pixels = (0..3072).map(|i| (i * 7 % 256) as u8).collect::<Vec<u8>>();
        let file = mat::write(&[("X", vec![32, 32, 3], pixels), ("y", vec![1, 1], vec![1])], true, false).unwrap();
        let good = read_bytes(&file).unwrap();
        let (mut noticed, mut same) = (0, 0);
        for at in 128..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 0x10;
            match read_bytes(&changed) {
                Ok(set) if set == good => same += 1,
                Ok(_) => panic!("a change at {at} went unnoticed"),
                Err(_) => noticed += 1,
            }
        }
        // Some header bits of zlib mean nothing to a decoder.
        assert!(noticed > 10 * same, "{noticed} noticed, {same} harmless");
    }
}
