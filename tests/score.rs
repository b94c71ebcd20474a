//! `oodkit score` and `oodkit detectors`: detectors for networks of any framework, through feature files.

use std::{collections::HashMap, fs, path::Path};

use assert_cmd::Command;
use candle_core::{Device, Tensor};
use oodkit::{
    detectors::{energy::energy, knn::knn, rankfeat::rankfeat},
    metrics::files::read_scores,
    nn::Head,
};

fn oodkit() -> Command {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.env("NO_COLOR", "1");
    command
}

/// A file of the named tensors, as PyTorch's `safetensors.torch.save_file` writes it.
fn write(folder: &Path, name: &str, tensors: &[(&str, Tensor)]) -> String {
    let path = folder.join(name);
    let tensors: HashMap<&str, Tensor> = tensors.iter().cloned().collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path.display().to_string()
}

fn rows(count: usize, columns: usize, step: f64) -> Tensor {
    let values: Vec<f32> = (0..count * columns).map(|index| (index as f64 * step).sin() as f32).collect();
    Tensor::from_vec(values, (count, columns), &Device::Cpu).unwrap()
}

fn scored(arguments: &[&str], out: &Path) -> Vec<f32> {
    oodkit().arg("score").args(arguments).args(["--out", out.to_str().unwrap()]).assert().success();
    read_scores(out).unwrap().into_iter().map(|score| score as f32).collect()
}

#[test]
fn scores_are_those_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scores.npy");
    let (train, test) = (rows(40, 8, 0.37), rows(9, 8, 0.91));
    let logits = rows(9, 3, 1.7);
    let as_f64 = logits.to_dtype(candle_core::DType::F64).unwrap();
    let input = write(folder.path(), "test.safetensors", &[("features", test.clone()), ("logits", as_f64)]);
    let fit = write(folder.path(), "train.safetensors", &[("features", train.clone())]);
    assert_eq!(scored(&["--detector", "energy", "--input", &input], &out), energy(&logits, 1.0).unwrap());
    let knn_of = ["--detector", "knn: {k: 3}", "--fit", &fit, "--input", &input];
    assert_eq!(scored(&knn_of, &out), knn(&train, &test, 3).unwrap());
}

