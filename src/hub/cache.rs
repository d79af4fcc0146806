//! A model in the hub's cache, in the layout that all of the hub's clients share:
//!
//! ```text
//! .locks/models--owner--name/HASH.lock                 held while the blob is downloaded
//! .locks/models--owner--name/note.lock                 ours: held while a ref or the mark below is written
//! models--owner--name/refs/REVISION                    the commit of a branch or tag
//! models--owner--name/blobs/HASH                       contents, by their hash
//! models--owner--name/blobs/HASH.incomplete            what came of them so far
//! models--owner--name/snapshots/COMMIT/PATH            a link to ../../blobs/HASH
//! models--owner--name/snapshots/COMMIT/.ropeway-complete   ours: the files that the model was downloaded with
//! ```
//!
//! The user may have put links in place of any of the folders above a snapshot, and they are followed. Below it a link is
//! never followed to write.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::failure::{Failure, Result};
use super::names::{ContentHash, is_commit, is_wanted};
use super::settings;

/// Marks a snapshot that was downloaded by this engine: the files that it consists of, one per line.
const WHOLE: &str = ".ropeway-complete";

/// What the lock and the scratch files of refs and marks are named by.
const NOTES: &str = "note";

/// The largest mark or ref that is read.
const SMALL_FILE_BYTES: u64 = 1 << 20;

/// How long another process's lock is waited for without a word.
const QUIET_WAIT: Duration = Duration::from_secs(3);

/// A model in the cache; it need not be there.
pub(super) struct ModelCache {
    locks: PathBuf,
    folder: PathBuf,
}

impl ModelCache {
    pub(super) fn new(all: &Path, id: &str) -> ModelCache {
        let name = format!("models--{}", id.replace('/', "--"));
        ModelCache {
            locks: all.join(".locks").join(&name),
            folder: all.join(name),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The snapshot of a revision, if configuration and weights are there. Weights are downloaded last, so that where
    /// they are, the rest is. A full commit is its own name: no ref leads from it to another one.
    pub(super) fn find(&self, revision: &str) -> Option<PathBuf> {
        if is_commit(revision) {
            return usable(self.snapshot(revision));
        }
        let commit = read_small(&self.folder.join("refs").join(revision))?;
        // Editors and shells put a line end there.
        let commit = commit.trim();
        is_commit(commit).then(|| usable(self.snapshot(commit))).flatten()
    }

    /// Notes the commit of a branch or tag; a full commit needs no note.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.folder.join("refs").join(revision);
        // A cache that nobody can write to may well be right.
        if is_commit(revision) || read_small(&path).is_some_and(|old| old.trim() == commit) {
            return Ok(());
        }
        let mut parent = self.folder.join("refs");
        fs::create_dir_all(&parent).map_err(|e| Failure::disk(&parent, &e))?;
        let folders = revision.split('/').rev().skip(1).collect::<Vec<_>>();
        for folder in folders.into_iter().rev() {
            parent.push(folder);
            create_dir(&parent)?;
        }
        self.write_note(&parent, &path, commit)
    }

    /// Marks the model in `folder`, a snapshot, as whole, of these files.
    pub(super) fn mark_whole(&self, folder: &Path, files: &[String]) {
        let mark: String = files.iter().map(|name| format!("{name}\n")).collect();
        // Without the mark the next call asks the hub again, and that is all.
        if let Err(failure) = self.write_note(folder, &folder.join(WHOLE), &mark) {
            tracing::debug!(%failure, "the cached copy cannot be marked as whole");
        }
    }

    /// Writes a file of `folder` anew and gives it its name when it is whole.
    ///
    /// Other clients take whatever lies among the refs for one, so what is not whole lies among the blobs, unless those are on
    /// another disk.
    fn write_note(&self, folder: &Path, path: &Path, text: &str) -> Result<()> {
        let lock = self.lock_file(NOTES)?;
        let blobs = self.folder.join("blobs");
        let write = |place: &Path| -> Result<Scratch> {
            let (scratch, mut file) = Scratch::new(place, NOTES, create_new)?;
            file.write_all(text.as_bytes())
                .map_err(|e| Failure::disk(&scratch.path, &e))?;
            Ok(scratch)
        };
        fs::create_dir_all(&blobs).map_err(|e| Failure::disk(&blobs, &e))?;
        if lock.held {
            remove_scratch(&blobs, NOTES);
            remove_scratch(folder, NOTES);
        }
        let scratch = write(&blobs)?;
        match fs::rename(&scratch.path, path) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => write(folder)?.rename(path),
            renamed => renamed.map_err(|e| Failure::disk(path, &e)),
        }
    }

