//! A library to preload (`LD_PRELOAD`) into a process whose durability is under test: it stands before `fsync` and
//! `fdatasync` (the only two that fjall and the standard library use), before the calls that write, and before the clock,
//! and obeys files in the folder named by `MILLRACE_FSYNC_CONTROL`. They are looked at anew in every call, so a test
//! steers a running process:
//!
//! | file       | effect                                                                                         |
//! | ---------- | ---------------------------------------------------------------------------------------------- |
//! | `prefix`   | holds a path; only files below it are treated. Put the data directory here, absolute            |
//! | `hold`     | while it exists, calls wait before they sync                                                   |
//! | `delay_ms` | holds a number; calls sleep so long before they sync                                           |
//! | `fail`     | while it exists, calls return `EIO` and do not sync                                            |
//! | `full`     | while it exists, writes return `ENOSPC` and write nothing                                      |
//! | `clock_ms` | holds a number; the wall clock is so far ahead, or behind. Looked at every few milliseconds    |
//! | `calls`    | gets a line per call: `<what> <started> <ended> <call> <path>`; a FIFO works too, when read     |
//!
//! `what` is `held` (the call waits now; written once), `ok`, `failed` (by `fail`) or `error` (by the kernel); times
//! are nanoseconds of `CLOCK_MONOTONIC`, comparable between processes. Without the variable it passes calls on.
//!
//! Build it with `cargo build -p millrace-fsync-shim`; a test crate that has it as a dev-dependency finds
//! `libmillrace_fsync_shim.so` in the folder of its own executable.

mod clock;
mod write;

use std::ffi::c_int;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// How often a held call looks whether it may go on.
const HOLD_POLL: Duration = Duration::from_millis(1);

/// Stands before the system's `fsync`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    steered("fsync", libc::SYS_fsync, fd)
}

/// Stands before the system's `fdatasync`.
#[expect(unsafe_code, reason = "the dynamic linker finds the function by its plain name")]
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    steered("fdatasync", libc::SYS_fdatasync, fd)
}

fn steered(call: &str, number: libc::c_long, fd: c_int) -> c_int {
    let Some(control) = control() else { return system_call(number, fd) };
    let Ok(path) = fs::read_link(format!("/proc/self/fd/{fd}")) else { return system_call(number, fd) };
    if !is_meant(control, &path) {
        return system_call(number, fd);
    }
    let started = monotonic_ns();
    let record = |what: &str| {
        record(control, &format!("{what} {started} {} {call} {}\n", monotonic_ns(), path.display()));
    };
    wait(control, || record("held"));
    if control.join("fail").exists() {
        record("failed");
        set_errno(libc::EIO);
        return -1;
    }
    let result = system_call(number, fd);
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    record(if result == 0 { "ok" } else { "error" });
    // Writing the record may have changed it.
    set_errno(errno);
    result
}

/// The control folder, if there is one.
#[expect(clippy::disallowed_methods, reason = "a preloaded library has no other settings")]
fn control() -> Option<&'static Path> {
    static CONTROL: OnceLock<Option<PathBuf>> = OnceLock::new();
    CONTROL.get_or_init(|| std::env::var_os("MILLRACE_FSYNC_CONTROL").map(PathBuf::from)).as_deref()
}

fn is_meant(control: &Path, path: &Path) -> bool {
    fs::read_to_string(control.join("prefix")).map_or(true, |prefix| path.starts_with(prefix.trim_end()))
}

fn wait(control: &Path, held: impl Fn()) {
    let hold = control.join("hold");
    if hold.exists() {
        held();
        while hold.exists() {
            std::thread::sleep(HOLD_POLL);
        }
    }
    let delay = fs::read_to_string(control.join("delay_ms")).ok().and_then(|text| text.trim().parse().ok());
    if let Some(delay_ms) = delay {
        std::thread::sleep(Duration::from_millis(delay_ms));
    }
}

/// One write per line, so that lines of different threads do not mix.
fn record(control: &Path, line: &str) {
    let calls = OpenOptions::new().append(true).create(true).open(control.join("calls"));
    // There is nobody here to tell; a test that misses its lines fails.
    let _written = calls.and_then(|mut calls| calls.write_all(line.as_bytes()));
}

#[expect(unsafe_code, reason = "the call below libc's function, which is this library's own")]
fn system_call(number: libc::c_long, fd: c_int) -> c_int {
    // SAFETY: both calls take one file descriptor and touch no memory; a bad descriptor gives an error.
    let result = unsafe { libc::syscall(number, fd) };
    if result == 0 { 0 } else { -1 }
}

#[expect(unsafe_code, reason = "the C convention for errors")]
fn set_errno(errno: c_int) {
    // SAFETY: the location is the calling thread's own and always valid.
    unsafe { *libc::__errno_location() = errno };
}

/// The standard library's monotonic clock cannot be compared between processes.
fn monotonic_ns() -> i128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // The clock exists on every Linux.
    clock::real(libc::CLOCK_MONOTONIC, &raw mut now);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}
