//! Values in, bytes of ClickHouse's `RowBinary` out: little endian, texts behind their length, NULL as one byte. Nothing is
//! loaded so: it is what tests and benchmarks hold [`super::native`] against.

use uuid::Uuid;

use super::cells::{Cells, length};

/// Rows being encoded.
#[derive(Default)]
pub struct RowBinary(Vec<u8>);

impl RowBinary {
    /// With room for that many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The rows.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Cells for RowBinary {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn i128(&mut self, value: i128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, value: &str) {
        length(value.len(), &mut self.0);
        self.0.extend_from_slice(value.as_bytes());
    }

    fn uuid(&mut self, value: &Uuid) {
        let (first, second) = value.as_u64_pair();
        self.u64(first);
        self.u64(second);
    }

    fn present(&mut self) {
        self.u8(0);
    }

    fn null(&mut self) {
        self.u8(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_lengths_ids_and_nulls_as_clickhouse_reads_them() {
        let mut out = RowBinary::default();
        out.text(&"x".repeat(300));
        assert_eq!(out.0[..3], [0xac, 0x02, b'x']);
        let mut out = RowBinary::default();
        out.uuid(&Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
        assert_eq!(hex::encode(&out.0), "7766554433221100ffeeddccbbaa9988");
        let mut out = RowBinary::default();
        out.null();
        out.present();
        out.i128(-1);
        assert_eq!(out.0, [[1, 0].as_slice(), &[0xff; 16]].concat());
    }
}
