//! Writes in, `ENOSPC` out while the disk is said to be full.

use std::ffi::{c_int, c_long, c_void};
use std::fs;

use libc::{iovec, off64_t, size_t, ssize_t};

use super::{control, is_meant, set_errno};

/// Stands before the system's `write`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: the caller's own arguments, as they came.
    unless_full(fd, || unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) })
}

/// Stands before the system's `pwrite64`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: size_t, at: off64_t) -> ssize_t {
    // SAFETY: the caller's own arguments, as they came.
    unless_full(fd, || unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, count, at) })
}

/// Stands before the system's `writev`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's own arguments, as they came.
    unless_full(fd, || unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) })
}

fn unless_full(fd: c_int, write: impl FnOnce() -> c_long) -> ssize_t {
    if is_full(fd) {
        set_errno(libc::ENOSPC);
        return -1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "both are as wide as a register")]
    let written = write() as ssize_t;
    written
}

fn is_full(fd: c_int) -> bool {
    let Some(control) = control() else { return false };
    control.join("full").exists()
        && fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|path| is_meant(control, &path))
}
