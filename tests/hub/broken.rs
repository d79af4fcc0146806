//! Networks that fail: slow, cut off, busy, interrupted.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::downloads::jina;
use crate::run::refused;
use crate::stand_in::{Hub, Reply, Repo, Request, Sends, always, first, read_folder, sha256};

/// What the other origin sends of the weights.
fn weights(sends: fn(usize) -> Sends) -> impl Fn(&Request, &Repo) -> Option<Reply> + Clone {
    move |request, repo| {
        let reply = repo.answer(request);
        let length = reply.body.len();
        (request.elsewhere && length > 0).then(|| reply.sends(sends(length)))
    }
}

/// Time for a process to start, on a busy machine.
const START: Duration = Duration::from_secs(6);

fn right() -> Vec<u8> {
    fs::read(jina().join("model.safetensors")).unwrap()
}

#[track_caller]
fn assert_whole(hub: &Hub) {
    assert_eq!(
        fs::read(hub.snapshot().join("model.safetensors")).unwrap(),
        right()
    );
    assert!(hub.parts().is_empty());
}

#[test]
fn a_body_that_is_cut_off_is_gone_on_with() {
    let half = right().len() / 2;
    for length in [true, false] {
        let cut = weights(|length| Sends::Cut(length / 2));
        let hub = Hub::faulty(
            read_folder(&jina()),
            first(1, move |request, repo| {
                let mut reply = cut(request, repo)?;
                reply.length = length;
                Some(reply)
            }),
        );
        hub.fetch(&[]).unwrap();
        assert_eq!(hub.ranges(), [String::new(), format!("bytes={half}-")]);
        assert_whole(&hub);
    }
}

#[test]
fn a_body_that_is_always_cut_off_is_an_error_and_what_came_is_kept() {
    let hub = Hub::faulty(
        read_folder(&jina()),
        first(4, weights(|length| Sends::Cut(length / 2))),
    );
    refused(hub.fetch(&[]), &["model.safetensors", "broke off", "try again"]);
    assert_eq!(hub.ranges().len(), 4);
    let kept = hub.parts()[0].1;
    assert!(kept as usize > right().len() * 9 / 10, "{kept}");
    hub.fetch(&[]).unwrap();
    assert_eq!(hub.ranges()[4], format!("bytes={kept}-"));
    assert_whole(&hub);
}

/// The end of a body without a length is that of the connection. Where no answer says the size, it cannot be told from one
/// that was cut short but by the hash, and the message says so.
#[test]
fn a_body_of_no_length_that_was_cut_off_is_told_as_one() {
    for direct in [false, true] {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, repo| {
                let file = if direct {
                    "config.json"
                } else {
                    "model.safetensors"
                };
                if !request.is_for(file) {
                    return None;
                }
                let mut reply = repo.answer(request).with("X-Linked-Size", "");
                if !reply.body.is_empty() {
                    reply.length = false;
                    reply = reply.sends(Sends::Cut(100));
                }
                Some(reply)
            }),
        );
        refused(hub.fetch(&[]), &["its hash is", "100 bytes came", "cut short"]);
    }
}

/// A length of 0 is one that was said.
#[test]
fn an_empty_body_is_told_as_one() {
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| {
            let mut reply = repo.answer(request);
            reply.body.clear();
            request.is_for("/config.json").then_some(reply)
        }),
    );
    refused(hub.fetch(&[]), &["config.json", "its hash is", "(0 bytes came);"]);
}

#[test]
fn a_part_that_cannot_be_gone_on_with_is_fetched_anew() {
    let length = right().len() as u64;
    for (kept, ranges) in [
        // Full length, but not its bytes: found by the hash.
        (length, vec![""]),
        (length + 5, vec![""]),
        (length / 2, vec!["bytes=HALF-", ""]),
    ] {
        let hub = Hub::of(read_folder(&jina()));
        fs::create_dir_all(hub.cached().join("blobs")).unwrap();
        let part = hub
            .cached()
            .join(format!("blobs/{}.incomplete", sha256(&right())));
        fs::write(part, vec![7; kept as usize]).unwrap();
        hub.fetch(&[]).unwrap();
        let half = (length / 2).to_string();
        let ranges: Vec<String> = ranges.iter().map(|range| range.replace("HALF", &half)).collect();
        assert_eq!(hub.ranges(), ranges, "{kept}");
        assert_whole(&hub);
    }
    // The size is not said, and the server has nothing after the part's end.
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| {
            let reply = repo.answer(request);
            (!request.path.starts_with("/api")).then(|| reply.with("X-Linked-Size", ""))
        }),
    );
    fs::create_dir_all(hub.cached().join("blobs")).unwrap();
    let part = hub
        .cached()
        .join(format!("blobs/{}.incomplete", sha256(&right())));
    fs::write(part, vec![7; length as usize]).unwrap();
    hub.fetch(&[]).unwrap();
    assert_eq!(hub.ranges(), [format!("bytes={length}-"), String::new()]);
    assert_whole(&hub);
}

