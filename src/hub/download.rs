//! Downloads of a model into the cache: each file once, gone on with where an earlier attempt stopped, and checked by its
//! hash before it gets its name.

use super::Progress;
use super::answers::{Listing, content_range};
use super::cache::{ModelCache, Part};
use super::client::{Client, FileBody, Walk};
use super::failure::{Failure, Result, Tries};
use super::hash::hash_file;
use super::names::{ContentHash, download_rank, is_commit, is_encoder_weights};

use std::fs;
use std::path::{Path, PathBuf};

use ureq::http::StatusCode;

/// The largest file of weights that is fetched; the hub's own limit for one file.
const WEIGHTS_BYTES: u64 = 50_000_000_000;

/// The largest other file: configurations, tokenizers, indices.
const TEXT_BYTES: u64 = 256 << 20;

/// Bytes that are read and written at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A download that failed.
pub(super) struct Missed {
    /// What cannot be had.
    pub what: String,
    pub failure: Failure,
    /// The files that the hub listed, if it came to that.
    listed: Vec<String>,
}

impl Missed {
    /// Whether nothing speaks against a copy in the cache: the hub could not be reached, and names no file that the copy
    /// lacks. What is wrong with an answer or with the cache does not pass by taking less.
    pub(super) fn leaves(&self, copy: &Path) -> bool {
        self.failure.is_absence() && self.listed.iter().all(|name| copy.join(name).is_file())
    }
}

/// Downloads what the cache lacks of a model's revision, and gives the snapshot's folder.
pub(super) fn download(
    client: &Client,
    cache: &ModelCache,
    id: &str,
    revision: &str,
    report: &dyn Fn(&Progress<'_>),
) -> Result<PathBuf, Missed> {
    let unlisted = |failure| Missed {
        what: "its list of files".to_owned(),
        failure,
        listed: Vec::new(),
    };
    let Listing { commit, mut files } = client.listing(id, revision).map_err(unlisted)?;
    if is_commit(revision) && commit != revision {
        let problem = format!("the answer is of the commit {commit}; wanted {revision}");
        return Err(unlisted(Failure::Answer(problem)));
    }
    files.sort_by_key(|name| download_rank(name));
    let missed = |what: &str, failure| Missed {
        what: what.to_owned(),
        failure,
        listed: files.clone(),
    };
    let whole = |failure| missed("the model", failure);
    if !files.iter().any(|name| is_encoder_weights(name)) {
        return Err(whole(Failure::Model(
            "it has no safetensors weights; only models saved with safetensors are read".into(),
        )));
    }
    for name in &files {
        if !cache.snapshot(&commit).join(name).is_file() {
            let file = Download {
                client,
                cache,
                id,
                commit: &commit,
                name,
                report,
            };
            file.run().map_err(|failure| missed(name, failure))?;
        }
    }
    // It serves all the same; the next call asks the hub again for what the name means.
    if let Err(failure) = cache.set_ref(revision, &commit) {
        tracing::warn!(%failure, "the cache cannot note what commit the revision means, so that it is asked for each time");
    }
    let folder = cache.find(&commit).ok_or_else(|| {
        whole(Failure::Model(
            "it was downloaded, but lacks config.json or some of its weights".into(),
        ))
    })?;
    cache.mark_whole(&folder, &files);
    Ok(folder)
}

/// How far a file has come over all attempts. Bytes alone are no progress: a server without ranges may send the same ones
/// again and again.
#[derive(Default)]
struct Reach {
    /// The longest that the part ever was.
    furthest: u64,
    /// By how much the last attempt moved it.
    gained: u64,
}

impl Reach {
    /// An attempt begins with a part of this length, which it did not bring.
    fn begin(&mut self, length: u64) {
        self.furthest = self.furthest.max(length);
    }

    /// The part has this length now.
    fn grow(&mut self, length: u64) {
        self.gained += length.saturating_sub(self.furthest);
        self.furthest = self.furthest.max(length);
    }

    /// What the attempt gained, which is over.
    fn take_gain(&mut self) -> u64 {
        std::mem::take(&mut self.gained)
    }
}

/// The download of one file.
struct Download<'a> {
    client: &'a Client,
    cache: &'a ModelCache,
    id: &'a str,
    commit: &'a str,
    name: &'a str,
    report: &'a dyn Fn(&Progress<'_>),
}

