//! A folder (or standard input) in, the YAML texts of its resources out, and a cheap fingerprint that tells when
//! the folder changed. Reads only; parsing is `millrace_crds::manifest`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use millrace_crds::manifest::Source;

/// Largest file read; a manifest is a few kilobytes, and Kubernetes itself stops at about 1 MiB per object.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most files read: more than any installation has, few enough that a wrong folder is noticed at once.
pub const FILES_MAX: usize = 10_000;
/// Deepest folder below the one named; a link that leads back ends here.
const DEPTH_MAX: usize = 16;

/// Where the resources come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Every `.yaml` and `.yml` file below a folder (or one file).
    Path(PathBuf),
    /// Standard input, read once.
    Stdin,
}

impl Origin {
    /// `-` is standard input; anything else is a path.
    pub fn parse(text: &str) -> Self {
        if text == "-" { Self::Stdin } else { Self::Path(PathBuf::from(text)) }
    }

    /// Reads everything. Files are in the order of their names.
    pub fn read(&self) -> Result<Vec<Source>, SourceError> {
        match self {
            Self::Path(root) => files_below(root)?.iter().map(|file| read_file(root, &file.path)).collect(),
            Self::Stdin => {
                let mut text = String::new();
                let read = io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
                let bytes = read.map_err(|source| SourceError::Read { path: PathBuf::from("-"), source })?;
                if bytes as u64 > FILE_BYTES_MAX {
                    return Err(SourceError::TooLarge { path: PathBuf::from("-") });
                }
                Ok(vec![Source { name: "<stdin>".to_owned(), text }])
            }
        }
    }

    /// Changes whenever a file is added, removed or written; `None` where nothing can change.
    pub fn fingerprint(&self) -> Result<Option<Fingerprint>, SourceError> {
        match self {
            Self::Path(root) => files_below(root).map(|files| Some(Fingerprint(files))),
            Self::Stdin => Ok(None),
        }
    }
}

/// What the files of a folder look like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<File>);

/// One file as the file system describes it. Inode and size are there because editors and ConfigMap mounts replace
/// files within one tick of the modification time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    path: PathBuf,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Of the inode: a changed mode makes an unreadable file readable.
    changed: (i64, i64),
}

fn files_below(root: &Path) -> Result<Vec<File>, SourceError> {
    let mut found = Vec::new();
    let metadata = stat(root)?;
    if metadata.is_dir() {
        walk(root, 0, &mut found)?;
    } else {
        found.push(describe(root.to_owned(), &metadata));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<File>) -> Result<(), SourceError> {
    if depth > DEPTH_MAX {
        return Err(SourceError::TooDeep { path: folder.to_owned() });
    }
    let list = |source| SourceError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        // Hidden names are editors' swap files and the `..data` links of a mounted ConfigMap.
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        // A file may vanish between listing and looking: then it is simply not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml") {
            found.push(describe(path, &metadata));
            if found.len() > FILES_MAX {
                return Err(SourceError::TooMany { path: folder.to_owned() });
            }
        }
    }
    Ok(())
}

fn describe(path: PathBuf, metadata: &fs::Metadata) -> File {
    File {
        path,
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn stat(path: &Path) -> Result<fs::Metadata, SourceError> {
    fs::metadata(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })
}

fn read_file(root: &Path, path: &Path) -> Result<Source, SourceError> {
    if stat(path)?.len() > FILE_BYTES_MAX {
        return Err(SourceError::TooLarge { path: path.to_owned() });
    }
    let text =
        fs::read_to_string(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
    let name = path.strip_prefix(root).ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path);
    Ok(Source { name: name.display().to_string(), text })
}

/// Why the resources cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system said no.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One file is too large to be a manifest.
    #[error("`{}` is over {} bytes; split it", path.display(), FILE_BYTES_MAX)]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Too many files.
    #[error("more than {FILES_MAX} YAML files below `{}`; is this the right folder?", path.display())]
    TooMany {
        /// Where.
        path: PathBuf,
    },
    /// Folders nest too deep, or a link leads back.
    #[error("`{}` is nested deeper than {DEPTH_MAX} folders; does a link lead back?", path.display())]
    TooDeep {
        /// Where.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_yaml_files_in_order_and_skips_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        for (name, text) in [("b.yaml", "b"), ("deep/a.yml", "a"), ("note.txt", "x"), (".b.yaml.swp", "x")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let sources = Origin::Path(folder.path().to_owned()).read().unwrap();
        let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(names, ["b.yaml", "deep/a.yml"]);
    }

    #[test]
    fn fingerprint_changes_with_every_kind_of_change() {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin::Path(folder.path().to_owned());
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        let written = origin.fingerprint().unwrap();
        assert_eq!(origin.fingerprint().unwrap(), written);

        let replacement = folder.path().join("a.new");
        fs::write(&replacement, "two").unwrap();
        fs::rename(&replacement, &file).unwrap();
        let replaced = origin.fingerprint().unwrap();
        assert_ne!(replaced, written);

        fs::remove_file(&file).unwrap();
        assert_ne!(origin.fingerprint().unwrap(), replaced);
    }

    #[test]
    fn names_what_it_cannot_read() {
        let missing = Origin::Path(PathBuf::from("no/such/folder"));
        assert!(missing.read().unwrap_err().to_string().contains("no/such/folder"));

        let folder = tempfile::tempdir().unwrap();
        let size = usize::try_from(FILE_BYTES_MAX).unwrap() + 1;
        fs::write(folder.path().join("huge.yaml"), vec![b' '; size]).unwrap();
        let huge = Origin::Path(folder.path().to_owned()).read().unwrap_err();
        assert!(huge.to_string().contains("huge.yaml"), "{huge}");
    }
}
