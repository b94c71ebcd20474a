//! Images that a diffusion model makes of noise: kept beside it for a figure, and written while it learns.

use std::{
    collections::BTreeMap,
    io::Cursor,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use image::{ImageFormat, Rgb, RgbImage, imageops};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Error, Result,
    config::{Figure, MOST_SAMPLES, SamplesFigure},
    data::{self, batches::steps_per_epoch, painted},
    fs::write_atomic,
    nn::{
        Denoiser, Model,
        denoiser::Prediction,
        sampler::{Guide, Sampler},
        weights,
    },
    run::{
        execute::Runner,
        plan::{Node, short_hash},
        subject::Subject,
        view,
    },
    watch::{
        events::{Event, Observer},
        interrupt::Interrupt,
        progress::Pass,
    },
};

/// Changes when what is stored changes its meaning.
const VERSION: u32 = 1;
/// Lines of a model that is told no classes. Ours.
const LINES: usize = 4;
/// Classes whose images are made, at most: the first. Ours: a sheet of more is longer than wide.
const MOST_CLASSES: usize = 20;
/// Between the images of a sheet that is written while a network learns.
const GAP: u32 = 2;
/// Its images are enlarged to about so many pixels.
const SIDE: u32 = 64;

/// What is stored of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamplesView {
    /// Channels, rows, columns.
    pub shape: [usize; 3],
    /// The images of each line, C·H·W each.
    pub lines: Vec<Vec<Vec<u8>>>,
    /// How they were made.
    pub made: Made,
}

/// How samples were made, beside what the figure says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// SHA-256 of the network's weights.
    pub network: String,
    /// Steps of the sampler.
    pub steps: usize,
    /// Whether the model is a flow.
    pub flow: bool,
    /// How many classes the model is told.
    pub classes: usize,
    /// What each line shows: a class's name, or nothing.
    pub labels: Vec<String>,
}

/// Where the view that a figure shows lies in a network's folder.
pub fn path(folder: &Path, figure: &SamplesFigure) -> PathBuf {
    let SamplesFigure { images, steps, guidance, seed, network: _, every_epochs: _ } = figure;
    let hash = short_hash(&json!([VERSION, images, steps, guidance, seed]));
    folder.join(format!("samples-{hash}.safetensors"))
}

/// A denoiser, and what it is to make.
struct Maker<'a> {
    denoiser: &'a dyn Denoiser,
    figure: &'a SamplesFigure,
    shape: [usize; 3],
    /// Of the classes, if each has one.
    names: Option<Vec<String>>,
    device: &'a Device,
    interrupt: &'a Interrupt,
}

impl Maker<'_> {
    /// What stands beside each line.
    fn labels(&self) -> Vec<String> {
        let classes = self.denoiser.classes();
        if classes == 0 {
            return vec![String::new(); LINES];
        }
        let names = self.names.as_ref().filter(|names| names.len() == classes);
        let name = |class: usize| names.map_or_else(|| format!("class {class}"), |names| names[class].clone());
        (0..classes.min(MOST_CLASSES)).map(name).collect()
    }

    /// Makes the images, a line at a time; `told` how many of all steps are done.
    fn make(&self, network: &str, told: &mut dyn FnMut(usize, usize)) -> Result<SamplesView> {
        let &Self { denoiser, figure, shape, device, .. } = self;
        let steps = figure.steps_of(denoiser.schedule().steps());
        let labels = self.labels();
        let guide = Guide { denoiser, guidance: figure.guidance, together: figure.images };
        // Where little is left of an image, what is predicted of it is far off.
        let sampler = Sampler { clamp: true, ..Sampler::default() };
        let [channels, rows, columns] = shape;
        let of_line = |line: usize| -> Result<Vec<Vec<u8>>> {
            let classes = (denoiser.classes() > 0).then(|| vec![line as u32; figure.images]);
            // More images of a line leave the first ones what they are.
            let images = (line * MOST_SAMPLES, [figure.images, channels, rows, columns]);
            let mut before = |done: usize| -> Result<()> {
                self.interrupt.check()?;
                told(line * steps + done, labels.len() * steps);
                Ok(())
            };
            let noise = (figure.seed, device);
            bytes(&sampler.generate(&guide, steps, images, classes.as_deref(), noise, &mut before)?)
        };
        let lines = (0..labels.len()).map(of_line).collect::<Result<_>>()?;
        let flow = denoiser.prediction() == Prediction::Velocity;
        let made = Made { network: network.to_owned(), steps, flow, classes: denoiser.classes(), labels };
        Ok(SamplesView { shape, lines, made })
    }
}