#[test]
fn one_fit_scores_many_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let features =
        |name: &str, count: usize, step: f64| write(folder.path(), name, &[("features", rows(count, 4, step))]);
    let (train, a, b) = (features("train", 60, 0.37), features("a", 7, 0.91), features("b", 3, 0.53));
    let knn = ["--detector", "knn: {k: 3}", "--fit", &train];
    oodkit()
        .arg("score")
        .args(knn)
        .args(["--input", &a, &b, "--out", &path("a.npy"), &path("b.npy")])
        .assert()
        .success();
    for (input, out) in [(&a, "a.npy"), (&b, "b.npy")] {
        let alone = scored(&[&knn[..], &["--input", input]].concat(), Path::new(&path("alone.npy")));
        assert_eq!(
            read_scores(Path::new(&path(out))).unwrap().into_iter().map(|score| score as f32).collect::<Vec<_>>(),
            alone
        );
    }
    let archive = path("archive.pt");
    fs::write(&archive, b"PK\x03\x04 and so on").unwrap();
    let wide = write(folder.path(), "wide", &[("features", rows(3, 5, 0.1))]);
    for (inputs, outs, message) in [
        (vec![&a, &b], vec!["c.npy"], "2 files to score and 1 for their scores"),
        (vec![&a, &b], vec!["c.npy", "c.npy"], "stands twice"),
        // Found before anything is fitted or written.
        (vec![&a, &wide], vec!["c.npy", "d.npy"], "features has 4 columns in"),
        (vec![&a, &archive], vec!["c.npy", "d.npy"], "hint: write it with safetensors.torch.save_file"),
    ] {
        let outs: Vec<String> = outs.into_iter().map(path).collect();
        let assert =
            oodkit().arg("score").args(knn).arg("--input").args(inputs).arg("--out").args(&outs).assert().code(2);
        let told = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(told.contains(message), "{told}");
        assert!(!Path::new(&path("c.npy")).exists());
    }
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let good = write(here, "good.safetensors", &[("features", rows(4, 3, 0.5))]);
    let nan = Tensor::new(&[[1f32, 2.0], [3.0, f32::NAN]], &Device::Cpu).unwrap();
    let labels = |values: &[i64]| Tensor::new(values, &Device::Cpu).unwrap();
    let files = [
        ("nan", write(here, "nan.safetensors", &[("logits", nan)]), "logits holds NaN in row 1"),
        (
            "typo",
            write(here, "typo.safetensors", &[("feature", rows(4, 3, 0.5))]),
            "no use for a tensor \"feature\" (did you mean \"features\"?)",
        ),
        (
            "rows",
            write(here, "rows.safetensors", &[("logits", rows(4, 3, 0.5)), ("features", rows(5, 3, 0.5))]),
            "logits has 4 rows and features has 5",
        ),
        (
            "labels",
            write(here, "labels.safetensors", &[("logits", rows(2, 3, 0.5)), ("labels", labels(&[0, 1, 2]))]),
            "logits has 2 rows and labels has 3: one per image each",
        ),
        (
            "rank",
            write(here, "rank.safetensors", &[("logits", rows(2, 3, 0.5).flatten_all().unwrap())]),
            "logits is [6], and must have 2 axes",
        ),
        (
            "head",
            write(here, "head.safetensors", &[("features", rows(4, 3, 0.5)), ("head.weight", rows(2, 5, 0.5))]),
            "features has 3 columns, which does not fit head.weight, [2, 5]",
        ),
        (
            "member",
            write(here, "member.safetensors", &[("members", rows(4, 3, 0.5).reshape((4, 1, 3)).unwrap())]),
            "members is [4, 1, 3], the logits of one network",
        ),
        ("nothing", write(here, "nothing.safetensors", &[("head.weight", rows(2, 5, 0.5))]), "holds no logits"),
        ("missing", good.clone(), "the detector msp needs logits, not in the file"),
        ("absent", here.join("absent.safetensors").display().to_string(), "cannot be read"),
    ];
    // Labels that the detector learns from.
    let learned = [
        (
            write(here, "label.safetensors", &[("logits", rows(2, 3, 0.5)), ("labels", labels(&[0, 3]))]),
            "the label of image 1 is 3, and logits has 3 columns",
        ),
        (
            write(here, "negative.safetensors", &[("logits", rows(2, 3, 0.5)), ("labels", labels(&[0, -1]))]),
            "the label of image 1 is -1, which is no class",
        ),
        (
            write(here, "class.safetensors", &[("head.weight", rows(2, 5, 0.5)), ("labels", labels(&[0, 2]))]),
            "the label of image 1 is 2, which does not fit head.weight, [2, 5]",
        ),
    ];
    fs::write(here.join("text.safetensors"), "no tensors").unwrap();
    let text = ("text", here.join("text.safetensors").display().to_string(), "a broken safetensors file");
    let out = here.join("scores.npy");
    let refused = |arguments: &[&str], expected: &str| {
        let assert = oodkit().arg("score").args(arguments).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(said.contains(expected) && !said.contains("panicked"), "{arguments:?}: {said}");
        assert!(!out.exists());
    };
    let to = out.to_str().unwrap();
    for (_, input, expected) in files.iter().chain([&text]) {
        refused(&["--detector", "msp", "--input", input, "--out", to], expected);
    }
    for (fit, expected) in &learned {
        let of = ["--detector", "temperature_scaling", "--fit", fit, "--input", &good, "--out", to];
        refused(&of, expected);
    }
    refused(&["--detector", "knn", "--input", &good, "--out", to], "give its file with --fit");
    refused(
        &["--detector", "knn: {k: 0}", "--input", &good, "--out", to],
        "--detector:1:10: knn.k: must be at least 1",
    );
    refused(&["--detector", "afdu: {sigma: .nan}", "--input", &good, "--out", to], "must be a finite number");
    refused(&["--detector", "kn", "--input", &good, "--out", to], "did you mean \"knn\"?");
    refused(&["--detector", "msp", "--input", &good, "--out", "scores.txt"], "written as .npy");
    let wide = write(here, "wide.safetensors", &[("features", rows(60, 4, 0.5))]);
    refused(&["--detector", "knn", "--fit", &wide, "--input", &good, "--out", to], "wide.safetensors and 3 in");
}

