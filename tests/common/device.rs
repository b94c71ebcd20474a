//! The device that a test's tensors belong to: the CPU, unless `tests/ops/device.rs` says otherwise.

use std::cell::RefCell;

use candle_core::Device;

thread_local! {
    /// That of this test.
    pub static DEVICE: RefCell<Device> = const { RefCell::new(Device::Cpu) };
}

/// Where this test's tensors belong.
pub fn device() -> Device {
    DEVICE.with_borrow(Clone::clone)
}
