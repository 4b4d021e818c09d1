//! The engine's memory in userspace: the kernel's arrays, mapped, or plain memory of the same layout.

mod area;
mod desk;
mod tables;

pub use area::{Area, MapError, Shared};
pub use desk::{Desk, Plain, Traced};
pub(crate) use tables::Source;
pub use tables::{LookedUp, Sizes, Tables};