/// A safetensors file of (N) labels of this type, written byte by byte: candle has no type for some.
fn write_labels(folder: &Path, dtype: &str, bytes: &[u8], features: &Tensor) -> String {
    let features: Vec<u8> = features
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let images = features.len() / 8;
    let header = serde_json::json!({
        "features": { "dtype": "F32", "shape": [images, 2], "data_offsets": [0, features.len()] },
        "labels": { "dtype": dtype, "shape": [images], "data_offsets": [features.len(), features.len() + bytes.len()] },
    })
    .to_string();
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    let path = folder.join(format!("{dtype}.safetensors"));
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &features, bytes].concat()).unwrap();
    path.display().to_string()
}

#[test]
fn labels_are_of_any_integer_type() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let (features, input) = (rows(100, 2, 0.37), write(here, "test", &[("features", rows(9, 2, 0.9))]));
    let all: Vec<u8> = (0..100).map(|image| image % 4).collect();
    let bytes = |width: usize| -> Vec<u8> {
        all.iter().flat_map(|label| [&[*label][..], &[0; 7]].concat()[..width].to_vec()).collect()
    };
    let ddu = |fit: &str| scored(&["--detector", "ddu", "--fit", fit, "--input", &input], &out);
    let expected = ddu(&write_labels(here, "I64", &bytes(8), &features));
    for (dtype, width) in [("U8", 1), ("I8", 1), ("I16", 2), ("U16", 2), ("I32", 4), ("U32", 4), ("U64", 8)] {
        assert_eq!(ddu(&write_labels(here, dtype, &bytes(width), &features)), expected, "{dtype}");
    }
    let f32s: Vec<u8> = (0..100).flat_map(|image| (image as f32).to_le_bytes()).collect();
    let refused = |dtype: &str, bytes: &[u8], expected: &str| {
        let fit = write_labels(here, dtype, bytes, &features);
        let assert =
            oodkit().args(["score", "--detector", "ddu", "--fit", &fit, "--input", &input, "--out", "n.npy"]).assert();
        let said = String::from_utf8(assert.code(2).get_output().stderr.clone()).unwrap();
        assert!(said.contains(expected), "{dtype}: {said}");
    };
    refused("F32", &f32s, "labels is [100] of F32, and must be one whole number per image");
    refused("U64", &[255; 800], "tensor \"labels\": 18446744073709551615 is larger than 2^63 - 1");
}

#[test]
fn labels_that_nothing_reads_may_be_anything() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let outputs = || [("features", rows(9, 2, 0.9)), ("logits", rows(9, 3, 0.9))];
    let with = |name: &str, value: i64| {
        let labels = Tensor::full(value, 9, &Device::Cpu).unwrap();
        write(here, name, &[&outputs()[..], &[("labels", labels)]].concat())
    };
    let plain = write(here, "plain", &outputs());
    let train = write(
        here,
        "train",
        &[
            ("features", rows(100, 2, 0.37)),
            ("labels", Tensor::from_iter((0..100u32).map(|image| image % 3), &Device::Cpu).unwrap()),
        ],
    );
    // pytorch-ood and OpenOOD mark OOD by −1; another set has classes of its own.
    for (name, value) in [("ood", -1), ("other", 99)] {
        let input = with(name, value);
        for detector in ["msp", "energy"] {
            let of = |input: &str| scored(&["--detector", detector, "--input", input], &out);
            assert_eq!(of(&input), of(&plain), "{name} {detector}");
        }
        for detector in ["ddu", "knn: {k: 3}"] {
            let of = |input: &str| scored(&["--detector", detector, "--fit", &train, "--input", input], &out);
            assert_eq!(of(&input), of(&plain), "{name} {detector}");
        }
        // Of train images, too, where the detector learns without labels.
        assert_eq!(scored(&["--detector", "knn: {k: 3}", "--fit", &input, "--input", &plain], &out).len(), 9);
    }
}

#[test]
fn tensors_without_a_use_are_left_alone_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let told = |input: &str| {
        let arguments = ["score", "--detector", "msp", "--input", input, "--out", out.to_str().unwrap()];
        String::from_utf8(oodkit().args(arguments).assert().success().get_output().stderr.clone()).unwrap()
    };
    let index = Tensor::new(&[7u32, 8, 9, 10], &Device::Cpu).unwrap();
    let extra = [("logits", rows(4, 3, 0.5)), ("logits_of_teacher", rows(4, 3, 0.5)), ("index", index)];
    let said = told(&write(here, "extra", &extra));
    let expected = "extra: no use for the tensors \"index\", \"logits_of_teacher\", which are left alone\n";
    assert_eq!(said.matches(expected).count(), 1, "{said}");
    assert_eq!(read_scores(&out).unwrap().len(), 4);
    assert!(!told(&write(here, "plain", &extra[..1])).contains("no use"));
}

