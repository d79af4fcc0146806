//! What is downloaded, when, and what is said of a model that cannot be had.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use model_maker::{Family, Layout, ModelSpec};

use crate::common::fixture::{Fixture, folder_of};
use crate::common::{copy_folder, model, tiny};
use crate::run::{self, embed, refused};
use crate::stand_in::{Hub, Reply, Repo, Request, Sends, always, commit, listing, read_folder};

pub fn jina() -> PathBuf {
    model(&tiny(Family::Jina))
}

#[test]
fn a_model_is_downloaded_once_and_then_needs_no_network() {
    let mut files = read_folder(&jina());
    for unwanted in ["pytorch_model.bin", "onnx/model.onnx", "README.md"] {
        files.insert(unwanted.into(), vec![1; 100]);
    }
    let hub = Hub::of(files);
    let expected = embed(jina()).unwrap();
    let fetched = hub.embed("owner/name", &[]).unwrap();
    assert_eq!(fetched.bits, expected);
    let downloaded = fetched.downloaded();
    assert!(downloaded.contains(&"config.json"), "{downloaded:?}");
    assert_eq!(*downloaded.last().unwrap(), "model.safetensors");
    // Progress moves, from nothing to all.
    let reports = fetched
        .reports
        .iter()
        .filter(|(file, ..)| file == "model.safetensors");
    let reports: Vec<(u64, u64)> = reports.map(|&(_, done, total)| (done, total)).collect();
    let size = fs::metadata(jina().join("model.safetensors")).unwrap().len();
    assert!(reports.iter().all(|&(_, total)| total == size), "{reports:?}");
    assert!(reports.is_sorted() && reports[0].0 == 0, "{reports:?}");
    assert!(
        reports.iter().any(|&(done, _)| 0 < done && done < size),
        "{reports:?}"
    );
    let seen = hub.seen();
    for unwanted in ["pytorch", "onnx", "README"] {
        assert!(
            !seen.iter().any(|s| s.path.contains(unwanted)),
            "{unwanted}: {seen:#?}"
        );
    }
    assert_eq!(
        hub.requests("/model.safetensors"),
        2,
        "the redirect and the file: {seen:#?}"
    );
    assert!(seen.iter().all(|s| s.header("authorization").is_empty()));

    let again = hub.embed("owner/name", &[]).unwrap();
    assert_eq!(again.bits, expected);
    assert!(again.reports.is_empty());
    let offline = hub.embed("owner/name", &[("HF_HUB_OFFLINE", "1")]).unwrap();
    assert_eq!(offline.bits, expected);
    assert_eq!(hub.seen().len(), seen.len(), "the cache was not used");

    // A file that was lost is fetched again, and nothing else is.
    fs::remove_file(hub.snapshot().join("tokenizer.json")).unwrap();
    let weights = hub.requests("/model.safetensors");
    assert_eq!(hub.embed("owner/name", &[]).unwrap().bits, expected);
    assert_eq!(hub.requests("/model.safetensors"), weights);
}

#[test]
fn shards_and_subfolders_are_downloaded() {
    for spec in [
        ModelSpec {
            shards: 2,
            ..tiny(Family::Bert)
        },
        ModelSpec {
            layout: Layout::Native,
            ..tiny(Family::Jina)
        },
    ] {
        let folder = model(&spec);
        let hub = Hub::of(read_folder(&folder));
        let fetched = hub.embed("owner/name", &[]).unwrap();
        assert_eq!(fetched.bits, embed(&folder).unwrap());
        let wanted = if spec.family == Family::Bert {
            "1_Pooling/config.json"
        } else {
            "retrieval_query/adapter_model.safetensors"
        };
        assert!(hub.requests(wanted) > 0);
        // Links as all of the hub's clients make them.
        let link = fs::read_link(hub.snapshot().join(wanted)).unwrap();
        assert!(link.starts_with("../../../blobs"), "{}", link.display());
        assert!(hub.parts().is_empty());
    }
}

/// Weights of modules after pooling, and a transformer in a folder of its own.
#[test]
fn modules_are_downloaded_with_their_weights() {
    let fixture = Fixture::open("folders");
    for (name, wanted) in [
        ("dense after two poolings", "2_Dense/model.safetensors"),
        ("transformer in a folder", "0_Transformer/tokenizer.json"),
    ] {
        let case = fixture.cases().iter().find(|case| case["name"] == name).unwrap();
        let folder = folder_of(&fixture, case);
        let hub = Hub::of(read_folder(folder.path()));
        let fetched = hub.embed("owner/name", &[]).unwrap();
        assert_eq!(fetched.bits, embed(folder.path()).unwrap(), "{name}");
        assert!(hub.requests(wanted) > 0, "{name}");
        let offline = hub.embed("owner/name", &[("HF_HUB_OFFLINE", "1")]).unwrap();
        assert_eq!(offline.bits, fetched.bits, "{name}");
    }
}

