//! A small teacher that is taken from another network, whose descriptions of patches are learned: what models of it have in common.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    Error,
    models::stages::image_bytes,
    nn::{
        Pass,
        patch_description::{PatchNetwork, Settings},
        standard::Standard,
    },
    yaml::problems::first_repeated,
};

/// What stands before the names of its parameters, where it is distilled and where it teaches.
pub(super) const TEACHER: &str = "teacher";
/// Networks of further sizes of patches, at most: there are so many kinds besides the first.
pub(super) const MOST_FURTHER: usize = 3;
/// Why a teacher that is not taken from another network is none.
pub(super) const UNTAUGHT: &str = "a teacher does not learn here, so it stays as random as it starts: distil one, `model: { \
                                   patch_description: … }`, and name that network under `from`";

/// Rows and columns of descriptions of images of this size.
pub(super) fn grid(model: &str, patches: &Settings, padded: bool, size: [usize; 2]) -> crate::Result<[usize; 2]> {
    let layers = patches.layers;
    layers.grid(size, padded).ok_or_else(|| {
        let ([rows, columns], patch) = (size, layers.patch());
        Error::input(format!("{model}: images of {rows}×{columns} have no patch of {patch}×{patch}"))
            .hint("choose another `size` of the data, or `padding: true`")
    })
}

/// What precedes anything that learns where a teacher teaches: the images, and what it says of them, standardised.
pub(super) fn taught(teacher: &PatchNetwork, outputs: &Standard, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
    Ok(vec![images.clone(), described(teacher, outputs, images, pass)?])
}

/// What a teacher says of images, standardised.
pub(super) fn described(teacher: &PatchNetwork, outputs: &Standard, images: &Tensor, pass: &Pass) -> Result<Tensor> {
    let frozen = Pass::eval();
    let described = outputs.forward(&teacher.forward(&images.detach(), &frozen)?)?.detach();
    pass.hold_as(&frozen);
    Ok(described)
}

/// Bytes of [`taught`] of an image.
pub(super) fn taught_bytes(patches: &Settings, padded: bool, size: [usize; 2]) -> Option<usize> {
    Some(image_bytes(size) + described_bytes(patches, padded, size)?)
}

/// Bytes of the descriptions of an image.
pub(super) fn described_bytes(patches: &Settings, padded: bool, size: [usize; 2]) -> Option<usize> {
    let [rows, columns] = patches.layers.grid(size, padded)?;
    Some(patches.outputs * rows * columns * size_of::<f32>())
}

/// Where the parameters of the network of a size of patches are: those of the first are named as where there is no other.
pub(super) fn of_size(vb: VarBuilder<'_>, at: usize) -> VarBuilder<'_> {
    if at == 0 { vb } else { vb.pp("further").pp(at - 1) }
}

/// The networks of all sizes of patches.
pub(super) fn all_sizes<'a>(patches: &'a Settings, further: &'a [Settings]) -> impl Iterator<Item = &'a Settings> {
    std::iter::once(patches).chain(further)
}

/// Garde: no two networks see patches of one kind, since nothing would tell them apart.
pub(super) fn no_size_twice(patches: &Settings) -> impl FnOnce(&Vec<Settings>, &()) -> garde::Result + '_ {
    move |further, ()| {
        let all: Vec<_> = all_sizes(patches, further).map(|settings| settings.layers.name()).collect();
        match first_repeated(&all) {
            Some(at) => Err(garde::Error::new(format!("layers {} are there twice", all[at]))),
            None => Ok(()),
        }
    }
}

/// What decides [`taught`] of an image, beside the teacher's weights.
pub(super) fn taught_by(patches: &Settings, padded: bool) -> serde_json::Value {
    serde_json::json!(["images and teacher", patches, padded])
}

/// The mean over channels of the squared difference: two (N, C, h, w) to (N, h, w).
pub(super) fn apart(one: &Tensor, other: &Tensor) -> Result<Tensor> {
    (one - other)?.sqr()?.mean(1)
}

/// The mean of maps of one shape.
pub(super) fn mean_of(parts: &[(&'static str, Tensor)]) -> Result<Tensor> {
    let all: Vec<&Tensor> = parts.iter().map(|(_, part)| part).collect();
    Tensor::stack(&all, D::Minus1)?.mean(D::Minus1)
}
