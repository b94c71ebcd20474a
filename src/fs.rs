//! Files are written whole, then renamed: a file that exists is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Creates or replaces `path` with what `write` writes, all or nothing.
///
/// The bytes go to a temporary file in the same folder (created if it is missing), are synced to the disk and take the
/// name `path` in one step, so neither a reader nor a crash ever meets half a file. If anything fails, `path` is as it
/// was and the temporary file is gone; a killed process leaves a `.name.PID-N.tmp` that nothing reads.
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
/// [`Error::Io`] naming `path`.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    if_there(fs::read(path)).map_err(Error::io("read", path))
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

/// A hidden name in `folder`, made of `path`'s, that no other write, in this process or another, is using.
pub(crate) fn temporary_name(folder: &Path, path: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    folder.join(format!(".{name}.{}-{write}.tmp", std::process::id()))
}

fn write_synced(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // `truncate`, not `create_new`: a process of an earlier boot may have had our id and been killed.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
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