#[test]
fn another_format_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (name, bytes, expected) in [
        ("x.npy", &include_bytes!("golden/npy/f4.npy")[..], "x.npy: an array of NumPy's, and no safetensors file"),
        ("x.npz", b"PK\x03\x04 and so on", "a zip archive, such as torch.save and numpy.savez write"),
        ("x.pt", b"\x80\x02}q\x00.", "a pickle, such as older versions of torch.save write"),
        ("x.h5", b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file"),
        ("x.txt", b"1\n2\n3\n4\n", "a broken safetensors file"),
    ] {
        fs::write(here.join(name), bytes).unwrap();
        let input = here.join(name).display().to_string();
        let assert =
            oodkit().args(["score", "--detector", "msp", "--input", &input, "--out", "n.npy"]).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(said.contains(expected) && said.contains("hint: write it with safetensors.torch.save_file"), "{said}");
    }
    let good = write(here, "good", &[("logits", rows(4, 3, 0.5))]);
    assert_eq!(scored(&["--detector", "msp", "--input", &good], &here.join("SCORES.NPY")).len(), 4);
}

#[test]
fn what_a_detector_cannot_do_with_a_file_is_told_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let labels =
        |classes: u32| ("labels", Tensor::from_iter((0..100).map(|image| image % classes), &Device::Cpu).unwrap());
    let features = |values: Tensor| ("features", values);
    let by = |scales: [f32; 2]| rows(100, 2, 0.37).broadcast_mul(&Tensor::new(&scales, &Device::Cpu).unwrap()).unwrap();
    let input = write(here, "test", &[features(rows(9, 2, 0.9)), ("logits", rows(9, 3, 0.9))]);
    let far = write(here, "far", &[features((rows(9, 2, 0.9) * 1e15).unwrap())]);
    let plain = write(here, "plain", &[features(by([1.0, 1.0])), labels(4), ("taps.b", taps(100, 0))]);
    let constant = write(here, "constant", &[features(by([0.0, 0.0])), labels(4)]);
    let single = write(here, "single", &[features(by([1.0, 1.0])), labels(100)]);
    let dead = write(here, "dead", &[features(by([1.0, 0.0])), labels(4)]);
    let head = write(here, "head", &[("head.weight", rows(4, 7, 0.3)), labels(4)]);
    let mut odd: Vec<f32> = taps(9, 60).flatten_all().unwrap().to_vec1().unwrap();
    let odd = [f32::NAN, f32::NEG_INFINITY].map(|value| {
        odd[2 * 3 + 1] = value;
        write(
            here,
            &format!("odd {value}"),
            &[("taps.b", Tensor::from_vec(odd.clone(), (9, 2), &Device::Cpu).unwrap())],
        )
    });
    for (detector, fit, input, expected) in [
        (
            "knn: {k: 500}",
            &plain,
            &input,
            ["plain: the detector knn: k is 500", "there are 100 train images", "hint: "],
        ),
        ("ash", &head, &input, ["test: logits has 3 columns, which does not fit head.weight, [4, 7] of ", "head", ""]),
        ("ddu", &constant, &input, ["constant: the detector ddu: the covariances", "stay singular", "hint: "]),
        ("ddu", &single, &input, ["single: the detector ddu: no class has two train images", "", "hint: "]),
        ("ddu", &dead, &far, ["far: the detector ddu: the log density of image ", "are nearly singular", "hint: "]),
        (
            "afdu",
            &plain,
            &odd[0],
            ["odd NaN: the detector afdu: a neuron of the layer b is NaN or infinite", "image 3", "hint: "],
        ),
        ("afdu", &plain, &odd[1], ["odd -inf: the detector afdu: a neuron of the layer b", "image 3", "hint: "]),
        ("afdu: {layers: [b, b]}", &plain, &input, ["--detector:1:", "afdu.layers: names the layer \"b\" twice", ""]),
    ] {
        let arguments = ["--detector", detector, "--fit", fit, "--input", input, "--out", "never.npy"];
        let assert = oodkit().arg("score").args(arguments).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(expected.iter().all(|part| said.contains(part)), "{detector}: {said}");
    }
    // NaN among what is learned from is left out and counted.
    let expected = "unusable activations 1";
    let arguments = ["--detector", "afdu", "--fit", &odd[0], "--input", &plain, "--out"];
    let assert = oodkit().arg("score").args(arguments).arg(here.join("scores.npy")).assert().success();
    let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(said.contains(expected), "{said}");
}

