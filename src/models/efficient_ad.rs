//! EfficientAD: a student and an autoencoder learn a teacher's descriptions of patches, and the student learns the autoencoder's, too.
//!
//! local = mean over channels of (teacher − student)², global = mean over channels of (autoencoder − student's second half)²;
//! map = ½·local + ½·global. With `map: { of: quantiles }` both are brought to one measure first, as in the paper.
//!
//! - Paper: Batzner, Heckler & König, *EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies*, WACV 2024,
//!   <https://arxiv.org/abs/2303.14535>.
//! - Code: `nelson1425/EfficientAD`; its recipe is `loss: { regression: { hard: 0.999 } }`, Adam with learning rate 0.0001 and weight decay
//!   0.00001, a tenth of the rate from 95 % of the steps on, 70,000 batches of one image, and `map: { of: quantiles, smooth: 0 }`. The penalty on
//!   images of ImageNet is `student_penalty: {}`, with auxiliary outliers.
//! - The teacher is [taken](crate::models::patch_description) `from` another network. Its outputs are standardised by the train images.
//! - Deviations: the code shows the autoencoder an image of other brightness, contrast or saturation, and the student as well where both are
//!   compared. Here all see one image, of which the recipe's `augment` may change the colours. The code's map is 0 beyond the last whole
//!   patch; ours has the nearest value there, and quantiles are of such maps.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        students::OWN,
        teacher::{TEACHER, UNTAUGHT, apart, grid, mean_of, taught, taught_by, taught_bytes},
    },
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        description_autoencoder::{Autoencoder, Form, LEAST_SIDE},
        patch_description::{self, PatchNetwork},
        standard::{Standard, Survey},
    },
};

/// Settings of EfficientAD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "EfficientAd")]
pub struct Settings {
    /// The teacher's network, as where it was distilled; the student's has twice the outputs. Default: PDN-S, for EfficientAD-S.
    #[garde(dive)]
    pub patches: patch_description::Settings,
    /// Whether zeros stand beyond the image's border. Default: `false`, as in the code.
    #[garde(skip)]
    pub padding: bool,
    /// Channels of the autoencoder; its first two convolutions have half as many. The paper's: 64.
    #[garde(range(min = 2, max = 4096))]
    pub width: usize,
    /// The share of the autoencoder's values that are left out while it learns. The paper's: 0.2. Its code by `nelson1425`: 0.
    #[garde(range(min = 0.0, max = 0.9))]
    pub dropout: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { patches: patch_description::Settings::default(), padding: false, width: 64, dropout: 0.2 }
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Pairs, Output::Map, Output::Parts]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let size = [shape.height, shape.width];
        let grid = grid("efficient_ad", &self.patches, self.padding, size)?;
        let network = |times: usize, name: &str| {
            PatchNetwork::new(&self.patches, shape.channels, self.padding, times, &vb.pp(name))
        };
        let outputs = self.patches.outputs;
        let form = Form { width: self.width, outputs, dropout: self.dropout };
        Ok(Box::new(EfficientAd {
            teacher: network(1, TEACHER)?,
            standard: Standard::new(outputs, &vb.pp("teacher_outputs"))?,
            student: network(2, OWN)?,
            autoencoder: Autoencoder::new(form, shape, grid, &vb.pp("autoencoder"))?,
            outputs,
            size,
        }))
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(taught_by(&self.patches, self.padding))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        taught_bytes(&self.patches, self.padding, size)
    }

    fn frozen(&self) -> Option<String> {
        Some(UNTAUGHT.to_owned())
    }

    fn least_side(&self) -> usize {
        self.patches.layers.least_side(self.padding).max(LEAST_SIDE)
    }

    fn smoke(self) -> Self {
        Self { patches: self.patches.smoke(), padding: true, width: self.width.min(4), ..self }
    }

    fn on_small_images(self) -> Self {
        self.smoke()
    }
}

/// The networks.
#[derive(Debug, Clone)]
struct EfficientAd {
    teacher: PatchNetwork,
    standard: Standard,
    student: PatchNetwork,
    autoencoder: Autoencoder,
    /// Numbers that describe a patch.
    outputs: usize,
    /// Rows and columns of images.
    size: [usize; 2],
}

impl Model for EfficientAd {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&taught(&self.teacher, &self.standard, images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        taught(&self.teacher, &self.standard, images, &Pass::eval()).map(Some)
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let [images, teacher] = fixed else {
            candle_core::bail!("EfficientAD sees images and a teacher's descriptions, not {} tensors", fixed.len())
        };
        let student = self.student.forward(images, pass)?;
        let [local, global] = [0, self.outputs].map(|first| student.narrow(1, first, self.outputs));
        let (local, global) = (local?, global?);
        let made = self.autoencoder.forward(images, pass)?;
        let (mut parts, mut map) = (Vec::new(), None);
        if pass.mode() == Mode::Eval {
            for (name, one, other) in [("local", teacher, &local), ("global", &made, &global)] {
                parts.push((name, self.student.with_margin(&apart(one, other)?, self.size)?));
            }
            map = Some(mean_of(&parts)?);
        }
        let pairs = vec![(teacher.clone(), local), (teacher.clone(), made.clone()), (made, global)];
        Ok(Shown { pairs, parts, map, ..Shown::default() })
    }

    fn survey(&self) -> Option<Survey<'_>> {
        Some(Survey::new(&self.standard, |images| self.teacher.forward(images, &Pass::eval())))
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }
}
