//! Any model on tiles of large images: small defects keep their pixels, and a model of one size serves images of others. All tiles of an image
//! pass together.
//!
//! An image is cut into square tiles, whose borders may overlap. The model sees each tile as an image. What it shows of positions is put
//! together again: y = Σ over tiles of w · (what it shows of the tile), where w rises evenly over an overlap and falls alike, so that the
//! weights of a position add up to 1.
//!
//! - As anomalib's `Tiler`, which takes the mean in overlaps, and pads images that are no whole number of tiles. Here these are refused.
//! - Losses and detectors see the whole image. Logits and features of an image are not shown: a tile has its own.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{Kind, ModelConfig, common_multiple, stages::wrong},
    nn::{Backbone, Model, Output, Pass, Shape, Shown, standard::Survey},
    yaml::problems::{Path, Problem},
};

/// Sides and overlaps are multiples of it: the image's rows over those of a backbone's coarsest stage.
const STRIDE: usize = 32;
/// What is said of positions, and so of tiles.
const OF_POSITIONS: [Output; 8] = [
    Output::Stages,
    Output::Map,
    Output::Parts,
    Output::Scores,
    Output::Noised,
    Output::Embedding,
    Output::Pairs,
    Output::Images,
];

/// Settings of a model on tiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tiled")]
pub struct Settings {
    /// What sees the tiles.
    #[garde(dive)]
    pub model: Box<ModelConfig>,
    /// Rows and columns of a tile, a multiple of 32. Ours: 256, which most recipes for surfaces have.
    #[garde(range(min = STRIDE, max = 8192), custom(whole))]
    #[serde(default = "side")]
    pub size: usize,
    /// Rows and columns that neighbours share, a multiple of 32, half of a tile at most. Default: none, as anomalib's.
    #[garde(range(min = 0, max = 4096), custom(whole), custom(half(self.size)))]
    #[serde(default)]
    pub overlap: usize,
}

fn side() -> usize {
    256
}

fn whole(pixels: &usize, _: &()) -> garde::Result {
    match pixels.is_multiple_of(STRIDE) {
        true => Ok(()),
        false => {
            Err(garde::Error::new(format!("must be a multiple of {STRIDE}: stages have that many times fewer rows")))
        }
    }
}

fn half(size: usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    move |overlap, _| match overlap * 2 <= size {
        true => Ok(()),
        false => Err(garde::Error::new(format!("more than half of a tile of {size}"))),
    }
}

impl Settings {
    /// From one tile to the next: 1 at least, also where the settings are refused.
    fn step(&self) -> usize {
        self.size.saturating_sub(self.overlap).max(1)
    }

    /// A model on the smallest tiles that it takes.
    fn smallest(model: ModelConfig) -> Self {
        let size = common_multiple(STRIDE, model.patch());
        Self { model: Box::new(model), size, overlap: 0 }
    }

    fn tile(&self) -> [usize; 2] {
        [self.size; 2]
    }

    /// How many tiles lie along an axis of so many pixels.
    fn count(&self, pixels: usize) -> Option<usize> {
        let beyond = pixels.checked_sub(self.size)?;
        beyond.is_multiple_of(self.step()).then(|| beyond / self.step() + 1)
    }

    fn counts(&self, size: [usize; 2]) -> std::result::Result<[usize; 2], Problem> {
        if let [Some(down), Some(across)] = size.map(|pixels| self.count(pixels)) {
            return Ok([down, across]);
        }
        let Self { size: tile, overlap, .. } = self;
        let most = size[0].max(size[1]);
        let below = most.saturating_sub(*tile) / self.step() * self.step() + tile;
        let message = format!(
            "{}×{} pixels are no whole number of tiles of {tile} with an overlap of {overlap}: images of {below} or {} rows and columns are",
            size[0],
            size[1],
            below + self.step()
        );
        Err(Problem { path: Path::default().join("size"), message })
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        self.model.shows().into_iter().filter(|output| OF_POSITIONS.contains(output)).collect()
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let tiles = self.counts([shape.height, shape.width]).map_err(wrong("tiled"))?;
        let model = self.model.build(Shape { height: self.size, width: self.size, ..shape }, vb)?;
        Ok(Box::new(Tiled { model, tiles, size: self.size, overlap: self.overlap }))
    }

