//! Stored files that are damaged, edited or copied: none of them changes a table silently.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;

const EXPERIMENT: &str = "\
title: Small
data:
  id: { name: fashion_mnist_small, train_limit: 32, test_limit: 32 }
  ood: [{ name: textures_small, test_limit: 32 }, { name: digits, test_limit: 32 }]
networks:
  base:
    backbone: lenet
    train: { epochs: 1, batch_size: 8, max_steps: 2, optimizer: { sgd: { lr: 0.1 } } }
methods: [{ name: MSP, network: base, detector: msp }]
tables: [{ name: t, rows: method, columns: [auroc, fpr95] }]
";

/// A finished run.
struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("small.yaml"), EXPERIMENT).unwrap();
        let run = Self { folder };
        assert_eq!(run.oodkit("run").status.code(), Some(0));
        run
    }

    fn oodkit(&self, verb: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .args([verb, &self.folder.path().join("small.yaml").display().to_string()])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("OODKIT_RUNS", self.folder.path().join("runs"))
            .output()
            .unwrap()
    }

    /// The one file below the runs root whose name starts and ends like this.
    fn file_of(&self, start: &str, end: &str) -> PathBuf {
        let mut found = files(&self.folder.path().join("runs"));
        found.retain(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(start) && name.ends_with(end)
        });
        assert_eq!(found.len(), 1, "{start}…{end}: {found:?}");
        found.remove(0)
    }

    /// What `table` prints.
    fn tables(&self) -> String {
        let output = self.oodkit("table");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A run that mends what is damaged: its words on standard error, and the numbers are what they were.
    fn mends(&self, before: &str) -> String {
        let output = self.oodkit("run");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(self.tables(), before);
        // It is whole again.
        assert!(!String::from_utf8(self.oodkit("run").stderr).unwrap().contains("made again"));
        told
    }

    /// The words of a command that is refused.
    fn refused(&self, verb: &str) -> String {
        let output = self.oodkit(verb);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        told
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Flips a bit of the byte that stands so far before the end.
fn flip(path: &Path, from_end: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_weights_and_records_is_told_and_nothing_is_computed_from_it() {
    let run = Run::new();
    let before = run.tables();
    for (name, verb, told) in [
        ("model.safetensors", "run", "is not the file that was written after training: it was damaged or replaced"),
        ("network.json", "run", "its bytes do not match its checksum: it was damaged or edited after it was written"),
        ("results.json", "table", "its bytes do not match its checksum: it was damaged or edited after it was written"),
    ] {
        let path = run.file_of(name, "");
        let whole = fs::read(&path).unwrap();
        match name.strip_suffix(".json") {
            None => flip(&path, 1001),
            // One number of a record, which stays a number.
            Some(_) => {
                let text = String::from_utf8(whole.clone()).unwrap();
                let edited = text.replacen("\"steps\": 2", "\"steps\": 3", 1);
                assert_ne!(edited, text);
                fs::write(&path, edited).unwrap();
            }
        }
        let refused = run.refused(verb);
        assert!(refused.contains(told) && refused.contains(name) && refused.contains("hint: "), "{refused}");
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(run.tables(), before);
}

#[test]
fn damaged_and_copied_outputs_and_scores_are_made_again_with_a_word() {
    let run = Run::new();
    let before = run.tables();
    let paths = |end: &str| ["digits", "textures_small"].map(|set| run.file_of(set, end));
    let [digits, textures] = paths(".safetensors");
    flip(&digits, 9);
    let damaged = "is made again: its bytes do not match its checksum";
    assert!(run.mends(&before).contains(damaged));
    fs::copy(&textures, &digits).unwrap();
    assert!(run.mends(&before).contains("is made again: it holds the outputs on other images"));

    let [digits, textures] = paths(".npy");
    flip(&digits, 2);
    assert!(run.mends(&before).contains(damaged));
    fs::copy(&textures, &digits).unwrap();
    assert!(run.mends(&before).contains(damaged));
}

#[test]
fn files_of_earlier_versions_are_read_with_a_note() {
    let run = Run::new();
    let before = run.tables();
    for name in ["network.json", "results.json", "record.json"] {
        let path = run.file_of(name, "");
        let text = fs::read_to_string(&path).unwrap();
        let old = text.lines().filter(|line| !line.contains("checksum\"") && !line.contains("model_sha256"));
        fs::write(&path, old.collect::<Vec<_>>().join("\n")).unwrap();
    }
    let note = "has no checksum, as files of earlier versions: damage to it would not be noticed";
    let output = run.oodkit("table");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), before);
    assert_eq!(String::from_utf8(output.stderr).unwrap().matches(note).count(), 1);
    let output = run.oodkit("run");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap().matches(note).count(), 1);
    assert_eq!(run.tables(), before);
}
