//! Writes what `millrace_crds::generated` makes. Thin: it reads the examples, writes files, decides nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use millrace_crds::generated::{self, EXAMPLES, Example};
use millrace_crds::manifest::Source;
use millrace_crds::problem::Problem;

use crate::workloads::golden;

/// Why generated files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file or folder could not be read.
    #[error("cannot read `{path}`; is `--root` the root of the repository?", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The examples do not pass.
    #[error("the examples are not valid:\n{}", lines(problems))]
    Examples {
        /// What is wrong with them.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Every CRD as one YAML stream.
pub fn crds_as_stream() -> String {
    generated::crds().into_values().collect::<Vec<_>>().join("---\n")
}

/// Writes each CRD into a file of `dir`, and gives their paths.
pub fn write_crds(dir: &Path) -> Result<Vec<PathBuf>, GenerateError> {
    generated::crds().into_iter().map(|(name, text)| write(dir.join(name), &text)).collect()
}

/// Writes every generated file below `root`, and gives their paths.
pub fn write_all(root: &Path) -> Result<Vec<PathBuf>, GenerateError> {
    let mut files =
        generated::files(&examples(root)?).map_err(|problems| GenerateError::Examples { problems })?;
    files.extend(golden::files());
    files.into_iter().map(|(path, text)| write(root.join(path), &text)).collect()
}

/// Reads the examples of the repository.
pub fn examples(root: &Path) -> Result<Vec<Example>, GenerateError> {
    let dirs = entries(&root.join(EXAMPLES))?;
    dirs.into_iter().filter(|path| path.is_dir()).map(|dir| example(&dir)).collect()
}

fn example(dir: &Path) -> Result<Example, GenerateError> {
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
    let read = |path: PathBuf| match fs::read_to_string(&path) {
        Ok(text) => Ok(Source { name: path.display().to_string(), text }),
        Err(source) => Err(GenerateError::Read { path, source }),
    };
    let sources = entries(dir)?.into_iter().filter(is_yaml).map(read).collect::<Result<_, _>>()?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Example { name, sources })
}

/// What is in a folder, sorted.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, GenerateError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(|source| GenerateError::Read { path: dir.to_owned(), source })
}

fn write(path: PathBuf, text: &str) -> Result<PathBuf, GenerateError> {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    match folder.and_then(|()| fs::write(&path, text)) {
        Ok(()) => Ok(path),
        Err(source) => Err(GenerateError::Write { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_every_definition_as_one_stream() {
        let stream = crds_as_stream();
        for name in ["apps", "integrations", "rolepolicies", "revisions"] {
            assert!(stream.contains(&format!("name: {name}.millrace.dev")), "{name}");
        }
        assert_eq!(stream.matches("\n---\n").count(), 3);
    }

    #[test]
    fn writes_one_file_per_definition() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write_crds(&dir.path().join("new")).unwrap();
        assert_eq!(paths.len(), 4);
        assert!(paths.iter().all(|path| path.is_file()));
    }

    #[test]
    fn says_which_folder_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_all(dir.path()).unwrap_err();
        assert!(error.to_string().contains("manifests/examples"), "{error}");
    }
}
