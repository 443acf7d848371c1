//! The C interface of libchdb: statements in, bytes or the engine's own error text out.
//! All unsafe code of the engine is here. Knows nothing of HTTP, users or pools.
#![expect(unsafe_code, reason = "libchdb is a C library; every block says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::slice;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

/// `chdb_connection` of the C header: a handle that the library owns.
type RawConnection = *mut c_void;
/// `chdb_result *` of the C header.
type RawResult = *mut c_void;

/// `chdb_query_with_params_n`: statement, format and parameters, each with its length.
type QueryFn = unsafe extern "C" fn(
    RawConnection,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> RawResult;

/// The functions we use of a loaded library, which stays loaded until the process ends: its threads and
/// destructors outlive every handle.
pub(super) struct Api {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    close: unsafe extern "C" fn(*mut RawConnection),
    query: QueryFn,
    result_buffer: unsafe extern "C" fn(RawResult) -> *const c_char,
    result_length: unsafe extern "C" fn(RawResult) -> usize,
    result_error: unsafe extern "C" fn(RawResult) -> *const c_char,
    result_destroy: unsafe extern "C" fn(RawResult),
    read_rows: unsafe extern "C" fn(RawResult) -> u64,
    read_bytes: unsafe extern "C" fn(RawResult) -> u64,
    written_rows: unsafe extern "C" fn(RawResult) -> u64,
    written_bytes: unsafe extern "C" fn(RawResult) -> u64,
}

/// Why the library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// Not a loadable library.
    #[error("cannot load the engine library `{}`; fetch it again with `make engine`", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: libloading::Error,
    },
    /// Another version, or another library.
    #[error(
        "the engine library `{}` has no function `{function}`; fetch the pinned version with `make engine`",
        path.display()
    )]
    Function {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        function: &'static str,
        /// Why.
        source: libloading::Error,
    },
    /// The engine did not open its folder.
    #[error("the engine refused to open `{}`; its own message is on standard error", path.display())]
    Open {
        /// The data folder.
        path: PathBuf,
    },
}

impl Api {
    /// Loads a library for the rest of the process's life.
    pub(super) fn load(path: &Path) -> Result<&'static Self, LibraryError> {
        // SAFETY: loading runs the library's initialisers; it is the engine that the operator named, and it is
        // loaded once, before any of its functions is called.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|source| LibraryError::Load { path: path.to_owned(), source })?;
        let find = Finder { library: &library, path };
        // SAFETY: each name is given the type that chdb.h 26.5 declares for it.
        let api = unsafe {
            Self {
                connect: find.function("chdb_connect")?,
                close: find.function("chdb_close_conn")?,
                query: find.function("chdb_query_with_params_n")?,
                result_buffer: find.function("chdb_result_buffer")?,
                result_length: find.function("chdb_result_length")?,
                result_error: find.function("chdb_result_error")?,
                result_destroy: find.function("chdb_destroy_query_result")?,
                read_rows: find.function("chdb_result_storage_rows_read")?,
                read_bytes: find.function("chdb_result_storage_bytes_read")?,
                written_rows: find.function("chdb_result_rows_written")?,
                written_bytes: find.function("chdb_result_bytes_written")?,
            }
        };
        std::mem::forget(library);
        Ok(Box::leak(Box::new(api)))
    }

    /// Opens one handle on a data folder. The first one starts the engine, the last one closed stops it.
    pub(super) fn connect(&'static self, data_dir: &Path) -> Result<Connection, LibraryError> {
        let open_error = || LibraryError::Open { path: data_dir.to_owned() };
        let flag = |name: &str, value: &Path| {
            CString::new([name.as_bytes(), value.as_os_str().as_bytes()].concat()).map_err(|_| open_error())
        };
        // Without a named configuration the engine would read `config.xml` of whatever folder we started in.
        let arguments = [
            c"clickhouse".to_owned(),
            flag("--path=", data_dir)?,
            flag("--config-file=", &data_dir.join("config.xml"))?,
        ];
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).expect("three arguments fit an int");
        // SAFETY: `pointers` holds `count` NUL-terminated strings that live until the call returns; the library
        // copies what it keeps and writes to none of them.
        let handle = unsafe { (self.connect)(count, pointers.as_mut_ptr()) };
        NonNull::new(handle).map(|handle| Connection { api: self, handle }).ok_or_else(open_error)
    }
}

