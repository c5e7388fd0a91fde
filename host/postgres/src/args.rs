//! Parameters and columns: values with the types that the server is told.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use wfhost_core::{Digest, Timestamp};
use wfhost_store::stored;

/// A parameter. Types are said by the client, so that nothing has to be prepared: behind a pooler the next
/// statement may be another connection's.
pub(crate) struct Arg {
    pub value: Box<dyn ToSql + Sync + Send>,
    pub kind: Type,
    /// What it takes on its way, about.
    pub bytes: usize,
}

impl Arg {
    fn new<T: ToSql + Sync + Send + Size + 'static>(value: T, kind: Type) -> Self {
        let bytes = value.size();
        Self { value: Box::new(value), kind, bytes }
    }
}

/// What parameters take, about, in bytes.
pub(crate) fn size_of_all(args: &[Arg]) -> usize {
    args.iter().map(|arg| arg.bytes).sum()
}

/// What a value takes, about, in bytes.
trait Size {
    fn size(&self) -> usize;
}

macro_rules! sizes {
    ($($type:ty),*) => {$(
        impl Size for $type {
            fn size(&self) -> usize {
                size_of::<$type>()
            }
        }
    )*};
}

sizes! { bool, u8, i16, i32, i64 }

impl Size for String {
    fn size(&self) -> usize {
        self.len()
    }
}

impl<T: Size> Size for Option<T> {
    fn size(&self) -> usize {
        self.as_ref().map_or(0, Size::size)
    }
}

impl<T: Size> Size for Vec<T> {
    fn size(&self) -> usize {
        self.iter().map(Size::size).sum()
    }
}

pub(crate) trait IntoArg {
    fn arg(self) -> Arg;
}

macro_rules! args {
    ($($type:ty => $sql:ident),* $(,)?) => {$(
        impl IntoArg for $type {
            fn arg(self) -> Arg {
                Arg::new(self, Type::$sql)
            }
        }
        impl IntoArg for Option<$type> {
            fn arg(self) -> Arg {
                Arg::new(self, Type::$sql)
            }
        }
    )*};
}

args! {
    bool => BOOL, i16 => INT2, i32 => INT4, i64 => INT8, Vec<u8> => BYTEA,
    Vec<bool> => BOOL_ARRAY, Vec<i16> => INT2_ARRAY, Vec<i32> => INT4_ARRAY, Vec<i64> => INT8_ARRAY,
    Vec<Vec<u8>> => BYTEA_ARRAY, Vec<Option<Vec<u8>>> => BYTEA_ARRAY, Vec<Option<i64>> => INT8_ARRAY,
    Vec<Option<i16>> => INT2_ARRAY,
}

impl IntoArg for &str {
    fn arg(self) -> Arg {
        Arg::new(escaped(self), Type::TEXT)
    }
}

impl IntoArg for String {
    fn arg(self) -> Arg {
        self.as_str().arg()
    }
}

impl IntoArg for Option<&str> {
    fn arg(self) -> Arg {
        Arg::new(self.map(escaped), Type::TEXT)
    }
}

impl IntoArg for Vec<String> {
    fn arg(self) -> Arg {
        Arg::new(self.iter().map(|text| escaped(text)).collect::<Vec<_>>(), Type::TEXT_ARRAY)
    }
}

impl IntoArg for Option<Vec<String>> {
    fn arg(self) -> Arg {
        let texts = self.map(|texts| texts.iter().map(|text| escaped(text)).collect::<Vec<_>>());
        Arg::new(texts, Type::TEXT_ARRAY)
    }
}

/// As they are: to be escaped before.
impl IntoArg for Vec<Option<String>> {
    fn arg(self) -> Arg {
        Arg::new(self, Type::TEXT_ARRAY)
    }
}

impl IntoArg for serde_json::Value {
    fn arg(self) -> Arg {
        Arg::new(self.to_string(), Type::TEXT)
    }
}

