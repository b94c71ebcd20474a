//! What to compute on.

use std::{fmt, str::FromStr};

use candle_core::Device;

use crate::{Error, Result, did_you_mean};

/// What the user asks for: `cpu`, `cuda` (the first GPU), `cuda:1`, `auto` (the first GPU if there is one that can be used).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The processor.
    Cpu,
    /// The GPU of this number, from 0.
    Cuda(usize),
    /// `cuda:0` where that is possible, else `cpu`.
    Auto,
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            None if text == "auto" => Ok(Self::Auto),
            Some(("cuda", number)) if number.parse::<u16>().is_ok() => Ok(Self::Cuda(number.parse().unwrap_or(0))),
            _ => {
                let near = did_you_mean(text, ["cpu", "cuda", "auto"]);
                Err(Error::input(format!("there is no device \"{text}\"{near}"))
                    .hint("there are: cpu, cuda (the first GPU), cuda:1 (the second), auto"))
            }
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl Wanted {
    /// The device, ready to be used. `tell` hears why `auto` does not take a GPU in a program that was built for one.
    ///
    /// # Errors
    /// [`Error::Input`] when a GPU is asked for and this program was built without CUDA, or there is no such GPU.
    pub fn open(self, tell: impl FnOnce(&str)) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if cfg!(not(feature = "cuda")) => Ok(Device::Cpu),
            Self::Auto => Ok(Device::new_cuda(0).unwrap_or_else(|error| {
                tell(&format!("device auto: the CPU, because cuda:0 cannot be used: {}", first_line(&error)));
                Device::Cpu
            })),
            Self::Cuda(_) if cfg!(not(feature = "cuda")) => {
                Err(Error::input(format!("device {self}: this oodkit was built without CUDA"))
                    .hint("make build-cuda builds one with it (target/cuda-build/release/oodkit); or use --device cpu"))
            }
            Self::Cuda(number) => Device::new_cuda(number).map_err(|error| {
                Error::input(format!("device {self} cannot be used: {}", first_line(&error)))
                    .hint("nvidia-smi shows whether the driver works and which GPUs there are; or use --device cpu")
            }),
        }
    }
}

/// Of a driver's error: with RUST_BACKTRACE the rest is a backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// How a device stands in results: `cpu (2 threads, AMD EPYC)`, `cuda:0 (NVIDIA H100)`.
pub fn describe(device: &Device) -> String {
    let (kind, name) = match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let context = cuda.cuda_stream().context().clone();
            return match context.name() {
                Ok(name) => format!("cuda:{} ({name})", context.ordinal()),
                Err(_) => format!("cuda:{}", context.ordinal()),
            };
        }
        _ => (format!("{} threads", rayon::current_num_threads()), processor()),
    };
    match name {
        Some(name) => format!("cpu ({kind}, {name})"),
        None => format!("cpu ({kind})"),
    }
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, wanted) in [("cpu", Wanted::Cpu), ("cuda:3", Wanted::Cuda(3)), ("auto", Wanted::Auto)] {
            assert_eq!(text.parse::<Wanted>().unwrap(), wanted);
            assert_eq!(wanted.to_string(), text);
        }
        assert_eq!("cuda".parse::<Wanted>().unwrap(), Wanted::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:one", "cpu:0"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