struct Finder<'a> {
    library: &'a Library,
    path: &'a Path,
}

impl Finder<'_> {
    /// Looks one function up.
    ///
    /// # Safety
    /// `F` must be the function pointer type that the library's header declares for this name.
    unsafe fn function<F: Copy>(&self, name: &'static str) -> Result<F, LibraryError> {
        // SAFETY: the caller vouches for the type; the copied pointer stays valid because the library is never
        // unloaded.
        unsafe { self.library.get(name.as_bytes()) }
            .map(|symbol: Symbol<F>| *symbol)
            .map_err(|source| LibraryError::Function { path: self.path.to_owned(), function: name, source })
    }
}

/// One handle of the engine: its own session with its own settings, parameters and current database.
pub(super) struct Connection {
    api: &'static Api,
    handle: NonNull<RawConnection>,
}

// SAFETY: the library ties no handle to a thread (it attaches the calling thread per call), and `&mut self`
// keeps two threads from using one handle at once.
unsafe impl Send for Connection {}

impl Connection {
    /// Runs one statement to its end. The error is the engine's text, `Code: N. DB::Exception: …`.
    pub(super) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Output, String> {
        let names: Vec<_> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<_> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<_> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<_> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: every pointer goes with its length and lives until the call returns; the four arrays have
        // `parameters.len()` items; `*handle` is the live `chdb_connection` that `chdb_connect` gave us.
        let raw = unsafe {
            (self.api.query)(
                *self.handle.as_ptr(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        let raw = NonNull::new(raw).ok_or_else(|| "the engine gave no result".to_owned())?;
        let output = Output { api: self.api, raw };
        match output.error() {
            Some(text) => Err(text),
            None => Ok(output),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle came from `chdb_connect` and is closed only here.
        unsafe { (self.api.close)(self.handle.as_ptr()) }
    }
}

/// The result of one statement; freed when dropped.
pub(super) struct Output {
    api: &'static Api,
    raw: NonNull<c_void>,
}

impl Output {
    /// The formatted rows.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `raw` is a live result; the library keeps buffer and length until the result is destroyed,
        // which `self` does, so the slice cannot outlive it.
        unsafe {
            let buffer = (self.api.result_buffer)(self.raw.as_ptr());
            let length = (self.api.result_length)(self.raw.as_ptr());
            if buffer.is_null() || length == 0 { &[] } else { slice::from_raw_parts(buffer.cast(), length) }
        }
    }

    /// What the statement read and wrote.
    pub(super) fn stats(&self) -> Stats {
        let raw = self.raw.as_ptr();
        // SAFETY: `raw` is a live result and the four functions only read counters of it.
        unsafe {
            Stats {
                read_rows: (self.api.read_rows)(raw),
                read_bytes: (self.api.read_bytes)(raw),
                written_rows: (self.api.written_rows)(raw),
                written_bytes: (self.api.written_bytes)(raw),
            }
        }
    }

    fn error(&self) -> Option<String> {
        // SAFETY: `raw` is a live result; the text is NUL-terminated and lives as long as the result.
        unsafe {
            let text = (self.api.result_error)(self.raw.as_ptr());
            (!ptr::eq(text, ptr::null())).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: the result came from a query call and is destroyed only here.
        unsafe { (self.api.result_destroy)(self.raw.as_ptr()) }
    }
}

/// Rows and bytes of one statement, for `X-ClickHouse-Summary`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) read_rows: u64,
    pub(super) read_bytes: u64,
    pub(super) written_rows: u64,
    pub(super) written_bytes: u64,
}