impl IntoArg for Option<serde_json::Value> {
    fn arg(self) -> Arg {
        Arg::new(self.map(|value| value.to_string()), Type::TEXT)
    }
}

impl IntoArg for Digest {
    fn arg(self) -> Arg {
        self.0.to_vec().arg()
    }
}

impl IntoArg for Timestamp {
    fn arg(self) -> Arg {
        millis(self).arg()
    }
}

/// The parameters of a statement.
macro_rules! args_of {
    ($($value:expr),* $(,)?) => { vec![$($crate::args::IntoArg::arg($value)),*] };
}
pub(crate) use args_of;

/// A time as it is stored; beyond what can be stored is never.
pub(crate) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A length of time that can be added to any time.
pub(crate) fn lasting(millis: u64) -> i64 {
    stored(millis.min(1 << 62))
}

/// PostgreSQL's texts have no NUL. One is written as U+0001 and `0`, and U+0001 as itself and `1`: the order of
/// texts stays.
pub(crate) fn escaped(text: &str) -> String {
    if !text.contains(['\0', '\u{1}']) {
        return text.to_owned();
    }
    text.replace('\u{1}', "\u{1}1").replace('\0', "\u{1}0")
}

pub(crate) fn plain(text: String) -> String {
    if !text.contains('\u{1}') {
        return text;
    }
    text.replace("\u{1}0", "\0").replace("\u{1}1", "\u{1}")
}

/// A value that this program never writes.
#[derive(Debug)]
pub(crate) struct Strange(pub String);

pub(crate) type Read<T> = std::result::Result<T, Strange>;

pub(crate) fn strange(what: &str) -> Strange {
    Strange(format!("{what} cannot be read"))
}

/// Columns by their numbers.
pub(crate) trait Columns {
    fn value<'a, T: tokio_postgres::types::FromSql<'a>>(&'a self, column: usize) -> Read<T>;

    fn int(&self, column: usize) -> Read<i64> {
        self.value(column)
    }

    fn maybe_int(&self, column: usize) -> Read<Option<i64>> {
        self.value(column)
    }

    fn text(&self, column: usize) -> Read<String> {
        self.value(column).map(plain)
    }

    fn maybe_text(&self, column: usize) -> Read<Option<String>> {
        self.value::<Option<String>>(column).map(|text| text.map(plain))
    }

    fn time(&self, column: usize) -> Read<Timestamp> {
        Ok(Timestamp(self.int(column)? as u64))
    }

    fn maybe_time(&self, column: usize) -> Read<Option<Timestamp>> {
        Ok(self.maybe_int(column)?.map(|at| Timestamp(at as u64)))
    }

    fn bytes(&self, column: usize) -> Read<Vec<u8>> {
        self.value(column)
    }

    fn maybe_bytes(&self, column: usize) -> Read<Option<Vec<u8>>> {
        self.value(column)
    }

    fn digest(&self, column: usize) -> Read<Digest> {
        self.bytes(column)?.try_into().map(Digest).map_err(|_| strange("a digest"))
    }

    fn maybe_digest(&self, column: usize) -> Read<Option<Digest>> {
        let bytes = self.maybe_bytes(column)?;
        bytes.map(|bytes| bytes.try_into().map(Digest).map_err(|_| strange("a digest"))).transpose()
    }
}

impl Columns for Row {
    fn value<'a, T: tokio_postgres::types::FromSql<'a>>(&'a self, column: usize) -> Read<T> {
        self.try_get(column).map_err(|error| Strange(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_and_keeps_its_order() {
        let texts = ["", "a", "\0", "\u{1}", "\u{1}0", "\u{1}1", "a\0b", "\0\u{1}\0", "\u{2}"];
        for text in texts {
            assert_eq!(plain(escaped(text)), text);
            assert!(!escaped(text).contains('\0'));
        }
        for one in texts {
            for other in texts {
                assert_eq!(escaped(one).cmp(&escaped(other)), one.cmp(other), "{one:?} {other:?}");
            }
        }
    }
}
