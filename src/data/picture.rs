//! One image file: what is read, how large it is, its pixels.

use std::{
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use rayon::prelude::*;

use super::{
    conform, damaged,
    form::{Damaged, Fit, Wanted},
    formats::MAX_DEFLATE_RATIO,
    unreadable,
};
use crate::{Error, Result, fs::open_regular};

/// The extensions of images.
const NAMES: [&str; 14] =
    ["png", "jpg", "jpeg", "jfif", "jpe", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "gif"];
/// What is read, as a hint.
pub(super) const READ: &str = "images are PNG, JPEG, WebP, BMP, TIFF, PNM (ppm, pgm, pbm) and GIF (its first frame)";
/// Longest side of an image that is decoded. Ours: beyond every set in the registry, bounded memory.
const MAX_SIDE: u32 = 16_384;
/// Most memory to decode an image, and most bytes of its file. Ours: 512 MiB, image's own default.
const MAX_MEMORY: u64 = 512 << 20;
/// Most times that one side of an image may exceed the other. Ours: resizing a thinner strip needs absurd memory.
const MAX_ASPECT: usize = 100;

/// Whether the name is an image's.
pub(super) fn is_named(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    NAMES.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// An image at its own size.
pub(super) struct Picture {
    pixels: Vec<u8>,
    shape: [usize; 3],
}

impl Picture {
    /// Its pixels (C, H, W) at a shape.
    pub(super) fn at(self, shape: [usize; 3], fit: Fit) -> Result<Vec<u8>> {
        if self.shape == shape && fit.keeps() {
            return Ok(self.pixels);
        }
        conform::images(&self.pixels, self.shape, shape, fit)
    }
}

/// The image of planes (C, H, W) of bytes, grey or red, green and blue.
pub fn painted(planes: &[u8], [channels, height, width]: [usize; 3]) -> RgbImage {
    let plane = |part: usize| &planes[part.min(channels - 1) * height * width..];
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        Rgb([0, 1, 2].map(|part| plane(part)[at]))
    })
}

/// The shape that images are brought to. Where rows and columns are left open, all images must have the same; where
/// channels are, one image in colour makes all of them RGB.
pub(super) fn shape(files: &[PathBuf], wanted: &Wanted) -> Result<[usize; 3]> {
    let form = wanted.form;
    if let (Some(channels), Some([height, width])) = (form.channels, form.size) {
        return Ok([channels, height, width]);
    }
    let shapes: Vec<Result<[usize; 3]>> = files.par_iter().map(|file| header(file)).collect();
    let mut common: Option<([usize; 3], &Path)> = None;
    for (file, shape) in files.iter().zip(shapes) {
        let [channels, height, width] = match shape {
            Ok(shape) => shape,
            Err(Error::Input { .. }) if wanted.damaged == Damaged::Skip => continue,
            Err(error) => return Err(error),
        };
        match &mut common {
            None => common = Some(([channels, height, width], file)),
            Some((known, first)) => {
                if form.size.is_none() && known[1..] != [height, width] {
                    let [_, rows, columns] = known;
                    let (first, file) = (first.display(), file.display());
                    return Err(Error::input(format!(
                        "images of several sizes: {first} has {rows}×{columns} pixels, {file} has {height}×{width}"
                    ))
                    .hint(format!("say what to bring them to: `size: {rows}` or `size: [{rows}, {columns}]`")));
                }
                known[0] = known[0].max(channels);
            }
        }
    }
    let (shape, _) = common.ok_or_else(|| Error::input("all images are damaged"))?;
    Ok(form.or(shape))
}

