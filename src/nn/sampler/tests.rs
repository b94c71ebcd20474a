use std::collections::BTreeMap;

use super::*;
use crate::{
    nn::denoiser::{Course, Settings},
    pattern::{uniform, values},
};

/// A denoiser that a function is.
pub(crate) struct Known<F> {
    pub(crate) schedule: Schedule,
    pub(crate) prediction: Prediction,
    pub(crate) classes: usize,
    pub(crate) output: F,
}

impl<F: Fn(&Tensor, f64, Option<&[u32]>) -> Result<Tensor> + Send + Sync> Denoiser for Known<F> {
    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn output(&self, noisy: &Tensor, time: f64, classes: Option<&[u32]>) -> Result<Tensor> {
        (self.output)(noisy, time, classes)
    }

    fn products(&self, _: &Tensor) -> Result<u64> {
        Ok(0)
    }
}

pub(crate) fn schedule(course: Course, steps: usize) -> Schedule {
    Schedule::new(Settings { course, steps })
}

/// The layer of tests/golden/samplers.py.
pub(crate) fn layer(course: Course, prediction: Prediction) -> impl Denoiser {
    let output = |noisy: &Tensor, time: f64, classes: Option<&[u32]>| {
        let uniform = |name, shape: &[usize]| uniform(name, shape).to_dtype(noisy.dtype());
        let (count, size) = (noisy.dim(0)?, 8);
        let rows: Vec<u32> = classes.map_or_else(|| vec![3; count], <[u32]>::to_vec);
        let of_class =
            uniform("classes", &[4, size])?.index_select(&Tensor::from_vec(rows, count, &Device::Cpu)?, 0)?;
        let told = ((uniform("time", &[size])? * time)? / 1000.0)?;
        let linear = noisy.reshape((count, size))?.matmul(&uniform("denoiser", &[size, size])?.t()?)?;
        (linear.broadcast_add(&told)? + of_class)?.tanh()?.reshape(noisy.shape())
    };
    Known { schedule: schedule(course, 1000), prediction, classes: 3, output }
}

/// Images of N(μ, σ²), whose noise is known: E[ε|x] = s·(x − a·μ)/(a²·σ² + s²), in f64 where the images are.
pub(crate) fn gaussian(
    course: Course,
    prediction: Prediction,
    steps: usize,
    [mean, deviation]: [f64; 2],
) -> impl Denoiser {
    let known = schedule(course, steps);
    let places = known.clone();
    let output = move |noisy: &Tensor, time: f64, _: Option<&[u32]>| {
        let Place { signal, noise, .. } = if time < 0.0 { Schedule::clean() } else { places.place(time as usize) };
        let variance = (signal * deviation).powi(2) + noise.powi(2);
        let away = (noisy - signal * mean)?;
        let epsilon = (&away * (noise / variance))?;
        let image = ((away * (signal * deviation.powi(2) / variance))? + mean)?;
        match prediction {
            Prediction::Noise => Ok(epsilon),
            Prediction::V => (epsilon * signal)? - (image * noise)?,
            Prediction::Velocity => epsilon - image,
        }
    };
    Known { schedule: known, prediction, classes: 0, output }
}

fn close(what: &str, actual: &Tensor, expected: &[f64], tolerance: f64) {
    let actual = values(actual);
    assert_eq!(actual.len(), expected.len(), "{what}");
    let far = actual.iter().zip(expected).map(|(one, other)| (one - other).abs() / other.abs().max(1.0));
    let far = far.fold(0.0, f64::max);
    assert!(far < tolerance, "{what}: {far}");
}

