//! One table: a mapping that is never handed out as `&mut`. The `unsafe` of the mapped memory is here.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use tandem_engine::memory::{
    Answer, FlowSet, HashLine, IdLine, Line, Nat, PrefixSlot, Real, RingLine, Root, Trace, Tree, VipSlot,
};

/// A type that may live in memory that others write at any time.
///
/// # Safety
/// It consists of the engine's shared integers only: every bit pattern is a value, and all access is atomic.
pub unsafe trait Shared: Sync + Sized {}

macro_rules! shared {
    ($($table:ty),*) => { $(
        // SAFETY: the engine builds it from `S16`, `S32` and `S64` only (engine/src/memory).
        unsafe impl Shared for $table {}
    )* };
}
shared!(Root, VipSlot, RingLine, Real, FlowSet, HashLine, Line, Trace, IdLine, PrefixSlot, Tree, Nat, Answer);

/// Why a table cannot be mapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot map the table {table} ({bytes} bytes): {source}; {cure}")]
pub struct MapError {
    table: &'static str,
    bytes: usize,
    source: io::Error,
    cure: &'static str,
}

/// `len` entries of `T`, shared with whoever maps the same BPF array.
pub struct Area<T> {
    start: NonNull<T>,
    len: usize,
    bytes: usize,
}

// SAFETY: `T: Shared` allows access from everywhere at once, and the mapping belongs to no thread.
unsafe impl<T: Shared> Send for Area<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Area<T> {}

impl<T: Shared> Area<T> {
    /// Maps a BPF array of `len` values of type `T`, which must have been made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// What `mmap(2)` says: EINVAL for another size or flag, EPERM for a frozen map.
    pub fn of_map(table: &'static str, fd: BorrowedFd<'_>, len: usize) -> Result<Self, MapError> {
        // The kernel rounds values up to 8 bytes, which must be our stride.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        Self::map(table, len, libc::MAP_SHARED, fd.as_raw_fd(), "are these the pins of another version?")
    }

    /// Zeroed memory of this process alone.
    ///
    /// # Errors
    /// What `mmap(2)` says: ENOMEM.
    pub fn plain(table: &'static str, len: usize) -> Result<Self, MapError> {
        Self::map(table, len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, "is there enough memory?")
    }

    fn map(table: &'static str, len: usize, flags: libc::c_int, fd: libc::c_int, cure: &'static str) -> Result<Self, MapError> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        let bytes = (len.max(1) * size_of::<T>()).next_multiple_of(4096);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        let fail = || MapError { table, bytes, source: io::Error::last_os_error(), cure };
        if start == libc::MAP_FAILED {
            return Err(fail());
        }
        let start = NonNull::new(start.cast()).ok_or_else(fail)?;
        Ok(Self { start, len, bytes })
    }

    /// Asks the kernel for 2 MiB pages: for plain memory that is walked at random.
    pub fn advise_huge_pages(&self) {
        // SAFETY: the range is our mapping, and the advice changes no contents. If it is not taken, nothing is lost.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) };
    }

    /// Gives the memory back and has zeroes again; only for plain memory that nobody else uses.
    pub fn zero(&self) {
        // SAFETY: `T: Shared` has no value that zeroes would break; a private mapping reads as zeroes after MADV_DONTNEED.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_DONTNEED) };
    }
}

impl<T: Shared> Deref for Area<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has `len` entries, is page-aligned, lives as long as `self`, and `T: Shared` allows any contents.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Area<T> {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl<T> fmt::Debug for Area<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Area({} x {} B)", self.len, size_of::<T>())
    }
}
