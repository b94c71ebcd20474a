//! Models on a frozen backbone: what of them learns, what is computed once, and what is refused.

#[path = "fusion/students.rs"]
mod students;

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor};
use oodkit::{
    Result,
    data::{ImageSet, Normalisation, Split},
    losses::Objective,
    models::ModelConfig,
    nn::{Model, Pass, Shape, params::Params},
    train::{self, Fixed, Job, checkpoint::Checkpoint},
    watch::{
        events::{Event, Observer},
        interrupt::Interrupt,
    },
};

const SIDE: usize = 64;
const IMAGES: usize = 6;
/// Moves only once a normal score exceeds γ: all else in the losses is of differences.
const IDLE: &str = "fusion.score.bias";

fn images() -> ImageSet {
    let pixels: Vec<u8> = (0..IMAGES * 3 * SIDE * SIDE).map(|at| (at * 7919 % 251) as u8).collect();
    ImageSet::unlabelled("noise", Split::Train, [3, SIDE, SIDE], pixels)
}

fn build(model: &str) -> Result<(Params, Box<dyn Model>)> {
    build_model(&format!("fusion: {model}"))
}

fn build_model(model: &str) -> Result<(Params, Box<dyn Model>)> {
    let model: ModelConfig = serde_saphyr::from_str(model).unwrap();
    let params = Params::new(0, &Device::Cpu);
    let shape = Shape { channels: 3, height: SIDE, width: SIDE, classes: 1 };
    let network = model.build(shape, params.builder())?;
    Ok((params, network))
}

/// ResNet-18 on 64×64 pixels has a grid of 8×8. Of scale 8, a cell would be one position, and have no texture to learn from.
fn settings(more: &str) -> String {
    let stl = "stl: { width: 8, levels: 8, cooccurrence_levels: 4, scales: [1, 2, 4] }, sc: { width: 8 }";
    format!("{{ backbone: {{ resnet: {{ depth: 18 }} }}, width: 8, {stl}, {more} }}")
}

/// The same without textures and self-calibrated convolution.
fn direct(more: &str) -> String {
    format!("{{ backbone: {{ resnet: {{ depth: 18 }} }}, width: 8, stl: null, sc: null, {more} }}")
}

/// The same on a small backbone, whose stages have no layer that is not read.
fn small(more: &str) -> String {
    let backbone = "backbone: { resnet_cifar: { depth: 8 } }, stages: [layer1, layer2, layer3]";
    format!("{{ {backbone}, width: 8, stl: null, sc: null, {more} }}")
}

#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Step { loss, .. } = event {
            self.0.push(*loss);
        }
        Ok(())
    }
}

/// Trains on noise, from where the checkpoint left it if there is one, and gives the loss of every step.
fn learn(
    network: &(Params, Box<dyn Model>),
    share: f64,
    steps: usize,
    folder: &tempfile::TempDir,
    fixed: Option<(&Fixed, &str)>,
) -> Result<Vec<f64>> {
    learn_by("optimizer: { sgd: { lr: 0.05, momentum: 0.9 } }", network, (share, steps), folder, fixed)
}

/// The same by an optimiser and what else a recipe says.
fn learn_by(
    recipe: &str,
    network: &(Params, Box<dyn Model>),
    (share, steps): (f64, usize),
    folder: &tempfile::TempDir,
    fixed: Option<(&Fixed, &str)>,
) -> Result<Vec<f64>> {
    let recipe = format!("{recipe}, outliers: {{ make: [cutpaste, confetti], share: {share}, repeat: 2 }}");
    let loss = "{ hypersphere: {}, score_margin: {}, consistency: { patch: 2 } }";
    train_by((loss, "fusion"), &recipe, network, steps, folder, fixed)
}

/// Any model of noise, by its loss; `own` stands before the names of what is beside its trunk.
fn train_by(
    (loss, own): (&str, &str),
    recipe: &str,
    network: &(Params, Box<dyn Model>),
    steps: usize,
    folder: &tempfile::TempDir,
    fixed: Option<(&Fixed, &str)>,
) -> Result<Vec<f64>> {
    train_windows((loss, own), recipe, network, (steps, None), folder, fixed)
}

