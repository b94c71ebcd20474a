//! What every model can do: show named outputs of images.

use candle_core::{Result, Tensor, bail};

use crate::nn::{
    Denoiser, Pass,
    pass::{Layer, Leaf},
    standard::Survey,
    windows::{PatchPairs, Windowed},
};

/// The last linear layer: detectors such as ReAct re-apply it.
#[derive(Debug, Clone)]
pub struct Head {
    /// (K, D)
    pub weight: Tensor,
    /// (K)
    pub bias: Tensor,
}

/// What a model shows of a batch of images. What it does not have is `None` or empty.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// (N, K) f32, before softmax.
    pub logits: Option<Tensor>,
    /// (N, D) f32, what the last layer makes the logits of: its input, unless the [head](super::heads) says otherwise.
    pub features: Option<Tensor>,
    /// (N, C, H, W) f32, the images made again, normalised as they were.
    pub images: Option<Tensor>,
    /// (N, h, w) f32, larger where an image is more anomalous; while it learns only of models that show [`Output::Scores`](super::Output).
    pub map: Option<Tensor>,
    /// (N, h, w) f32, while it learns, the same where noise was added to the features.
    pub noised: Option<Tensor>,
    /// (N, h, w) f32 each, what the map is the mean of, all at its rows and columns; by name. Of models that show [`Output::Parts`](super::Output).
    pub parts: Vec<(&'static str, Tensor)>,
    /// (N, C, h, w) f32, the features of every position that a loss shapes.
    pub embedding: Option<Tensor>,
    /// (N, C, h, w) f32 each, embeddings of further sizes of patches, which a loss shapes alike.
    pub further: Vec<Tensor>,
    /// Maps (N, C, h, w) of a teacher, each with a student's of the same shape; from the finest to the coarsest. A teacher's are constants,
    /// unless it learns, too.
    pub pairs: Vec<(Tensor, Tensor)>,
    /// (N, 1 + M) f32, before softmax: whether nothing changed an image, or which of M makers of outliers did.
    pub makers: Option<Tensor>,
    /// What a model made of noisy images, and what it should have: (N, C, H, W) f32 each. While it learns, and of a pass that
    /// [judges](Pass::judging).
    pub denoised: Option<[Tensor; 2]>,
    /// What is seen of windows of the images; nothing of a model that sees whole images.
    pub windows: Vec<Windowed>,
    /// Pairs of patches of each size, while it learns, of a model that draws some.
    pub patches: Vec<PatchPairs>,
    /// The (N, C, H, W) maps that leave each stage, with its name, from input to output; clones of tensors the pass made anyway.
    pub stages: Vec<(String, Tensor)>,
    /// Every layer's neurons, from input to output, of a pass that [keeps](Pass::keeping_layers) them.
    pub layers: Vec<Layer>,
    /// The stages that the pass is [differentiated](Pass::differentiating) by, from input to output.
    pub leaves: Vec<Leaf>,
}

impl Shown {
    /// The (N, K) logits.
    ///
    /// # Errors
    /// If the model has none.
    pub fn logits(&self) -> Result<&Tensor> {
        known(self.logits.as_ref(), "logits")
    }

    /// The (N, D) features.
    ///
    /// # Errors
    /// If the model has none.
    pub fn features(&self) -> Result<&Tensor> {
        known(self.features.as_ref(), "features")
    }

    /// The (N, C, H, W) images made again.
    ///
    /// # Errors
    /// If the model makes none.
    pub fn images(&self) -> Result<&Tensor> {
        known(self.images.as_ref(), "images made again")
    }

    /// The (N, h, w) maps.
    ///
    /// # Errors
    /// If the model has none.
    pub fn map(&self) -> Result<&Tensor> {
        known(self.map.as_ref(), "map")
    }

    /// The (N, C, h, w) embedding.
    ///
    /// # Errors
    /// If the model has none.
    pub fn embedding(&self) -> Result<&Tensor> {
        known(self.embedding.as_ref(), "embedding")
    }

    /// The embedding, and those of further sizes of patches.
    ///
    /// # Errors
    /// If the model has none.
    pub fn embeddings(&self) -> Result<impl Iterator<Item = &Tensor>> {
        Ok(std::iter::once(self.embedding()?).chain(&self.further))
    }