    pub(super) fn blob(&self, hash: &ContentHash) -> PathBuf {
        self.folder.join("blobs").join(hash.as_str())
    }

    pub(super) fn has_blob(&self, hash: &ContentHash) -> bool {
        self.blob(hash).is_file()
    }

    /// Waits until no other process downloads this blob.
    pub(super) fn lock(&self, hash: &ContentHash) -> Result<Lock> {
        self.lock_file(hash.as_str())
    }

    fn lock_file(&self, name: &str) -> Result<Lock> {
        let path = self.locks.join(format!("{name}.lock"));
        let lock = || -> io::Result<Lock> {
            fs::create_dir_all(&self.locks)?;
            let mut waited = false;
            loop {
                let file = open_no_follow(OpenOptions::new().write(true).create(true), &path)?;
                let mut held = true;
                match file.try_lock() {
                    Ok(()) => {}
                    Err(fs::TryLockError::WouldBlock) => {
                        wait_for(&file, &path, QUIET_WAIT)?;
                        waited = true;
                    }
                    // Some network file systems have no locks. The hash is checked in any case.
                    Err(fs::TryLockError::Error(error)) => {
                        tracing::debug!(%error, "the cache cannot be locked");
                        held = false;
                    }
                }
                // Whoever held it may have removed the file; then another process may hold its successor.
                if is_same_file(&file, &path) {
                    return Ok(Lock {
                        _file: file,
                        waited,
                        held,
                    });
                }
            }
        };
        lock().map_err(|e| Failure::disk(&path, &e))
    }

    /// Opens what came of a blob so far, to write at its end.
    pub(super) fn open_part(&self, hash: &ContentHash) -> Result<Part> {
        let path = self.folder.join("blobs").join(format!("{hash}.incomplete"));
        let open = || {
            fs::create_dir_all(self.folder.join("blobs"))?;
            let open = || open_no_follow(OpenOptions::new().write(true).create(true), &path);
            let mut file = open()?;
            // Under a second name it may be anybody's file.
            if has_other_names(&file)? {
                fs::remove_file(&path)?;
                file = open()?;
            }
            let length = file.seek(SeekFrom::End(0))?;
            Ok((file, length))
        };
        let (file, length) = open().map_err(|e: io::Error| Failure::disk(&path, &e))?;
        Ok(Part { file, path, length })
    }

