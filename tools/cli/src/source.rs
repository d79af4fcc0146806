//! Where inputs come from: arguments, files and standard input, read one input at a time.

mod lines;
mod reader;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::claim::FileId;
use super::exit::Exit;

pub use reader::{Event, InputLocation, Item, LONGEST, Reader, read_document};

/// Names that end like this are files even where no such file exists, so that a typo in a file's
/// name is told and not embedded.
const FILE_ENDINGS: &[&str] = &["jsonl", "ndjson", "json", "txt", "md", "csv", "tsv", "log"];

/// How arguments are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Files if they exist or look like it, else texts.
    Guess,
    /// All are texts.
    Texts,
    /// All are files.
    Files,
}

/// How a source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// JSONL where the name ends in .jsonl or .ndjson, else plain text
    Auto,
    /// Plain text, one input per line
    Text,
    /// One JSON object per line
    Jsonl,
}

/// What one input of plain text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A line, the empty ones included, so that line n is row n.
    Line,
    /// A line that is not blank.
    FilledLine,
    /// Lines up to a blank one.
    Passage,
}

/// One place inputs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A text on the command line, counted from 1.
    Argument(usize, OsString),
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// The sources that the arguments name; none at all is standard input.
    pub fn list(arguments: Vec<OsString>, kind: Arguments) -> Vec<Source> {
        if arguments.is_empty() {
            return vec![Source::Stdin];
        }
        let source = |(index, argument): (usize, OsString)| {
            let is_file = match kind {
                Arguments::Guess => argument == "-" || names_a_file(Path::new(&argument)),
                Arguments::Texts => false,
                Arguments::Files => true,
            };
            match is_file {
                true => Source::of(argument),
                false => Source::Argument(index + 1, argument),
            }
        };
        arguments.into_iter().enumerate().map(source).collect()
    }

    /// The source that an argument names which is no text: a file, or standard input as `-`.
    pub fn of(name: OsString) -> Source {
        match name == "-" {
            true => Source::Stdin,
            false => Source::File(name.into()),
        }
    }

    /// The bytes of all sources, where that is known before they are read.
    pub fn total_bytes(sources: &[Source]) -> Option<u64> {
        let bytes = |source: &Source| match source {
            Source::Argument(_, text) => Some(text.len() as u64),
            Source::File(path) => fs::metadata(path)
                .ok()
                .filter(fs::Metadata::is_file)
                .map(|meta| meta.len()),
            Source::Stdin => None,
        };
        sources.iter().map(bytes).sum()
    }

    /// The file that it reads; `None` where it is a text, a pipe or a device.
    fn file(&self) -> Option<FileId> {
        match self {
            Source::Argument(..) => None,
            Source::File(path) => FileId::of(&fs::metadata(path).ok()?),
            Source::Stdin => FileId::of(&standard_stream(&io::stdin())?),
        }
    }

    /// Opens a file that can be opened twice, to see whether it can be read: a pipe or a device is left alone.
    fn look(&self) -> io::Result<()> {
        match self {
            Source::File(path) if fs::metadata(path)?.is_file() || path.is_dir() => {
                reader::open(path).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> String {
        match self {
            Source::Argument(number, _) => format!("argument {number}"),
            Source::File(path) => path.display().to_string(),
            Source::Stdin => "stdin".into(),
        }
    }

    fn is_jsonl(&self, format: Format) -> bool {
        match (format, self) {
            (Format::Jsonl, _) => true,
            (Format::Auto, Source::File(path)) => has_ending(path, &["jsonl", "ndjson"]),
            _ => false,
        }
    }
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| endings.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

fn names_a_file(path: &Path) -> bool {
    let word = path
        .to_str()
        .is_some_and(|text| !text.contains(char::is_whitespace));
    fs::metadata(path).is_ok() || (word && has_ending(path, FILE_ENDINGS))
}

/// Refuses sources that cannot be read, before anything is written: rows of a run without them would stand in the place of those
/// that an earlier run wrote, and --resume would not find them where the inputs are once the source is there.
pub fn refuse_unreadable(sources: &[Source]) -> Result<(), Exit> {
    let found = sources
        .iter()
        .find_map(|source| Some((source.name(), source.look().err()?)));
    match found {
        None => Ok(()),
        Some((name, error)) => Err(Exit::usage(format!(
            "{name}: {error}; nothing was written, give the file's name as it is or leave it out"
        ))),
    }
}

/// Refuses an output that is one of the inputs, under whatever name.
pub fn refuse_output(sources: &[Source], output: &Path, role: &str) -> Result<(), Exit> {
    match fs::metadata(output) {
        Ok(meta) => refuse(sources, &meta, &output.display().to_string(), role),
        Err(_) => Ok(()),
    }
}

/// Refuses inputs that standard output is redirected to: the run would read its own rows, and the shell may have emptied
/// them already.
pub fn refuse_stdout(sources: &[Source]) -> Result<(), Exit> {
    match standard_stream(&io::stdout()) {
        Some(meta) => refuse(sources, &meta, "standard output", "the output"),
        None => Ok(()),
    }
}

fn refuse(sources: &[Source], output: &fs::Metadata, name: &str, role: &str) -> Result<(), Exit> {
    let Some(file) = FileId::of(output) else {
        return Ok(());
    };
    match sources.iter().find(|source| source.file() == Some(file)) {
        None => Ok(()),
        Some(source) => Err(Exit::usage(format!(
            "{name}: is both an input and {role} ({}); nothing was written, give the output another name",
            source.name()
        ))),
    }
}

/// What a standard stream is connected to.
#[cfg(unix)]
fn standard_stream(stream: &impl std::os::fd::AsFd) -> Option<fs::Metadata> {
    // A second handle: closing it leaves the stream open.
    let handle = stream.as_fd().try_clone_to_owned().ok()?;
    fs::File::from(handle).metadata().ok()
}

#[cfg(not(unix))]
fn standard_stream<T>(_: &T) -> Option<fs::Metadata> {
    None
}