impl Download<'_> {
    fn run(&self) -> Result<()> {
        let mut tries = Tries::default();
        let mut reach = Reach::default();
        loop {
            match self.attempt(&mut reach) {
                Ok(()) => return Ok(()),
                Err(failure) => tries.again(failure, reach.take_gain(), self.client.token())?,
            }
        }
    }

    /// Tries once.
    fn attempt(&self, reach: &mut Reach) -> Result<()> {
        let (mut way, mut body, hash, size, lock) = loop {
            let mut way = self.client.file(self.id, self.commit, self.name)?;
            let body = way.ask_hub()?;
            let (hash, size) = way
                .headers()
                .read(self.commit)
                .map_err(|problem| Failure::Answer(format!("the answer {problem}")))?;
            let lock = self.cache.lock(&hash)?;
            if self.cache.has_blob(&hash) && self.is_sound(&hash)? {
                return self.cache.place((&hash, &lock), self.commit, self.name, false);
            }
            // What the hub answered before a wait as long as a download may not hold any more: signed addresses end.
            if !lock.waited {
                break (way, body, hash, size, lock);
            }
        };
        let mut part = self.cache.open_part(&hash)?;
        reach.begin(part.length);
        if size.is_some_and(|size| part.length > size) {
            part.clear()?;
        }
        let mut total = size;
        if size.is_none_or(|size| part.length < size) {
            // A body that starts before the part's end is asked for again.
            let body = match body.take() {
                Some(body) if part.length == 0 => body,
                _ => self.rest(&mut way, &mut part)?,
            };
            total = self.receive(body, &mut part, size, reach)?;
        }
        self.check(part, &hash, total)?;
        self.cache.place((&hash, &lock), self.commit, self.name, true)
    }

    /// Whether the blob that is there already has its contents: it gets a name in a snapshot now, and whatever wrote it is not
    /// known. Any other is removed.
    fn is_sound(&self, wanted: &ContentHash) -> Result<bool> {
        let blob = self.cache.blob(wanted);
        let found = hash_file(&blob, wanted).map_err(|e| Failure::disk(&blob, &e))?;
        if found != *wanted {
            tracing::warn!(
                file = %blob.display(),
                "a file of the cache has other contents than its name says; it is fetched anew"
            );
            fs::remove_file(&blob).map_err(|e| Failure::disk(&blob, &e))?;
        }
        Ok(found == *wanted)
    }

    /// The body that goes on where the part ends, or starts anew: a part that cannot be gone on with would fail for ever.
    fn rest(&self, way: &mut Walk<'_>, part: &mut Part) -> Result<FileBody> {
        let body = match way.body(part.length) {
            // A part that is whole already, or longer, of a size that was not said.
            Err(Failure::Status { status: 416, .. }) if part.length > 0 => None,
            body => Some(body?),
        };
        if let Some(body) = body {
            let starts = match body.answer().status() {
                StatusCode::PARTIAL_CONTENT => {
                    content_range(body.answer().headers()).map(|range| range.start)
                }
                _ => Ok(0),
            };
            if part.length == 0 || starts == Ok(part.length) {
                return Ok(body);
            }
            if starts == Ok(0) {
                part.clear()?;
                return Ok(body);
            }
        }
        part.clear()?;
        way.body(0)
    }

    /// Writes a body into the part, and gives the file's size, where it was said.
    fn receive(
        &self,
        mut body: FileBody,
        part: &mut Part,
        size: Option<u64>,
        reach: &mut Reach,
    ) -> Result<Option<u64>> {
        let wrong = |problem: String| Failure::Answer(format!("the answer {problem}"));
        let total = if body.answer().status() == StatusCode::PARTIAL_CONTENT {
            let range = content_range(body.answer().headers()).map_err(wrong)?;
            if range.start != part.length {
                return Err(wrong(format!(
                    "starts at byte {}; wanted byte {}",
                    range.start, part.length
                )));
            }
            range.total
        } else {
            // All of it, whatever was asked for.
            part.clear()?;
            body.length()
        };
        let limit = match self.name.ends_with(".safetensors") {
            true => WEIGHTS_BYTES,
            false => TEXT_BYTES,
        };
        if let (Some(size), Some(total)) = (size, total)
            && size != total
        {
            return Err(wrong(format!("has {total} bytes, and the hub's file {size}")));
        }
        let total = size.or(total);
        if let Some(total) = total
            && total > limit
        {
            return Err(wrong(format!(
                "is of a file of {total} bytes; at most {limit} are fetched"
            )));
        }
        let end = total.unwrap_or(limit);
        let mut buffer = vec![0; BUFFER_BYTES];
        let start = part.length;
        self.say(start, total);
        while part.length < end || total.is_none() {
            let count = body.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            // What follows the end is not the file's.
            let room = usize::try_from(end.saturating_sub(part.length)).unwrap_or(usize::MAX);
            if total.is_none() && count > room {
                part.clear()?;
                return Err(wrong(format!("has more than {limit} bytes")));
            }
            part.append(&buffer[..count.min(room)])?;
            reach.grow(part.length);
            self.say(part.length, total);
        }
        // Sees the end that is there, so that the next file comes over the same connection.
        if body.length() == Some(part.length - start) {
            let _ = body.read(&mut buffer);
        }
        match total {
            Some(total) if part.length < total => {
                Err(Failure::Broken(format!("{} of {total} bytes came", part.length)))
            }
            total => Ok(total),
        }
    }

    /// Makes a part that has the right hash the blob, and removes any other. `total`: the file's size, where it was said.
    fn check(&self, part: Part, wanted: &ContentHash, total: Option<u64>) -> Result<()> {
        let found = hash_file(part.path(), wanted).map_err(|e| Failure::disk(part.path(), &e))?;
        if found != *wanted {
            let bytes = part.length;
            part.remove()?;
            return Err(Failure::WrongHash {
                wanted: wanted.clone(),
                found,
                bytes,
                is_sized: total.is_some(),
            });
        }
        let length = part.length;
        part.finish(&self.cache.blob(wanted))?;
        self.say(length, Some(length));
        Ok(())
    }

    fn say(&self, done: u64, total: Option<u64>) {
        (self.report)(&Progress {
            file: self.name,
            done_bytes: done,
            total_bytes: total.unwrap_or(done),
        });
    }
}
