//! AFDU: how far each neuron is from its normal range.
//!
//! Each neuron's activations on the train images are clustered ([`kmeans`]), a weighted Gaussian kernel density with an ISJ
//! [`bandwidth`] is laid over the clusters ([`density`]), and a value is as anomalous as its neighbourhood is denser than itself
//! ([`factor`]). An image's score is the mean anomaly factor of a layer's neurons, summed over layers. Reading order: those
//! files, then [`neuron`] (one fitted neuron), [`table`] (its factors, tabulated), [`fit`] (all of them), [`score`], and [`view`]
//! (what pictures show). With the feature `cuda`, `on_gpu` scores where the network runs.
//!
//! - Paper: *AFDU: anomaly factor based deterministic uncertainty* (基于神经元统计建模分析的不确定性度量方法); its title and abstract call
//!   the method so. Weights and ratio are RKOF's, Gao et al., PAKDD 2011.
//! - Reference code: none was published.
//! - What the paper leaves open is a key of [`Config`] each: neighbours, σ, layers, floor. The factor is computed in log space,
//!   so that a density that underflows is told from one that underflows further.
//! - NaN, infinite and huge activations of train images are left out of a neuron's fit and counted. A neuron that had no other
//!   tells nothing: its factor is 1 for every value, as that of a constant neuron under `constant: ignore`. An image to score
//!   that has a NaN or infinite activation is refused by name: a network that gives one is broken, and the cap would hide it. In
//!   pictures, where such a pixel can be seen, its factor is the cap.
//! - Tables are near the exact factors but for single places where the neighbourhood's density takes a step (see [`table`]). That
//!   hardly changes how images are ranked: of LeNet on MNIST (`tap: pre`, `aggregate: paper`, one seed), the AUROC of Fashion-MNIST is
//!   98.32 by both engines, that of EMNIST letters 86.75 by tables and 86.84 exactly. A few huge factors rule the paper's
//!   aggregate, so take `engine: exact` for final numbers of it.

pub mod bandwidth;
pub mod density;
pub mod factor;
mod figures;
pub mod fit;
pub mod kmeans;
pub mod layers;
pub mod neuron;
#[cfg(any(feature = "cuda", test))]
mod on_gpu;
mod part;
pub mod score;
pub mod table;
pub mod view;

use bandwidth::Rule;
pub use layers::Layers;

use super::{Bank, Check, Detector, Fit, LayerShape, Learns, Output, Refusal, Scorer, Scores, Smoke, views::Views};
use crate::{Error, Result};

/// Settings of AFDU.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Afdu")]
pub struct Config {
    /// What a neuron of a convolution is. `pixel` (a pixel of a feature map) in the paper's section 3.1: "each pixel of the
    /// feature map … the corresponding neuron".
    #[garde(skip)]
    pub granularity: Granularity,
    /// `pre` or `post` the non-linearity. The paper's section 2 speaks of a neuron's output activation: `post`. After a ReLU
    /// most neurons are 0 on many images.
    #[garde(skip)]
    pub tap: Tap,
    /// `all`, or the names of some. The paper sums over layers and does not say which.
    #[garde(custom(layers::names))]
    pub layers: Layers,
    /// Clusters a neuron, at most: 500 in the paper's eq. 5.
    #[garde(range(min = 2, max = 65_536))]
    pub clusters: usize,
    /// Neighbours of a value. The paper names none and draws 3; 5 is RKOF's default (DDoutlier).
    #[garde(range(min = 1, max = 65_536))]
    pub k: usize,
    /// How fast the weight of a neighbour in a sparse place falls (eq. 9). The paper names none; RKOF's σ² is 1 by default.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub sigma: f64,
    /// The least density of a value, per standard deviation of the neuron. 0: none, since logarithms need none; the paper names
    /// none.
    #[garde(range(min = 0.0, max = 1.0))]
    pub floor: f64,
    /// The largest log anomaly factor. 80, the largest of which sums over layers are finite as f32; the paper names none.
    #[garde(range(min = 1e-3, max = 80.0))]
    pub cap: f64,
    /// `isj` in the paper; `silverman` and `scott` for comparison.
    #[garde(skip)]
    pub bandwidth: Rule,
    /// Neurons that are the same on all train images: `ignore` gives them the factor 1; `layer` a single kernel with the median
    /// bandwidth of their layer. The paper does not speak of them; `ignore` adds no assumption.
    #[garde(skip)]
    pub constant: Constant,
    /// Train images to learn from, evenly spaced; all unless given, as in the paper.
    #[garde(range(min = 2, max = 1_000_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// How factors become a score; `paper`: the paper's eq. in algorithm 1.
    #[garde(skip)]
    pub aggregate: Aggregate,
    /// `tabulated` for speed: on LeNet and MNIST with `tap: pre`, where both were measured, no AUROC differs by more than 0.1 from
    /// that of `exact`.
    #[garde(skip)]
    pub engine: Engine,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            granularity: Granularity::Pixel,
            tap: Tap::Post,
            layers: Layers::All,
            clusters: 500,
            k: 5,
            sigma: 1.0,
            floor: 0.0,
            cap: 80.0,
            bandwidth: Rule::Isj,
            constant: Constant::Ignore,
            images: None,
            aggregate: Aggregate::Paper,
            engine: Engine::Tabulated,
        }
    }
}

