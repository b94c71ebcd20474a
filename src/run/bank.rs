//! One forward pass per network and data set, kept on disk for every detector and every later run.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use candle_core::{DType, Device, Tensor};

use crate::{
    Result, checksum,
    data::{ImageSet, Normalisation, batches::in_order},
    detectors::{Bank, Batches, Inputs, LayerShape, mutual_information::log_mean_softmax},
    fs::read_if_there,
    nn::{
        Model, Pass, Shown, Tta, footprint,
        pass::Side,
        weights::{self, read_safetensors},
    },
    watch::{interrupt::Interrupt, progress},
};

/// The maps that a forward pass holds at a time are some of its layers. Ours: enough that a Wide ResNet's layers of a whole batch fit,
/// whose pass can then be shared.
const LAYERS: usize = 4;

/// What is kept of all batches, f32 on the CPU.
#[derive(Debug, Default)]
pub(super) struct Kept {
    logits: Vec<Tensor>,
    features: Vec<Tensor>,
}

impl Kept {
    /// Adds the next batch.
    pub(super) fn add(&mut self, shown: &Shown) -> Result<()> {
        for (all, output) in [(&mut self.logits, &shown.logits), (&mut self.features, &shown.features)] {
            if let Some(output) = output {
                // Detached: a bank must not keep the graph of its forward pass alive.
                all.push(output.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
            }
        }
        Ok(())
    }
}

/// Images on their way through a folded network in evaluation mode. What it gives of the layers is computed anew in every pass.
#[derive(Clone)]
pub struct ForwardPass {
    pub(super) network: Arc<dyn Model>,
    /// Whether it shows logits or features, which are kept of every image.
    pub(super) kept: bool,
    pub(super) images: Arc<ImageSet>,
    pub(super) normalisation: Normalisation,
    /// Images at a time.
    pub(super) batch: usize,
    /// Bytes that the maps of a batch may take; its layers where they are looked at, [`LAYERS`] times as many. Of larger ones fewer images
    /// go at a time, but one at least.
    pub(super) memory: usize,
    /// Where the values of layers are taken.
    pub(super) side: Side,
    pub(super) device: Device,
    pub(super) interrupt: Interrupt,
}

impl fmt::Debug for ForwardPass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ForwardPass").field("images", &self.images.name).finish_non_exhaustive()
    }
}

impl ForwardPass {
    /// The network's outputs, f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Interrupted`] between batches when the user asks to stop.
    pub fn outputs(&self) -> Result<Bank> {
        let mut kept = Kept::default();
        if self.kept {
            self.batches(&format!("scoring {}", self.images.name), self.batch, |_, images| {
                kept.add(&self.network.show(images, &Pass::eval())?)
            })?;
        }
        self.bank_of(kept)
    }

    /// Of what was kept of all batches.
    pub(super) fn bank_of(&self, kept: Kept) -> Result<Bank> {
        let all = |batches: &[Tensor]| match batches {
            [] => Tensor::zeros((self.images.len(), 0), DType::F32, &Device::Cpu),
            batches => Tensor::cat(batches, 0),
        };
        let (logits, features) = (all(&kept.logits)?, all(&kept.features)?);
        let labels = self.images.labels.clone();
        Ok(Bank { labels, ..Bank::new(logits, features) })
    }

    /// How many images go at a time where layers are looked at. All layers of a batch are kept until they have been.
    fn looked_at(&self) -> Result<usize> {
        let neurons: usize = self.layers()?.iter().map(|layer| layer.dims.iter().product::<usize>()).sum();
        Ok((LAYERS * self.memory / (neurons * size_of::<f32>()).max(1)).clamp(1, self.batch))
    }

    /// Whether as many images go at a time where layers are looked at as elsewhere.
    pub(super) fn looks_at_whole_batches(&self) -> Result<bool> {
        Ok(self.looked_at()? == self.batch)
    }

    /// Calls `each` with every batch and the index of its first image, under a progress bar with this title.
    fn batches(&self, title: &str, batch: usize, mut each: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        let mut bar = progress::Pass::new(title, self.images.len(), "images");
        in_order(&self.images, batch, &self.normalisation, &self.device, |range, images| {
            self.interrupt.check()?;
            bar.set(range.end);
            each(range.start, images)
        })
    }

    /// What the network shows of a batch: of its `layers`, only if they are asked for.
    fn shown(&self, images: &Tensor, layers: bool) -> Result<Shown> {
        let pass = if layers { Pass::eval().keeping_layers(self.side) } else { Pass::eval() };
        let shown = self.network.show(images, &pass)?;
        // Detached: what is kept of a batch must not keep the graph of its forward pass alive.
        let plain = |output: &Tensor| output.detach().to_dtype(DType::F32);
        let stages = shown.stages.iter().map(|(name, maps)| Ok((name.clone(), plain(maps)?)));
        let parts = shown.parts.iter().map(|(name, maps)| Ok((*name, plain(maps)?)));
        Ok(Shown {
            logits: shown.logits.as_ref().map(plain).transpose()?,
            features: shown.features.as_ref().map(plain).transpose()?,
            map: shown.map.as_ref().map(plain).transpose()?,
            stages: stages.collect::<candle_core::Result<_>>()?,
            parts: parts.collect::<candle_core::Result<_>>()?,
            ..shown
        })
    }
}

