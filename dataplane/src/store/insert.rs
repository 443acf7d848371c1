//! A block of encoded rows in, an answer out: one HTTP request, one insert, one ClickHouse block.

use std::time::Duration;

use bytes::Bytes;
use millrace_crds::schema::{Column, identifier};

use super::{ClickHouse, StoreError};

/// Longest wait for one insert. A block is at most some ten megabytes; what takes longer is stuck.
const INSERT_TIME_MAX: Duration = Duration::from_secs(120);

/// Most bytes of one HTTP chunk.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// What makes one insert one block, and a repeated one no second block.
const SETTINGS: &[(&str, &str)] = &[
    ("async_insert", "0"),
    ("insert_deduplicate", "1"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("max_insert_threads", "1"),
    ("input_format_parallel_parsing", "0"),
    // More than `Limits::months_max`, whatever the account's profile says.
    ("max_partitions_per_insert_block", "100"),
    ("max_insert_block_size", "1048576"),
    ("min_insert_block_size_rows", "1048576"),
    ("min_insert_block_size_bytes", "1073741824"),
    // `event_data`: a document as text; keys keep their dots; texts that look like dates stay texts; when two
    // keys escape to the same path the first one counts, so that no document can make a block unstorable.
    ("input_format_binary_read_json_as_string", "1"),
    ("json_type_escape_dots_in_keys", "1"),
    ("type_json_skip_duplicated_paths", "1"),
    ("input_format_try_infer_dates", "0"),
    ("input_format_try_infer_datetimes", "0"),
];

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns: `load::native`.
    Native,
    /// Rows: `load::rowbinary`.
    RowBinary,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Self::Native => "Native",
            Self::RowBinary => "RowBinary",
        }
    }
}

/// One insert.
#[derive(Clone, Debug)]
pub struct Insert<'a> {
    /// Database.
    pub database: &'a str,
    /// Table.
    pub table: &'a str,
    /// Columns, in the order of the encoded values.
    pub columns: &'a [Column],
    /// The same token twice is one insert. Also its query id: a repeat is refused for now while an earlier attempt
    /// still runs, so that the answer to a repeat says that no other is underway.
    pub token: &'a str,
    /// How the rows are written.
    pub format: Format,
    /// The rows.
    pub rows: Bytes,
}

impl ClickHouse {
    /// Inserts. After an error the rows may or may not be there: repeat under the same token.
    pub async fn insert(&self, insert: Insert<'_>) -> Result<(), StoreError> {
        let mut request = self.client().insert_formatted_with(statement(&insert));
        for &(name, value) in SETTINGS {
            request = request.with_setting(name, value);
        }
        let mut request = request
            .with_setting("insert_deduplication_token", insert.token)
            .with_setting("query_id", insert.token)
            .with_timeouts(Some(INSERT_TIME_MAX), Some(INSERT_TIME_MAX))
            .buffered_with_capacity(CHUNK_BYTES_MAX);
        let sent = async {
            let mut rest = &insert.rows[..];
            while !rest.is_empty() {
                let written = request.write(rest).await?;
                rest = &rest[written..];
            }
            request.end().await
        };
        sent.await.map_err(StoreError::from_insert)
    }
}

fn statement(insert: &Insert<'_>) -> String {
    let columns: Vec<String> = insert.columns.iter().map(|column| identifier(&column.name)).collect();
    format!(
        "INSERT INTO {}.{} ({}) FORMAT {}",
        identifier(insert.database),
        identifier(insert.table),
        columns.join(", "),
        insert.format.as_str()
    )
}
