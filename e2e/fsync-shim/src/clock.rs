//! The wall clock in, one that was set to another time out.

use std::ffi::{c_int, c_void};
use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};

use libc::{clockid_t, timespec, timeval};

use super::{control, monotonic_ns};

/// How long what the file said holds: programs ask for the time more often than files can be read.
const LOOK_EVERY_MS: i64 = 5;
/// When the file was looked at last, in milliseconds of the monotonic clock.
static LOOKED_MS: AtomicI64 = AtomicI64::new(i64::MIN);
/// What it said.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

/// Stands before the system's `clock_gettime`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn clock_gettime(clock: clockid_t, at: *mut timespec) -> c_int {
    if !real(clock, at) {
        return -1;
    }
    if matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
        let ahead_ms = ahead_ms();
        // SAFETY: the kernel has just written there.
        let at = unsafe { &mut *at };
        at.tv_sec += ahead_ms.div_euclid(1_000);
        at.tv_nsec += ahead_ms.rem_euclid(1_000) * 1_000_000;
        if at.tv_nsec >= 1_000_000_000 {
            at.tv_sec += 1;
            at.tv_nsec -= 1_000_000_000;
        }
    }
    0
}

/// Stands before the system's `gettimeofday`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn gettimeofday(at: *mut timeval, _zone: *mut c_void) -> c_int {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    if clock_gettime(libc::CLOCK_REALTIME, &raw mut now) != 0 {
        return -1;
    }
    // SAFETY: the caller's own pointer to a timeval, which may be null.
    if let Some(at) = unsafe { at.as_mut() } {
        *at = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 };
    }
    0
}

/// Asks the kernel; whether it answered.
#[expect(unsafe_code, reason = "the call below libc's function, which is this library's own")]
pub(super) fn real(clock: clockid_t, at: *mut timespec) -> bool {
    // SAFETY: the caller's own pointer to a timespec; the kernel refuses a bad one.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, at) == 0 }
}

fn ahead_ms() -> i64 {
    let Some(control) = control() else { return 0 };
    let now_ms = i64::try_from(monotonic_ns() / 1_000_000).unwrap_or(i64::MAX);
    if now_ms.saturating_sub(LOOKED_MS.load(Ordering::Relaxed)) >= LOOK_EVERY_MS {
        LOOKED_MS.store(now_ms, Ordering::Relaxed);
        let text = fs::read_to_string(control.join("clock_ms")).unwrap_or_default();
        AHEAD_MS.store(text.trim().parse().unwrap_or(0), Ordering::Relaxed);
    }
    AHEAD_MS.load(Ordering::Relaxed)
}