/// A file's bytes, if it is complete.
fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut file, length) = open_regular(path)?;
    if length > MAX_MEMORY {
        return Err(broken_image(path, format!("{length} bytes are too many for an image")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.by_ref().take(MAX_MEMORY).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// A decoder of what the bytes are, whatever the extension says.
fn decoder<'a>(path: &Path, bytes: &'a [u8]) -> Result<impl ImageDecoder + use<'a>> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(unreadable(path))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let format = reader.format();
    // Decoders of JPEG fill in what is missing.
    if format == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err(broken_image(path, "the image ends too early"));
    }
    // What a byte can hold at most: of a JPEG 8 blocks of 64 pixels, a bit each; of others what deflate makes of it.
    let pixels_per_byte = match format {
        Some(ImageFormat::Jpeg) => 512,
        Some(ImageFormat::Png | ImageFormat::Tiff) => 8 * MAX_DEFLATE_RATIO,
        _ => u64::MAX,
    };
    let decoder = reader.into_decoder().map_err(broken(path))?;
    let ((width, height), length) = (decoder.dimensions(), bytes.len());
    if u64::from(width) * u64::from(height) > (length as u64).saturating_mul(pixels_per_byte) {
        let what = format!("claims {height}×{width} pixels, more than its {length} bytes can hold");
        return Err(broken_image(path, what));
    }
    if decoder.total_bytes() > MAX_MEMORY {
        return Err(broken_image(path, format!("an image of {height}×{width} pixels is too large")));
    }
    let (height, width) = (height as usize, width as usize);
    if height == 0 || width == 0 || height > MAX_ASPECT * width || width > MAX_ASPECT * height {
        return Err(broken_image(
            path,
            format!("an image of {height}×{width} pixels cannot be brought to a common shape"),
        ));
    }
    Ok(decoder)
}

fn broken(path: &Path) -> impl Fn(image::ImageError) -> Error + use<'_> {
    move |error| match error {
        image::ImageError::IoError(error) => unreadable(path)(error),
        error => broken_image(path, error),
    }
}

/// Channels, rows and columns, without decoding the pixels.
pub(super) fn header(path: &Path) -> Result<[usize; 3]> {
    let bytes = read(path)?;
    let decoder = decoder(path, &bytes)?;
    let (width, height) = decoder.dimensions();
    Ok([if decoder.color_type().has_color() { 3 } else { 1 }, height as usize, width as usize])
}

/// The error of one image of many.
fn broken_image(path: &Path, what: impl std::fmt::Display) -> Error {
    damaged(path, what)
        .hint("get the image again, or leave damaged ones out: `damaged: skip` at the set, which captions count")
}

/// Decodes an image: planes of grey, or red, green and blue.
pub(super) fn decode(path: &Path) -> Result<Picture> {
    let bytes = read(path)?;
    let picture = DynamicImage::from_decoder(decoder(path, &bytes)?).map_err(broken(path))?;
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    let (pixels, channels) = if picture.color().has_color() {
        let interleaved = picture.into_rgb8().into_raw();
        let plane = |channel| interleaved.iter().skip(channel).step_by(3).copied();
        ((0..3).flat_map(plane).collect(), 3)
    } else {
        (picture.into_luma8().into_raw(), 1)
    };
    Ok(Picture { pixels, shape: [channels, height, width] })
}

/// Which pixels of a mask are marked, and its rows and columns. Any colour but black marks, where it is not transparent; of JPEG, whose
/// black is not exact, half of the range and more.
pub(super) fn marks(path: &Path) -> Result<(Vec<bool>, [usize; 2])> {
    let bytes = read(path)?;
    let least = if image::guess_format(&bytes).is_ok_and(|format| format == ImageFormat::Jpeg) { 1 << 15 } else { 1 };
    let mask = DynamicImage::from_decoder(decoder(path, &bytes)?).map_err(broken(path))?;
    let (height, width) = (mask.height() as usize, mask.width() as usize);
    let marked = |pixel: &image::Rgba<u16>| pixel[3] > 0 && pixel.0[..3].iter().any(|value| *value >= least);
    Ok((mask.into_rgba16().pixels().map(marked).collect(), [height, width]))
}

/// The pixels of an image file (C, H, W) at a shape.
pub(super) fn at(path: &Path, shape: [usize; 3], fit: Fit) -> Result<Vec<u8>> {
    decode(path)?.at(shape, fit)
}

