//! What README and the guide say is tried: their YAML is planned, their commands are parsed, their links lead somewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;

/// A page, by its path in the repository, and its text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_dir(root.join("docs/guide")).unwrap().map(|entry| entry.unwrap().path());
    let others = ["README.md", "data/README.md", "docs/results/README.md"].map(|name| root.join(name));
    let mut paths: Vec<PathBuf> = guide.chain(others).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn oodkit(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.current_dir(folder).env("NO_COLOR", "1").env("OODKIT_RUNS", folder.join("runs"));
    command
}

/// The fenced blocks of a language.
fn fenced(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The commands in indented and `sh` blocks: without the prompt's continuation and the comment.
fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines =
        joined.lines().map(str::trim).filter(|line| line.starts_with("make ") || line.contains("release/oodkit "));
    // A sentence that begins with a word of ours is no command.
    let indented = lines.filter(|line| text.contains(&format!("    {}", line.split("  ").next().unwrap())));
    indented.map(|line| line.split(" # ").next().unwrap().trim().to_owned()).collect()
}

/// The experiment that a fragment is put into: keys of the fragment take the place of these.
const BASE: [(&str, &str); 6] = [
    ("title", "title: A fragment of the guide\n"),
    ("data", "data: { id: { name: fashion_mnist_small, size: 32 }, ood: [digits, textures_small] }\n"),
    (
        "networks",
        "networks:\n  base: { backbone: lenet, train: !include ../configs/train/lenet.yaml }\n  tuned: { from: base, \
         train: !include ../configs/train/lenet_finetune.yaml, loss: { cross_entropy: {}, sparsity: { weight: 0.01 } } }\n",
    ),
    (
        "methods",
        "methods:\n  - { name: EBD, network: base, detector: energy }\n  - { name: Sparsity, network: base, detector: energy }\n  \
         - { name: AFDU, network: base, detector: afdu }\n",
    ),
    ("tables", "tables: [{ name: all, rows: method, columns: [accuracy, auroc] }]\n"),
    ("figures", ""),
];

/// A block of YAML by its top-level keys.
fn by_key(block: &str) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match line.split_once(':').filter(|_| line.starts_with(|first: char| first.is_ascii_lowercase())) {
            Some((key, _)) => parts.push((key.to_owned(), format!("{line}\n"))),
            None => parts.last_mut().unwrap().1.push_str(&format!("{line}\n")),
        }
    }
    parts
}

/// The whole experiment that a block is, or is a part of.
fn experiment(block: &str) -> String {
    let given: BTreeMap<String, String> = by_key(block).into_iter().collect();
    if given.contains_key("title") {
        return block.to_owned();
    }
    let mut parts: BTreeMap<String, String> =
        BASE.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    for (key, text) in given {
        // A recipe or a loss is a network's.
        if ["train", "loss"].contains(&key.as_str()) {
            let inner: String = text.lines().map(|line| format!("    {line}\n")).collect();
            let recipe = if key == "loss" { "    train: !include ../configs/train/lenet.yaml\n" } else { "" };
            let base = format!("networks:\n  base:\n    backbone: lenet\n{recipe}{inner}");
            parts.insert("networks".to_owned(), base);
        } else {
            // A figure of a sweep needs one.
            if key == "figures" && text.contains("- sweep:") {
                parts.insert(
                    "sweep".to_owned(),
                    "sweep: { networks.tuned.loss.sparsity.weight: [0, 0.01] }\n".to_owned(),
                );
                parts.insert(
                    "methods".to_owned(),
                    BASE[3].1.replace("Sparsity, network: base", "Sparsity, network: tuned"),
                );
            }
            parts.insert(key, text);
        }
    }
    parts.into_values().collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}

/// A folder with the repository's experiments and recipes.
fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["experiments", "configs", "data/embedded"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name), &folder.path().join(name));
    }
    folder
}

#[test]
fn every_block_of_yaml_is_planned() {
    let folder = repository();
    let mut planned = 0;
    for (path, text) in pages() {
        for block in fenced(&text, "yaml") {
            let file = folder.path().join("experiments/documented.yaml");
            fs::write(&file, experiment(&block)).unwrap();
            let plan = oodkit(folder.path()).args(["plan", "documented"]).output().unwrap();
            let error = String::from_utf8_lossy(&plan.stderr);
            assert!(plan.status.success(), "{}:\n{block}\n{error}", path.display());
            planned += 1;
        }
    }
    assert!(planned >= 8, "{planned} blocks");
}