/// Other programs cache the weights of a model without the files that say how to pool.
#[test]
fn what_another_program_left_out_is_fetched() {
    let folder = model(&tiny(Family::Bert));
    let mut files = read_folder(&folder);
    let pooling = String::from_utf8(files["1_Pooling/config.json"].clone()).unwrap();
    let cls = pooling.replace("mean_tokens\": true", "mean_tokens\": false");
    let cls = cls.replace("cls_token\": false", "cls_token\": true");
    assert_ne!(cls, pooling);
    files.insert("1_Pooling/config.json".into(), cls.into_bytes());
    let hub = Hub::of(files);
    let expected = hub.embed("owner/name", &[]).unwrap().bits;
    assert_ne!(expected, embed(&folder).unwrap(), "cls is not mean");

    for name in ["modules.json", "1_Pooling/config.json", ".ropeway-complete"] {
        fs::remove_file(hub.snapshot().join(name)).unwrap();
    }
    let weights = hub.requests("/model.safetensors");
    assert_eq!(hub.embed("owner/name", &[]).unwrap().bits, expected);
    assert_eq!(
        hub.requests("/model.safetensors"),
        weights,
        "the weights were there"
    );
    // Where there is no network a copy of the weights still serves.
    fs::remove_file(hub.snapshot().join(".ropeway-complete")).unwrap();
    let nowhere = [("HF_ENDPOINT", "http://127.0.0.1:9")];
    assert_eq!(hub.embed("owner/name", &nowhere).unwrap().bits, expected);
}

