//! The values of rows, one column after the other, as who encodes a row writes them and a format takes them.

use uuid::Uuid;

/// Takes the values of a row in the order of the table's columns; the row behind the last one begins by itself.
pub trait Cells {
    /// `UInt8`, also `Bool`.
    fn u8(&mut self, value: u8);
    /// `UInt32`, also `DateTime`.
    fn u32(&mut self, value: u32);
    /// `UInt64`.
    fn u64(&mut self, value: u64);
    /// `Int64`, also `DateTime64`.
    fn i64(&mut self, value: i64);
    /// `Int128`, also `Decimal(38, …)`.
    fn i128(&mut self, value: i128);
    /// `Float64`.
    fn f64(&mut self, value: f64);
    /// `String`, also `LowCardinality(String)` and `JSON` as text.
    fn text(&mut self, value: &str);
    /// `UUID`: two 64-bit halves, the first half of the text first.
    fn uuid(&mut self, value: &Uuid);
    /// Before the value of a `Nullable` that is there.
    fn present(&mut self);
    /// Instead of the value of a `Nullable`.
    fn null(&mut self);
}

/// LEB128.
pub(super) fn length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}
