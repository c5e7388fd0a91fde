//! Names and numbers that must not be confused with each other.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::encode::{Error as EncodeError, Write};
use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Serialize};

/// The id of a run: letters, digits, `_`, `-` and `.`, 1 to 128 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunId(Arc<str>);

impl<C> Encode<C> for RunId {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        encoder.str(self.as_str())?.ok()
    }
}

impl Serialize for RunId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A journal from elsewhere cannot introduce an invalid id, either.
impl<'b, C> Decode<'b, C> for RunId {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        decoder.str()?.parse().map_err(minicbor::decode::Error::custom)
    }
}

impl RunId {
    /// The greatest length of an id in bytes.
    pub const MAX_BYTES: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the child that a step of this run starts.
    pub fn child(&self, step: Step) -> Self {
        Self::fitting(format!("{self}.{step}"))
    }

    /// The id of a later round of a run that continues as new; this is the first.
    pub fn round(&self, round: u64) -> Self {
        Self::fitting(format!("{self}-{round}"))
    }

    fn fitting(id: String) -> Self {
        if id.len() <= Self::MAX_BYTES {
            return Self(id.into());
        }
        Self::of_seed(blake3::hash(id.as_bytes()).as_bytes())
    }

    /// An id that tells nothing.
    pub fn of_seed(seed: &[u8; 32]) -> Self {
        Self(format!("run_{}", &Digest(*seed).hex()[..32]).into())
    }
}

/// A text that cannot be the id of a run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadRunId {
    #[error("an id must not be empty")]
    Empty,
    #[error("an id has at most {max} bytes, but this one has {0}", max = RunId::MAX_BYTES)]
    TooLong(usize),
    #[error("an id consists of letters, digits, `_`, `-` and `.`, but this one contains {0:?}")]
    Character(char),
    /// They are places in a path: of a workspace, or in a URL.
    #[error("an id must not be `.` or `..`")]
    Dots,
}

impl FromStr for RunId {
    type Err = BadRunId;

    fn from_str(text: &str) -> Result<Self, BadRunId> {
        if text.is_empty() {
            return Err(BadRunId::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(BadRunId::TooLong(text.len()));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match text.chars().find(|&c| !legal(c)) {
            Some(c) => Err(BadRunId::Character(c)),
            None if matches!(text, "." | "..") => Err(BadRunId::Dots),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode,
            Serialize, Deserialize,
        )]
        #[cbor(transparent)]
        #[serde(transparent)]
        pub struct $name(#[n(0)] pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The number of a step within its run, counted from 1 in the order of the calls.
    Step
);
number!(
    /// The place of an entry in its journal, counted from 0.
    Position
);
number!(
    /// The fencing number of a lease: grows with each change of the owner.
    Epoch
);
number!(
    /// Unix time in milliseconds.
    Timestamp
);

impl Timestamp {
    /// This time `millis` later; the end of time if that is too far.
    pub fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time; 0 if `earlier` is the later one.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A BLAKE3 digest: of a module's bytes, or the head of a journal's chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Digest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Lower-case hexadecimal digits, 64 of them.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// The digest that [`Digest::hex`] writes so, with or without `blake3:` in front.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("blake3:").unwrap_or(text);
        blake3::Hash::from_hex(hex).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_checked() {
        assert_eq!("run_01k9.x-Y".parse::<RunId>().unwrap().as_str(), "run_01k9.x-Y");
        assert_eq!("".parse::<RunId>(), Err(BadRunId::Empty));
        assert_eq!("a/b".parse::<RunId>(), Err(BadRunId::Character('/')));
        assert_eq!("ä".parse::<RunId>(), Err(BadRunId::Character('ä')));
        for dots in [".", ".."] {
            assert_eq!(dots.parse::<RunId>(), Err(BadRunId::Dots));
        }
        assert!("...".parse::<RunId>().is_ok());
        assert!("x".repeat(128).parse::<RunId>().is_ok());
        assert_eq!("x".repeat(129).parse::<RunId>(), Err(BadRunId::TooLong(129)));
    }

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = Digest::of(b"abc");
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        assert_eq!(Digest::parse(&digest.hex()), Some(digest));
        assert_eq!(Digest::parse("blake3:12"), None);
    }
}
