use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Size of a detached command's log in bytes. The run directory is memory on most hosts.
const LIMIT: u64 = 1 << 20;

/// A file that keeps the newest output of a command.
#[derive(Debug)]
pub(super) struct BoundedLog {
    file: File,
    len: u64,
    limit: u64,
}

impl BoundedLog {
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Self {
            file,
            len: 0,
            limit,
        })
    }

    /// Appends; the older half goes when there is no room.
    ///
    /// # Errors
    /// When the disk is full, for example; what was there may be cut short then.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let keep = self.limit / 2;
        let excess = bytes
            .len()
            .saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        let bytes = bytes.get(excess..).unwrap_or_default();
        if self.len + bytes.len() as u64 > self.limit {
            self.forget_all_but(keep)?;
        }
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Keeps at most the newest `keep` bytes, from the start of a line.
    fn forget_all_but(&mut self, keep: u64) -> io::Result<()> {
        let mut tail = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.len.saturating_sub(keep)))?;
        (&self.file).take(keep).read_to_end(&mut tail)?;
        let start = tail
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let tail = tail.get(start..).unwrap_or_default();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(tail)?;
        self.len = tail.len() as u64;
        self.file.set_len(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_the_limit_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::with_limit(&path, 100).unwrap();
        for number in 0..1000 {
            log.append(format!("line {number}\n").as_bytes()).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 100);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 998\nline 999\n"), "{text}");
        assert!(text.starts_with("line 9"), "{text}");
    }

    #[test]
    fn a_write_larger_than_the_limit_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::with_limit(&path, 100).unwrap();
        log.append(&[b'x'; 1000]).unwrap();
        log.append(b"end\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 100 && text.ends_with("end\n"), "{text}");
    }
}
