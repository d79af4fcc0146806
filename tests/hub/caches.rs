//! Caches that other programs wrote, and where they are.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::Scratch;
use crate::downloads::jina;
use crate::run::{self, embed, refused};
use crate::stand_in::{Hub, commit, git_sha1, read_folder, sha256};

/// Nothing is downloaded, unless a test says otherwise.
const OFFLINE: (&str, &str) = ("HF_HUB_OFFLINE", "1");

/// Writes the model `owner/name` into a cache as huggingface_hub does, with its blobs in `blobs`; no ref points to it.
fn write_cache(cache: &Path, blobs: &Path) -> PathBuf {
    let snapshot = cache.join("models--owner--name/snapshots").join(commit("main"));
    fs::create_dir_all(blobs).unwrap();
    for (name, bytes) in read_folder(&jina()) {
        let hash = match name.ends_with(".safetensors") {
            true => sha256(&bytes),
            false => git_sha1(&bytes),
        };
        fs::write(blobs.join(&hash), bytes).unwrap();
        let link = snapshot.join(&name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(name.split('/').count() + 1);
        let target = match blobs.starts_with(cache) {
            true => PathBuf::from(format!("{up}blobs/{hash}")),
            false => blobs.join(&hash),
        };
        symlink(target, link).unwrap();
    }
    snapshot
}

fn usual(cache: &Path) -> PathBuf {
    write_cache(cache, &cache.join("models--owner--name/blobs"))
}

fn write_ref(cache: &Path, revision: &str, text: &str) {
    let path = cache.join("models--owner--name/refs").join(revision);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_cache_of_huggingface_hub_is_read() {
    let home = Scratch::empty();
    let cache = home.path().join("hub");
    let snapshot = usual(&cache);
    let variables = [OFFLINE, ("HF_HOME", home.path().to_str().unwrap())];
    let get = |model: &str| run::start(model, &variables).end().map(|fetched| fetched.folder);
    let id = "owner/name";
    let pinned = format!("owner/name@{}", commit("main"));

    // No ref: the commit alone is a name.
    refused(run::start(id, &variables).end(), &["is not in the cache"]);
    assert_eq!(get(&pinned).unwrap(), snapshot);
    for text in [
        commit("main"),
        format!("{}\n", commit("main")),
        format!(" {}\r\n", commit("main")),
    ] {
        write_ref(&cache, "main", &text);
        assert_eq!(get(id).unwrap(), snapshot, "{text:?}");
        assert_eq!(get("owner/name@main").unwrap(), snapshot);
    }
    for revision in ["v1.0", "refs/pr/1", "0123abc"] {
        write_ref(&cache, revision, &commit("main"));
        assert_eq!(
            get(&format!("owner/name@{revision}")).unwrap(),
            snapshot,
            "{revision}"
        );
    }
    // A ref to nothing, and refs that are no commit.
    for text in [
        &commit("other"),
        "",
        "..",
        "../../models--owner--name/snapshots",
        "main",
    ] {
        write_ref(&cache, "odd", text);
        refused(
            run::start("owner/name@odd", &variables).end(),
            &["is not in the cache"],
        );
    }
    let link = cache.join("models--owner--name/refs/device");
    symlink("/dev/zero", link).unwrap();
    refused(
        run::start("owner/name@device", &variables).end(),
        &["is not in the cache"],
    );

    // Notes of files that are not there, and what a download left: no matter.
    let absent = cache.join("models--owner--name/.no_exist").join(commit("main"));
    fs::create_dir_all(&absent).unwrap();
    fs::write(absent.join("adapter_config.json"), "").unwrap();
    fs::write(cache.join("models--owner--name/blobs/x.1234.incomplete"), "half").unwrap();
    let variables = [&variables[..], &[(run::EMBEDS, "1")]].concat();
    let opened = run::start(id, &variables).end().unwrap();
    assert_eq!(opened.bits, embed(jina()).unwrap());
    assert!(ropeway::hub::verify(&snapshot).unwrap() > 3);

    // A link to a blob that is gone is not a file.
    fs::remove_file(snapshot.join("model.safetensors").canonicalize().unwrap()).unwrap();
    refused(run::start(id, &variables).end(), &["is not in the cache"]);
}

#[test]
fn the_cache_is_where_huggingface_hub_has_it() {
    let place = Scratch::empty();
    let root = place.path();
    for folder in [
        "home/hub",
        "xdg/huggingface/hub",
        "cache",
        "user/.cache/huggingface/hub",
    ] {
        let cache = root.join(folder);
        usual(&cache);
        write_ref(&cache, "main", &commit("main"));
    }
    let at = |folder: &str| root.join(folder).display().to_string();
    let (home, xdg, cache, nowhere, user) = (at("home"), at("xdg"), at("cache"), at("nowhere"), at("user"));
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c str);
    let cases: [Case<'_>; 9] = [
        (&[("HF_HOME", &home)], "home"),
        (&[("HF_HOME", &home), ("XDG_CACHE_HOME", &xdg)], "home"),
        (&[("XDG_CACHE_HOME", &xdg)], "xdg"),
        (&[("HF_HUB_CACHE", &cache), ("HF_HOME", &home)], "cache"),
        (&[("HUGGINGFACE_HUB_CACHE", &cache), ("HF_HOME", &home)], "cache"),
        (
            &[("HF_HUB_CACHE", &cache), ("HUGGINGFACE_HUB_CACHE", &nowhere)],
            "cache",
        ),
        // Not read any more.
        (&[("TRANSFORMERS_CACHE", &nowhere), ("HF_HOME", &home)], "home"),
        (&[], "user"),
        (
            &[("HF_HUB_CACHE", "$HOME/../cache"), ("HF_HOME", "~/nowhere")],
            "user/../cache",
        ),
    ];
    for (variables, wanted) in cases {
        let variables = [&[OFFLINE, ("HOME", &user)], variables].concat();
        let found = run::start("owner/name", &variables).end().unwrap().folder;
        assert!(
            found.starts_with(root.join(wanted)),
            "{variables:?}: {}",
            found.display()
        );
    }
}

/// huggingface_hub's words for true, and nothing else.
#[test]
fn offline_has_the_words_of_huggingface_hub() {
    let hub = Hub::of(read_folder(&jina()));
    let is_offline = |variables: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(hub.home.path().join("hub"));
        let before = hub.seen().len();
        let fetched = hub.fetch(variables);
        assert_eq!(fetched.is_ok(), hub.seen().len() > before, "{variables:?}");
        fetched.is_err()
    };
    for value in ["1", "ON", "on", "YES", "Yes", "TRUE", "true"] {
        assert!(is_offline(&[("HF_HUB_OFFLINE", value)]), "{value}");
    }
    for value in ["", "0", "false", "off", "no", "2", "y"] {
        assert!(!is_offline(&[("HF_HUB_OFFLINE", value)]), "{value}");
    }
    assert!(is_offline(&[("TRANSFORMERS_OFFLINE", "1")]));
    assert!(!is_offline(&[
        ("HF_HUB_OFFLINE", "0"),
        ("TRANSFORMERS_OFFLINE", "1")
    ]));
}

