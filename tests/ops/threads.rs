//! The same bits on any number of threads, for sizes that are parted among them.

use candle_core::{DType, Device, Result, Tensor, Var};
use oodkit::{
    ops::{self, Activation, Assign, Interpolation, Pool, Quantiser, Statistics},
    rng,
};

use crate::common::{uniform, values};

type Layer = fn(&[Tensor]) -> Result<Tensor>;

const LAYERS: [(&str, Layer); 23] = [
    ("relu", |at| ops::relu(&at[0])),
    ("silu", |at| ops::silu(&at[0])),
    ("gelu", |at| ops::gelu(&at[0])),
    ("add", |at| ops::add(&at[0], &(&at[0] * 0.5)?, Activation::Relu6)),
    ("dropout", |at| ops::dropout(&at[0], 0.2, rng::stream(0, "dropout", ""))),
    ("batch_norm", |at| {
        let moments = ops::moments(&at[0])?;
        ops::batch_norm(&at[0], &at[1], &at[2], &moments, Statistics::Batch, 1e-5, Activation::Relu)
    }),
    ("frozen batch_norm", |at| {
        let moments = Tensor::stack(&[at[2].detach(), (at[1].detach().sqr()? + 1.0)?], 0)?;
        ops::batch_norm(&at[0], &at[1], &at[2], &moments, Statistics::Given, 1e-5, Activation::LeakyRelu(0.1))
    }),
    ("group_norm", |at| ops::group_norm(&at[0], &at[1], &at[2], 4, 1e-5, true)),
    ("max_pool2d", |at| ops::max_pool2d(&at[0], Pool::new(3, 2, 1))),
    ("avg_pool2d", |at| ops::avg_pool2d(&at[0], Pool::new(3, 2, 1), true)),
    ("global_avg_pool2d", |at| ops::global_avg_pool2d(&at[0])),
    ("nearest", |at| ops::resize(&at[0], (29, 31), Interpolation::Nearest, false)),
    ("bilinear", |at| ops::resize(&at[0], (29, 31), Interpolation::Bilinear, true)),
    ("softmax", |at| ops::softmax(&at[0])),
    ("cross_entropy", |at| {
        let logits = at[0].reshape((864, 54))?;
        let labels = Tensor::arange(0, 864u32, &Device::Cpu)?;
        ops::softmax_cross_entropy(&logits, &(labels.to_dtype(DType::F32)? / 17.0)?.to_dtype(DType::U32)?, 0.1)
    }),
    ("relu6", |at| ops::relu6(&at[0])),
    ("linear", |at| {
        let (x, weight) = (at[0].reshape((864, 54))?, at[0].narrow(0, 0, 1)?.reshape((72, 54))?);
        ops::linear(&x, &weight, &Tensor::cat(&[&at[1]; 9], 0)?)
    }),
    ("concat", |at| ops::concat(&[&at[0], &(&at[0] * 0.5)?, &at[0]])),
    ("gate", |at| ops::gate(&at[0], &(&at[0] * 0.5)?)),
    ("channel_products", |at| ops::channel_products(&at[0])),
    ("texture of pixels", |at| {
        let mean = ops::global_avg_pool2d(&at[0])?.reshape((12, 8, 1, 1))?;
        let similarities = ops::cosine_similarity(&at[0], &mean)?.flatten_from(1)?;
        let counted = ops::quantise_and_count(&similarities, QUANTISER)?;
        ops::redistribute(&counted, &similarities, QUANTISER)
    }),
    ("texture of pairs", |at| {
        let mean =
            ops::avg_pool2d(&at[0], Pool { kernel: [9, 6], stride: [9, 6], padding: [0; 2], ceil_mode: false }, true)?;
        let similarities = ops::cosine_similarity(&at[0], &mean)?.narrow(1, 0, 24)?.narrow(2, 0, 16)?;
        ops::cooccurrence(&similarities.contiguous()?, 4, QUANTISER)
    }),
    ("features of pairs", |at| {
        let weight = at[0].narrow(0, 0, 1)?.flatten_all()?.narrow(0, 0, 64)?.reshape((8, 8, 1, 1))?;
        let shared = at[0].narrow(3, 0, 1)?;
        ops::pair_features(&at[0], [&weight; 3], [Activation::LeakyRelu(0.01), Activation::Relu], &shared)
    }),
];

const QUANTISER: Quantiser = Quantiser { levels: 6, assign: Assign::Official };

#[test]
fn bits_do_not_depend_on_threads() {
    let shapes: [&[usize]; 3] = [&[12, 8, 27, 18], &[8], &[8]];
    let inputs: Vec<Tensor> = ["x", "weight", "bias"]
        .iter()
        .zip(shapes)
        .map(|(name, shape)| uniform(name, shape).to_dtype(DType::F32).unwrap())
        .collect();
    for (name, layer) in LAYERS {
        let run = || -> Vec<Vec<f64>> {
            let variables: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
            let at: Vec<Tensor> = variables.iter().map(|var| var.as_tensor().clone()).collect();
            let y = layer(&at).unwrap();
            let toward = uniform("toward", y.dims()).to_dtype(DType::F32).unwrap();
            let gradients = (&y * toward).unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = variables.iter().filter_map(|var| gradients.get(var)).map(values);
            std::iter::once(values(&y)).chain(gradients).collect()
        };
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
        let first = on(1);
        assert!(first.len() > 1 && first.iter().flatten().all(|value| value.is_finite()), "{name}");
        for threads in [2, 3] {
            assert!(on(threads) == first, "{name} differs on {threads} threads");
        }
    }
}