impl Batches for ForwardPass {
    fn images(&self) -> usize {
        self.images.len()
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        let image = self.images.tensor(0..1, &self.normalisation, &self.device)?;
        Ok(self.shown(&image, true)?.layers.iter().map(LayerShape::from).collect())
    }

    fn pass(&self, what: &str, layers: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        let images = if layers { self.looked_at()? } else { self.batch };
        let title = format!("{what}: {}", self.images.name);
        self.batches(&title, images, |start, images| each(start, &self.shown(images, layers)?))
    }

    fn image_size(&self) -> Option<[usize; 2]> {
        Some([self.images.height, self.images.width])
    }

    fn work(&self, what: &str, steps: usize, each: &mut dyn FnMut(Range<usize>) -> Result<()>) -> Result<()> {
        let mut bar = progress::Pass::new(what, steps, "groups");
        // Enough for every thread, and few enough that an interrupt is soon heard.
        let together = 4 * rayon::current_num_threads();
        for start in (0..steps).step_by(together) {
            self.interrupt.check()?;
            each(start..(start + together).min(steps))?;
            bar.set((start + together).min(steps));
        }
        Ok(())
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Batches>> {
        Ok(Arc::new(Self { images: Arc::new(self.images.subset(images)), ..self.clone() }))
    }
}

impl Inputs for ForwardPass {
    fn images(&self) -> usize {
        self.images.len()
    }

    fn network(&self) -> &dyn Model {
        &*self.network
    }

    fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }

    fn pass(&self, what: &str, each: &mut dyn FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        if self.images.is_empty() {
            return Ok(());
        }
        let image = self.images.tensor(0..1, &self.normalisation, &self.device)?;
        let fitting = footprint::differentiable_batch_size(&*self.network, &image, self.memory, self.batch)?;
        self.batches(&format!("{what}: {}", self.images.name), fitting, each)
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Inputs>> {
        Ok(Arc::new(Self { images: Arc::new(self.images.subset(images)), ..self.clone() }))
    }

    fn at_a_time(&self) -> usize {
        self.batch
    }

    fn check(&self) -> Result<()> {
        self.interrupt.check()
    }
}

/// Where the outputs of a network on a set are stored, and what they are made of.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the images.
    pub images: String,
    /// SHA-256 of the network's file of weights.
    pub network: String,
}

impl Stored {
    /// Where the logits over these views of each image are stored.
    #[must_use]
    pub fn of_views(self, tta: Tta) -> Self {
        let path = self.path.with_extension(format!("{}.safetensors", tta.name()));
        Self { path, ..self }
    }

    /// Reads what [`Stored::write`] wrote; `labels` come from the image set.
    ///
    /// `None` if there is no file, or one that is damaged or was made of something else, such as a copy of another set's outputs:
    /// that is said, because they have to be made again.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn read(&self, labels: Option<Vec<u32>>) -> Result<Option<Bank>> {
        let Some(bytes) = read_if_there(&self.path)? else { return Ok(None) };
        match self.parse(&bytes) {
            Ok([logits, features]) => Ok(Some(Bank { labels, ..Bank::new(logits, features) })),
            Err(reason) => {
                crate::say(format!("{} is made again: {reason}", self.path.display()));
                Ok(None)
            }
        }
    }

    /// Logits and features; else what is wrong.
    fn parse(&self, bytes: &[u8]) -> Result<[Tensor; 2], String> {
        let (mut tensors, metadata) = read_safetensors(bytes)?;
        let tensors = [tensors.remove("logits"), tensors.remove("features")];
        let [Some(logits), Some(features)] = tensors else { return Err("logits or features are missing".to_owned()) };
        match (metadata.get("images"), metadata.get("network")) {
            (Some(images), _) if *images != self.images => {
                return Err("it holds the outputs on other images".to_owned());
            }
            (_, Some(network)) if *network != self.network => {
                return Err("it holds the outputs of other weights".to_owned());
            }
            (Some(_), Some(_)) => {}
            _ => checksum::note_missing(&self.path),
        }
        Ok([logits, features])
    }

    /// Writes a bank's logits and features.
    ///
    /// # Errors
    /// Those of [`weights::write`].
    pub fn write(&self, bank: &Bank) -> Result<()> {
        let tensors = [("features", &bank.features), ("logits", &bank.logits)];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor.clone())).into();
        let metadata = [("images", &self.images), ("network", &self.network)];
        weights::write(&self.path, &tensors, &metadata.map(|(key, value)| (key.to_owned(), value.clone())).into())
    }
}

/// The bank of a deep ensemble, from its members' banks on the same images.
///
/// # Errors
/// If a logit is not finite, or there is no member.
pub fn ensemble(members: Vec<Bank>) -> Result<Bank> {
    let logits: Vec<&Tensor> = members.iter().map(|bank| &bank.logits).collect();
    let features: Vec<&Tensor> = members.iter().map(|bank| &bank.features).collect();
    let (stacked, features) = (Tensor::stack(&logits, 1)?, Tensor::cat(&features, 1)?);
    let labels = members.iter().find_map(|bank| bank.labels.clone());
    let bank = Bank::new(log_mean_softmax(&stacked)?, features);
    Ok(Bank { members: Some(stacked), labels, ..bank })
}
