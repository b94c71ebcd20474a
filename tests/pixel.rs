//! Measures of maps against masks: scikit-learn's and scipy's numbers, what must not change them, and what is refused.

mod common;

use common::{assert_close, numbers, uniform, values};
use oodkit::metrics::pixel::{PixelMeasures, Pixels, regions};

const SIDE: usize = 64;
const ANOMALOUS: usize = 5;
const NORMAL: usize = 30;

/// Maps and masks, as in pixel.py.
fn images(steps: f32) -> Vec<(Vec<f32>, Vec<bool>)> {
    let image = |i: usize| {
        let mask: Vec<bool> = (0..SIDE * SIDE)
            .map(|at| (at / SIDE / 5 + 3 * (at % SIDE / 7) + i).is_multiple_of(6 + i) && i < ANOMALOUS)
            .collect();
        let noise = values(&uniform(&format!("map {i}"), &[SIDE, SIDE]));
        let score = |(noise, anomalous): (f64, &bool)| {
            let score = noise as f32 + if *anomalous { 1.25 } else { 0.0 };
            if steps > 0.0 { (score * steps).floor() / steps } else { score }
        };
        (noise.into_iter().zip(&mask).map(score).collect(), mask)
    };
    (0..ANOMALOUS + NORMAL).map(image).collect()
}

fn measured(images: &[(Vec<f32>, Vec<bool>)], limit: f64) -> PixelMeasures {
    let mut pixels = Pixels::default();
    for (scores, mask) in images {
        pixels.add(scores, Some(mask), [SIDE, SIDE]).unwrap();
    }
    pixels.measure(limit).unwrap()
}

fn numbers_of(measures: &PixelMeasures) -> [f64; 5] {
    [measures.auroc, measures.ap, measures.best_f1, measures.pro, measures.aupimo.unwrap()]
}

#[test]
fn measures_are_those_of_scikit_learn_and_of_their_definitions() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/pixel.json")).unwrap();
    for case in golden.as_array().unwrap() {
        // Levels a unit of score, which make ties; 0 for none.
        let images = images(case["steps"].as_f64().unwrap() as f32);
        let count = images.iter().map(|(_, mask)| regions(mask, SIDE).1.len()).sum::<usize>();
        assert_eq!(count as u64, case["regions"].as_u64().unwrap());
        assert_close("measures", &numbers_of(&measured(&images, 0.3)), &numbers(&case["expected"]), 1e-10);
        let pro_005 = case["pro_005"].as_f64().unwrap();
        assert_close("PRO to 0.05", &[measured(&images, 0.05).pro], &[pro_005], 1e-10);
    }
}

#[test]
fn order_and_scale_change_nothing_and_the_extremes_are_known() {
    let images = images(8.0);
    let all = |images: &[_]| numbers_of(&measured(images, 0.3));
    let reversed: Vec<_> = images.iter().rev().cloned().collect();
    assert_close("reversed", &all(&reversed), &all(&images), 1e-12);
    let changed = |change: fn(f32) -> f32| -> Vec<_> {
        let map = |(scores, mask): &(Vec<f32>, Vec<bool>)| (scores.iter().map(|s| change(*s)).collect(), mask.clone());
        images.iter().map(map).collect()
    };
    assert_eq!(all(&changed(|score| 3.0 * score.exp())), all(&images));

    let oracle: Vec<_> = images
        .iter()
        .map(|(_, mask)| (mask.iter().map(|anomalous| f32::from(u8::from(*anomalous))).collect(), mask.clone()))
        .collect();
    assert_close("oracle", &all(&oracle), &[1.0; 5], 1e-12);
    // One group of ties: a straight line from nothing to all.
    let flat = measured(&changed(|_| -0.0), 0.3);
    assert!((flat.auroc - 0.5).abs() < 1e-12 && (flat.pro - 0.15).abs() < 1e-12, "{flat:?}");
}

#[test]
fn curves_enclose_the_areas_that_are_measured() {
    let images = images(8.0);
    let mut pixels = Pixels::default();
    images.iter().for_each(|(scores, mask)| pixels.add(scores, Some(mask), [SIDE, SIDE]).unwrap());
    let curves = pixels.curves().unwrap();
    let area = |curve: &[[f64; 2]], end: f64| {
        let part = |pair: &[[f64; 2]]| {
            let [[left, below], [right, above]] = [pair[0], pair[1]];
            let to = right.min(end);
            let height = if right > left { below + (above - below) * (to - left) / (right - left) } else { above };
            (to - left).max(0.0) * (below + height) / 2.0
        };
        curve.windows(2).map(part).sum::<f64>()
    };
    let expected = measured(&images, 0.3);
    assert!((area(&curves.roc, 1.0) - expected.auroc).abs() < 1e-12);
    assert!((area(&curves.pro, 0.3) / 0.3 - expected.pro).abs() < 1e-12);
    assert_eq!(
        [curves.roc.last(), curves.pro.last()].map(|end| end.unwrap().map(|v| (v * 1e9).round())),
        [[1e9; 2]; 2]
    );
    assert_eq!(Pixels::default().curves(), None);
}

#[test]
fn regions_touch_at_corners_and_not_around_edges() {
    let mask = "x..x\n.x..\n...x\nx...";
    let mask: Vec<bool> = mask.chars().filter(|c| *c != '\n').map(|c| c == 'x').collect();
    let (labels, areas) = regions(&mask, 4);
    assert_eq!(areas, [2, 1, 1, 1]);
    assert_eq!(labels, [1, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0]);
    assert_eq!(regions(&[], 0), (vec![], vec![]));
    assert_eq!(regions(&[true; 6], 3).1, [6]);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let mut pixels = Pixels::default();
    let mut refused = |scores: &[f32], mask: Option<&[bool]>| pixels.add(scores, mask, [2, 2]).unwrap_err().to_string();
    assert_eq!(refused(&[0.0; 3], None), "a map of 3 pixels for an image of 2×2");
    assert_eq!(refused(&[0.0; 4], Some(&[true])), "a mask of 1 pixels for an image of 2×2");
    assert_eq!(refused(&[0.0, 1.0, f32::NAN, 2.0], None), "score NaN of row 1, column 0 is not finite");
    assert_eq!(pixels.clone().measure(0.3), None);
    pixels.add(&[0.0; 4], Some(&[false; 4]), [2, 2]).unwrap();
    assert_eq!(pixels.clone().measure(0.3), None, "no anomalous pixel");
    pixels.add(&[0.0, 1.0, 2.0, 3.0], Some(&[false, false, false, true]), [2, 2]).unwrap();
    let measured = pixels.measure(0.3).unwrap();
    assert_eq!((measured.auroc, measured.ap, measured.best_f1, measured.pro), (1.0, 1.0, 1.0, 1.0));
    assert_eq!(measured.aupimo, None, "four normal pixels have no rate of 1e-5");
}
