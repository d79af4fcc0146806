//! A hub, or somebody on the way to it, that means ill.

use std::fs;

use crate::common::Scratch;
use crate::downloads::jina;
use crate::run::refused;
use crate::stand_in::{Hub, Reply, Request, always, commit, git_sha1, listing, read_folder, sha256};

const SECRET: &str = "hf_SecretOfTheUser";

#[test]
fn the_token_goes_to_the_endpoints_own_origin_alone() {
    for host in ["127.0.0.1", "127.0.0.2", "localhost"] {
        let hub = Hub::at(host, [("main".into(), read_folder(&jina()))], always(|_, _| None));
        hub.fetch(&[("HF_TOKEN", SECRET)]).unwrap();
        let (mut own, mut other) = (0, 0);
        for seen in hub.seen() {
            let wanted = match seen.elsewhere {
                true => String::new(),
                false => format!("Bearer {SECRET}"),
            };
            assert_eq!(seen.header("authorization"), wanted, "{host}: {seen:?}");
            *(if seen.elsewhere { &mut other } else { &mut own }) += 1;
        }
        assert!(own > 3 && other > 0, "{host}");
    }
}

/// Who was sent away once does not get the token by sending the client back.
#[test]
fn the_token_stays_away_on_a_way_that_left_the_hub() {
    let bytes = fs::read(jina().join("model.safetensors")).unwrap();
    let hash = sha256(&bytes);
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(move |request: &Request, repo| {
            if request.path.starts_with("/hop") {
                return Some(Reply::new(200, bytes.as_slice()));
            }
            if !request.path.contains("model.safetensors") {
                return None;
            }
            if request.elsewhere {
                let hub = request.path.split_once("?hub=").unwrap().1;
                return Some(Reply::redirect(format!("http://{hub}/hop")));
            }
            let there = repo.answer(request);
            let location = there.headers.iter().find(|(name, _)| name == "Location").unwrap();
            let location = format!("{}?hub={}", location.1, request.header("host"));
            Some(
                there
                    .with("Location", location)
                    .with("X-Linked-ETag", format!("\"{hash}\"")),
            )
        }),
    );
    hub.fetch(&[("HF_TOKEN", SECRET)]).unwrap();
    let back = hub.seen().into_iter().filter(|seen| seen.path == "/hop");
    let back: Vec<Request> = back.collect();
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].header("authorization"), "");
    assert!(!back[0].elsewhere);
}

/// A hub, or a gateway before it, may send back what it got.
#[test]
fn no_message_shows_a_token_that_came_back() {
    type Change = fn(Reply, &str) -> Reply;
    let cases: [(&str, &str, Change); 6] = [
        (
            "/api/",
            "the status is 401 (no such token: Bearer …)",
            |_, token| Reply::new(401, "").with("X-Error-Message", format!("no such token: Bearer {token}")),
        ),
        // Cut within the token.
        ("/api/", "(xxx", |_, token| {
            Reply::new(401, "").with("X-Error-Message", format!("{}{token}{token}", "x".repeat(100)))
        }),
        ("/api/", "gives the commit `…`", |_, token| {
            Reply::new(200, listing(token, [].into_iter()))
        }),
        (
            "/config.json",
            "redirects to `ftp://x/Bearer%20…`",
            |_, token| Reply::redirect(format!("ftp://x/Bearer%20{token}")),
        ),
        ("/config.json", "has ETag `\"…\"`", |reply, token| {
            reply.with("ETag", format!("\"{token}\""))
        }),
        ("/config.json", "has X-Repo-Commit `…`", |reply, token| {
            reply.with("X-Repo-Commit", token)
        }),
    ];
    for (place, words, change) in cases {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, repo| {
                let token = request.header("authorization").trim_start_matches("Bearer ");
                let is_there = request.path.contains(place);
                is_there.then(|| change(repo.answer(request), token))
            }),
        );
        let error = refused(hub.fetch(&[("HF_TOKEN", SECRET)]), &[words]);
        for piece in [&SECRET[..6], &SECRET[SECRET.len() - 6..]] {
            assert!(!error.contains(piece), "{piece}: {error}");
        }
    }
}

