//! What a run tells those who watch it, and how they stop it.
//!
//! [`events`] are what happens; [`progress`] shows them as a bar, [`jsonl`] and [`tensorboard`] write them to files.
//! [`interrupt`] is Ctrl-C.

pub mod events;
pub mod interrupt;
pub mod jsonl;
pub mod progress;
pub mod tensorboard;
