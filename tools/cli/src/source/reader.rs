//! Reading: sources one after the other, input by input.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::jsonl::{self, Id};
use ropeway::{AdapterSelection, Chunking, Embed, Input, Pooling, Request};

use super::lines::{Lines, Piece};
use super::{Format, Source, Unit};

/// The longest line, passage or document that is read, in bytes. Far above any text that a model has a use for; it
/// bounds the memory where a file without line breaks is given by mistake.
pub const LONGEST: usize = 64 << 20;

/// What a row of the result weighs at least, as bytes of text: as eight tokens, so that a group with a
/// row per token still fills one pass through the model, and one with a row per span has no more rows.
const ROW: usize = 32;

/// What an input weighs beside its text: about what its special tokens cost.
const BASE: usize = 64;

/// Where an input stands, for messages and as `file:line`.
#[derive(Clone, Debug)]
pub struct InputLocation {
    source: Arc<str>,
    /// From 1; `None` for an argument.
    line: Option<u64>,
}

impl fmt::Display for InputLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// One input.
#[derive(Debug)]
pub struct Item {
    /// Where it stands.
    pub place: InputLocation,
    /// Its own id, if it has one.
    pub id: Option<Id>,
    /// What is asked, or why that is not understood.
    pub request: Result<Request<'static>, String>,
    /// Bytes of the sources that were read, this input included.
    pub read: u64,
}

impl Item {
    /// Bytes that it weighs, roughly, until its result is written.
    pub fn weight(&self) -> usize {
        let own = BASE + self.id.as_ref().map_or(0, |id| id.as_json().len());
        let Ok(request) = &self.request else { return own };
        let bytes = match &request.input {
            Input::Text(text) => text.len(),
            Input::Ids(ids) => size_of_val(&ids[..]),
            _ => 0,
        };
        // A row is thousands of bytes, however short the text is that it is made of.
        let tokens = bytes / 4;
        let rows = match request.options.get_chunks() {
            _ if request.options.get_pooling() == Some(Pooling::None) => tokens,
            Some(Chunking::Tokens(size)) => tokens / (*size).max(1),
            Some(Chunking::Spans(spans)) => spans.len(),
            _ => 0,
        };
        let options = match &request.options {
            Cow::Owned(options) => weight_of_options(options),
            // The run's, which all inputs share.
            Cow::Borrowed(_) => 0,
        };
        own + bytes.max(ROW * rows) + options
    }
}

/// Bytes of the lists and texts that options of an input's own hold.
fn weight_of_options(options: &Embed) -> usize {
    let prompt = options.get_prompt().map_or(0, str::len);
    let names = match options.get_adapters() {
        AdapterSelection::Task(name) => name.len(),
        AdapterSelection::Mixture(parts) => {
            let names: usize = parts.iter().map(|(name, _)| name.len()).sum();
            names + size_of_val(&parts[..])
        }
        _ => 0,
    };
    // Spans have been weighed as the rows that they ask for.
    prompt + names
}

/// What a reader reports.
#[derive(Debug)]
pub enum Event {
    /// An input.
    Item(Box<Item>),
    /// A source that could not be read, or not to its end; the others go on.
    Broken(String),
    /// The next input may be long in coming: work on what is here.
    Idle,
}

/// Reads sources, one after the other.
pub struct Reader {
    /// How they are read.
    pub format: Format,
    /// What one input of plain text is.
    pub unit: Unit,
    /// What inputs are embedded with that say nothing themselves.
    pub defaults: &'static Embed,
}

impl Reader {
    /// Reads all sources; ends early when `report` says that nobody listens.
    pub fn read(&self, sources: Vec<Source>, report: &mut dyn FnMut(Event) -> bool) {
        let mut read = 0;
        for source in sources {
            let name: Arc<str> = source.name().into();
            let jsonl = source.is_jsonl(self.format);
            let open: io::Result<Box<dyn Read>> = match source {
                Source::Argument(_, text) => {
                    read += text.len() as u64;
                    let place = InputLocation {
                        source: name,
                        line: None,
                    };
                    let item = self.item(place, jsonl, text.into_encoded_bytes(), read);
                    if !report(Event::Item(Box::new(item))) {
                        return;
                    }
                    continue;
                }
                Source::File(path) => open(&path),
                Source::Stdin => Ok(Box::new(io::stdin())),
            };
            let lines = open.map(|input| Lines::new(BufReader::with_capacity(1 << 20, input), read));
            let done = lines.and_then(|mut lines| {
                let listening = self.read_source(&name, jsonl, &mut lines, report);
                read = lines.read;
                listening
            });
            let listening = match done {
                Ok(listening) => listening,
                Err(error) => report(Event::Broken(format!("{name}: {error}"))),
            };
            if !listening {
                return;
            }
        }
    }

