//! Weight files against PyTorch's own, and what damaged and hostile ones are answered with.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use oodkit::nn::weights::{self, Mismatch, names};
use rand::Rng;
use safetensors::tensor::View;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Types, shapes and bytes, so that nothing is rounded away.
fn exact(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<&str, (DType, Vec<usize>, Vec<u8>)> {
    tensors
        .iter()
        .map(|(name, x)| (name.as_str(), (x.dtype(), x.dims().to_vec(), View::data(x).into_owned())))
        .collect()
}

fn refused(path: &Path) -> String {
    weights::read(path).expect_err("the file must be refused").to_string()
}

/// A `.pth` with one pickle and storages of the given bytes.
fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let entries = storages.iter().map(|(key, bytes)| (format!("archive/data/{key}"), *bytes));
    for (name, bytes) in std::iter::once(("archive/data.pkl".to_owned(), pickle)).chain(entries) {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A safetensors file with this header and no data.
fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

/// The pickle of `{"x": <tensor of f32>}` with whole numbers as PyTorch writes them.
fn tensor_pickle(stored: i64, offset: i64, sizes: &[i64], strides: &[i64]) -> Vec<u8> {
    let number = |value: i64| [&b"\x8a\x08"[..], &value.to_le_bytes()].concat();
    let tuple = |values: &[i64]| {
        let items: Vec<u8> = values.iter().flat_map(|value| number(*value)).collect();
        [&b"("[..], &items, b"t"].concat()
    };
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    [
        &b"\x80\x02}"[..],
        &text("x"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &number(stored),
        b"tQ",
        &number(offset),
        &tuple(sizes),
        &tuple(strides),
        b"\x89}tRs.",
    ]
    .concat()
}

#[test]
fn every_element_type_and_stride_reads_as_pytorch_reads_it() {
    let expected = weights::read(&golden("weights.safetensors")).unwrap();
    assert_eq!(expected.len(), 17);
    let older = ["weights_legacy_plain.pth", "weights_legacy_protocol4.pth"];
    for name in ["weights_plain.pth", "weights_protocol4.pth"].into_iter().chain(older) {
        assert_eq!(exact(&weights::read(&golden(name)).unwrap()), exact(&expected), "{name}");
    }
    let types: std::collections::BTreeSet<_> = expected.values().map(|x| format!("{:?}", x.dtype())).collect();
    assert_eq!(types.into_iter().collect::<Vec<_>>(), ["BF16", "F16", "F32", "F64", "I16", "I32", "I64", "U8"]);
    assert_eq!(expected["scalar"].to_scalar::<i64>().unwrap(), 41);
    // Not only equal to each other: the transposed view, worked out by hand from its definition, arange(24) / 7.
    let transposed = expected["transposed"].to_vec3::<f32>().unwrap();
    assert_eq!(expected["transposed"].dims(), [4, 2, 3]);
    assert_eq!(transposed[1][0], [1.0 / 7.0, 5.0 / 7.0, 9.0 / 7.0]);
}

#[test]
fn a_state_dict_is_found_in_a_checkpoint_and_data_parallel_is_taken_off() {
    let tensors = weights::read(&golden("weights_checkpoint.pth")).unwrap();
    let named = names::ours(tensors, &|_| None, |_| false);
    assert_eq!(named.notes, ["\"module.\" is taken off the names"]);
    let tensors = named.tensors;
    let wanted: BTreeMap<String, Vec<usize>> = [
        ("0.weight", vec![2, 1, 3, 3]),
        ("0.bias", vec![2]),
        ("1.weight", vec![2]),
        ("1.bias", vec![2]),
        ("1.running_mean", vec![2]),
        ("1.running_var", vec![2]),
    ]
    .map(|(name, sizes)| (name.to_owned(), sizes))
    .into();
    assert_eq!(weights::match_names(&wanted, &tensors), Ok(()));
    assert_eq!(tensors["1.num_batches_tracked"].to_scalar::<i64>().unwrap(), 1);
    assert_eq!(tensors["1.bias"].to_vec1::<f32>().unwrap(), [3.5, 3.5]);
}

#[test]
fn files_of_other_kinds_are_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, reason) in [
        (golden("weights_module.pth"), "a whole Python object torch.nn.modules.container.Sequential, not a dictionary"),
        (golden("weights_expanded.pth"), "tensor \"x\": 1000 elements from a storage of 1 (save it with .clone())"),
        (golden("weights_complex.pth"), "tensor \"x\": elements of a type that is not supported (ComplexFloatStorage)"),
        (file("empty.pth", b""), "it is empty"),
        (file("text.pth", b"<!DOCTYPE html>"), "neither safetensors nor a file of PyTorch's"),
        (file("zip.pth", b"PK\x03\x04 and nothing else"), "a broken zip archive: "),
        (file("none.pth", &archive(b"N.", &[])), "no dictionary of tensors"),
        (file("no.pth", &archive(b"}.", &[])), "no tensors"),
        (file("short.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"), "a broken safetensors file: "),
        (
            file(
                "shape.safetensors",
                &safetensors(r#"{"x":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}"#),
            ),
            "a broken safetensors file: ",
        ),
        (
            file(
                "void.safetensors",
                &safetensors(r#"{"x":{"dtype":"F32","shape":[0,1152921504606846976,99],"data_offsets":[0,0]}}"#),
            ),
            "tensor \"x\": impossible sizes [0, 1152921504606846976, 99]",
        ),
    ] {
        let message = refused(&path);
        assert!(message.starts_with(&format!("cannot use the weights {}: {reason}", path.display())), "{message}");
    }
    assert!(refused(&folder.path().join("absent.pth")).starts_with("cannot read "));
}

#[test]
fn sizes_that_a_storage_does_not_have_are_refused_before_memory_is_asked_for() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let huge = 1_i64 << 60;
    for (stored, offset, sizes, strides, reason) in [
        (4, 0, vec![huge], vec![0], "1152921504606846976 elements from a storage of 4"),
        (4, 0, vec![huge, huge], vec![0, 0], "impossible sizes"),
        (4, 0, vec![0, huge, huge], vec![0, 0, 0], "impossible sizes"),
        (4, 0, vec![2], vec![huge], "leave its storage of 4"),
        (4, 3, vec![2], vec![1], "leave its storage of 4"),
        (4, huge, vec![1], vec![1], "leave its storage of 4"),
        (4, -1, vec![1], vec![1], "an impossible offset"),
        (4, 0, vec![-1], vec![1], "impossible sizes"),
        (4, 0, vec![2], vec![1, 1], "impossible strides"),
        (huge, 0, vec![huge], vec![1], "the tensors are far larger together than the file"),
        (5, 0, vec![2], vec![1], "its storage has 16 bytes where 5 elements are promised"),
    ] {
        fs::write(&path, archive(&tensor_pickle(stored, offset, &sizes, &strides), &[("0", &[0; 16])])).unwrap();
        let message = refused(&path);
        assert!(message.contains(reason), "{message}");
    }
    // The same hand-made archive with honest sizes is read.
    let bytes: Vec<u8> = [1_f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(&path, archive(&tensor_pickle(4, 1, &[3], &[1]), &[("0", &bytes)])).unwrap();
    assert_eq!(weights::read(&path).unwrap()["x"].to_vec1::<f32>().unwrap(), [2.0, 3.0, 4.0]);
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    for name in ["weights_plain.pth", "weights_legacy_plain.pth", "weights.safetensors"] {
        let whole = fs::read(golden(name)).unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(weights::read(&path).is_err(), "{name} cut to {length} bytes");
        }
    }
    // The archive's checksums would hide the pickle, so it is damaged first and packed afterwards.
    let mut original = ZipArchive::new(Cursor::new(fs::read(golden("weights_plain.pth")).unwrap())).unwrap();
    let mut pickle = Vec::new();
    let mut storages = Vec::new();
    for index in 0..original.len() {
        let mut entry = original.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if name.ends_with("data.pkl") {
            pickle = bytes;
        } else if let Some((_, key)) = name.split_once("/data/") {
            storages.push((key.to_owned(), bytes));
        }
    }
    let storages: Vec<_> = storages.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice())).collect();
    let mut rng = oodkit::rng::stream(0, "test", "damaged pickles");
    let mut refusals = 0;
    for _ in 0..1500 {
        let mut damaged = pickle.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..damaged.len());
            damaged[at] = rng.random();
        }
        fs::write(&path, archive(&damaged, &storages)).unwrap();
        refusals += usize::from(weights::read(&path).is_err());
    }
    assert!(refusals > 500, "only {refusals} damaged pickles were noticed");
}

