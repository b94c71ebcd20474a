//! Digests as text.

use std::{fmt::Write as _, io, path::Path};

use sha2::{Digest, Sha256};

use crate::{Error, Result, fs::open_regular};

/// The SHA-256 of a file's bytes.
///
/// # Errors
/// [`Error::Io`] naming `path`; [`Error::Input`] if it is no regular file.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let (mut file, _) = open_regular(path)?;
    io::copy(&mut file, &mut hash).map_err(Error::io("read", path))?;
    Ok(hex(&hash.finalize()))
}

/// Two lower-case hexadecimal digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_has_two_digits() {
        assert_eq!(super::hex(&[0, 10, 255, 0x5a]), "000aff5a");
    }
}
