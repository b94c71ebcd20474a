//! The graph of our operations, through which gradients pass without being added to zeros.
//!
//! candle 0.11.1's backward pass makes a tensor of zeros for every tensor of the graph and adds the gradient to it: three
//! more passes over memory than the operation needs. So the tensors of our operations are not nodes of candle's graph
//! themselves. Each has a *handle*, a single number, and candle's graph joins the handles; the gradients lie in [`Slot`]s
//! beside it, the first moved in, only further ones added:
//!
//! ```text
//! candle's graph:   weight ──┐                 x and y are tensors that the caller sees. An operation on y takes handle(y) for
//!                   handle(x) → handle(y) → y  its argument; an operation of candle's takes y itself, whose node hands the
//!                                              gradient to the slot.
//! ```
//!
//! Candle walks its graph as ever, so operations of both kinds mix freely. Tensors that are not made by our operations
//! (parameters, images, results of candle's) are arguments as they are. A graph may be walked by one thread at a time.
//!
//! The gradient of a handle is the number of gradients that this walk has put into the slot. A walk that failed halfway leaves
//! some behind; the next one meets more than it put there, and fails too instead of adding to them.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, Tensor, TensorId, bail,
};

use super::{
    Activation, add,
    op::{Candle, Op, same},
};

/// The result of `op` on contiguous `inputs` on the CPU, some of which are tracked.
pub(super) fn record<const N: usize, O: Op<N> + 'static>(op: O, inputs: [&Tensor; N]) -> Result<Tensor> {
    let nodes = inputs.map(node_of);
    let constant = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let arguments: Vec<&Tensor> = inputs
        .iter()
        .zip(&nodes)
        .map(|(input, node)| match node {
            Some(node) => &node.handle,
            None if input.track_op() => input,
            None => &constant,
        })
        .collect();
    let work = Arc::new(Work {
        op,
        inputs: inputs.map(Tensor::clone),
        sources: nodes.each_ref().map(|node| node.as_ref().map(|node| node.slot.clone())),
        slot: Arc::default(),
    });
    let backward = Backward(work.clone());
    let handle = match arguments[..] {
        [a] => a.apply_op1(backward),
        [a, b] => a.apply_op2(b, backward),
        [a, b, c] => a.apply_op3(b, c, backward),
        _ => bail!("{} takes {N} tensors; candle knows operations of one to three", O::NAME),
    }?;
    let node = Arc::new(Node { slot: work.slot.clone(), handle, id: OnceLock::new() });
    let y = node.handle.apply_op1(Forward { work: work.clone(), node: node.clone() })?;
    // Without its place in the graph, which would keep itself alive.
    let _ = work.slot.y.set(y.detach());
    let _ = node.id.set(y.id());
    nodes_by_tensor().insert(y.id(), Arc::downgrade(&node));
    Ok(y)
}

/// The gradient of one tensor while candle walks the graph.
#[derive(Default)]
struct Slot {
    y: OnceLock<Tensor>,
    /// The sum of the gradients so far, and how many they are.
    gradient: Mutex<Option<(Tensor, u32)>>,
}

impl Slot {
    fn gradient(&self) -> MutexGuard<'_, Option<(Tensor, u32)>> {
        self.gradient.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what this adds to the handle's gradient.
    fn add(&self, gradient: Option<Tensor>) -> Result<Tensor> {
        let Some(gradient) = gradient else { return Tensor::zeros((), DType::F32, &Device::Cpu) };
        let mut sum = self.gradient();
        *sum = Some(match sum.take() {
            None => (gradient, 1),
            Some((sum, count)) => (add(&sum, &gradient, Activation::Identity)?, count + 1),
        });
        Tensor::ones((), DType::F32, &Device::Cpu)
    }

    /// The sum of the `count` gradients of this walk.
    fn take(&self, count: &Tensor) -> Result<Option<Tensor>> {
        let (sum, found) = self.gradient().take().unzip();
        if found.unwrap_or(0) as f32 != count.to_scalar::<f32>()? {
            bail!("backward: an earlier backward pass through these results failed halfway; compute them anew");
        }
        Ok(sum)
    }
}