/// A dictionary of `count` tensors of one storage; `sizes` and `strides` are pickled once and named by each.
fn shared(count: usize, stored: usize, sizes: &[u8], strides: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let number = |value: usize| [&b"\x8a\x08"[..], &(value as u64).to_le_bytes()].concat();
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &number(stored), b"tQ"]
            .concat();
    let mut bytes = [b"\x80\x02", sizes, b"q\x00", strides, b"q\x01", &storage, b"q\x02}("].concat();
    for index in 0..count {
        bytes.extend(text(&format!("t{index}")));
        bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(h\x02K\x00h\x00h\x01\x89}tR");
    }
    bytes.extend(b"u.");
    bytes
}

#[test]
fn what_a_file_may_ask_for_is_bounded_by_what_it_holds() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let refusal = |pickle: &[u8], storage: &[u8]| {
        fs::write(&path, archive(pickle, &[("0", storage)])).unwrap();
        refused(&path)
    };
    // 3,000 tensors of one element each, all of one shape of 500,000 ones, which each would copy.
    let ones = [&b"("[..], &b"K\x01".repeat(500_000), b"t"].concat();
    let message = refusal(&shared(3000, 1, &ones, &ones), &[0; 4]);
    assert!(message.ends_with("tensor \"t0\": impossible sizes"), "{message}");
    // 3,000 tensors that are the whole of one storage: two of them might be tied weights.
    let (size, stride) = ([b"M".as_slice(), &1000_u16.to_le_bytes(), b"\x85"].concat(), b"K\x01\x85");
    let message = refusal(&shared(3000, 1000, &size, stride), &[0; 4000]);
    assert!(message.ends_with("the tensors are far larger together than the file"), "{message}");
    fs::write(&path, archive(&shared(2, 1000, &size, stride), &[("0", &[0; 4000])])).unwrap();
    assert_eq!(weights::read(&path).unwrap().len(), 2);
    // 5 MiB of one instruction.
    let message = refusal(&[&vec![b'}'; 5 << 20], &b"."[..]].concat(), &[]);
    assert!(message.ends_with("a pickle of more than 4194304 instructions"), "{message}");
    // A safetensors file of little but header.
    let header = safetensors(&format!("{{{}}}", " ".repeat(17 << 20)));
    fs::write(&path, [header, vec![0]].concat()).unwrap();
    let message = refused(&path);
    assert!(message.contains("a safetensors header of 17825794 bytes"), "{message}");
}