#[test]
fn blobs_may_be_on_another_disk() {
    // Each file's link leads there.
    let (place, disk) = (Scratch::empty(), Scratch::empty());
    let cache = place.path().join("hub");
    let snapshot = write_cache(&cache, &disk.path().join("blobs"));
    write_ref(&cache, "main", &commit("main"));
    let variables = [
        OFFLINE,
        ("HF_HOME", place.path().to_str().unwrap()),
        (run::EMBEDS, "1"),
    ];
    let opened = run::start("owner/name", &variables).end().unwrap();
    assert_eq!(opened.bits, embed(jina()).unwrap());
    assert!(ropeway::hub::verify(&snapshot).unwrap() > 3);

    // Or the folders are links that the user made, before anything is downloaded.
    for folder in ["blobs", "snapshots", "refs", "."] {
        let hub = Hub::of(read_folder(&jina()));
        let there = disk.path().join(format!("of-{folder}"));
        fs::create_dir_all(&there).unwrap();
        let here = hub.cached().join(folder);
        fs::create_dir_all(hub.cached().parent().unwrap()).unwrap();
        if folder == "." {
            symlink(&there, hub.cached()).unwrap();
        } else {
            fs::create_dir_all(hub.cached()).unwrap();
            symlink(&there, here).unwrap();
        }
        let opened = hub.embed("owner/name", &[]).unwrap();
        assert_eq!(opened.bits, embed(jina()).unwrap(), "{folder}");
        assert!(fs::read_dir(&there).unwrap().count() > 0, "{folder}");
    }
}

