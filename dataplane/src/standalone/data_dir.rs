//! The data directory: where everything a standalone process keeps has its place, and the lock that lets only one
//! process use it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// An opened data directory. The lock is released when it is dropped, also by a kill.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder (mode 0700) where needed and takes its lock.
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|source| DataDirError::Create { path: root.to_owned(), source })?;
        // One that was there already may be open to others; what lies in it has the mode of its makers.
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .map_err(|source| DataDirError::Create { path: root.to_owned(), source })?;
        let lock = lock(root)?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The embedded log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The dedupe stores, one folder per App below.
    pub fn seen(&self) -> PathBuf {
        self.root.join("seen")
    }

    /// The engine's tables.
    pub fn engine(&self) -> PathBuf {
        self.root.join("engine")
    }

    /// Keys and pepper.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys.json")
    }

    /// The bootstrap admin token.
    pub fn admin_token(&self) -> PathBuf {
        self.root.join("admin-token")
    }

    /// Addresses the process listens on, for people and tools.
    pub fn endpoints(&self) -> PathBuf {
        self.root.join("endpoints.json")
    }

    /// Where other commands reach the running process.
    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.root)
    }
}

/// Where the process that uses `root` can be reached.
pub fn control_socket(root: &Path) -> PathBuf {
    root.join("control.sock")
}

/// Writes a file that only its owner can read, so that it is there whole or not at all after a crash.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let unfinished = path.with_extension("unfinished");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(folder)?.sync_all()
}

fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("lock");
    let open = |source| DataDirError::Create { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(open)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The number is a courtesy in the message; without it the message is still right.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim().parse().ok();
            return Err(DataDirError::Locked { path: root.to_owned(), holder: Holder(holder) });
        }
        Err(error) => return Err(open(error.into())),
    }
    name_holder(&mut file).map_err(open)?;
    Ok(file)
}

fn name_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

/// Process that holds a lock, where it is known.
#[derive(Debug)]
pub struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(id) => write!(f, "process {id}"),
            None => f.write_str("another process"),
        }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It could not be made or opened.
    #[error("cannot use the data directory `{}`; choose another with --data-dir", path.display())]
    Create {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory `{}` is in use by {holder}; stop that process or choose another with --data-dir",
        path.display()
    )]
    Locked {
        /// What.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_only_one_process_in_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let refused = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("--data-dir"), "{refused}");
        drop(first);
        DataDir::open(folder.path()).unwrap();
    }

    #[test]
    fn private_files_are_readable_by_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin-token");
        write_private(&path, b"first").unwrap();
        write_private(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