/// A copy of which it is not known whether it has all files serves where the hub cannot be reached, and only there.
#[test]
fn a_copy_stands_in_for_a_hub_that_cannot_be_reached_alone() {
    type Change = fn(&Request, &Repo) -> Option<Reply>;
    type Case<'c> = (&'c str, Change, &'c [(&'c str, &'c str)], Result<(), &'c str>);
    let cases: [Case<'_>; 7] = [
        ("busy", |_, _| Some(Reply::new(503, "")), &[], Ok(())),
        (
            "busy",
            |_, _| Some(Reply::new(503, "")),
            &[(run::WHOLE, "1")],
            Err("503"),
        ),
        ("gone", |_, _| Some(Reply::new(404, "")), &[], Err("404")),
        (
            "a sign-in page",
            |request, _| request.is_listing().then(|| Reply::new(200, "<html>")),
            &[],
            Err("is not the JSON of a hub"),
        ),
        (
            "damaged",
            |request, repo| {
                let mut reply = repo.answer(request);
                reply.body.iter_mut().for_each(|byte| *byte ^= 1);
                request.is_for("1_Pooling/config.json").then_some(reply)
            },
            &[],
            Err("its hash is"),
        ),
        (
            "a file that the copy lacks",
            |request, _| {
                let nothing = Reply::new(200, "").sends(Sends::Nothing);
                request.is_for("1_Pooling/config.json").then_some(nothing)
            },
            &[("HF_HUB_ETAG_TIMEOUT", "1")],
            Err("took too long"),
        ),
        (
            "no files at all",
            |request, _| {
                let nothing = Reply::new(200, "").sends(Sends::Nothing);
                request.is_listing().then_some(nothing)
            },
            &[("HF_HUB_ETAG_TIMEOUT", "1")],
            Ok(()),
        ),
    ];
    // All at once: some of them are tried again.
    let running = cases.map(|(name, change, variables, wanted)| {
        let hub = Hub::faulty(read_folder(&model(&tiny(Family::Bert))), always(change));
        let snapshot = hub.snapshot();
        copy_folder(&model(&tiny(Family::Bert)), &snapshot);
        fs::remove_dir_all(snapshot.join("1_Pooling")).unwrap();
        fs::create_dir_all(hub.cached().join("refs")).unwrap();
        fs::write(hub.cached().join("refs/main"), commit("main")).unwrap();
        let running = hub.start("owner/name", variables);
        (name, hub, running, wanted)
    });
    for (name, hub, running, wanted) in running {
        match (running.end(), wanted) {
            (Ok(fetched), Ok(())) => assert_eq!(fetched.folder, hub.snapshot(), "{name}"),
            (result, Err(word)) => drop(refused(result, &[word, "copy in the cache", "HF_HUB_OFFLINE"])),
            (Err(error), Ok(())) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn a_revision_is_a_model_of_its_own() {
    let other = model(&ModelSpec {
        seed: 2,
        ..tiny(Family::Jina)
    });
    let files = [
        ("main".into(), read_folder(&jina())),
        ("refs/pr/1".into(), read_folder(&other)),
    ];
    let hub = Hub::at("127.0.0.1", files, always(|_, _| None));
    let (main, pr) = (embed(jina()).unwrap(), embed(&other).unwrap());
    assert_ne!(main, pr);
    let get = |model: &str, variables: &[(&str, &str)]| hub.embed(model, variables).unwrap().bits;
    assert_eq!(get("owner/name@refs/pr/1", &[]), pr);
    assert_eq!(get("owner/name", &[]), main);
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(get("owner/name@refs/pr/1", &offline), pr);
    let pinned = format!("owner/name@{}", commit("refs/pr/1"));
    assert_eq!(get(&pinned, &offline), pr);
    refused(
        hub.start("owner/name@v9", &[]).end(),
        &["404", "Invalid rev id", "check the id and the revision"],
    );
}

/// git keeps no two branches of which one is a folder of the other, but one may follow the other.
#[test]
fn a_revision_whose_name_is_taken_in_the_cache_still_serves() {
    for [first, then] in [["v1", "v1/x"], ["v1/x", "v1"]] {
        let files = [first, then].map(|revision| (revision.into(), read_folder(&jina())));
        let hub = Hub::at("127.0.0.1", files, always(|_, _| None));
        for revision in [first, then, then, first] {
            let fetched = hub.start(&format!("owner/name@{revision}"), &[]).end().unwrap();
            assert!(fetched.folder.ends_with(commit(revision)), "{revision}");
        }
        assert!(hub.cached().join("refs").join(first).is_file());
    }
}

/// A download that fails leaves the name of the revision with the copy that is whole.
#[test]
fn a_newer_commit_that_cannot_be_had_leaves_the_old_one() {
    let hub = Hub::of(read_folder(&jina()));
    hub.fetch(&[]).unwrap();
    fs::remove_file(hub.snapshot().join(".ropeway-complete")).unwrap();
    // Its files do not come.
    let newer = |files: &'static [&'static str]| {
        let listing = listing(&commit("newer"), files.iter().copied());
        let fault = always(move |request, _| match request.is_listing() {
            true => Some(Reply::new(200, listing.as_str())),
            false => Some(Reply::new(200, "").sends(Sends::Nothing)),
        });
        let newer = Hub::faulty(read_folder(&jina()), fault);
        let endpoint = newer.endpoint();
        let fetched = hub.fetch(&[("HF_ENDPOINT", &endpoint), ("HF_HUB_ETAG_TIMEOUT", "1")]);
        assert!(newer.seen().len() > 1, "the newer one was not tried");
        fetched
    };
    let old = newer(&["config.json", "model.safetensors"]).unwrap();
    assert_eq!(old.folder, hub.snapshot());
    // It has a file that the old one lacks.
    refused(
        newer(&["1_Pooling/config.json", "config.json", "model.safetensors"]),
        &["1_Pooling/config.json", "took too long", "copy in the cache"],
    );
    assert_eq!(
        hub.fetch(&[("HF_HUB_OFFLINE", "1")]).unwrap().folder,
        hub.snapshot()
    );
}

#[test]
fn offline_without_a_copy_says_what_to_do() {
    let hub = Hub::of(read_folder(&jina()));
    let words = [
        "is not in the cache",
        hub.home.path().to_str().unwrap(),
        "ropeway models pull owner/name",
        "folder",
    ];
    refused(hub.fetch(&[("HF_HUB_OFFLINE", "1")]), &words);
    assert!(hub.seen().is_empty());
}

#[test]
fn a_model_that_is_not_there_or_not_for_us_is_refused() {
    let hub = Hub::at("127.0.0.1", [], always(|_, _| None));
    refused(hub.fetch(&[]), &["404", "check the id and the revision"]);

    let gate = always(|request, _| {
        let open = request.elsewhere || request.header("authorization") == "Bearer sesame";
        (!open).then(|| Reply::new(401, ""))
    });
    let hub = Hub::faulty(read_folder(&jina()), gate);
    refused(hub.fetch(&[]), &["401", "HF_TOKEN"]);
    let error = refused(hub.fetch(&[("HF_TOKEN", "wrong-secret")]), &["401", "HF_TOKEN"]);
    assert!(!error.contains("wrong-secret"), "{error}");
    hub.fetch(&[("HF_TOKEN", "sesame")]).unwrap();

    let mut files = read_folder(&jina());
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("pytorch_model.bin".into(), weights);
    refused(Hub::of(files).fetch(&[]), &["no safetensors weights"]);

    let mut files = read_folder(&model(&ModelSpec {
        shards: 2,
        ..tiny(Family::Bert)
    }));
    files.remove("model-00001-of-00002.safetensors").unwrap();
    refused(Hub::of(files).fetch(&[]), &["lacks", "weights"]);
}

#[test]
fn a_hub_that_does_not_answer_is_reported() {
    let hub = Hub::of(read_folder(&jina()));
    // Bound once, so that the port is one that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{address}");
    let words = ["refused", "check the network", "HF_ENDPOINT"];
    refused(hub.fetch(&[("HF_ENDPOINT", &endpoint)]), &words);
}

/// Requests take the way that the user wants, or none.
#[test]
fn proxies_are_by_scheme_and_never_ignored() {
    let hub = Hub::of(read_folder(&jina()));
    for (name, value) in [
        ("HTTP_PROXY", "not a secret"),
        ("http_proxy", "ftp://user:secret@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://user:secret"),
        ("ALL_PROXY", "http://user:secret@127.0.0.1:99999"),
    ] {
        let error = refused(
            hub.fetch(&[(name, value)]),
            &[name, "is not the address of a proxy"],
        );
        assert!(!error.contains("secret"), "{error}");
    }
    // Bound once, so that the ports are such that nobody listens on.
    let ports = [(); 2].map(|()| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    });
    let [gone, other] = ports.map(|address| format!("http://user:secret@{address}"));
    let gone = gone.as_str();
    for variables in [
        &[("HTTP_PROXY", gone)][..],
        &[("ALL_PROXY", gone)],
        &[
            ("http_proxy", gone),
            ("HTTP_PROXY", &other),
            ("ALL_PROXY", &other),
        ],
        &[
            ("ALL_PROXY", gone),
            ("HTTPS_PROXY", &other),
            ("NO_PROXY", "hub.example"),
        ],
    ] {
        let words = ["127.0.0.1 by the proxy", &ports[0].to_string(), "refused"];
        let error = refused(hub.fetch(variables), &words);
        assert!(!error.contains("secret"), "{error}");
    }
    for (name, entry) in [("no_proxy", "127."), ("NO_PROXY", "http://127.0.0.1")] {
        let list = format!("hub.example {entry}");
        refused(
            hub.fetch(&[("HTTP_PROXY", gone), (name, &list)]),
            &[name, &format!("`{entry}`"), "10.0.0.0/8"],
        );
    }
    assert!(hub.seen().is_empty());
    let both = format!("{} {}", hub.address, hub.elsewhere);
    for variables in [
        &[("HTTPS_PROXY", gone)][..],
        &[("HTTP_PROXY", gone), ("NO_PROXY", &both)],
        &[("HTTP_PROXY", gone), ("NO_PROXY", "127.0.0.0/8")],
        // Without a proxy it does not matter.
        &[("NO_PROXY", "127.")],
        &[("HTTP_PROXY", "")],
        &[("HTTP_PROXY", gone), ("NO_PROXY", "hub.example, 127.0.0.1")],
        &[("ALL_PROXY", gone), ("no_proxy", "*")],
    ] {
        let _ = fs::remove_dir_all(hub.home.path().join("hub"));
        hub.fetch(variables).unwrap();
    }
}

