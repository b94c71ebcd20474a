//! What a sheet of pseudo-anomalies shows, kept beside the network that learns from them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use crate::{
    Result,
    config::Figure,
    data::pseudo,
    nn::weights,
    run::{execute::Runner, plan::short_hash, subject::Subject, training::hold_out, view},
};

/// Changes when what is stored changes its meaning.
const VERSION: u32 = 1;

/// An image that was made, and which of its pixels are anomalous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Channels, rows, columns.
    pub shape: [usize; 3],
    /// C·H·W.
    pub image: Vec<u8>,
    /// H·W, 1 where it is anomalous.
    pub mask: Vec<u8>,
}

/// What is stored of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PseudoView {
    /// The files of the train images, or their places.
    pub images: Vec<String>,
    /// By maker, in the order of the recipe, what it makes of each of these images.
    pub makers: Vec<(String, Vec<Example>)>,
}

/// Where the view of so many images lies in a network's folder.
pub fn path(folder: &Path, images: usize) -> PathBuf {
    folder.join(format!("pseudo-{}.safetensors", short_hash(&json!([VERSION, images]))))
}

impl Runner<'_> {
    /// Stores what the figures show of what a network learns from, unless it is stored: the first entries of each maker's pool.
    pub(super) fn pseudo_views(&mut self, name: &str, subject: &Subject<'_>, figures: &[Figure]) -> Result<()> {
        let node = subject.members[0].node;
        let Some((recipe, outliers)) = node.train.as_ref().and_then(|recipe| Some((recipe, recipe.outliers.as_ref()?)))
        else {
            return Ok(());
        };
        let sheets = figures.iter().filter_map(|figure| match figure {
            Figure::Pseudo(figure) if figure.network.as_ref().is_none_or(|network| network == name) => Some(figure),
            _ => None,
        });
        for figure in sheets {
            let path = path(&self.context.store.folder(node), figure.images);
            if path.exists() {
                continue;
            }
            let (_, images) = hold_out(&self.images_of(node)?.images, recipe.validation, node.seed)?;
            let count = figure.images.min(images.len());
            let (mut made, mut masks) = (Vec::new(), Vec::new());
            let makers: Vec<_> = outliers.make.iter().filter(|maker| maker.weight() > 0.0).collect();
            for maker in &makers {
                for entry in 0..count {
                    let maker = std::slice::from_ref(*maker);
                    let image = images.image(entry)?;
                    let (mask, foreground) = (&outliers.mask, &outliers.foreground);
                    let example =
                        pseudo::of(maker, mask, foreground, (&images, images.shape()), (entry, &image), node.seed)?;
                    made.extend(example.image);
                    masks.extend(example.mask);
                }
            }
            let ([channels, rows, columns], made_of) = (images.shape(), makers.len() * count);
            let cpu = &Device::Cpu;
            let tensors = BTreeMap::from([
                ("images".to_owned(), Tensor::from_vec(made, (made_of, channels, rows, columns), cpu)?),
                ("masks".to_owned(), Tensor::from_vec(masks, (made_of, rows, columns), cpu)?),
            ]);
            let file = |at: usize| images.files.as_ref().and_then(|files| files[at].rsplit('/').next());
            let files: Vec<String> =
                (0..count).map(|at| file(at).map_or_else(|| at.to_string(), str::to_owned)).collect();
            let names: Vec<&str> = makers.iter().map(|maker| maker.name()).collect();
            let metadata = BTreeMap::from([
                ("files".to_owned(), json!(files).to_string()),
                ("makers".to_owned(), json!(names).to_string()),
            ]);
            weights::write(&path, &tensors, &metadata)?;
        }
        Ok(())
    }
}

/// Reads what a run stored.
///
/// # Errors
/// [`Error::Input`] if there is no such file, or it is something else.
pub fn read(path: &Path) -> Result<PseudoView> {
    view::File::stored(path.to_path_buf(), "the network was used")?.parsed(parsed)
}

fn parsed(tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Option<PseudoView> {
    let of = |name: &str| tensors.get(name).filter(|tensor| tensor.dtype() == DType::U8);
    let list = |name: &str| serde_json::from_str::<Vec<String>>(metadata.get(name)?).ok();
    let (images, masks, files, makers) = (of("images")?, of("masks")?, list("files")?, list("makers")?);
    let (count, channels, rows, columns) = images.dims4().ok()?;
    let sizes = [count, rows, columns];
    if masks.dims() != sizes || count == 0 || makers.len() * files.len() != count || ![1, 3].contains(&channels) {
        return None;
    }
    let example = |at: usize| {
        Some(Example {
            shape: [channels, rows, columns],
            image: images.get(at).ok()?.flatten_all().ok()?.to_vec1().ok()?,
            mask: masks.get(at).ok()?.flatten_all().ok()?.to_vec1().ok()?,
        })
    };
    let each = files.len();
    let makers = makers
        .into_iter()
        .enumerate()
        .map(|(maker, name)| Some((name, (maker * each..(maker + 1) * each).map(example).collect::<Option<_>>()?)));
    Some(PseudoView { makers: makers.collect::<Option<_>>()?, images: files })
}
