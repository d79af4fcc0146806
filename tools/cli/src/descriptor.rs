//! Names of open files: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/1`.
//!
//! Such a name stands for what the shell has opened, perhaps in the middle of a file that others go on with. A file that is put
//! in the place of what is behind it is another one: rows would be missing there, and what was written before would be lost.

use std::fs;
use std::path::Path;

use super::claim;

/// What a name of an open file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// Standard output of this process.
    Stdout,
    /// Another one, or another process's.
    Other,
}

impl Descriptor {
    /// The open file that a name stands for, by whatever links; `None` for a plain name.
    pub fn named(path: &Path) -> Option<Descriptor> {
        let mut path = path.to_owned();
        // As many links in a row as Linux follows.
        for _ in 0..40 {
            let folder = fs::canonicalize(claim::folder(&path)).ok()?;
            let of_a_process = folder.starts_with("/proc") && folder.ends_with("fd");
            if of_a_process || folder == Path::new("/dev/fd") {
                let own =
                    !of_a_process || fs::canonicalize("/proc/self").is_ok_and(|own| folder.starts_with(own));
                let is_stdout = own && path.file_name().is_some_and(|name| name == "1");
                return Some(if is_stdout {
                    Descriptor::Stdout
                } else {
                    Descriptor::Other
                });
            }
            let target = fs::read_link(&path).ok()?;
            path = folder.join(target);
        }
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_of_open_files_are_known_by_whatever_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("/dev/stdout", at("link")).unwrap();
        symlink("link", at("link of a link")).unwrap();
        symlink(at("circle"), at("circle")).unwrap();
        symlink(at("plain"), at("dangling")).unwrap();
        let named = |name: &str| Descriptor::named(&at(name));
        for name in [
            "/dev/stdout",
            "/dev/fd/1",
            "/proc/self/fd/1",
            "/proc/thread-self/fd/1",
            "/dev/../proc/self/fd/1",
            "link",
            "link of a link",
        ] {
            assert_eq!(named(name), Some(Descriptor::Stdout), "{name}");
        }
        for name in ["/dev/fd/2", "/dev/stderr", "/proc/1/fd/1", "/dev/fd/99"] {
            assert_eq!(named(name), Some(Descriptor::Other), "{name}");
        }
        for name in ["plain", "dangling", "circle", "/dev/null", "/nowhere/1", "1"] {
            assert_eq!(named(name), None, "{name}");
        }
    }
}