    /// Gives a blob, which this process has locked, its name in the snapshot, by a link where the file system has them.
    /// `is_new`: no snapshot has it yet.
    pub(super) fn place(
        &self,
        (hash, lock): (&ContentHash, &Lock),
        commit: &str,
        name: &str,
        is_new: bool,
    ) -> Result<()> {
        let snapshots = self.folder.join("snapshots");
        fs::create_dir_all(&snapshots).map_err(|e| Failure::disk(&snapshots, &e))?;
        let mut parent = self.snapshot(commit);
        let path = parent.join(name);
        create_dir(&parent)?;
        let mut target = PathBuf::from("../..");
        let folders: Vec<&str> = name.split('/').collect();
        for folder in &folders[..folders.len() - 1] {
            parent.push(folder);
            target.push("..");
            create_dir(&parent)?;
        }
        target.extend(["blobs", hash.as_str()]);
        if lock.held {
            remove_scratch(&parent, hash.as_str());
        }
        let blob = self.blob(hash);
        let link = |target: &Path| Scratch::new(&parent, hash.as_str(), |path| symlink(target, path));
        if !settings::links_are_disabled()
            && let Ok((mut scratch, ())) = link(&target)
        {
            // Where `snapshots` is itself a link, `..` leads elsewhere.
            if !scratch.path.is_file() {
                let blob = blob.canonicalize().map_err(|e| Failure::disk(&blob, &e))?;
                (scratch, ()) = link(&blob)?;
            }
            return scratch.rename(&path);
        }
        if is_new {
            return fs::rename(&blob, &path).map_err(|e| Failure::disk(&path, &e));
        }
        let mut from = File::open(&blob).map_err(|e| Failure::disk(&blob, &e))?;
        let (scratch, mut copy) = Scratch::new(&parent, hash.as_str(), create_new)?;
        io::copy(&mut from, &mut copy).map_err(|e| Failure::disk(&scratch.path, &e))?;
        scratch.rename(&path)
    }
}

/// The folder, if it holds a configuration and all weights of an encoder.
fn usable(folder: PathBuf) -> Option<PathBuf> {
    let transformer = transformer_folder(&folder);
    if !transformer.join("config.json").is_file() {
        return None;
    }
    if transformer.join("model.safetensors").is_file() {
        return Some(folder);
    }
    let index = crate::model::read_json(&transformer.join("model.safetensors.index.json")).ok()?;
    let mut shards = index.get("weight_map")?.as_object()?.values();
    shards
        .all(|shard| {
            shard
                .as_str()
                .is_some_and(|name| transformer.join(name).is_file())
        })
        .then_some(folder)
}

/// Where `modules.json` says that the transformer is, in a folder that may lack other files.
fn transformer_folder(folder: &Path) -> PathBuf {
    let modules = crate::model::read_json(&folder.join("modules.json")).ok();
    let first = modules.as_ref().and_then(|modules| modules.get(0));
    match first.and_then(|module| module.get("path")?.as_str()) {
        Some(path) if is_wanted(&format!("{path}/config.json")) => folder.join(path),
        _ => folder.to_owned(),
    }
}

/// Whether this engine has downloaded the model in `folder` and all of its files are still there. Another program may have
/// cached the weights without the files that say how to pool and what to put before a text.
pub(super) fn is_whole(folder: &Path) -> bool {
    read_small(&folder.join(WHOLE)).is_some_and(|mark| {
        !mark.is_empty()
            && mark
                .lines()
                .all(|name| is_wanted(name) && folder.join(name).is_file())
    })
}

/// Locks a file that another process has locked. That may take as long as a download: after the time `quiet` it is said.
fn wait_for(file: &File, path: &Path, quiet: Duration) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < quiet {
        std::thread::sleep(Duration::from_millis(20));
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    tracing::warn!(lock = %path.display(), "waiting for another process, which holds the lock of a file of the model while it downloads it");
    file.lock()
}

/// Held while a blob is downloaded, or a note is written.
pub(super) struct Lock {
    _file: File,
    /// Whether another process held it before.
    pub waited: bool,
    /// Whether it excludes others; on some file systems it does not.
    held: bool,
}

/// What came of a blob so far, in its file.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    /// Bytes in it.
    pub length: u64,
}

impl Part {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Failure::disk(&self.path, &e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Drops all of it.
    pub(super) fn clear(&mut self) -> Result<()> {
        let mut clear = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))
        };
        clear().map_err(|e| Failure::disk(&self.path, &e))?;
        self.length = 0;
        Ok(())
    }

    /// Drops the file too.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| Failure::disk(&self.path, &e))
    }

    /// Makes it the blob.
    pub(super) fn finish(self, blob: &Path) -> Result<()> {
        fs::rename(&self.path, blob).map_err(|e| Failure::disk(blob, &e))
    }
}