    fn backbone(&self) -> Option<&Backbone> {
        self.model.backbone()
    }

    fn own(&self) -> Option<&'static str> {
        self.model.own()
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!(["tiles", self.size, self.overlap, self.model.fixed()?]))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        let [down, across] = self.counts(size).ok()?;
        self.model.fixed_bytes(self.tile()).map(|bytes| bytes * down * across)
    }

    fn frozen(&self) -> Option<String> {
        self.model.frozen()
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        let path = Path::default().join("model").join(self.model.name());
        let inner = self.model.problems(Some(self.tile())).into_iter().map(|Problem { path: key, message }| Problem {
            path: key.0.into_iter().fold(path.clone(), |path, step| path.join(step)),
            message,
        });
        let least = self.model.least_side();
        let small = (self.size < least).then(|| Problem {
            path: Path::default().join("size"),
            message: format!("the model needs tiles of at least {least}×{least} pixels"),
        });
        let patch = self.model.patch();
        let odd = (!self.size.is_multiple_of(patch)).then(|| Problem {
            path: Path::default().join("size"),
            message: format!("the model needs tiles of a whole number of patches of {patch}×{patch} pixels"),
        });
        let cut = size.and_then(|size| self.counts(size).err());
        inner.chain(small).chain(odd).chain(cut).collect()
    }

    fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let grid = self.model.grid(self.tile())?;
        Some([0, 1].map(|axis| grid[axis] * size[axis] / self.size))
    }

    fn canonical(self) -> Self {
        Self { model: Box::new(self.model.canonical()), ..self }
    }

    fn label(&self, _: &str) -> String {
        format!("{} tiled", self.model.label())
    }

    fn least_side(&self) -> usize {
        self.size
    }

    /// The image's tiles are whole numbers of patches.
    fn patch(&self) -> usize {
        1
    }

    fn learning(&self) -> Option<ModelConfig> {
        let learning = self.model.clone().learning();
        (learning != *self.model).then_some(learning)
    }

    fn smoke(self) -> Self {
        Self::smallest(self.model.smoke(false))
    }

    fn on_small_images(self) -> Self {
        Self::smallest(self.model.smoke(true))
    }
}

/// The model and where its tiles lie.
struct Tiled {
    model: Box<dyn Model>,
    /// How many lie down and across.
    tiles: [usize; 2],
    size: usize,
    overlap: usize,
}

impl Tiled {
    /// (N, C, H, W) to (N·k, C, t, t), row by row of tiles.
    fn cut(&self, images: &Tensor) -> Result<Tensor> {
        let step = self.size - self.overlap;
        let [down, across] = self.tiles;
        let (_, _, rows, columns) = images.dims4()?;
        if [rows, columns] != self.tiles.map(|count| (count - 1) * step + self.size) {
            bail!("images of {rows}×{columns} are not cut into {down}×{across} tiles of {}", self.size);
        }
        let tile = |row: usize, column: usize| {
            images.narrow(2, row * step, self.size)?.narrow(3, column * step, self.size)?.unsqueeze(1)
        };
        let all = (0..down * across).map(|at| tile(at / across, at % across)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&all, 1)?.flatten(0, 1)?.contiguous()
    }

    /// What was shown of tiles, (N·k, …, r, c), as of images: (N, …, R, C).
    fn joined(&self, maps: &Tensor) -> Result<Tensor> {
        let [down, across] = self.tiles;
        let dims = maps.dims();
        let Some(rank) = dims.len().checked_sub(2).filter(|rank| *rank > 0) else {
            bail!("tiles of {dims:?} are put together by rows and columns")
        };
        let tiled = maps.reshape([&[dims[0] / (down * across), down, across], &dims[1..]].concat())?;
        // From here on the axes are (N, …, r, c).
        let rows = (0..down).map(|row| {
            let row = tiled.narrow(1, row, 1)?.squeeze(1)?;
            let tiles = (0..across).map(|column| row.narrow(1, column, 1)?.squeeze(1)).collect::<Result<Vec<_>>>()?;
            self.along(tiles, rank + 1)
        });
        self.along(rows.collect::<Result<Vec<_>>>()?, rank)
    }