/// Of (N, C, H, W) images in -1..1 the bytes of each.
fn bytes(images: &Tensor) -> Result<Vec<Vec<u8>>> {
    let rows: Vec<Vec<f32>> = images.flatten_from(1)?.to_vec2()?;
    if rows.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::Failed("what the diffusion model makes of noise is NaN or infinite".into()));
    }
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    Ok(rows.into_iter().map(|row| row.into_iter().map(byte).collect()).collect())
}

impl SamplesView {
    fn write(&self, path: &Path) -> Result<()> {
        let [channels, rows, columns] = self.shape;
        let pixels: Vec<u8> = self.lines.iter().flatten().flatten().copied().collect();
        let images: usize = self.lines.iter().map(Vec::len).sum();
        let images = Tensor::from_vec(pixels, (images, channels, rows, columns), &Device::Cpu)?;
        let metadata = BTreeMap::from([("made".to_owned(), json!(self.made).to_string())]);
        weights::write(path, &BTreeMap::from([("images".to_owned(), images)]), &metadata)
    }

    /// Lines of pictures on white, as a PNG file.
    fn png(&self) -> Result<Vec<u8>> {
        let [_, rows, columns] = self.shape.map(|length| length as u32);
        let times = (SIDE / rows.max(columns).max(1)).max(1);
        let (width, height) = (times * columns, times * rows);
        let most = self.lines.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let sides = [(most, width), (self.lines.len() as u32, height)].map(|(count, side)| count * (side + GAP) + GAP);
        let mut sheet = RgbImage::from_pixel(sides[0], sides[1], Rgb([255; 3]));
        for (line, images) in self.lines.iter().enumerate() {
            for (column, image) in images.iter().enumerate() {
                let image = painted(image, self.shape);
                let image = imageops::resize(&image, width, height, imageops::FilterType::Nearest);
                let place = |at: usize, side: u32| i64::from(GAP + at as u32 * (side + GAP));
                imageops::replace(&mut sheet, &image, place(column, width), place(line, height));
            }
        }
        let mut png = Cursor::new(Vec::new());
        let failed = |error| Error::Failed(format!("cannot write a PNG file: {error}"));
        sheet.write_to(&mut png, ImageFormat::Png).map_err(failed)?;
        Ok(png.into_inner())
    }
}

