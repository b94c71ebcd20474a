//! What optimisers do to a parameter: elementwise updates in place, each one pass over memory, and the norm of gradients.
//!
//! candle's own way makes a new tensor for every product and sum of the formula.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor, backend::BackendStorage, bail,
};
use rayon::prelude::*;

use super::{Float, elementwise::BLOCK, wide::wide};

/// A gradient as an optimiser takes it: scale·g, cut to ±bound, plus decay·w.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Direction {
    /// From clipping by norm; 1 is no change.
    pub scale: f64,
    /// From clipping by value; infinity is no change.
    pub bound: f64,
    /// Weight decay as an L2 term.
    pub decay: f64,
}

impl Direction {
    fn of<T: Float>(&self) -> impl Fn(T, T) -> T + use<T> {
        let [scale, bound, decay] = [self.scale, self.bound, self.decay].map(T::from_f64);
        move |gradient, weight| {
            let scaled = gradient * scale;
            // Not `clamp`: a NaN stays one.
            let cut = if scaled > bound { bound } else { scaled };
            let cut = if cut < T::zero() - bound { T::zero() - bound } else { cut };
            cut + decay * weight
        }
    }
}

/// velocity ← momentum·velocity + direction.
///
/// # Errors
/// When the tensors differ in shape or type, or `velocity` is not contiguous; so do all updates of this module.
pub fn add_momentum(
    velocity: &Tensor,
    gradient: &Tensor,
    weight: &Tensor,
    momentum: f64,
    direction: Direction,
) -> Result<()> {
    update3(velocity, gradient, weight, Momentum { momentum, direction })
}

/// weight ← weight − lr·direction.
pub fn descend(weight: &Tensor, gradient: &Tensor, lr: f64, direction: Direction) -> Result<()> {
    update2(weight, gradient, Descend { lr, direction })
}

/// weight ← weight − lr·velocity, or weight − lr·(direction + momentum·velocity) in Nesterov's form.
pub fn descend_with_momentum(
    weight: &Tensor,
    gradient: &Tensor,
    velocity: &Tensor,
    lr: f64,
    nesterov: Option<f64>,
    direction: Direction,
) -> Result<()> {
    match nesterov {
        Some(momentum) => update3(weight, gradient, velocity, Nesterov { lr, momentum, direction }),
        None => descend(weight, velocity, lr, Direction { scale: 1.0, bound: f64::INFINITY, decay: 0.0 }),
    }
}

/// average ← rate·average + (1 − rate)·values.
pub fn average(average: &Tensor, values: &Tensor, rate: f64) -> Result<()> {
    update2(average, values, Average { rate })
}

/// Adam's moments of the direction g: mean ← β₁·mean + (1 − β₁)·g and square ← β₂·square + (1 − β₂)·g².
///
/// The decay of `direction` is not used: AdamW's does not pass through the moments.
pub fn adam_moments(
    mean: &Tensor,
    square: &Tensor,
    gradient: &Tensor,
    betas: [f64; 2],
    direction: Direction,
) -> Result<()> {
    let direction = Direction { decay: 0.0, ..direction };
    update2(mean, gradient, Moment { rate: betas[0], square: false, direction })?;
    update2(square, gradient, Moment { rate: betas[1], square: true, direction })
}

/// What an Adam step knows beside its moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// 1 − β₁ᵗ and 1 − β₂ᵗ at step t, from 1: what moments that start at 0 lack.
    pub corrections: [f64; 2],
    /// ε.
    pub epsilon: f64,
}

/// weight ← weight·(1 − lr·decay) − lr·m̂/(√v̂ + ε), with m̂ = mean/corrections₁ and v̂ = square/corrections₂.
pub fn adam(weight: &Tensor, mean: &Tensor, square: &Tensor, step: Adam) -> Result<()> {
    update3(weight, mean, square, step)
}

/// √Σ‖t‖², the norm of all elements of all tensors. Squares and sums are f64, which no norm of f32 numbers overflows.
///
/// # Errors
/// When a tensor is neither f32 nor f64.
pub fn norm<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let mut total = 0.0;
    for tensor in tensors {
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let place = layout.start_offset()..layout.start_offset() + tensor.elem_count();
        total += match &*storage {
            Storage::Cpu(CpuStorage::F32(data)) => squared_norm(&data[place]),
            Storage::Cpu(CpuStorage::F64(data)) => squared_norm(&data[place]),
            _ if matches!(tensor.dtype(), DType::F32 | DType::F64) && !tensor.device().is_cpu() => {
                tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?
            }
            _ => bail!("the norm is of f32 or f64, not {:?}", tensor.dtype()),
        };
    }
    Ok(total.sqrt())
}