/// The same of windows of the images.
fn train_windows(
    (loss, own): (&str, &str),
    recipe: &str,
    (params, network): &(Params, Box<dyn Model>),
    (steps, window): (usize, Option<usize>),
    folder: &tempfile::TempDir,
    fixed: Option<(&Fixed, &str)>,
) -> Result<Vec<f64>> {
    let recipe = format!("{{ epochs: 9, max_steps: {steps}, batch_size: 4, {recipe} }}");
    let images = Arc::new(images());
    let checkpoint = folder.path().join("checkpoint.safetensors");
    let job = Job {
        what: "a network",
        model: network.as_ref(),
        params,
        objective: &Objective::new(&serde_saphyr::from_str(loss).unwrap(), &[], 0)?,
        recipe: &serde_saphyr::from_str(&recipe).unwrap(),
        own: Some(own),
        seed: 0,
        data: &images.sha256()?,
        images,
        outliers: None,
        window,
        validation: None,
        normalisation: &Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] },
        fixed,
        device: &Device::Cpu,
        checkpoint: &checkpoint,
    };
    let mut losses = Losses::default();
    train::fit(&job, Checkpoint::read(&checkpoint)?, &mut [&mut losses], &Interrupt::default())?;
    Ok(losses.0)
}

fn bits(params: &Params) -> BTreeMap<String, Vec<u32>> {
    let of = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let all = params.all().unwrap().into_iter();
    all.map(|(name, tensor)| (name, of(tensor).iter().map(|value| value.to_bits()).collect())).collect()
}

#[test]
fn a_frozen_backbone_sees_each_image_once_and_that_changes_no_bit() {
    let [plain, kept] = [(); 2].map(|()| build(&settings("freeze: all")).unwrap());
    let before = bits(&plain.0);
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let fixed = Fixed::default();
    let losses = learn(&plain, 0.5, 9, &folders[0], None).unwrap();
    assert_eq!(learn(&kept, 0.5, 9, &folders[1], Some((&fixed, "noise"))).unwrap(), losses);
    assert!(losses.iter().all(|loss| loss.is_finite()));
    let after = bits(&plain.0);
    assert_eq!(bits(&kept.0), after);
    // Three epochs of 12 images: six were turned, and the others are those of six images.
    let first = fixed.computed();
    assert!(first > 6 && first <= 12, "{first}");
    // Another share has the same images and more of the same pool.
    learn(&build(&direct("freeze: all")).unwrap(), 1.0, 3, &folders[2], Some((&fixed, "noise"))).unwrap();
    assert_eq!(fixed.computed(), first + 6);
    // Of a frozen backbone nothing moved, and all that is beside it did.
    for (name, values) in after.iter().filter(|(name, _)| *name != IDLE) {
        assert_eq!(values == &before[name], !name.starts_with("fusion."), "{name}");
    }
}

/// Sharing would give one network what another's backbone made.
#[test]
fn what_was_computed_with_something_else_is_not_taken() {
    let fixed = Fixed::default();
    let learn = |with: &str| {
        let network = build(&settings("freeze: all")).unwrap();
        learn(&network, 0.0, 3, &tempfile::tempdir().unwrap(), Some((&fixed, with))).unwrap();
        fixed.computed()
    };
    assert_eq!(
        [learn("these weights"), learn("these weights"), learn("those weights"), learn("these weights")],
        [6, 6, 12, 12]
    );
    fixed.clear();
    assert_eq!(learn("these weights"), 18);
}

