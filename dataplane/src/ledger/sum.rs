//! Events as the ledger counts them. Pure.

use std::ops::{Add, AddAssign, Neg, Sub};

/// How many events, and the wrapping sum of their hashes ([`crate::record::event_hash`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many; below zero where some were taken back.
    pub count: i64,
    /// Sum of their hashes.
    pub hashes: u64,
}

impl Sum {
    /// No event.
    pub const ZERO: Self = Self { count: 0, hashes: 0 };

    /// The one event with this hash.
    pub fn one(hash: u64) -> Self {
        Self { count: 1, hashes: hash }
    }

    /// The events with these hashes.
    pub fn all(hashes: &[u64]) -> Self {
        hashes.iter().map(|hash| Self::one(*hash)).fold(Self::ZERO, Self::add)
    }

    /// Whether it is no event at all.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { count: self.count + other.count, hashes: self.hashes.wrapping_add(other.hashes) }
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Neg for Sum {
    type Output = Self;

    fn neg(self) -> Self {
        Self { count: -self.count, hashes: self.hashes.wrapping_neg() }
    }
}

impl Sub for Sum {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}
