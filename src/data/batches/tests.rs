use super::*;
use crate::data::{Pixels, Split, augment::Plain};

fn set(n: usize) -> Arc<ImageSet> {
    Arc::new(ImageSet {
        name: "numbered".into(),
        split: Split::Train,
        channels: 3,
        height: 4,
        width: 4,
        pixels: (0..n * 48).map(|i| (i % 251) as u8).collect(),
        labels: Some((0..n as u32).collect()),
        classes: n,
        full_size: None,
        files: None,
        masks: None,
        note: None,
    })
}

fn source(images: Arc<ImageSet>, batch_size: usize, seed: u64) -> Source {
    Source {
        images,
        labelled: true,
        round: None,
        outliers: None,
        made: None,
        normalisation: Normalisation { mean: vec![0.4, 0.5, 0.6], std: vec![0.2, 0.25, 0.3] },
        augment: Plain { flip: true.into(), crop_padding: 1, ..Plain::default() }.into(),
        window: None,
        batch_size,
        drop_last: false,
        seed,
        device: Device::Cpu,
    }
}

fn batches(n: usize, batch_size: usize, seed: u64, steps: Range<u64>) -> TrainBatches {
    TrainBatches::new(source(set(n), batch_size, seed), steps).unwrap()
}

fn bits(batch: &Batch) -> (Vec<u32>, Vec<u32>, u64, u64) {
    let pixels = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    (
        pixels.iter().map(|p| p.to_bits()).collect(),
        batch.labels.as_ref().unwrap().to_vec1().unwrap(),
        batch.epoch,
        batch.step,
    )
}

#[test]
fn every_epoch_shows_each_image_once_in_a_new_order() {
    assert_eq!([false, true].map(|drop_last| steps_per_epoch(10, 4, drop_last)), [3, 2]);
    let batches: Vec<Batch> = batches(10, 4, 0, 0..6).map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|b| b.normal).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
    assert_eq!(batches.iter().map(|b| (b.epoch, b.step)).collect::<Vec<_>>()[2..4], [(0, 2), (1, 3)]);
    let epoch = |k: usize| -> Vec<u32> {
        batches[3 * k..3 * k + 3].iter().flat_map(|b| b.labels.as_ref().unwrap().to_vec1::<u32>().unwrap()).collect()
    };
    assert_ne!(epoch(0), epoch(1));
    for k in 0..2 {
        let mut labels = epoch(k);
        labels.sort_unstable();
        assert_eq!(labels, (0..10).collect::<Vec<u32>>());
    }
}

#[test]
fn a_batch_depends_on_seed_and_step_only() {
    let all: Vec<_> = batches(23, 4, 7, 0..14).map(|b| bits(&b.unwrap())).collect();
    for start in [1, 5, 6, 13] {
        let late: Vec<_> = batches(23, 4, 7, start..14).map(|b| bits(&b.unwrap())).collect();
        assert_eq!(late, all[start as usize..]);
    }
    let other: Vec<_> = batches(23, 4, 8, 0..14).map(|b| bits(&b.unwrap())).collect();
    assert_ne!(other, all);
}

#[test]
fn the_order_of_seed_0_is_what_it_always_was() {
    // Stored checkpoints continue only if a new version of rand draws the same.
    let labels: Vec<u32> = batches(8, 8, 0, 0..1).next().unwrap().unwrap().labels.unwrap().to_vec1().unwrap();
    assert_eq!(labels, [7, 0, 2, 5, 3, 4, 1, 6]);
}

#[test]
fn stopping_early_does_not_hang() {
    for taken in 0..4 {
        let mut batches = batches(100, 2, 0, 0..u64::MAX);
        for _ in 0..taken {
            batches.next().unwrap().unwrap();
        }
        drop(batches);
    }
    assert!(batches(4, 2, 0, 5..5).next().is_none());
}

#[test]
fn a_file_that_vanishes_in_the_middle_is_named_and_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..9).map(|image| folder.path().join(format!("{image}.png"))).collect();
    for file in &files {
        image::RgbImage::from_pixel(4, 4, image::Rgb([9; 3])).save(file).unwrap();
    }
    let pixels = Pixels::of_files(files, [3, 4, 4], crate::data::Fit::default()).unwrap();
    let images = Arc::new(ImageSet { pixels, ..(*set(9)).clone() });
    let mut batches = TrainBatches::new(source(images.clone(), 3, 0), 0..30_000).unwrap();
    assert!(batches.next().unwrap().is_ok());
    std::fs::remove_file(folder.path().join("5.png")).unwrap();
    let error = batches.by_ref().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("5.png"), "{error}");
    assert!(batches.next().is_none());
    let norm = Normalisation { mean: vec![0.5; 3], std: vec![0.5; 3] };
    let mut seen = 0;
    let error = in_order(&images, 2, &norm, &Device::Cpu, |range, _| {
        seen = range.end;
        Ok(())
    });
    assert!(error.unwrap_err().to_string().contains("5.png"));
    assert_eq!(seen, 4);
}

