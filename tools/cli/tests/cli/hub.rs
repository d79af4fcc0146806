//! Models of the hub's cache.

use std::fs;
use std::os::unix::fs::symlink;

use super::harness::{command, finish, test_model};

#[test]
fn verify_compares_cached_files_with_the_hubs_hashes() {
    const HASH: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--owner--name");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = model.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    for entry in fs::read_dir(test_model()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
        }
    }
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
