//! A checksum within a file that oodkit wrote: a flipped bit or an edit is noticed when the file is read.
//!
//! The first entry of the file's JSON, or of a safetensors file's metadata, is `"checksum": "sha256:…"`. It is the SHA-256 of all
//! bytes of the file, its own 64 digits taken as zeros. Files of others have none, nor do those of earlier versions.

use std::{ops::Range, path::Path, sync::Once};

use sha2::{Digest, Sha256};

use crate::digest::hex;

/// The entry's key.
pub(crate) const KEY: &str = "checksum";
/// What its value starts with.
const KIND: &str = "sha256:";
/// Its digits.
const DIGITS: usize = 64;
/// It stands within the first bytes of a file. Ours: what stands before it has 26 bytes at most.
const NEAR: usize = 256;

/// The entry's value until the file's bytes are known.
pub(crate) fn blank() -> String {
    format!("{KIND}{}", "0".repeat(DIGITS))
}

/// Where the digits are, if there is a checksum.
fn digits(start: &[u8]) -> Option<Range<usize>> {
    let near = &start[..start.len().min(NEAR)];
    let key = format!("\"{KEY}\":");
    let after_key = near.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let spaces = near[after_key..].iter().take_while(|byte| **byte == b' ').count();
    let value = format!("\"{KIND}");
    let begin = after_key + spaces + value.len();
    let found = near.get(after_key + spaces..begin)? == value.as_bytes() && start.len() >= begin + DIGITS;
    found.then_some(begin..begin + DIGITS)
}

/// Puts the checksum of `start` followed by `rest` into the [`blank`] of `start`; without one, nothing.
pub(crate) fn fill<'a>(start: &mut [u8], rest: impl Iterator<Item = &'a [u8]>) {
    let Some(digits) = digits(start) else { return };
    let mut hash = Sha256::new_with_prefix(&*start);
    rest.for_each(|bytes| hash.update(bytes));
    start[digits].copy_from_slice(hex(&hash.finalize()).as_bytes());
}

/// Whether the bytes of a file are those that were written; `None` if it has no checksum.
pub(crate) fn holds(file: &[u8]) -> Option<bool> {
    let digits = digits(file)?;
    let mut hash = Sha256::new_with_prefix(&file[..digits.start]);
    hash.update([b'0'; DIGITS]);
    hash.update(&file[digits.end..]);
    Some(hex(&hash.finalize()).as_bytes() == &file[digits])
}

/// [`holds`], and puts spaces in the entry's place: what remains is JSON as it would be without one, in the same lines.
pub(crate) fn take(json: &mut [u8]) -> Option<bool> {
    let holds = holds(json)?;
    let end = digits(json)?.end;
    let begin = json.iter().position(|byte| *byte == b'"')?;
    // The quote and the comma after the digits go too.
    let end = (end + 2).min(json.len());
    json[begin..end].fill(b' ');
    Some(holds)
}

/// What is wrong with a file whose checksum does not hold.
pub(crate) const BROKEN: &str = "its bytes do not match its checksum: it was damaged or edited after it was written";

/// Says, once in a process, that a stored file has no checksum.
pub(crate) fn note_missing(path: &Path) {
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        let path = path.display();
        crate::say(format!("{path} has no checksum, as files of earlier versions: damage to it would not be noticed"));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed_and_files_without_a_checksum_are_known() {
        let mut file = format!("{{\n  \"checksum\": \"{}\",\n  \"value\": 12\n}}\n", blank()).into_bytes();
        let rest = file.split_off(100);
        fill(&mut file, [&rest[..7], &rest[7..]].into_iter());
        file.extend(rest);
        assert_eq!(holds(&file), Some(true));
        for byte in 0..file.len() {
            let mut flipped = file.clone();
            flipped[byte] ^= 0x40;
            // In the key, the file has a checksum no more; readers know no such key.
            assert_ne!(holds(&flipped), Some(true), "byte {byte}");
        }
        let taken = &mut file[..];
        assert_eq!(take(taken), Some(true));
        let value: serde_json::Value = serde_json::from_slice(taken).unwrap();
        assert_eq!(value, serde_json::json!({ "value": 12 }));
        assert_eq!(holds(b"{\"checksum\": 12}"), None);
        assert_eq!(holds(b"{\"checksum\": \"sha256:12"), None);
        assert_eq!(holds(b""), None);
        // Known from outside: printf '{"checksum":"sha256:%064d"}' 0 | sha256sum
        let mut small = format!("{{\"checksum\":\"{}\"}}", blank()).into_bytes();
        fill(&mut small, std::iter::empty());
        assert!(
            String::from_utf8(small)
                .unwrap()
                .contains("87c50a5c5bc4f9292c6b89b754e56635235309b7cf11ebe1650a0d9fb3f8c2dc")
        );
    }
}