#[test]
fn a_file_system_without_links_gets_files() {
    let hub = Hub::of(read_folder(&jina()));
    let fetched = hub.fetch(&[("HF_HUB_DISABLE_SYMLINKS", "1")]).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let meta = fs::symlink_metadata(fetched.folder.join(name)).unwrap();
        assert!(meta.is_file(), "{name}");
    }
    assert_eq!(embed(&fetched.folder).unwrap(), embed(jina()).unwrap());
    assert_eq!(fs::read_dir(hub.cached().join("blobs")).unwrap().count(), 0);
    let before = hub.seen().len();
    hub.fetch(&[]).unwrap();
    assert_eq!(hub.seen().len(), before);
}

/// What a process left that was ended by force is in nobody's way, and goes.
#[test]
fn what_an_ended_process_left_is_removed() {
    for links in ["", "1"] {
        let hub = Hub::of(read_folder(&jina()));
        let bytes = &read_folder(&jina())["config.json"];
        fs::create_dir_all(hub.snapshot()).unwrap();
        let left = |of: &str| hub.snapshot().join(format!(".ropeway-{of}-0123456789abcdef.tmp"));
        let (own, others) = (left(&git_sha1(bytes)), left(&git_sha1(b"")));
        for path in [&own, &others] {
            fs::write(path, "half").unwrap();
        }
        // The blobs are there: they are copied where there are no links.
        usual(&hub.home.path().join("hub"));
        for name in ["config.json", "tokenizer.json"] {
            fs::remove_file(hub.snapshot().join(name)).unwrap();
        }
        hub.fetch(&[("HF_HUB_DISABLE_SYMLINKS", links)]).unwrap();
        assert_eq!(fs::read(hub.snapshot().join("config.json")).unwrap(), *bytes);
        assert!(!own.exists());
        // That may be of a process which is at it.
        assert!(others.exists());
        fs::remove_file(others).unwrap();
        let all = fs::read_dir(hub.snapshot()).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<String> = names.filter(|name| name.ends_with(".tmp")).collect();
        assert_eq!(names, [] as [String; 0], "{links}");
    }
}

/// A ref or a mark that a process was writing when it was ended is no ref to other programs, and goes.
#[test]
fn what_an_ended_process_left_of_a_ref_is_removed() {
    let hub = Hub::of(read_folder(&jina()));
    let folders = [
        hub.snapshot(),
        hub.cached().join("refs"),
        hub.cached().join("blobs"),
    ];
    let left = |folder: &PathBuf| folder.join(".ropeway-note-0123456789abcdef.tmp");
    for folder in &folders {
        fs::create_dir_all(folder).unwrap();
        fs::write(left(folder), "half").unwrap();
    }
    hub.fetch(&[]).unwrap();
    for folder in &folders {
        assert!(!left(folder).exists(), "{}", folder.display());
    }
    let refs = fs::read_dir(&folders[1]).unwrap();
    let refs: Vec<_> = refs.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(refs, ["main"]);
}

/// What is not whole cannot be renamed from one disk to another.
#[test]
#[cfg(target_os = "linux")]
fn refs_may_be_on_another_disk() {
    let Ok(disk) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let hub = Hub::of(read_folder(&jina()));
    fs::create_dir_all(hub.cached()).unwrap();
    symlink(disk.path(), hub.cached().join("refs")).unwrap();
    hub.fetch(&[]).unwrap();
    let refs = fs::read_dir(disk.path()).unwrap();
    let refs: Vec<_> = refs.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(refs, ["main"]);
}

/// A copy that this engine did not make is completed where there is a hub, over the blobs that are there.
#[test]
fn a_foreign_copy_is_completed_without_fetching_it_again() {
    let hub = Hub::of(read_folder(&jina()));
    let snapshot = usual(&hub.home.path().join("hub"));
    write_ref(
        &hub.home.path().join("hub"),
        "main",
        &format!("{}\n", commit("main")),
    );
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    hub.fetch(&[]).unwrap();
    assert!(snapshot.join("tokenizer.json").is_file());
    assert!(hub.ranges().is_empty(), "the weights were there");
    let before = hub.seen().len();
    hub.fetch(&[]).unwrap();
    assert_eq!(hub.seen().len(), before, "it is known to be whole now");
}