fn squared_norm<T: Float>(values: &[T]) -> f64 {
    /// Sums side by side, so that the loop vectorises.
    const LANES: usize = 16;
    let squares = |block: &[T]| {
        wide!({
            let (whole, rest) = block.as_chunks::<LANES>();
            let mut sums = [0.0; LANES];
            for values in whole {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value.to_f64() * value.to_f64());
            }
            sums.iter_mut().zip(rest).for_each(|(sum, value)| *sum += value.to_f64() * value.to_f64());
            sums.into_iter().sum::<f64>()
        })
    };
    let parts: Vec<f64> = values.par_chunks(BLOCK).map(squares).collect();
    parts.iter().sum()
}

/// An elementwise change of a tensor by `N` others.
trait Update<const N: usize>: Sync {
    const NAME: &'static str;

    /// The new element, given the old one and those of the other tensors.
    fn element<T: Float>(&self) -> impl Fn(T, [T; N]) -> T + Sync;

    /// The kernel of optimizer.cu that does the same, and its parameters.
    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>);
}

struct Momentum {
    momentum: f64,
    direction: Direction,
}

impl Update<2> for Momentum {
    const NAME: &'static str = "momentum";

    fn element<T: Float>(&self) -> impl Fn(T, [T; 2]) -> T + Sync {
        let (momentum, direction) = (T::from_f64(self.momentum), self.direction.of::<T>());
        move |velocity, [gradient, weight]| momentum * velocity + direction(gradient, weight)
    }

    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let Direction { scale, bound, decay } = self.direction;
        ("momentum", vec![self.momentum, scale, bound, decay])
    }
}

struct Descend {
    lr: f64,
    direction: Direction,
}

impl Update<1> for Descend {
    const NAME: &'static str = "gradient descent";

    fn element<T: Float>(&self) -> impl Fn(T, [T; 1]) -> T + Sync {
        let (lr, direction) = (T::from_f64(self.lr), self.direction.of::<T>());
        move |weight, [gradient]| weight - lr * direction(gradient, weight)
    }

    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let Direction { scale, bound, decay } = self.direction;
        ("descend", vec![self.lr, scale, bound, decay])
    }
}

struct Nesterov {
    lr: f64,
    momentum: f64,
    direction: Direction,
}

impl Update<2> for Nesterov {
    const NAME: &'static str = "Nesterov's gradient descent";

    fn element<T: Float>(&self) -> impl Fn(T, [T; 2]) -> T + Sync {
        let [lr, momentum] = [self.lr, self.momentum].map(T::from_f64);
        let direction = self.direction.of::<T>();
        move |weight, [gradient, velocity]| weight - lr * (direction(gradient, weight) + momentum * velocity)
    }

    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let Direction { scale, bound, decay } = self.direction;
        ("nesterov", vec![self.lr, self.momentum, scale, bound, decay])
    }
}

struct Average {
    rate: f64,
}

impl Update<1> for Average {
    const NAME: &'static str = "moving average";

    fn element<T: Float>(&self) -> impl Fn(T, [T; 1]) -> T + Sync {
        let [rate, rest] = [self.rate, 1.0 - self.rate].map(T::from_f64);
        move |average, [value]| rate * average + rest * value
    }

    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>) {
        ("average", vec![self.rate])
    }
}

struct Moment {
    rate: f64,
    square: bool,
    direction: Direction,
}

impl Update<1> for Moment {
    const NAME: &'static str = "Adam's moment";

    fn element<T: Float>(&self) -> impl Fn(T, [T; 1]) -> T + Sync {
        let [rate, rest] = [self.rate, 1.0 - self.rate].map(T::from_f64);
        let (square, direction) = (self.square, self.direction.of::<T>());
        move |moment, [gradient]| {
            let gradient = direction(gradient, T::zero());
            rate * moment + rest * if square { gradient * gradient } else { gradient }
        }
    }

    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let Direction { scale, bound, decay } = self.direction;
        ("moment", vec![self.rate, self.square.into(), scale, bound, decay])
    }
}