/// (N, D) taps that no two images share.
fn taps(images: usize, first: usize) -> Tensor {
    rows(images + first, 2, 0.37).narrow(0, first, images).unwrap().contiguous().unwrap()
}

#[test]
fn layers_go_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let fit = write(here, "train.safetensors", &[("taps.b", taps(50, 0))]);
    let alone = write(here, "alone.safetensors", &[("taps.b", taps(7, 60))]);
    let second = write(here, "second.safetensors", &[("taps.a", rows(7, 5, 2.9)), ("taps.b", taps(7, 60))]);
    let both = write(here, "both.safetensors", &[("taps.a", rows(50, 5, 0.7)), ("taps.b", taps(50, 0))]);
    let of = |detector, fit: &str, input: &str| scored(&["--detector", detector, "--fit", fit, "--input", input], &out);
    let expected = of("afdu: {clusters: 16}", &fit, &alone);
    assert!(expected.iter().any(|score| *score != expected[0]), "{expected:?}");
    assert_eq!(of("afdu: {clusters: 16}", &fit, &second), expected);
    assert_eq!(of("afdu: {clusters: 16, layers: [b]}", &both, &alone), expected);
    fs::remove_file(&out).unwrap();

    let wide = write(here, "wide.safetensors", &[("taps.b", rows(7, 3, 0.5))]);
    let same = write(here, "same.safetensors", &[("taps.b", taps(1, 0))]);
    for (detector, fit, input, expected) in [
        ("afdu", &both, &alone, ["taps.a is in ", "both.safetensors and not in ", "alone.safetensors"]),
        ("afdu", &fit, &wide, ["taps.b is [2] an image in ", "train.safetensors and [3] in ", "wide.safetensors"]),
        ("afdu: {layers: [c]}", &both, &alone, ["both.safetensors: ", "no layer \"c\"", "it has a, b"]),
        ("afdu: {tap: pre}", &fit, &alone, ["tap: pre", "taken as they are", "hint: leave tap out"]),
        ("afdu", &same, &alone, ["same.safetensors: ", "none of 2 neurons varies over its 1 images", "hint"]),
    ] {
        let arguments = ["--detector", detector, "--fit", fit, "--input", input, "--out", out.to_str().unwrap()];
        let assert = oodkit().arg("score").args(arguments).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(expected.iter().all(|part| said.contains(part)), "{detector}: {said}");
        assert!(!out.exists());
    }
}

#[test]
fn a_fit_says_what_it_met_and_takes_any_label() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let labels = Tensor::from_vec([0i64, 0, 0, 0, 7, 7, 7, 7, 9, u32::MAX.into()].to_vec(), 10, &Device::Cpu).unwrap();
    let fit = write(here, "train.safetensors", &[("features", rows(10, 2, 0.37)), ("labels", labels)]);
    let input = write(here, "test.safetensors", &[("features", rows(5, 2, 0.9))]);
    let out = here.join("scores.npy");
    let told = |arguments: &[&str]| {
        let assert = oodkit().arg("score").args(arguments).args(["--out", out.to_str().unwrap()]).assert().success();
        String::from_utf8(assert.get_output().stderr.clone()).unwrap()
    };
    let said = told(&["--detector", "ddu", "--fit", &fit, "--input", &input]);
    assert!(said.contains("fit, what is 0 left out: classes left out 9 4294967295\n"), "{said}");
    assert!(read_scores(&out).unwrap().iter().all(|score| score.is_finite()));
    let fit = write(here, "taps.safetensors", &[("taps.fc", taps(40, 0))]);
    let said = told(&["--detector", "afdu: {clusters: 8}", "--fit", &fit, "--input", &fit]);
    assert!(said.contains("fit, what is 0 left out: neurons 2, ") && said.contains("images 40"), "{said}");
    assert!(!told(&["--detector", "knn: {k: 1}", "--fit", &input, "--input", &input]).contains("fit"));
}

/// Logits, features and head of one network; `logits` makes other logits of its own.
fn network(images: usize, logits: impl Fn(Tensor) -> Tensor) -> Vec<(&'static str, Tensor)> {
    let (features, weight, bias) = (rows(images, 6, 0.91), rows(3, 6, 1.3), rows(1, 3, 0.4).squeeze(0).unwrap());
    let own = features.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
    vec![("features", features), ("logits", logits(own)), ("head.weight", weight), ("head.bias", bias)]
}

