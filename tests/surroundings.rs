//! What surrounds the program: standard error that is gone, folders that cannot be written, files that never end.
#![cfg(unix)]

use std::{fs, path::Path, process::Output};

use assert_cmd::Command;

const EXPERIMENT: &str = "\
title: Small
data: { id: { name: fashion_mnist_small, train_limit: 32, test_limit: 32 }, ood: [{ name: textures_small, test_limit: 32 }] }
networks:
  base:
    backbone: lenet
    train: { epochs: 1, batch_size: 8, max_steps: 1, optimizer: { sgd: { lr: 0.1 } } }
methods: [{ name: MSP, network: base, detector: msp }]
tables: [{ name: t, rows: method, columns: [auroc] }]
";

/// The program in a shell that redirects its standard error, on [`EXPERIMENT`] in `folder`.
fn shell(folder: &Path, arguments: &str, redirect: &str) -> Output {
    let line = format!("\"$OODKIT\" {arguments} {redirect}");
    Command::new("sh")
        .args(["-c", &line])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("OODKIT", env!("CARGO_BIN_EXE_oodkit"))
        .env("OODKIT_RUNS", folder.join("runs"))
        .env("EXPERIMENT", folder.join("small.yaml"))
        .timeout(std::time::Duration::from_secs(60))
        .output()
        .unwrap()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("small.yaml"), EXPERIMENT).unwrap();
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_that_nobody_watches_ends_well_and_its_tables_are_printed_where_nothing_can_be_written() {
    for redirect in ["2>&-", "2>/dev/full"] {
        let folder = folder();
        let output = shell(folder.path(), "run \"$EXPERIMENT\"", redirect);
        assert_eq!(output.status.code(), Some(0), "{redirect}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("MSP"), "{redirect}");
    }

    let folder = folder();
    assert!(shell(folder.path(), "run \"$EXPERIMENT\"", "").status.success());
    let experiments = folder.path().join("runs/experiments");
    let out = fs::read_dir(&experiments).unwrap().next().unwrap().unwrap().path();

    // Litter of a killed run is removed; nothing else is.
    fs::write(out.join(".table_t.md.0123456789abcdef.tmp"), "half").unwrap();
    fs::write(out.join("mine.tmp"), "mine").unwrap();
    let printed = shell(folder.path(), "table \"$EXPERIMENT\"", "");
    assert!(printed.status.success());
    assert!(!out.join(".table_t.md.0123456789abcdef.tmp").exists());
    assert!(out.join("mine.tmp").exists());

    // A lock that cannot be taken stands for a folder of another user, which root, who may run this, could write.
    fs::remove_file(out.join("lock")).unwrap();
    fs::create_dir(out.join("lock")).unwrap();
    let output = shell(folder.path(), "table \"$EXPERIMENT\"", "");
    assert_eq!(output.status.code(), Some(0));
    let tables = text(&printed.stdout);
    assert_eq!(text(&output.stdout), tables[..tables.find("\nfiles\n").unwrap()]);
    assert!(text(&output.stderr).starts_with("files were not written: cannot create "), "{}", text(&output.stderr));
}

#[test]
fn an_error_that_nobody_reads_keeps_its_exit_code() {
    let folder = folder();
    for redirect in ["2>&-", "2>/dev/full"] {
        assert_eq!(shell(folder.path(), "plan nothing", redirect).status.code(), Some(2), "{redirect}");
    }
}

#[test]
fn a_small_stack_and_too_many_threads_are_borne() {
    let folder = folder();
    let output = Command::new("sh")
        .args(["-c", "ulimit -s 64; \"$OODKIT\" plan \"$EXPERIMENT\""])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("OODKIT", env!("CARGO_BIN_EXE_oodkit"))
        .env("OODKIT_RUNS", folder.path().join("runs"))
        .env("EXPERIMENT", folder.path().join("small.yaml"))
        .env("RAYON_NUM_THREADS", "5000")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("RAYON_NUM_THREADS=5000: "), "{}", text(&output.stderr));
}

/// One of all detectors that cannot be fitted to so few images is a row that says why.
#[test]
fn all_detectors_on_few_images_are_a_table() {
    let folder = folder();
    let all = EXPERIMENT.replace("{ name: MSP, network: base, detector: msp }", "{ network: base, detector: all }");
    fs::write(folder.path().join("small.yaml"), all).unwrap();
    let output = shell(folder.path(), "run \"$EXPERIMENT\"", "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let tables = text(&output.stdout);
    assert!(tables.contains("msp") && tables.contains("k is 50, and there are 32 train images"), "{tables}");
}

#[test]
fn files_that_never_end_are_refused() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(path("fifo.yaml")).status().unwrap().success());
    for (name, target) in [("s.npy", "/dev/zero"), ("s.csv", "fifo.yaml"), ("f.safetensors", "/dev/zero")] {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
    }
    let at = |name: &str| path(name).display().to_string();
    let score = format!("score --detector msp --input '{}' --out '{}'", at("f.safetensors"), at("out.npy"));
    let metrics = |name: &str| format!("metrics --id '{}' --ood '{}'", at(name), at(name));
    for arguments in [format!("plan '{}'", at("fifo.yaml")), metrics("s.npy"), metrics("s.csv"), score] {
        let output = shell(folder.path(), &arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(text(&output.stderr).contains("is not a regular file"), "{}", text(&output.stderr));
    }
}

