//! The output file.
//!
//! Rows go to `FILE.partial`, which becomes `FILE` when the run is done: a `FILE` there is always
//! whole, and what it held before stays until then. A run that is killed leaves `FILE.partial`, and
//! `--resume` continues it. Where there is none, `--resume` continues `FILE`, which is renamed to
//! `FILE.partial` at once and back at the end. Pipes and devices are written as they are.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::exit::Exit;

/// An output file that is open for writing.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// Where the rows are now.
    path: PathBuf,
    /// Where they are while the run lasts, and at its end; `None` for pipes and devices.
    names: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// Opens the output without changing anything yet: that is for [`begin`](Self::begin).
    ///
    /// `resumable` is whether an unfinished file of this format is worth something.
    pub fn open(path: &Path, resume: bool, resumable: bool) -> Result<Target, Exit> {
        // A link is followed, not replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.is_dir() {
            return Err(Exit::usage(format!(
                "{}: is a folder; give a file's name to -o",
                path.display()
            )));
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Exit::output_file(&path, &error)
        };
        if fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            if resume {
                return Err(Exit::usage(format!(
                    "{}: --resume needs a file, not a pipe or device",
                    path.display()
                )));
            }
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(failed(&path))?;
            return Ok(Target {
                file,
                path,
                names: None,
            });
        }
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let has_rows = fs::metadata(&partial).is_ok_and(|meta| meta.len() > 0);
        if has_rows && !resume && resumable {
            let name = partial.display();
            let way_out = format!("continue it with --resume, or delete {name} to start over");
            return Err(Exit::usage(format!(
                "{name} is what an unfinished run left; {way_out}"
            )));
        }
        let current = if resume && !partial.exists() && path.exists() {
            &path
        } else {
            &partial
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(current).map_err(failed(current))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Exit::usage(format!(
                "{}: another ropeway is writing it",
                current.display()
            )));
        }
        Ok(Target {
            file,
            path: current.clone(),
            names: Some((partial, path)),
        })
    }

    /// Where the rows are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a header can be filled in at the end.
    pub fn seekable(&mut self) -> bool {
        self.file.stream_position().is_ok()
    }

    /// A second handle, to read what an earlier run left, from the start.
    pub fn reader(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Keeps the first bytes, drops the rest and goes on behind them.
    pub fn begin(&mut self, keep: u64) -> io::Result<()> {
        let Some((partial, _)) = &self.names else {
            return Ok(());
        };
        if self.path != *partial {
            fs::rename(&self.path, partial)?;
            self.path = partial.clone();
        }
        self.file.set_len(keep)?;
        self.file.seek(SeekFrom::Start(keep))?;
        Ok(())
    }

    /// Overwrites bytes at a place and goes back to the end.
    pub fn patch(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)?;
        self.file.seek(SeekFrom::End(0)).map(|_| ())
    }

    /// Gives the file its name.
    pub fn finish(self) -> io::Result<()> {
        let Some((partial, path)) = &self.names else {
            return Ok(());
        };
        // Some disks tell that they are full only now.
        self.file.sync_all()?;
        fs::rename(partial, path)
    }

    /// Removes the file of a run that failed before it had rows.
    pub fn discard_if_empty(&self) {
        if self.names.is_some() && self.file.metadata().is_ok_and(|meta| meta.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
