//! A run written down: users, deliveries in the order in which they were sent, and what is true in the end. Sent again, a failing seed
//! is a regression test. One JSON object a line.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{truth::Truth, world::SimulatedUser};

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file.
    #[error("the record {} cannot be read or written", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line.
    #[error("{}, line {line}: is no line of a record ({source}); write records with `trueup simulate --record`", path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// No truth.
    #[error("{}: the record ends before it tells what is true; that run was broken off", path.display())]
    Unfinished {
        /// Which.
        path: PathBuf,
    },
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// The host makes a user.
    User { user: SimulatedUser },
    /// A delivery is sent; `at` is virtual.
    Delivery { at: i64, event: String, attempt: u32, body: String },
    /// What is true at the end.
    Truth { truth: Truth },
}

/// Writes a record.
#[derive(Debug)]
pub(crate) struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Recorder {
    pub(crate) fn create(path: &Path) -> Result<Self, RecordError> {
        let file = File::create(path).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    pub(crate) fn write(&mut self, entry: &Entry) -> Result<(), RecordError> {
        let line = serde_json::to_string(entry).unwrap_or_default();
        writeln!(self.file, "{line}").map_err(|source| RecordError::Io { path: self.path.clone(), source })
    }

    pub(crate) fn finish(&mut self) -> Result<(), RecordError> {
        self.file.flush().map_err(|source| RecordError::Io { path: self.path.clone(), source })
    }
}

/// Reads a record: everything but its end, and the truth.
pub(crate) fn read(path: &Path) -> Result<(Vec<Entry>, Truth), RecordError> {
    let failed = |source| RecordError::Io { path: path.to_owned(), source };
    let mut entries = Vec::new();
    for (index, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.is_empty() {
            continue;
        }
        let entry = serde_json::from_str(&line).map_err(|source| RecordError::Line {
            path: path.to_owned(),
            line: index + 1,
            source,
        })?;
        if let Entry::Truth { truth } = entry {
            return Ok((entries, truth));
        }
        entries.push(entry);
    }
    Err(RecordError::Unfinished { path: path.to_owned() })
}
