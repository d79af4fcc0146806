//! Opening the files of a model: regular files alone, none larger than its kind can be.
//!
//! A name in a model's folder can be a FIFO, which a reader waits for without end, or a device such as `/dev/zero`,
//! which has no end. Every file of a model is opened here.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// Bytes of the largest settings file or index of shards that is read. Those of real models have kilobytes.
pub(crate) const SETTINGS_LIMIT: u64 = 16 << 20;

/// Bytes of the largest `tokenizer.json` that is read. A vocabulary of 250,000 tokens takes 17 MB.
pub(crate) const TOKENIZER_LIMIT: u64 = 256 << 20;

/// Opens a regular file for reading, and says what it was when it was opened.
///
/// # Errors
/// [`Error::Io`] where the system does not open it; [`Error::Model`] for everything that is not a regular file.
pub(crate) fn open(path: &Path) -> Result<(File, Metadata)> {
    let io = |e: io::Error| Error::io(path, e);
    // Before it is opened: opening alone can wait (a FIFO), fail oddly (a socket) or do something (a device).
    regular(path, &fs::metadata(path).map_err(io)?)?;
    let file = options().open(path).map_err(io)?;
    // The name can have got another meaning in between.
    let metadata = file.metadata().map_err(io)?;
    regular(path, &metadata)?;
    Ok((file, metadata))
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and [`Error::Model`] for a larger file.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let too_long = |length: u64| {
        Error::model(
            path,
            format!(
                "is {length} bytes long; at most {limit} are read of such a file; fetch or save it again"
            ),
        )
    };
    let (file, metadata) = open(path)?;
    if metadata.len() > limit {
        return Err(too_long(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // Bounded all the same: a file can grow while it is read.
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(path, e))?;
    match bytes.len() as u64 {
        length if length > limit => Err(too_long(length)),
        _ => Ok(bytes),
    }
}

/// Checks that a text file does not begin with a byte order mark, which JSON must not have and no reader shows: the parser's
/// own message would be of a value that is missing in the first column.
pub(crate) fn check_encoding(path: &Path, text: &[u8]) -> Result<()> {
    let encoding = match text {
        [0xef, 0xbb, 0xbf, ..] => "UTF-8",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16",
        _ => return Ok(()),
    };
    Err(Error::model(
        path,
        format!(
            "begins with a byte order mark ({encoding}), which JSON must not have; save the file as UTF-8 without one (in \
             Python: encoding=\"utf-8\")"
        ),
    ))
}

/// Whether there is something of this name, be it a link that leads nowhere: an optional file that is there and cannot
/// be read is an error, not an absent one.
pub(crate) fn is_present(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn regular(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = if metadata.is_dir() {
        "a folder"
    } else {
        "a device, a pipe or a socket"
    };
    Err(Error::model(
        path,
        format!("is {kind}, not a regular file; put the model's own file there"),
    ))
}

fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    // So that a FIFO which took the file's name a moment ago is not waited for.
    #[cfg(target_os = "linux")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    options
}

/// What a file was when it was mapped, to notice that it was changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
    /// Device and inode.
    identity: (u64, u64),
}

impl Stamp {
    /// Of a file that was opened as `path`.
    pub fn new(path: &Path, metadata: &Metadata) -> Stamp {
        Stamp {
            // The process may change its folder.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            length: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(metadata),
        }
    }

    /// The file, where its name now stands for something else than what was opened: shortened, overwritten or replaced.
    /// A file that was removed is unchanged: what is mapped stays. One call of the system, about a microsecond.
    pub fn changed(&self) -> Option<&Path> {
        let metadata = fs::metadata(&self.path).ok()?;
        (Stamp::new(&self.path, &metadata) != *self).then_some(&self.path)
    }
}

/// The error for a file that [`Stamp::changed`] names.
pub(crate) fn changed(path: &Path) -> Error {
    Error::model(
        path,
        "was changed since the model was opened; open the model again, and replace a model's files only while nobody has \
         it open",
    )
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}
