use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(path: &Path, content: &str) -> Result<(), Exit> {
    let mut target = Target::open(path, &[], Existing::Keep)?;
    target.begin(0).unwrap();
    target.write_all(content.as_bytes()).unwrap();
    target.finish(true).unwrap();
    Ok(())
}

#[track_caller]
fn refused(result: Result<Target, Exit>, why: &str) {
    let error = result.map(|_| ()).unwrap_err();
    assert!(format!("{error:?}").contains(why), "{error:?}");
}

#[test]
fn permissions_of_what_is_replaced_are_kept_and_hold_from_the_first_row() {
    let folder = tempfile::tempdir().unwrap();
    let (path, partial) = (folder.path().join("out"), folder.path().join("out.partial"));
    run(&path, "new").unwrap();
    fs::write(folder.path().join("plain"), "").unwrap();
    assert_eq!(mode(&path), mode(&folder.path().join("plain")));
    for kept in [0o600, 0o640, 0o604, 0o777, 0o222] {
        set_mode(&path, kept);
        // An empty partial file that a kill left has the permissions of a new file.
        fs::write(&partial, "").unwrap();
        let mut target = Target::open(&path, &[], Existing::Keep).unwrap();
        target.begin(0).unwrap();
        assert_eq!(mode(&partial) & 0o077 & !kept, 0);
        target.write_all(b"x").unwrap();
        target.finish(true).unwrap();
        assert_eq!(mode(&path), kept);
        assert!(!partial.exists());
    }
    drop(Target::open(&path, &[], Existing::Keep).unwrap());
    let target = Target::open(&path, &[], Existing::Keep).unwrap();
    assert_eq!(mode(&partial), 0o600, "made new beside a file that it replaces");
    drop(target);
    set_mode(&path, 0o640);
    if chown(&path, Some(4321), Some(4322)).is_ok() {
        run(&path, "again").unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (4321, 4322, 0o640));
    }
}

#[test]
fn a_file_that_may_not_be_written_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "old").unwrap();
    set_mode(&path, 0o444);
    for existing in [Existing::Keep, Existing::Continue, Existing::Foreign] {
        refused(Target::open(&path, &[], existing), "read-only");
    }
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"old".to_vec(), 0o444));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_link_is_followed_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("far/away")).unwrap();
    fs::write(at("old"), "old").unwrap();
    for (link, target, end) in [
        ("to_old", "old", "old"),
        ("to_new", "new", "new"),
        ("chain", "to_dangling", "far/away/end"),
        ("to_dangling", "far/second", "far/away/end"),
        ("far/second", "away/end", "far/away/end"),
    ] {
        symlink(target, at(link)).unwrap();
        if link != "chain" && link != "to_dangling" {
            run(&at(link), link).unwrap();
            assert_eq!(fs::read_to_string(at(end)).unwrap(), link);
        }
        assert!(at(link).is_symlink());
    }
    fs::remove_file(at("far/away/end")).unwrap();
    run(&at("chain"), "by a chain").unwrap();
    assert_eq!(fs::read_to_string(at("far/away/end")).unwrap(), "by a chain");

    symlink("loop_b", at("loop_a")).unwrap();
    symlink("loop_a", at("loop_b")).unwrap();
    refused(Target::open(&at("loop_a"), &[], Existing::Keep), "symbolic links");
    symlink("no_folder/x", at("nowhere")).unwrap();
    refused(Target::open(&at("nowhere"), &[], Existing::Keep), "No such file");
}

