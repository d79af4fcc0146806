//! The output file.
//!
//! Rows go to `FILE.partial`, which becomes `FILE` when the run is done: a `FILE` there is always whole, and what it held
//! before stays until then. A run that is killed leaves `FILE.partial`, and `--resume` continues it. Where there is none,
//! `--resume` continues `FILE`, which is renamed to `FILE.partial` at once and back at the end. Pipes and devices are
//! written as they are.
//!
//! `FILE.partial` is also what runs exclude each other with: a run holds the lock of the file of that name from before it
//! looks at anything until after `FILE` has its name.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::claim::{self, directly};
use super::exit::Exit;
use super::source::{self, Source};

/// What `open` does with rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Goes on behind them.
    Continue,
    /// Refuses to start; the user may continue them.
    Keep,
    /// Refuses to start; this format cannot be continued.
    Foreign,
}

/// An output file that is open for writing.
#[derive(Debug)]
pub struct Target {
    file: File,
    /// Where the rows are now.
    current: PathBuf,
    /// `None` for pipes and devices, and when all is done.
    names: Option<Names>,
}

#[derive(Debug)]
struct Names {
    /// Where the rows are while the run lasts.
    partial: PathBuf,
    /// Where they are at its end.
    path: PathBuf,
    /// Where `FILE` is continued: the empty file that had the name `FILE.partial` until then. Its lock is held on.
    placeholder: Option<File>,
    existing: Existing,
}

impl Target {
    /// Opens the output without changing anything yet: that is for [`begin`](Self::begin).
    ///
    /// # Errors
    /// One of `sources` is the output or its partial file; the output cannot be replaced; another run is writing it; an
    /// earlier one left rows.
    pub fn open(path: &Path, sources: &[Source], existing: Existing) -> Result<Target, Exit> {
        let name = path.display();
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => {
                return Err(Exit::usage(format!(
                    "{name}: is a folder; give a file's name to -o"
                )));
            }
            Ok(meta) if !meta.is_file() && existing == Existing::Continue => {
                return Err(Exit::usage(format!(
                    "{name}: --resume needs a file, not a pipe or device"
                )));
            }
            Ok(meta) if !meta.is_file() => return Target::device(path),
            _ => {}
        }
        let path = destination(path).map_err(|error| Exit::output_file(path, &error))?;
        let partial = with_ending(&path);
        let check_inputs = || {
            source::refuse_output(sources, &path, "the output")?;
            source::refuse_output(
                sources,
                &partial,
                "the file that the output is written to until it is whole",
            )
        };
        check_inputs()?;
        let replaced = replaceable(&path).map_err(|error| Exit::output_file(&path, &error))?;
        let file = claim::open_or_create(&partial, replaced.is_some())?;
        claim::lock(&file, &partial)?;
        let failed = |path: &Path, error: io::Error| Exit::output_file(path, &error);
        let has_rows = file.metadata().map_err(|error| failed(&partial, error))?.len() > 0;
        if has_rows {
            existing.check(&partial)?;
        }
        // From here on an empty partial file goes with the target.
        let mut target = Target {
            file,
            current: partial.clone(),
            names: Some(Names {
                partial: partial.clone(),
                path: path.clone(),
                placeholder: None,
                existing,
            }),
        };
        // An input that was not there, and is now: the partial file.
        check_inputs()?;
        if let Some(replaced) = &replaced {
            hide(&target.file, replaced).map_err(|error| failed(&partial, error))?;
        }
        if existing == Existing::Continue
            && !has_rows
            && let Some(file) = claim::open(&path)?
        {
            claim::lock(&file, &path)?;
            let placeholder = std::mem::replace(&mut target.file, file);
            target.current = path;
            target
                .names
                .as_mut()
                .map(|names| names.placeholder.insert(placeholder));
        }
        Ok(target)
    }

    fn device(path: &Path) -> Result<Target, Exit> {
        let file = OpenOptions::new().write(true).open(path);
        Ok(Target {
            file: file.map_err(|error| Exit::output_file(path, &error))?,
            current: path.to_owned(),
            names: None,
        })
    }

    /// Where the rows are.
    pub fn path(&self) -> &Path {
        &self.current
    }

    /// A folder for scratch files that may grow as large as the output.
    pub fn scratch_folder(&self) -> PathBuf {
        match &self.names {
            Some(names) => claim::folder(&names.partial).to_owned(),
            None => std::env::temp_dir(),
        }
    }

    /// Whether a header can be filled in at the end.
    pub fn seekable(&mut self) -> bool {
        self.file.stream_position().is_ok()
    }

    /// What an earlier run left, from the start. It shares its place in the file with the target, so it has to be read
    /// before [`begin`](Self::begin).
    pub fn reader(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// Keeps the first bytes, drops the rest and goes on behind them.
    pub fn begin(&mut self, keep: u64) -> io::Result<()> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        if names.placeholder.is_some() {
            fs::rename(&names.path, &names.partial)?;
            self.current = names.partial.clone();
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

    /// Gives the file its name, and where it replaces another that one's permissions.
    pub fn finish(mut self) -> io::Result<()> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        if let Ok(replaced) = fs::symlink_metadata(&names.path)
            && replaced.is_file()
        {
            take_permissions(&self.file, &replaced)?;
        }
        // Some disks tell that they are full only now.
        self.file.sync_all()?;
        fs::rename(&names.partial, &names.path)?;
        self.names = None;
        Ok(())
    }
}