/// A server that answers a range with another one, or with one that cannot be read.
#[test]
fn a_part_that_is_answered_with_another_range_is_fetched_anew() {
    let last = right().len() - 1;
    let length = right().len();
    for (start, range, requests) in [
        (0, format!("bytes 0-{last}/{length}"), 1),
        (7, format!("bytes 7-{last}/{length}"), 2),
        (100, "bytes 100-".to_owned(), 2),
        (100, String::new(), 2),
    ] {
        let said = range.clone();
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, _| {
                let is_ranged = request.elsewhere && !request.header("range").is_empty();
                is_ranged.then(|| Reply::new(206, &right()[start..]).with("Content-Range", said.as_str()))
            }),
        );
        fs::create_dir_all(hub.cached().join("blobs")).unwrap();
        let part = hub
            .cached()
            .join(format!("blobs/{}.incomplete", sha256(&right())));
        fs::write(part, &right()[..100]).unwrap();
        hub.fetch(&[]).unwrap();
        let ranges = ["bytes=100-".to_owned(), String::new()];
        assert_eq!(hub.ranges(), ranges[..requests], "{range}");
        assert_whole(&hub);
    }
}

#[test]
fn a_server_without_ranges_starts_over() {
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, _| (request.elsewhere).then(|| Reply::new(200, right()))),
    );
    fs::create_dir_all(hub.cached().join("blobs")).unwrap();
    let part = hub
        .cached()
        .join(format!("blobs/{}.incomplete", sha256(&right())));
    fs::write(part, &right()[..100]).unwrap();
    hub.fetch(&[]).unwrap();
    assert_eq!(hub.ranges(), ["bytes=100-"]);
    assert_whole(&hub);
}

/// Each attempt brings megabytes, and none brings the file further than the one before.
#[test]
fn a_server_that_sends_the_same_bytes_again_and_again_is_given_up() {
    let mut files = read_folder(&jina());
    let bytes: Vec<u8> = (0..3 << 20)
        .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    files.insert("model.safetensors".into(), bytes.clone());
    // Without ranges, or with a status for every range that sends the client back to the first byte, of no length said.
    let running = [false, true].map(|refuses| {
        let bytes = bytes.clone();
        let fault = move |request: &Request, repo: &Repo| {
            if !request.elsewhere {
                let reply = repo.answer(request);
                return refuses.then(|| reply.with("X-Linked-Size", ""));
            }
            if refuses && !request.header("range").is_empty() {
                return Some(Reply::new(416, ""));
            }
            Some(Reply::new(200, bytes.as_slice()).sends(Sends::Cut(2 << 20)))
        };
        // An endless download would be one that is whole in the end.
        let sent = AtomicUsize::new(0);
        let hub = Hub::faulty(
            files.clone(),
            always(move |request, repo| {
                let reply = fault(request, repo)?;
                let is_cut = request.elsewhere && reply.status == 200;
                (sent.fetch_add(usize::from(is_cut), Ordering::SeqCst) < 8).then_some(reply)
            }),
        );
        let running = hub.start("owner/name", &[]);
        (hub, running)
    });
    for (hub, running) in running {
        refused(running.end(), &["model.safetensors", "try again"]);
        let from_start = hub.ranges().iter().filter(|range| range.is_empty()).count();
        assert!(from_start <= 4, "{:?}", hub.ranges());
        assert_eq!(hub.parts()[0].1, 2 << 20);
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let count = AtomicUsize::new(0);
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(move |request, _| {
            let is_asked = request.path.starts_with("/api") || request.elsewhere;
            let reply = match count.fetch_add(usize::from(is_asked), Ordering::SeqCst) {
                0 => Reply::new(503, ""),
                1 => Reply::new(429, "").with("Retry-After", "1"),
                // A date is not read.
                3 => Reply::new(429, "").with("Retry-After", "Wed, 21 Oct 2065 07:28:00 GMT"),
                4 => Reply::new(500, ""),
                _ => return None,
            };
            is_asked.then_some(reply)
        }),
    );
    let busy = Hub::faulty(read_folder(&jina()), always(|_, _| Some(Reply::new(503, ""))));
    let start = Instant::now();
    let stays_busy = busy.start("owner/name", &[]);
    hub.fetch(&[]).unwrap();
    let wanted = Duration::from_millis(500 + 1000 + 500 + 1000);
    assert!(
        start.elapsed() >= wanted && start.elapsed() < wanted + START,
        "{:?}",
        start.elapsed()
    );
    assert_whole(&hub);
    refused(stays_busy.end(), &["its list of files", "503", "try again later"]);
    assert_eq!(busy.seen().len(), 4);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    for place in ["/api/", "/resolve/"] {
        let hub = Hub::faulty(
            read_folder(&jina()),
            always(move |request, _| {
                let nothing = Reply::new(200, "").sends(Sends::Nothing);
                request.path.contains(place).then_some(nothing)
            }),
        );
        let start = Instant::now();
        refused(
            hub.fetch(&[("HF_HUB_ETAG_TIMEOUT", "1")]),
            &["took too long", "HF_HUB_ETAG_TIMEOUT"],
        );
        assert!(start.elapsed() < START, "{:?}", start.elapsed());
    }
}