/// The words of a command as a shell would part them.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut quote, mut word) = (Vec::new(), None, String::new());
    for letter in command.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            Some(_) => word.push(letter),
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None if letter == ' ' => words.push(std::mem::take(&mut word)),
            None => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_is_one_that_there_is() {
    let folder = repository();
    // `mine` is the reader's own file: the guide's first.
    let first =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/first-experiment.md")).unwrap();
    fs::write(folder.path().join("experiments/mine.yaml"), &fenced(&first, "yaml")[0]).unwrap();
    let makefile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let mut tried = 0;
    for (path, text) in pages() {
        for command in commands(&text) {
            let say = |why: &str| format!("{}: `{command}`: {why}", path.display());
            let words = words(&command);
            if words[0] == "make" {
                let (mut targets, mut given) = (Vec::new(), BTreeMap::new());
                for word in &words[1..] {
                    match word.split_once('=') {
                        Some((key, value)) => drop(given.insert(key, value)),
                        None => targets.push(word.trim_end_matches(['.', ',', ';'])),
                    }
                }
                for target in &targets {
                    assert!(makefile.contains(&format!("\n{target}:")), "{}", say("no such target"));
                }
                let known = ["exp", "set", "sweep", "smoke", "device"];
                assert!(given.keys().all(|key| known.contains(key)), "{}", say("no such variable"));
                // A placeholder, or what is not an experiment.
                let Some(name) = given.get("exp").filter(|name| !name.contains(['…', '/']) && **name != "NAME")
                else {
                    continue;
                };
                let mut plan = oodkit(folder.path());
                plan.args(["plan", name]);
                for key in ["set", "sweep"] {
                    if let Some(value) = given.get(key) {
                        plan.arg(format!("--{key}={value}"));
                    }
                }
                let output = plan.output().unwrap();
                assert!(output.status.success(), "{}", say(&String::from_utf8_lossy(&output.stderr)));
            } else {
                let help = oodkit(folder.path()).args([words[1].as_str(), "--help"]).output().unwrap();
                assert!(help.status.success(), "{}", say("no such command"));
                let help = String::from_utf8_lossy(&help.stdout);
                for flag in words.iter().filter(|word| word.starts_with("--")) {
                    assert!(help.contains(flag.split('=').next().unwrap()), "{}", say("no such flag"));
                }
            }
            tried += 1;
        }
    }
    assert!(tried >= 15, "{tried} commands");
}

#[test]
fn every_link_leads_somewhere() {
    for (path, text) in pages() {
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = target.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                assert!(path.parent().unwrap().join(file).exists(), "{}: {target}", path.display());
            }
        }
    }
}

#[test]
fn the_readme_is_a_screen_and_a_half() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.len() <= 9 << 10, "{} bytes", readme.len());
}

/// Sentences of prose: outside of code and tables.
fn sentences(text: &str) -> Vec<String> {
    let mut prose = String::new();
    for (place, part) in text.split("```").enumerate() {
        if place % 2 == 0 {
            let lines = part.lines().filter(|line| !line.starts_with("    ") && !line.starts_with(['|', '#', '!']));
            // A point of a list is a sentence of its own.
            prose.extend(
                lines.map(|line| if line.is_empty() { ". ".into() } else { line.replacen("- ", ". ", 1) + " " }),
            );
        }
    }
    let ends = [". ", ": ", "; ", "? "];
    let ended = ends.iter().fold(prose, |text, end| text.replace(end, "\n"));
    ended.lines().map(str::to_owned).filter(|sentence| sentence.split_whitespace().count() > 1).collect()
}

#[test]
fn sentences_are_short() {
    for (path, text) in pages() {
        let sentences = sentences(&text);
        let words = |sentence: &String| sentence.split_whitespace().count();
        for sentence in &sentences {
            assert!(words(sentence) <= 32, "{}: {} words: {sentence}", path.display(), words(sentence));
        }
        let mean = sentences.iter().map(words).sum::<usize>() as f64 / sentences.len().max(1) as f64;
        assert!(mean <= 16.0, "{}: {mean:.1} words a sentence", path.display());
    }
}