#[test]
fn the_token_comes_from_where_huggingface_hub_takes_it() {
    let hub = Hub::of(read_folder(&jina()));
    let home = hub.home.path();
    fs::write(home.join("token"), "from-home\n").unwrap();
    fs::write(home.join("elsewhere"), " from-path\r\n").unwrap();
    let path = home.join("elsewhere").display().to_string();
    let pipe = home.join("pipe").display().to_string();
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c str);
    let cases: [Case<'_>; 8] = [
        // It is not waited for.
        (&[("HF_TOKEN_PATH", &pipe)], ""),
        (&[], "Bearer from-home"),
        (&[("HF_TOKEN", " \n")], "Bearer from-home"),
        (
            &[("HF_TOKEN", "\t"), ("HUGGING_FACE_HUB_TOKEN", "older")],
            "Bearer older",
        ),
        (&[("HF_TOKEN_PATH", &path)], "Bearer from-path"),
        (&[("HF_TOKEN", "from-variable ")], "Bearer from-variable"),
        (
            &[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "true"), ("HF_TOKEN", "x")],
            "",
        ),
        (&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")], "Bearer from-home"),
    ];
    for (variables, wanted) in cases {
        let before = hub.seen().len();
        let _ = fs::remove_dir_all(hub.home.path().join("hub"));
        hub.fetch(variables).unwrap();
        let seen = &hub.seen()[before..];
        assert_eq!(seen[0].header("authorization"), wanted, "{variables:?}");
    }
}

#[test]
fn ten_redirects_are_followed_and_no_more() {
    let hops = |wanted: usize| {
        always(move |request: &Request, repo| {
            if !request.is_for("config.json") || request.elsewhere {
                return None;
            }
            // `/hop3/owner/…`: three hops are behind.
            let (done, path) = match request.path.strip_prefix("/hop") {
                Some(rest) => {
                    let slash = rest.find('/').unwrap();
                    (rest[..slash].parse().unwrap(), &rest[slash..])
                }
                None => (0, request.path.as_str()),
            };
            if done < wanted {
                return Some(Reply::redirect(format!("/hop{}{path}", done + 1)));
            }
            let mut last = request.clone();
            last.path = path.to_owned();
            Some(repo.answer(&last))
        })
    };
    let hub = Hub::faulty(read_folder(&jina()), hops(10));
    hub.fetch(&[]).unwrap();
    let hub = Hub::faulty(read_folder(&jina()), hops(11));
    refused(hub.fetch(&[]), &["config.json", "more than 10 redirects"]);
}

#[test]
fn redirects_that_lead_nowhere_are_refused() {
    for (location, words) in [
        ("", "without Location"),
        ("SAME", "more than 10 redirects"),
        ("ftp://hub.example/x", "only http and https"),
        ("http://user:pass@127.0.0.1/x", "only http and https"),
        ("http://[::1/x", "is not an address"),
        ("http:", "redirects to"),
        ("//", "redirects to"),
    ] {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, _| {
                let location = location.replace("SAME", &request.path);
                request
                    .path
                    .contains("/resolve/")
                    .then(|| Reply::redirect("").with("Location", location))
            }),
        );
        refused(hub.fetch(&[]), &[words]);
        assert!(
            hub.seen().len() <= 12,
            "{location}: {} requests",
            hub.seen().len()
        );
    }
}

#[test]
fn odd_statuses_are_errors() {
    let statuses = [
        101, 103, 199, 201, 204, 205, 300, 304, 305, 306, 399, 402, 416, 418, 600, 999,
    ];
    let cases = statuses.map(|status| (status, "/resolve/")).into_iter();
    let cases = cases.chain([(204, "/api/"), (304, "/api/"), (399, "/api/")]);
    // All at once: some of them are tried again.
    let running = cases.map(|(status, place)| {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, _| {
                let mut reply = Reply::new(status, "")
                    .with("ETag", "\"x\"")
                    .with("X-Repo-Commit", commit("main"));
                // A length contradicts some of them.
                reply.length = false;
                request.path.contains(place).then_some(reply)
            }),
        );
        let running = hub.start("owner/name", &[]);
        (status, hub, running)
    });
    let running: Vec<_> = running.collect();
    for (status, hub, running) in running {
        let error = refused(running.end(), &[]);
        // An answer that announces another is no status.
        let wanted = if (102..200).contains(&status) {
            "broke off".to_owned()
        } else {
            format!("the status is {status}")
        };
        assert!(error.contains(&wanted) || status == 101, "{status}: {error}");
        assert!(hub.seen().len() < 6, "{status}");
    }
}