#[test]
fn trajectories_are_those_of_numpy() {
    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        name: String,
        expected: Vec<f64>,
    }
    let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/samplers.json")).unwrap();
    let expected: BTreeMap<String, Vec<f64>> =
        golden.cases.into_iter().map(|case| (case.name, case.expected)).collect();
    let (whole, short) = (Way::down(999, 100, true), Way::down(120, 20, false).told_early());
    let x = uniform("start", &[3, 2, 2, 2]);
    let classes: &[u32] = &[0, 2, 1];
    let of = |kind| Sampler { kind, ..Sampler::default() };
    let ddim = of(Kind::Ddim);
    let noise = (Course::Linear, Prediction::Noise);
    let cases = [
        ("ddim", ddim, noise, whole.clone(), None, 0.0),
        ("ddim of classes", ddim, noise, whole.clone(), Some(classes), 0.0),
        ("ddim, guided and told early", ddim, noise, short.clone(), Some(classes), 2.0),
        ("ddim, clamped", Sampler { clamp: true, ..ddim }, noise, whole.clone(), None, 0.0),
        ("ddim, eta 0.5", Sampler { eta: 0.5, ..ddim }, noise, whole.clone(), None, 0.0),
        ("ancestral", of(Kind::Ancestral), noise, whole.clone(), None, 0.0),
        ("pndm", of(Kind::Pndm), noise, whole.clone(), None, 0.0),
        ("pndm, guided and told early", of(Kind::Pndm), noise, short, Some(classes), 2.0),
        ("plms", of(Kind::Plms), noise, whole.clone(), Some(classes), 0.0),
        ("ddim up", ddim, noise, Way::up(100, 4), None, 0.0),
        ("euler of a flow", ddim, (Course::Flow, Prediction::Velocity), whole.clone(), None, 0.0),
        ("ddim of v", ddim, (Course::Linear, Prediction::V), whole, None, 0.0),
    ];
    assert_eq!(cases.len(), expected.len());
    for (name, sampler, (course, prediction), way, classes, guidance) in cases {
        let denoiser = layer(course, prediction);
        // Two at a time: a batch in parts is the same.
        let guide = Guide { denoiser: &denoiser, guidance, together: 2 };
        let mut draw = |step| Ok(uniform(&format!("noise {step}"), &[3, 2, 2, 2]));
        let end = sampler.follow(&guide, &way, &x, classes, &mut draw).unwrap();
        close(name, &end, &expected[name], 1e-9);
    }
}

#[test]
fn chains_together_are_what_each_is_alone_and_cost_what_is_told() {
    let counted = std::sync::atomic::AtomicUsize::new(0);
    let plain = layer(Course::Linear, Prediction::Noise);
    let output = |noisy: &Tensor, time: f64, classes: Option<&[u32]>| {
        counted.fetch_add(noisy.dim(0)?, std::sync::atomic::Ordering::Relaxed);
        plain.output(noisy, time, classes)
    };
    let denoiser =
        Known { schedule: schedule(Course::Linear, 1000), prediction: Prediction::Noise, classes: 3, output };
    let guide = Guide { denoiser: &denoiser, guidance: 2.0, together: 64 };
    let x = uniform("start", &[3, 2, 2, 2]);
    let classes = [1, 0, 2];
    for kind in [Kind::Ddim, Kind::Pndm, Kind::Plms] {
        let sampler = Sampler { kind, ..Sampler::default() };
        let ways = [120, 240, 60, 20].map(|level| Way::down(level, 20, false).told_early());
        let new = |way| Chain::new(sampler, &denoiser, way, &x, Some(classes.to_vec()));
        let mut chains: Vec<Chain> = ways.iter().map(new).collect();
        counted.store(0, std::sync::atomic::Ordering::Relaxed);
        together(&guide, &mut chains).unwrap();
        // With guidance, each of three images twice.
        let told: usize = ways.iter().map(|way| kind.evaluations(way.len())).sum();
        assert_eq!(counted.load(std::sync::atomic::Ordering::Relaxed), 2 * 3 * told, "{kind:?}");
        for (chain, way) in chains.iter().zip(&ways) {
            let alone = sampler.follow(&guide, way, &x, Some(&classes), &mut |_| unreachable!()).unwrap();
            close("together", chain.images(), &values(&alone), 1e-12);
        }
    }
    assert_eq!([6, 12, 18].map(|steps| Kind::Pndm.evaluations(steps)), [15, 21, 27]);
    assert_eq!(Kind::Plms.evaluations(100), 101);
    let other = Chain::new(Sampler::default(), &denoiser, &Way::down(20, 20, true), &x, None);
    let known = Chain::new(Sampler::default(), &denoiser, &Way::down(20, 20, true), &x, Some(vec![0; 3]));
    assert!(together(&guide, &mut [other, known]).is_err());
}

