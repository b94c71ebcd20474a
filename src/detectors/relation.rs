//! Relation: an image of a known class is related to many train images, by its features and by what the network takes it for.
//!
//! score = −Σ_i r_iᵖ over the train images i with r_i > threshold, where r_i = max(cos(z, z_i), 0)·softmax(f)·softmax(f_i).
//!
//! - Paper: Kim et al., *Neural Relation Graph: A Unified Framework for Identifying Label Noise and Outlier Data*, NeurIPS 2023,
//!   <https://arxiv.org/abs/2301.12321>.
//! - Reference code: `snu-mllab/Neural-Relation-Graph`; OpenOOD `relation_postprocessor.py`.
//! - Deviations: features of zeros are related to nothing, as there but for a 1e-10. Relations are computed in f32 and summed in f64.

use candle_core::Tensor;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use super::{Bank, Detector, Fit, Learns, Output, Scorer, Scores, knn::unit, log_softmax, map_rows, same};
use crate::{Error, Result, ops::wide};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Relation")]
pub struct Config {
    /// p: 1 in OpenOOD, which searches 1, 2, 4, 6 and 8.
    #[garde(range(min = 1, max = 64))]
    pub power: i32,
    /// Relations up to this do not count: 0.03 in the reference code and in OpenOOD.
    #[garde(range(min = 0.0, max = 1.0))]
    pub threshold: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { power: 1, threshold: 0.03 }
    }
}

/// Train images that are multiplied at a time: a megabyte of products with [`TOGETHER`] images, for the cache.
const TILE: usize = 1024;
/// Images that are multiplied at a time. Always so many, so that an image's score does not depend on its company.
const TOGETHER: usize = 256;

struct Fitted {
    config: Config,
    /// Features, classes.
    sizes: [usize; 2],
    executor: GemmExecutor,
    /// The train images, those of a class together.
    tiles: Vec<Tile>,
}

/// Some train images.
struct Tile {
    images: usize,
    features: PackedBMatrix<f32>,
    probabilities: PackedBMatrix<f32>,
    /// The largest probability of each class.
    most: Vec<f32>,
}

/// Features of length 1 and softmax of some images.
struct Rows {
    features: Vec<f32>,
    probabilities: Vec<f32>,
    /// The rows by predicted class; the sure ones of a class are next to those of one neighbour, the unsure ones to the other's, so that
    /// few tiles hold unsure ones.
    order: Vec<usize>,
}

impl Rows {
    fn new(logits: &Tensor, features: &Tensor) -> Result<Self> {
        let classes = logits.dims2()?.1;
        same("rows of features", features.dim(0)?, logits.dim(0)?)?;
        let probabilities =
            map_rows(logits, |row| log_softmax(row).into_iter().map(|log_p| log_p.exp() as f32).collect::<Vec<_>>())?;
        let sure: Vec<(usize, f32)> = probabilities.iter().map(|row| predicted(row)).collect();
        let mut order: Vec<usize> = (0..sure.len()).collect();
        order.sort_by(|a, b| {
            let ([(class, a), (other, b)], even) = ([sure[*a], sure[*b]], sure[*a].0.is_multiple_of(2));
            class.cmp(&other).then(if even { b.total_cmp(&a) } else { a.total_cmp(&b) })
        });
        let mut flat = Vec::with_capacity(sure.len() * classes);
        probabilities.iter().for_each(|row| flat.extend(row));
        Ok(Self { features: unit(features)?, probabilities: flat, order })
    }
}

fn predicted(probabilities: &[f32]) -> (usize, f32) {
    let most = (0..probabilities.len()).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).unwrap_or(0);
    (most, probabilities[most])
}

/// The chosen rows of (N, columns) values, and zeros for the rest of `count` rows.
fn gathered(values: &[f32], columns: usize, rows: &[usize], count: usize) -> Vec<f32> {
    let mut gathered = Vec::with_capacity(count * columns);
    rows.iter().for_each(|row| gathered.extend_from_slice(&values[row * columns..][..columns]));
    gathered.resize(count * columns, 0.0);
    gathered
}

impl Fitted {
    fn new(config: &Config, train: &Bank) -> Result<Self> {
        let sizes = [train.features.dim(1)?, train.logits.dim(1)?];
        let rows = Rows::new(&train.logits, &train.features)?;
        let executor = GemmExecutor::new();
        let packed = |values: &[f32], columns: usize| {
            executor.prepack_b(NdTensorView::from_data([values.len() / columns, columns], values).transposed())
        };
        let tile = |order: &[usize]| {
            let features = gathered(&rows.features, sizes[0], order, order.len());
            let probabilities = gathered(&rows.probabilities, sizes[1], order, order.len());
            let mut most = vec![0.0; sizes[1]];
            for row in probabilities.chunks_exact(sizes[1]) {
                most.iter_mut().zip(row).for_each(|(most, p): (&mut f32, &f32)| *most = most.max(*p));
            }
            let (features, probabilities) = (packed(&features, sizes[0]), packed(&probabilities, sizes[1]));
            Tile { images: order.len(), features, probabilities, most }
        };
        let tiles = rows.order.par_chunks(TILE).map(tile).collect();
        Ok(Self { config: config.clone(), sizes, tiles, executor })
    }

