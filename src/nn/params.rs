//! The parameters of a network: named, seeded, trainable.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, init::NormalOrUniform, var_builder::SimpleBackend};
use rand::Rng as _;
use rand_distr::StandardNormal;

use crate::{Result, nn::weights, rng};

/// The parameters and buffers of one network, by PyTorch name.
///
/// A network is built from [`Params::builder`], which makes each parameter when it is first asked for. A first value
/// depends on (seed, name, shape, kind of initialisation) only: adding a layer does not change the others. Clones share
/// the parameters.
#[derive(Debug, Clone)]
pub struct Params {
    seed: u64,
    device: Device,
    variables: Arc<Mutex<BTreeMap<String, Var>>>,
}

impl Params {
    /// No parameters yet; those to come are on `device`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { seed, device: device.clone(), variables: Arc::default() }
    }

    /// What a network's constructor takes its parameters from, f32.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    /// What an optimiser changes, by name: everything but buffers, which follow without gradients.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        let variables = self.variables();
        variables.iter().filter(|(name, _)| !is_buffer(name)).map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Every parameter and buffer, by name.
    pub fn variables_by_name(&self) -> Vec<(String, Var)> {
        self.variables().iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// A copy of every parameter and buffer, as a checkpoint holds them; later steps do not change it.
    pub fn all(&self) -> Result<BTreeMap<String, Tensor>> {
        let variables = self.variables();
        variables.iter().map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?))).collect()
    }

    /// Replaces all values by those of `state`, in place: networks built from these parameters see them.
    ///
    /// PyTorch's `num_batches_tracked` counters are ignored: nothing depends on them.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) naming `file`, where `state` came from, when it lacks a parameter, has one that
    /// the network does not know, or one of another shape. Nothing is replaced then.
    pub fn load(&self, state: &BTreeMap<String, Tensor>, file: &Path) -> Result<()> {
        let variables = self.variables();
        let wanted = variables.iter().map(|(name, var)| (name.clone(), var.dims().to_vec())).collect();
        weights::match_names(&wanted, state).map_err(|mismatch| mismatch.in_file(file))?;
        for (name, var) in variables.iter() {
            if let Some(value) = state.get(name) {
                var.set(&value.to_device(&self.device)?.to_dtype(var.dtype())?.contiguous()?)?;
            }
        }
        Ok(())
    }

    /// Weights and biases, counted one by one; buffers are not among them.
    pub fn count(&self) -> usize {
        self.trainable().iter().map(|(_, var)| var.elem_count()).sum()
    }

    fn variables(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // A panic elsewhere cannot leave the map half-changed: insertion is its only change.
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn initial(&self, shape: &Shape, name: &str, init: Init, dtype: DType) -> candle_core::Result<Tensor> {
        let mut rng = rng::stream(self.seed, "init", name);
        let count = shape.elem_count();
        let normal = |mean: f64, deviation: f64, rng: &mut rng::Rng| -> Vec<f64> {
            (0..count).map(|_| mean + deviation * rng.sample::<f64, _>(StandardNormal)).collect()
        };
        let uniform = |low: f64, high: f64, rng: &mut rng::Rng| -> Vec<f64> {
            (0..count).map(|_| low + (high - low) * rng.random::<f64>()).collect()
        };
        let values = match init {
            Init::Const(value) => vec![value; count],
            Init::Randn { mean, stdev } => normal(mean, stdev, &mut rng),
            Init::Uniform { lo, up } => uniform(lo, up, &mut rng),
            Init::Kaiming { dist, fan, non_linearity } => {
                let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => normal(0.0, deviation, &mut rng),
                    NormalOrUniform::Uniform => uniform(-deviation * 3f64.sqrt(), deviation * 3f64.sqrt(), &mut rng),
                }
            }
        };
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(&self.device)
    }
}

