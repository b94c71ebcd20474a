//! FER2013's table: columns `emotion` (0..=6), `pixels` (48·48 numbers), `Usage` (Goodfellow et al. 2013, Kaggle).
//!
//! Training rows are the train split, PrivateTest rows the test split, as in the literature; PublicTest rows are the val split.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Layout, Paint, Painter, Site, Wanted};
use crate::{
    Error, Result,
    data::{ImageSet, Split, damaged, synthetic::save},
    fs::{ShortLines, open_regular},
};

/// Rows and columns of a picture.
const SIDE: usize = 48;
/// Angry, disgust, fear, happy, sad, surprise, neutral.
const CLASSES: u32 = 7;

/// This format.
pub(super) struct Fer2013;

impl Layout for Fer2013 {
    fn locate(&self, site: &Site, _: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder).map(|file| vec![file])
    }

    fn read(&self, site: &Site, split: Split, _: &Wanted) -> Result<ImageSet> {
        read(&site.folder, split)
    }

    fn paint(&self) -> Paint {
        Paint { shape: [1, SIDE, SIDE], classes: CLASSES as usize, free: false }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, [train, test]: [usize; 2]) -> Result<()> {
        let mut table = "emotion,pixels,Usage\n".to_owned();
        for (usage, n) in [("Training", train), ("PublicTest", 1), ("PrivateTest", test)] {
            for i in 0..n {
                let pixels: Vec<String> = painter.image(i).iter().map(u8::to_string).collect();
                table.push_str(&format!("{},{},{usage}\n", painter.class(i), pixels.join(" ")));
            }
        }
        save(&folder.join("fer2013.csv"), table.as_bytes())
    }
}

/// Finds the table, in the folder or in the archive's own folder inside it, or says what was looked for.
fn locate(folder: &Path) -> Result<PathBuf, String> {
    let files = [folder.join("fer2013.csv"), folder.join("fer2013").join("fer2013.csv")];
    files.into_iter().find(|file| file.is_file()).ok_or_else(|| "fer2013.csv".into())
}

/// Reads a split.
fn read(folder: &Path, split: Split) -> Result<ImageSet> {
    let path = locate(folder).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    let usage = match split {
        Split::Train => "Training",
        Split::Test => "PrivateTest",
        Split::Val => "PublicTest",
    };
    let (file, _) = open_regular(&path)?;
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(ShortLines::new(file));
    let unreadable = |error: csv::Error| {
        let place = error.position().map_or(String::new(), |position| format!("line {}: ", position.line()));
        match error.into_kind() {
            csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => damaged(&path, error),
            csv::ErrorKind::Io(error) => Error::io("read", &path)(error),
            csv::ErrorKind::Utf8 { .. } => damaged(&path, format!("{place}not UTF-8")),
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                damaged(&path, format!("{place}{len} columns where the header has {expected_len}"))
            }
            _ => damaged(&path, format!("{place}not a CSV table")),
        }
    };
    let header = table.headers().map_err(&unreadable)?.clone();
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.ok_or_else(|| damaged(&path, format!("line 1: no column `{name}`")))
    };
    let (emotion, picture, use_for) = (column("emotion")?, column("pixels")?, column("Usage")?);

    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    let mut record = csv::StringRecord::new();
    while table.read_record(&mut record).map_err(&unreadable)? {
        let line = record.position().map_or(0, csv::Position::line);
        let field = |column: usize| record.get(column).unwrap_or_default();
        match field(use_for) {
            kind if kind == usage => {}
            "Training" | "PublicTest" | "PrivateTest" => continue,
            kind => return Err(damaged(&path, format!("line {line}: Usage is {kind:?}"))),
        }
        let label = field(emotion).parse().ok().filter(|label| *label < CLASSES);
        labels.push(label.ok_or_else(|| {
            damaged(&path, format!("line {line}: emotion {:?} is not in 0..={}", field(emotion), CLASSES - 1))
        })?);
        let before = pixels.len();
        for pixel in field(picture).split_ascii_whitespace() {
            let byte = pixel.parse::<u8>();
            pixels.push(byte.map_err(|_| damaged(&path, format!("line {line}: pixel {pixel:?} is not in 0..=255")))?);
        }
        let found = pixels.len() - before;
        if found != SIDE * SIDE {
            return Err(damaged(&path, format!("line {line}: {found} pixels, not 48·48 = {}", SIDE * SIDE)));
        }
    }
    if labels.is_empty() {
        return Err(damaged(&path, format!("no row has Usage {usage}")));
    }
    Ok(ImageSet {
        name: String::new(),
        split,
        channels: 1,
        height: SIDE,
        width: SIDE,
        full_size: Some(labels.len()),
        pixels: pixels.into(),
        labels: Some(labels),
        classes: CLASSES as usize,
        files: None,
        masks: None,
        note: None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read_table(table: &str, split: Split) -> Result<ImageSet, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fer2013.csv"), table).unwrap();
        let place = folder.path().display().to_string();
        read(folder.path(), split).map_err(|error| error.to_string().replace(&place, "FOLDER"))
    }

    fn picture(value: u8) -> String {
        vec![value.to_string(); SIDE * SIDE].join(" ")
    }

    #[test]
    fn reads_the_rows_of_a_split() {
        let (a, b, c) = (picture(1), picture(2), picture(255));
        let table = format!("emotion,pixels,Usage\n3,{a},Training\n0,{b},PublicTest\n6,{c},PrivateTest\n");
        let train = read_table(&table, Split::Train).unwrap();
        assert_eq!((train.shape(), train.pixels.held().unwrap()[0], train.labels), ([1, 48, 48], 1, Some(vec![3])));
        let test = read_table(&table, Split::Test).unwrap();
        assert_eq!((test.labels, test.pixels.held().unwrap()[2303]), (Some(vec![6]), 255));
        // The other table of the competition: another order of columns, and blanks.
        let table = format!("emotion, Usage, pixels\n3, Training, {a}\n");
        assert_eq!(read_table(&table, Split::Train).unwrap().len(), 1);
    }

    #[test]
    fn malformed_tables_are_named_with_the_line() {
        let good = picture(0);
        for (table, expected) in [
            ("", "line 1: no column `emotion`".into()),
            ("emotion,Usage\n", "line 1: no column `pixels`".into()),
            ("emotion,pixels,Usage\n", "no row has Usage Training".into()),
            (
                &*format!("emotion,pixels,Usage\n0,{good},Training\n7,{good},Training\n"),
                "line 3: emotion \"7\" is not in 0..=6".into(),
            ),
            ("emotion,pixels,Usage\n0,1 2 3,Training\n", "line 2: 3 pixels, not 48·48 = 2304".into()),
            ("emotion,pixels,Usage\n0,1 256,Training\n", "line 2: pixel \"256\" is not in 0..=255".into()),
            ("emotion,pixels,Usage\n0,1\n", "line 2: 2 columns where the header has 3".into()),
            ("emotion,pixels,Usage\n0,1,Train\n", String::from("line 2: Usage is \"Train\"")),
        ] {
            assert_eq!(read_table(table, Split::Train).unwrap_err(), format!("FOLDER/fer2013.csv: {expected}"));
        }
    }
}
