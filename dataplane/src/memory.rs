//! How the C library keeps memory for this process. A program calls it first, and once.

#![expect(unsafe_code, reason = "one call into the C library; its block says what makes it sound")]

/// Memory of this size and above goes back to the system when it is freed, in bytes.
///
/// It is the value with which glibc starts. By itself it then follows the size of whatever is freed, up to 32 MiB
/// (mallopt(3), `M_MMAP_THRESHOLD`), so that large bodies and batches come to lie in heaps that stay in pieces: ingest took
/// 1.33 times its queue of 128 MiB beside its base, and 0.95 times with this (`millrace-bench ingest-memory`).
#[cfg(target_env = "gnu")]
const RETURNED_BYTES_MIN: libc::c_int = 128 << 10;

/// Has large memory given back when it is freed. Other C libraries do so anyway.
pub fn give_back_what_is_large() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes two numbers and changes a setting of the allocator, which is locked meanwhile.
        let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED_BYTES_MIN) };
        debug_assert_eq!(taken, 1, "glibc takes any threshold up to half of a heap");
    }
}
