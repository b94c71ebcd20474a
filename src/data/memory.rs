//! What decoded images may take.

use std::fmt;

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes of decoded images that are held at a time. Sets of image files beyond it are decoded whenever they are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub bytes: u64,
    /// Whether somebody chose them.
    chosen: bool,
}

impl Memory {
    /// So many MiB, as somebody chose.
    pub fn mib(mib: u32) -> Self {
        Self { bytes: u64::from(mib) << 20, chosen: true }
    }

    /// Half of what is free now, of the machine or of the container, whichever has less. Ours: the other half is for networks, their
    /// maps, and copies of what is held out.
    pub fn half_of_free() -> Self {
        let system = System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()));
        let machine = system.available_memory();
        // Cached files count as free in both.
        let container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
        let free = container.map_or(machine, |container| machine.min(container));
        Self { bytes: free / 2, chosen: false }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = if self.chosen { "as --memory says" } else { "half of the free memory; --memory changes it" };
        write!(formatter, "{} ({source})", size(self.bytes))
    }
}

/// `1.5 GiB`, or MiB of less.
pub(crate) fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_some_of_the_memory_and_both_say_where_they_come_from() {
        let free = Memory::half_of_free();
        assert!(free.bytes > 1 << 20, "{free}");
        assert!(free.to_string().ends_with("(half of the free memory; --memory changes it)"), "{free}");
        assert_eq!(Memory::mib(1536).to_string(), "1.5 GiB (as --memory says)");
        assert_eq!((Memory::mib(0).bytes, Memory::mib(3).to_string()), (0, "3.0 MiB (as --memory says)".into()));
    }
}
