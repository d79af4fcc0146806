//! Hashes of files' contents, and the check of a cached model by them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::names::ContentHash;
use crate::error::{Error, Result};

/// The hash of a file's contents, of the kind that `wanted` is.
pub(super) fn hash_file(path: &Path, wanted: &ContentHash) -> io::Result<ContentHash> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    // A pipe or a device has no end.
    if !meta.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut context = match wanted.is_sha256() {
        true => Context::new(&SHA256),
        // git's own names; what an attacker could do with SHA-1 is to make two files of one name, not to replace a file.
        false => {
            let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", meta.len()).as_bytes());
            context
        }
    };
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => context.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digits = context.finish();
    let digits: String = digits.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    ContentHash::parse(&digits).ok_or_else(|| io::Error::other("the digest is not one"))
}

/// Compares the files of a model in the hub's cache with the hashes that the hub has given them, and returns how many
/// were compared: those that are links to a blob, which is named by its hash. A plain folder has none.
///
/// # Errors
/// [`Error::Model`] for the first file whose contents are others, and [`Error::Io`] for one that cannot be read.
pub fn verify(folder: impl AsRef<Path>) -> Result<usize> {
    let folder = folder.as_ref();
    let mut count = 0;
    for path in files(folder)? {
        // A file has no target, and a link to something else no hash.
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        let name = target.file_name().and_then(|name| name.to_str());
        let Some(wanted) = name.and_then(ContentHash::parse) else {
            continue;
        };
        let found = hash_file(&path, &wanted).map_err(|e| Error::io(&path, e))?;
        if found != wanted {
            let blob = path.canonicalize().unwrap_or_else(|_| path.clone());
            return Err(Error::model(
                &path,
                format!(
                    "its contents have the hash {found}, and those of the hub's file {wanted}: remove {} and get the \
                     model again (`ropeway models pull`)",
                    blob.display()
                ),
            ));
        }
        count += 1;
    }
    Ok(count)
}

/// The entries of a model's folder and of the folders in it, in order: nothing the engine reads lies deeper.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let list = |folder: &Path| -> io::Result<Vec<fs::DirEntry>> { fs::read_dir(folder)?.collect() };
    let mut files = Vec::new();
    for entry in list(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let inner = list(&path).map_err(|e| Error::io(&path, e))?;
            files.extend(inner.iter().map(fs::DirEntry::path));
        } else {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_git() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        for (text, sha256, git) in [
            (
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
            ),
            (
                "hello\n",
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
                "ce013625030ba8dba906f756967f9e9ca394464a",
            ),
        ] {
            fs::write(&file, text).unwrap();
            for wanted in [sha256, git] {
                let hash = ContentHash::parse(wanted).unwrap();
                assert_eq!(hash_file(&file, &hash).unwrap(), hash, "{text:?}");
            }
        }
    }
}