#[test]
fn a_run_without_rows_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    for existing in [Existing::Keep, Existing::Continue, Existing::Foreign] {
        drop(Target::open(&path, &[], existing).unwrap());
        let mut begun = Target::open(&path, &[], existing).unwrap();
        begun.begin(0).unwrap();
        drop(begun);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    // Nor does one whose format cannot be continued; any other keeps its rows.
    for (existing, left) in [(Existing::Foreign, 0), (Existing::Keep, 1)] {
        let mut target = Target::open(&path, &[], existing).unwrap();
        target.begin(0).unwrap();
        target.write_all(b"row").unwrap();
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), left);
    }
    refused(Target::open(&path, &[], Existing::Keep), "--resume");
    refused(Target::open(&path, &[], Existing::Foreign), "move it away");
    fs::rename(folder.path().join("out.partial"), &path).unwrap();
    // What is continued is there whatever happens, even if it has no rows.
    for content in ["row", ""] {
        fs::write(&path, content).unwrap();
        drop(Target::open(&path, &[], Existing::Continue).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        let mut begun = Target::open(&path, &[], Existing::Continue).unwrap();
        begun.begin(0).unwrap();
        drop(begun);
        assert!(!path.exists());
        fs::rename(folder.path().join("out.partial"), &path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

/// Each moment at which the other run can be overtaken between opening and locking.
#[test]
fn a_run_that_was_slow_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, partial) = (folder.path().join("out"), folder.path().join("out.partial"));
    // It opened the partial file of a run that finishes now.
    let mut first = Target::open(&path, &[], Existing::Keep).unwrap();
    first.begin(0).unwrap();
    first.write_all(b"first").unwrap();
    let slow = claim::open(&partial).unwrap().unwrap();
    for existing in [Existing::Keep, Existing::Continue, Existing::Foreign] {
        refused(
            Target::open(&path, &[], existing),
            "another ropeway is writing it",
        );
    }
    first.finish(true).unwrap();
    assert!(format!("{:?}", claim::lock(&slow, &partial).unwrap_err()).contains("just finished"));
    assert_eq!(fs::read(&path).unwrap(), b"first");
    drop(slow);

    // It opened FILE to continue it, and another run replaces it.
    let slow = claim::open(&path).unwrap().unwrap();
    run(&path, "second").unwrap();
    assert!(format!("{:?}", claim::lock(&slow, &path).unwrap_err()).contains("just finished"));

    drop(slow);

    // FILE is being continued: before and after it is renamed, nobody else gets it.
    let mut continued = Target::open(&path, &[], Existing::Continue).unwrap();
    let slow = claim::open(&partial).unwrap().unwrap();
    refused(Target::open(&path, &[], Existing::Keep), "is writing it");
    continued.begin(6).unwrap();
    refused(Target::open(&path, &[], Existing::Continue), "is writing it");
    assert!(format!("{:?}", claim::lock(&slow, &partial).unwrap_err()).contains("is writing it"));
    continued.write_all(b" and more").unwrap();
    continued.finish(true).unwrap();
    assert!(format!("{:?}", claim::lock(&slow, &partial).unwrap_err()).contains("just finished"));
    assert_eq!(fs::read(&path).unwrap(), b"second and more");
    assert!(!partial.exists());
}

/// Many runs at once: the file is always one run's whole output, and every run has either written it or was refused.
#[test]
fn racing_runs_never_mix() {
    const LINES: usize = 50;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let finished = AtomicUsize::new(0);
    let whole = |content: &str| {
        let first = content.lines().next().unwrap_or_default();
        content.lines().all(|line| line == first) && content.lines().count().is_multiple_of(LINES)
    };
    std::thread::scope(|scope| {
        for runner in 0..6 {
            let (path, finished, whole) = (&path, &finished, &whole);
            scope.spawn(move || {
                for number in 0..40 {
                    let existing = if (runner + number) % 3 == 0 {
                        Existing::Continue
                    } else {
                        Existing::Keep
                    };
                    let Ok(mut target) = Target::open(path, &[], existing) else {
                        continue;
                    };
                    let old = io::read_to_string(target.reader().unwrap()).unwrap();
                    assert!(whole(&old), "continued: {old}");
                    let line = old
                        .lines()
                        .next()
                        .map_or(format!("{runner} {number}"), str::to_owned);
                    target.begin(old.len() as u64).unwrap();
                    for _ in 0..LINES {
                        writeln!(target, "{line}").unwrap();
                    }
                    target.finish(true).unwrap();
                    finished.fetch_add(1, Ordering::Relaxed);
                    // Whoever replaced it meanwhile: it is whole.
                    if let Ok(content) = fs::read_to_string(path) {
                        assert!(whole(&content), "{content}");
                    }
                }
            });
        }
    });
    assert!(finished.into_inner() > 0 && whole(&fs::read_to_string(&path).unwrap()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn files_that_cannot_be_renamed_over_are_known() {
    let mounts = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        31 22 254:0 /o\\040ut /data/my\\040rows.jsonl rw - ext4 /dev/vda rw\n";
    assert!(is_mounted(b"/data/my rows.jsonl", mounts));
    for other in [&b"/data/my"[..], b"/data/my\\040rows.jsonl", b"/data", b""] {
        assert!(!is_mounted(other, mounts));
    }
    // The administrator, the folder's owner and the file's may; others where the folder is not sticky.
    for user in [0, 5, 6] {
        assert!(may_rename(user, 0o1777, [5, 6]));
    }
    assert!(!may_rename(7, 0o1777, [5, 6]) && may_rename(7, 0o777, [5, 6]));
}

#[test]
fn rows_that_cannot_have_their_name_stay_where_they_are() {
    for existing in [Existing::Keep, Existing::Foreign] {
        let folder = tempfile::tempdir().unwrap();
        let (path, partial) = (folder.path().join("out"), folder.path().join("out.partial"));
        let mut target = Target::open(&path, &[], existing).unwrap();
        target.begin(0).unwrap();
        target.write_all(b"rows").unwrap();
        fs::create_dir(&path).unwrap();
        let error = target.finish(true).unwrap_err().to_string();
        assert!(error.contains("all rows are in"), "{error}");
        assert_eq!(fs::read(&partial).unwrap(), b"rows", "{existing:?}");
    }
}

/// Somebody moves, replaces or removes the partial file while rows are written to it.
#[test]
fn no_other_file_gets_the_name_and_the_rows_are_where_the_message_says() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (path, partial) = (at("out"), at("out.partial"));
    let said = |error: io::Error, parts: &[&str]| {
        let error = error.to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
        error
    };
    for (existing, whole) in [
        (Existing::Keep, true),
        (Existing::Foreign, true),
        (Existing::Keep, false),
    ] {
        let begun = |path: &Path| {
            let mut target = Target::open(path, &[], existing).unwrap();
            target.begin(0).unwrap();
            target.write_all(b"rows").unwrap();
            target
        };
        // Where nothing is replaced, an unfinished output gets its name as well.
        fs::write(&path, "old").unwrap();
        let moved = begun(&path);
        fs::rename(&partial, at("saved")).unwrap();
        fs::write(&partial, "notes").unwrap();
        match moved.finish(whole) {
            Ok(place) => assert_eq!((whole, place), (false, Some(at("saved").canonicalize().unwrap()))),
            Err(error) => {
                said(
                    error,
                    &[
                        "was moved, replaced or removed",
                        "all rows are in",
                        "saved: move it to",
                    ],
                );
            }
        }
        assert_eq!(fs::read(at("saved")).unwrap(), b"rows");
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&partial).unwrap()),
            (b"old".to_vec(), b"notes".to_vec())
        );
        for name in [&partial, &at("saved")] {
            fs::remove_file(name).unwrap();
        }

        // Another run has begun under the name.
        let removed = begun(&path);
        fs::remove_file(&partial).unwrap();
        let next = begun(&at("other"));
        fs::rename(at("other.partial"), &partial).unwrap();
        let copied = match removed.finish(whole) {
            Ok(place) => place.unwrap(),
            Err(error) => {
                let error = said(error, &["all rows are in", "move it to"]);
                let (_, copied) = error.split_once("all rows are in ").unwrap();
                copied.split_once(": move it to").unwrap().0.into()
            }
        };
        assert_eq!(
            (fs::read(&copied).unwrap(), mode(&copied)),
            (b"rows".to_vec(), 0o600)
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(next);
        assert_eq!(fs::read(&partial).unwrap(), b"rows", "dropped, and not its name");
        fs::remove_file(&copied).unwrap();
        fs::remove_file(&partial).unwrap();

        // The folder with them.
        fs::create_dir(at("van")).unwrap();
        let moved = begun(&at("van/out"));
        fs::rename(at("van"), at("lorry")).unwrap();
        let error = moved.finish(true).unwrap_err();
        said(
            error,
            &["was moved", "all rows are in", "lorry/out.partial: move it"],
        );
        fs::rename(at("lorry"), at("van")).unwrap();
        fs::remove_file(at("van/out.partial")).unwrap();
        let removed = begun(&at("van/out"));
        fs::remove_dir_all(at("van")).unwrap();
        let error = said(removed.finish(true).unwrap_err(), &["are lost", "run it again"]);
        assert!(!error.contains("all rows are in"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_is_continued_is_renamed_over_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, partial) = (folder.path().join("out"), folder.path().join("out.partial"));
    for changed in [&partial, &path] {
        fs::write(&path, "row").unwrap();
        let mut continued = Target::open(&path, &[], Existing::Continue).unwrap();
        fs::remove_file(changed).unwrap();
        fs::write(changed, "notes").unwrap();
        let error = continued.begin(3).unwrap_err().to_string();
        assert!(error.contains("was moved or replaced"), "{error}");
        drop(continued);
        assert_eq!(fs::read(changed).unwrap(), b"notes");
        let _ = fs::remove_file(&partial);
    }
}

/// One run's output is the other's partial file.
#[test]
fn the_partial_file_of_another_run_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (path, partial) = (folder.path().join("out"), folder.path().join("out.partial"));
    for existing in [Existing::Keep, Existing::Continue, Existing::Foreign] {
        let mut first = Target::open(&path, &[], Existing::Keep).unwrap();
        first.begin(0).unwrap();
        first.write_all(b"first").unwrap();
        refused(
            Target::open(&partial, &[], existing),
            "another ropeway is writing it",
        );
        first.finish(true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        // The other way round: a file that is going to be replaced is not written by another run.
        fs::write(&partial, "").unwrap();
        let replaces = Target::open(&partial, &[], Existing::Keep).unwrap();
        refused(
            Target::open(&path, &[], existing),
            "another ropeway is writing it",
        );
        drop(replaces);
        fs::remove_file(&partial).unwrap();
    }
    // Where it was not there yet, and now is.
    let mut late = Target::open(&partial, &[], Existing::Keep).unwrap();
    late.begin(0).unwrap();
    late.write_all(b"late").unwrap();
    let mut first = Target::open(&path, &[], Existing::Keep).unwrap();
    first.begin(0).unwrap();
    first.write_all(b"second").unwrap();
    let error = late.finish(true).unwrap_err().to_string();
    assert!(
        error.contains("another ropeway is writing it") && error.contains("all rows are in"),
        "{error}"
    );
    assert_eq!(
        fs::read(folder.path().join("out.partial.partial")).unwrap(),
        b"late"
    );
    first.finish(true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
}

#[test]
fn a_report_replaces_a_name_and_writes_through_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let report = |name: &str| ReportFile::new(&at(name), &[&at("model")]);
    fs::create_dir(at("model")).unwrap();
    fs::write(at("model/weights"), "weights").unwrap();
    fs::write(at("victim"), "secret").unwrap();
    fs::hard_link(at("victim"), at("second")).unwrap();
    set_mode(&at("victim"), 0o640);
    symlink("victim", at("link")).unwrap();
    symlink("new", at("dangling")).unwrap();
    // What a program that writes aside might take for its own.
    symlink("victim", at("report.part")).unwrap();
    for (name, end) in [("report", "report"), ("second", "second"), ("dangling", "new")] {
        let file = report(name).unwrap();
        for text in ["first", "again"] {
            file.write(text).unwrap();
            assert_eq!(fs::read_to_string(at(end)).unwrap(), text, "{name}");
        }
        assert_eq!(fs::read(at("victim")).unwrap(), b"secret", "{name}");
    }
    fs::write(at("plain"), "").unwrap();
    assert_eq!(mode(&at("report")), mode(&at("plain")));
    assert_eq!(mode(&at("second")), 0o640);
    report("link").unwrap().write("by a link").unwrap();
    assert!(at("link").is_symlink());
    assert_eq!(
        (fs::read(at("victim")).unwrap(), mode(&at("victim"))),
        (b"by a link".to_vec(), 0o640)
    );

    let said = |name: &str, why: &str| {
        let error = report(name).unwrap_err();
        assert!(exit::message(&error).contains(why), "{error:?}");
    };
    symlink("model/weights", at("into the model")).unwrap();
    fs::hard_link(at("model/weights"), at("also in the model")).unwrap();
    for name in ["model/weights", "into the model", "also in the model"] {
        said(name, "is a file of the model");
    }
    said("model", "is a folder");
    set_mode(&at("report"), 0o444);
    said("report", "read-only");
    assert_eq!(fs::read(at("model/weights")).unwrap(), b"weights");
    // A run writes it.
    let mut target = Target::open(&at("out"), &[], Existing::Keep).unwrap();
    target.begin(0).unwrap();
    let file = report("out.partial").unwrap();
    assert!(
        file.write("{}")
            .unwrap_err()
            .to_string()
            .contains("another ropeway is writing it")
    );
    drop(target);
    said("none/report", "No such file");
    ReportFile::new(Path::new("/dev/null"), &[])
        .unwrap()
        .write("x")
        .unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 11);
}

#[test]
fn a_pipe_gets_a_report_once_and_a_file_as_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, path) = (folder.path().join("pipe"), folder.path().join("report"));
    let name = CString::new(pipe.as_os_str().as_bytes()).unwrap();
    // SAFETY: a path that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let file = ReportFile::new(&pipe, &[]).unwrap();
    // Nobody reads yet: this would wait.
    file.update("some");
    let read = std::thread::spawn(move || fs::read_to_string(pipe).unwrap());
    file.write("all").unwrap();
    assert_eq!(read.join().unwrap(), "all");

    let file = ReportFile::new(&path, &[]).unwrap();
    file.update("some");
    assert_eq!(fs::read_to_string(&path).unwrap(), "some");
    // What fails is told when the report is whole.
    set_mode(&path, 0o444);
    file.update("more");
    assert!(file.write("all").unwrap_err().to_string().contains("read-only"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "some");
}
