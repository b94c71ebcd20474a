//! Pictures and labels in the hub's Parquet files: a group {bytes, path} of an encoded picture, and a column of classes.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use image::{ColorType, DynamicImage, ImageReader, Limits};
use parquet::basic::Type;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

/// No picture of these sets has a longer side; larger claims are refused before memory is asked for.
const LONGEST_SIDE: u32 = 1024;

/// A decoded picture with its class.
pub(super) struct Labelled {
    pub(super) width: u32,
    pub(super) height: u32,
    /// As the file says.
    pub(super) label: i64,
    /// Rows from the top, pixels from the left, channels together.
    pixels: DynamicImage,
}

impl Labelled {
    /// Appends the picture as (C, H, W); `channels` must be what it has, so that no colour is made up or lost.
    pub(super) fn append_planes(&self, channels: usize, planes: &mut Vec<u8>) -> Result<(), String> {
        let (bytes, found) = match &self.pixels {
            DynamicImage::ImageLuma8(grey) => (grey.as_raw(), 1),
            DynamicImage::ImageRgb8(colours) => (colours.as_raw(), 3),
            other => return Err(format!("has the pixel type {:?}", other.color())),
        };
        if found != channels {
            return Err(format!("has {found} channels where {channels} are wanted"));
        }
        for channel in 0..channels {
            planes.extend(bytes.iter().skip(channel).step_by(channels));
        }
        Ok(())
    }
}

/// Appends all pictures of a file, with the classes of the column `label`; an error says what is wrong and in which row.
pub(super) fn read(path: &Path, label: &str, images: &mut Vec<Labelled>) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let file = File::open(path).map_err(|error| text(&error))?;
    let file = SerializedFileReader::new(file).map_err(|error| text(&error))?;
    let schema = file.metadata().file_metadata().schema_descr();
    let columns: Vec<_> =
        schema.columns().iter().map(|column| (column.path().string(), column.physical_type())).collect();
    let listed = || columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    // `image.bytes` or `img.bytes`.
    let pictures: Vec<_> = (columns.iter().enumerate())
        .filter(|(_, (name, kind))| name.ends_with(".bytes") && *kind == Type::BYTE_ARRAY)
        .map(|(index, _)| index)
        .collect();
    let [picture] = pictures[..] else { return Err(format!("no single column of pictures among {}", listed())) };
    let class = columns.iter().position(|(name, _)| name == label);
    let class = class.ok_or_else(|| format!("no column \"{label}\" among {}", listed()))?;
    let integers = columns.get(class).map(|(_, kind)| *kind);
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group).map_err(|error| text(&error))?;
        let labels: Vec<i64> = match integers {
            Some(Type::INT64) => column::<Int64Type>(&*group, class)?,
            Some(Type::INT32) => column::<Int32Type>(&*group, class)?.into_iter().map(i64::from).collect(),
            other => return Err(format!("column \"{label}\" is of type {other:?}")),
        };
        let encoded = column::<ByteArrayType>(&*group, picture)?;
        if encoded.len() != labels.len() {
            return Err(format!("{} pictures with {} labels", encoded.len(), labels.len()));
        }
        for (bytes, label) in encoded.iter().zip(labels) {
            let row = images.len();
            images.push(decode(bytes.data(), label).map_err(|reason| format!("picture {row}: {reason}"))?);
        }
    }
    Ok(())
}

/// All values of a column in a row group, none of them null.
fn column<T: DataType>(group: &dyn RowGroupReader, index: usize) -> Result<Vec<T::T>, String> {
    let rows = usize::try_from(group.metadata().num_rows()).map_err(|_| "an impossible number of rows")?;
    let reader = group.get_column_reader(index).map_err(|error| error.to_string())?;
    let mut reader = get_typed_column_reader::<T>(reader);
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    while done < rows {
        let (records, _, _) = reader
            .read_records((rows - done).min(1024), Some(&mut definitions), Some(&mut repetitions), &mut values)
            .map_err(|error| error.to_string())?;
        if records == 0 {
            break;
        }
        done += records;
    }
    if values.len() != rows {
        return Err(format!("{} values in {rows} rows of a column", values.len()));
    }
    Ok(values)
}

fn decode(bytes: &[u8], label: i64) -> Result<Labelled, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    let pixels = reader.decode().map_err(|error| error.to_string())?;
    if !matches!(pixels.color(), ColorType::L8 | ColorType::Rgb8) {
        return Err(format!("pixels of type {:?}", pixels.color()));
    }
    Ok(Labelled { width: pixels.width(), height: pixels.height(), label, pixels })
}