/// The text of a small regular file; `None` if there is none.
fn read_small(path: &Path) -> Option<String> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(SMALL_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// How the names of what is not whole yet begin and end.
const SCRATCH: (&str, &str) = (".ropeway-", ".tmp");

/// Something new that has no name of its own yet; removed unless it gets one.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes something in `folder` by a function that fails where something is there already. The name is random: process
    /// numbers are the same in every container, and an end by force leaves a file behind.
    fn new<T>(folder: &Path, of: &str, make: impl Fn(&Path) -> io::Result<T>) -> Result<(Scratch, T)> {
        let (start, end) = SCRATCH;
        let mut tries = 0;
        loop {
            let random = RandomState::new().hash_one(tries);
            let path = folder.join(format!("{start}{of}-{random:016x}{end}"));
            match make(&path) {
                Ok(made) => return Ok((Scratch { path }, made)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < 10 => tries += 1,
                Err(error) => return Err(Failure::disk(&path, &error)),
            }
        }
    }

    fn rename(self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|e| Failure::disk(path, &e))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is gone where it got its name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what processes that were ended by force have left `of` a blob or of notes in `folder`. Whoever holds their lock
/// is the only one who makes such files.
fn remove_scratch(folder: &Path, of: &str) {
    let start = format!("{}{of}-", SCRATCH.0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.starts_with(&start) && name.ends_with(SCRATCH.1))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes a folder; one that is there must be one itself, not a link to one.
fn create_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
                true => Ok(()),
                false => Err(Failure::disk(path, &io::Error::other("is not a folder"))),
            }
        }
        result => result.map_err(|e| Failure::disk(path, &e)),
    }
}

fn has_other_names(file: &File) -> io::Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1);
    #[cfg(not(unix))]
    return file.metadata().map(|_| false);
}

/// Opens a regular file, which is not a link to one.
fn open_no_follow(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(io::Error::other("is not a regular file"));
    }
    options.open(path)
}

/// Whether `path` still means this open file.
fn is_same_file(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (file.metadata(), fs::symlink_metadata(path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
    #[cfg(not(unix))]
    {
        // An open file cannot be removed there.
        let _ = file;
        path.exists()
    }
}

fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, link);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(target, link);
    #[cfg(not(any(unix, windows)))]
    return Err(io::ErrorKind::Unsupported.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::Said;

    #[test]
    fn a_scratch_file_is_new_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let count = || fs::read_dir(folder.path()).unwrap().count();
        // The first names are taken, by whatever it is.
        let tries = std::cell::Cell::new(0);
        let make = |path: &Path| {
            tries.set(tries.get() + 1);
            if tries.get() < 3 {
                fs::write(path, "somebody else's").unwrap();
            }
            create_new(path)
        };
        let (scratch, _) = Scratch::new(folder.path(), "x", make).unwrap();
        assert_eq!((tries.get(), count()), (3, 3));
        drop(scratch);
        assert_eq!(count(), 2);
        // One that never works ends, and the error names what was to be made.
        let taken = |_: &Path| io::Result::<()>::Err(io::ErrorKind::AlreadyExists.into());
        let failure = Scratch::new(folder.path(), "x", taken).err().unwrap().to_string();
        assert!(failure.contains(".ropeway-x-"), "{failure}");
    }

    #[test]
    fn a_long_wait_for_a_lock_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hash.lock");
        let open = || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap()
        };
        for (held, quiet, words) in [(50, 10_000, 0), (300, 50, 1)] {
            let (other, own, said) = (open(), open(), Said::default());
            other.lock().unwrap();
            let holder = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(held));
                drop(other);
            });
            tracing::subscriber::with_default(said.clone(), || {
                wait_for(&own, &path, Duration::from_millis(quiet)).unwrap();
            });
            holder.join().unwrap();
            let said = said.texts();
            assert_eq!(said.len(), words, "{said:?}");
            assert!(
                said.iter().all(|text| text.contains(path.to_str().unwrap())),
                "{said:?}"
            );
        }
    }
}