impl Runner<'_> {
    /// Stores what the figures show of a diffusion model, unless that is stored of these weights.
    pub(super) fn samples_views(&self, name: &str, subject: &Subject<'_>, figures: &[Figure]) -> Result<()> {
        let member = &subject.members[0];
        let trained = &member.trained;
        let figures = figures.iter().filter_map(|figure| match figure {
            Figure::Samples(figure) if figure.network == name => Some(figure),
            _ => None,
        });
        for figure in figures {
            if let Some(every) = figure.every_epochs {
                let first = sheet(every);
                let long_enough = member.node.train.as_ref().is_some_and(|recipe| {
                    // As many steps as these epochs have.
                    let images = trained.record.train_images;
                    let epoch = steps_per_epoch(images, recipe.batch_size, recipe.drop_last);
                    trained.record.steps >= every as u64 * epoch
                });
                if long_enough && !trained.folder.join(&first).exists() {
                    crate::say(format!(
                        "{name} has no {first}: it learned before the file asked for `every_epochs`, or was stopped there"
                    ));
                }
            }
            let path = path(&trained.folder, figure);
            if read(&path).is_ok_and(|view| view.made.network == trained.sha256) {
                continue;
            }
            let [channels, rows, columns, _] = trained.record.shape;
            let maker = self.maker(figure, member.node, &*trained.network, [channels, rows, columns])?;
            let mut pass = None;
            let view = maker.make(&trained.sha256, &mut |done, all| {
                pass.get_or_insert_with(|| Pass::new(&format!("making images with {name}"), all, "steps")).set(done);
            })?;
            view.write(&path)?;
        }
        Ok(())
    }

    /// What writes images that a network makes while it learns, if a figure asks for them.
    pub(super) fn sheets<'a>(
        &'a self,
        index: usize,
        model: &'a dyn Model,
        shape: [usize; 3],
    ) -> Result<Option<Sheets<'a>>> {
        let mut tasks = self.plan.cells.iter().flat_map(|cell| &cell.tasks);
        let found = tasks.find_map(|task| {
            let first = task.networks.first()?;
            task.experiment.figures.iter().find_map(|figure| match figure {
                Figure::Samples(figure) => {
                    let is_it = first.get(&figure.network)?.first() == Some(&index);
                    Some((figure, figure.every_epochs.filter(|_| is_it)?))
                }
                _ => None,
            })
        });
        let Some((figure, every)) = found else { return Ok(None) };
        let node = &self.plan.nodes[index];
        let folder = self.context.store.folder(node);
        Ok(Some(Sheets { maker: self.maker(figure, node, model, shape)?, every: every as u64, folder }))
    }

    fn maker<'a>(
        &'a self,
        figure: &'a SamplesFigure,
        node: &Node,
        model: &'a dyn Model,
        shape: [usize; 3],
    ) -> Result<Maker<'a>> {
        let none = || Error::Failed(format!("figure samples: {} is no diffusion model", figure.network));
        let denoiser = model.denoiser().ok_or_else(none)?;
        let names = data::class_names(&node.data, &self.context.data);
        Ok(Maker { denoiser, figure, shape, names, device: &self.context.device, interrupt: &self.context.interrupt })
    }
}

/// The name of the images of so many epochs.
fn sheet(epochs: usize) -> String {
    format!("samples-epoch-{epochs:03}.png")
}

/// Writes what a diffusion model makes after every so many epochs.
pub(super) struct Sheets<'a> {
    maker: Maker<'a>,
    every: u64,
    folder: PathBuf,
}

impl Observer for Sheets<'_> {
    fn looks(&self, epoch: u64) -> bool {
        (epoch + 1).is_multiple_of(self.every)
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        let Event::Epoch { epoch, .. } = *event else { return Ok(()) };
        if !self.looks(epoch) {
            return Ok(());
        }
        let view = match self.maker.make("", &mut |_, _| {}) {
            // Training ends by itself, with a checkpoint.
            Err(Error::Interrupted) => return Ok(()),
            view => view?,
        };
        let png = view.png()?;
        let path = self.folder.join(sheet(epoch as usize + 1));
        write_atomic(&path, |file| file.write_all(&png))
    }
}

/// Reads what a run stored.
///
/// # Errors
/// [`Error::Input`] if there is no such file, or it is something else.
pub fn read(path: &Path) -> Result<SamplesView> {
    view::File::stored(path.to_path_buf(), "the network was used")?.parsed(parsed)
}