#[test]
fn logits_of_other_features_or_another_head_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let file = |name: &str, tensors: &[(&str, Tensor)]| write(here, name, tensors);
    let without = |tensors: Vec<(&'static str, Tensor)>, left: &str| {
        tensors.into_iter().filter(|(name, _)| *name != left).collect::<Vec<_>>()
    };
    let good = file("good", &network(9, |own| own));
    let half = |own: Tensor| own.to_dtype(candle_core::DType::BF16).unwrap();
    let rounded = file("rounded", &network(9, half));
    // What softmax forgets may be anything; a DUQ network's logits are of no linear layer.
    let normalised = file("normalised", &network(9, |own| candle_nn::ops::log_softmax(&own, 1).unwrap()));
    let headless =
        file("headless", &without(without(network(9, |own| (own * 2.0).unwrap()), "head.bias"), "head.weight"));
    let one_row = |own: Tensor| {
        let mut values: Vec<f32> = own.flatten_all().unwrap().to_vec1().unwrap();
        values[3 * 7 + 2] += 0.1;
        Tensor::from_vec(values, (9, 3), &Device::Cpu).unwrap()
    };
    let shifted = file(
        "shifted",
        &network(9, |own| Tensor::cat(&[&own.narrow(0, 1, 8).unwrap(), &own], 0).unwrap().narrow(0, 0, 9).unwrap()),
    );
    let off = file("off", &network(9, one_row));
    let biasless = file("biasless", &without(network(9, |own| own), "head.bias"));
    let nan = file("nan", &{
        let mut tensors = network(9, |own| own);
        tensors[0].1 = (&tensors[0].1 * 1e38).unwrap();
        tensors[2].1 = (&tensors[2].1 * 1e38).unwrap();
        tensors
    });
    for (detector, input) in [
        ("ash", &good),
        ("ash", &rounded),
        ("gradnorm", &rounded),
        ("ash", &normalised),
        // They read one of the three, or there is no head to compare with.
        ("msp", &shifted),
        ("energy", &biasless),
        ("gradnorm", &headless),
    ] {
        assert_eq!(scored(&["--detector", detector, "--input", input], &out).len(), 9, "{detector} {input}");
    }
    let knn = ["--detector", "knn: {k: 2}", "--fit", &good, "--input"];
    assert_eq!(scored(&[&knn[..], &[&off]].concat(), &out).len(), 9);
    fs::remove_file(&out).unwrap();

    let refused = |arguments: &[&str], parts: &[&str]| {
        let assert = oodkit().arg("score").args(arguments).args(["--out", out.to_str().unwrap()]).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(parts.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
        assert!(!out.exists());
    };
    let one = "off: logits are not what head.weight and head.bias make of features in 1 of 9 images: furthest off is logit 2 of \
               image 7, which is ";
    refused(&["--detector", "ash", "--input", &off], &[one, "and should be ", "hint: take all three from one network"]);
    refused(&["--detector", "gradnorm", "--input", &normalised], &["of 9 images: furthest off"]);
    refused(&["--detector", "ash", "--input", &shifted], &["of 9 images: furthest off"]);
    refused(&["--detector", "ash", "--input", &biasless], &["in 9 of 9 images"]);
    refused(&["--detector", "ash", "--input", &nan], &["nan: ", " of 9 images"]);
    // The train images' too, and by a head that another file brings.
    refused(&["--detector", "react", "--fit", &off, "--input", &good], &[one]);
    let head_only = file("train", &without(network(9, |own| own), "logits"));
    refused(
        &["--detector", "ash", "--fit", &head_only, "--input", &headless],
        &["headless: logits", "in 9 of 9 images"],
    );
    // Of a head that only a later file brings, nothing is scored before.
    let both = ["--detector", "nnguide: {k: 2}", "--fit", &headless, "--input", &headless, &good];
    let arguments = [&both[..], &["--out", "never.npy"]].concat();
    refused(&arguments, &["headless: logits", "in 9 of 9 images"]);

    let mut other = network(9, |own| own);
    other[2].1 = rows(3, 6, 1.31);
    let other = file("other", &without(other, "logits"));
    refused(
        &["--detector", "knn: {k: 2}", "--fit", &good, "--input", &other],
        &["other: head.weight holds ", "in that of ", "good", "hint: all files must be of one network"],
    );
    refused(
        &["--detector", "knn: {k: 2}", "--fit", &good, "--input", &biasless],
        &["biasless: head.bias holds 0 where"],
    );
}