#[test]
fn sets_that_cannot_train_are_refused() {
    let refused = |source: Source| TrainBatches::new(source, 0..1).unwrap_err().to_string();
    let new = |set: ImageSet, batch_size| refused(source(Arc::new(set), batch_size, 0));
    let good = || Arc::unwrap_or_clone(set(4));
    assert_eq!(new(good().take(0), 2), "data set \"numbered\" has no train images");
    assert_eq!(new(ImageSet { labels: None, ..good() }, 2), "data set \"numbered\" has no labels to train on");
    assert_eq!(new(good(), 0), "`batch_size` is 0");
    assert_eq!(
        new(ImageSet { channels: 1, ..good() }.take(4), 2),
        "`mean` has 3 values but the images have 1 channels"
    );
    let beside = |outliers| refused(Source { outliers: Some((Arc::new(outliers), 2)), ..source(set(4), 2, 0) });
    assert_eq!(beside(good().take(0)), "outliers \"numbered\": 0 images of [3, 4, 4] beside images of [3, 4, 4]");
    let grey = ImageSet { channels: 1, ..good() };
    assert_eq!(beside(grey), "outliers \"numbered\": 12 images of [1, 4, 4] beside images of [3, 4, 4]");
}

#[test]
fn outliers_follow_the_images_in_endless_permutations() {
    // Plain images, so that each can be recognised: image i of the outliers has only bytes 100 + i.
    let outliers =
        ImageSet { pixels: (0..7 * 48).map(|at| 100 + (at / 48) as u8).collect(), labels: None, ..(*set(0)).clone() };
    let beside = |seed, steps| {
        let augment = Plain { flip: true.into(), ..Plain::default() }.into();
        let source = Source { outliers: Some((Arc::new(outliers.clone()), 5)), augment, ..source(set(10), 4, seed) };
        TrainBatches::new(source, steps).unwrap().map(Result::unwrap).collect::<Vec<Batch>>()
    };
    let plain = Source { augment: Plain { flip: true.into(), ..Plain::default() }.into(), ..source(set(10), 4, 3) };
    let plain: Vec<Batch> = TrainBatches::new(plain, 0..7).unwrap().map(Result::unwrap).collect();
    let tables = source(set(1), 1, 0).normalisation.tables(3).unwrap();
    let mut seen = Vec::new();
    for (batch, plain) in beside(3, 0..7).iter().zip(&plain) {
        // The images to learn are those of a run without outliers, and the last, smaller batch has as many outliers.
        let n = plain.normal;
        assert_eq!(batch.images.dim(0).unwrap(), n + 5);
        let learned = Batch {
            images: batch.images.narrow(0, 0, n).unwrap(),
            labels: batch.labels.clone(),
            entries: None,
            marked: None,
            ..*batch
        };
        assert_eq!(bits(&learned), bits(plain));
        for value in batch.images.narrow(0, n, 5).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap().chunks(48) {
            seen.push((100..107).position(|byte: usize| tables[0][byte] == value[0]).unwrap());
        }
    }
    for pass in seen.chunks(7) {
        let mut sorted = pass.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
    }
    assert_ne!(seen[..7], seen[7..14]);
    // A run that continues sees what it would have seen.
    let all: Vec<_> = beside(3, 0..7).iter().map(bits).collect();
    assert_eq!(beside(3, 4..7).iter().map(bits).collect::<Vec<_>>(), all[4..]);
}

#[test]
fn a_list_changes_each_image_from_its_own_stream() {
    let list = "[{ random_crop: { padding: 1 } }, horizontal_flip, { color_jitter: { brightness: 0.5 } }]";
    let augment: Augment = serde_saphyr::from_str(list).unwrap();
    let batches = |images: Arc<ImageSet>, steps| {
        let source = Source { augment: augment.clone(), ..source(images, 4, 3) };
        TrainBatches::new(source, steps).unwrap().map(|batch| bits(&batch.unwrap())).collect::<Vec<_>>()
    };
    let all = batches(set(10), 0..7);
    // A run that continues sees what it would have seen, whatever the threads did.
    assert_eq!(batches(set(10), 4..7), all[4..]);
    assert_eq!(batches(set(10), 0..7), all);
    // The same image is changed in another way in another place of a batch and in another step.
    let same = ImageSet { pixels: [7; 48].repeat(10).into(), ..(*set(10)).clone() };
    let changed = batches(Arc::new(same), 0..2);
    let images: std::collections::BTreeSet<Vec<u32>> =
        changed.iter().flat_map(|(pixels, ..)| pixels.chunks(48).map(<[u32]>::to_vec)).collect();
    assert!(images.len() >= 4, "{}", images.len());
}

