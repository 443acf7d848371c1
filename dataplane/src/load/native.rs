//! Values of rows in, one block of ClickHouse's `Native` format out: columns one after the other, which the server takes
//! over nearly as they are. Measured on the engine it costs the server a fraction of rows (see README, Figures).
//!
//! Layout (`NativeWriter`, protocol revision 0): number of columns, number of rows; per column its name, its type and its
//! values. A `Nullable` column begins with a byte per row; a `LowCardinality` one has a dictionary and one index per row.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use millrace_crds::schema::Column;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::cells::{Cells, length};

/// `KeysSerializationVersion` of `SerializationLowCardinality`: shared dictionaries with additional keys.
const KEYS_VERSION: u64 = 1;
/// Its index type: the block has keys of its own, and they are all there are.
const KEYS_OF_THE_BLOCK: u64 = (1 << 9) | (1 << 10);

/// Version of `SerializationObject` in which documents are texts.
const DOCUMENTS_AS_TEXTS: u64 = 1;

/// A block being filled, row by row: each value goes to the column behind the one before.
pub struct Native {
    columns: Vec<Values>,
    at: usize,
    rows: usize,
}

struct Values {
    name: String,
    kind: String,
    /// One byte per row where the column is `Nullable`.
    nulls: Option<Vec<u8>>,
    data: Data,
}

enum Data {
    /// Values of so many bytes.
    Fixed(usize, Vec<u8>),
    /// Texts behind their lengths.
    Text(Vec<u8>),
    /// Documents as texts, which the server parses as it does those of rows: under the settings of the insert.
    Document(Vec<u8>),
    /// Texts of which there are few.
    Few(Dictionary),
}

impl Native {
    /// A block without rows, of these columns.
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.iter().map(Values::new).collect(), at: 0, rows: 0 }
    }

    /// The block.
    pub fn into_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.columns.iter().map(Values::bytes).sum::<usize>() + 4_096);
        length(self.columns.len(), &mut out);
        length(self.rows, &mut out);
        self.columns.into_iter().for_each(|column| column.write(&mut out));
        out
    }

    fn fixed(&mut self, value: &[u8]) {
        let column = &mut self.columns[self.at];
        match &mut column.data {
            Data::Fixed(_, data) => data.extend_from_slice(value),
            Data::Text(_) | Data::Document(_) | Data::Few(_) => {
                unreachable!("column `{}` holds texts", column.name)
            }
        }
        self.next();
    }

    /// To the next column, of the next row behind the last one.
    fn next(&mut self) {
        self.at += 1;
        if self.at == self.columns.len() {
            self.at = 0;
            self.rows += 1;
        }
    }
}

impl Cells for Native {
    fn u8(&mut self, value: u8) {
        self.fixed(&[value]);
    }

    fn u32(&mut self, value: u32) {
        self.fixed(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.fixed(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.fixed(&value.to_le_bytes());
    }

    fn i128(&mut self, value: i128) {
        self.fixed(&value.to_le_bytes());
    }

    fn f64(&mut self, value: f64) {
        self.fixed(&value.to_le_bytes());
    }

    fn text(&mut self, value: &str) {
        let column = &mut self.columns[self.at];
        match &mut column.data {
            Data::Text(data) | Data::Document(data) => {
                length(value.len(), data);
                data.extend_from_slice(value.as_bytes());
            }
            Data::Few(dictionary) => dictionary.push(value),
            Data::Fixed(..) => unreachable!("column `{}` holds no texts", column.name),
        }
        self.next();
    }

    fn uuid(&mut self, value: &Uuid) {
        let (first, second) = value.as_u64_pair();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..].copy_from_slice(&second.to_le_bytes());
        self.fixed(&bytes);
    }

    fn present(&mut self) {
        self.columns[self.at].mark(0);
    }

    fn null(&mut self) {
        let column = &mut self.columns[self.at];
        column.mark(1);
        match &mut column.data {
            Data::Fixed(width, data) => data.resize(data.len() + *width, 0),
            Data::Text(data) | Data::Document(data) => data.push(0),
            Data::Few(dictionary) => dictionary.push(""),
        }
        self.next();
    }
}

impl Values {
    fn new(column: &Column) -> Self {
        let inner = column.kind.strip_prefix("Nullable(").and_then(|kind| kind.strip_suffix(')'));
        let data = match inner.unwrap_or(&column.kind) {
            "UInt8" | "Bool" => Data::Fixed(1, Vec::new()),
            "UInt32" | "DateTime('UTC')" => Data::Fixed(4, Vec::new()),
            "UInt64" | "Int64" | "Float64" | "DateTime64(3, 'UTC')" => Data::Fixed(8, Vec::new()),
            "UUID" | "Decimal(38, 9)" => Data::Fixed(16, Vec::new()),
            "LowCardinality(String)" => Data::Few(Dictionary::default()),
            kind if kind.starts_with("JSON") => Data::Document(Vec::new()),
            _ => Data::Text(Vec::new()),
        };
        Self { name: column.name.clone(), kind: column.kind.clone(), nulls: inner.map(|_| Vec::new()), data }
    }