/// Each byte of what a proxy answers to CONNECT is in time.
#[test]
fn a_proxy_that_drips_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let drips = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'a'));
            for byte in head {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let hub = Hub::of(read_folder(&jina()));
    for endpoint in ["http://hub.invalid", "https://hub.invalid"] {
        let start = Instant::now();
        let variables = [
            ("HF_ENDPOINT", endpoint),
            ("ALL_PROXY", proxy.as_str()),
            ("HF_HUB_ETAG_TIMEOUT", "1"),
        ];
        refused(
            hub.fetch(&variables),
            &["by the proxy", "took too long (connect)", "HF_HUB_ETAG_TIMEOUT"],
        );
        assert!(start.elapsed() < START, "{:?}", start.elapsed());
    }
    drips.join().unwrap();
}

#[test]
fn a_body_that_stalls_or_drips_is_given_up_and_gone_on_with_later() {
    for (sends, at_least) in [
        (
            (|length| Sends::Stall(length / 2)) as fn(usize) -> Sends,
            right().len() as u64 / 2,
        ),
        (|_| Sends::Drip, 1),
    ] {
        let hub = Hub::faulty(read_folder(&jina()), first(1, weights(sends)));
        let start = Instant::now();
        refused(
            hub.fetch(&[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]),
            &[
                "model.safetensors",
                "HF_HUB_DOWNLOAD_TIMEOUT",
                "what came is kept",
            ],
        );
        assert!(start.elapsed() < START, "{:?}", start.elapsed());
        let kept = hub.parts()[0].1;
        assert!(kept >= at_least, "{kept}");
        hub.fetch(&[]).unwrap();
        assert_eq!(hub.ranges(), [String::new(), format!("bytes={kept}-")]);
        assert_whole(&hub);
    }
    // At the hub itself too, however long its answers may take to begin.
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| {
            let reply = repo.answer(request);
            request
                .is_for("tokenizer.json")
                .then(|| reply.sends(Sends::Stall(10)))
        }),
    );
    let start = Instant::now();
    refused(
        hub.fetch(&[("HF_HUB_ETAG_TIMEOUT", "30"), ("HF_HUB_DOWNLOAD_TIMEOUT", "1")]),
        &["tokenizer.json", "sent nothing of the body in 1 s"],
    );
    assert!(start.elapsed() < START, "{:?}", start.elapsed());
    // The listing too.
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| Some(repo.answer(request).sends(Sends::Drip))),
    );
    let start = Instant::now();
    refused(
        hub.fetch(&[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]),
        &["its list of files", "bytes in"],
    );
    assert!(start.elapsed() < START, "{:?}", start.elapsed());
}

