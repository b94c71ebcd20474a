//! Whether published weights fit a network: others' names, heads left out, and what is said of weights that do not fit.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use oodkit::nn::{
    self, Architecture, Backbone, Pass, Shape,
    params::Params,
    weights::{
        WeightsHead,
        fit::{Fitted, Wanted},
    },
};

const GREY: Shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
const COLOUR: Shape = Shape { channels: 3, height: 64, width: 64, classes: 10 };

fn architecture(backbone: &str) -> Architecture {
    Backbone::by_name(backbone).unwrap().into()
}

fn wanted(architecture: &Architecture, shape: Shape) -> oodkit::Result<Wanted> {
    let of = architecture.clone();
    let build = move |shape, vb: candle_nn::VarBuilder| nn::build(&of, shape, vb).map(|_| ());
    Wanted::of(Arc::new(build), Some(&architecture.backbone), shape)
}

/// The tensors of a network of this shape with the first values of seed 7.
fn trained(backbone: &str, shape: Shape) -> BTreeMap<String, Tensor> {
    let params = Params::new(7, &Device::Cpu);
    nn::build(&architecture(backbone), shape, params.builder()).unwrap();
    params.all().unwrap()
}

fn fit(backbone: &str, shape: Shape, tensors: BTreeMap<String, Tensor>, head: WeightsHead) -> oodkit::Result<Fitted> {
    wanted(&architecture(backbone), shape)?.fit(tensors, head, Path::new("net.pth"))
}

fn refused(shape: Shape, tensors: BTreeMap<String, Tensor>) -> (String, String) {
    match fit("lenet", shape, tensors, WeightsHead::File).unwrap_err() {
        oodkit::Error::Input { message, hint } => (message, hint.unwrap_or_default()),
        other => panic!("{other}"),
    }
}

fn renamed(tensors: &BTreeMap<String, Tensor>, name: impl Fn(&str) -> String) -> BTreeMap<String, Tensor> {
    tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_same(found: &BTreeMap<String, Tensor>, wanted: &BTreeMap<String, Tensor>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, tensor) in wanted {
        assert_eq!(values(&found[name]), values(tensor), "{name}");
    }
}

#[test]
fn prefixes_are_taken_off_with_a_note() {
    let own = trained("lenet", GREY);
    for prefix in ["module.", "model.", "net.", "backbone.", "_orig_mod.", "module.model.", "model.backbone."] {
        let given = renamed(&own, |name| format!("{prefix}{name}"));
        let fitted = fit("lenet", GREY, given, WeightsHead::File).unwrap();
        assert_same(&fitted.tensors, &own);
        let notes: Vec<_> =
            prefix.split_terminator('.').map(|part| format!("\"{part}.\" is taken off the names")).collect();
        assert_eq!(fitted.notes, notes);
    }
    // A trunk beside a head of its own name.
    let given =
        renamed(&own, |name| if name.starts_with("fc3") { name.to_owned() } else { format!("backbone.{name}") });
    assert_same(&fit("lenet", GREY, given, WeightsHead::File).unwrap().tensors, &own);
    assert!(fit("lenet", GREY, own.clone(), WeightsHead::File).unwrap().notes.is_empty());
    // Two tensors would become one.
    let mut both = own.clone();
    both.insert("module.fc3.bias".into(), own["fc3.bias"].clone());
    let (message, _) = refused(GREY, both);
    assert!(message.ends_with("1 unexpected: module.fc3.bias"), "{message}");
}

/// The names of `efficientnet_lite0_pytorch`, in the order in which its modules are made, and their sizes.
const EFFICIENTNET_PYTORCH: &str = include_str!("golden/efficientnet_lite0_names.txt");

