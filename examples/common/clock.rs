//! How long work takes on a machine that does other things too.

use std::time::Instant;

/// Time, and the processors' time of all threads: on a machine that does other things too, the second is what the work costs.
pub struct Clock(Instant, f64);

impl Clock {
    /// Begins to count.
    pub fn start() -> Self {
        Self(Instant::now(), Self::cpu())
    }

    /// Seconds of both since the start, added to those before.
    pub fn add(&self, before: [f64; 2]) -> [f64; 2] {
        [before[0] + self.0.elapsed().as_secs_f64(), before[1] + Self::cpu() - self.1]
    }

    fn cpu() -> f64 {
        let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let nanoseconds = threads.filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        nanoseconds.sum::<f64>() / 1e9
    }
}