/// What frames the chunks of a body is not the body: neither digits of a chunk's length nor lines after its end keep a
/// client busy, from the hub or from where it redirects to.
#[test]
fn framing_without_a_body_is_given_up() {
    const DIGITS: Sends = Sends::Framing(0, "", "0", 20);
    const LATE_DIGITS: Sends = Sends::Framing(20, "", "0", 20);
    const LINES: Sends = Sends::Framing(2, "0\r\n", "X-A: b\r\nX-C: d\r\n", 0);
    let cases = [DIGITS, LATE_DIGITS, LINES].into_iter().flat_map(|sends| {
        [
            ("/revision/main", sends),
            ("/tokenizer.json", sends),
            ("/model.safetensors", sends),
        ]
    });
    let start = Instant::now();
    let running: Vec<_> = cases
        .map(|(end, sends)| {
            let hub = Hub::faulty(
                read_folder(&jina()),
                always(move |request, repo| {
                    let reply = repo.answer(request);
                    if request.path.ends_with("/model.safetensors") && !request.elsewhere {
                        return Some(reply.with("X-Linked-Size", ""));
                    }
                    request.path.ends_with(end).then(|| reply.sends(sends))
                }),
            );
            let running = hub.start("owner/name", &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]);
            (hub, running)
        })
        .collect();
    for (hub, running) in running {
        refused(
            running.end(),
            &["sent nothing of the body in 1 s", "HF_HUB_DOWNLOAD_TIMEOUT"],
        );
        drop(hub);
    }
    assert!(start.elapsed() < START * 2, "{:?}", start.elapsed());
}

/// What was ended is gone on with over another connection.
#[test]
fn a_body_that_stalls_between_chunks_is_gone_on_with() {
    let mut files = read_folder(&jina());
    files.insert("model.safetensors".into(), vec![7; 2 << 20]);
    let hub = Hub::faulty(files, first(1, weights(|_| Sends::Framing(3 << 19, "", "0", 20))));
    hub.fetch(&[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]).unwrap();
    assert_eq!(hub.ranges(), [String::new(), format!("bytes={}-", 3 << 19)]);
    assert!(hub.parts().is_empty());
}

#[test]
fn two_processes_download_a_file_once() {
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(|request, repo| {
            if request.elsewhere {
                std::thread::sleep(Duration::from_millis(500));
            }
            Some(repo.answer(request))
        }),
    );
    let both = [(); 2].map(|()| hub.start("owner/name", &[]));
    for running in both {
        running.end().unwrap();
    }
    assert_eq!(hub.ranges().len(), 1, "{:#?}", hub.seen());
    assert_whole(&hub);
}

/// The address that the hub gave ended while another process held the lock, and then gave up.
#[test]
fn after_a_wait_for_another_process_the_hub_is_asked_anew() {
    let issued = Mutex::new(Instant::now());
    let hub = Hub::faulty(
        read_folder(&jina()),
        always(move |request, repo| {
            let mut issued = issued.lock().unwrap();
            if !request.is_for("model.safetensors") {
                return None;
            }
            if request.elsewhere && issued.elapsed() > Duration::from_secs(1) {
                return Some(Reply::new(403, "expired"));
            }
            if !request.elsewhere {
                *issued = Instant::now();
            }
            Some(repo.answer(request))
        }),
    );
    let locks = hub.home.path().join("hub/.locks/models--owner--name");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", sha256(&right())))).unwrap();
    lock.lock().unwrap();
    let running = hub.start("owner/name", &[]);
    let start = Instant::now();
    while hub.requests("/model.safetensors") == 0 {
        assert!(start.elapsed() < START * 2);
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(1500));
    drop(lock);
    running.end().unwrap();
    assert_eq!(hub.ranges(), [""]);
    assert_whole(&hub);
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupted_download_is_gone_on_with() {
    let half = right().len() / 2;
    let hub = Hub::faulty(
        read_folder(&jina()),
        first(1, weights(|length| Sends::Stall(length / 2))),
    );
    let running = hub.start("owner/name", &[("HF_HUB_DOWNLOAD_TIMEOUT", "60")]);
    let start = Instant::now();
    while hub.parts().first().is_none_or(|part| part.1 < half as u64) {
        assert!(start.elapsed() < START * 2, "{:?}", hub.parts());
        std::thread::sleep(Duration::from_millis(10));
    }
    running.interrupt();
    hub.fetch(&[]).unwrap();
    assert_eq!(hub.ranges(), [String::new(), format!("bytes={half}-")]);
    assert_whole(&hub);
}