#[test]
fn efficientnet_pytorch_calls_every_layer_otherwise() {
    let shape = Shape { classes: 1000, ..COLOUR };
    let given = EFFICIENTNET_PYTORCH.lines().map(|line| {
        let (name, sizes) = line.split_once(' ').unwrap();
        let sizes: Vec<usize> =
            sizes.split('x').filter(|size| !size.is_empty()).map(|size| size.parse().unwrap()).collect();
        (name.to_owned(), Tensor::zeros(sizes, DType::F32, &Device::Cpu).unwrap())
    });
    let given: BTreeMap<_, _> = given.collect();
    assert_eq!(given.len(), 296);
    let fitted = fit("efficientnet_lite0", shape, given, WeightsHead::File).unwrap();
    assert_eq!(fitted.tensors.len(), 296 - 49);
    assert_eq!(fitted.notes.len(), 1, "{:?}", fitted.notes);
    assert!(fitted.notes[0].starts_with("names are changed to ours, such as _"), "{:?}", fitted.notes);
}

#[test]
fn small_resnets_of_others_are_read() {
    let shape = Shape { height: 32, width: 32, ..COLOUR };
    let own = trained("resnet18_32x32", shape);
    let kuangliu = renamed(&own, |name| name.replace("fc.", "linear."));
    let timm = renamed(&own, |name| name.replace(".shortcut.", ".downsample."));
    for given in [kuangliu, timm] {
        let fitted = fit("resnet18_32x32", shape, given, WeightsHead::File).unwrap();
        assert_same(&fitted.tensors, &own);
        assert_eq!(fitted.notes.len(), 1);
    }
}

#[test]
fn a_new_head_leaves_the_files_out() {
    for (backbone, shape, head) in [("lenet", GREY, "fc3."), ("efficientnet_lite0", COLOUR, "classifier.")] {
        let thousand = trained(backbone, Shape { classes: 1000, ..shape });
        let trunk: BTreeMap<_, _> = thousand.clone().into_iter().filter(|(name, _)| !name.starts_with(head)).collect();
        let fitted = fit(backbone, shape, thousand.clone(), WeightsHead::New).unwrap();
        assert_same(&fitted.tensors, &trunk);
        assert_eq!(fitted.notes, ["the head of 1000 classes is left out; a new one for 10 is to be learned"]);
        // As many classes, but other ones.
        let fitted = fit(backbone, Shape { classes: 1000, ..shape }, thousand, WeightsHead::New).unwrap();
        assert_same(&fitted.tensors, &trunk);
        // A file without a head, and one whose head has another name.
        let fitted = fit(backbone, shape, trunk.clone(), WeightsHead::New).unwrap();
        assert_same(&fitted.tensors, &trunk);
        assert_eq!(fitted.notes, ["the file has no head; a new one for 10 classes is to be learned"]);
        let mut other = trunk.clone();
        other.insert("head.weight".into(), Tensor::zeros((5, 7), DType::F32, &Device::Cpu).unwrap());
        let fitted = fit(backbone, shape, other, WeightsHead::New).unwrap();
        assert_same(&fitted.tensors, &trunk);
        assert_eq!(fitted.notes, ["the head of 5 classes is left out; a new one for 10 is to be learned"]);
    }
}

