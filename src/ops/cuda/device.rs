//! Launches on a CUDA device: the only place where our kernels meet the driver.

use candle_core::{
    CudaDevice, CudaStorage, DType, Result, Shape, Storage,
    backend::{BackendDevice as _, BackendStorage as _},
    bail,
    cuda_backend::{
        CudaStorageSlice, WrapErr as _,
        cudarc::driver::{DevicePtr as _, DevicePtrMut as _, LaunchConfig, PushKernelArg as _},
    },
};

use super::{Argument, Gpu, Launch, THREADS};

/// The kernels as PTX text, one constant for each `.cu` file (build.rs).
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// An argument as the driver takes it.
enum Value {
    Word(u32),
    Real(f64),
    Pointer(u64),
}

impl Gpu for CudaStorage {
    fn uninitialised(device: &CudaDevice, shape: &Shape, dtype: DType) -> Result<Self> {
        #[expect(unsafe_code, reason = "zeroing first would write everything twice")]
        // SAFETY: launchers hand this memory to kernels that write all of it before anything reads it. The emulator fills it
        // with NaN, and the tests compare every element of every operation's result.
        unsafe {
            device.alloc_uninit(shape, dtype)
        }
    }

    fn of(storage: &Storage) -> Result<&Self> {
        match storage {
            Storage::Cuda(storage) => Ok(storage),
            _ => bail!("a tensor on the GPU meets one that is not"),
        }
    }

    fn start(device: &CudaDevice, launch: Launch<'_, Self>, blocks: u32) -> Result<()> {
        let ptx = match launch.module {
            "activation" => ptx::ACTIVATION,
            "anomaly_factor" => ptx::ANOMALY_FACTOR,
            "batch_norm" => ptx::BATCH_NORM,
            "convolution" => ptx::CONVOLUTION,
            "group_norm" => ptx::GROUP_NORM,
            "neighbours" => ptx::NEIGHBOURS,
            "optimizer" => ptx::OPTIMIZER,
            "pool" => ptx::POOL,
            "resize" => ptx::RESIZE,
            "softmax" => ptx::SOFTMAX,
            other => bail!("there is no kernel file {other}.cu"),
        };
        let function = device.get_or_load_custom_func(&launch.name, launch.module, ptx)?;
        let stream = device.cuda_stream();
        let (mut values, mut guards) = (Vec::new(), Vec::new());
        macro_rules! pointer {
            ($storage:expr, $device_ptr:ident, $first:expr) => {{
                let size = $storage.dtype().size_in_bytes();
                let (pointer, guard) = match $storage {
                    CudaStorage { slice: CudaStorageSlice::F32(slice), .. } => slice.$device_ptr(&stream),
                    CudaStorage { slice: CudaStorageSlice::F64(slice), .. } => slice.$device_ptr(&stream),
                    CudaStorage { slice: CudaStorageSlice::BF16(slice), .. } => slice.$device_ptr(&stream),
                    CudaStorage { slice: CudaStorageSlice::U32(slice), .. } => slice.$device_ptr(&stream),
                    other => bail!("{}: no kernel takes {:?}", launch.name, other.dtype()),
                };
                guards.push(guard);
                Value::Pointer(pointer + ($first * size) as u64)
            }};
        }
        for argument in launch.arguments {
            values.push(match argument {
                Argument::Word(word) => Value::Word(word),
                Argument::Real(real) => Value::Real(real),
                Argument::In(view) => pointer!(view.memory, device_ptr, view.layout.start_offset()),
                Argument::Out(memory) => pointer!(memory, device_ptr_mut, 0),
            });
        }
        let mut builder = function.builder();
        for value in &values {
            match value {
                Value::Word(word) => builder.arg(word),
                Value::Real(real) => builder.arg(real),
                Value::Pointer(pointer) => builder.arg(pointer),
            };
        }
        let grid = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
        #[expect(unsafe_code, reason = "the driver cannot check a kernel's arguments")]
        // SAFETY: number, kinds and element types of the arguments are the kernel's parameters, and it stays within the arrays:
        // the emulator checks both for each launch that the tests make. The pointers belong to `launch`, whose memory outlives
        // the launch on its stream (`guards` record it). Sizes fit into 32 bits (`Launch::blocks`).
        unsafe { builder.launch(grid) }.w()?;
        drop(guards);
        Ok(())
    }
}
