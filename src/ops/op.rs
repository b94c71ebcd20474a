//! What an operation is: its CPU code on slices, its GPU code on device memory, its gradients; candle's custom operations are
//! implemented here once for all.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, backend::BackendStorage, bail,
};

#[cfg(any(feature = "cuda", test))]
use super::cuda::{Gpu, View};
use super::{Float, tape};

/// A contiguous tensor on the CPU.
#[derive(Clone, Copy)]
pub(super) struct Array<'a, T> {
    /// The elements, row after row.
    pub(super) data: &'a [T],
    pub(super) shape: &'a Shape,
}

/// An operation of `N` = 1, 2 or 3 tensors of one element type, f32 or f64.
///
/// What else it needs (sizes, labels, statistics) are its fields, constants to the gradient.
pub(super) trait Op<const N: usize>: Send + Sync {
    /// The name in error messages.
    const NAME: &'static str;

    /// The result's elements and shape.
    fn cpu<T: Float>(&self, inputs: [Array<'_, T>; N]) -> Result<(Vec<T>, Shape)>;

    /// The same on a GPU, or on its emulator in tests.
    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: Gpu>(&self, _inputs: [View<'_, G>; N]) -> Result<(G, Shape)> {
        bail!("{} has no CUDA kernel yet: use the CPU", Self::NAME)
    }

    /// The gradient with respect to each input, where there is one, given the result `y` and its contiguous gradient `dy`.
    ///
    /// An input whose `track_op()` is false needs none; any other must have one, or candle's backward pass panics.
    fn gradients(&self, _inputs: [&Tensor; N], _y: &Tensor, _dy: &Tensor) -> Result<[Option<Tensor>; N]> {
        bail!("{} has no gradient", Self::NAME)
    }
}

impl<const N: usize, O: Op<N>> Op<N> for &O {
    const NAME: &'static str = O::NAME;

    fn cpu<T: Float>(&self, inputs: [Array<'_, T>; N]) -> Result<(Vec<T>, Shape)> {
        (*self).cpu(inputs)
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: Gpu>(&self, inputs: [View<'_, G>; N]) -> Result<(G, Shape)> {
        (*self).gpu(inputs)
    }
}

/// The result of `op`, part of the graph when an input is.
pub(super) fn apply<const N: usize, O: Op<N> + 'static>(op: O, inputs: [&Tensor; N]) -> Result<Tensor> {
    let inputs = contiguous(&inputs)?;
    let inputs: [&Tensor; N] = same(inputs.iter().collect::<Vec<_>>())?;
    if !inputs.iter().any(|input| input.track_op()) {
        return apply_no_grad(&op, inputs);
    }
    if inputs.iter().all(|input| input.device().is_cpu()) {
        return tape::record(op, inputs);
    }
    let op = Candle::<O, N>(op);
    match inputs[..] {
        [a] => a.apply_op1(op),
        [a, b] => a.apply_op2(b, op),
        [a, b, c] => a.apply_op3(b, c, op),
        _ => bail!("{} takes {N} tensors; candle knows operations of one to three", O::NAME),
    }
}

/// The result of `op` as a constant.
pub(super) fn apply_no_grad<const N: usize, O: Op<N>>(op: &O, inputs: [&Tensor; N]) -> Result<Tensor> {
    let op = Candle::<&O, N>(op);
    match &contiguous(&inputs)?[..] {
        [a] => a.apply_op1_no_bwd(&op),
        [a, b] => a.apply_op2_no_bwd(b, &op),
        [a, b, c] => a.apply_op3_no_bwd(b, c, &op),
        _ => bail!("{} takes {N} tensors; candle knows operations of one to three", O::NAME),
    }
}

/// The gradient with respect to `input`, which `op` makes of `inputs`; none when nothing needs it.
pub(super) fn gradient<const N: usize, O: Op<N>>(
    input: &Tensor,
    op: &O,
    inputs: [&Tensor; N],
) -> Result<Option<Tensor>> {
    input.track_op().then(|| apply_no_grad(op, inputs)).transpose()
}

/// Whether the tensor is on a GPU, or its emulator in tests: for operations that are composed of others there.
pub(crate) fn is_on_gpu(tensor: &Tensor) -> bool {
    #[cfg(test)]
    if super::cuda::emulator::is_active() {
        return true;
    }
    !tensor.device().is_cpu()
}

fn contiguous(inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    inputs.iter().map(|input| input.contiguous()).collect()
}

/// An operation as candle wants it: `N` is the number in the name of the trait that is used.
pub(super) struct Candle<O, const N: usize>(pub(super) O);

type Cpu<'a> = (&'a CpuStorage, &'a Layout);

/// The same array, whose length the caller knows by another name.
pub(super) fn same<X, const N: usize>(array: impl Into<Vec<X>>) -> Result<[X; N]> {
    match <[X; N]>::try_from(array.into()) {
        Ok(array) => Ok(array),
        Err(array) => bail!("an operation of {N} tensors was applied to {}", array.len()),
    }
}

impl<O: Op<N>, const N: usize> Candle<O, N> {
    pub(super) fn cpu<const M: usize>(&self, inputs: [Cpu<'_>; M]) -> Result<(CpuStorage, Shape)> {
        #[cfg(test)]
        if super::cuda::emulator::is_active() {
            return self.gpu(inputs);
        }
        match inputs[0].0 {
            CpuStorage::F32(_) => self.cpu_of::<f32>(same(inputs)?),
            CpuStorage::F64(_) => self.cpu_of::<f64>(same(inputs)?),
            other => bail!("{} takes f32 or f64, got {:?}", O::NAME, other.dtype()),
        }
    }

    fn cpu_of<T: Float>(&self, inputs: [Cpu<'_>; N]) -> Result<(CpuStorage, Shape)> {
        let mut arrays = [Array { data: &[], shape: inputs[0].1.shape() }; N];
        for (array, (storage, layout)) in arrays.iter_mut().zip(inputs) {
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!("{}: a tensor of strides {:?} is not contiguous", O::NAME, layout.stride())
            };
            *array = Array { data: &T::cpu_storage_as_slice(storage)?[start..end], shape: layout.shape() };
        }
        let (y, shape) = self.0.cpu(arrays)?;
        Ok((T::to_cpu_storage_owned(y), shape))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: Gpu, const M: usize>(&self, inputs: [(&G, &Layout); M]) -> Result<(G, Shape)> {
        let dtype = inputs[0].0.dtype();
        for (memory, layout) in inputs {
            if memory.dtype() != dtype || !layout.is_contiguous() {
                bail!("{}: {:?} of strides {:?} beside {dtype:?}", O::NAME, memory.dtype(), layout.stride());
            }
        }
        self.0.gpu(same(inputs.map(|(memory, layout)| View { memory, layout }))?)
    }

    fn gradients<const M: usize>(&self, inputs: [&Tensor; M], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; M]> {
        same(self.0.gradients(same(inputs)?, y, &dy.contiguous()?)?)
    }
}

/// `CustomOp1`, `2` and `3`, which differ in the number of their arguments only.
macro_rules! custom_op {
    ($CustomOp:ident: $($x:ident $storage:ident $layout:ident),+ => $Gradients:ty, [$($gradient:ident),+] => $gradients:expr) => {
        impl<O: Op<N>, const N: usize> $CustomOp for Candle<O, N> {
            fn name(&self) -> &'static str {
                O::NAME
            }

            fn cpu_fwd(&self, $($storage: &CpuStorage, $layout: &Layout),+) -> Result<(CpuStorage, Shape)> {
                self.cpu([$(($storage, $layout)),+])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, $($storage: &CudaStorage, $layout: &Layout),+) -> Result<(CudaStorage, Shape)> {
                self.gpu([$(($storage, $layout)),+])
            }

            fn bwd(&self, $($x: &Tensor),+, y: &Tensor, dy: &Tensor) -> Result<$Gradients> {
                let [$($gradient),+] = self.gradients([$($x),+], y, dy)?;
                Ok($gradients)
            }
        }
    };
}
custom_op!(CustomOp1: a sa la => Option<Tensor>, [da] => da);
custom_op!(CustomOp2: a sa la, b sb lb => (Option<Tensor>, Option<Tensor>), [da, db] => (da, db));
custom_op!(CustomOp3: a sa la, b sb lb, c sc lc => (Option<Tensor>, Option<Tensor>, Option<Tensor>), [da, db, dc] => (da, db, dc));
