//! Stages of a backbone that a model reads, and a backbone that teaches: it does not learn, whatever the pass.

use candle_core::{Result, Tensor};

use crate::{
    Error, did_you_mean,
    nn::{Backbone, Pass, backbone::Extractor},
    yaml::problems::{Path, Problem},
};

/// The image's rows over those of the three stages that are read unless others are named: torchvision's `layer1`, `layer2` and `layer3`.
const STRIDES: [usize; 3] = [4, 8, 16];

/// A stage's name, and its channels, rows and columns.
pub(super) type Stage = (String, [usize; 3]);

/// `layer1, layer2`
fn listed(all: &[Stage]) -> String {
    all.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>().join(", ")
}

/// The place of the stage of this name among `all` of a backbone's; `path` is the setting that names it.
pub(super) fn place(backbone: &Backbone, all: &[Stage], path: Path, name: &str) -> std::result::Result<usize, Problem> {
    all.iter().position(|(other, _)| other == name).ok_or_else(|| {
        let near = did_you_mean(name, all.iter().map(|(name, _)| &name[..]));
        let message = format!("{} has no stage \"{name}\"{near}; its stages: {}", backbone.name(), listed(all));
        Problem { path, message }
    })
}

/// The places of the stages that `stages` names, from input to output; `order` says what they are to be.
pub(super) fn places(
    backbone: &Backbone,
    all: &[Stage],
    names: &[String],
    order: &str,
) -> std::result::Result<Vec<usize>, Problem> {
    let path = Path::default().join("stages");
    let found = names.iter().enumerate().map(|(at, name)| place(backbone, all, path.join(at), name));
    let found = found.collect::<std::result::Result<Vec<_>, _>>()?;
    if found.is_sorted_by(|one, next| one < next) {
        return Ok(found);
    }
    Err(Problem { path, message: format!("{order}, from input to output: of {}", listed(all)) })
}

/// The places of the last stages that have a quarter, an eighth and a sixteenth of `rows`.
pub(super) fn usual(backbone: &Backbone, all: &[Stage], rows: usize) -> std::result::Result<[usize; 3], Problem> {
    let last = |stride: usize| all.iter().rposition(|(_, [_, found, _])| *found == rows.div_ceil(stride));
    let [Some(one), Some(two), Some(three)] = STRIDES.map(last) else {
        let (name, known) = (backbone.name(), listed(all));
        let message = format!(
            "{name} has no stages of a quarter, an eighth and a sixteenth of {rows} rows: name three of {known}"
        );
        return Err(Problem { path: Path::default().join("stages"), message });
    };
    Ok([one, two, three])
}

/// The stages that `stages` names, or the usual ones, of images of so many rows and columns; where that is not known yet and none are named,
/// nothing is known of them.
pub(super) fn chosen(
    backbone: &Backbone,
    names: Option<&[String]>,
    size: Option<[usize; 2]>,
) -> std::result::Result<Option<Vec<Stage>>, Problem> {
    // The names are the same for all sizes.
    let all = backbone.stages(size.unwrap_or([256; 2]));
    let found = match (names, size) {
        (Some(names), _) => places(backbone, &all, names, "must be named once each")?,
        (None, Some([rows, _])) => usual(backbone, &all, rows)?.to_vec(),
        (None, None) => return Ok(None),
    };
    Ok(size.map(|_| found.into_iter().map(|place| all[place].clone()).collect()))
}

/// Bytes of these stages of an image, or of the usual ones.
pub(super) fn bytes(backbone: &Backbone, names: Option<&[String]>, size: [usize; 2]) -> Option<usize> {
    let stages = chosen(backbone, names, Some(size)).ok()??;
    Some(stages.iter().map(|(_, sizes)| sizes.iter().product::<usize>() * size_of::<f32>()).sum())
}

/// Bytes of an image that is kept, in colour, as far as is known here.
pub(super) fn image_bytes([height, width]: [usize; 2]) -> usize {
    3 * height * width * size_of::<f32>()
}

/// What decides what is kept of an image by who sees both it and its stages.
pub(super) fn images_and_stages(backbone: &Backbone, names: Option<&[String]>) -> serde_json::Value {
    serde_json::json!(["images and stages", backbone, names])
}

/// A problem of a model's settings as an error, where the model is built.
pub(super) fn wrong(model: &str) -> impl Fn(Problem) -> Error + '_ {
    move |Problem { path, message }| Error::input(format!("{model}: {path}: {message}"))
}

/// The maps that leave the stages of these names, of which the last is the last.
pub(super) fn maps_of(trunk: &dyn Extractor, names: &[String], images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
    let Some(last) = names.last() else { return Ok(Vec::new()) };
    let all = trunk.stages_until(images, last, pass)?;
    let of = |name: &String| match all.iter().find(|(other, _)| other == name) {
        Some((_, maps)) => Ok(maps.clone()),
        None => candle_core::bail!("the backbone shows no stage {name}"),
    };
    names.iter().map(of).collect()
}

/// The same as constants, of a backbone that is used and never learns: in a pass of its own, lest its statistics move.
pub(super) fn fixed_maps_of(
    trunk: &dyn Extractor,
    names: &[String],
    images: &Tensor,
    pass: &Pass,
) -> Result<Vec<Tensor>> {
    let frozen = Pass::eval();
    let maps = maps_of(trunk, names, &images.detach(), &frozen)?;
    pass.hold_as(&frozen);
    Ok(maps.iter().map(Tensor::detach).collect())
}