const OF: [f64; 2] = [0.3, 0.4];

/// Where the exact flow of probability takes x from one place to another.
fn transported(x: &Tensor, [from, to]: [Place; 2]) -> Vec<f64> {
    let [mean, deviation] = OF;
    let spread = |place: Place| (place.signal * deviation).hypot(place.noise);
    let factor = spread(to) / spread(from);
    values(x).into_iter().map(|x| to.signal * mean + factor * (x - from.signal * mean)).collect()
}

/// How far a sampler's end is from the exact map, in so many steps from the last of 3,840. They end at step 479: the noise of the first steps
/// grows by a root, near which no method has its order.
fn far(kind: Kind, course: Course, prediction: Prediction, steps: usize) -> f64 {
    let denoiser = gaussian(course, prediction, 3840, OF);
    let guide = Guide { denoiser: &denoiser, guidance: 0.0, together: 64 };
    let x = (uniform("start", &[1, 1, 4, 4]) * 2.0).unwrap();
    let way = Way { steps: (479..=3839).rev().step_by(3360 / steps).collect(), early: 0 };
    assert_eq!(way.len(), steps);
    let sampler = Sampler { kind, ..Sampler::default() };
    let end = sampler.follow(&guide, &way, &x, None, &mut |_| unreachable!()).unwrap();
    let exact = transported(&x, [3839, 479].map(|step| denoiser.schedule().place(step)));
    values(&end).iter().zip(exact).map(|(end, exact)| (end - exact).abs()).fold(0.0, f64::max)
}

/// The distance falls by 2 to the power of the order where there are twice as many steps.
#[test]
fn samplers_reach_the_exact_map_of_a_gaussian_by_their_order() {
    use Prediction::{Noise, V, Velocity};
    for (kind, course, prediction, order) in [
        (Kind::Ddim, Course::Linear, Noise, 1.0),
        (Kind::Ddim, Course::Linear, V, 1.0),
        (Kind::Ddim, Course::Cosine, V, 1.0),
        (Kind::Pndm, Course::Linear, Noise, 2.0),
        (Kind::Pndm, Course::Linear, V, 2.0),
        (Kind::Plms, Course::Linear, Noise, 2.0),
        // Euler's, Heun's at the first step, and Adams and Bashforth's fourth.
        (Kind::Ddim, Course::Flow, Velocity, 1.0),
        (Kind::Plms, Course::Flow, Velocity, 3.0),
        (Kind::Pndm, Course::Flow, Velocity, 4.0),
    ] {
        let distances = [60, 120, 240].map(|steps| far(kind, course, prediction, steps));
        let orders = [0, 1].map(|at: usize| (distances[at] / distances[at + 1]).log2());
        // The more steps, the nearer to the order.
        let enough = orders[0] > order - 0.45 && orders[1] > order - 0.25;
        assert!(enough, "{kind:?} {course:?} {prediction:?}: {distances:?} {orders:?}");
    }
}

fn made_of_noise(
    sampler: Sampler,
    guide: &Guide<'_>,
    steps: usize,
    images: (usize, [usize; 4]),
    classes: Option<&[u32]>,
) -> Tensor {
    let mut before = |_| Ok::<_, candle_core::Error>(());
    sampler.generate(guide, steps, images, classes, (0, &Device::Cpu), &mut before).unwrap()
}