#[test]
fn settings_that_mean_nothing_are_named() {
    let hub = Hub::of(read_folder(&jina()));
    for (name, value, word) in [
        ("HF_ENDPOINT", "ftp://hub.example", "http"),
        ("HF_ENDPOINT", "hub.example", "http"),
        (
            "HF_ENDPOINT",
            "https://user:secret@hub.example",
            "https://hub.example",
        ),
        (
            "HF_ENDPOINT",
            "http://hub.example:80/?token=secret",
            "http://hub.example",
        ),
        (
            "HF_ENDPOINT",
            "http://hub.example/x?y=a@secret",
            "http://hub.example",
        ),
        ("HF_ENDPOINT", "http://us@er:secret/pw@hub.example", "user's name"),
        ("HF_ENDPOINT", "http://user:secret", "http"),
        ("HF_ENDPOINT", "http://hub.example#secret", "http://hub.example"),
        ("HF_ENDPOINT", "http://hub example/secret", "http"),
        ("HF_ENDPOINT", "hf_secret", "http"),
        ("HF_HUB_ETAG_TIMEOUT", "soon", "seconds"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", "seconds"),
        ("HF_TOKEN", "se cret", "characters"),
    ] {
        let error = refused(hub.fetch(&[(name, value)]), &[name, word]);
        assert!(!error.contains("secret") && !error.contains("cret"), "{error}");
    }
    assert!(hub.seen().is_empty());
}
