//! Lists of pictures: a text file with a line `path label` for each, as OpenOOD's splits come.
//!
//! Paths start at the data set's folder and stay in it, whatever the list says: no `..`, no root, no symbolic link on the way unless it is said. The
//! label is the last word of the line; −1 stands for none, and then in every line. Pictures are taken in the order of the lines; a
//! limit takes the first of every class in turn (of every folder, without labels) and keeps that order.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Component, Path, PathBuf},
};

use super::{Contents, Layout, Paint, Painter, Site, splits};
use crate::{
    Error, Result,
    data::{Dataset, Links, Split, classes, folder, listing::Listing, no_gaps, synthetic::save, under},
    fs::open_regular,
};

/// Most bytes of a list. Ours: 256 MiB, three times that of ImageNet's train split.
const MAX_BYTES: u64 = 256 << 20;
/// Largest label. Ours: beyond every set of pictures, so that a larger one is a slip.
const MAX_LABEL: i64 = 1_000_000;

/// This format.
pub(super) struct ImageList;

/// The file that lists a split's pictures.
fn list(dataset: &Dataset, split: Split, root: &Path) -> PathBuf {
    under(Path::new(&dataset.list.clone().unwrap_or_default().replace("{split}", split.name())), root)
}

impl Layout for ImageList {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder, list(site.dataset, split, site.root))
    }

    fn is_list(&self) -> bool {
        true
    }

    fn listing(&self, site: &Site, split: Split) -> Result<Listing> {
        listing(site, &site.folder, split, |split| list(site.dataset, split, site.root))
    }

    fn contents(&self, site: &Site, split: Split) -> Result<Contents> {
        contents(site.dataset, &site.folder, list(site.dataset, split, site.root))
    }

    fn hint(&self) -> Option<&'static str> {
        Some(
            "`path` is the folder of the pictures, `list` the file that lists them (data/README.md says where OpenOOD's are)",
        )
    }

    fn keys(&self) -> &'static [&'static str] {
        &["list"]
    }

    fn problem(&self, dataset: &Dataset) -> Option<(Option<&'static str>, String)> {
        match &dataset.list {
            Some(list) if dataset.split.is_some() && list.contains("{split}") => {
                Some((Some("split"), "divides one list, and `{split}` in `list` stands for two".to_owned()))
            }
            Some(list) if !list.is_empty() => None,
            _ => {
                Some((None, "an image_list needs list: the file with a line `path label` for each picture".to_owned()))
            }
        }
    }

    fn is_one_for_all(&self, dataset: &Dataset) -> bool {
        dataset.list.as_ref().is_some_and(|list| !list.contains("{split}")) && dataset.split.is_none()
    }

    fn paint(&self) -> Paint {
        Paint { shape: [3, 32, 32], classes: 10, free: true }
    }

    fn check_write(&self, dataset: &Dataset, root: &Path) -> Result<()> {
        let folder = folder(dataset, root);
        let listed = |split: Split| list(dataset, split, root) == folder.join(format!("{split}.txt"));
        if listed(Split::Train) && listed(Split::Test) {
            return Ok(());
        }
        let (name, list) = (&dataset.name, folder.join("{split}.txt"));
        Err(Error::input(format!("the list of synthetic data for \"{name}\" must be {}", list.display())))
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| {
            (0..n).try_for_each(|i| painter.save_picture(i, &folder.join(split.name())))?;
            let lines: String = (0..n).map(|i| format!("{split}/{i:05}.png {}\n", painter.class(i))).collect();
            save(&folder.join(format!("{split}.txt")), lines.as_bytes())
        })
    }
}

/// The images of a split's list below `images`.
pub(super) fn listing(site: &Site, images: &Path, split: Split, list: impl Fn(Split) -> PathBuf) -> Result<Listing> {
    let own = list(split);
    let others = [Split::Train, Split::Test].map(list);
    let other = others.iter().find(|other| **other != own && other.is_file());
    entries_of(images, &own, other.map(PathBuf::as_path), site.dataset, split)
}

/// The images of a list below `images`, and the list itself: labels stand in it, whatever it is called.
pub(super) fn contents(dataset: &Dataset, images: &Path, list: PathBuf) -> Result<Contents> {
    let (files, _) = entries(images, &list, dataset)?;
    Ok(Contents::of_list(images, files, list))
}

