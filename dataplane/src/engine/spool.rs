//! Bytes of a request or a response in, a file that the engine can open by name out. In memory while small,
//! on disk when large, gone when dropped. Nothing here decides what the bytes mean.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, Mode, OFlags};

/// Above this a spool moves from memory to the data folder: 64 of them stay below 1 GiB.
const MEMORY_BYTES_MAX: u64 = 16 << 20;

/// An unnamed file, written once from front to end.
pub(super) struct Spool {
    file: File,
    len: u64,
    on_disk: bool,
    dir: PathBuf,
}

impl Spool {
    /// An empty spool that will use `dir` when it grows.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("millrace-spool", MemfdFlags::CLOEXEC)?);
        Ok(Self { file, len: 0, on_disk: false, dir: dir.to_owned() })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// A name by which this process can open the bytes from the start.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// A second handle that reads from `offset` on.
    pub(super) fn reader(&self, offset: u64) -> io::Result<File> {
        let mut file = File::open(self.path())?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }

    /// The first bytes, at most `limit`.
    pub(super) fn head(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.reader(0)?.take(limit).read_to_end(&mut head)?;
        Ok(head)
    }

    fn move_to_disk(&mut self) -> io::Result<()> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&self.dir, flags, Mode::RUSR | Mode::WUSR)?);
        io::copy(&mut self.reader(0)?, &mut file)?;
        self.file = file;
        self.on_disk = true;
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.on_disk && self.len + bytes.len() as u64 > MEMORY_BYTES_MAX {
            self.move_to_disk()?;
        }
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_reads_back_the_same_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path()).unwrap();
        let piece = vec![7_u8; 1 << 20];
        for _ in 0..17 {
            spool.write_all(&piece).unwrap();
        }
        spool.write_all(b"end").unwrap();
        assert!(spool.on_disk);
        assert_eq!(spool.len(), (17 << 20) + 3);
        let mut tail = Vec::new();
        spool.reader(17 << 20).unwrap().read_to_end(&mut tail).unwrap();
        assert_eq!(tail, b"end");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn a_small_spool_stays_in_memory() {
        let mut spool = Spool::new(Path::new("/nonexistent")).unwrap();
        spool.write_all(b"abc").unwrap();
        assert_eq!(spool.head(2).unwrap(), b"ab");
        assert!(!spool.on_disk);
    }
}