fn parsed(tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Option<SamplesView> {
    let made: Made = serde_json::from_str(metadata.get("made")?).ok()?;
    let images = tensors.get("images")?;
    let (count, channels, rows, columns) = images.dims4().ok()?;
    let lines = made.labels.len();
    if lines == 0 || count == 0 || !count.is_multiple_of(lines) || ![1, 3].contains(&channels) {
        return None;
    }
    let images: Vec<Vec<u8>> = images.flatten_from(1).ok()?.to_vec2().ok()?;
    let lines = images.chunks(count / lines).map(<[_]>::to_vec).collect();
    Some(SamplesView { shape: [channels, rows, columns], lines, made })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{denoiser::Course, sampler::tests as denoisers};

    fn figure(images: usize) -> SamplesFigure {
        serde_json::from_value(json!({ "network": "ddpm", "images": images, "steps": 5 })).unwrap()
    }

    fn made(figure: &SamplesFigure, names: Option<&[&str]>) -> SamplesView {
        let denoiser = denoisers::layer(Course::Linear, Prediction::Noise);
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let (device, interrupt) = (&Device::Cpu, &Interrupt::default());
        let maker = Maker { denoiser: &denoiser, figure, shape: [2, 2, 2], names, device, interrupt };
        maker.make("sha256", &mut |_, _| {}).unwrap()
    }

    #[test]
    fn a_line_is_a_class_and_its_first_images_stay() {
        let one = made(&figure(1), Some(&["cat", "dog", "bird"]));
        let two = made(&figure(2), Some(&["cat", "dog"]));
        assert_eq!(one.made.labels, ["cat", "dog", "bird"]);
        assert_eq!(two.made.labels, ["class 0", "class 1", "class 2"], "names of other classes are no names");
        assert_eq!((two.made.steps, two.made.classes, two.made.flow), (5, 3, false));
        for (one, two) in one.lines.iter().zip(&two.lines) {
            assert_eq!((one.len(), two.len(), &one[0]), (1, 2, &two[0]));
            assert_ne!(two[0], two[1]);
        }
        assert_ne!(one.lines[0], one.lines[1]);
    }

    #[test]
    fn an_interrupt_ends_the_making_and_what_is_told_are_steps() {
        let denoiser = denoisers::gaussian(Course::Flow, Prediction::Velocity, 9, [0.3, 0.4]);
        let (figure, interrupt) = (figure(2), Interrupt::default());
        let (device, names) = (&Device::Cpu, None);
        let maker =
            Maker { denoiser: &denoiser, figure: &figure, shape: [1, 2, 2], names, device, interrupt: &interrupt };
        let mut seen = Vec::new();
        let view = maker.make("", &mut |done, all| seen.push((done, all))).unwrap();
        assert_eq!(seen, (0..20).map(|done| (done, 20)).collect::<Vec<_>>());
        assert!(view.made.flow && view.made.labels == vec![String::new(); LINES]);
        let mut seen = 0;
        let stopped = maker.make("", &mut |done, _| {
            seen = done;
            if done == 3 {
                interrupt.set();
            }
        });
        assert!(matches!(stopped, Err(Error::Interrupted)) && seen == 3);
    }

    #[test]
    fn bytes_are_of_minus_one_to_one_and_a_sheet_has_them_in_lines() {
        let images = Tensor::new(&[[[[-1.0_f32, 0.0, 1.0, 9.0]]]], &Device::Cpu).unwrap();
        assert_eq!(bytes(&images).unwrap(), [[0, 128, 255, 255]]);
        assert!(bytes(&(images / 0.0).unwrap()).is_err());
        let line = |levels: [u8; 2]| levels.map(|level| vec![level; 32 * 16]).to_vec();
        let view =
            SamplesView { shape: [1, 32, 16], lines: vec![line([0, 9]), line([70, 80])], ..made(&figure(1), None) };
        let sheet = image::load_from_memory(&view.png().unwrap()).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (2 + 2 * 34, 2 + 2 * 66));
        let at = |x, y| sheet.get_pixel(x, y).0[0];
        assert_eq!([at(2, 2), at(36, 2), at(2, 68), at(67, 131)], [0, 9, 70, 80]);
        assert_eq!([at(1, 1), at(34, 2), at(69, 133)], [255; 3]);
    }

    #[test]
    fn what_is_stored_is_read_again_and_what_is_broken_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let figure = figure(3);
        let view = SamplesView { shape: [1, 4, 2], ..made(&figure, None) };
        let place = path(folder.path(), &figure);
        assert!(read(&place).unwrap_err().to_string().contains("does not exist"));
        view.write(&place).unwrap();
        assert_eq!(read(&place).unwrap(), view);
        let other = SamplesFigure { every_epochs: Some(3), ..figure.clone() };
        assert_eq!(path(folder.path(), &other), place, "what is written meanwhile changes no figure");
        assert_ne!(path(folder.path(), &SamplesFigure { seed: 1, ..figure }), place);
        std::fs::write(&place, &std::fs::read(&place).unwrap()[..90]).unwrap();
        assert!(read(&place).unwrap_err().to_string().contains("does not hold what a figure shows"));
    }
}
