//! The operations' CUDA kernels: one `.cu` file a topic, beside it the `.rs` file that launches its kernels.
//!
//! A launcher says which kernel, how many blocks, which arguments; what runs it is a [`Gpu`]: a CUDA device (`device.rs`, with
//! the feature `cuda`), or in this crate's tests an emulator that runs the same kernels, compiled by the C++ compiler, with the
//! same launches on the CPU (`emulator.rs`, `tests/cuda_emulation/`). So `Op::gpu` and every launcher is compiled and tested
//! without a GPU; what no emulator shows (that a driver takes the PTX, speed, races within a warp) waits for a real one.
//!
//! Kernels of later topics go here in the same way, as new pairs of files:
//! - `density`: log-densities of Gaussian mixtures, for detectors that score by them;
//! - `pseudo_anomalies`: drawing cut-paste, confetti and noise into batches that are on the device already.

use candle_core::{
    DType, Layout, Result, Shape, Storage,
    backend::{BackendDevice, BackendStorage},
    bail,
};

pub(super) mod activation;
pub(super) mod anomaly_factor;
pub(super) mod batch_norm;
pub(super) mod convolution;
#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
pub(super) mod emulator;
pub(super) mod group_norm;
pub(super) mod linear;
pub(super) mod neighbours;
pub(super) mod optimizer;
pub(super) mod pool;
pub(super) mod resize;
pub(super) mod softmax;
#[cfg(test)]
mod tests;

/// Threads in each block; `THREADS` of common.cuh.
const THREADS: usize = 256;

/// Memory of a device that runs our kernels.
pub(super) trait Gpu: BackendStorage<Device: BackendDevice<Storage = Self>> {
    /// Memory whose contents nobody has written yet.
    fn uninitialised(device: &Self::Device, shape: &Shape, dtype: DType) -> Result<Self>;
    /// What a tensor of this device holds.
    fn of(storage: &Storage) -> Result<&Self>;
    /// Starts `launch` with `blocks` blocks of [`THREADS`] threads, at least one.
    fn start(device: &Self::Device, launch: Launch<'_, Self>, blocks: u32) -> Result<()>;
}

/// A contiguous tensor on the device.
#[derive(Debug)]
pub(super) struct View<'a, G> {
    pub(super) memory: &'a G,
    pub(super) layout: &'a Layout,
}

impl<G> Clone for View<'_, G> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<G> Copy for View<'_, G> {}

impl<'a, G: Gpu> View<'a, G> {
    /// A contiguous tensor that an operation keeps as a field.
    pub(super) fn of(storage: &'a Storage, layout: &'a Layout) -> Result<Self> {
        if !layout.is_contiguous() {
            bail!("a kernel was given strides {:?}", layout.stride());
        }
        Ok(Self { memory: G::of(storage)?, layout })
    }

    pub(super) fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    pub(super) fn count(&self) -> usize {
        self.shape().elem_count()
    }

    pub(super) fn dtype(&self) -> DType {
        self.memory.dtype()
    }

    pub(super) fn device(&self) -> &'a G::Device {
        self.memory.device()
    }

    /// New memory of the same device and type.
    pub(super) fn new_like(&self, shape: &Shape) -> Result<G> {
        G::uninitialised(self.device(), shape, self.dtype())
    }
}

/// What a kernel takes; its parameter is `uint`, `double`, `const T *` or `T *`.
pub(super) enum Argument<'a, G> {
    Word(u32),
    Real(f64),
    In(View<'a, G>),
    Out(&'a mut G),
}

/// A kernel and its arguments, in order.
pub(super) struct Launch<'a, G> {
    /// The `.cu` file.
    pub(super) module: &'static str,
    /// The kernel, its element type included.
    pub(super) name: String,
    pub(super) arguments: Vec<Argument<'a, G>>,
    too_large: bool,
}

impl<'a, G: Gpu> Launch<'a, G> {
    /// Kernel `name` of `module`.cu for elements of `dtype`.
    pub(super) fn new(module: &'static str, name: &str, dtype: DType) -> Result<Self> {
        let dtype = match dtype {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::BF16 => "bf16",
            other => bail!("{name} has no CUDA kernel for {other:?}"),
        };
        Ok(Self { module, name: format!("{name}_{dtype}"), arguments: Vec::new(), too_large: false })
    }

    pub(super) fn size(mut self, size: usize) -> Self {
        self.too_large |= u32::try_from(size).is_err();
        self.arguments.push(Argument::Word(size as u32));
        self
    }

    pub(super) fn sizes(self, sizes: impl IntoIterator<Item = usize>) -> Self {
        sizes.into_iter().fold(self, Self::size)
    }

    pub(super) fn real(mut self, value: f64) -> Self {
        self.arguments.push(Argument::Real(value));
        self
    }

    pub(super) fn activation(self, activation: super::Activation) -> Self {
        use super::Activation;
        let (kind, slope) = match activation {
            Activation::Identity => (0, 0.0),
            Activation::Relu => (1, 0.0),
            Activation::LeakyRelu(slope) => (2, slope),
            Activation::Relu6 => (3, 0.0),
        };
        self.size(kind).real(slope)
    }

    pub(super) fn input(mut self, view: View<'a, G>) -> Self {
        self.arguments.push(Argument::In(view));
        self
    }

    pub(super) fn output(mut self, memory: &'a mut G) -> Self {
        self.arguments.push(Argument::Out(memory));
        self
    }

    /// Runs it with so many blocks; nothing happens with none.
    pub(super) fn blocks(self, device: &G::Device, blocks: usize) -> Result<()> {
        match u32::try_from(blocks) {
            Ok(blocks) if !self.too_large => {
                if blocks == 0 {
                    return Ok(());
                }
                G::start(device, self, blocks)
            }
            _ => bail!("{}: a tensor of more than 2^32 elements; use smaller batches", self.name),
        }
    }

    /// Runs it with a thread for each of `count` elements.
    pub(super) fn each(mut self, device: &G::Device, count: usize) -> Result<()> {
        self.too_large |= u32::try_from(count.next_multiple_of(THREADS)).is_err();
        self.blocks(device, count.div_ceil(THREADS))
    }
}
