//! Models of the hub's cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::harness::{command, finish, test_model};

/// The cache of a model with the snapshot `commit`, which is not known to be whole.
fn cached_model(cache: &Path, commit: &str) -> PathBuf {
    let snapshot = cache.join("models--owner--name/snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    for entry in fs::read_dir(test_model()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
        }
    }
    snapshot
}

/// A pull that failed is a failure; what needs the model alone takes a copy that may lack files, and says so.
#[test]
fn pull_does_not_take_a_copy_for_the_model() {
    let cache = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    cached_model(cache.path(), commit);
    let models = |action: &str| {
        let mut command = command(&["models", action, &format!("owner/name@{commit}")]);
        command.env("HF_HUB_CACHE", cache.path());
        // Nobody listens there.
        command
            .env("HF_ENDPOINT", "http://127.0.0.1:9")
            .env("NO_PROXY", "*");
        finish(command, b"")
    };
    models("pull").fails(2, &["owner/name", "check the network", "copy in the cache"]);
    let ended = models("info");
    assert!(
        ended.out.contains("dimensions") && ended.err.contains("warning: taking the cached copy"),
        "{}{}",
        ended.out,
        ended.err
    );
}

#[test]
fn verify_compares_cached_files_with_the_hubs_hashes() {
    const HASH: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--owner--name");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = cached_model(cache.path(), commit);
    let verify = || {
        let id = format!("owner/name@{commit}");
        let mut command = command(&["models", "verify", &id, "--offline"]);
        command.env("HF_HUB_CACHE", cache.path());
        finish(command, b"")
    };
    // Files without a hash: nothing is said of one.
    let ended = verify();
    assert!(
        ended.out.contains("sound") && !ended.out.contains("hashes"),
        "{}{}",
        ended.out,
        ended.err
    );

    fs::create_dir_all(model.join("blobs")).unwrap();
    let blob = model.join("blobs").join(HASH);
    fs::write(&blob, "hello\n").unwrap();
    symlink(format!("../../blobs/{HASH}"), snapshot.join("README.md")).unwrap();
    let ended = verify();
    assert!(
        ended.out.contains("as the hub's hashes say: 1 files"),
        "{}{}",
        ended.out,
        ended.err
    );

    fs::write(&blob, "hullo\n").unwrap();
    verify().fails(2, &["README.md", HASH, "remove", "models pull"]);
}