#[test]
fn what_does_not_fit_is_computed_again() {
    let [few, many] = [(); 2].map(|()| build(&settings("freeze: all")).unwrap());
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let small = Fixed::holding(100_000);
    assert_eq!(
        learn(&few, 0.5, 9, &folders[0], Some((&small, "noise"))).unwrap(),
        learn(&many, 0.5, 9, &folders[1], Some((&Fixed::default(), "noise"))).unwrap()
    );
    assert!(small.computed() > 12, "{}", small.computed());
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bits() {
    for (model, recipe) in [
        (settings("freeze: all"), "optimizer: { sgd: { lr: 0.05, momentum: 0.9 } }"),
        (
            small("freeze: [stem, layer1], batch_norm: frozen"),
            "optimizer: { adamw: { lr: 0.01 } }, trunk_lr: 0.001, schedule: { multi_step: { milestones: [1] } }, warmup_epochs: 1",
        ),
    ] {
        let [whole, parts] = [(); 2].map(|()| build(&model).unwrap());
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let fixed = Fixed::default();
        let learn = |network, steps, folder: &tempfile::TempDir| {
            learn_by(recipe, network, (0.5, steps), folder, Some((&fixed, "noise"))).unwrap()
        };
        let losses = learn(&whole, 5, &folders[0]);
        let mut again = learn(&parts, 2, &folders[1]);
        again.extend(learn(&parts, 5, &folders[1]));
        assert_eq!(again, losses, "{model}");
        assert_eq!(bits(&parts.0), bits(&whole.0), "{model}");
    }
}

/// How far a step of plain gradient descent moved each parameter.
fn moved(model: &str, recipe: &str) -> BTreeMap<String, Vec<f32>> {
    let network = build(model).unwrap();
    let values = || {
        let of = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        network.0.all().unwrap().into_iter().map(|(name, tensor)| (name, of(tensor))).collect::<BTreeMap<_, _>>()
    };
    let before = values();
    learn_by(recipe, &network, (0.5, 1), &tempfile::tempdir().unwrap(), None).unwrap();
    let apart = |(name, after): (String, Vec<f32>)| {
        let moved = after.iter().zip(&before[&name]).map(|(after, before)| after - before).collect();
        (name, moved)
    };
    values().into_iter().map(apart).collect()
}

#[test]
fn a_step_moves_the_trunk_by_its_own_learning_rate() {
    let model = small("freeze: stem");
    let [plain, same, slow, still] = ["", ", trunk_lr: 0.5", ", trunk_lr: 0.125", ", trunk_lr: 0"]
        .map(|more| moved(&model, &format!("optimizer: {{ sgd: {{ lr: 0.5 }} }}{more}")));
    assert_eq!(same, plain);
    let mut compared = 0;
    for (name, plain) in plain.iter().filter(|(name, _)| !name.contains("running")) {
        if name.starts_with("fusion.") {
            assert_eq!([&slow[name], &still[name]], [plain; 2], "{name}");
            continue;
        }
        assert!(still[name].iter().all(|moved| *moved == 0.0), "{name}");
        let [whole, quarter] =
            [plain, &slow[name]].map(|moved| moved.iter().map(|by| f64::from(by.abs())).sum::<f64>());
        if whole > 0.0 {
            // Weights are f32, so that what they moved by is rounded.
            assert!((quarter / whole - 0.25).abs() < 0.01, "{name}: {quarter} of {whole}");
            compared += 1;
        }
    }
    // Two convolutions and their normalisations in each of layer1 to layer3.
    assert_eq!(compared, 3 * 2 * 3);
}

#[test]
fn frozen_statistics_of_the_trunk_stay_while_its_weights_learn() {
    let recipe = "optimizer: { sgd: { lr: 0.5 } }";
    let [frozen, plain] =
        ["frozen", "train"].map(|mode| moved(&small(&format!("freeze: stem, batch_norm: {mode}")), recipe));
    let stays = |moved: &[f32]| moved.iter().all(|by| *by == 0.0);
    let is_of_the_trunk = |name: &str| ["layer1", "layer2", "layer3"].iter().any(|stage| name.starts_with(stage));
    let counted = |statistics: bool| {
        frozen.keys().filter(|name| is_of_the_trunk(name) && name.contains("running") == statistics).count()
    };
    assert!(counted(true) > 0 && counted(false) > 0);
    for (name, moved) in &frozen {
        let statistics = name.contains("running");
        if is_of_the_trunk(name) {
            assert_eq!(stays(moved), statistics, "{name}");
            assert!(!stays(&plain[name]), "{name}");
        } else if statistics {
            assert_eq!(stays(moved), !name.starts_with("fusion."), "{name}");
        }
    }
}

#[test]
fn no_outliers_and_nothing_else_can_both_be_learned() {
    for share in [0.0, 1.0] {
        let network = build(&settings("freeze: all")).unwrap();
        let losses = learn(&network, share, 4, &tempfile::tempdir().unwrap(), None).unwrap();
        assert!(losses.len() == 4 && losses.iter().all(|loss| loss.is_finite()), "share {share}: {losses:?}");
    }
}

#[test]
fn the_backbone_learns_from_where_it_is_not_frozen() {
    let (stem, layer1) = (&["conv1", "bn1"][..], &["conv1", "bn1", "layer1"][..]);
    for (model, frozen) in [
        (settings("freeze: layer1"), layer1),
        (settings("freeze: none"), &[]),
        (small("freeze: [stem, layer1]"), layer1),
        (small("freeze: [stem]"), stem),
        (small("freeze: stem"), stem),
    ] {
        let network = build(&model).unwrap();
        let before = bits(&network.0);
        learn(&network, 0.5, 2, &tempfile::tempdir().unwrap(), Some((&Fixed::default(), "noise"))).unwrap();
        for (name, values) in bits(&network.0).into_iter().filter(|(name, _)| name != IDLE) {
            let part = name.split('.').next().unwrap();
            // What comes after the last stage that is read has nothing to learn from.
            let stays = frozen.contains(&part) || part == "layer4";
            assert_eq!(values == before[&name], stays, "{model}: {name}");
        }
    }
}

#[test]
fn the_folded_network_shows_the_same() {
    for more in [settings("freeze: all"), direct("standardise: false, freeze: none")] {
        let network = build(&more).unwrap();
        learn(&network, 0.5, 2, &tempfile::tempdir().unwrap(), None).unwrap();
        let inputs = Tensor::randn(0f32, 1.0, (2, 3, SIDE, SIDE), &Device::Cpu).unwrap();
        let shown = network.1.show(&inputs, &Pass::eval()).unwrap();
        let folded = network.1.folded().unwrap().show(&inputs, &Pass::eval()).unwrap();
        assert_eq!(shown.embedding().unwrap().dims(), [2, 8, 8, 8]);
        assert_eq!(shown.map().unwrap().dims(), [2, 8, 8]);
        let off = (shown.map().unwrap() - folded.map().unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(off.to_scalar::<f32>().unwrap() < 1e-4, "{more}: {off}");
    }
}

#[test]
fn what_cannot_be_built_is_named() {
    let message = |more: &str| build(&settings(more)).err().unwrap().to_string();
    assert_eq!(
        message("stages: [layer1, layer2, layer33]"),
        "fusion: stages.2: resnet has no stage \"layer33\" (did you mean \"layer3\"?); its stages: layer1, layer2, layer3, layer4"
    );
    assert!(message("stages: [layer2, layer1, layer3]").starts_with("fusion: stages: are two low ones and a high one"));
    assert!(message("freeze: layer5").starts_with("fusion: freeze: resnet has no stage \"layer5\" (did you mean"));
    assert!(
        message("freeze: layer4")
            .starts_with("fusion: freeze: \"layer4\" comes after layer3, the last stage that is read")
    );
    let order = "fusion: freeze: must list the first parts without gaps, from the input on, of [stem, layer1, layer2, layer3, layer4]";
    for list in ["[layer1]", "[stem, layer2]", "[layer1, stem]", "[stem, stem]"] {
        assert_eq!(message(&format!("freeze: {list}")), order, "{list}");
    }
    assert_eq!(message("freeze: []"), "fusion: freeze: names no part: write `freeze: none`");
    assert!(message("freeze: [stem, all]").starts_with("fusion: freeze: resnet has no stage \"all\""));
    let vgg = "{ backbone: vgg19_bn, stages: [block1, block2, block3], stl: null, sc: null, freeze: stem }";
    let message_of_vgg = build(vgg).err().unwrap().to_string();
    assert!(
        message_of_vgg.starts_with("fusion: freeze: vgg19_bn has no layers before its first stage"),
        "{message_of_vgg}"
    );
    assert!(message("grid: layer9").starts_with("fusion: grid: resnet has no stage \"layer9\""));
    let message = build("{ backbone: { resnet: { depth: 18 } }, stl: { scales: [3] } }").err().unwrap().to_string();
    assert!(message.starts_with("3 does not divide the 8×8 grid"), "{message}");
    let message = build("{ backbone: resnet20, sc: null, stl: null }").err().unwrap().to_string();
    assert!(message.contains("no stages of a quarter, an eighth and a sixteenth of 64 rows"), "{message}");
}

/// PaDiM and PatchCore can be asked what the network still knows of normal images.
#[test]
fn what_is_fused_is_shown_as_stages() {
    let (_, network) = build(&settings("freeze: all")).unwrap();
    let images = Tensor::zeros((2, 3, SIDE, SIDE), candle_core::DType::F32, &Device::Cpu).unwrap();
    let shown = network.show(&images, &Pass::eval()).unwrap();
    let dims: Vec<_> = shown.stages.iter().map(|(name, maps)| (&name[..], maps.dims().to_vec())).collect();
    // Textures and what they are of, 8 and 2·8 channels on the grid; the third stage on its own.
    assert_eq!(dims, [("low", vec![2, 24, 8, 8]), ("high", vec![2, 8, 4, 4]), ("embedding", vec![2, 8, 8, 8])]);
}
