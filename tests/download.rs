//! Downloads end to end, against a small hub of our own on 127.0.0.1 that answers as the real one does: a listing, then a
//! redirect with the file's digest, then ranges of bytes.

#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use oodkit::Error;
use oodkit::data::download::{Hub, download, download_from};
use oodkit::data::{ImageSet, Split, store};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What the server serves, and what it was asked for.
#[derive(Default)]
struct Served {
    /// `ylecun/mnist` → file name → bytes.
    repositories: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Whether digests are those of other bytes.
    wrong_digests: bool,
    /// So many more transfers break off after 100 bytes.
    cuts: usize,
    /// Request lines with their range and authorization.
    log: Vec<String>,
}

struct Server {
    served: Arc<Mutex<Served>>,
    hub: Hub,
    /// The hub's cache and the data root.
    folder: TempDir,
}

impl Server {
    fn start(repository: &str, files: Vec<(&str, Vec<u8>)>) -> Self {
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let served = Served { repositories: [(repository.to_owned(), files)].into(), ..Served::default() };
        let served = Arc::new(Mutex::new(served));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (shared, address) = (Arc::clone(&served), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that hangs up is none of the server's business.
                let _ = answer(stream.unwrap(), &shared, &address);
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub { endpoint, cache: folder.path().join("cache"), token: Some("secret".into()) };
        Self { served, hub, folder }
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn download(&self, name: &str) -> oodkit::Result<()> {
        download_from(&self.hub, &[name.to_owned()], &self.root(), false)
    }

    fn log(&self) -> Vec<String> {
        self.served.lock().unwrap().log.clone()
    }
}

const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

fn answer(mut stream: TcpStream, served: &Mutex<Served>, address: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = headers.get("range").cloned();
    let mut served = served.lock().unwrap();
    let authorization = headers.get("authorization").cloned().unwrap_or_default();
    served.log.push(format!("{path} {} {authorization}", range.as_deref().unwrap_or("-")));

    let found = |prefix: &str, middle: &str| -> Option<(String, String)> {
        let (repository, file) = path.strip_prefix(prefix)?.split_once(middle)?;
        Some((repository.to_owned(), file.to_owned()))
    };
    let bytes = |(repository, file): &(String, String)| served.repositories.get(repository)?.get(file).cloned();
    let mut reply = |head: String, body: &[u8]| {
        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat())
    };
    if let Some((repository, _)) = found("/api/datasets/", "/revision/main")
        && let Some(files) = served.repositories.get(&repository)
    {
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": REVISION, "siblings": siblings }).to_string();
        return reply(format!("200 OK\r\nContent-Length: {}", body.len()), body.as_bytes());
    }
    let place = found("/datasets/", &format!("/resolve/{REVISION}/")).or_else(|| found("/", "/resolve/main/"));
    if let Some(place) = place
        && let Some(bytes) = bytes(&place)
    {
        let digest = if served.wrong_digests { sha256(b"other bytes") } else { sha256(&bytes) };
        let (repository, file) = place;
        let head = format!(
            "302 Found\r\nLocation: {address}/cdn/{repository}:{file}\r\nX-Repo-Commit: {REVISION}\r\n\
             X-Linked-Etag: \"{digest}\"\r\nETag: \"of the redirect\"\r\nContent-Length: 0"
        );
        return reply(head, b"");
    }
    if let Some(bytes) = found("/cdn/", ":").as_ref().and_then(bytes) {
        let range = range.unwrap();
        let (start, end) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap();
        let (start, end) = (start.parse::<usize>().unwrap(), end.parse().unwrap_or(bytes.len() - 1));
        if start >= bytes.len() {
            return reply(format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{}", bytes.len()), b"");
        }
        let mut body = &bytes[start..=end];
        let head = format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{end}/{}\r\nContent-Length: {}",
            bytes.len(),
            body.len()
        );
        if served.cuts > 0 && body.len() > 100 {
            served.cuts -= 1;
            body = &body[..100];
        }
        return reply(head, body);
    }
    reply("404 Not Found\r\nContent-Length: 0".into(), b"")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A Parquet file as the hub has them: a group of an encoded picture, then columns of classes.
fn parquet_file(picture: &str, pictures: &[Vec<u8>], columns: &[(&str, &[i64])]) -> Vec<u8> {
    let classes: String = columns.iter().map(|(name, _)| format!("optional int64 {name};")).collect();
    let schema = format!(
        "message schema {{ optional group {picture} {{ optional binary bytes; optional binary path (UTF8); }} {classes} }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let bytes: Vec<_> = pictures.iter().map(|bytes| ByteArray::from(bytes.clone())).collect();
    let paths: Vec<_> = (0..pictures.len()).map(|index| ByteArray::from(format!("{index}.png").as_str())).collect();
    for values in [bytes, paths] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&vec![2; values.len()]), None).unwrap();
        column.close().unwrap();
    }
    for (_, values) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(values, Some(&vec![1; values.len()]), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    file.into_inner().unwrap()
}

/// Symmetric in no way: the value says the row and the column, and which picture it is.
fn grey(index: u32, row: u32, column: u32) -> u8 {
    (row * 8 + column + 20 * index) as u8
}

fn colour(index: u32, row: u32, column: u32) -> [u8; 3] {
    [(2 * row + index) as u8, (100 + column) as u8, (row * 7 + column * 3) as u8]
}

fn png_grey(index: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    // `image` counts x to the right, y down.
    let picture = GrayImage::from_fn(28, 28, |x, y| Luma([grey(index, y, x)]));
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn png_colour(index: u32, width: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let picture = RgbImage::from_fn(width, 32, |x, y| Rgb(colour(index, y, x)));
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn mnist(pictures: std::ops::Range<u32>) -> Vec<u8> {
    let labels: Vec<_> = pictures.clone().map(|index| i64::from(index % 10)).collect();
    parquet_file("image", &pictures.map(png_grey).collect::<Vec<_>>(), &[("label", &labels)])
}

fn small_mnist() -> Server {
    Server::start(
        "ylecun/mnist",
        vec![
            ("README.md", b"# MNIST".to_vec()),
            ("mnist/test-00000-of-00001.parquet", mnist(7..9)),
            ("mnist/train-00000-of-00002.parquet", mnist(0..3)),
            ("mnist/train-00001-of-00002.parquet", mnist(3..5)),
        ],
    )
}

fn stored(server: &Server, name: &str, split: Split) -> ImageSet {
    store::read(&server.root().join(name), name, split).unwrap().expect("the split is stored")
}

/// The message of an [`Error::Input`], after checking that nothing was stored.
fn refusal(server: &Server, name: &str) -> String {
    let error = server.download(name).unwrap_err();
    for split in [Split::Train, Split::Test] {
        assert!(!store::path(&server.root().join(name), split).exists());
    }
    assert!(matches!(error, Error::Input { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_set_arrives_whole_and_the_right_way_round() {
    let server = small_mnist();
    server.download("mnist").unwrap();
    let train = stored(&server, "mnist", Split::Train);
    assert_eq!((train.len(), train.shape(), train.classes, train.full_size), (5, [1, 28, 28], 10, Some(60_000)));
    assert_eq!(train.labels, Some(vec![0, 1, 2, 3, 4]));
    for index in 0..5 {
        let expected: Vec<u8> = (0..28).flat_map(|row| (0..28).map(move |column| grey(index, row, column))).collect();
        assert_eq!(train.image(index as usize).unwrap(), expected);
    }
    assert_eq!(stored(&server, "mnist", Split::Test).labels, Some(vec![7, 8]));

    // The file says where it came from, and with which digest.
    let bytes = std::fs::read(store::path(&server.root().join("mnist"), Split::Test)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let source = header.metadata().as_ref().unwrap()["source"].clone();
    assert!(source.contains(&format!("/datasets/ylecun/mnist revision {REVISION}, mnist/test-00000")), "{source}");
    assert!(source.ends_with(&format!("sha256:{}", sha256(&mnist(7..9)))), "{source}");

    // Again: nothing is asked for.
    assert!(server.log().iter().any(|line| line.ends_with("Bearer secret")));
    let requests = server.log().len();
    server.download("mnist").unwrap();
    assert_eq!(server.log().len(), requests);

    // One split lost: only that one is made again, from the cache.
    std::fs::remove_file(store::path(&server.root().join("mnist"), Split::Train)).unwrap();
    server.download("mnist").unwrap();
    assert_eq!(stored(&server, "mnist", Split::Train), train);
    assert!(server.log()[requests..].iter().all(|line| !line.contains("bytes=0- ")), "{:?}", server.log());
}

#[test]
fn cifar100_has_its_fine_labels_and_its_colours() {
    let pictures: Vec<_> = (0..2).map(|index| png_colour(index, 32)).collect();
    let file = parquet_file("img", &pictures, &[("fine_label", &[99, 5]), ("coarse_label", &[1, 2])]);
    let files = ["train", "test"].map(|split| (format!("cifar100/{split}-00000-of-00001.parquet"), file.clone()));
    let server =
        Server::start("uoft-cs/cifar100", files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect());
    server.download("cifar100").unwrap();
    let train = stored(&server, "cifar100", Split::Train);
    assert_eq!((train.labels.clone(), train.classes, train.shape()), (Some(vec![99, 5]), 100, [3, 32, 32]));
    for index in 0..2 {
        for channel in 0..3 {
            let plane = &train.image(index).unwrap()[channel * 1024..(channel + 1) * 1024];
            let expected: Vec<u8> =
                (0..32).flat_map(|row| (0..32).map(move |column| colour(index as u32, row, column)[channel])).collect();
            assert_eq!(plane, expected, "picture {index}, channel {channel}");
        }
    }
}

#[test]
fn svhn_is_the_cropped_digits() {
    let digits = parquet_file("image", &[png_colour(0, 32)], &[("label", &[0])]);
    let server = Server::start(
        "ufldl-stanford/svhn",
        vec![
            ("cropped_digits/extra-00000-of-00001.parquet", b"not wanted".to_vec()),
            ("cropped_digits/test-00000-of-00001.parquet", digits.clone()),
            ("cropped_digits/train-00000-of-00001.parquet", digits),
            ("full_numbers/test-00000-of-00001.parquet", b"not wanted".to_vec()),
            ("full_numbers/train-00000-of-00001.parquet", b"not wanted".to_vec()),
        ],
    );
    server.download("svhn").unwrap();
    assert_eq!(stored(&server, "svhn", Split::Test).labels, Some(vec![0]));
}

#[test]
fn a_wrong_digest_is_refused_and_the_file_deleted() {
    let server = small_mnist();
    server.served.lock().unwrap().wrong_digests = true;
    let message = refusal(&server, "mnist");
    assert!(message.contains("mnist/train-00000-of-00002.parquet has SHA-256 "), "{message}");
    assert!(message.ends_with("it was deleted"), "{message}");
    let blobs = server.hub.cache.join("datasets--ylecun--mnist/blobs");
    let left: Vec<_> = std::fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_some_and(|extension| extension == "lock")), "{left:?}");
    server.served.lock().unwrap().wrong_digests = false;
    server.download("mnist").unwrap();
}

#[test]
fn a_broken_transfer_is_continued_in_the_same_and_in_the_next_run() {
    let server = small_mnist();
    // More than one run has patience for.
    server.served.lock().unwrap().cuts = 6;
    let message = refusal(&server, "mnist");
    assert!(message.contains("Too many retries"), "{message}");
    server.download("mnist").unwrap();
    assert_eq!(stored(&server, "mnist", Split::Train).len(), 5);
    let starts: Vec<_> = (server.log().iter())
        .filter(|line| line.contains("/cdn/") && line.contains("train-00000") && !line.contains("bytes=0-0"))
        .filter_map(|line| line.split("bytes=").nth(1)?.split('-').next()?.parse::<usize>().ok())
        .collect();
    assert_eq!(starts, [0, 100, 200, 300, 400, 500, 600]);
}

#[test]
fn what_a_killed_run_left_does_not_stand_in_the_way() {
    let file = mnist(0..3);
    // Killed before renaming; overlong; full of something else.
    for part in [file.clone(), vec![7; file.len() + 9], vec![7; file.len()], vec![7; 10]] {
        let server = small_mnist();
        let blobs = server.hub.cache.join("datasets--ylecun--mnist/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{}.part", sha256(&file))), part).unwrap();
        server.download("mnist").unwrap();
        assert_eq!(stored(&server, "mnist", Split::Train).labels, Some(vec![0, 1, 2, 3, 4]));
    }
}

#[test]
fn a_hub_that_has_not_or_is_not_says_what_to_try() {
    let server = Server::start("somebody/else", Vec::new());
    let message = refusal(&server, "mnist");
    assert!(message.contains("/datasets/ylecun/mnist: ") && message.contains("404"), "{message}");

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = Hub { endpoint: format!("http://{nobody}"), ..server.hub.clone() };
    let error = download_from(&hub, &["svhn".to_owned()], &server.root(), false).unwrap_err();
    let Error::Input { message, hint: Some(hint) } = error else { panic!("{error:?}") };
    assert!(
        message.starts_with(&format!("cannot download \"svhn\": the list of files of http://{nobody}")),
        "{message}"
    );
    assert!(hint.contains("HF_ENDPOINT") && hint.contains("data/README.md"), "{hint}");
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused() {
    let good = |labels: &[i64]| parquet_file("image", &[png_grey(0)], &[("label", labels)]);
    // A PNG whose header claims 100,000 × 100,000 pixels; its checksum is not looked at before its size.
    let mut huge = png_grey(0);
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let cut = {
        let whole = good(&[0]);
        whole[..whole.len() - 20].to_vec()
    };
    for (file, reason) in [
        (b"PAR1 and then nothing of use PAR1".to_vec(), "cannot use mnist/train-00000-of-00001.parquet"),
        (Vec::from(*b"x"), "cannot use mnist/train-00000-of-00001.parquet"),
        (cut, "cannot use mnist/train-00000-of-00001.parquet"),
        (good(&[10]), "picture 0 has label 10"),
        (good(&[-1]), "picture 0 has label -1"),
        (parquet_file("image", &[png_grey(0)], &[("class", &[0])]), "no column \"label\" among image.bytes"),
        (parquet_file("image", &[b"no picture".to_vec()], &[("label", &[0])]), "picture 0: "),
        (parquet_file("image", &[huge], &[("label", &[0])]), "picture 0: "),
        (parquet_file("image", &[png_colour(0, 32)], &[("label", &[0])]), "picture 0 is 32×32 where 28×28 is wanted"),
        (parquet_file("image", &[], &[("label", &[])]), "no pictures"),
    ] {
        let server = Server::start("ylecun/mnist", vec![("mnist/train-00000-of-00001.parquet", file)]);
        let message = refusal(&server, "mnist");
        assert!(message.contains(reason), "{message:?} lacks {reason:?}");
    }
    for (names, reason) in [
        (vec!["mnist/train-00001-of-00002.parquet"], "lists a train split that is incomplete or not the only one"),
        (vec!["a/train.parquet", "b/train.parquet"], "lists a train split that is incomplete or not the only one"),
        (vec!["mnist/data.zip"], "lists no Parquet files of the train split"),
    ] {
        let server = Server::start("ylecun/mnist", names.into_iter().map(|name| (name, good(&[0]))).collect());
        let message = refusal(&server, "mnist");
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn the_hubs_variables_are_respected() {
    // Variables belong to a process, so a second one is this test again, told by a variable of its own what to do.
    if let Some(root) = std::env::var_os("OODKIT_TEST_DOWNLOAD_TO") {
        download(&["mnist".to_owned()], Path::new(&root), true).unwrap();
        return;
    }
    let server = small_mnist();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_hubs_variables_are_respected", "--nocapture"])
        .env("OODKIT_TEST_DOWNLOAD_TO", server.root())
        .env("HF_ENDPOINT", format!("{}/", server.hub.endpoint))
        .env("HF_HUB_CACHE", &server.hub.cache)
        .env("HF_TOKEN", "from the environment")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(stored(&server, "mnist", Split::Train).len(), 5);
    assert!(server.hub.cache.join("datasets--ylecun--mnist").is_dir());
    assert!(server.log().iter().any(|line| line.ends_with("Bearer from the environment")));
    // Not a terminal: plain lines.
    assert!(told.contains("mnist/train-00000-of-00002.parquet: ") && told.contains(" to fetch\n"), "{told}");
    assert!(told.contains("mnist: 5 train images in ") && !told.contains('\u{1b}'), "{told}");
}

#[test]
fn weights_of_a_tag_are_kept_below_the_data_root() {
    let bytes = vec![7; 500];
    let server =
        Server::start("timm/small.mine", vec![("model.safetensors", bytes.clone()), ("other.pth", vec![1; 9])]);
    server.download("hub:timm/small.mine").unwrap();
    let path = server.root().join("weights/timm/small.mine/main/model.safetensors");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    // What is there is not asked for again.
    let asked = server.log().len();
    server.download("hub:timm/small.mine").unwrap();
    assert_eq!(server.log().len(), asked);
    server.download("hub:timm/small.mine/other.pth").unwrap();
    assert!(server.root().join("weights/timm/small.mine/main/other.pth").is_file());
    let error = server.download("hub:timm/none").unwrap_err().to_string();
    assert!(error.starts_with("cannot download \"timm/none\": model.safetensors of http://127.0.0.1:"), "{error}");
    let error = server.download("hub:timm/../none").unwrap_err().to_string();
    assert!(error.starts_with("`hub:owner/name`"), "{error}");
}

#[test]
fn weights_that_are_not_what_the_hub_promises_are_not_kept() {
    let server = Server::start("timm/small.mine", vec![("model.safetensors", vec![7; 500])]);
    server.served.lock().unwrap().wrong_digests = true;
    let error = server.download("hub:timm/small.mine").unwrap_err().to_string();
    assert!(error.contains("has SHA-256"), "{error}");
    assert!(!server.root().join("weights").exists());
}