#[test]
fn stored_files_that_never_end_are_refused() {
    let folder = folder();
    assert!(shell(folder.path(), "run \"$EXPERIMENT\"", "").status.success());
    let networks = folder.path().join("runs/networks");
    let network = fs::read_dir(networks).unwrap().next().unwrap().unwrap().path().join("seed0");
    let first = |folder: &Path| fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let outputs = first(&first(&network.join("outputs")));
    let record = first(&network.join("scores")).join("record.json");
    for path in [network.join("model.safetensors"), outputs, record, network.join("network.json")] {
        let kept = path.with_extension("kept");
        fs::rename(&path, &kept).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let output = shell(folder.path(), "run \"$EXPERIMENT\"", "");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        let told = text(&output.stderr);
        assert!(told.contains(&format!("{} is not a regular file", path.display())), "{told}");
        fs::rename(&kept, &path).unwrap();
    }

    let set = folder.path().join("set");
    fs::create_dir(&set).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(set.join("test.safetensors")).status().unwrap().success());
    let ood = format!("{{ name: mine, format: folder, path: {} }}", set.display());
    let other = EXPERIMENT.replace("{ name: textures_small, test_limit: 32 }", &ood);
    assert_ne!(other, EXPERIMENT);
    fs::write(folder.path().join("small.yaml"), other).unwrap();
    let output = shell(folder.path(), "run \"$EXPERIMENT\"", "");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("test.safetensors is not a regular file"), "{}", text(&output.stderr));
}

#[test]
fn a_papers_table_is_read_within_reach_only_and_nothing_is_told_of_others() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("experiments/paper")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("experiments/paper/link.csv")).unwrap();
    for file in ["/etc/passwd", "../../../../../../../etc/passwd", "/etc/none", "paper/link.csv"] {
        let expect = format!(
            "expect: {{ file: {file}, source: P, sets: [textures_small], row: method, columns: {{ auroc: AUROC }} }} }}]"
        );
        let text_with = EXPERIMENT.replace("columns: [auroc] }]", &format!("columns: [auroc], {expect}"));
        fs::write(folder.path().join("experiments/small.yaml"), text_with).unwrap();
        let arguments = format!("plan small --experiments '{}'", folder.path().join("experiments").display());
        let output = shell(folder.path(), &arguments, "");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is out of the experiment's reach"), "{said}");
        assert!(!said.contains("root:"), "{said}");
    }
}

#[test]
fn seeds_are_capped_and_foreign_text_steers_no_terminal() {
    let folder = folder();
    let seeds = (0..20_000).map(|seed| seed.to_string()).collect::<Vec<_>>().join(",");
    fs::write(folder.path().join("small.yaml"), EXPERIMENT.to_owned() + &format!("seeds: [{seeds}]\n")).unwrap();
    let said = text(&shell(folder.path(), "plan \"$EXPERIMENT\"", "").stderr);
    assert!(said.contains("20000 seeds; at most 1000 are planned"), "{said}");

    let output = shell(folder.path(), "plan \"$(printf 'a\\033[2Jb')\"", "");
    let said = text(&output.stderr);
    assert!(!said.contains('\u{1b}') && said.contains(r"a\u{1b}[2Jb"), "{said}");
}

#[test]
fn names_that_are_no_text_are_names() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let run = |command: &str, name: &[u8]| {
        let file = folder.path().join(OsStr::from_bytes(name));
        fs::write(&file, EXPERIMENT).unwrap();
        let mut oodkit = Command::cargo_bin("oodkit").unwrap();
        oodkit.current_dir(env!("CARGO_MANIFEST_DIR")).env("OODKIT_RUNS", &runs);
        oodkit.arg(command).arg(file).assert().success();
    };
    run("run", b"caf\xe9.yaml");
    run("table", b"caf\xe9.yaml");
    // Another file, though it is shown as the same name.
    run("run", b"caf\xe8.yaml");
    assert_eq!(fs::read_dir(runs.join("experiments")).unwrap().count(), 2);
}

/// In containers that share a folder, processes have the same ids.
#[test]
fn processes_of_one_id_do_not_disturb_each_other() {
    let folder = folder();
    assert!(shell(folder.path(), "run \"$EXPERIMENT\"", "").status.success());
    let may = std::process::Command::new("unshare").args(["--pid", "--fork", "true"]).status();
    // Where this user may not make one, ids differ, and the folder is still shared.
    let alone = if may.is_ok_and(|status| status.success()) { "unshare --pid --fork" } else { "" };
    let line = format!(
        "fails=0; for round in 1 2 3 4 5 6 7 8; do pids=; for process in 1 2 3; do \
         {alone} \"$OODKIT\" table \"$EXPERIMENT\" >/dev/null & pids=\"$pids $!\"; done; \
         for pid in $pids; do wait $pid || fails=$((fails+1)); done; done; echo $fails"
    );
    let output = Command::new("sh")
        .args(["-c", &line])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("OODKIT", env!("CARGO_BIN_EXE_oodkit"))
        .env("OODKIT_RUNS", folder.path().join("runs"))
        .env("EXPERIMENT", folder.path().join("small.yaml"))
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "0\n", "{}", text(&output.stderr));
    let out = fs::read_dir(folder.path().join("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let litter = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".tmp");
    assert_eq!(fs::read_dir(out).unwrap().filter(|entry| litter(entry.as_ref().unwrap())).count(), 0);
}

/// A second process waits for the first, and then finds everything done.
#[test]
fn two_runs_of_one_experiment_train_its_network_once() {
    let folder = folder();
    let run = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("run")
            .arg(folder.path().join("small.yaml"))
            .env("OODKIT_RUNS", folder.path().join("runs"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let (first, second) = (run(), run());
    let outputs = [first, second].map(|child| child.wait_with_output().unwrap());
    for output in &outputs {
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("MSP"));
    }
    let trained = outputs.iter().filter(|output| text(&output.stderr).contains("epoch 1 done")).count();
    assert_eq!(trained, 1, "{outputs:?}");
}
