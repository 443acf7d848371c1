//! Values that must never be printed: keys, tokens, peppers.
//! The type has no Display, and its Debug shows only that something is there.

use std::fmt;

use subtle::ConstantTimeEq;

/// A secret. Reading it is a word in the code: [`Secret::expose`].
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value as early as possible.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself; for the one call that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: AsRef<[u8]>> Secret<T> {
    /// Whether the bytes are equal, in time that depends only on the length.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_ref().ct_eq(presented).into()
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_prints_its_value() {
        let secret = Secret::new("mrw_demo".to_owned());
        assert!(!format!("{secret:?}").contains("demo"));
        assert!(secret.matches(b"mrw_demo"));
        assert!(!secret.matches(b"mrw_dem"));
    }
}