/// The list, if it and the folder of its pictures are there, or what was looked for.
pub(super) fn locate(root: &Path, list: PathBuf) -> Result<Vec<PathBuf>, String> {
    if !list.is_file() {
        Err(format!("list {}", list.display()))
    } else if !root.is_dir() {
        Err("such folder".to_owned())
    } else {
        Ok(vec![list])
    }
}

/// The pictures of a list, whose paths start at `root`. `other` is the list of the set's other split, if it has one: classes may be
/// chosen that only that has.
fn entries_of(root: &Path, list: &Path, other: Option<&Path>, dataset: &Dataset, split: Split) -> Result<Listing> {
    let (files, labels) = entries(root, list, dataset)?;
    let count = |labels: &Option<Vec<u32>>| labels.iter().flatten().max().map_or(0, |label| *label as usize + 1);
    let classes = count(&labels);
    let all = match other.filter(|_| classes::are_chosen(dataset)) {
        Some(other) => classes.max(count(&entries(root, other, dataset)?.1)),
        None => classes,
    };
    let listing = Listing::of_list((list, root), files, labels, classes);
    let listing = listing.of_classes(dataset, all)?.part(dataset, split)?;
    if split == Split::Train {
        no_gaps(listing.labels().into_iter().flatten().copied(), list)?;
    }
    Ok(listing)
}

/// The first path of a list, if it is one below its folder.
pub(super) fn first(list: &Path) -> Option<PathBuf> {
    const ENOUGH: u64 = 4096;
    let mut text = String::new();
    let (file, _) = open_regular(list).ok()?;
    file.take(ENOUGH).read_to_string(&mut text).ok()?;
    let (path, _) = text.lines().map(str::trim).find(|line| !line.is_empty())?.rsplit_once(char::is_whitespace)?;
    let path = PathBuf::from(path.trim_end());
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)).then_some(path)
}

/// The files of a list, and their labels if it has any.
fn entries(root: &Path, list: &Path, dataset: &Dataset) -> Result<(Vec<PathBuf>, Option<Vec<u32>>)> {
    let length = fs::metadata(list).map_err(Error::io("read", list))?.len();
    if length > MAX_BYTES {
        return Err(Error::input(format!("{} has {length} bytes: too large for a list of pictures", list.display())));
    }
    let bytes = fs::read(list).map_err(Error::io("read", list))?;
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    // Folders that are no links.
    let mut known = BTreeSet::new();
    for (line, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let at = |what: String| Error::input(format!("{}:{}: {what}", list.display(), line + 1));
        // A byte order mark is what some editors begin a file with.
        let text = if line == 0 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        let text = std::str::from_utf8(text).map_err(|_| at("is not UTF-8 text".to_owned()).hint(A_LINE))?.trim();
        if text.is_empty() {
            continue;
        }
        let (path, label) =
            text.rsplit_once(char::is_whitespace).ok_or_else(|| at(format!("{text:?} has no label")).hint(A_LINE))?;
        let label: i64 =
            label.parse().ok().filter(|label| (-1..=MAX_LABEL).contains(label)).ok_or_else(|| {
                at(format!("{label:?} is no label: a whole number from 0, or -1 for none")).hint(A_LINE)
            })?;
        labels.push(label);
        if labels.first().is_some_and(|first| (*first < 0) != (label < 0)) {
            return Err(at("labels and -1 (no label) in one list".to_owned()));
        }
        files.push(inside(root, Path::new(path.trim_end()), dataset.links, &mut known).map_err(at)?);
    }
    if files.is_empty() {
        return Err(Error::input(format!("{} lists no pictures", list.display())).hint(A_LINE));
    }
    let labels = labels.into_iter().map(|label| u32::try_from(label).ok()).collect();
    Ok((files, labels))
}

const A_LINE: &str = "a line is a path and a label: cifar10/test/airplane/0001.png 0";