/// A tensor's place in the graph. The tensor owns it, through its [`Forward`].
struct Node {
    handle: Tensor,
    slot: Arc<Slot>,
    id: OnceLock<TensorId>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(id) = self.id.get() {
            nodes_by_tensor().remove(id);
        }
    }
}

/// The nodes of the tensors that are alive.
fn nodes_by_tensor() -> MutexGuard<'static, HashMap<TensorId, Weak<Node>>> {
    static NODES: LazyLock<Mutex<HashMap<TensorId, Weak<Node>>>> = LazyLock::new(Mutex::default);
    NODES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node_of(tensor: &Tensor) -> Option<Arc<Node>> {
    // The lock must be gone before a node can be: the drop of a node takes it.
    let node = nodes_by_tensor().get(&tensor.id()).cloned();
    node?.upgrade()
}

/// An operation on its inputs.
struct Work<O, const N: usize> {
    op: O,
    inputs: [Tensor; N],
    /// The slots of those inputs that have one.
    sources: [Option<Arc<Slot>>; N],
    slot: Arc<Slot>,
}

/// handle(y) to y: computes it. Backward: what candle's operations have for y goes to the slot.
struct Forward<O, const N: usize> {
    work: Arc<Work<O, N>>,
    /// Owned for y.
    #[expect(dead_code, reason = "kept alive as long as y is")]
    node: Arc<Node>,
}

impl<O: Op<N>, const N: usize> CustomOp1 for Forward<O, N> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let guards = self.work.inputs.each_ref().map(|input| input.storage_and_layout());
        let mut inputs = Vec::with_capacity(N);
        for (storage, layout) in &guards {
            match &**storage {
                Storage::Cpu(storage) => inputs.push((storage, *layout)),
                _ => bail!("{}: a tensor on the CPU beside one on a GPU", O::NAME),
            }
        }
        let Ok(inputs) = <[_; N]>::try_from(inputs) else { bail!("{}: not {N} tensors", O::NAME) };
        Candle::<&O, N>(&self.work.op).cpu(inputs)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.work.slot.add(Some(dy.clone()))?))
    }
}

/// handle(x), … to handle(y). Backward: the gradients of the inputs, from slot to slots.
struct Backward<O, const N: usize>(Arc<Work<O, N>>);

impl<O: Op<N>, const N: usize> Backward<O, N> {
    fn handle(&self) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    /// For each argument of the handle, whose own gradient is `count`: its gradient, or the number of those that went to the
    /// slot if it is a handle.
    fn gradients<const M: usize>(&self, count: &Tensor) -> Result<[Option<Tensor>; M]> {
        let Work { op, inputs, sources, slot } = &*self.0;
        let gradients = match (slot.y.get(), slot.take(count)?) {
            (Some(y), Some(dy)) => op.gradients(inputs.each_ref(), y, &dy.contiguous()?)?,
            _ => std::array::from_fn(|_| None),
        };
        let mut results: [Option<Tensor>; N] = std::array::from_fn(|_| None);
        for (i, gradient) in gradients.into_iter().enumerate() {
            results[i] = match (&sources[i], gradient) {
                (Some(source), gradient) => Some(source.add(gradient)?),
                (None, gradient) => gradient.filter(|_| inputs[i].track_op()),
            };
        }
        same(results)
    }
}