#[test]
fn duq_takes_logarithms_of_kernels_only() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let file = |name, values: [f32; 4]| {
        write(here, name, &[("logits", Tensor::new(&values, &Device::Cpu).unwrap().reshape((2, 2)).unwrap())])
    };
    let kernels = file("kernels.safetensors", [-0.5, -2.0, 5e-7, -3.0]);
    assert_eq!(scored(&["--detector", "duq", "--input", &kernels], &out), [0.5, -5e-7]);
    let logits = file("logits.safetensors", [-0.5, -2.0, -1.0, 5.0]);
    let assert = oodkit().args(["score", "--detector", "duq", "--input", &logits, "--out", "never.npy"]).assert();
    let said = String::from_utf8(assert.code(2).get_output().stderr.clone()).unwrap();
    assert!(said.contains("duq reads ln K of a DUQ head's kernels, at most 0, and image 1 has 5"), "{said}");
}

#[test]
fn rankfeat_and_gram_read_exported_taps() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let out = here.join("scores.npy");
    let head = Head { weight: rows(3, 8, 1.3), bias: Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap() };
    let file = |name: &str, images: usize, step: f64| {
        let maps = rows(images, 8 * 4, step).abs().unwrap().reshape((images, 8, 2, 2)).unwrap();
        let features = maps.flatten_from(2).unwrap().mean(2).unwrap();
        let logits = features.matmul(&head.weight.t().unwrap()).unwrap();
        let tensors = [
            ("features", features),
            ("logits", logits),
            ("head.weight", head.weight.clone()),
            ("taps.layer1", rows(images, 2 * 9, step).reshape((images, 2, 3, 3)).unwrap()),
            ("taps.layer2", maps.clone()),
        ];
        (write(here, name, &tensors), maps)
    };
    let ((train, _), (test, maps)) = (file("train", 50, 0.37), file("test", 9, 0.91));
    assert_eq!(scored(&["--detector", "rankfeat", "--input", &test], &out), rankfeat(&maps, &head).unwrap());
    let gram = scored(&["--detector", "gram", "--fit", &train, "--input", &test], &out);
    assert!(gram.len() == 9 && gram.iter().any(|score| *score != gram[0]), "{gram:?}");
}