impl SimpleBackend for Params {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        let mut variables = self.variables();
        if let Some(var) = variables.get(name) {
            if var.shape() != &shape {
                candle_core::bail!("parameter {name} is {:?} and asked for as {shape:?}", var.shape());
            }
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_tensor(&self.initial(&shape, name, init, dtype)?)?;
        let tensor = var.as_tensor().clone();
        variables.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.variables().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("parameter {name} has no shape yet"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.variables().contains_key(name)
    }
}

/// The last part of the names of what a network keeps but does not learn by gradient: running statistics, the sums that DUQ's
/// centroids follow, singular vectors, random features, filters of the train images.
const BUFFERS: [&str; 10] = [
    "running_mean",
    "running_var",
    "N",
    "m",
    "weight_u",
    "weight_v",
    "random_projection",
    "random_weight",
    "random_phase",
    "whitening",
];

/// Whether what is called so is kept and not learned by gradient.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| BUFFERS.contains(&last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(seed: u64, names: &[&str]) -> Result<BTreeMap<String, Tensor>> {
        let params = Params::new(seed, &Device::Cpu);
        for name in names {
            params.builder().get_with_hints((3, 4), name, Init::Randn { mean: 0.0, stdev: 1.0 })?;
        }
        params.all()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn first_values_depend_on_seed_and_name_only() {
        let (ab, ba) = (built(0, &["a", "b"]).unwrap(), built(0, &["b", "a"]).unwrap());
        assert_eq!(values(&ab["a"]), values(&ba["a"]));
        assert_ne!(values(&ab["a"]), values(&ab["b"]));
        assert_ne!(values(&ab["a"]), values(&built(1, &["a"]).unwrap()["a"]));
    }

    #[test]
    fn first_values_have_the_asked_moments() {
        let params = Params::new(3, &Device::Cpu);
        let draw = |name: &str, init| values(&params.builder().get_with_hints((400, 50), name, init).unwrap());
        let moments = |values: &[f32]| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            (mean, (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / values.len() as f32).sqrt())
        };
        let (mean, deviation) = moments(&draw("normal", Init::Randn { mean: 2.0, stdev: 0.5 }));
        assert!((mean - 2.0).abs() < 0.02 && (deviation - 0.5).abs() < 0.02);
        let uniform = draw("uniform", Init::Uniform { lo: -1.0, up: 1.0 });
        assert!(uniform.iter().all(|v| (-1.0..1.0).contains(v)));
        assert!((moments(&uniform).1 - 1.0 / 3f32.sqrt()).abs() < 0.02);
        let kaiming = draw("kaiming", candle_nn::init::DEFAULT_KAIMING_NORMAL);
        assert!((moments(&kaiming).1 - (2.0f32 / 50.0).sqrt()).abs() < 0.01);
    }

    #[test]
    fn buffers_are_not_trained_and_not_counted() {
        let params = Params::new(0, &Device::Cpu);
        params.builder().pp("bn").get(5, "running_mean").unwrap();
        params.builder().pp("bn").get(5, "weight").unwrap();
        assert_eq!(params.trainable().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bn.weight"]);
        assert_eq!(params.count(), 5);
        assert_eq!(params.all().unwrap().len(), 2);
    }

    #[test]
    fn loading_is_seen_by_what_was_built_and_not_by_copies() {
        let params = Params::new(0, &Device::Cpu);
        let weight = params.builder().get(2, "weight").unwrap();
        let before = params.all().unwrap();
        let ones = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
        let counter = Tensor::zeros((), DType::I64, &Device::Cpu).unwrap();
        let state = BTreeMap::from([("weight".into(), ones), ("bn.num_batches_tracked".into(), counter)]);
        params.load(&state, Path::new("test")).unwrap();
        assert_eq!(values(&weight), [1.0, 1.0]);
        assert_eq!(values(&before["weight"]), [0.0, 0.0]);
    }

    #[test]
    fn weights_that_do_not_fit_are_listed_and_nothing_is_loaded() {
        let params = Params::new(0, &Device::Cpu);
        for name in ["a", "b"] {
            params.builder().get(2, name).unwrap();
        }
        let ones = |n: usize| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap();
        let state = BTreeMap::from([("a".into(), ones(3)), ("c".into(), ones(2))]);
        let error = params.load(&state, Path::new("test")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights test do not fit the network: 1 missing: b; 1 unexpected: c; 1 of another shape: a ([3] where [2] is \
             wanted)"
        );
        assert_eq!(error.exit_code(), 2);
        assert_eq!(values(&params.all().unwrap()["a"]), [0.0, 0.0]);
    }
}