/// What 20,000 numbers made of noise are like.
#[test]
fn samples_have_the_mean_and_the_variance_of_the_images() {
    let of = |kind, eta| Sampler { kind, eta, clamp: false };
    for (sampler, course, prediction, steps) in [
        (of(Kind::Ddim, 0.0), Course::Linear, Prediction::Noise, 100),
        (of(Kind::Ddim, 1.0), Course::Linear, Prediction::Noise, 200),
        (of(Kind::Ddim, 1.0), Course::Flow, Prediction::Velocity, 200),
        (of(Kind::Ancestral, 0.0), Course::Linear, Prediction::Noise, 200),
        (of(Kind::Pndm, 0.0), Course::Linear, Prediction::V, 20),
        (of(Kind::Plms, 0.0), Course::Flow, Prediction::Velocity, 20),
    ] {
        let denoiser = gaussian(course, prediction, 200, OF);
        let guide = Guide { denoiser: &denoiser, guidance: 0.0, together: 1000 };
        let made = made_of_noise(sampler, &guide, steps, (0, [2, 1, 100, 100]), None);
        let made = values(&made);
        let mean = made.iter().sum::<f64>() / made.len() as f64;
        let deviation = (made.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / made.len() as f64).sqrt();
        // A mean of so many is off by 0.003 as a rule.
        assert!((mean - OF[0]).abs() < 0.012 && (deviation - OF[1]).abs() < 0.02, "{sampler:?}: {mean} {deviation}");
        let normal = made.iter().filter(|x| (**x - mean).abs() < deviation).count() as f64 / made.len() as f64;
        assert!((normal - 0.6827).abs() < 0.02, "{normal}");
    }
}

#[test]
fn ways_are_where_they_should_be() {
    let steps = |way: Way| way.steps;
    assert_eq!(steps(Way::down(120, 20, false)), [120, 100, 80, 60, 40, 20, 0]);
    assert_eq!(steps(Way::down(130, 50, false)), [130, 80, 30, 0]);
    assert_eq!(steps(Way::down(40, 20, true)), [40, 20, 0, -1]);
    assert_eq!(steps(Way::down(9, 3, true)), [9, 6, 3, 0, -1]);
    assert_eq!(Way::whole(1000, 50), Way::down(999, 20, true));
    assert_eq!(steps(Way::whole(10, 4)), [9, 6, 4, 1, -1]);
    assert_eq!([(8, 8), (8, 50), (8, 1)].map(|(total, steps)| Way::whole(total, steps).len()), [8, 8, 1]);
    let (places, middles) = Way::down(40, 20, false).told_early().places(&schedule(Course::Linear, 1000));
    assert_eq!(places.iter().map(|place| place.time).collect::<Vec<_>>(), [39.0, 19.0, -1.0]);
    assert_eq!(places[0].noise, schedule(Course::Linear, 1000).place(40).noise);
    assert_eq!(middles.iter().map(|place| place.time).collect::<Vec<_>>(), [29.0, 9.0]);
}

#[test]
fn an_image_is_made_by_its_number_and_making_ends_when_asked() {
    let denoiser = layer(Course::Linear, Prediction::Noise);
    let guide = Guide { denoiser: &denoiser, guidance: 1.0, together: 2 };
    let sampler = Sampler { clamp: true, ..Sampler::default() };
    let shape = |count| [count, 2, 2, 2];
    let all = made_of_noise(sampler, &guide, 7, (3, shape(4)), Some(&[0, 1, 2, 0]));
    let last = made_of_noise(sampler, &guide, 7, (5, shape(2)), Some(&[2, 0]));
    assert_eq!(values(&all.narrow(0, 2, 2).unwrap()), values(&last));
    let other = made_of_noise(sampler, &guide, 7, (5, shape(2)), Some(&[0, 0]));
    assert_ne!(values(&other)[..8], values(&last)[..8]);
    let mut done = Vec::new();
    let mut before = |step| {
        done.push(step);
        if step < 2 { Ok(()) } else { Err(crate::Error::Interrupted) }
    };
    let made = sampler.generate(&guide, 7, (0, shape(1)), None, (0, &Device::Cpu), &mut before);
    assert!(matches!(made, Err(crate::Error::Interrupted)));
    assert_eq!(done, [0, 1, 2]);
}