#[test]
fn damaged_files_of_the_older_format_say_what_is_wrong() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let whole = fs::read(golden("weights_legacy_plain.pth")).unwrap();
    let at = |needle: &[u8]| whole.windows(needle.len()).position(|window| window == needle).unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let endian = at(b"little_endian");
    let truth = endian + whole[endian..].iter().position(|byte| *byte == 0x88).unwrap();
    for (bytes, reason) in [
        (changed(at(b"M\xe9\x03"), b'K'), "an instruction 0x03 that weights do not need"),
        (changed(at(b"M\xe9\x03") + 1, 0), "a version of PyTorch's older format that is not known"),
        (changed(truth, 0x89), "written on a big-endian machine"),
        (whole[..whole.len() - 1].to_vec(), "the file ends within it"),
        (whole[..200].to_vec(), "the end of the data"),
    ] {
        fs::write(&path, bytes).unwrap();
        let message = refused(&path);
        assert!(message.contains(reason), "{reason}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo.pth");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    for path in [path.as_path(), Path::new("/dev/zero"), folder.path()] {
        let message = refused(path);
        assert!(message.contains("not a regular file"), "{message}");
    }
}

#[test]
fn what_is_written_is_read_back_and_its_bytes_do_not_change() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = weights::read(&golden("weights.safetensors")).unwrap();
    let metadata: BTreeMap<_, _> =
        ["c", "a", "b", "d", "e"].map(|key| (key.to_owned(), format!("value of {key}"))).into();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    weights::write(&first, &tensors, &metadata).unwrap();
    weights::write(&second, &tensors, &metadata).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert_eq!(exact(&weights::read(&first).unwrap()), exact(&tensors));
    let bytes = fs::read(&first).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut written: BTreeMap<_, _> = header.metadata().clone().unwrap().into_iter().collect();
    assert!(written.remove("checksum").unwrap().starts_with("sha256:"));
    assert_eq!(written, metadata);

    // A tensor that is a view is written as what it shows.
    let view = Tensor::arange(0_f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap().t().unwrap();
    let tensors = BTreeMap::from([("view".to_owned(), view)]);
    weights::write(&first, &tensors, &BTreeMap::new()).unwrap();
    let read = weights::read(&first).unwrap();
    assert_eq!(read["view"].to_vec2::<f32>().unwrap(), [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
}

#[test]
fn all_differences_are_named_at_once() {
    let wanted = BTreeMap::from([
        ("conv1.weight".to_owned(), vec![64, 3, 3, 3]),
        ("fc.weight".to_owned(), vec![10, 64]),
        ("fc.bias".to_owned(), vec![10]),
    ]);
    let zeros = |sizes: &[usize]| Tensor::zeros(sizes, DType::F32, &Device::Cpu).unwrap();
    let given = BTreeMap::from([
        ("conv1.weight".to_owned(), zeros(&[64, 3, 7, 7])),
        ("fc.weights".to_owned(), zeros(&[10, 64])),
        ("fc.bias".to_owned(), zeros(&[10])),
        ("bn1.num_batches_tracked".to_owned(), zeros(&[])),
    ]);
    let mismatch = weights::match_names(&wanted, &given).unwrap_err();
    assert_eq!(
        mismatch,
        Mismatch {
            missing: vec!["fc.weight".into()],
            unexpected: vec!["fc.weights".into()],
            wrong_shape: vec![("conv1.weight".into(), vec![64, 3, 3, 3], vec![64, 3, 7, 7])],
        }
    );
    assert_eq!(
        mismatch.in_file(Path::new("net.pth")).to_string(),
        "the weights net.pth do not fit the network: 1 missing: fc.weight (did you mean \"fc.weights\"?); \
         1 unexpected: fc.weights; 1 of another shape: conv1.weight ([64, 3, 7, 7] where [64, 3, 3, 3] is wanted)"
    );
    let many = (0..9).map(|index| (format!("layer{index}"), vec![1])).collect();
    let message = weights::match_names(&many, &BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(message, "9 missing: layer0, layer1, layer2, layer3, layer4 and 4 more");
}
