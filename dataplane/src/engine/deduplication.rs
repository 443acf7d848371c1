//! Makes deduplication of plain tables crash-atomic, before the engine opens them.
//!
//! The engine writes the record of a block's token first and publishes the block's part after it. Killed in between,
//! it would take the repeated block for a duplicate of rows that were never there. So at every start the records
//! whose part is not covered by any published one are removed: then the repeat is inserted. A record removed in
//! vain (its part was dropped by retention) only means that a block of that age could be stored again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Folder of a table's records, beside its parts.
const FOLDER: &str = "deduplication_logs";

/// Block numbers of published parts, by partition.
type Published = BTreeMap<String, Vec<(u64, u64)>>;

/// Repairs every table below a data folder; returns how many records were removed.
pub(super) fn repair(data_dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for table in folders(&data_dir.join("store"))?.iter().map(|group| folders(group)) {
        for table in table? {
            removed += repair_table(&table, data_dir)?;
        }
    }
    Ok(removed)
}

fn repair_table(table: &Path, data_dir: &Path) -> io::Result<usize> {
    let logs = table.join(FOLDER);
    if !logs.is_dir() {
        return Ok(0);
    }
    let mut published = Published::new();
    for folder in folders(table)? {
        if let Some((partition, first, last)) = folder.file_name().and_then(|name| part(name.to_str()?)) {
            published.entry(partition.to_owned()).or_default().push((first, last));
        }
    }
    let mut removed = 0;
    for entry in fs::read_dir(&logs)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let (kept, lost) = keep_published(&text, &published);
        if kept != text {
            replace(&path, &kept, data_dir)?;
            removed += lost;
        }
    }
    Ok(removed)
}

/// The records whose part is published, and how many others there were. A last line without its end was never
/// acted on.
fn keep_published(text: &str, published: &Published) -> (String, usize) {
    let mut kept = String::with_capacity(text.len());
    let mut lost = 0;
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let named = line.split('\t').nth(1).and_then(part);
        let is_there = named.is_none_or(|(partition, first, last)| {
            let parts = published.get(partition).map(Vec::as_slice).unwrap_or_default();
            parts.iter().any(|(from, to)| *from <= first && last <= *to)
        });
        if is_there {
            kept.push_str(line);
        } else {
            lost += 1;
        }
    }
    (kept, lost)
}

/// `<partition>_<first block>_<last block>_<level>[_<mutation>]`; `None` for any other name, such as `tmp_…`.
fn part(name: &str) -> Option<(&str, u64, u64)> {
    let fields: Vec<_> = name.split('_').collect();
    let &[partition, first, last, ref rest @ ..] = fields.as_slice() else { return None };
    let numbers =
        !rest.is_empty() && rest.len() <= 2 && rest.iter().all(|field| field.parse::<u64>().is_ok());
    (numbers && !partition.is_empty()).then_some(())?;
    Some((partition, first.parse().ok()?, last.parse().ok()?))
}

/// Written beside the tables first: the engine reads whatever lies in the folder of records.
fn replace(path: &Path, text: &str, data_dir: &Path) -> io::Result<()> {
    let unfinished = data_dir.join("deduplication.unfinished");
    let mut file = fs::File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

fn folders(below: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(below) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_only_the_records_whose_part_never_came() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("store/abc/abc-def");
        for part in ["202611_1_4_1", "202612_1_1_0_7", "tmp_insert_202611_6_6_0", "detached", FOLDER] {
            fs::create_dir_all(table.join(part)).unwrap();
        }
        let log = table.join(FOLDER).join("deduplication_log_1.txt");
        let text = "1\t202611_1_1_0\ta\n1\t202611_4_4_0\tb\n1\t202611_6_6_0\tlost\n1\t202612_1_1_0\tc\n\
                    1\t202701_1_1_0\tlost too\n1\t202611_7_7";
        fs::write(&log, text).unwrap();
        assert_eq!(repair(folder.path()).unwrap(), 2);
        let kept = "1\t202611_1_1_0\ta\n1\t202611_4_4_0\tb\n1\t202612_1_1_0\tc\n";
        assert_eq!(fs::read_to_string(&log).unwrap(), kept);
        assert_eq!(repair(folder.path()).unwrap(), 0);
    }

    #[test]
    fn a_new_data_folder_needs_no_repair() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(repair(folder.path()).unwrap(), 0);
    }
}