#[test]
fn maps_lie_beside_the_scores_of_files_that_know_the_images_size() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let file = |name: &str, images: usize, step: f64, size: Option<&str>| {
        let taps = rows(images, 3 * 20, step).reshape((images, 3, 4, 5)).unwrap();
        let path = write(here, name, &[("taps.layer1", taps), ("taps.flat", rows(images, 7, step))]);
        if let Some(size) = size {
            let bytes = fs::read(&path).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
            let metadata = Some([("image_size".to_owned(), size.to_owned())].into());
            safetensors::serialize_to_file(tensors, metadata, Path::new(&path)).unwrap();
        }
        path
    };
    let out = here.join("scores.npy");
    let score = |test: &str| {
        let train = file("train.safetensors", 20, 0.37, None);
        let out = out.to_str().unwrap();
        let arguments = ["score", "--detector", "padim", "--fit", &train, "--input", test, "--out", out];
        let output = oodkit().args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = score(&file("test.safetensors", 3, 0.91, Some("16x20")));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("4×5 maps in ") && said.contains("scores.maps.npy"), "{said}");
    assert_eq!(oodkit::metrics::read_scores(&out).unwrap().len(), 3);
    let maps = fs::read(here.join("scores.maps.npy")).unwrap();
    assert!(String::from_utf8_lossy(&maps[..128]).contains("'shape': (3, 4, 5), }"));
    for (size, expected) in [
        (None, "the detector padim: maps are brought to the images' size, and it is not known"),
        (Some("16"), "the metadata image_size is \"16\", and must be rows x columns, as 256x256"),
        (Some("0x5"), "the metadata image_size is \"0x5\""),
        (Some("99999999x5"), "the metadata image_size is \"99999999x5\""),
    ] {
        let (code, said) = score(&file("other.safetensors", 3, 0.91, size));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_file_has_no_network_to_differentiate() {
    let folder = tempfile::tempdir().unwrap();
    let input = write(folder.path(), "test.safetensors", &[("logits", rows(9, 3, 1.7)), ("features", rows(9, 8, 0.9))]);
    for detector in ["odin", "nac", "adascale", "grood", "mahalanobis: {noise: 0.001}", "mahalanobis: {layers: all}"] {
        let arguments = ["score", "--detector", detector, "--input", &input, "--out", "never.npy"];
        let assert = oodkit().args(arguments).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        let named = detector.split(':').next().unwrap();
        assert!(said.contains(&format!("--detector: {named} runs the network again")), "{detector}: {said}");
        assert!(said.contains("hint: an experiment has the network"), "{said}");
    }
    let out = folder.path().join("scores.npy");
    assert_eq!(scored(&["--detector", "odin: {noise: 0}", "--input", &input], &out).len(), 9);
}

#[test]
fn detectors_are_listed_with_what_they_need() {
    let assert = oodkit().arg("detectors").assert().success();
    let said = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let line = said.lines().find(|line| line.trim_start().starts_with("knn")).unwrap();
    assert!(line.contains("features, a train set") && line.contains("Sun et al. 2022"), "{line}");
    let odin = said.lines().find(|line| line.trim_start().starts_with("odin")).unwrap();
    assert!(odin.contains("logits, gradients"), "{odin}");
    let two = said.lines().find(|line| line.trim_start().starts_with("reconstruction_change")).unwrap();
    assert!(two.contains("logits, gradients, a second network "), "{two}");
    assert!(said.contains(" logits (ln K) ") && said.contains(" taps.<layer> (taken as is), a train set "), "{said}");
    let all = oodkit::detectors::DetectorConfig::NAMES;
    assert_eq!(said.lines().count(), all.len());
    let about = |name| oodkit::detectors::DetectorConfig::default_of(name).unwrap().about();
    let columns: Vec<_> = all.iter().zip(said.lines()).map(|(name, line)| line.find(about(name)).unwrap()).collect();
    assert!(columns.iter().all(|column| *column == columns[0]), "{said}");
}

#[test]
fn a_detector_is_shown_with_its_paper_and_settings() {
    let shown = |name: &str| {
        let assert = oodkit().args(["detectors", name]).assert().success();
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    };
    for name in oodkit::detectors::DetectorConfig::NAMES {
        let config = oodkit::detectors::DetectorConfig::default_of(name).unwrap();
        let said = shown(name);
        assert!(said.starts_with(&format!("{name}: {}\n", config.about())), "{said}");
        assert!(said.contains("score") && said.contains("\nneeds     ") && said.contains("Reference code: "), "{said}");
        assert!(!said.contains("//!") && !said.contains("](") && !said.contains("[`"), "{said}");
        let settings = serde_json::to_value(&config).unwrap();
        let settings = settings[name].as_object().unwrap().clone();
        for (key, value) in settings {
            let line = said.lines().find(|line| line.starts_with(&format!("  {key}: "))).unwrap();
            let default = line.rsplit("; default ").next().unwrap();
            let default: serde_json::Value = match line.ends_with("; no default") {
                true => serde_json::Value::Null,
                false => serde_json::from_str(default).unwrap_or_else(|_| default.into()),
            };
            match (default.as_f64(), value.as_f64()) {
                (Some(shown), Some(value)) => assert_eq!(shown, value, "{line}"),
                _ => assert_eq!(default, value, "{line}"),
            }
        }
    }
    let said = shown("mahalanobis");
    assert!(said.contains("needs     features, a train set, labels\n"), "{said}");
    assert!(said.contains("  noise: a number from 0 to 1; default 0\n      ε, in units of pixels"), "{said}");
    assert!(said.contains("  layers: penultimate or all, or a list; default penultimate\n"), "{said}");
    let said = shown("ash");
    assert!(said.contains("  variant: s, b or p; default b\n") && said.contains("      b: They share"), "{said}");
    let said = shown("nac");
    assert!(said.contains("      steepness: a number from 1e-9 to 1000000000; default 100\n          α"), "{said}");
    for (given, near) in [("KNN", "knn"), ("Mahalanobis", "mahalanobis"), ("enrgy", "energy")] {
        let assert = oodkit().args(["detectors", given]).assert().code(2);
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(said.contains(&format!("no detector \"{given}\" (did you mean \"{near}\"?)")), "{said}");
    }
}