/// The file of this path under `root`, or what is wrong with it.
fn inside(root: &Path, path: &Path, links: Option<Links>, known: &mut BTreeSet<PathBuf>) -> Result<PathBuf, String> {
    let mut file = root.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => file.push(name),
            Component::CurDir => continue,
            _ => return Err(format!("{path:?} leaves the folder {}", root.display())),
        }
        if known.contains(&file) {
            continue;
        }
        let unreadable = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("{} is not there", file.display()),
            _ => format!("cannot read {}: {error}", file.display()),
        };
        let mut metadata = fs::symlink_metadata(&file).map_err(unreadable)?;
        if metadata.is_symlink() {
            let shown = file.display();
            match links {
                None => {
                    return Err(format!("{shown} is a symbolic link, which is not followed without `links: follow`"));
                }
                Some(Links::Follow) => {
                    let canonical = |path: &Path| path.canonicalize().map_err(unreadable);
                    if !canonical(&file)?.starts_with(canonical(root)?) {
                        return Err(format!("{shown} is a symbolic link out of {}", root.display()));
                    }
                }
                Some(Links::Anywhere) => {}
            }
            metadata = fs::metadata(&file).map_err(unreadable)?;
        }
        if metadata.is_dir() {
            known.insert(file.clone());
        } else if !metadata.is_file() {
            return Err(format!("{} is not a regular file", file.display()));
        }
    }
    if known.contains(&file) || file == root { Err(format!("{} is a folder", file.display())) } else { Ok(file) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ImageSet, form::Wanted};

    fn save(path: &Path, grey: u8) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::GrayImage::from_pixel(2, 2, image::Luma([grey])).save(path).unwrap();
    }

    /// A folder with four pictures, and a way to read a list of them.
    fn reads(list: &str) -> Result<ImageSet> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("images");
        for (grey, name) in [(1, "a/1.png"), (2, "a/2 2.png"), (3, "b/1.png"), (4, "b/2.png")] {
            save(&root.join(name), grey);
        }
        save(&folder.path().join("secret.png"), 9);
        std::os::unix::fs::symlink(folder.path().join("secret.png"), root.join("link.png")).unwrap();
        std::os::unix::fs::symlink(folder.path(), root.join("up")).unwrap();
        let path = folder.path().join("list.txt");
        fs::write(&path, list).unwrap();
        let limit = (list.len() > 40).then_some(2);
        let wanted = Wanted { limit, ..Wanted::default() };
        entries_of(&root, &path, None, &Dataset::named("list"), Split::Test)?.read(Split::Test, &wanted)
    }

    fn firsts(set: &ImageSet) -> Vec<u8> {
        (0..set.len()).map(|image| set.image(image).unwrap()[0]).collect()
    }

    #[test]
    fn pictures_come_in_the_order_of_the_lines() {
        let set = reads("b/1.png 2\n\n./a/2 2.png 0\r\n").unwrap();
        assert_eq!((firsts(&set), set.labels.clone(), set.classes), (vec![3, 2], Some(vec![2, 0]), 3));
        let set = reads("b/1.png -1\na/1.png -1").unwrap();
        assert_eq!((firsts(&set), set.labels.clone(), set.classes), (vec![3, 1], None, 0));
        // More than 40 bytes: cut to two, one of each class or folder.
        let set = reads("a/1.png 0\na/2 2.png 0\nb/1.png 1\nb/2.png 1\n").unwrap();
        assert_eq!((firsts(&set), set.full_size), (vec![1, 3], Some(4)));
        let set = reads("a/1.png -1\na/2 2.png -1\nb/1.png -1\nb/2.png -1\n").unwrap();
        assert_eq!(firsts(&set), [1, 3]);
    }

    #[test]
    fn a_list_cannot_lead_elsewhere_and_says_which_line_is_wrong() {
        for (list, line, reason) in [
            ("../secret.png 0", 1, "leaves the folder"),
            ("a/1.png 0\na/../../secret.png 0", 2, "leaves the folder"),
            ("/etc/passwd 0", 1, "leaves the folder"),
            ("link.png 0", 1, "is a symbolic link"),
            ("up/secret.png 0", 1, "is a symbolic link"),
            ("\na/3.png 0", 2, "is not there"),
            ("a 0", 1, "is a folder"),
            (". 0", 1, "is a folder"),
            ("a/1.png", 1, "has no label"),
            ("a/1.png x", 1, "is no label"),
            ("a/1.png -2", 1, "is no label"),
            ("a/1.png 1000001", 1, "is no label"),
            ("a/1.png 0\nb/1.png -1", 2, "labels and -1"),
        ] {
            let message = reads(list).unwrap_err().to_string();
            assert!(message.contains(&format!("list.txt:{line}: ")) && message.contains(reason), "{message}");
        }
        assert!(reads("\n \n").unwrap_err().to_string().contains("lists no pictures"));
    }
}