    fn scores(&self, logits: &Tensor, features: &Tensor) -> Result<Vec<f32>> {
        let [columns, classes] = self.sizes;
        same("features", features.dim(1)?, columns)?;
        same("logits", logits.dim(1)?, classes)?;
        let rows = Rows::new(logits, features)?;
        let mut scores = vec![0.0; rows.order.len()];
        let [mut cosines, mut agreements] = [vec![0.0; TOGETHER * TILE], vec![0.0; TOGETHER * TILE]];
        for block in rows.order.chunks(TOGETHER) {
            let features = gathered(&rows.features, columns, block, TOGETHER);
            let probabilities = gathered(&rows.probabilities, classes, block, TOGETHER);
            let mut sums = vec![0.0; block.len()];
            for tile in self.tiles.iter().filter(|tile| self.can_be_related(&probabilities, tile)) {
                let (cosines, agreements) =
                    (&mut cosines[..TOGETHER * tile.images], &mut agreements[..TOGETHER * tile.images]);
                self.multiply(cosines, &features, &tile.features)?;
                self.multiply(agreements, &probabilities, &tile.probabilities)?;
                let each = cosines.par_chunks_exact(tile.images).zip(agreements.par_chunks_exact(tile.images));
                sums.par_iter_mut().zip(each).for_each(|(sum, (cosines, agreements))| {
                    *sum += self.relations(cosines, agreements);
                });
            }
            block.iter().zip(sums).for_each(|(image, sum)| scores[*image] = -sum as f32);
        }
        Ok(scores)
    }

    /// Whether a relation between the images and the tile's can count, by their probabilities alone. Where a network is sure, other
    /// classes' train images drop out.
    fn can_be_related(&self, probabilities: &[f32], tile: &Tile) -> bool {
        // Lengths of 1 and sums of products are true to rounding.
        let threshold = self.config.threshold * 0.999;
        probabilities.chunks_exact(self.sizes[1]).any(|row| {
            row.iter().zip(&tile.most).map(|(p, most)| f64::from(*p) * f64::from(*most)).sum::<f64>() >= threshold
        })
    }

    /// The sum of the relations that count.
    fn relations(&self, cosines: &[f32], agreements: &[f32]) -> f64 {
        match self.config.power {
            1 => self.sum(cosines, agreements, |relation| relation),
            power => self.sum(cosines, agreements, |relation| relation.powi(power)),
        }
    }

    fn sum(&self, cosines: &[f32], agreements: &[f32], of: impl Fn(f64) -> f64) -> f64 {
        const LANES: usize = 8;
        let mut sums = [0.0; LANES];
        wide!({
            for (cosines, agreements) in cosines.chunks(LANES).zip(agreements.chunks(LANES)) {
                for ((sum, a), b) in sums.iter_mut().zip(cosines).zip(agreements) {
                    let relation = f64::from(a.max(0.0)) * f64::from(*b);
                    *sum += if relation > self.config.threshold { of(relation) } else { 0.0 };
                }
            }
        });
        sums.iter().sum()
    }

    fn multiply(&self, products: &mut [f32], rows: &[f32], tile: &PackedBMatrix<f32>) -> Result<()> {
        let rows = GemmInputA::Unpacked(NdTensorView::from_data([TOGETHER, rows.len() / TOGETHER], rows));
        let multiplied = self.executor.gemm(products, rows, GemmInputB::Packed(tile), GemmOptions::default());
        multiplied.map_err(|error| Error::Failed(format!("a product of features: {error}")))
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Logits, Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted::new(self, fit.train()?)?))
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        Scores::new(self.scores(&bank.logits, &bank.features)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Train images of more than a tile, of a network that is sure: most tiles are passed over, and nothing that counts is lost.
    #[test]
    fn what_is_passed_over_does_not_count() {
        let mut normal = StandardNormal.sample_iter(crate::rng::stream(0, "relation test", "normal"));
        let mut values = |images: usize, columns: usize, scale: f32| {
            let values: Vec<f32> = normal.by_ref().take(images * columns).map(|x: f32| x * scale).collect();
            Tensor::from_vec(values, (images, columns), &Device::Cpu).unwrap()
        };
        let mut bank = |images| {
            let (logits, features) = (values(images, 4, 12.0), values(images, 6, 1.0));
            Bank::new(logits, features)
        };
        let (train, test) = (bank(8 * TILE), bank(TOGETHER + 3));
        let fitted = Fitted::new(&Config::default(), &train).unwrap();
        let scores = fitted.scores(&test.logits, &test.features).unwrap();

        let of = |bank: &Bank| Rows::new(&bank.logits, &bank.features).unwrap();
        let (known, asked) = (of(&train), of(&test));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        for (image, score) in scores.iter().enumerate() {
            let relations = (0..8 * TILE).map(|row| {
                dot(&asked.features[image * 6..][..6], &known.features[row * 6..][..6]).max(0.0)
                    * dot(&asked.probabilities[image * 4..][..4], &known.probabilities[row * 4..][..4])
            });
            let expected = -relations.filter(|relation| *relation > 0.03).sum::<f64>();
            // A relation at the threshold may be on either side of it.
            assert!((f64::from(*score) - expected).abs() < 1e-5 * expected.abs() + 0.0301, "{score} and {expected}");
        }
        let sure = gathered(&asked.probabilities, 4, &asked.order[..1], 1);
        let used = fitted.tiles.iter().filter(|tile| fitted.can_be_related(&sure, tile)).count();
        assert!((1..6).contains(&used), "{used} of 8 tiles");
    }
}
