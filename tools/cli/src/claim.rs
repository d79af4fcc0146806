//! Opening a file that others may be writing, or may have put there: never through a link, and under a lock that is
//! checked against the name.
//!
//! Opening and locking are two moments. Whoever was slow between them may hold the lock of a file that another run has
//! finished and renamed since; so [`lock`] compares the file it locked with what the name means now.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::exit::Exit;

/// A regular file, whatever its names are. Where the system has no such numbers, no file has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file's id; `None` for what is no regular file.
    #[cfg(unix)]
    pub fn of(meta: &Metadata) -> Option<FileId> {
        use std::os::unix::fs::MetadataExt;
        meta.is_file().then(|| FileId {
            device: meta.dev(),
            inode: meta.ino(),
        })
    }

    /// The file's id; `None` for what is no regular file.
    #[cfg(not(unix))]
    pub fn of(_: &Metadata) -> Option<FileId> {
        None
    }
}

/// Options that open the name itself: not what a link points to, and without waiting where it is a pipe.
pub fn directly() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.write(true);
    options
}

/// Opens a file to read and write it, and makes it where there is none; nothing in it is changed.
///
/// # Errors
/// What is there is not a file that a run continues: a link, a second name of a file, another user's.
pub fn open_or_create(path: &Path, private: bool) -> Result<File, Exit> {
    let mut new = directly();
    new.read(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut new, if private { 0o600 } else { 0o666 });
    // Another run may make the file, or rename it, between two of these steps; it does not do so again and again.
    for _ in 0..3 {
        if let Some(file) = open(path)? {
            return Ok(file);
        }
        match new.open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map_err(|error| Exit::output_file(path, &error)),
        }
    }
    Err(changed(path))
}

/// Opens a file to read and write it; `None` where there is none.
///
/// # Errors
/// As of [`open_or_create`].
pub fn open(path: &Path) -> Result<Option<File>, Exit> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(Exit::output_file(path, &error)),
    };
    match fs::symlink_metadata(path) {
        // Before it is opened: to open a device may do something.
        Ok(meta) => vet(path, &meta)?,
        Err(error) => return failed(error),
    }
    directly()
        .read(true)
        .open(path)
        .map_or_else(failed, |file| Ok(Some(file)))
}

/// Locks an open file for this process, and checks that the name still means it.
///
/// # Errors
/// Another process has the lock, or had it and has renamed or removed the file meanwhile.
pub fn lock(file: &File, path: &Path) -> Result<(), Exit> {
    exclude(file, path)?;
    let locked = file.metadata().map_err(|error| Exit::output_file(path, &error))?;
    vet(path, &locked)
}

/// Keeps other runs from a file that is to be replaced, for as long as what this gives is held; `None` where there is no file
/// that can be opened.
///
/// # Errors
/// As of [`lock`].
pub fn reserve(path: &Path) -> Result<Option<File>, Exit> {
    // Before it is opened: to open a device may do something.
    if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Ok(None);
    }
    let Ok(file) = directly().open(path) else {
        return Ok(None);
    };
    exclude(&file, path)?;
    Ok(Some(file))
}

fn exclude(file: &File, path: &Path) -> Result<(), Exit> {
    // A file system without locks is no reason not to write.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        let name = path.display();
        return Err(Exit::usage(format!(
            "{name}: another ropeway is writing it; wait for it, or give the output another name"
        )));
    }
    match means(path, file) {
        true => Ok(()),
        false => Err(changed(path)),
    }
}

/// Whether a name means an open file: not where somebody has moved or removed the file, or put another in its place.
pub fn means(path: &Path, file: &File) -> bool {
    let id = |meta: io::Result<Metadata>| meta.map(|meta| FileId::of(&meta)).ok();
    id(fs::symlink_metadata(path)).is_some_and(|named| id(file.metadata()) == Some(named))
}

/// The name that an open file has now, where the system tells and it has one.
#[cfg(unix)]
pub fn name_of(file: &File) -> Option<PathBuf> {
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(file);
    let name = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    means(&name, file).then_some(name)
}

#[cfg(not(unix))]
pub fn name_of(_: &File) -> Option<PathBuf> {
    None
}

fn changed(path: &Path) -> Exit {
    let name = path.display();
    Exit::usage(format!(
        "{name}: another ropeway has just finished it, or it was moved; see what is there and start again"
    ))
}

/// Whether rows may be written to what is there. What a stranger put there, or holds another name of, is not ours to
/// change, and would be the stranger's to read and change later.
fn vet(path: &Path, meta: &Metadata) -> Result<(), Exit> {
    let problem = match meta {
        _ if meta.is_symlink() => "is a link",
        _ if !meta.is_file() => "is not a regular file",
        _ if has_other_names(meta) => "has a second name (a hard link)",
        _ if !is_trusted(path, meta) => "belongs to another user",
        _ => return Ok(()),
    };
    let name = path.display();
    Err(Exit::usage(format!(
        "{name}: {problem}, and rows are not written there; move it away, or give another name to -o"
    )))
}

#[cfg(unix)]
fn has_other_names(meta: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(meta) > 1
}

/// Ours, the administrator's, or of the owner of the folder, who can put anything under the output's name anyway. (Some
/// network and foreign file systems show one owner for all files, whoever made them.)
#[cfg(unix)]
fn is_trusted(path: &Path, meta: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let owner = meta.uid();
    owner == own_user() || owner == 0 || fs::metadata(folder(path)).is_ok_and(|folder| folder.uid() == owner)
}

/// The user that this process acts as.
#[cfg(unix)]
pub fn own_user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(not(unix))]
fn has_other_names(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn is_trusted(_: &Path, _: &Metadata) -> bool {
    true
}

/// The folder that a file is in.
pub fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_others_put_there_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "secret").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        fs::hard_link(at("victim"), at("second")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for (name, problem) in [
            ("link", "is a link"),
            ("dangling", "is a link"),
            ("second", "second name"),
            ("folder", "not a regular file"),
        ] {
            let error = open_or_create(&at(name), false).unwrap_err();
            assert!(format!("{error:?}").contains(problem), "{name}: {error:?}");
        }
        assert_eq!(fs::read(at("victim")).unwrap(), b"secret");
        assert!(!at("nothing").exists());
        // The flags hold by themselves as well: a link that comes after the look.
        assert!(directly().open(at("link")).is_err());
    }

    #[test]
    fn what_a_stranger_owns_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.partial");
        fs::write(&path, "").unwrap();
        if std::os::unix::fs::chown(&path, Some(4321), None).is_err() {
            // Without the right to give files away nothing can be shown.
            return;
        }
        let error = open_or_create(&path, false).unwrap_err();
        assert!(format!("{error:?}").contains("another user"), "{error:?}");
    }

    #[test]
    fn a_lock_is_worth_nothing_once_the_name_means_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, done) = (folder.path().join("out.partial"), folder.path().join("out"));
        let first = open_or_create(&path, true).unwrap();
        lock(&first, &path).unwrap();
        assert_eq!(first.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let slow = open_or_create(&path, true).unwrap();
        let refused = |file: &File, why: &str| {
            let error = lock(file, &path).unwrap_err();
            assert!(format!("{error:?}").contains(why), "{error:?}");
        };
        refused(&slow, "is writing it");
        fs::rename(&path, &done).unwrap();
        refused(&slow, "is writing it");
        drop(first);
        refused(&slow, "just finished");
        // A third has begun anew.
        let third = open_or_create(&path, true).unwrap();
        refused(&slow, "just finished");
        lock(&third, &path).unwrap();
    }
}