    /// The parts of the (N, h, w) maps.
    ///
    /// # Errors
    /// If the model has none.
    pub fn parts(&self) -> Result<&[(&'static str, Tensor)]> {
        match &self.parts[..] {
            [] => bail!("the model shows no parts of a map"),
            parts => Ok(parts),
        }
    }

    /// The pairs of a teacher's and a student's maps.
    ///
    /// # Errors
    /// If the model has none.
    pub fn pairs(&self) -> Result<&[(Tensor, Tensor)]> {
        match &self.pairs[..] {
            [] => bail!("the model shows no pairs of a teacher's and a student's maps"),
            pairs => Ok(pairs),
        }
    }

    /// The (N, 1 + M) logits of what changed an image.
    ///
    /// # Errors
    /// If the model has none.
    pub fn makers(&self) -> Result<&Tensor> {
        known(self.makers.as_ref(), "logits of what changed an image")
    }

    /// What the model made of noisy images, and what it should have.
    ///
    /// # Errors
    /// If the model has none, as in evaluation.
    pub fn denoised(&self) -> Result<&[Tensor; 2]> {
        match &self.denoised {
            Some(denoised) => Ok(denoised),
            None => bail!("the model shows nothing of noisy images"),
        }
    }

    /// The pairs of patches of each size.
    ///
    /// # Errors
    /// If the model has none, as in evaluation.
    pub fn patches(&self) -> Result<&[PatchPairs]> {
        match &self.patches[..] {
            [] => bail!("the model shows no pairs of patches"),
            patches => Ok(patches),
        }
    }

    /// The (N, C, H, W) maps that leave this stage, if there is one.
    pub fn stage(&self, name: &str) -> Option<&Tensor> {
        self.stages.iter().find_map(|(other, maps)| (other == name).then_some(maps))
    }

    /// The stages' names, from input to output.
    pub fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|(name, _)| name.as_str())
    }

    /// The same of `count` images from `start` on; nothing of layers.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        let of = |tensor: &Tensor| tensor.narrow(0, start, count);
        let stages = self.stages.iter().map(|(name, maps)| Ok((name.clone(), of(maps)?)));
        let pairs = self.pairs.iter().map(|(teacher, student)| Ok((of(teacher)?, of(student)?)));
        let windows = self.windows.iter().map(|seen| Ok(Windowed { features: of(&seen.features)?, ..seen.clone() }));
        let parts = self.parts.iter().map(|(name, part)| Ok((*name, of(part)?)));
        let patches = self.patches.iter().map(|pairs| {
            let [first, second] = &pairs.near;
            let (logits, directions) = (of(&pairs.logits)?, of(&pairs.directions)?);
            Ok(PatchPairs { logits, directions, near: [of(first)?, of(second)?] })
        });
        let denoised = match &self.denoised {
            Some([made, wanted]) => Some([of(made)?, of(wanted)?]),
            None => None,
        };
        Ok(Self {
            logits: self.logits.as_ref().map(of).transpose()?,
            features: self.features.as_ref().map(of).transpose()?,
            images: self.images.as_ref().map(of).transpose()?,
            map: self.map.as_ref().map(of).transpose()?,
            noised: self.noised.as_ref().map(of).transpose()?,
            embedding: self.embedding.as_ref().map(of).transpose()?,
            further: self.further.iter().map(of).collect::<Result<_>>()?,
            pairs: pairs.collect::<Result<_>>()?,
            makers: self.makers.as_ref().map(of).transpose()?,
            denoised,
            windows: windows.collect::<Result<_>>()?,
            parts: parts.collect::<Result<_>>()?,
            patches: patches.collect::<Result<_>>()?,
            stages: stages.collect::<Result<_>>()?,
            ..Self::default()
        })
    }
}

fn known<'a>(output: Option<&'a Tensor>, what: &str) -> Result<&'a Tensor> {
    match output {
        Some(output) => Ok(output),
        None => bail!("the model shows no {what}"),
    }
}

/// Anything with parameters that shows outputs of images. Input: (N, C, H, W) f32, normalised.
pub trait Model: Send + Sync {
    /// What it makes of images.
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown>;
    /// What it makes of images before anything that learns: tensors of N rows each, constants. `None` of a model all of which learns.
    ///
    /// # Errors
    /// As [`Model::show`].
    fn fixed(&self, _images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }
    /// [`Model::show`] of images of which [`Model::fixed`] gave this.
    ///
    /// # Errors
    /// As [`Model::show`]; of a model without a fixed part.
    fn show_fixed(&self, _fixed: &[Tensor], _pass: &Pass) -> Result<Shown> {
        bail!("all of this model learns: there is nothing fixed to begin with")
    }
    /// What it wants to know of the train images before the first step; `None` of a model that learns without.
    fn survey(&self) -> Option<Survey<'_>> {
        None
    }
    /// The last linear layer; none when there are no logits, or they are not a linear layer of the features.
    fn head(&self) -> Option<Head> {
        None
    }
    /// The model as one that predicts the noise in noisy images; `None` of a model that does not.
    fn denoiser(&self) -> Option<&dyn Denoiser> {
        None
    }
    /// Called while learning, after each change of the parameters, with the batch that led to it: images as for [`Model::show`], and
    /// (N) u32 classes. Moves what follows the parameters without gradients, such as DUQ's centroids.
    fn after_step(&self, _images: &Tensor, _labels: &Tensor) -> Result<()> {
        Ok(())
    }
    /// The same for [`Mode::Eval`](super::Mode::Eval) only, and faster: batch normalisations are folded into the convolutions before
    /// them, once. Equal up to rounding; gradients with respect to the images are those of the model as it was.
    ///
    /// It keeps the parameters of this moment: fold anew after they change.
    fn folded(&self) -> Result<Box<dyn Model>>;
}
