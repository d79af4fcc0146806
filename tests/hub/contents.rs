//! Bodies that are not what the hub's word promises.

use std::fs;
use std::path::Path;

use crate::downloads::jina;
use crate::run::refused;
use crate::stand_in::{Hub, Reply, Repo, Request, always, first, git_sha1, read_folder, sha256};

#[test]
fn a_body_of_another_hash_gets_no_name() {
    let flip = |request: &Request, repo: &Repo| {
        (request.elsewhere && request.is_for("model.safetensors")).then(|| {
            let mut reply = repo.answer(request);
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 0x40;
            reply
        })
    };
    let right = fs::read(jina().join("model.safetensors")).unwrap();
    let hash = sha256(&right);
    let mut wrong = right.clone();
    wrong[right.len() / 2] ^= 0x40;

    let hub = Hub::faulty(read_folder(&jina()), always(flip));
    refused(
        hub.fetch(&[]),
        &[
            "model.safetensors",
            "hash",
            &hash,
            &sha256(&wrong),
            "nothing of it is kept",
        ],
    );
    assert_eq!(hub.ranges(), ["", ""], "a second try from the start");
    assert!(!hub.snapshot().join("model.safetensors").exists());
    assert!(!hub.cached().join("blobs").join(&hash).exists() && hub.parts().is_empty());

    let hub = Hub::faulty(read_folder(&jina()), first(1, flip));
    let folder = hub.fetch(&[]).unwrap().folder;
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), right);

    // Files that are in git itself have a hash of another kind.
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| {
            request.is_for("/config.json").then(|| {
                let mut reply = repo.answer(request);
                reply.body[10] ^= 1;
                reply
            })
        }),
    );
    refused(hub.fetch(&[]), &["config.json", "hash"]);
}

/// What wrote it is not known, and now it gets a name in a snapshot.
#[test]
fn a_blob_that_is_there_with_other_contents_is_fetched_anew() {
    let hub = Hub::of(read_folder(&jina()));
    let right = fs::read(jina().join("model.safetensors")).unwrap();
    let blobs = hub.cached().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let outside = hub.home.path().join("outside");
    fs::write(&outside, "wrong").unwrap();
    let config = git_sha1(&fs::read(jina().join("config.json")).unwrap());
    std::os::unix::fs::symlink(&outside, blobs.join(config)).unwrap();
    fs::write(blobs.join(sha256(&right)), vec![7; right.len()]).unwrap();
    let folder = hub.fetch(&[]).unwrap().folder;
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), right);
    for name in ["config.json", "model.safetensors"] {
        assert_eq!(
            fs::read(folder.join(name)).unwrap(),
            fs::read(jina().join(name)).unwrap()
        );
    }
    assert_eq!(fs::read(&outside).unwrap(), b"wrong");
}

#[test]
fn sizes_that_contradict_are_refused() {
    type Change = fn(Reply, &Request) -> Reply;
    let cases: [(&str, Change); 7] = [
        ("starts at byte 5", |mut reply, _| {
            reply.status = 206;
            let length = reply.body.len();
            reply.with("Content-Range", format!("bytes 5-{}/{length}", length - 1))
        }),
        ("Content-Range", |mut reply, _| {
            reply.status = 206;
            reply
        }),
        ("Content-Range", |mut reply, _| {
            reply.status = 206;
            reply.with("Content-Range", "bytes 0-9/5")
        }),
        ("and the hub's file", |mut reply, _| {
            reply.body.push(0);
            reply
        }),
        ("and the hub's file", |mut reply, _| {
            reply.body.pop();
            reply
        }),
        ("at most", |mut reply, _| {
            reply.status = 206;
            reply.with("Content-Range", "bytes 0-9/99999999999999")
        }),
        ("hash", |mut reply, _| {
            // Longer than the hub said, without a length: what follows is not looked at, but something was put in front.
            reply.length = false;
            reply.body.insert(0, 0);
            reply
        }),
    ];
    for (n, (words, change)) in cases.into_iter().enumerate() {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, repo| {
                if !request.is_for("model.safetensors") {
                    return None;
                }
                let reply = repo.answer(request);
                match request.elsewhere {
                    true => Some(change(reply, request)),
                    // Here the hub said nothing of the size.
                    false if n == 5 => Some(reply.with("X-Linked-Size", "")),
                    false => None,
                }
            }),
        );
        refused(hub.fetch(&[]), &["model.safetensors", words]);
    }
}

#[test]
fn a_size_without_bounds_is_refused_before_anything_is_written() {
    for (file, size, body_says) in [
        ("model.safetensors", u64::MAX, false),
        ("config.json", 1 << 30, false),
        ("config.json", 1 << 30, true),
    ] {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, repo| {
                if !request.is_for(file) || request.elsewhere {
                    return None;
                }
                let mut reply = repo.answer(request);
                reply.length = false;
                let name = if body_says {
                    "Content-Length"
                } else {
                    "X-Linked-Size"
                };
                Some(reply.with(name, size.to_string()))
            }),
        );
        // Another origin that says nothing of a length leaves the hub's.
        refused(hub.fetch(&[]), &[file]);
        assert!(
            hub.parts().iter().all(|(_, length)| *length == 0),
            "{:?}",
            hub.parts()
        );
    }
}

/// A part answer of all of the file is as good as the file.
#[test]
fn an_answer_of_part_zero_is_accepted() {
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| {
            let mut reply = repo.answer(request);
            if reply.status == 200 && !request.path.starts_with("/api") {
                let length = reply.body.len();
                reply.status = 206;
                reply = reply.with("Content-Range", format!("bytes 0-{}/{length}", length - 1));
            }
            Some(reply)
        }),
    );
    hub.fetch(&[]).unwrap();
}

#[test]
fn a_listing_without_end_is_not_read_to_it() {
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, _| {
            let mut reply = Reply::new(200, vec![b' '; 17 << 20]);
            reply.length = false;
            request.path.starts_with("/api").then_some(reply)
        }),
    );
    refused(hub.fetch(&[]), &["its list of files", "longer than"]);
}

#[test]
fn only_a_hub_is_taken_for_one() {
    for page in ["<html>Sign in to the network</html>", "", "[]", "{\"sha\": 7}"] {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, _| request.path.starts_with("/api").then(|| Reply::new(200, page))),
        );
        refused(
            hub.fetch(&[]),
            &["its list of files", "is not the JSON of a hub", "HF_ENDPOINT"],
        );
    }
}

#[test]
fn verify_finds_what_changed_since() {
    let hub = Hub::of(read_folder(&jina()));
    let folder = hub.fetch(&[]).unwrap().folder;
    let files = fs::read_dir(hub.cached().join("blobs")).unwrap().count();
    assert_eq!(ropeway::hub::verify(&folder).unwrap(), files);
    assert_eq!(
        ropeway::hub::verify(jina()).unwrap(),
        0,
        "a plain folder has no hashes"
    );

    let weights = folder.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let error = ropeway::hub::verify(&folder).unwrap_err().to_string();
    for word in [
        weights.to_str().unwrap(),
        blob.to_str().unwrap(),
        &sha256(&bytes),
        "remove",
        "models pull",
    ] {
        assert!(error.contains(word), "no {word:?} in {error}");
    }
    // The way out leads out.
    fs::remove_file(&blob).unwrap();
    hub.fetch(&[]).unwrap();
    assert_eq!(ropeway::hub::verify(&folder).unwrap(), files);
    assert!(Path::new(&blob).exists());
}