    /// Tiles side by side along an axis.
    fn along(&self, tiles: Vec<Tensor>, axis: usize) -> Result<Tensor> {
        let Some(first) = tiles.first() else { bail!("there are no tiles") };
        let positions = first.dim(axis)?;
        if self.overlap == 0 || tiles.len() == 1 {
            return Tensor::cat(&tiles, axis)?.contiguous();
        }
        if !(self.overlap * positions).is_multiple_of(self.size) {
            bail!("{} of {} pixels are no whole number of {positions} positions", self.overlap, self.size);
        }
        let shared = self.overlap * positions / self.size;
        let (step, last) = (positions - shared, tiles.len() - 1);
        let mut sum: Option<Tensor> = None;
        for (at, tile) in tiles.iter().enumerate() {
            let window = (0..positions).map(|place| {
                let rise = |place: usize| if place < shared { (place as f64 + 0.5) / shared as f64 } else { 1.0 };
                let up = if at > 0 { rise(place) } else { 1.0 };
                up * if at < last { rise(positions - 1 - place) } else { 1.0 }
            });
            let mut shape = vec![1; tile.rank()];
            shape[axis] = positions;
            let window = Tensor::from_iter(window, tile.device())?.to_dtype(tile.dtype())?.reshape(shape)?;
            let placed = tile.broadcast_mul(&window)?.pad_with_zeros(axis, at * step, (last - at) * step)?;
            sum = Some(match sum {
                Some(sum) => (sum + placed)?,
                None => placed,
            });
        }
        sum.map_or_else(|| Tensor::cat(&tiles, axis), Ok)
    }

    /// The same of all that is of positions.
    fn shown(&self, tiles: &Shown) -> Result<Shown> {
        let of = |maps: &Tensor| self.joined(maps);
        let some = |maps: &Option<Tensor>| maps.as_ref().map(of).transpose();
        let stages = tiles.stages.iter().map(|(name, maps)| Ok((name.clone(), of(maps)?)));
        let pairs = tiles.pairs.iter().map(|(teacher, student)| Ok((of(teacher)?, of(student)?)));
        let parts = tiles.parts.iter().map(|(name, part)| Ok((*name, of(part)?)));
        Ok(Shown {
            images: some(&tiles.images)?,
            map: some(&tiles.map)?,
            noised: some(&tiles.noised)?,
            embedding: some(&tiles.embedding)?,
            stages: stages.collect::<Result<_>>()?,
            pairs: pairs.collect::<Result<_>>()?,
            parts: parts.collect::<Result<_>>()?,
            ..Shown::default()
        })
    }
}

impl Model for Tiled {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        // A pass of its own: layers of tiles are not the image's.
        let own = Pass::new(pass.mode());
        let shown = self.model.show(&self.cut(images)?, &own)?;
        pass.hold_as(&own);
        self.shown(&shown)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        let Some(fixed) = self.model.fixed(&self.cut(images)?)? else { return Ok(None) };
        let count = images.dim(0)?;
        let by_image =
            |tensor: &Tensor| tensor.reshape([&[count, tensor.dim(0)? / count], &tensor.dims()[1..]].concat());
        fixed.iter().map(by_image).collect::<Result<_>>().map(Some)
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let tiles = fixed.iter().map(|tensor| tensor.flatten(0, 1)).collect::<Result<Vec<_>>>()?;
        let own = Pass::new(pass.mode());
        let shown = self.model.show_fixed(&tiles, &own)?;
        pass.hold_as(&own);
        self.shown(&shown)
    }

    fn survey(&self) -> Option<Survey<'_>> {
        Some(self.model.survey()?.of_parts(|images| self.cut(images)))
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let Self { tiles, size, overlap, .. } = *self;
        Ok(Box::new(Self { model: self.model.folded()?, tiles, size, overlap }))
    }
}
