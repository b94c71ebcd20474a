//! Images made of others: golden values of numpy and Pillow, and what must hold of any image.

use std::collections::BTreeMap;

use oodkit::{
    data::{
        ImageSet, Split,
        made::{
            Distribution, arithmetic_mean, geometric_mean, inversion, jigsaw, pixelation, rgb_shift, speckle_noise,
            uniform_noise,
        },
    },
    rng,
};
use rand::Rng as _;

#[derive(serde::Deserialize)]
struct Golden {
    shape: [usize; 3],
    #[serde(flatten)]
    images: BTreeMap<String, String>,
}

impl Golden {
    fn image(&self, name: &str) -> Vec<u8> {
        let bytes = self.images[name].as_bytes().chunks_exact(2);
        bytes.map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 16).unwrap()).collect()
    }
}

/// `count` random images.
fn images(count: usize, [channels, height, width]: [usize; 3]) -> ImageSet {
    let mut pixels = vec![0; count * channels * height * width];
    rng::stream(7, "test", "images").fill(pixels.as_mut_slice());
    ImageSet {
        name: "some".into(),
        split: Split::Test,
        channels,
        height,
        width,
        pixels: pixels.into(),
        labels: Some(vec![1; count]),
        classes: 2,
        full_size: Some(count),
        files: None,
        masks: None,
        note: Some("a note".into()),
    }
}

#[test]
fn they_are_what_numpy_and_pillow_make() {
    let golden: Golden = serde_json::from_str(include_str!("golden/made.json")).unwrap();
    let ([a, b], shape) = (["a", "b"].map(|name| golden.image(name)), golden.shape);
    for (name, made) in [
        ("arithmetic_mean", arithmetic_mean(&a, &b)),
        ("geometric_mean", geometric_mean(&a, &b)),
        ("jigsaw", jigsaw(&a, shape)),
        ("pixelation", pixelation(&a, shape)),
        ("rgb_shift", rgb_shift(&a, shape)),
        ("inversion", inversion(&a, shape)),
    ] {
        assert_eq!(made.len(), a.len(), "{name}");
        assert!(made == golden.image(name), "{name}");
        assert!(made != a, "{name}");
    }
}

#[test]
fn every_size_and_grey_images_have_them() {
    for shape in [[1, 28, 28], [3, 32, 32], [1, 7, 9], [3, 5, 6], [1, 1, 3], [3, 1, 1]] {
        let set = images(4, shape);
        for distribution in Distribution::ALL {
            if shape[0] == 1 && distribution.needs_colour() {
                let error = distribution.of(&set).unwrap_err().to_string();
                assert!(error.contains("rgb_shift needs colour images, and \"some\" is grey"), "{error}");
                continue;
            }
            let made = distribution.of(&set).unwrap();
            assert_eq!((made.shape(), made.len(), made.name.as_str()), (shape, 4, distribution.name()));
            assert_eq!((&made.labels, made.classes, &made.note), (&None, 0, &None));
        }
        let made = Distribution::Jigsaw.of(&set).unwrap();
        for i in 0..4 {
            let [set, made] = [&set, &made].map(|set| set.image(i).unwrap());
            for (old, new) in set.chunks(shape[1] * shape[2]).zip(made.chunks(shape[1] * shape[2])) {
                let [mut old, mut new] = [old.to_vec(), new.to_vec()];
                assert!(old != new || old.len() < 4, "{shape:?}");
                old.sort_unstable();
                new.sort_unstable();
                assert_eq!(old, new, "jigsaw keeps every pixel in its channel, {shape:?}");
            }
        }
    }
    // What is in the middle of odd sides stays.
    let numbered: Vec<u8> = (0..25).collect();
    let expected = [5, 6, 2, 15, 16, 0, 1, 7, 20, 21, 10, 11, 12, 13, 14, 18, 19, 17, 4, 3, 23, 24, 22, 9, 8];
    assert_eq!(jigsaw(&numbered, [1, 5, 5]), expected);
    // A grey image's one channel is inverted.
    assert_eq!(inversion(&[0, 100, 255], [1, 1, 3]), [255, 155, 0]);
    assert_eq!(arithmetic_mean(&[0, 1, 255, 254], &[0, 2, 255, 255]), [0, 2, 255, 255]);
    assert_eq!(geometric_mean(&[0, 255, 4, 255], &[255, 255, 9, 1]), [0, 255, 6, 16]);
}

#[test]
fn an_image_is_drawn_by_its_set_and_place_alone() {
    let set = images(6, [3, 8, 8]);
    for distribution in Distribution::ALL {
        let made = distribution.of(&set).unwrap();
        assert_eq!(distribution.of(&set).unwrap(), made);
        let other = distribution.of(&ImageSet { name: "other".into(), ..set.clone() }).unwrap();
        let random = [
            Distribution::UniformNoise,
            Distribution::ArithmeticMean,
            Distribution::GeometricMean,
            Distribution::SpeckleNoise,
        ];
        assert_eq!(made != other, random.contains(&distribution), "{distribution}");
        let name = serde_json::to_value(distribution).unwrap();
        assert_eq!(name, distribution.name());
    }
    // The mean is never of an image and itself.
    for count in [2, 3, 50] {
        let set = images(count, [1, 6, 6]);
        for distribution in [Distribution::ArithmeticMean, Distribution::GeometricMean] {
            assert_eq!(distribution.of(&set).unwrap().among(&set.distinct().unwrap()).unwrap(), 0);
        }
    }
    let alone = Distribution::GeometricMean.of(&images(1, [1, 6, 6])).unwrap_err().to_string();
    assert!(alone.contains("geometric_mean needs two images, and \"some\" has one"), "{alone}");
}

#[test]
fn noise_has_its_distribution() {
    let count = 60_000;
    let near = |share: f64, expected: f64| assert!((share - expected).abs() < 0.006, "{share} {expected}");
    let share = |bytes: &[u8], of: fn(u8) -> bool| bytes.iter().filter(|&&byte| of(byte)).count() as f64 / count as f64;
    let uniform = uniform_noise(count, &mut rng::stream(0, "test", "uniform"));
    near(share(&uniform, |byte| byte < 64), 0.25);
    near(share(&uniform, |byte| byte >= 192), 0.25);
    assert!((0..=255).all(|byte| uniform.contains(&byte)));

    // 60 + 60 n: black below n = −1, white from n = 3.242 on.
    let speckled = speckle_noise(&vec![60; count], &mut rng::stream(0, "test", "speckle"));
    near(share(&speckled, |byte| byte == 0), 0.1607);
    near(share(&speckled, |byte| byte < 60), 0.4967);
    near(share(&speckled, |byte| byte < 120), 0.8393);
    near(share(&speckled, |byte| byte == 255), 0.0006);
    assert_eq!(speckle_noise(&[0; 9], &mut rng::stream(0, "test", "speckle")), [0; 9]);
}
