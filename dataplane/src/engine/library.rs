//! Where the engine library is looked for: a given path, the cache that `make engine` fills, beside the program.

use std::path::{Path, PathBuf};

/// The version `scripts/engine-library.sh` fetches; the two must name the same.
pub const VERSION: &str = "26.5.3";

/// The library is nowhere to be found.
#[derive(Debug, thiserror::Error)]
#[error(
    "the engine library is missing (looked at {looked}); run `make engine`, or give its path with `--library`"
)]
pub struct Missing {
    /// The places, as a list for people.
    looked: String,
}

/// The places to look at, first to last. A given path is the only one.
pub fn places(given: Option<&Path>, cache: Option<&Path>, program: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path.to_owned()];
    }
    let cached = cache.map(|folder| folder.join("engine").join(VERSION).join("libchdb.so"));
    let beside = program.and_then(Path::parent).map(|folder| folder.join("libchdb.so"));
    cached.into_iter().chain(beside).collect()
}

/// The first place that holds a file.
pub fn find(places: &[PathBuf]) -> Result<PathBuf, Missing> {
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let looked: Vec<_> = places.iter().map(|path| format!("`{}`", path.display())).collect();
        Missing { looked: looked.join(", ") }
    })
}

/// The user's cache folder of this product.
pub fn default_cache() -> Option<PathBuf> {
    directories::BaseDirs::new().map(|dirs| dirs.cache_dir().join("millrace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_path_is_the_only_place() {
        let found =
            places(Some(Path::new("/lib/x.so")), Some(Path::new("/cache")), Some(Path::new("/bin/m")));
        assert_eq!(found, [PathBuf::from("/lib/x.so")]);
    }

    #[test]
    fn the_cache_comes_before_the_program_folder() {
        let found = places(None, Some(Path::new("/cache")), Some(Path::new("/bin/m")));
        let cached = PathBuf::from(format!("/cache/engine/{VERSION}/libchdb.so"));
        assert_eq!(found, [cached, PathBuf::from("/bin/libchdb.so")]);
    }

    #[test]
    fn a_missing_library_says_where_it_was_looked_for_and_the_fix() {
        let text = find(&[PathBuf::from("/nowhere/libchdb.so")]).unwrap_err().to_string();
        assert!(text.contains("`/nowhere/libchdb.so`") && text.contains("make engine"), "{text}");
    }

    #[test]
    fn the_script_fetches_the_same_version() {
        let script = include_str!("../../../scripts/engine-library.sh");
        assert!(script.contains(&format!("version=\"{VERSION}\"")));
    }
}
