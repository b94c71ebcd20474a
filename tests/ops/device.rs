//! Test bodies that run on every device: on the CPU and, with the feature `cuda`, on the first GPU. Both compare with the same
//! golden values and central differences.

/// Makes tests of these functions, on each device.
macro_rules! on_each_device {
    ($($test:ident),+ $(,)?) => {
        mod cpu {
            $(#[test] fn $test() { super::$test() })+
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $(#[test] fn $test() { crate::device::on_gpu(super::$test) })+
        }
    };
}
pub(crate) use on_each_device;

/// Runs `test` with its tensors on the first GPU; without one it fails.
#[cfg(feature = "cuda")]
pub fn on_gpu(test: fn()) {
    use crate::common::device::DEVICE;
    DEVICE.set(candle_core::Device::new_cuda(0).unwrap());
    test();
    DEVICE.set(candle_core::Device::Cpu);
}
