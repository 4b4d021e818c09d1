//! All checks, in the order of their numbers.

mod first;
mod second;

use super::Check;

/// All checks.
pub fn all() -> impl Iterator<Item = &'static Check> {
    first::CHECKS.iter().chain(second::CHECKS)
}
