//! What is wrong with a resource, told so that a person can repair it: where, what, and how.

use std::fmt;

/// One problem of one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it was read from; absent when it did not come from a file.
    pub source: Option<Place>,
    /// The resource; absent when a document could not be understood that far.
    pub object: Option<ObjectRef>,
    /// The field, such as `spec.ingest.writeKeys[0].name`; empty for the whole document.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty when the message says it.
    pub fix: String,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the source, as given.
    pub file: String,
    /// Document in it, from 1; documents that hold only comments do not count.
    pub document: usize,
    /// Line in the file, from 1, where known.
    pub line: Option<u64>,
}

/// Which resource is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Names a resource.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line} (document {})", self.file, self.document),
            None => write!(f, "{} (document {})", self.file, self.document),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.source {
            write!(f, "{place}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// A field path under construction: `Path::root("spec").field("ingest").index(0)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// Starts at a top-level field.
    pub fn root(field: &str) -> Self {
        Self(field.to_owned())
    }

    /// One field deeper.
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// One list element deeper.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The problems of one resource, as they are found.
#[derive(Debug)]
pub struct Report {
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl Report {
    /// Nothing found yet.
    pub fn new(object: ObjectRef) -> Self {
        Self { object, problems: Vec::new() }
    }

    /// Adds a problem.
    pub fn add(&mut self, path: &Path, message: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem {
            source: None,
            object: Some(self.object.clone()),
            path: path.as_str().to_owned(),
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// Everything found.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// The value if nothing was found.
    pub fn into_result<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.problems.is_empty() { Ok(value) } else { Err(self.problems) }
    }
}

/// The known name nearest to a mistyped one, if one is near enough to be meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if typed.len() > TYPED_BYTES_MAX {
        return None;
    }
    let lower = typed.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= EDITS_MAX.min(name.len().div_ceil(3)))
        .min()
        .map(|(_, name)| name)
}

/// Comparing costs length times length, and no name of ours is half as long.
const TYPED_BYTES_MAX: usize = 128;
/// More edits than this are another word, not a slip.
const EDITS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line_with_place_object_field_and_fix() {
        let mut report = Report::new(ObjectRef::new("App", "default", "shop"));
        report.add(&Path::root("spec").field("writeKeys").index(0), "is wrong", "do better");
        let mut problem = report.into_problems().remove(0);
        assert_eq!(problem.to_string(), "App default/shop: spec.writeKeys[0]: is wrong; do better");
        problem.source = Some(Place { file: "shop.yaml".to_owned(), document: 2, line: Some(14) });
        assert!(problem.to_string().starts_with("shop.yaml:14 (document 2): App default/shop: "));
    }

    #[test]
    fn suggests_a_slip_but_not_another_word() {
        let known = ["ingest", "events", "privacy"];
        for (typed, meant) in
            [("ingset", Some("ingest")), ("Events", Some("events")), ("color", None), ("x", None)]
        {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }
}