macro_rules! setting {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)+ })+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }
    )+ };
}

setting! {
    /// What a neuron of a convolution is.
    Granularity {
        /// A pixel of a feature map.
        Pixel,
        /// A feature map: the mean over its pixels.
        Channel,
    }
    /// Where a layer is tapped.
    Tap {
        /// Before the non-linearity.
        Pre,
        /// After it.
        Post,
    }
    /// What is made of a neuron that took one value only.
    Constant {
        /// A factor of 1 for every value.
        Ignore,
        /// One kernel, with the median bandwidth of the layer's other neurons.
        Layer,
    }
    /// How an image's factors become its score.
    Aggregate {
        /// Σ over layers of the mean factor. A few huge factors rule it.
        Paper,
        /// Σ over layers of the mean log factor.
        Log,
        /// The same, each layer's mean less its mean on the train images, divided by its standard deviation there.
        Standardised,
    }
    /// How a neuron's factor is found.
    Engine {
        /// By interpolation in a table.
        Tabulated,
        /// From the clusters, each time.
        Exact,
    }
}

/// Clusters of a neuron in a smoke run: fewer than the train images, so that there is something to cluster.
const SMOKE_CLUSTERS: usize = 24;

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Layers]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(fit::fit(self, fit.train()?.batches()?, fit.memory, fit.scratch)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let chosen = layers::choose(self, about.layers);
            let chosen = chosen.map_err(|error| Refusal { key: Some("layers"), error })?;
            let neurons = chosen.last().map_or(0, |layer| layer.neurons.end);
            fit::check_memory(self, neurons, about.least(), about.memory)?;
            Ok(None)
        }))
    }

    fn views(&self) -> Option<&dyn Views> {
        Some(self)
    }

    /// `post` is the default, which nobody need have written.
    fn check_on_file(&self) -> Result<()> {
        match self.tap {
            Tap::Post => Ok(()),
            Tap::Pre => {
                let message = "--detector: tap: pre has no effect on a file, whose taps.<layer> are taken as they are";
                Err(Error::input(message).hint("leave tap out, and export the side of the non-linearity that you want"))
            }
        }
    }

    fn chooses(&self, layers: &[LayerShape]) -> Result<Option<Vec<usize>>> {
        Ok(Some(layers::choose(self, layers)?.iter().map(|layer| layer.index).collect()))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        let few = self.clusters.min(SMOKE_CLUSTERS);
        smoke.set("clusters", &mut self.clusters, few);
        if self.granularity == Granularity::Pixel && !(smoke.neurons)() {
            self.granularity = Granularity::Channel;
        }
    }
}

impl Scorer for fit::Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(score::scores(self, bank.batches()?)?)
    }

    fn check_fit(&self) -> Result<()> {
        let fit::Record { neurons, constant, absent, images, .. } = self.record;
        if neurons > constant + absent {
            return Ok(());
        }
        Err(Error::input(format!("none of {neurons} neurons varies over its {images} images"))
            .hint("AFDU learns from many train images: every score would be the same"))
    }

    fn record(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.record).ok()
    }
}
