//! A model on tiles: each tile is seen as an image, and what is shown of positions is put together again.

use candle_core::{DType, Device, Tensor};
use oodkit::{
    models::ModelConfig,
    nn::{Model, Pass, Shape, Shown, params::Params},
};

use crate::{
    TRAIN,
    common::{uniform, values},
};

fn build(yaml: &str, height: usize, width: usize) -> oodkit::Result<Box<dyn Model>> {
    let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
    config.build(Shape { channels: 3, height, width, classes: 1 }, Params::new(0, &Device::Cpu).builder())
}

fn images(height: usize, width: usize) -> Tensor {
    uniform("images", &[2, 3, height, width]).to_dtype(DType::F32).unwrap()
}

const INNER: [&str; 4] = [
    "features: { backbone: resnet20 }",
    "stfpm: { backbone: resnet20, stages: [layer1, layer3] }",
    "fcdd: { backbone: resnet20, stage: layer2 }",
    "efficient_ad: { patches: { channels: 2, outputs: 3 }, padding: true, width: 4 }",
];

fn tiled(inner: &str, overlap: usize) -> String {
    format!("tiled: {{ model: {{ {inner} }}, size: 64, overlap: {overlap} }}")
}

/// All that a model shows of positions, (N, C, h, w).
fn maps(shown: &Shown) -> Vec<Tensor> {
    let stages = shown.stages.iter().map(|(_, maps)| maps.clone());
    let pairs = shown.pairs.iter().flat_map(|(teacher, student)| [teacher.clone(), student.clone()]);
    let map = shown.map.iter().chain(shown.parts.iter().map(|(_, part)| part)).map(|map| map.unsqueeze(1).unwrap());
    stages.chain(pairs).chain(map).chain(shown.embedding.clone()).collect()
}

#[test]
fn one_tile_is_the_image() {
    for inner in INNER {
        let images = images(64, 64);
        let [plain, cut] = [inner.to_owned(), tiled(inner, 32)].map(|yaml| build(&yaml, 64, 64).unwrap());
        let [plain, cut] = [&plain, &cut].map(|model| maps(&model.show(&images, &Pass::eval()).unwrap()));
        assert!(!cut.is_empty() && plain.len() == cut.len(), "{inner}");
        plain.iter().zip(&cut).for_each(|(one, other)| assert_eq!(values(one), values(other), "{inner}"));
    }
}

/// Position by position: of each tile what the model shows of it, weighted where tiles overlap.
#[test]
fn what_tiles_show_lies_where_they_lie() {
    for (inner, overlap) in INNER.iter().flat_map(|inner| [0, 32].map(|overlap| (inner, overlap))) {
        let step = 64 - overlap;
        let (height, width) = (64 + step, 64 + 2 * step);
        let images = images(height, width);
        let plain = build(inner, 64, 64).unwrap();
        let all = build(&tiled(inner, overlap), height, width).unwrap();
        let found = maps(&all.show(&images, &Pass::eval()).unwrap());
        // Row and column of each tile, and what is shown of it.
        let tiles: Vec<(usize, usize, Vec<Tensor>)> = [0, 1]
            .into_iter()
            .flat_map(|row| [0, 1, 2].map(|column| (row, column)))
            .map(|(row, column)| {
                let tile = images.narrow(2, row * step, 64).unwrap().narrow(3, column * step, 64).unwrap();
                (row, column, maps(&plain.show(&tile.contiguous().unwrap(), &Pass::eval()).unwrap()))
            })
            .collect();
        for (at, found) in found.iter().enumerate() {
            let (n, c, rows, columns) = found.dims4().unwrap();
            let (_, _, positions, _) = tiles[0].2[at].dims4().unwrap();
            let (shared, step) = (positions * overlap / 64, positions * step / 64);
            assert_eq!([rows, columns], [positions + step, positions + 2 * step], "{inner} {overlap}");
            let mut expected = vec![0.0; n * c * rows * columns];
            // How much of a tile counts at a place along an axis where it is number `tile` of 0 to `last`.
            let weight = |place: usize, tile: usize, last: usize| {
                let rise = |place: usize| if place < shared { (place as f64 + 0.5) / shared as f64 } else { 1.0 };
                (if tile > 0 { rise(place) } else { 1.0 }) * if tile < last { rise(positions - 1 - place) } else { 1.0 }
            };
            for (row, column, maps) in &tiles {
                for (place, value) in values(&maps[at]).into_iter().enumerate() {
                    let (plane, y, x) =
                        (place / (positions * positions), place / positions % positions, place % positions);
                    let target = (plane * rows + row * step + y) * columns + column * step + x;
                    expected[target] += value * weight(y, *row, 1) * weight(x, *column, 2);
                }
            }
            let scale = expected.iter().fold(0f64, |most, value| most.max(value.abs()));
            for (found, expected) in values(found).iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * scale, "{inner} {overlap}: {found}, not {expected}");
            }
        }
    }
}

#[test]
fn what_is_fixed_of_tiles_is_kept_by_image() {
    let (inner, images) = (INNER[1], images(96, 128));
    let model = build(&tiled(inner, 32), 96, 128).unwrap();
    let fixed = model.fixed(&images).unwrap().unwrap();
    // Two images of 2×3 tiles: the tiles, and two stages of each.
    assert_eq!(fixed.iter().map(|tensor| tensor.dims()[..2].to_vec()).collect::<Vec<_>>(), vec![vec![2, 6]; 3]);
    for pass in [Pass::eval(), Pass::new(TRAIN)] {
        let whole = maps(&model.show(&images, &pass).unwrap());
        // The statistics of the first pass are no part of the second's result.
        let again = maps(&model.show_fixed(&fixed, &pass).unwrap());
        whole.iter().zip(&again).for_each(|(one, other)| assert_eq!(values(one), values(other)));
    }
}

#[test]
fn a_student_on_tiles_has_a_gradient() {
    let yaml = tiled(INNER[1], 32);
    let config: ModelConfig = serde_saphyr::from_str(&yaml).unwrap();
    let params = Params::new(0, &Device::Cpu);
    let model = config.build(Shape { channels: 3, height: 96, width: 96, classes: 1 }, params.builder()).unwrap();
    let shown = model.show(&images(96, 96), &Pass::new(TRAIN)).unwrap();
    let loss = oodkit::losses::distillation(shown.pairs().unwrap(), Default::default()).unwrap();
    let gradients = loss.backward().unwrap();
    for (name, variable) in params.trainable() {
        assert_eq!(gradients.get(&variable).is_some(), name.starts_with("student."), "{name}");
    }
}

#[test]
fn images_that_are_no_whole_number_of_tiles_are_refused() {
    let message = |height, width| build(&tiled(INNER[0], 32), height, width).err().unwrap().to_string();
    assert_eq!(
        message(100, 64),
        "tiled: size: 100×64 pixels are no whole number of tiles of 64 with an overlap of 32: images of 96 or 128 rows and columns are"
    );
    assert!(message(32, 32).contains("images of 64 or 96 rows"));
}
