//! Where a setting that makes a vector comes from, noted while the files are read.

use std::fmt;

/// A key of one of a model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// The file, in the model's folder.
    pub file: String,
    /// The key in it.
    pub key: String,
}

/// A setting that another one overruled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overruled {
    /// Where it is.
    pub source: Source,
    /// What it is set to.
    pub value: String,
}

/// One decision that makes a vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// What was decided, for people.
    pub name: String,
    /// How.
    pub value: String,
    /// What decided it; `None` where no file says anything.
    pub source: Option<Source>,
    /// Why, where the source alone does not tell; may be empty.
    pub note: &'static str,
    /// Other settings of it, with other values.
    pub overruled: Vec<Overruled>,
    /// Other settings of it, with the same value.
    pub agreeing: Vec<Source>,
}

impl Source {
    pub(crate) fn new(file: &str, key: &str) -> Source {
        Source {
            file: file.to_owned(),
            key: key.to_owned(),
        }
    }

    /// The setting, overruled.
    pub(crate) fn with(self, value: impl fmt::Display) -> Overruled {
        Overruled {
            source: self,
            value: value.to_string(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.key)
    }
}

impl Decision {
    pub(crate) fn new(name: impl Into<String>, value: impl Into<String>) -> Decision {
        Decision {
            name: name.into(),
            value: value.into(),
            ..Decision::default()
        }
    }

    /// Notes another setting of the same, and what it is set to where that differs.
    pub(crate) fn note_other(&mut self, source: Source, differing: Option<impl fmt::Display>) {
        match differing {
            Some(value) => self.overruled.push(source.with(value)),
            None => self.agreeing.push(source),
        }
    }

    /// The first of the candidates that is set, in the order of their precedence, which overrules those that are set
    /// otherwise. `None` where none is.
    pub(crate) fn first<T: Clone + fmt::Display + PartialEq>(
        name: &str,
        candidates: Vec<(Source, Option<T>)>,
    ) -> Option<(T, Decision)> {
        let mut set = candidates
            .into_iter()
            .filter_map(|(source, value)| Some((source, value?)));
        let (source, value) = set.next()?;
        let mut decision = Decision {
            source: Some(source),
            ..Decision::new(name, value.to_string())
        };
        for (source, other) in set {
            decision.note_other(source, (other != value).then_some(other));
        }
        Some((value, decision))
    }
}
