//! A teacher and a student: the teacher stays as it is, the student learns, and what was interrupted goes on to the same bits.

use oodkit::train::Fixed;

use crate::{bits, build_model, train_by, train_windows};

/// A model, its loss, and what stands before the names of all that learns.
const MODELS: [(&str, &str, &str); 7] = [
    ("reverse_distillation: { backbone: efficientnet_lite0 }", "{ distillation: { of: flat } }", "student"),
    ("stfpm: { backbone: efficientnet_lite0 }", "{ distillation: {} }", "student"),
    ("simplenet: { backbone: efficientnet_lite0, hidden: 16 }", "{ truncated_l1: {} }", "simplenet"),
    ("tiled: { model: { stfpm: { backbone: efficientnet_lite0 } }, size: 32 }", "{ distillation: {} }", "student"),
    (
        "patch_description: { backbone: efficientnet_lite0, patches: { channels: 4, outputs: 6 } }",
        "{ regression: {}, compactness: { weight: 0.01 } }",
        "teacher",
    ),
    ("efficient_ad: { patches: { channels: 4, outputs: 6 }, width: 8 }", "{ regression: { hard: 0.9 } }", "student"),
    ("uninformed_students: { patches: { layers: p33, channels: 4, outputs: 6 } }", "{ regression: {} }", "students"),
];
/// What else learns, or is known of the train images before the first step.
const ALSO: [&str; 2] = ["autoencoder.", "teacher_outputs."];
/// What a student of the teacher's kind has after the last stage that is read, and a projection: nothing leads them.
const UNREAD: [&str; 5] = [
    "student.blocks.5.",
    "student.blocks.6.",
    "student.conv_head.",
    "student.bn2.",
    "teacher.source.random_projection",
];

const RECIPE: &str = "optimizer: { sgd: { lr: 0.05, momentum: 0.9 } }";

#[test]
fn a_teacher_does_not_move_and_a_student_learns_what_it_shows() {
    for (model, loss, own) in MODELS {
        let [plain, kept] = [(); 2].map(|()| build_model(model).unwrap());
        let before = bits(&plain.0);
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let losses = train_by((loss, own), RECIPE, &plain, 4, &folders[0], None).unwrap();
        // Of the second epoch: the hardest tenth differs from batch to batch.
        assert!(losses[2].min(losses[3]) < losses[0], "{model}: {losses:?}");
        // Six images pass through the teacher once, and the student sees what it saw before.
        let fixed = Fixed::default();
        assert_eq!(
            train_by((loss, own), RECIPE, &kept, 4, &folders[1], Some((&fixed, "noise"))).unwrap(),
            losses,
            "{model}"
        );
        assert_eq!(fixed.computed(), 6);
        let after = bits(&plain.0);
        assert_eq!(bits(&kept.0), after);
        for (name, values) in &after {
            let own = [&format!("{own}."), ALSO[0], ALSO[1]];
            let learns =
                own.iter().any(|own| name.starts_with(own)) && !UNREAD.iter().any(|unread| name.starts_with(unread));
            assert_eq!(values != &before[name], learns, "{model}: {name}");
        }
    }
}

#[test]
fn an_interrupted_student_goes_on_to_the_same_bits() {
    for (model, loss, own) in MODELS {
        let [whole, parts] = [(); 2].map(|()| build_model(model).unwrap());
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let losses = train_by((loss, own), RECIPE, &whole, 3, &folders[0], Some((&Fixed::default(), "noise"))).unwrap();
        let mut again =
            train_by((loss, own), RECIPE, &parts, 1, &folders[1], Some((&Fixed::default(), "noise"))).unwrap();
        again
            .extend(train_by((loss, own), RECIPE, &parts, 3, &folders[1], Some((&Fixed::default(), "noise"))).unwrap());
        assert_eq!(again, losses, "{model}");
        assert_eq!(bits(&parts.0), bits(&whole.0), "{model}");
    }
}

