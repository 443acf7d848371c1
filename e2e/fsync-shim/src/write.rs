//! Writes in, `ENOSPC` out while the disk is said to be full.

use std::ffi::{c_int, c_void};
use std::fs;

use libc::{iovec, off64_t, size_t, ssize_t};

use super::{control, is_meant, set_errno};

/// Stands before the system's `write`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    if is_full(fd) {
        return no_space();
    }
    // SAFETY: the caller's own arguments, as they came.
    #[expect(clippy::cast_possible_truncation, reason = "both are as wide as a register")]
    unsafe {
        libc::syscall(libc::SYS_write, fd, bytes, count) as ssize_t
    }
}

/// Stands before the system's `pwrite64`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: size_t, at: off64_t) -> ssize_t {
    if is_full(fd) {
        return no_space();
    }
    // SAFETY: the caller's own arguments, as they came.
    #[expect(clippy::cast_possible_truncation, reason = "both are as wide as a register")]
    unsafe {
        libc::syscall(libc::SYS_pwrite64, fd, bytes, count, at) as ssize_t
    }
}

/// Stands before the system's `writev`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    if is_full(fd) {
        return no_space();
    }
    // SAFETY: the caller's own arguments, as they came.
    #[expect(clippy::cast_possible_truncation, reason = "both are as wide as a register")]
    unsafe {
        libc::syscall(libc::SYS_writev, fd, parts, count) as ssize_t
    }
}

fn is_full(fd: c_int) -> bool {
    let Some(control) = control() else { return false };
    control.join("full").exists()
        && fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|path| is_meant(control, &path))
}

fn no_space() -> ssize_t {
    set_errno(libc::ENOSPC);
    -1
}