macro_rules! backward {
    ($CustomOp:ident: $($x:ident $storage:ident $layout:ident),+ => $Gradients:ty, [$($gradient:ident),+] => $gradients:expr) => {
        impl<O: Op<N>, const N: usize> $CustomOp for Backward<O, N> {
            fn name(&self) -> &'static str {
                O::NAME
            }

            fn cpu_fwd(&self, $($storage: &CpuStorage, $layout: &Layout),+) -> Result<(CpuStorage, Shape)> {
                $(let _ = ($storage, $layout);)+
                self.handle()
            }

            fn bwd(&self, $($x: &Tensor),+, _: &Tensor, count: &Tensor) -> Result<$Gradients> {
                $(let _ = $x;)+
                let [$($gradient),+] = self.gradients(count)?;
                Ok($gradients)
            }
        }
    };
}
backward!(CustomOp1: a sa la => Option<Tensor>, [da] => da);
backward!(CustomOp2: a sa la, b sb lb => (Option<Tensor>, Option<Tensor>), [da, db] => (da, db));
backward!(CustomOp3: a sa la, b sb lb, c sc lc => (Option<Tensor>, Option<Tensor>, Option<Tensor>), [da, db, dc] => (da, db, dc));

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use candle_core::Var;

    use super::*;
    use crate::ops::{
        Float,
        op::{Array, apply},
        relu,
    };

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.to_vec1().unwrap()
    }

    #[test]
    fn gradients_pass_between_our_operations_and_candles() {
        let x = Var::new(&[-1.0, 0.5, 2.0, 3.0], &Device::Cpu).unwrap();
        // y is an argument of ours twice, of candle's twice, and the result of ours on candle's result.
        let y = relu(&(x.as_tensor() * 2.0).unwrap()).unwrap();
        let (once, again) = (relu(&(&y - 3.0).unwrap()).unwrap(), relu(&y).unwrap());
        let loss = ((&once * &again).unwrap() + y.sqr().unwrap()).unwrap();
        let loss = (loss + relu(&y).unwrap()).unwrap().sum_all().unwrap();
        // f = (y − 3)⁺·y + y² + y with y = (2x)⁺.
        let expected: Vec<f64> = values(&x)
            .into_iter()
            .map(|x| {
                let y = 2.0 * x;
                if y <= 0.0 { 0.0 } else { 2.0 * (2.0 * y + 1.0 + if y > 3.0 { 2.0 * y - 3.0 } else { 0.0 }) }
            })
            .collect();
        for _ in 0..2 {
            assert_eq!(values(loss.backward().unwrap().get(&x).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_not_tracked_is_no_part_of_the_graph() {
        let x = Tensor::new(&[-1.0, 1.0], &Device::Cpu).unwrap();
        assert!(!relu(&x).unwrap().track_op());
        let y = relu(Var::from_tensor(&x).unwrap().as_tensor()).unwrap();
        assert!(y.track_op());
        assert!(!relu(&y.detach()).unwrap().track_op());
        assert!(node_of(&y).is_some());
    }

    /// The identity, whose gradient cannot be computed the first time.
    struct Failing(AtomicBool);

    impl Op<1> for Failing {
        const NAME: &'static str = "failing";

        fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
            Ok((x.data.to_vec(), x.shape.clone()))
        }

        fn gradients(&self, _: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
            if self.0.swap(false, Ordering::Relaxed) {
                bail!("failing");
            }
            Ok([Some(dy.clone())])
        }
    }

    #[test]
    fn what_a_failed_pass_left_is_not_added_to() {
        let x = Var::new(&[1.0, 2.0], &Device::Cpu).unwrap();
        // Whichever branch candle walks first, one of these meets the failure with a gradient of the other left behind.
        let mut refused = 0;
        for swapped in [false, true] {
            let y = relu(&x).unwrap();
            let branches = [relu(&y).unwrap(), apply(Failing(AtomicBool::new(true)), [&y]).unwrap()];
            let [a, b] = if swapped { [&branches[1], &branches[0]] } else { [&branches[0], &branches[1]] };
            let loss = (a + b).unwrap().sum_all().unwrap();
            assert!(loss.backward().err().is_some_and(|error| error.to_string().contains("failing")));
            match loss.backward() {
                Ok(gradients) => assert_eq!(values(gradients.get(&x).unwrap()), [2.0, 2.0]),
                Err(error) => {
                    assert!(error.to_string().contains("failed halfway"), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
    }

    #[test]
    fn a_graph_goes_with_its_tensors() {
        let x = Var::new(&[-1.0, 1.0], &Device::Cpu).unwrap();
        let (y, z) = {
            let y = relu(&x).unwrap();
            let z = relu(&y).unwrap();
            (y.id(), z)
        };
        // z needs y.
        assert!(nodes_by_tensor().contains_key(&y));
        z.sum_all().unwrap().backward().unwrap();
        let id = z.id();
        drop(z);
        assert!(!nodes_by_tensor().contains_key(&y) && !nodes_by_tensor().contains_key(&id));
    }
}
