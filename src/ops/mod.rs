//! Differentiable primitives that candle lacks, gets wrong, or does slowly.
