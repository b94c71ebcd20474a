//! Training in rounds of one class, interrupted and not.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::Device;
use oodkit::{
    Error, Result,
    data::{ImageSet, Normalisation, Split},
    losses::{Loss, Objective},
    models::ModelConfig,
    nn::{Shape, params::Params},
    train::{self, Job, checkpoint::Checkpoint},
    watch::{
        events::{Event, Observer},
        interrupt::Interrupt,
    },
};

use crate::common::values;

/// Asks to stop after a step, and keeps the losses of all.
struct Stop {
    after: u64,
    interrupt: Interrupt,
    losses: Vec<f64>,
}

impl Observer for Stop {
    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Step { step, loss, .. } = event {
            self.losses.push(*loss);
            if *step == self.after {
                self.interrupt.set();
            }
        }
        Ok(())
    }
}

/// By name.
type Weights = BTreeMap<String, Vec<f64>>;

/// A network that learns seven steps of Reptile on three classes, in rounds of three, and stops after some of them.
fn learn(checkpoint: &Path, after: u64, rate: f64) -> Result<(Vec<f64>, Weights)> {
    let yaml = "metaformer: { patch: 4, width: 8, depth: 1, heads: 2, latent: 2 }";
    let shape = Shape { channels: 1, height: 8, width: 8, classes: 3 };
    let params = Params::new(0, &Device::Cpu);
    let model = serde_saphyr::from_str::<ModelConfig>(yaml).unwrap().build(shape, params.builder())?;
    let pixels: Vec<u8> = (0..12 * 64).map(|at: usize| (at * 7919 % 251) as u8).collect();
    let images = ImageSet {
        labels: Some((0..12).map(|at| at % 3).collect()),
        classes: 3,
        ..ImageSet::unlabelled("noise", Split::Train, [1, 8, 8], pixels)
    };
    let images = Arc::new(images);
    let recipe = format!(
        "{{ epochs: 9, max_steps: 7, batch_size: 2, reptile: {{ inner_steps: 3, rate: {rate} }}, optimizer: {{ adamw: {{ lr: 0.01 }} }} }}"
    );
    let loss: Loss = serde_saphyr::from_str("{ reconstruction: {} }").unwrap();
    let job = Job {
        what: "a network",
        model: &*model,
        params: &params,
        objective: &Objective::new(&loss, &[], 0)?,
        recipe: &serde_saphyr::from_str(&recipe).unwrap(),
        own: None,
        seed: 0,
        data: &images.sha256()?,
        images,
        outliers: None,
        validation: None,
        normalisation: &Normalisation { mean: vec![0.5], std: vec![0.25] },
        window: None,
        fixed: None,
        device: &Device::Cpu,
        checkpoint,
    };
    let interrupt = Interrupt::default();
    let mut stop = Stop { after, interrupt: interrupt.clone(), losses: Vec::new() };
    let done = train::fit(&job, Checkpoint::read(checkpoint)?, &mut [&mut stop], &interrupt);
    match done {
        Ok(fitted) => assert_eq!(fitted.steps, 7),
        Err(Error::Interrupted) => {}
        Err(error) => return Err(error),
    }
    Ok((stop.losses, params.all()?.iter().map(|(name, value)| (name.clone(), values(value))).collect()))
}

#[test]
fn reptile_goes_on_in_the_middle_of_a_round_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let (losses, weights) = learn(&place("whole"), 0, 0.5).unwrap();
    assert_eq!(losses.len(), 7);
    for after in 1..=7 {
        let path = place(&format!("stopped {after}"));
        let (first, _) = learn(&path, after, 0.5).unwrap();
        let saved = Checkpoint::read(&path).unwrap().unwrap();
        assert_eq!(saved.start.is_empty(), after % 3 == 0 || after == 7, "{after}");
        let (rest, continued) = learn(&path, 0, 0.5).unwrap();
        assert_eq!([first, rest].concat(), losses, "{after}");
        assert_eq!(continued, weights, "{after}");
        if after == 4 {
            Checkpoint { start: BTreeMap::new(), ..saved }.write(&path).unwrap();
            let error = learn(&path, 0, 0.5).unwrap_err().to_string();
            assert!(error.contains("the weights that a round began with are not those of this network"), "{error}");
        }
    }
    // Within the first round nothing has moved yet; then the weights are others than those that go all the way.
    let (other, _) = learn(&place("all the way"), 0, 1.0).unwrap();
    assert_eq!(other[..3], losses[..3]);
    assert_ne!(other[3..], losses[3..]);
}