#[test]
fn fcdd_learns_the_stage_that_it_reads_and_goes_on_to_the_same_bits() {
    let recipe = format!("{RECIPE}, outliers: {{ make: [confetti], share: 0.5, repeat: 2 }}");
    for (freeze, loss) in [("", "{ fcdd: {} }"), (", freeze: all", "{ fcdd: { supervision: mask } }")] {
        let model = format!("fcdd: {{ backbone: efficientnet_lite0{freeze} }}");
        let [whole, parts] = [(); 2].map(|()| build_model(&model).unwrap());
        let before = bits(&whole.0);
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let train = |network, steps, folder| train_by((loss, "fcdd"), &recipe, network, steps, folder, None).unwrap();
        let losses = train(&whole, 3, &folders[0]);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        let mut again = train(&parts, 1, &folders[1]);
        again.extend(train(&parts, 3, &folders[1]));
        assert_eq!(again, losses);
        let after = bits(&whole.0);
        assert_eq!(bits(&parts.0), after);
        for (name, values) in &after {
            let learns = name.starts_with("fcdd.") || freeze.is_empty() && name.starts_with("blocks.2.");
            assert_eq!(values != &before[name], learns, "{model}: {name}");
        }
    }
}

/// Whole images, and windows, which are others in every step.
#[test]
fn cutpaste_goes_on_to_the_same_bits() {
    let recipe = format!("{RECIPE}, outliers: {{ make: [cutpaste, scar], share: 0.6667, repeat: 2 }}");
    for (settings, window) in [("", None), (", patch: 32, freeze: blocks.1", Some(32))] {
        let model = format!("cutpaste: {{ backbone: efficientnet_lite0, head: [6]{settings} }}");
        let [whole, parts] = [(); 2].map(|()| build_model(&model).unwrap());
        let before = bits(&whole.0);
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let train = |network, steps, folder| {
            train_windows(("{ pseudo_class: {} }", "cutpaste"), &recipe, network, (steps, window), folder, None)
                .unwrap()
        };
        let losses = train(&whole, 3, &folders[0]);
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        let mut again = train(&parts, 1, &folders[1]);
        again.extend(train(&parts, 3, &folders[1]));
        assert_eq!(again, losses);
        let after = bits(&whole.0);
        assert_eq!(bits(&parts.0), after);
        let frozen = ["conv_stem.", "bn1.", "blocks.0.", "blocks.1."];
        for (name, values) in &after {
            let learns = window.is_none() || !frozen.iter().any(|part| name.starts_with(part));
            // What a normalisation takes off again moves by rounding errors alone, if at all.
            let may = name.starts_with("cutpaste.head.") && name.ends_with(".0.bias");
            assert!(may || (values != &before[name]) == learns, "{model}: {name}");
        }
    }
}

#[test]
fn patch_svdd_goes_on_to_the_same_bits() {
    let model = "patch_svdd: { channels: [4, 4, 4], features: 6, hidden: 5 }";
    let loss = "{ patch_position: {}, patch_svdd: { weight: 0.5 } }";
    let [whole, parts] = [(); 2].map(|()| build_model(model).unwrap());
    let before = bits(&whole.0);
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let train = |network, steps, folder| train_by((loss, "none"), RECIPE, network, steps, folder, None).unwrap();
    let losses = train(&whole, 4, &folders[0]);
    // Patches differ from step to step.
    assert!(losses.windows(2).all(|pair| pair[0] != pair[1]), "{losses:?}");
    let mut again = train(&parts, 1, &folders[1]);
    again.extend(train(&parts, 4, &folders[1]));
    assert_eq!(again, losses);
    let after = bits(&whole.0);
    assert_eq!(bits(&parts.0), after);
    for (name, values) in &after {
        assert_eq!(values != &before[name], !name.ends_with(".fc3.weight"), "{name}");
    }
}
