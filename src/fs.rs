//! Files are written whole, then renamed: a file that exists is complete.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Creates or replaces `path` with what `write` writes, all or nothing.
///
/// The bytes go to a temporary file in the same folder (created if it is missing), are synced to the disk and take the
/// name `path` in one step, so neither a reader nor a crash ever meets half a file. If anything fails, `path` is as it
/// was and the temporary file is gone; a killed process leaves a `.name.RANDOM.tmp` that nothing reads.
///
/// # Errors
/// [`Error::Io`] naming `path`, with the reason of `write` or of the operating system.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let temporary = Temporary(temporary_name(folder, path));
    write_synced(&temporary.0, write)
        .and_then(|()| fs::rename(&temporary.0, path))
        .map_err(Error::io("write", path))?;
    // The new name is an entry of the folder, which has to reach the disk as well.
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("write", folder))?;
    Ok(())
}

/// The bytes of a file, or `None` if there is none.
///
/// # Errors
/// As [`read_regular`], a missing file apart.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match read_regular(path, u64::MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file, if there is one.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    if_there(fs::remove_file(path)).map_err(Error::io("remove", path)).map(|_| ())
}

/// Removes a folder and all in it, if there is one.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub(crate) fn remove_folder_if_there(path: &Path) -> Result<()> {
    if_there(fs::remove_dir_all(path)).map_err(Error::io("remove", path)).map(|_| ())
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removed when dropped; after the rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A hidden name in `folder`, made of `path`'s, that no other write is using, on this machine or another.
///
/// A process id would not do: containers that share a folder share ids. 64 random bits collide never.
pub(crate) fn temporary_name(folder: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Each `RandomState` has keys of its own, which come from the system's random numbers. The id and the time count
    // where those numbers repeat, as in a machine that was restored twice from one snapshot.
    let now = std::time::SystemTime::now();
    let random = RandomState::new().hash_one((std::process::id(), now));
    // The longest name of most file systems has 255 bytes: the suffix must fit as well.
    let start: String = name.chars().take(40).collect();
    folder.join(format!(".{start}.{random:016x}.tmp"))
}

/// Opens a regular file to read; its length in bytes comes with it.
///
/// A FIFO, a device, a socket or a folder is refused, also behind a link, and opening never waits for a writer.
///
/// # Errors
/// [`Error::Io`] that names `path`, if it is not there or cannot be read; [`Error::Input`] if it is no regular file.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let no_file = || {
        Error::input(format!("{} is not a regular file", path.display()))
            .hint("give a file on disk: folders, devices and pipes (such as <(command)) are not read")
    };
    // Looked at before it is opened, because to open a pipe without a writer would wait.
    if !fs::metadata(path).map_err(Error::io("read", path))?.is_file() {
        return Err(no_file());
    }
    let file = File::open(path).map_err(Error::io("read", path))?;
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    // Looked at again, because another file may have taken the name.
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(no_file()) }
}

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open_regular`]; [`Error::Input`] if the file is larger, however it grows while it is read.
pub(crate) fn read_regular(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    let too_large = || Error::input(format!("{} is too large: at most {most} bytes are read", path.display()));
    if length > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

/// Reads text whose lines are short: a reader of lines holds one at a time, and a line may be as long as the file.
pub(crate) struct ShortLines<R> {
    inner: R,
    /// Bytes since the last line break.
    since: usize,
}

impl<R: Read> ShortLines<R> {
    /// Most bytes of a line. Ours: 1 MiB, a hundred times FER2013's.
    const MOST: usize = 1 << 20;

    pub(crate) fn new(inner: R) -> Self {
        Self { inner, since: 0 }
    }
}

impl<R: Read> Read for ShortLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for byte in &buffer[..count] {
            self.since = if *byte == b'\n' { 0 } else { self.since + 1 };
            if self.since > Self::MOST {
                let message = format!("a line of more than {} bytes", Self::MOST);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(count)
    }
}

fn write_synced(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // `create_new`: a name that is taken, or a link that somebody put there, is not written through.
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut buffered = BufWriter::new(file);
    write(&mut buffered)?;
    buffered.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_and_its_folders_are_created_and_an_old_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.json");
        write_atomic(&path, |out| out.write_all(b"first, longer")).unwrap();
        write_atomic(&path, |out| out.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(&folder.path().join("a/b")), ["file.json"]);
    }

    #[test]
    fn temporary_names_do_not_hang_on_the_process_id() {
        let (folder, path) = (Path::new("runs"), Path::new("runs/results.json"));
        let names: std::collections::BTreeSet<_> = (0..1000).map(|_| temporary_name(folder, path)).collect();
        assert_eq!(names.len(), 1000);
        let id = format!("{}-", std::process::id());
        assert!(names.iter().all(|name| !name.to_string_lossy().contains(&id)));
        // A name of 250 bytes can still be written.
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("a".repeat(250));
        write_atomic(&long, |out| out.write_all(b"x")).unwrap();
        assert_eq!(fs::read(&long).unwrap(), b"x");
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", at("zeros")).unwrap();
        fs::write(at("file"), b"four").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        for name in ["fifo", "zeros", "."] {
            let error = read_regular(&at(name), u64::MAX).unwrap_err();
            assert!(error.to_string().ends_with("is not a regular file"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert_eq!(read_regular(&at("link"), 4).unwrap(), b"four");
        assert!(read_regular(&at("file"), 3).unwrap_err().to_string().contains("at most 3 bytes"));
        assert!(read_if_there(&at("none")).unwrap().is_none());
    }

    #[test]
    fn a_line_without_an_end_is_not_held() {
        let lines = "x".repeat(ShortLines::<io::Empty>::MOST) + "\n";
        let mut text = String::new();
        assert!(ShortLines::new(lines.repeat(3).as_bytes()).read_to_string(&mut text).is_ok());
        let error = ShortLines::new(io::repeat(0).take(1 << 30)).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "a line of more than 1048576 bytes");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_rubbish() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}: no more", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn writers_at_the_same_time_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::thread::scope(|scope| {
            for byte in 0..8_u8 {
                let path = &path;
                scope.spawn(move || write_atomic(path, |out| out.write_all(&[byte; 100_000])).unwrap());
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(names(folder.path()), ["file"]);
    }
}
