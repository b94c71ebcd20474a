//! Runs launches on the CPU: the kernels compiled by the C++ compiler, in a process of their own
//! (`tests/cuda_emulation/main.cpp`). Memory is candle's CPU storage.

use std::{
    cell::Cell,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
};

use candle_core::{
    CpuStorage, DType, Result, Shape, Storage, backend::BackendStorage as _, bail, cpu_backend::CpuDevice,
};

use sha2::{Digest as _, Sha256};

use super::{Argument, Gpu, Launch};

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Whether operations of this thread are to run on the emulator.
pub(in crate::ops) fn is_active() -> bool {
    ACTIVE.get()
}

/// Runs `body` with every operation on the emulator.
pub(crate) fn emulated<R>(body: impl FnOnce() -> R) -> R {
    ACTIVE.set(true);
    let result = body();
    ACTIVE.set(false);
    result
}

impl Gpu for CpuStorage {
    /// All bits set: NaN, so that an element that no thread writes is noticed.
    fn uninitialised(_: &CpuDevice, shape: &Shape, dtype: DType) -> Result<Self> {
        let count = shape.elem_count();
        Ok(match dtype {
            DType::F32 => Self::F32(vec![f32::from_bits(u32::MAX); count]),
            DType::F64 => Self::F64(vec![f64::from_bits(u64::MAX); count]),
            DType::BF16 => Self::BF16(vec![half::bf16::from_bits(u16::MAX); count]),
            DType::U32 => Self::U32(vec![u32::MAX; count]),
            other => bail!("the emulator has no {other:?}"),
        })
    }

    fn of(storage: &Storage) -> Result<&Self> {
        match storage {
            Storage::Cpu(storage) => Ok(storage),
            _ => bail!("the emulator takes tensors on the CPU"),
        }
    }

    fn start(_: &CpuDevice, mut launch: Launch<'_, Self>, blocks: u32) -> Result<()> {
        let mut child = process().lock().unwrap();
        let mut request = Vec::new();
        let word = |request: &mut Vec<u8>, word: usize| request.extend((word as u32).to_le_bytes());
        let kernel = format!("{}.cu: {}", launch.module, launch.name);
        word(&mut request, kernel.len());
        request.extend(kernel.as_bytes());
        word(&mut request, blocks as usize);
        word(&mut request, launch.arguments.len());
        for argument in &launch.arguments {
            let (kind, dtype, bytes) = match argument {
                Argument::Word(word) => (0, 3, word.to_le_bytes().to_vec()),
                Argument::Real(real) => (1, 1, real.to_le_bytes().to_vec()),
                Argument::In(view) => {
                    let (start, end) = view.layout.contiguous_offsets().expect("a view is contiguous");
                    let (dtype, size, bytes) = to_bytes(view.memory);
                    (2, dtype, bytes[start * size..end * size].to_vec())
                }
                Argument::Out(memory) => {
                    let (dtype, _, bytes) = to_bytes(memory);
                    (3, dtype, bytes)
                }
            };
            request.extend([kind, dtype]);
            word(&mut request, bytes.len());
            request.extend(bytes);
        }
        child.stdin.as_mut().unwrap().write_all(&request)?;
        let mut answer = |count: usize| {
            let mut bytes = vec![0; count];
            child.stdout.as_mut().unwrap().read_exact(&mut bytes).map(|()| bytes)
        };
        let length = answer(4)?;
        let error = answer(u32::from_le_bytes(length.try_into().unwrap()) as usize)?;
        if !error.is_empty() {
            bail!("{}", String::from_utf8_lossy(&error));
        }
        for argument in &mut launch.arguments {
            if let Argument::Out(memory) = argument {
                let count = to_bytes(memory).2.len();
                from_bytes(memory, &answer(count)?);
            }
        }
        Ok(())
    }
}

/// Type (`Argument::Type` of emulation.hpp), bytes of an element, bytes.
fn to_bytes(memory: &CpuStorage) -> (u8, usize, Vec<u8>) {
    match memory {
        CpuStorage::F32(values) => (0, 4, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        CpuStorage::F64(values) => (1, 8, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        CpuStorage::BF16(values) => (2, 2, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        CpuStorage::U32(values) => (3, 4, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        other => panic!("the emulator has no {:?}", other.dtype()),
    }
}

fn from_bytes(memory: &mut CpuStorage, bytes: &[u8]) {
    macro_rules! set {
        ($values:ident, $T:ty, $size:literal) => {
            for (value, bytes) in $values.iter_mut().zip(bytes.chunks_exact($size)) {
                *value = <$T>::from_le_bytes(bytes.try_into().unwrap());
            }
        };
    }
    match memory {
        CpuStorage::F32(values) => set!(values, f32, 4),
        CpuStorage::F64(values) => set!(values, f64, 8),
        CpuStorage::BF16(values) => set!(values, half::bf16, 2),
        CpuStorage::U32(values) => set!(values, u32, 4),
        other => panic!("kernels write no {:?}", other.dtype()),
    }
}

/// The process that runs kernels, started on first use.
fn process() -> &'static Mutex<Child> {
    static PROCESS: OnceLock<Mutex<Child>> = OnceLock::new();
    PROCESS.get_or_init(|| {
        let program = compile();
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Mutex::new(child.expect("the emulator starts"))
    })
}

/// The program, compiled unless that was done before from the same files.
fn compile() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (kernels, emulation) = (root.join("src/ops/cuda"), root.join("tests/cuda_emulation"));
    let mut source = format!("#include \"{}\"\n", emulation.join("main.cpp").display());
    let mut hash = Sha256::new();
    for folder in [&emulation, &kernels] {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files.iter().filter(|path| path.extension().is_none_or(|extension| extension != "rs")) {
            hash.update(std::fs::read(path).unwrap());
            if path.extension().is_some_and(|extension| extension == "cu") {
                source.push_str(&format!("#include \"{}\"\n", path.display()));
            }
        }
    }
    let folder = root.join("target/cuda-emulation");
    let program = folder.join(format!("{:x}", hash.finalize()));
    if program.exists() {
        return program;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let own = folder.join(format!("{}", std::process::id()));
    let unit = own.with_extension("cpp");
    std::fs::write(&unit, source).unwrap();
    let output = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()))
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE", "-DOODKIT_EMULATION", "-I"])
        .args([&emulation, &unit])
        .arg("-o")
        .arg(&own)
        .output()
        .expect("a C++ compiler (c++, or what CXX names) runs; hint: apt-get install build-essential");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(own, &program).unwrap();
    std::fs::remove_file(unit).unwrap();
    program
}