#[test]
fn a_smaller_last_batch_may_be_dropped() {
    let dropping = |n| Source { drop_last: true, ..source(set(n), 4, 0) };
    let all: Vec<Batch> = TrainBatches::new(dropping(10), 0..4).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        all.iter().map(|batch| (batch.normal, batch.epoch)).collect::<Vec<_>>(),
        [(4, 0), (4, 0), (4, 1), (4, 1)]
    );
    // What is passed over is drawn anew in every epoch: the beginnings of the same orders.
    let whole: Vec<Batch> = batches(10, 4, 0, 0..6).map(Result::unwrap).collect();
    let labels = |batch: &Batch| batch.labels.as_ref().unwrap().to_vec1::<u32>().unwrap();
    for (dropped, at) in [(0, 0), (1, 1), (2, 3), (3, 4)] {
        assert_eq!(labels(&all[dropped]), labels(&whole[at]));
    }
    let error = TrainBatches::new(dropping(3), 0..1).unwrap_err().to_string();
    assert_eq!(error, "`drop_last` leaves no batch of 4 of the 3 images of an epoch of \"numbered\"");
}

#[test]
fn alternating_flips_show_every_image_both_ways_in_two_epochs() {
    let map: Augment = Plain { flip: crate::data::augment::Flip::Alternating, ..Plain::default() }.into();
    let list: Augment = serde_saphyr::from_str("[{ horizontal_flip: { alternating: true } }]").unwrap();
    let images: std::collections::BTreeMap<u32, Vec<f32>> = seen(Augment::default(), 0..3).pop().unwrap();
    for augment in [map, list] {
        let epochs = seen(augment.clone(), 0..12);
        let mirrored = |epoch: usize| -> Vec<bool> {
            let ways = images.iter().map(|(label, image)| {
                let shown = &epochs[epoch][label];
                let mut other = image.clone();
                other.chunks_exact_mut(4).for_each(<[f32]>::reverse);
                assert!(shown == image || *shown == other);
                shown != image
            });
            ways.collect()
        };
        let [first, second] = [mirrored(0), mirrored(1)];
        assert!(first.contains(&true) && first.contains(&false));
        assert!(first.iter().zip(&second).all(|(first, second)| first != second));
        assert_eq!([mirrored(2), mirrored(3)], [first, second]);
        // A run that continues sees what it would have seen.
        assert_eq!(seen(augment, 3..12)[..], epochs[1..]);
    }
}

/// The images of 10 by their labels, epoch by epoch, in batches of 4.
fn seen(augment: Augment, steps: Range<u64>) -> Vec<std::collections::BTreeMap<u32, Vec<f32>>> {
    let first = steps.start / 3;
    let mut epochs = Vec::new();
    for batch in TrainBatches::new(Source { augment, ..source(set(10), 4, 3) }, steps).unwrap() {
        let batch = batch.unwrap();
        epochs.resize((batch.epoch - first) as usize + 1, std::collections::BTreeMap::new());
        let images = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let labels = batch.labels.unwrap().to_vec1::<u32>().unwrap();
        epochs.last_mut().unwrap().extend(labels.into_iter().zip(images.chunks(48).map(<[f32]>::to_vec)));
    }
    epochs
}

#[test]
#[ignore = "a measurement: cargo test --lib batches::tests::cost -- --ignored --nocapture"]
fn cost() {
    let (n, length) = (50_000, 3 * 32 * 32);
    let set = ImageSet {
        height: 32,
        width: 32,
        pixels: vec![7; n * length].into(),
        labels: Some(vec![0; n]),
        ..(*set(0)).clone()
    };
    let normalisation = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
    let augment = Plain { flip: true.into(), crop_padding: 4, ..Plain::default() }.into();
    let start = std::time::Instant::now();
    let source = Source { normalisation, augment, ..source(Arc::new(set), 128, 0) };
    let batches = TrainBatches::new(source, 0..steps_per_epoch(n, 128, false)).unwrap();
    assert_eq!(batches.map(|batch| batch.unwrap().normal).sum::<usize>(), n);
    println!("50,000 images of 3×32×32 augmented and normalised on one thread: {:?}", start.elapsed());
}
