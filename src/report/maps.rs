//! Maps of images as files: raw values, masks at a threshold, overlays.

use std::{io::Cursor, path::Path};

use image::{ExtendedColorType, ImageEncoder as _, RgbImage, codecs::png::PngEncoder};
use tiff::encoder::{TiffEncoder, colortype::Gray32Float};

use crate::{Error, Result, metrics::files, write_atomic};

/// How raw maps are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Raw {
    /// NumPy's array of f32, (rows, columns).
    Npy,
    /// One channel of f32, as MVTec AD's official evaluation reads it.
    Tiff,
}

impl Raw {
    /// The ending of the files' names.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Tiff => "tiff",
        }
    }

    /// Writes a map of (rows, columns), whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written; [`Error::Failed`] if the map is not of this size.
    pub fn write(self, path: &Path, map: &[f32], [rows, columns]: [usize; 2]) -> Result<()> {
        match self {
            Self::Npy => files::write_array(path, &[rows, columns], map),
            Self::Tiff => {
                let mut bytes = Cursor::new(Vec::new());
                let encoded = TiffEncoder::new(&mut bytes)
                    .and_then(|mut file| file.write_image::<Gray32Float>(columns as u32, rows as u32, map));
                encoded.map_err(|error| Error::Failed(format!("cannot write {}: {error}", path.display())))?;
                write_atomic(path, |file| file.write_all(bytes.get_ref()))
            }
        }
    }
}

/// Writes a mask as a grey PNG: 255 where the map of (rows, columns) is above the threshold, 0 elsewhere.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write_mask(path: &Path, map: &[f32], [rows, columns]: [usize; 2], threshold: f64) -> Result<()> {
    let mask: Vec<u8> = map.iter().map(|value| if f64::from(*value) > threshold { 255 } else { 0 }).collect();
    write_png(path, &mask, [rows, columns], ExtendedColorType::L8)
}

/// Writes an image as PNG.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write_image(path: &Path, image: &RgbImage) -> Result<()> {
    let size = [image.height() as usize, image.width() as usize];
    write_png(path, image.as_raw(), size, ExtendedColorType::Rgb8)
}

fn write_png(path: &Path, pixels: &[u8], [rows, columns]: [usize; 2], colour: ExtendedColorType) -> Result<()> {
    let mut bytes = Vec::new();
    let written = PngEncoder::new(&mut bytes).write_image(pixels, columns as u32, rows as u32, colour);
    written.map_err(|error| Error::Failed(format!("cannot write {}: {error}", path.display())))?;
    write_atomic(path, |file| file.write_all(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_maps_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let map = [0.5_f32, -1.0, 3e-8, 1e9, 0.1, 7.0];
        let path = folder.path().join("bent/000.tiff");
        Raw::Tiff.write(&path, &map, [2, 3]).unwrap();
        let mut decoder = tiff::decoder::Decoder::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(decoder.dimensions().unwrap(), (3, 2));
        assert_eq!(decoder.colortype().unwrap(), tiff::ColorType::Gray(32));
        let tiff::decoder::DecodingResult::F32(values) = decoder.read_image().unwrap() else { panic!("not f32") };
        assert_eq!(values, map);

        let path = folder.path().join("000.npy");
        Raw::Npy.write(&path, &map, [2, 3]).unwrap();
        let (shape, values) = files::read_array(&path).unwrap();
        assert_eq!((shape, values), (vec![2, 3], map.map(f64::from).to_vec()));
        assert!(Raw::Npy.write(&path, &map, [2, 2]).is_err() && Raw::Tiff.write(&path, &map, [4, 4]).is_err());

        let path = folder.path().join("mask.png");
        write_mask(&path, &map, [2, 3], 0.5).unwrap();
        let mask = image::open(&path).unwrap();
        assert_eq!(mask.color(), image::ColorType::L8);
        assert_eq!(mask.to_luma8().into_raw(), [0, 0, 0, 255, 0, 255]);
    }
}
