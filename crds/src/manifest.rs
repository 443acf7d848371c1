//! YAML sources in, typed resources out, each with the lines it came from; whatever is wrong becomes a problem that
//! names file, document, line and field. Reads no file: the caller brings the text.

mod read;
mod secret;
mod split;
mod tree;

pub use secret::{Secret, SecretValue};

use std::collections::BTreeMap;
use std::ops::Deref;

use crate::app::App;
use crate::integration::Integration;
use crate::problem::{Place, Problem};
use crate::role_policy::RolePolicy;

/// Largest source in bytes. What people write is a hundred times smaller.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// One YAML text.
#[derive(Clone, Debug)]
pub struct Source {
    /// How messages name it: usually the file's path.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Every App.
    pub apps: Vec<Manifest<App>>,
    /// Every Integration.
    pub integrations: Vec<Manifest<Integration>>,
    /// Every RolePolicy.
    pub role_policies: Vec<Manifest<RolePolicy>>,
    /// Every Secret.
    pub secrets: Vec<Manifest<Secret>>,
    /// What could not be read, or is not known.
    pub problems: Vec<Problem>,
    /// What was left aside on purpose, such as resources of other products; for people, not an error.
    pub notes: Vec<Note>,
}

/// Something that was left aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it stands.
    pub place: Place,
    /// What was left aside and why.
    pub message: String,
}

/// A resource with the place it was read from. Stands for the resource itself wherever that is wanted.
#[derive(Clone, Debug)]
pub struct Manifest<T> {
    /// The resource.
    pub object: T,
    /// Where it starts.
    pub place: Place,
    lines: BTreeMap<String, u64>,
}

impl<T> Manifest<T> {
    /// The place of a field, or of the nearest field around it that is written down.
    pub fn locate(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Place { line: Some(*line), ..self.place.clone() };
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.place.clone(),
            }
        }
    }
}

impl<T> Deref for Manifest<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

/// Reads every document of every source. What is wrong with one document does not hide another.
pub fn parse(sources: &[Source]) -> Parsed {
    let mut parsed = Parsed::default();
    for source in sources {
        if source.text.len() > SOURCE_BYTES_MAX {
            let message = format!("has {} bytes, the most read is {SOURCE_BYTES_MAX}", source.text.len());
            let place = Place { file: source.name.clone(), document: 1, line: None };
            parsed.problems.push(read::problem(place, None, "", message, "split it into several files"));
            continue;
        }
        for document in split::documents(&source.text) {
            read::document(&source.name, &document, &mut parsed);
        }
    }
    parsed
}

#[cfg(test)]
mod tests;