/// `ETag` and `X-Repo-Commit` become names in the cache.
#[test]
fn a_server_does_not_choose_paths() {
    let outside = Scratch::empty();
    let victim = outside.path().join(".bashrc");
    fs::write(&victim, "alias ls=ls\n").unwrap();
    fs::write(outside.path().join("id.lock"), "precious").unwrap();
    let (victim, folder) = (victim.display().to_string(), outside.path().display().to_string());
    let up = "../".repeat(16);
    let (sha1, upper) = ("0".repeat(40), "A".repeat(64));
    let etags = [
        victim.clone(),
        format!("{folder}/id.x"),
        format!("{up}{}", folder.trim_start_matches('/')),
        "..".into(),
        "x".into(),
        format!("{}/{}", "0".repeat(19), "0".repeat(20)),
        upper.clone(),
        format!("{sha1}0"),
        "é".repeat(20),
    ];
    let commits = [
        "..".into(),
        format!("{folder}/snap"),
        commit("other"),
        upper,
        "main".into(),
    ];
    let cases = etags
        .iter()
        .map(|etag| ("ETag", format!("\"{etag}\"")))
        .chain(
            etags
                .iter()
                .map(|etag| ("X-Linked-ETag", format!("W/\"{etag}\""))),
        )
        .chain(commits.into_iter().map(|commit| ("X-Repo-Commit", commit)))
        .chain([("ETag", String::new()), ("X-Repo-Commit", String::new())]);
    for (name, value) in cases {
        let said = value.clone();
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, repo| {
                let wanted = request.is_for("tokenizer_config.json");
                wanted.then(|| repo.answer(request).with(name, said.as_str()))
            }),
        );
        refused(hub.fetch(&[]), &["tokenizer_config.json", name]);
        let mut left: Vec<_> = fs::read_dir(outside.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".bashrc", "id.lock"], "{name}: {value}");
        let [bashrc, lock] = [".bashrc", "id.lock"].map(|name| fs::read(outside.path().join(name)).unwrap());
        assert_eq!(
            (bashrc.as_slice(), lock.as_slice()),
            (&b"alias ls=ls\n"[..], &b"precious"[..])
        );
        assert_eq!(fs::read_dir(hub.home.path()).unwrap().count(), 1, "hub alone");
    }
}

/// A pinned commit is the one that is had, or none.
#[test]
fn a_hub_does_not_choose_the_commit_where_one_is_pinned() {
    let files = [
        ("main".into(), read_folder(&jina())),
        ("other".into(), read_folder(&jina())),
    ];
    let hub = Hub::at(
        "127.0.0.1",
        files,
        always(|request, repo| {
            let mut request = request.clone();
            request.path = request
                .path
                .replace(&format!("/revision/{}", commit("main")), "/revision/other");
            Some(repo.answer(&request))
        }),
    );
    let pinned = format!("owner/name@{}", commit("main"));
    for model in [
        pinned.clone(),
        format!("owner/name@{}", commit("main").to_uppercase()),
    ] {
        refused(
            hub.start(&model, &[]).end(),
            &["its list of files", &commit("other"), &commit("main")],
        );
        assert!(!hub.cached().exists(), "{model}");
    }

    // A ref to another commit, of whoever wrote it, does not count for a full one either.
    hub.start("owner/name@other", &[]).end().unwrap();
    let note = hub.cached().join("refs").join(commit("main"));
    fs::write(&note, commit("other")).unwrap();
    let offline = [("HF_HUB_OFFLINE", "1")];
    refused(hub.start(&pinned, &offline).end(), &["is not in the cache"]);
    fs::remove_file(note).unwrap();

    let honest = Hub::of(read_folder(&jina()));
    let upper = format!("owner/name@{}", commit("main").to_uppercase());
    for variables in [&[][..], &offline] {
        let fetched = honest.start(&upper, variables).end().unwrap();
        assert_eq!(fetched.folder, honest.snapshot());
    }
    assert!(!honest.cached().join("refs").exists());
}

