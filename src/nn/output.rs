//! The names of what models show.

use std::fmt;

/// Something that a model can show of images. What reads a model says which of these it needs.
///
/// An ensemble shows logits, features and members alone. One network has no members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Output {
    /// (N, K) logits, of which it may matter only what softmax keeps: not what is added to all logits of an image.
    Logits,
    /// The logits as the last layer gave them.
    RawLogits,
    /// Logits of a softmax over classes that exclude each other.
    Softmax,
    /// Logits that are ln K of a kernel for each class: a DUQ head's.
    Kernels,
    /// The last linear layer, which makes the logits of the features.
    Head,
    /// (N, M, K) logits of the members of an ensemble.
    Members,
    /// (N, D) features.
    Features,
    /// The (N, C, H, W) maps that leave each stage.
    Stages,
    /// Every layer's neurons.
    Layers,
    /// The last layer's maps, whose means over the pixels are the features.
    LastMaps,
    /// A graph from the images to the outputs, to differentiate by.
    Gradients,
    /// (N, C, H, W) images made again.
    Images,
    /// (N, h, w) anomaly maps.
    Map,
    /// The maps while the model learns: a score of every position that a loss can shape.
    Scores,
    /// While the model learns, the scores of the same positions after noise was added to their features.
    Noised,
    /// (N, C, h, w) features of every position that a loss shapes.
    Embedding,
    /// (N, C, h, w) maps of a teacher, each beside what a student made of it.
    Pairs,
    /// (N, 1 + M) logits of what changed an image: nothing, or one of M makers of outliers.
    Makers,
    /// (N, D, h, w) features of an image's windows.
    Windows,
    /// The (N, h, w) maps that the map is the mean of.
    Parts,
    /// Pairs of patches, while the model learns.
    Patches,
    /// The noise in noisy images: of a model that is a [`Denoiser`](super::Denoiser).
    Noise,
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Logits | Self::RawLogits => "logits",
            Self::Softmax => "logits of a softmax",
            Self::Kernels => "the kernels of a DUQ head",
            Self::Head => "a last linear layer",
            Self::Members => "members",
            Self::Features => "features",
            Self::Stages => "stages",
            Self::Layers => "layers",
            Self::LastMaps => "last maps whose means are the features",
            Self::Gradients => "gradients",
            Self::Images => "images made again",
            Self::Map => "a map",
            Self::Scores => "scores of positions",
            Self::Noised => "scores of positions with noise",
            Self::Embedding => "an embedding of positions",
            Self::Pairs => "pairs of a teacher's and a student's maps",
            Self::Makers => "logits of what changed an image",
            Self::Windows => "features of windows",
            Self::Parts => "the parts of a map",
            Self::Patches => "pairs of patches",
            Self::Noise => "the noise in noisy images",
        })
    }
}