    fn read_source(
        &self,
        name: &Arc<str>,
        jsonl: bool,
        lines: &mut Lines<impl Read>,
        report: &mut dyn FnMut(Event) -> bool,
    ) -> io::Result<bool> {
        while let Some(Piece { text, line, whole }) = self.next_piece(jsonl, lines, report)? {
            let place = InputLocation {
                source: name.clone(),
                line: Some(line),
            };
            let item = match whole {
                true => self.item(place, jsonl, text, lines.read),
                false => {
                    let problem = format!("longer than {} MiB; split it", LONGEST >> 20);
                    Item {
                        place,
                        id: None,
                        request: Err(problem),
                        read: lines.read,
                    }
                }
            };
            if !report(Event::Item(Box::new(item))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next line or passage.
    fn next_piece(
        &self,
        jsonl: bool,
        lines: &mut Lines<impl Read>,
        report: &mut dyn FnMut(Event) -> bool,
    ) -> io::Result<Option<Piece>> {
        let passages = !jsonl && self.unit == Unit::Passage;
        let skip_blank = jsonl || self.unit != Unit::Line;
        let mut passage = Piece {
            text: Vec::new(),
            line: 0,
            whole: true,
        };
        loop {
            if lines.may_wait() {
                // That nobody listens is noticed with the next input.
                report(Event::Idle);
            }
            let mut text = Vec::new();
            let Some(whole) = lines.next(&mut text)? else {
                break;
            };
            let blank = whole && text.iter().all(u8::is_ascii_whitespace);
            if passages && blank && passage.line > 0 {
                break;
            } else if blank && skip_blank {
                continue;
            } else if !passages {
                return Ok(Some(Piece {
                    text,
                    line: lines.line,
                    whole,
                }));
            }
            if passage.line == 0 {
                passage.line = lines.line;
            } else {
                passage.text.push(b'\n');
            }
            passage.whole &= whole && passage.text.len() + text.len() <= LONGEST;
            match passage.whole {
                true => passage.text.append(&mut text),
                false => passage.text = Vec::new(),
            }
        }
        Ok((passage.line > 0).then_some(passage))
    }

    fn item(&self, mut place: InputLocation, jsonl: bool, bytes: Vec<u8>, read: u64) -> Item {
        let text = match utf8(bytes) {
            Ok(text) => text,
            Err((earlier, problem)) => {
                // A passage has several lines: name the one that is wrong.
                place.line = place.line.map(|line| line + earlier);
                return Item {
                    place,
                    id: None,
                    request: Err(problem),
                    read,
                };
            }
        };
        if !jsonl {
            let request = Request::text(text, self.defaults);
            return Item {
                place,
                id: None,
                request: Ok(request),
                read,
            };
        }
        match jsonl::parse(&text, self.defaults) {
            Ok(line) => Item {
                place,
                id: line.id,
                request: Ok(line.request),
                read,
            },
            Err(bad) => Item {
                place,
                id: bad.id,
                request: Err(bad.problem),
                read,
            },
        }
    }
}

/// Opens a file to be read.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if path.is_dir() {
        return Err(io::Error::other(
            "is a folder; give its files, e.g. FOLDER/*.txt (--text takes arguments as texts)",
        ));
    }
    Ok(Box::new(File::open(path)?))
}

/// The bytes as text, or how many lines are before the one that is wrong and what is wrong there.
fn utf8(bytes: Vec<u8>) -> Result<String, (u64, String)> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let earlier = valid.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let start = valid
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let column = valid.len() - start + 1;
        let problem = format!("invalid UTF-8 at byte {column} of the line; `iconv -t utf-8` converts files");
        (earlier, problem)
    })
}

/// Reads a whole document: a file, or standard input.
pub fn read_document(source: &Source) -> anyhow::Result<String> {
    let name = source.name();
    let input = match source {
        Source::File(path) => open(path),
        _ => Ok(Box::new(io::stdin()) as Box<dyn Read>),
    };
    let mut bytes = Vec::new();
    input
        .and_then(|input| input.take(LONGEST as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    anyhow::ensure!(
        bytes.len() <= LONGEST,
        "{name}: longer than {} MiB; split it",
        LONGEST >> 20
    );
    let text =
        utf8(bytes).map_err(|(earlier, problem)| anyhow::anyhow!("{name}:{}: {problem}", earlier + 1))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_weighs_what_its_rows_do() {
        let weight = |options: Embed| {
            let options: &'static Embed = Box::leak(Box::new(options));
            let place = InputLocation {
                source: "here".into(),
                line: None,
            };
            Item {
                place,
                id: None,
                request: Ok(Request::text("x".repeat(400), options)),
                read: 0,
            }
            .weight()
        };
        let chunks = |chunking| weight(Embed::default().chunks(chunking));
        let text = weight(Embed::default());
        assert_eq!(text, 64 + 400);
        assert_eq!(weight(Embed::default().pooling(Pooling::None)), 64 + 100 * ROW);
        assert_eq!(chunks(Chunking::Tokens(1)), 64 + 100 * ROW);
        assert_eq!(chunks(Chunking::Tokens(50)), text);
        assert_eq!(chunks(Chunking::Spans(vec![(0, 1); 3])), text);
        assert_eq!(chunks(Chunking::Spans(vec![(0, 1); 5000])), 64 + 5000 * ROW);
        // What a line of JSON holds beside its text.
        let defaults: &'static Embed = Box::leak(Box::new(Embed::default()));
        let line = format!(
            r#"{{"id": "{0}", "text": "", "prompt": "{0}", "adapters": {{"{0}": 1}}}}"#,
            "x".repeat(1000)
        );
        let place = InputLocation {
            source: "here".into(),
            line: Some(1),
        };
        let reader = Reader {
            format: Format::Jsonl,
            unit: Unit::Line,
            defaults,
        };
        let weight = reader.item(place, true, line.into_bytes(), 0).weight();
        assert!((3000..3200).contains(&weight), "{weight}");
    }
}