/// Whether a JPEG's segments and scans lead to its end marker; what follows that does not matter.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END: u8 = 0xd9;
    let mut at = 2;
    loop {
        // The next marker: 0xff, maybe several times, and a byte that is neither stuffing nor a restart.
        let Some(found) = bytes.get(at..).and_then(|rest| {
            rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7))
        }) else {
            return false;
        };
        let marker = bytes[at + found + 1];
        at += found + 2;
        match marker {
            END => return true,
            // They stand alone.
            0x01 | 0xd8 => {}
            _ => {
                let Some(&[high, low]) = bytes.get(at..at + 2) else { return false };
                at += usize::from(u16::from_be_bytes([high, low]));
                if marker == START_OF_SCAN && at >= bytes.len() {
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gradient with noise, so that every format needs many bytes.
    fn colours() -> DynamicImage {
        image::RgbImage::from_fn(48, 40, |x, y| {
            let noise = (x * 7919 + y * 104_729) % 97;
            image::Rgb([(x * 5) as u8, (y * 6) as u8, (noise * 2) as u8])
        })
        .into()
    }

    const FORMATS: [(&str, ImageFormat); 7] = [
        ("a.png", ImageFormat::Png),
        ("a.jfif", ImageFormat::Jpeg),
        ("a.webp", ImageFormat::WebP),
        ("a.bmp", ImageFormat::Bmp),
        ("a.tif", ImageFormat::Tiff),
        ("a.ppm", ImageFormat::Pnm),
        ("a.gif", ImageFormat::Gif),
    ];

    #[test]
    fn every_format_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let original = Picture { pixels: Vec::new(), shape: [3, 40, 48] };
        let wanted = colours().into_rgb8();
        for (name, format) in FORMATS {
            let path = folder.path().join(name);
            colours().save_with_format(&path, format).unwrap();
            assert!(is_named(&path));
            assert_eq!(header(&path).unwrap(), original.shape, "{name}");
            let read = decode(&path).unwrap();
            assert_eq!(read.shape, original.shape, "{name}");
            // GIF has 256 colours, JPEG is lossy.
            let red = |place: u32| wanted.get_pixel(place % 48, place / 48)[0].abs_diff(read.pixels[place as usize]);
            let worst = (0..48 * 40).map(red).max().unwrap();
            let tolerance = if matches!(format, ImageFormat::Jpeg | ImageFormat::Gif) { 90 } else { 0 };
            assert!(worst <= tolerance, "{name}: {worst}");
        }
        assert!(!is_named(Path::new("labels.csv")) && !is_named(Path::new("png")));
    }

    #[test]
    fn an_image_that_is_cut_is_refused_in_every_format() {
        let folder = tempfile::tempdir().unwrap();
        for (name, format) in FORMATS {
            let path = folder.path().join(name);
            colours().save_with_format(&path, format).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for percent in [20, 50, 90] {
                std::fs::write(&path, &whole[..whole.len() * percent / 100]).unwrap();
                let error = decode(&path).err().unwrap_or_else(|| panic!("{name} at {percent} %")).to_string();
                assert!(error.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn a_jpeg_may_have_bytes_after_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jpg");
        colours().save(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        assert!(jpeg_is_whole(&bytes));
        // The two bytes of its end marker are missing.
        assert!(!jpeg_is_whole(&bytes[..bytes.len() - 2]));
        bytes.extend(b"what a camera adds \xff\xda\xff");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(decode(&path).unwrap().shape, [3, 40, 48]);
        // An end marker within a segment, as a thumbnail has one, is none.
        let segment = b"\xff\xd8\xff\xe1\x00\x06\xff\xd9xx";
        assert!(!jpeg_is_whole(segment));
        for nothing in [&b""[..], b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\xff\xff"] {
            assert!(!jpeg_is_whole(nothing));
        }
    }
}
