//! Layout of the database: three tables of sealed records.

use std::io;

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError};

use super::seal::Sealer;

/// Log entries by index.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Named values, see [`meta`].
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The current snapshot in pieces of [`SNAPSHOT_CHUNK`] bytes.
pub(super) const SNAPSHOT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshot");
/// Bytes of one piece.
pub(super) const SNAPSHOT_CHUNK: usize = 1 << 20;

/// Description and content of a snapshot, both encoded.
pub(super) type RawSnapshot = (Vec<u8>, Vec<u8>);

/// Names in [`META`].
pub(super) mod meta {
    /// Whose store it is and in which layout.
    pub(in crate::store) const HEADER: &str = "header";
    /// The last vote.
    pub(in crate::store) const VOTE: &str = "vote";
    /// A log id that is known to be committed.
    pub(in crate::store) const COMMITTED: &str = "committed";
    /// The last log id that was purged.
    pub(in crate::store) const PURGED: &str = "purged";
    /// Number of pieces (u64, big endian) and description of the snapshot.
    pub(in crate::store) const SNAPSHOT: &str = "snapshot-meta";
}

/// Reads a named value.
pub(super) fn read_meta(
    transaction: &ReadTransaction,
    sealer: &Sealer,
    name: &str,
) -> io::Result<Option<Vec<u8>>> {
    let table = match transaction.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    };
    let Some(record) = table.get(name).map_err(io::Error::other)? else {
        return Ok(None);
    };
    sealer
        .open(name, 0, record.value())
        .map(Some)
        .map_err(|_| unsealable(name))
}

/// Reads the description and content of the snapshot.
pub(super) fn read_snapshot(
    transaction: &ReadTransaction,
    sealer: &Sealer,
) -> io::Result<Option<RawSnapshot>> {
    let Some(named) = read_meta(transaction, sealer, meta::SNAPSHOT)? else {
        return Ok(None);
    };
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "the snapshot is incomplete");
    let (chunks, described) = named.split_first_chunk::<8>().ok_or_else(cut)?;
    let table = transaction.open_table(SNAPSHOT).map_err(io::Error::other)?;
    let mut data = Vec::new();
    for index in 0..u64::from_be_bytes(*chunks) {
        let record = table
            .get(index)
            .map_err(io::Error::other)?
            .ok_or_else(cut)?;
        let piece = sealer
            .open("snapshot", index, record.value())
            .map_err(|_| unsealable("the snapshot"))?;
        data.extend_from_slice(&piece);
    }
    Ok(Some((described.to_vec(), data)))
}

/// Reads all log entries, in order.
pub(super) fn read_log(
    transaction: &ReadTransaction,
    sealer: &Sealer,
) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let table = match transaction.open_table(LOG) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let mut entries = Vec::new();
    for row in table.iter().map_err(io::Error::other)? {
        let (index, record) = row.map_err(io::Error::other)?;
        let index = index.value();
        let entry = sealer
            .open("log", index, record.value())
            .map_err(|_| unsealable(&format!("log entry {index}")))?;
        entries.push((index, entry));
    }
    Ok(entries)
}

fn unsealable(what: &str) -> io::Error {
    let reason = format!("{what} does not open with this node's key");
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