#[test]
fn a_head_of_another_kind_is_new() {
    let mut duq = architecture("lenet");
    duq.head = serde_json::from_str(r#""duq""#).unwrap();
    let own = trained("lenet", GREY);
    let fitted = wanted(&duq, GREY).unwrap().fit(own, WeightsHead::New, Path::new("net.pth")).unwrap();
    assert_eq!(fitted.tensors.keys().filter(|name| name.starts_with("fc3")).count(), 0);
    assert_eq!(fitted.tensors.len(), 8);
}

#[test]
fn the_cause_is_told() {
    let of = |shape| trained("lenet", shape);
    let (message, hint) = refused(GREY, of(Shape { classes: 3, ..GREY }));
    assert_eq!(message, "the weights net.pth do not fit the network: its head has 3 classes where the data have 10");
    assert!(hint.contains("head: new"), "{hint}");
    let (message, hint) = refused(GREY, of(Shape { height: 32, width: 32, ..GREY }));
    assert_eq!(message, "the weights net.pth do not fit the network: it is for images of another size than 28×28");
    assert!(hint.contains("size"), "{hint}");
    let (message, hint) = refused(GREY, of(Shape { channels: 3, ..GREY }));
    assert_eq!(
        message,
        "the weights net.pth do not fit the network: it is for images of 3 channels where the data have 1"
    );
    assert!(hint.contains("`mean`"), "{hint}");
    let (message, _) = refused(GREY, of(Shape { channels: 3, height: 40, width: 40, classes: 2 }));
    assert_eq!(
        message,
        "the weights net.pth do not fit the network: its head has 2 classes where the data have 10; it is for images of 3 \
         channels where the data have 1; it is for images of another size than 28×28"
    );
    let mut headless = of(GREY);
    headless.retain(|name, _| !name.starts_with("fc3"));
    let (message, hint) = refused(GREY, headless);
    assert_eq!(
        message,
        "the weights net.pth do not fit the network: it has no head (fc3.bias, fc3.weight are missing)"
    );
    assert!(hint.contains("head: new"), "{hint}");
    let (message, hint) = refused(GREY, trained("resnet18", COLOUR));
    assert!(message.starts_with("the weights net.pth do not fit the network: 9 missing: conv1.bias"), "{message}");
    assert!(hint.contains("kind"), "{hint}");
}

#[test]
fn values_that_are_no_numbers_are_refused_with_file_and_tensor() {
    for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity"), (f32::NEG_INFINITY, "infinity")] {
        let mut tensors = trained("lenet", GREY);
        let mut bias = values(&tensors["fc2.bias"]);
        bias[5] = value;
        tensors.insert("fc2.bias".into(), Tensor::new(bias, &Device::Cpu).unwrap());
        let (message, _) = refused(GREY, tensors);
        assert_eq!(message, format!("cannot use the weights net.pth: tensor fc2.bias holds {said} (element 5 of 84)"));
    }
    // Beyond what f32 holds.
    let mut tensors = trained("lenet", GREY);
    tensors.insert("fc3.bias".into(), Tensor::new(&[1e300_f64; 10], &Device::Cpu).unwrap());
    let (message, _) = refused(GREY, tensors);
    assert!(message.ends_with("tensor fc3.bias holds infinity (element 0 of 10)"), "{message}");
    // A variance below zero would be NaN behind its root.
    let mut tensors = trained("resnet18", COLOUR);
    tensors.insert("bn1.running_var".into(), Tensor::new(&[-1_f32; 64], &Device::Cpu).unwrap());
    let error = fit("resnet18", COLOUR, tensors, WeightsHead::File).unwrap_err().to_string();
    assert!(error.ends_with("tensor bn1.running_var holds -1, and a variance is not below zero"), "{error}");
}

#[test]
fn classes_are_those_of_the_head() {
    for (backbone, shape) in [("lenet", GREY), ("efficientnet_lite0", COLOUR)] {
        let wanted = wanted(&architecture(backbone), Shape { classes: 2, ..shape }).unwrap();
        let given = renamed(&trained(backbone, Shape { classes: 7, ..shape }), |name| format!("module.{name}"));
        assert_eq!(wanted.classes(&given).unwrap(), Some(7));
        assert_eq!(wanted.classes(&BTreeMap::new()).unwrap(), None);
    }
}

#[test]
fn what_fits_is_all_that_a_network_has() {
    for name in ["lenet", "wrn40_2", "efficientnet_lite0"] {
        let shape = Shape { height: 32, width: 32, ..COLOUR };
        let own = trained(name, shape);
        let fitted = fit(name, shape, own.clone(), WeightsHead::File).unwrap();
        assert_same(&fitted.tensors, &own);
        let params = Params::new(0, &Device::Cpu);
        let network = nn::build(&architecture(name), shape, params.builder()).unwrap();
        params.load(&fitted.tensors, Path::new("net.pth")).unwrap();
        let image = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(network.show(&image, &Pass::eval()).unwrap().logits().unwrap().dims(), [1, 10]);
    }
}