    fn mark(&mut self, null: u8) {
        match &mut self.nulls {
            Some(nulls) => nulls.push(null),
            None => unreachable!("column `{}` is not nullable", self.name),
        }
    }

    fn bytes(&self) -> usize {
        let nulls = self.nulls.as_ref().map_or(0, Vec::len);
        nulls
            + match &self.data {
                Data::Fixed(_, data) | Data::Text(data) | Data::Document(data) => data.len(),
                Data::Few(dictionary) => dictionary.keys.len() + 4 * dictionary.ids.len(),
            }
    }

    fn write(self, out: &mut Vec<u8>) {
        text(&self.name, out);
        text(&self.kind, out);
        match &self.data {
            Data::Fixed(..) | Data::Text(_) => {}
            Data::Document(_) => out.extend_from_slice(&DOCUMENTS_AS_TEXTS.to_le_bytes()),
            Data::Few(_) => out.extend_from_slice(&KEYS_VERSION.to_le_bytes()),
        }
        out.extend(self.nulls.unwrap_or_default());
        match self.data {
            Data::Fixed(_, data) | Data::Text(data) | Data::Document(data) => out.extend_from_slice(&data),
            Data::Few(dictionary) => dictionary.write(out),
        }
    }
}

/// The texts of a column, each once, and which of them stands in which row.
#[derive(Default)]
struct Dictionary {
    /// By hash of the text; of two with one hash only the first is found, the other is written again and again.
    known: HashMap<u64, (u32, usize), BuildHasherDefault<AsItIs>>,
    /// The texts behind their lengths.
    keys: Vec<u8>,
    count: u32,
    ids: Vec<u32>,
}

impl Dictionary {
    fn push(&mut self, value: &str) {
        let hash = xxh3_64(value.as_bytes());
        let id = match self.known.get(&hash) {
            Some(&(id, at)) if self.keys.get(at..at + value.len()) == Some(value.as_bytes()) => id,
            Some(_) => self.add(value).0,
            None => {
                let added = self.add(value);
                self.known.insert(hash, added);
                added.0
            }
        };
        self.ids.push(id);
    }

    /// Id of a text that was not there, and where its bytes begin.
    fn add(&mut self, value: &str) -> (u32, usize) {
        let id = self.count;
        self.count += 1;
        length(value.len(), &mut self.keys);
        let at = self.keys.len();
        self.keys.extend_from_slice(value.as_bytes());
        (id, at)
    }

    fn write(self, out: &mut Vec<u8>) {
        let width: u32 = match self.count {
            0..=0x100 => 0,
            0x101..=0x1_0000 => 1,
            _ => 2,
        };
        out.extend_from_slice(&(KEYS_OF_THE_BLOCK | u64::from(width)).to_le_bytes());
        out.extend_from_slice(&u64::from(self.count).to_le_bytes());
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&(self.ids.len() as u64).to_le_bytes());
        let bytes = 1 << width;
        self.ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()[..bytes]));
    }
}

/// For keys that are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

fn text(value: &str, out: &mut Vec<u8>) {
    length(value.len(), out);
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(columns: &[(&str, &str)]) -> Native {
        let column = |&(name, kind): &(&str, &str)| Column {
            name: name.to_owned(),
            kind: kind.to_owned(),
            codec: None,
        };
        Native::new(&columns.iter().map(column).collect::<Vec<_>>())
    }

    #[test]
    fn columns_stand_one_after_the_other() {
        let mut block = block(&[
            ("n", "UInt32"),
            ("t", "String"),
            ("f", "LowCardinality(String)"),
            ("o", "Nullable(Int64)"),
        ]);
        for (number, text) in [(7, "x"), (8, "")] {
            block.u32(number);
            block.text(text);
            block.text("few");
            if number == 7 {
                block.present();
                block.i64(-1);
            } else {
                block.null();
            }
        }
        let expected = [
            &b"\x04\x02\x01n\x06UInt32\x07\0\0\0\x08\0\0\0\x01t\x06String\x01x\0\x01f\x16LowCardinality(String)"[..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            b"\x03few\x02\0\0\0\0\0\0\0\0\0\x01o\x0fNullable(Int64)\0\x01",
            &[0xff; 8],
            &[0; 8],
        ]
        .concat();
        assert_eq!(block.into_bytes(), expected);
    }

    #[test]
    fn an_index_is_as_wide_as_its_dictionary_needs() {
        for (texts, width) in [(1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let mut dictionary = Dictionary::default();
            for _ in 0..2 {
                (0..texts).for_each(|text: u32| dictionary.push(&text.to_string()));
            }
            assert_eq!((dictionary.count, dictionary.ids.len()), (texts, 2 * texts as usize));
            let keys = dictionary.keys.len();
            let mut out = Vec::new();
            dictionary.write(&mut out);
            assert_eq!(out.len(), 8 + 8 + keys + 8 + 2 * texts as usize * width, "{texts} texts");
        }
    }
}