impl Update<2> for Adam {
    const NAME: &'static str = "Adam";

    fn element<T: Float>(&self) -> impl Fn(T, [T; 2]) -> T + Sync {
        let [keep, size] = [1.0 - self.lr * self.decay, self.lr / self.corrections[0]].map(T::from_f64);
        let (root, epsilon) = (T::from_f64(self.corrections[1].sqrt()), T::from_f64(self.epsilon));
        move |weight, [mean, square]| {
            // The root in f64 rounds to that in f32.
            let deviation = T::from_f64(square.to_f64().sqrt()) / root;
            weight * keep - size * mean / (deviation + epsilon)
        }
    }

    #[cfg(any(feature = "cuda", test))]
    fn kernel(&self) -> (&'static str, Vec<f64>) {
        let [first, second] = self.corrections;
        ("adam", vec![1.0 - self.lr * self.decay, self.lr / first, second.sqrt(), self.epsilon])
    }
}

fn update2(target: &Tensor, source: &Tensor, update: impl Update<1>) -> Result<()> {
    target.inplace_op2(&source.contiguous()?, &InPlace(update))
}

fn update3(target: &Tensor, a: &Tensor, b: &Tensor, update: impl Update<2>) -> Result<()> {
    target.inplace_op3(&a.contiguous()?, &b.contiguous()?, &InPlace(update))
}

/// An update as candle wants it.
struct InPlace<U>(U);

impl<U> InPlace<U> {
    fn run<const N: usize>(
        &self,
        target: (&mut CpuStorage, &Layout),
        sources: [(&CpuStorage, &Layout); N],
    ) -> Result<()>
    where
        U: Update<N>,
    {
        #[cfg(test)]
        if super::cuda::emulator::is_active() {
            return super::cuda::optimizer::update(self.0.kernel(), target, sources);
        }
        match target.0 {
            CpuStorage::F32(data) => self.run_on::<f32, N>((data, target.1), sources),
            CpuStorage::F64(data) => self.run_on::<f64, N>((data, target.1), sources),
            other => bail!("{} takes f32 or f64, got {:?}", U::NAME, other.dtype()),
        }
    }

    fn run_on<T: Float, const N: usize>(
        &self,
        (target, layout): (&mut [T], &Layout),
        sources: [(&CpuStorage, &Layout); N],
    ) -> Result<()>
    where
        U: Update<N>,
    {
        let mut slices: [&[T]; N] = [&[]; N];
        for (slice, (storage, its)) in slices.iter_mut().zip(sources) {
            let Some((start, end)) = its.contiguous_offsets() else { bail!("{}: a tensor has strides", U::NAME) };
            if its.shape() != layout.shape() {
                bail!("{}: a tensor of {:?} for one of {:?}", U::NAME, its.shape(), layout.shape());
            }
            *slice = &T::cpu_storage_as_slice(storage)?[start..end];
        }
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("{}: a tensor has strides", U::NAME) };
        let element = self.0.element::<T>();
        let block = |(index, target): (usize, &mut [T])| {
            let start = index * BLOCK;
            let sources = slices.map(|source| &source[start..start + target.len()]);
            for (i, target) in target.iter_mut().enumerate() {
                *target = element(*target, sources.map(|source| source[i]));
            }
        };
        let target = &mut target[start..end];
        // Most parameters are a few dozen scales and biases, not worth waking a thread for.
        if target.len() <= BLOCK {
            block((0, target));
        } else {
            target.par_chunks_mut(BLOCK).enumerate().for_each(block);
        }
        Ok(())
    }
}

impl<U: Update<1>> InplaceOp2 for InPlace<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn cpu_fwd(&self, target: &mut CpuStorage, layout: &Layout, a: &CpuStorage, la: &Layout) -> Result<()> {
        self.run((target, layout), [(a, la)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, target: &mut CudaStorage, layout: &Layout, a: &CudaStorage, la: &Layout) -> Result<()> {
        super::cuda::optimizer::update(self.0.kernel(), (target, layout), [(a, la)])
    }
}

impl<U: Update<2>> InplaceOp3 for InPlace<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        layout: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<()> {
        self.run((target, layout), [(a, la), (b, lb)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        target: &mut CudaStorage,
        layout: &Layout,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> Result<()> {
        super::cuda::optimizer::update(self.0.kernel(), (target, layout), [(a, la), (b, lb)])
    }
}
