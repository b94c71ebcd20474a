//! The order of the house: a module knows only what is below it, and no file is long.

use std::{fs, path::Path};

/// The modules, the lowest first.
const ROOMS: [&str; 22] = [
    "error",
    "fs",
    "digest",
    "checksum",
    "tensor_file",
    "pickle",
    "rng",
    "yaml",
    "watch",
    "ops",
    "linalg",
    "data",
    "nn",
    "losses",
    "models",
    "train",
    "detectors",
    "metrics",
    "config",
    "run",
    "report",
    "cli",
];

/// Lines of a file, at most.
const LONGEST: usize = 600;

/// The files below a folder that hold code: their paths and texts.
fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                vec![(path.to_str().unwrap().replace('\\', "/"), fs::read_to_string(&path).unwrap())]
            }
            false => Vec::new(),
        })
        .collect();
    found.sort();
    found
}

/// A file without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names after every `crate::`, of a group's members as well.
fn named(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let (mut depth, mut member) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    names.push(word(&group[member..at]));
                    member = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Where a name of the crate lives: those that it shows at its top are of two rooms.
fn room(name: &str) -> &str {
    match name {
        "Error" | "Result" | "did_you_mean" | "for_terminal" | "printable" | "say" => "error",
        "write_atomic" => "fs",
        other => other,
    }
}

/// How high a room is.
fn floor(room: &str) -> usize {
    ROOMS.iter().position(|known| *known == room).unwrap_or_else(|| panic!("the room {room} has no place in the order"))
}

#[test]
fn names_are_found_in_groups_and_alone() {
    let text = "use crate::{\n    Error, // why\n    data::{self, made::{A, B}},\n    nn,\n};\nlet x = crate::rng::stream(0);\n// crate::run\n";
    assert_eq!(named(&code(text)), ["Error", "data", "nn", "rng"]);
    assert_eq!(named(&code("use crate::ops;\n#[cfg(test)]\nmod tests {\n    use crate::run;\n}\n")), ["ops"]);
}

#[test]
fn a_room_knows_only_what_is_below_it() {
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for (path, text) in files(Path::new("src")) {
        let own = path.split('/').nth(1).unwrap_or_default().trim_end_matches(".rs");
        if ["lib", "main", "rooms"].contains(&own) || path.ends_with("/tests.rs") {
            continue;
        }
        for name in named(&code(&text)) {
            let other = room(&name);
            arrows += 1;
            if other != own && floor(other) > floor(own) {
                wrong.push(format!("{path} knows {other}"));
            }
        }
    }
    assert!(arrows > 500, "only {arrows} names were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_long() {
    let long = files(Path::new("src")).into_iter().filter(|(_, text)| text.lines().count() > LONGEST);
    let long: Vec<String> = long.map(|(path, _)| path).collect();
    assert!(long.is_empty(), "over {LONGEST} lines: {long:?}");
}