#[test]
fn a_listing_does_not_choose_paths() {
    let commit_of = |sha: &str| {
        let json = listing(sha, ["config.json", "model.safetensors"].into_iter());
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, _| {
                request
                    .path
                    .starts_with("/api")
                    .then(|| Reply::new(200, json.as_str()))
            }),
        );
        let error = refused(hub.fetch(&[]), &["its list of files", "commit"]);
        assert!(!hub.cached().exists(), "{sha}");
        error
    };
    for sha in ["..", "../../../x", "/tmp/x", "main", "", &"A".repeat(40)] {
        commit_of(sha);
    }
    let error = commit_of("\u{1b}]0;pwned\u{7}\u{202e}");
    assert!(
        error.contains("\\u{1b}") && !error.contains('\u{202e}'),
        "{error}"
    );

    let names = [
        "../model.safetensors",
        "../../../../x/adapter_model.safetensors",
        "/tmp/x/adapter_config.json",
        "/config.json",
        "..\\x/adapter_config.json",
        "a\0b/adapter_config.json",
        "a\u{1b}b/adapter_config.json",
        "./config.json",
        "../adapter_config.json",
        "1_..//config.json",
        "1_Pooling/../config.json",
        "model-/../x.safetensors",
        ".ropeway-complete",
        ".git/adapter_config.json",
        "model.safetensors/adapter_config.json",
        "modules.json/adapter_config.json",
        "Config.json/adapter_model.safetensors",
    ];
    let files = read_folder(&jina());
    let all: Vec<String> = files.keys().cloned().chain(names.map(str::to_owned)).collect();
    let json = listing(&commit("main"), all.iter().map(String::as_str));
    let hub = Hub::faulty(
        files,
        always(move |request, _| {
            request
                .path
                .starts_with("/api")
                .then(|| Reply::new(200, json.as_str()))
        }),
    );
    hub.fetch(&[]).unwrap();
    for seen in hub.seen() {
        let name = seen
            .path
            .rsplit_once("/resolve/")
            .map_or("", |(_, rest)| &rest[41..]);
        assert!(!names.contains(&name), "{seen:?}");
    }
}

/// Links that lie where files are to be written are not followed.
#[test]
#[cfg(unix)]
fn nothing_is_written_through_links() {
    use std::os::unix::fs::symlink;
    let outside = Scratch::empty();
    let mut files = read_folder(&jina());
    files.insert("1_Pooling/config.json".into(), b"{}".to_vec());
    let expected = files["config.json"].clone();
    let hub = Hub::of(files);
    let snapshot = hub.snapshot();
    fs::create_dir_all(&snapshot).unwrap();

    // A dangling link in a file's place is replaced.
    symlink(outside.path().join("config"), snapshot.join("config.json")).unwrap();
    // The mark's and the ref's too.
    symlink(outside.path().join("mark"), snapshot.join(".ropeway-complete")).unwrap();
    fs::create_dir_all(hub.cached().join("refs")).unwrap();
    symlink(outside.path().join("ref"), hub.cached().join("refs/main")).unwrap();
    // A linked folder is not.
    symlink(outside.path(), snapshot.join("1_Pooling")).unwrap();
    refused(hub.fetch(&[]), &["1_Pooling", "is not a folder"]);
    fs::remove_file(snapshot.join("1_Pooling")).unwrap();
    // Nor is a part of a blob that is a link.
    let hash = git_sha1(&fs::read(jina().join("tokenizer.json")).unwrap());
    let part = hub.cached().join(format!("blobs/{hash}.incomplete"));
    symlink(outside.path().join("part"), &part).unwrap();
    refused(hub.fetch(&[]), &["incomplete", "regular file"]);
    fs::remove_file(&part).unwrap();
    // One that has a second name may be anybody's file, and is made anew.
    let private = Scratch::empty();
    let theirs = private.path().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    fs::hard_link(&theirs, &part).unwrap();

    hub.fetch(&[]).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), expected);
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
}