impl Drop for Target {
    /// A run that ended before it had rows leaves no partial file, nor one of a format that cannot be continued.
    fn drop(&mut self) {
        let Some(names) = &self.names else { return };
        // Once `FILE` has been renamed, the partial file is `FILE`: it stays, rows or not.
        let claimed = match &names.placeholder {
            Some(_) if self.current == names.partial => return,
            Some(placeholder) => placeholder,
            None => &self.file,
        };
        let worthless =
            names.existing == Existing::Foreign || claimed.metadata().is_ok_and(|meta| meta.len() == 0);
        if worthless {
            let _ = fs::remove_file(&names.partial);
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

impl Existing {
    /// Whether rows that are there may stay, or what the user can do about them.
    fn check(self, partial: &Path) -> Result<(), Exit> {
        let name = partial.display();
        Err(Exit::usage(match self {
            Existing::Continue => return Ok(()),
            Existing::Keep => format!(
                "{name} is what an unfinished run left; continue it with --resume, or delete {name} to start over"
            ),
            Existing::Foreign => format!(
                "{name} is there, and the output is written under that name until it is whole; an unfinished run of \
                 another format left it, or it is yours: move it away, or give another name to -o"
            ),
        }))
    }
}

/// The name itself, or what the link points to, also where nothing is there yet.
fn destination(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let mut path = path.to_owned();
    // Links that end nowhere. As many in a row as Linux follows: a circle of them has been told above.
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = claim::folder(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

fn with_ending(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    partial.into()
}

/// The file that will be replaced, if there is one. It must be one that may be written, though a rename would not ask for
/// that.
fn replaceable(path: &Path) -> io::Result<Option<Metadata>> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    // The administrator may write any file, and wants this no more than others do.
    if meta.permissions().readonly() {
        let way_out = "make it writable (chmod u+w) to have it replaced, or give another name to -o";
        let problem = format!("is read-only; {way_out}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    directly().open(path).map(|_| Some(meta))
}

/// Lets nobody read a file who may not read the one that it will replace.
#[cfg(unix)]
fn hide(new: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    match new.metadata()?.mode() & 0o077 & !old.mode() {
        0 => Ok(()),
        _ => new.set_permissions(fs::Permissions::from_mode(0o600)),
    }
}

/// Gives a new file the permission bits of the old one, and its owner and group where we may.
#[cfg(unix)]
fn take_permissions(new: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let meta = new.metadata()?;
    let mut mode = old.mode() & 0o777;
    if meta.gid() != old.gid() && fchown(new, None, Some(old.gid())).is_err() {
        // What the old group could do is not the new one's to do.
        mode &= !0o070 | (mode & 0o007) << 3;
    }
    if meta.uid() != old.uid() {
        // Only the administrator may.
        let _ = fchown(new, Some(old.uid()), None);
    }
    let given = new.set_permissions(fs::Permissions::from_mode(mode));
    // Some file systems have no permissions to give. That matters where the old file had fewer.
    match meta.mode() & 0o777 & !mode {
        0 => Ok(()),
        _ => given,
    }
}

#[cfg(not(unix))]
fn hide(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
fn take_permissions(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
