//! The output file.
//!
//! Rows go to `FILE.partial`, which becomes `FILE` when the run is done: a `FILE` there is always whole, and what it held
//! before stays until then. A run that is killed leaves `FILE.partial`, and `--resume` continues it. Where there is none,
//! `--resume` continues `FILE`, which is renamed to `FILE.partial` at once and back at the end. Pipes and devices are
//! written as they are.
//!
//! `FILE.partial` is also what runs exclude each other with: a run holds the lock of the file of that name from before it
//! looks at anything until after `FILE` has its name. It holds the lock of a `FILE` that it will replace as well, which may be
//! the partial file of another run.
//!
//! Names are only names: somebody may have moved or removed the partial file meanwhile. Before anything is renamed or removed,
//! its name has to mean the file that is held; else the user is told where the rows are.

mod report;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::claim::{self, FileId, directly};
use super::descriptor::Descriptor;
use super::exit::{self, Exit};
use super::source::{self, Source};

pub use report::ReportFile;

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
    /// The file that will be replaced, with its lock.
    replaced: Option<File>,
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
        let found = fs::metadata(path);
        let is_open_file = Descriptor::named(path).is_some();
        match found {
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
            _ if is_open_file => {
                return Err(Exit::usage(format!(
                    "{name}: is a file that somebody has opened, and is not replaced; give its own name to -o, or leave -o out and \
                     redirect standard output"
                )));
            }
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
                replaced: None,
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
        } else if let Some(names) = &mut target.names {
            names.replaced = claim::reserve(&path)?;
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

    /// Whether it has names: not where it is a pipe or a device, which cannot be continued.
    pub fn is_file(&self) -> bool {
        self.names.is_some()
    }

    /// Refuses to replace what the engine reads: the files of these folders.
    pub fn refuse_files_of(&self, folders: &[&Path]) -> Result<(), Exit> {
        match &self.names {
            Some(names) => refuse_model_files(&names.path, folders),
            None => Ok(()),
        }
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
        if let Some(placeholder) = &names.placeholder {
            if !claim::means(&names.path, &self.file) || !claim::means(&names.partial, placeholder) {
                let (path, partial) = (names.path.display(), names.partial.display());
                return Err(io::Error::other(format!(
                    "{path} or {partial} was moved or replaced while the run began; nothing was written, see what is there \
                     and start again"
                )));
            }
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

    /// Gives the file its name, and where it replaces another that one's permissions. What is not `whole` replaces none: it stays
    /// the partial file, whose name is given back.
    pub fn finish(mut self, whole: bool) -> io::Result<Option<PathBuf>> {
        let Some(names) = &self.names else {
            return Ok(None);
        };
        let replaced = fs::symlink_metadata(&names.path);
        let stays = !whole && replaced.is_ok();
        if let Ok(replaced) = replaced
            && replaced.is_file()
            && !stays
        {
            take_permissions(&self.file, &replaced)?;
        }
        // Some disks tell that they are full only now.
        self.file.sync_all()?;
        let finished = match stays {
            true => self
                .place(names)
                .map(Some)
                .map_err(|lost| format!("{}; {lost}", names.lost())),
            false => self.rename(names).map(|()| None),
        };
        // All rows that can be had are there, under one name or the other: nothing is taken away.
        self.names = None;
        finished.map_err(io::Error::other)
    }

    /// Gives the file that is held the name `FILE`, or says why not and where the rows are.
    fn rename(&self, names: &Names) -> Result<(), String> {
        let rename = || {
            if !claim::means(&names.partial, &self.file) {
                return Err(names.lost());
            }
            // Another run may have made FILE its partial file since.
            let held = names.replaced.as_ref();
            let _reserved = match held.is_some_and(|held| claim::means(&names.path, held)) {
                true => None,
                false => claim::reserve(&names.path).map_err(|exit| exit::message(&exit).to_owned())?,
            };
            // A rename goes by names alone: what somebody puts under the partial file's name between the look above and this
            // becomes FILE. Another run does not do so: it does not get the lock.
            fs::rename(&names.partial, &names.path).map_err(|error| error.to_string())
        };
        rename().map_err(|problem| match self.place(names) {
            Ok(place) => {
                let (place, path) = (place.display(), names.path.display());
                format!("{problem}; all rows are in {place}: move it to {path} yourself")
            }
            Err(lost) => format!("{problem}; {lost}"),
        })
    }

    /// Where the rows are now, whatever has become of their name, or that they are lost. Rows without a name are copied to a
    /// new file: the system gives no other name to a file that has lost its last one.
    fn place(&self, names: &Names) -> Result<PathBuf, String> {
        if claim::means(&names.partial, &self.file) {
            return Ok(names.partial.clone());
        }
        if let Some(name) = claim::name_of(&self.file) {
            return Ok(name);
        }
        let copy = || {
            let mut prefix = names.partial.file_name().unwrap_or_default().to_owned();
            prefix.push(".");
            let mut builder = tempfile::Builder::new();
            let mut copy = builder
                .prefix(&prefix)
                .tempfile_in(claim::folder(&names.partial))?;
            io::copy(&mut self.reader()?, &mut copy)?;
            copy.as_file().sync_all()?;
            let (_, path) = copy.keep()?;
            Ok(names.partial.with_file_name(path.file_name().unwrap_or_default()))
        };
        copy().map_err(|error: io::Error| {
            format!("its rows could not be copied and are lost ({error}), so run it again")
        })
    }
}

impl Names {
    /// What has become of the partial file.
    fn lost(&self) -> String {
        let partial = self.partial.display();
        format!("{partial} was moved, replaced or removed while rows were written to it")
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
        // The name may be somebody else's by now.
        if worthless && claim::means(&names.partial, claimed) {
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

/// Refuses a file of these folders, in which models and adapters are.
fn refuse_model_files(path: &Path, folders: &[&Path]) -> Result<(), Exit> {
    let Some(replaced) = fs::metadata(path).ok().as_ref().and_then(FileId::of) else {
        return Ok(());
    };
    match folders.iter().find(|folder| holds(folder, replaced, 3)) {
        None => Ok(()),
        Some(folder) => Err(Exit::usage(format!(
            "{}: is a file of the model or adapter in {}; nothing was written, give the output another name",
            path.display(),
            folder.display()
        ))),
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
        let way_out = "make it writable (chmod u+w) to have it replaced, or give the output another name";
        let problem = format!("is read-only; {way_out}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    directly().open(path)?;
    match stays(path, &meta) {
        None => Ok(Some(meta)),
        Some(problem) => Err(io::Error::other(format!(
            "{problem}; give the output another name"
        ))),
    }
}

/// Why a file cannot be replaced though it can be written; `None` if it can. To be told before anything is computed.
#[cfg(unix)]
fn stays(path: &Path, meta: &Metadata) -> Option<&'static str> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    if is_mounted(
        path.as_os_str().as_bytes(),
        &fs::read("/proc/self/mountinfo").unwrap_or_default(),
    ) {
        return Some("is mounted by itself and cannot be replaced (mount its folder instead)");
    }
    let folder = fs::metadata(claim::folder(path)).ok()?;
    let owners = [folder.uid(), meta.uid()];
    (!may_rename(claim::own_user(), folder.mode(), owners))
        .then_some("belongs to another user, in a folder where only its owner can replace it")
}

/// Whether a user may put another file in a file's place, of which these own the folder and the file.
#[cfg(unix)]
fn may_rename(user: u32, folder_mode: u32, owners: [u32; 2]) -> bool {
    let is_sticky = folder_mode & 0o1000 != 0;
    !is_sticky || user == 0 || owners.contains(&user)
}

/// Whether something is mounted at a path: the fifth word of a line of `/proc/self/mountinfo`.
#[cfg(unix)]
fn is_mounted(path: &[u8], mounts: &[u8]) -> bool {
    mounts.split(|&byte| byte == b'\n').any(|line| {
        let place = line.split(|&byte| byte == b' ').nth(4);
        place.is_some_and(|place| unescaped(place) == path)
    })
}

#[cfg(not(unix))]
fn stays(_: &Path, _: &Metadata) -> Option<&'static str> {
    None
}

/// A word of `mountinfo`: `\` and three octal digits are a byte.
#[cfg(unix)]
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut at = 0;
    while let Some(&byte) = word.get(at) {
        let digits = word.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(byte));
        at += if code.is_some() { 4 } else { 1 };
    }
    plain
}

/// Whether a file is in this folder, or so many folders further down.
fn holds(folder: &Path, file: FileId, depth: usize) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        // Through links: a hub's cache is made of them.
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => depth > 0 && holds(&path, file, depth - 1),
            Ok(meta) => FileId::of(&meta) == Some(file),
            Err(_) => false,
        }
    })
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
